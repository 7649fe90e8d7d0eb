"""Which connections and Associations are admitted; counts return to zero afterwards."""

import pytest

from dicomd.ipc.shared_state import SharedState
from dicomd.net.access import AccessRules, PeerRule, Source
from dicomd.net.admission import Admission, AdmissionLimits, judge_application_context
from dicomd.net.rejection import Rejection
from dicomd.services.operations import EVERYTHING
from dicomd.upperlayer.negotiation import AssociateRequest
from tests.support.worker_slots import worker_slot


def asked(called: str = "SCP", calling: str = "SCU", version: int = 1) -> AssociateRequest:
    return AssociateRequest(version, called, calling, b"", b"")


HERE = Source("10.0.0.1")
STRICT = PeerRule("ct1", frozenset({"CT1"}), (), (), EVERYTHING, associations=1)


def admission(
    *peers: PeerRule,
    shared_state: SharedState | None = None,
    ae_titles: tuple[str, ...] = (),
    unready: str = "",
    associations: int = 3,
    per_peer: int = 2,
) -> Admission:
    counter = worker_slot(shared_state or SharedState())
    rules = AccessRules(peers, ae_titles=ae_titles, audit=False, associations_per_peer=per_peer)
    limits = AdmissionLimits(connections=2, associations=associations)
    return Admission(limits, rules=rules, unready=lambda: unready, counter=counter)


def rejection(gate: Admission, request: AssociateRequest, source: Source = HERE) -> Rejection:
    refusal = gate.admit(request, source).refusal
    assert refusal is not None
    assert refusal.advice
    return refusal


def codes(refusal: Rejection) -> tuple[int, int, int]:
    return refusal.reason.codes


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked(version=2), (1, 2, 2)),
        (asked(called="OTHER"), (1, 1, 7)),
        (asked(called=""), (1, 1, 7)),
        (asked(called="\xe9"), (1, 1, 7)),
        (asked(calling=""), (1, 1, 3)),
        (asked(calling="A\\B"), (1, 1, 3)),
        (asked(calling="A\nB"), (1, 1, 3)),
        (asked(calling="\xe9"), (1, 1, 3)),
    ],
)
def test_a_refusal_has_its_codes_and_advice(request_: AssociateRequest, expected: tuple[int, int, int]) -> None:
    shared_state = SharedState()
    gate = admission(shared_state=shared_state, ae_titles=("SCP",))
    assert codes(rejection(gate, request_)) == expected
    assert shared_state.total_associations() == 0


def test_any_called_title_is_accepted_where_none_is_configured() -> None:
    for called in ("ANYTHING", "", "\xe9"):
        assert admission().admit(asked(called=called), HERE).refusal is None


def test_not_ready_is_transient() -> None:
    assert codes(rejection(admission(unready="disk full"), asked())) == (2, 3, 1)


def test_a_permanent_refusal_comes_before_a_transient_one() -> None:
    """A peer that will never be admitted must not be invited to try again."""
    assert codes(rejection(admission(STRICT, unready="disk full"), asked(calling="OTHER"))) == (1, 1, 3)


def test_limits_hold_and_places_come_back() -> None:
    shared_state = SharedState()
    gate = admission(shared_state=shared_state)
    first = gate.admit(asked(), Source("a"))
    assert first.refusal is None
    assert gate.admit(asked(), Source("a")).refusal is None
    third = rejection(gate, asked(), Source("a"))
    assert codes(third) == (2, 3, 2)
    assert third.limit == "associations_per_peer"
    assert "limits.associations_per_peer = 2" in third.advice
    assert gate.admit(asked(), Source("b")).refusal is None
    assert rejection(gate, asked(), Source("c")).limit == "associations"
    gate.leave(first)
    assert gate.admit(asked(), Source("c")).refusal is None
    assert shared_state.total_associations() == 3


def test_a_configured_peer_has_its_own_limit_wherever_it_comes_from() -> None:
    gate = admission(STRICT)
    assert gate.admit(asked(calling="CT1"), Source("10.0.0.1")).refusal is None
    refusal = rejection(gate, asked(calling="CT1"), Source("10.0.0.2"))
    assert codes(refusal) == (2, 3, 2)
    assert refusal.limit == "associations_per_peer"
    assert "peers.ct1.associations = 1" in refusal.advice


def test_connections_are_counted() -> None:
    gate = admission()
    assert [gate.connect(), gate.connect(), gate.connect()] == [True, True, False]
    gate.disconnect(admitted=False)
    assert gate.connect()


def test_the_application_context_is_dicoms() -> None:
    assert judge_application_context("1.2.840.10008.3.1.1.1") is None
    refusal = judge_application_context("1.2.3")
    assert refusal is not None
    assert codes(refusal) == (1, 1, 2)
