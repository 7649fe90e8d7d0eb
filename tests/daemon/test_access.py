"""Which peers may do what: [[peers]], [access] and dicomd.ae_titles in the real daemon (CONTRACT 3, 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.conftest import StartDaemon
from tests.support import senders
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.raw_peer import Closed, RawPeer, associate_rq

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

Dial = Callable[..., RawPeer]

CT1 = {"name": "ct1", "ae_titles": ["CT1", "CT1-B"], "addresses": ["127.0.0.1", "127.0.1.0/24"]}
PROBE = {"name": "probe", "ae_titles": ["PROBE"], "addresses": ["127.0.0.0/16"], "allow": ["echo"]}
SILENT = {"name": "silent", "ae_titles": ["SILENT"], "addresses": ["127.0.0.0/16"], "allow": ["store"]}
BLOCKED = {"name": "blocked", "ae_titles": ["BLOCKED"], "allow": []}


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connect to a daemon from a loopback address."""
    with ExitStack() as peers:
        yield lambda daemon, source="127.0.0.1", **options: peers.enter_context(
            RawPeer(("127.0.0.1", daemon.port), source=source, **options)
        )


def refusals(daemon: Daemon, rule: str, mode: str = "enforce") -> float:
    return daemon.metric("dicomd_access_refusals_total", rule=rule, mode=mode)


def test_a_peer_is_known_by_title_and_address_and_nobody_else_comes_in(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(dicomd={"ae_titles": ["ARCHIVE"], "workers": 2}, peers=[CT1, PROBE])
    assert daemon.metric("dicomd_access_open") == 0
    for calling, source in (("CT1", "127.0.0.1"), ("CT1-B", "127.0.1.77")):
        peer = dial(daemon, source, calling=calling)
        peer.associate(called="ARCHIVE")
        one = instance()
        assert peer.store(one).status == 0
        assert peer.echo().status == 0
        peer.release()
        line = daemon.wait_logged("instance stored", dicom_sop_instance_uid=one.sop_instance_uid)
        assert (line["dicom_peer"], line["dicom_peer_address"]) == ("ct1", source)
        daemon.wait_logged("association ended", dicom_peer="ct1", dicom_peer_address=source)
    daemon.wait_metric("dicomd_peer_instances_total", 2, peer="ct1")
    assert daemon.metric("dicomd_peer_instances_total", peer="unknown") == 0

    for called, calling, source, expected, rule, advice in (
        ("OTHER", "CT1", "127.0.0.1", (1, 1, 7), "dicomd.ae_titles", "the Called AE Title is not in dicomd.ae_titles"),
        ("ARCHIVE", "CT2", "127.0.0.1", (1, 1, 3), "peers", 'add ["CT2"] to its ae_titles'),
        ("ARCHIVE", "CT1", "127.0.0.9", (1, 1, 3), "peers", "peers.ct1 has this AE Title, but not this address"),
        ("ARCHIVE", "ct1", "127.0.0.1", (1, 1, 3), "peers", "not this AE Title"),
    ):
        peer = dial(daemon, source)
        peer.send(associate_rq(called=called, calling=calling))
        assert peer.read_rejection() == expected
        line = daemon.wait_logged(
            "association rejected", dicom_called_aet=called, dicom_calling_aet=calling, dicom_peer_address=source
        )
        assert line["rule"] == rule
        assert advice in line["advice"]
        assert line["dicom_peer"] == "unknown"
    daemon.wait_metric("dicomd_associations_rejected_total", 3, source="1", reason="3")
    assert refusals(daemon, "peers") == 3
    assert refusals(daemon, "dicomd.ae_titles") == 1


def test_an_address_that_nobody_has_is_not_listened_to(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(peers=[CT1])
    for _ in range(2):
        with pytest.raises((Closed, OSError)):  # closed before or while the request is written
            peer = dial(daemon, "127.0.0.9")
            peer.send(associate_rq(calling="CT1"))
            peer.read_pdu()
    line = daemon.wait_logged("connection refused", dicom_peer_address="127.0.0.9")
    assert line["rule"] == "peers.addresses"
    daemon.wait_metric("dicomd_access_refusals_total", 2, rule="peers.addresses", mode="enforce")
    assert daemon.metric("dicomd_associations_rejected_total", source="1", reason="3") == 0


def test_ipv4_is_matched_and_logged_as_ipv4_on_a_socket_for_both(start_daemon: StartDaemon, dial: Dial) -> None:
    six = {"name": "six", "ae_titles": ["CT1"], "addresses": ["::1"]}
    daemon = start_daemon(listen=[{"name": "dicom", "address": "[::]:0"}], peers=[CT1, six])
    peer = dial(daemon, calling="CT1")
    peer.associate()
    peer.release()
    assert daemon.wait_logged("association ended", dicom_peer="ct1")["dicom_peer_address"] == "127.0.0.1"
    with RawPeer(("::1", daemon.port), calling="CT1") as peer:
        peer.associate()
        peer.release()
    assert daemon.wait_logged("association ended", dicom_peer="six")["dicom_peer_address"] == "::1"


def test_a_peer_may_do_what_its_entry_allows_and_goes_on_after_a_refusal(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(peers=[PROBE, SILENT, BLOCKED])
    peer = dial(daemon, calling="PROBE")
    peer.associate()
    for _ in range(2):
        answer = peer.store(instance(size=100_000))
        assert f"{answer.status:04X}" == "0124"
        assert answer.error_comment == "This peer may not store"
    assert peer.echo().status == 0
    peer.release()
    line = daemon.wait_logged("request refused", dicom_peer="probe")
    assert line["rule"] == "peers.probe.allow"
    assert 'add "store" to peers.probe.allow' in line["advice"]
    assert len(daemon.logged("request refused")) == 1
    assert {failed["advice"] for failed in daemon.logged("store failed", dicom_status="0124")} == {line["advice"]}
    daemon.wait_metric("dicomd_peer_failures_total", 2, peer="probe", reason="store_failed")
    daemon.wait_metric("dicomd_dimse_responses_total", 2, command="C-STORE-RSP", status="0124")

    peer = dial(daemon, calling="SILENT")
    peer.associate()
    assert f"{peer.echo().status:04X}" == "0122"
    assert peer.store(instance()).status == 0
    peer.release()
    daemon.wait_metric("dicomd_dimse_responses_total", 1, command="C-ECHO-RSP", status="0122")
    assert refusals(daemon, "peers.allow") == 3

    peer = dial(daemon)
    peer.send(associate_rq(calling="BLOCKED"))
    assert peer.read_rejection() == (1, 1, 3)
    peer.sock.close()
    line = daemon.wait_logged("association rejected", dicom_peer="blocked")
    assert line["rule"] == "peers.blocked.allow"
    daemon.wait_metric("dicomd_peer_failures_total", 1, peer="blocked", reason="rejected")
    assert len(daemon.paths()) == 1


def test_audit_mode_lets_in_and_tells_who_would_have_been_refused(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(peers=[CT1, PROBE], access={"mode": "audit"})
    stranger = dial(daemon, "127.9.9.9", calling="STRANGER")
    stranger.associate()
    assert stranger.store(instance()).status == 0
    assert stranger.echo().status == 0
    stranger.release()
    line = daemon.wait_logged("association would be rejected", dicom_calling_aet="STRANGER")
    assert (line["result"], line["source"], line["reason"], line["rule"]) == (1, 1, 3, "peers")
    assert 'addresses = ["127.9.9.9"]' in line["advice"]

    probe = dial(daemon, calling="PROBE")
    probe.associate()
    for _ in range(2):
        assert probe.store(instance()).status == 0
    probe.release()
    line = daemon.wait_logged("request would be refused", dicom_peer="probe")
    assert line["rule"] == "peers.probe.allow"
    assert len(daemon.logged("request would be refused")) == 1

    known = dial(daemon, calling="CT1")
    known.associate()
    assert known.store(instance()).status == 0
    known.release()
    daemon.wait_logged("association ended", dicom_peer="ct1")
    assert len(daemon.logged("association would be rejected")) == 1
    assert refusals(daemon, "peers", "audit") == 1
    assert refusals(daemon, "peers.allow", "audit") == 2
    assert refusals(daemon, "peers") == refusals(daemon, "peers.allow") == refusals(daemon, "peers.addresses") == 0
    assert len(daemon.paths()) == 4


def test_limits_of_peers_hold_over_all_workers(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(
        dicomd={"workers": 3},
        limits={"associations_per_peer": 4, "associations": 7},
        peers=[{**CT1, "associations": 2}, {"name": "rest", "addresses": ["127.0.0.0/8"]}],
    )

    def opened(calling: str, source: str) -> RawPeer | tuple[int, int, int]:
        peer = dial(daemon, source, calling=calling)
        peer.send(associate_rq(calling=calling))
        answer = peer.read_pdu()
        return peer if answer.type == 2 else (answer.body[1], answer.body[2], answer.body[3])

    ct1 = [opened("CT1", source) for source in ("127.0.0.1", "127.0.1.1")]
    assert opened("CT1-B", "127.0.1.2") == (2, 3, 2)
    line = daemon.wait_logged("association rejected", dicom_peer="ct1")
    assert line["advice"] == "peers.ct1.associations = 2 are open of this peer"
    rest = [opened("OTHER", f"127.2.0.{host}") for host in range(1, 5)]
    assert opened("OTHER", "127.2.0.9") == (2, 3, 2)
    line = daemon.wait_logged("association rejected", dicom_peer="rest")
    assert line["advice"] == "limits.associations_per_peer = 4 are open of this peer"
    assert daemon.metric("dicomd_limit_hits_total", limit="associations_per_peer") == 2
    first, *others = ct1 + rest
    assert isinstance(first, RawPeer)
    first.release()
    again = opened("CT1", "127.0.0.1")
    for peer in (again, *others):
        assert isinstance(peer, RawPeer)
        peer.release()


def test_a_reload_brings_a_peer_s_own_associations_and_the_mode(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(peers=[{**CT1, "associations": 1}])
    first = dial(daemon, calling="CT1")
    first.associate()
    for allowed, peers in ((1, None), (2, [{**CT1, "associations": 2}])):
        if peers:
            daemon.configure(peers=peers)
            assert daemon.reload()["event"] == "config applied"
            dial(daemon, calling="CT1").associate()  # in addition to the old generation's
        refused = dial(daemon, calling="CT1")
        refused.send(associate_rq(calling="CT1"))
        assert refused.read_rejection() == (2, 3, 2)
        advice = f"peers.ct1.associations = {allowed} are open of this peer"
        daemon.wait_logged("association rejected", dicom_peer="ct1", advice=advice)
    for mode, rejection in (("audit", None), ("enforce", (1, 1, 3))):
        daemon.configure(access={"mode": mode})
        assert daemon.reload()["event"] == "config applied"
        stranger = dial(daemon, calling="STRANGER")
        if rejection is None:
            stranger.associate()
            stranger.release()
        else:
            stranger.send(associate_rq(calling="STRANGER"))
            assert stranger.read_rejection() == rejection
    first.release()


def test_a_reload_that_names_a_peer_counts_its_new_associations_under_the_name(
    start_daemon: StartDaemon, dial: Dial
) -> None:
    """Open ones keep counting under their address, and so do Associations from there with another AE Title."""

    def answered(calling: str) -> str | tuple[int, int, int]:
        peer = dial(daemon, calling=calling)
        peer.send(associate_rq(calling=calling))
        answer = peer.read_pdu()
        return "accepted" if answer.type == 2 else (answer.body[1], answer.body[2], answer.body[3])

    daemon = start_daemon(limits={"associations_per_peer": 2})
    assert [answered("CT1") for _ in range(3)] == ["accepted", "accepted", (2, 3, 2)]
    daemon.configure(peers=[CT1], access={"mode": "audit"})
    assert daemon.reload()["event"] == "config applied"
    assert answered("STRANGER") == (2, 3, 2)  # limits also hold in audit mode, and the address already has two
    assert [answered("CT1") for _ in range(3)] == ["accepted", "accepted", (2, 3, 2)]


def test_a_reload_brings_new_rules_and_open_associations_keep_theirs(start_daemon: StartDaemon, dial: Dial) -> None:
    daemon = start_daemon(peers=[CT1])
    before = dial(daemon, calling="CT1")
    before.associate()
    daemon.configure(peers=[{**CT1, "allow": ["echo"]}, {"name": "mr1", "ae_titles": ["MR1"]}])
    assert daemon.reload()["event"] == "config applied"
    assert before.store(instance()).status == 0
    after = dial(daemon, calling="CT1")
    after.associate()
    assert f"{after.store(instance()).status:04X}" == "0124"
    new = dial(daemon, "127.9.9.9", calling="MR1")
    new.associate()
    assert new.store(instance()).status == 0
    for peer in (before, after, new):
        peer.release()
    daemon.wait_metric("dicomd_peer_instances_total", 1, peer="mr1")
    daemon.configure(peers=[])
    assert daemon.reload()["event"] == "config applied"
    assert daemon.metric("dicomd_access_open") == 1


def test_without_peers_it_says_that_everybody_may_store(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.wait_logged("no [[peers]] are configured: every peer that can connect may store")
    assert daemon.metric("dicomd_access_open") == 1


@pytest.mark.system
def test_a_sender_that_others_wrote_understands_its_refusal(start_daemon: StartDaemon) -> None:
    echoscu = senders.program("echoscu")
    daemon = start_daemon(peers=[CT1])
    assert senders.run(echoscu, "-aet", "CT1", "127.0.0.1", daemon.port).exit_status == 0
    refused = senders.run(echoscu, "-aet", "CT9", "127.0.0.1", daemon.port)
    assert refused.exit_status != 0
    assert "Calling AE Title Not Recognized" in refused.output
