"""Which peer a connection is matched to, and what that peer may do."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from dicomd.ae_titles import is_ae_title
from dicomd.net.access import (
    NO_PEERS,
    AccessDecision,
    AccessRules,
    PeerRule,
    Source,
    in_networks,
    normal_address,
)
from dicomd.services.operations import EVERYTHING, NOTHING, Rights

ECHO_ONLY = Rights(echo=True, store=False)
LIMIT = 64


def peer(
    name: str,
    *titles: str,
    at: tuple[str, ...] = (),
    certificates: tuple[str, ...] = (),
    rights: Rights = EVERYTHING,
    associations: int = 8,
) -> PeerRule:
    networks = tuple(ip_network(each) for each in at)
    return PeerRule(name, frozenset(titles), networks, certificates, rights, associations)


def rules(*peers: PeerRule, called: tuple[str, ...] = (), audit: bool = False) -> AccessRules:
    return AccessRules(peers, ae_titles=called, audit=audit, associations_per_peer=LIMIT)


def judge(
    found: AccessRules, calling: str, address: str = "10.1.2.3", *certificates: str, called: str = "SCP"
) -> AccessDecision:
    return found.judge(calling=calling, called=called, source=Source(address, certificates))


def advice(decision: AccessDecision) -> str:
    assert decision.refusal is not None
    assert decision.refusal.reason.codes == (1, 1, 3)
    assert decision.refused_by in ("peers", "peers.allow")
    assert decision.rights == NOTHING
    return decision.refusal.advice


def test_without_peers_everybody_may_everything_and_is_counted_by_address() -> None:
    decision = judge(rules(), "ANYBODY")
    assert decision.refusal is None
    assert (decision.peer, decision.rule, decision.rights) == ("", NO_PEERS, EVERYTHING)
    assert (decision.counted_as, decision.associations) == ("10.1.2.3", LIMIT)
    assert decision.limited_by == "limits.associations_per_peer"


def test_a_peer_is_the_first_entry_whose_every_criterion_matches() -> None:
    found = rules(
        peer("elsewhere", "CT1", at=("10.9.0.0/16",)),
        peer("with-certificate", "CT1", at=("10.1.2.0/24",), certificates=("ct1.example.org",)),
        peer("narrow", "CT1", "CT2", at=("192.0.2.1", "10.1.2.0/24"), rights=ECHO_ONLY, associations=3),
        peer("wide", at=("10.0.0.0/8",)),
        peer("never", "CT1"),
    )
    decision = judge(found, "CT1")
    assert (decision.peer, decision.rule, decision.rights) == ("narrow", "peers.narrow", ECHO_ONLY)
    assert (decision.counted_as, decision.associations) == ("peers.narrow", 3)
    assert judge(found, "CT2", "192.0.2.1").peer == "narrow"
    assert judge(found, "CT1", "10.1.2.3", "CT1.Example.ORG").peer == "with-certificate"
    assert judge(found, "MR1").peer == "wide"
    assert judge(found, "CT1", "10.9.9.9").peer == "elsewhere"
    assert judge(found, "CT1", "2001:db8::1").peer == "never"


def test_an_ae_title_is_compared_exactly() -> None:
    found = rules(peer("ct1", "CT1"))
    assert judge(found, "CT1").refusal is None
    for other in ("ct1", "CT", "CT11", "CT 1"):
        assert "AE Title" in advice(judge(found, other))


def test_a_certificate_name_is_asked_for_in_vain_without_a_certificate() -> None:
    found = rules(peer("ct1", "CT1", certificates=("ct1.example.org", "10.1.2.3")))
    assert "(the peer's: none)" in advice(judge(found, "CT1"))
    assert "(the peer's: mr1.example.org)" in advice(judge(found, "CT1", "10.1.2.3", "mr1.example.org"))
    assert judge(found, "CT1", "10.1.2.3", "other", "10.1.2.3").refusal is None


def test_names_of_certificates_differ_in_the_case_of_ascii_letters_only() -> None:
    """Full Unicode case folding would turn the Kelvin sign into a k."""
    found = rules(peer("kt1", certificates=("kt1.example.org",)))
    assert judge(found, "X", "10.1.2.3", "KT1.EXAMPLE.ORG").refusal is None
    assert judge(found, "X", "10.1.2.3", "\u212at1.example.org").refusal is not None


@pytest.mark.parametrize(
    ("calling", "address", "expected"),
    [
        ("CT1", "10.9.9.9", "peers.ct1 has this AE Title, but not this address: add it to its addresses"),
        ("MR1", "10.1.2.3", 'peers.ct1 has this address, but not this AE Title: add ["MR1"] to its ae_titles'),
        (
            'MR"1',
            "10.9.9.9",
            'no [[peers]] entry has this AE Title: add one with ae_titles = ["MR\\"1"] and addresses = ["10.9.9.9"]',
        ),
    ],
)
def test_the_advice_says_what_is_missing(calling: str, address: str, expected: str) -> None:
    assert advice(judge(rules(peer("ct1", "CT1", at=("10.1.2.0/24",))), calling, address)) == expected


def test_an_entry_that_allows_nothing_refuses() -> None:
    found = rules(peer("blocked", "CT1", rights=NOTHING), peer("rest"))
    decision = judge(found, "CT1")
    assert "peers.blocked.allow is empty" in advice(decision)
    assert decision.rule == "peers.blocked.allow"
    assert judge(found, "CT2").peer == "rest"


@pytest.mark.parametrize("audit", [False, True])
def test_the_called_ae_title_is_judged_in_either_mode(audit: bool) -> None:
    found = rules(peer("ct1", "CT1"), called=("ARCHIVE", "SCP"), audit=audit)
    assert judge(found, "CT1").refusal is None
    decision = judge(found, "CT1", called="OTHER")
    assert decision.refusal is not None
    assert decision.refusal.reason.codes == (1, 1, 7)
    assert decision.rule == decision.refused_by == "dicomd.ae_titles"


@pytest.mark.parametrize("text", ["", "A\\B", "A\nB", "\x00", "\xe9", "A\x7f"])
def test_a_calling_ae_title_that_is_none_is_refused_in_either_mode(text: str) -> None:
    assert not is_ae_title(text)
    for audit in (False, True):
        assert judge(rules(audit=audit), text).refusal is not None


def test_audit_mode_admits_and_says_who_would_have_been_refused() -> None:
    found = rules(
        peer("ct1", "CT1", at=("10.1.2.0/24",), rights=ECHO_ONLY), peer("off", "OFF", rights=NOTHING), audit=True
    )
    stranger = judge(found, "MR1", "10.9.9.9")
    assert stranger.refusal is None
    assert stranger.rights == EVERYTHING
    assert (stranger.peer, stranger.rule, stranger.counted_as) == ("", "peers", "10.9.9.9")
    assert stranger.audited is not None
    assert (stranger.audited.rule, stranger.audited.key) == ("peers", "peers")
    known = judge(found, "CT1")
    assert known.audited is None
    assert (known.rights, known.configured_rights) == (EVERYTHING, ECHO_ONLY)
    off = judge(found, "OFF")
    assert off.refusal is None
    assert off.audited is not None
    assert (off.audited.rule, off.audited.key) == ("peers.off.allow", "peers.allow")
    assert found.refuses_address("10.9.9.9") == ""


def test_only_an_address_that_no_entry_could_match_is_not_listened_to() -> None:
    narrow = peer("ct1", "CT1", at=("10.1.2.0/24", "2001:db8::/32"))
    assert rules(narrow).refuses_address("10.1.3.1")
    assert rules(narrow).refuses_address("2001:db9::1")
    assert rules(narrow).refuses_address("no address")
    assert not rules(narrow).refuses_address("10.1.2.255")
    assert not rules(narrow).refuses_address("2001:db8::1")
    assert not rules(narrow, peer("anywhere", "MR1")).refuses_address("10.1.3.1")
    assert not rules().refuses_address("10.1.3.1")


def test_what_is_not_an_address_matches_no_network() -> None:
    assert judge(rules(peer("ct1", at=("0.0.0.0/0", "::/0"))), "CT1", "unknown").refusal is not None
    assert not in_networks("unknown", [ip_network("0.0.0.0/0")])


def test_a_peer_named_like_an_address_is_not_counted_with_it() -> None:
    named = judge(rules(peer("10.1.2.3", "CT1")), "CT1")
    assert named.counted_as != judge(rules(), "CT1", "10.1.2.3").counted_as


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:a01:203", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("2001:0DB8::0:1", "2001:db8::1"),
    ],
)
def test_addresses_are_written_as_people_do(raw: str, written: str) -> None:
    assert normal_address(raw) == written


def test_a_stranger_is_counted_as_a_host() -> None:
    counted = {
        rules().judge(calling="X", called="Y", source=Source(address)).counted_as
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:9::1")
    }
    assert counted == {"2001:db8::/64"}
