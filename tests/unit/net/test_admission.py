"""Who is let in, and that counts come back."""

import pytest

from dicomd.net.admission import Admission, AdmissionLimits, Source, judge_application_context
from dicomd.net.listener import source_address
from dicomd.upperlayer.negotiation import AssociateRequest


def asked(called: str = "SCP", calling: str = "SCU", version: int = 1) -> AssociateRequest:
    return AssociateRequest(version, called, calling, b"", b"")


def admission(
    *, ae_titles: tuple[str, ...] = (), unready: str = "", associations: int = 3, per_peer: int = 2
) -> Admission:
    limits = AdmissionLimits(connections=2, associations=associations, per_peer=per_peer)
    return Admission(limits, ae_titles=frozenset(ae_titles), unready=lambda: unready)


@pytest.mark.parametrize(
    ("request_", "codes"),
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
def test_a_refusal_has_its_codes_and_advice(request_: AssociateRequest, codes: tuple[int, int, int]) -> None:
    rejection = admission(ae_titles=("SCP",)).admit(request_, Source("10.0.0.1"))
    assert rejection is not None
    assert (rejection.result, rejection.source, rejection.reason) == codes
    assert rejection.advice


def test_any_called_title_is_accepted_where_none_is_configured() -> None:
    for called in ("ANYTHING", "", "\xe9"):
        assert admission(associations=10, per_peer=10).admit(asked(called=called), Source("10.0.0.1")) is None


def test_not_ready_is_transient() -> None:
    rejection = admission(unready="disk full").admit(asked(), Source("10.0.0.1"))
    assert rejection is not None
    assert (rejection.result, rejection.source, rejection.reason) == (2, 3, 1)


def test_limits_hold_and_places_come_back() -> None:
    gate = admission()
    assert gate.admit(asked(), Source("a")) is None
    assert gate.admit(asked(), Source("a")) is None
    third = gate.admit(asked(), Source("a"))
    assert third is not None
    assert (third.result, third.source, third.reason) == (2, 3, 2)
    assert gate.admit(asked(), Source("b")) is None
    assert gate.admit(asked(), Source("c")) is not None
    gate.leave(Source("a"))
    assert gate.admit(asked(), Source("c")) is None
    assert gate.open_associations == 3


def test_connections_are_counted() -> None:
    gate = admission()
    assert [gate.connect(), gate.connect(), gate.connect()] == [True, True, False]
    gate.disconnect()
    assert gate.connect()


def test_the_application_context_is_dicoms() -> None:
    assert judge_application_context("1.2.840.10008.3.1.1.1") is None
    rejection = judge_application_context("1.2.3")
    assert rejection is not None
    assert (rejection.result, rejection.source, rejection.reason) == (1, 1, 2)


@pytest.mark.parametrize(
    ("raw", "written"),
    [("::ffff:10.1.2.3", "10.1.2.3"), ("10.1.2.3", "10.1.2.3"), ("fe80::1%eth0", "fe80::1"), ("::1", "::1")],
)
def test_addresses_are_written_as_people_do(raw: str, written: str) -> None:
    assert source_address(raw) == written
