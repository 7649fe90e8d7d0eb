"""Associations over TLS: which peers and versions are accepted, and what is logged about them."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import TLS_LISTENER, StartDaemon
from tests.support.certificates import DAY, Authority, Pki, requestor_context
from tests.support.daemon import Daemon, Record
from tests.support.objects import instance
from tests.support.raw_peer import Abort, RawPeer, associate_rq, store_message
from tests.support.waiting import wait_until

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


NO_CERTIFICATE = r"peer did not return a certificate"


@pytest.fixture
def context(pki: Pki) -> ssl.SSLContext:
    return requestor_context(pki.trusted)


def store_one(address: tuple[str, int], context: ssl.SSLContext | None, *, calling: str = "RAWPEER") -> None:
    """Store one instance over an Association."""
    with RawPeer(address, tls=context, calling=calling) as peer:
        peer.associate()
        assert peer.store(instance(size=300_000)).status == 0x0000
        peer.release()


def ended(daemon: Daemon, calling: str) -> Record:
    """The log record of the Association with this Calling AE Title, unique per test because logging follows answers."""
    return daemon.wait_logged("association ended", dicom_calling_aet=calling)


def refused(daemon: Daemon, context: ssl.SSLContext, why: str) -> None:
    """The peer gets no Association, and the log contains the reason."""
    seen = len(daemon.records)
    before = daemon.metric("dicomd_tls_handshakes_total", listener="tls", result="failed")
    with pytest.raises((OSError, AssertionError)), RawPeer(daemon.address, tls=context) as peer:
        peer.associate()  # in TLS 1.3 a requestor learns only here that its certificate was refused
    record = daemon.wait_for(lambda r: r["event"] == "TLS handshake failed", since=seen)
    assert re.search(why, record["error"]), record
    assert record["level"] == "warning"
    assert record["listener"] == "tls"
    assert record["dicom_peer_address"] == "127.0.0.1"
    daemon.wait_metric("dicomd_tls_handshakes_total", before + 1, listener="tls", result="failed")


def handshakes(daemon: Daemon, result: str) -> float:
    return daemon.metric("dicomd_tls_handshakes_total", listener="tls", result=result)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_instances_arrive_whole(secure: Daemon, pki: Pki, version: ssl.TLSVersion) -> None:
    before = handshakes(secure, "ok")
    sent = [instance(size=size) for size in (10, 16_384, 700_000)]
    with RawPeer(secure.address, tls=requestor_context(pki.trusted, version=version), calling=version.name) as peer:
        peer.associate()
        for one in sent:
            assert peer.store(one).status == 0x0000
        peer.release()
    for one in sent:
        assert [file.data_set for file in secure.stored(one.sop_instance_uid)] == [one.data_set]
    line = ended(secure, version.name)
    assert line["outcome"] == "released"
    assert line["tls_version"] == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert "AES" in line["tls_cipher"]
    assert "certificate_names" not in line
    secure.wait_metric("dicomd_tls_handshakes_total", before + 1, listener="tls", result="ok")


@pytest.mark.parametrize("size", [1, 7, 16_384])
def test_records_of_any_size_are_put_together(secure: Daemon, context: ssl.SSLContext, size: int) -> None:
    sent = instance(size=3000 if size < 100 else 300_000)
    with RawPeer(secure.address, tls=context) as peer:
        peer.associate()
        peer.send_in_pieces(store_message(sent), size)  # each becomes a record
        assert peer.read_message().status == 0x0000
        peer.release()
    assert secure.stored(sent.sop_instance_uid)[0].data_set == sent.data_set


def test_the_names_of_a_peer_are_logged(secure: Daemon, pki: Pki) -> None:
    store_one(secure.address, requestor_context(pki.trusted, pki.peer), calling="NAMES")
    assert ended(secure, "NAMES")["certificate_names"] == ["ct1.example.org", "10.1.2.3", "2001:db8::1"]


def test_a_common_name_counts_where_there_is_no_other(secure: Daemon, pki: Pki) -> None:
    shown = pki.root.issue("MR 7").write(pki.folder, "mr7")
    store_one(secure.address, requestor_context(pki.trusted, shown), calling="COMMON")
    assert ended(secure, "COMMON")["certificate_names"] == ["MR 7"]


def test_an_optional_certificate_still_has_to_be_good(secure: Daemon, pki: Pki) -> None:
    stranger = pki.show(["ct2.example.org"], root=Authority("Another"))
    refused(secure, requestor_context(pki.trusted, stranger), "certificate verify failed: unable to get local issuer")
    late = pki.show(["late.example.org"], begins=-3 * DAY, ends=-DAY)
    refused(secure, requestor_context(pki.trusted, late), "certificate verify failed: certificate has expired")
    store_one(secure.address, requestor_context(pki.trusted))


def test_a_requestor_that_does_not_trust_this_certificate_is_logged(secure: Daemon, pki: Pki, tmp_path: Path) -> None:
    trusted = Authority("Another").write(tmp_path / "another.pem")
    refused(secure, requestor_context(trusted), "alert unknown ca")


def test_old_versions_and_weak_suites_are_refused(secure: Daemon, pki: Pki) -> None:
    for version in ("TLSv1", "TLSv1_1"):
        old = requestor_context(pki.trusted)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="is deprecated"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion[version]
        refused(secure, old, "unsupported protocol")
    for suites in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES256-SHA384"):
        weak = requestor_context(pki.trusted, version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers(f"{suites}:@SECLEVEL=0")
        refused(secure, weak, "no shared cipher")


def test_a_peer_without_tls_is_refused_and_told_apart(secure: Daemon) -> None:
    seen = len(secure.records)
    failed = handshakes(secure, "failed")
    mismatches = secure.metric("dicomd_protocol_mismatches_total", listener="tls", spoken="dicom")
    with RawPeer(secure.address) as peer, pytest.raises((OSError, AssertionError)):
        peer.associate()
    record = secure.wait_for(lambda r: r["event"] == "protocol mismatch", since=seen)
    assert (record["level"], record["listener"], record["spoken"]) == ("warning", "tls", "dicom")
    assert "switch TLS on at the peer" in record["advice"]
    secure.wait_metric("dicomd_protocol_mismatches_total", mismatches + 1, listener="tls", spoken="dicom")
    secure.wait_metric("dicomd_tls_handshakes_total", failed + 1, listener="tls", result="failed")


@pytest.mark.parametrize("sent", ["TLS", "HTTP"])
def test_a_peer_that_speaks_something_else_to_a_plain_listener_is_told_apart(receiver: Daemon, sent: str) -> None:
    seen = len(receiver.records)
    spoken, listener = sent.lower(), "dicom"
    before = receiver.metric("dicomd_protocol_mismatches_total", listener=listener, spoken=spoken)
    with socket.create_connection(receiver.address, 10) as sock:
        if sent == "TLS":
            with pytest.raises(ssl.SSLError):
                ssl._create_unverified_context().wrap_socket(sock)  # noqa: S323, SLF001 - it never gets a certificate
        else:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(100)[:1] == b"\7"  # A-ABORT
    record = receiver.wait_for(lambda r: r["event"] == "protocol mismatch", since=seen)
    assert (record["level"], record["listener"], record["spoken"]) == ("warning", listener, spoken)
    assert ("set tls = true" if sent == "TLS" else "http.address") in record["advice"]
    receiver.wait_metric("dicomd_protocol_mismatches_total", before + 1, listener=listener, spoken=spoken)


def test_a_probe_of_the_port_is_no_handshake(secure: Daemon) -> None:
    before, seen = handshakes(secure, "failed"), len(secure.records)
    RawPeer(secure.address).sock.close()
    record = secure.wait_for(lambda r: r["event"] == "connection without association", since=seen)
    assert record["level"] == "info"
    assert handshakes(secure, "failed") == before


def test_a_connection_that_breaks_off_leaves_nothing(secure: Daemon, context: ssl.SSLContext) -> None:
    """The connection ends in the middle of an object, without close_notify."""
    sent = instance(size=100_000)
    with RawPeer(secure.address, tls=context, calling="BREAKS") as peer:
        peer.associate()
        peer.send(store_message(sent)[:60_000])
    assert ended(secure, "BREAKS")["outcome"] == "connection_lost"
    assert not secure.stored(sent.sop_instance_uid)
    secure.wait_no_temporary_files()


def test_a_broken_record_ends_the_connection(secure: Daemon, context: ssl.SSLContext) -> None:
    with RawPeer(secure.address, tls=context, calling="DAMAGES") as peer:
        peer.associate()
        socket.socket.sendall(peer.sock, b"\x17\x03\x03\x00\x40" + bytes(64))  # bypassing the encryption
        record = ended(secure, "DAMAGES")
    assert record["outcome"] == "connection_lost"
    assert record["error"].startswith("TLS: ")


def test_a_required_certificate_opens_the_door_and_a_revoked_one_does_not(start_daemon: StartDaemon, pki: Pki) -> None:
    good, revoked = (pki.root.issue("", [name]) for name in ("good.example.org", "revoked.example.org"))
    crl = pki.folder / "clients.crl"
    crl.write_bytes(pki.root.revocation_list(revoked))
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(client_ca=pki.trusted, crl=crl))
    refused(daemon, requestor_context(pki.trusted), NO_CERTIFICATE)
    refused(daemon, requestor_context(pki.trusted, version=ssl.TLSVersion.TLSv1_2), NO_CERTIFICATE)
    shown = revoked.write(pki.folder, "revoked")
    refused(daemon, requestor_context(pki.trusted, shown), "certificate verify failed: certificate revoked")
    store_one(daemon.address, requestor_context(pki.trusted, good.write(pki.folder, "good")))
    assert handshakes(daemon, "ok") == 1


def test_tls_and_plain_listeners_serve_side_by_side(start_daemon: StartDaemon, pki: Pki) -> None:
    listen = [TLS_LISTENER, {"name": "plain", "address": "127.0.0.1:0"}, TLS_LISTENER | {"name": "tls2"}]
    daemon = start_daemon(listen=listen, tls=pki.tls(profile="modern"))
    shown = {
        dict(labels)["listener"] for name, labels in daemon.metrics() if name.startswith("dicomd_tls_certificate_")
    }
    assert shown == {"tls", "tls2"}
    modern = requestor_context(pki.trusted, version=ssl.TLSVersion.TLSv1_3)
    for name, context in (("tls", modern), ("plain", None), ("tls2", modern)):
        store_one(daemon.listener(name), context)
        daemon.wait_metric("dicomd_associations_total", 1, listener=name, outcome="released")
    assert daemon.metric("dicomd_tls_handshakes_total", listener="plain", result="ok") == 0
    refused(daemon, requestor_context(pki.trusted, version=ssl.TLSVersion.TLSv1_2), "unsupported protocol")


@pytest.mark.slow
def test_stalled_handshakes_hold_nobody_up_and_end_at_their_deadline(start_daemon: StartDaemon, pki: Pki) -> None:
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(), limits={"request_timeout": "3s"}, dicomd={"workers": 2})
    context = requestor_context(pki.trusted)
    stalled = [RawPeer(daemon.address) for _ in range(100)]
    try:
        for peer in stalled[50:]:  # half of them begin a handshake but never finish it
            peer.send(bytes.fromhex("16030100c8010000c40303") + bytes(90))
        for _ in range(3):
            store_one(daemon.address, context)
        for peer in stalled:
            peer.read_end(30)
    finally:
        for peer in stalled:
            peer.sock.close()
    daemon.wait_metric("dicomd_tls_handshakes_total", 100, listener="tls", result="timed_out")
    assert handshakes(daemon, "ok") == 3
    wait_until(lambda: len(daemon.logged("TLS handshake failed", error="nothing complete within 3 s")) == 100)


@pytest.mark.slow
def test_time_that_is_up_is_answered_over_tls(start_daemon: StartDaemon, pki: Pki) -> None:
    limits = {"association_idle": "1s", "request_timeout": "5s"}
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(), limits=limits)
    with RawPeer(daemon.address, tls=requestor_context(pki.trusted)) as peer:
        peer.associate()
        assert peer.read_abort() == Abort(0, 0)
    assert daemon.wait_logged("association ended", outcome="timed_out")["error"] == "idle for 1 s"


@pytest.mark.slow
def test_a_stop_aborts_over_tls(start_daemon: StartDaemon, pki: Pki) -> None:
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(), dicomd={"drain_timeout": "1s"})
    with RawPeer(daemon.address, tls=requestor_context(pki.trusted)) as peer:
        peer.associate()
        daemon.stop()
        assert peer.read_abort() == Abort(0, 0)


@pytest.mark.slow
def test_a_stop_before_there_is_an_association_is_told_as_such(start_daemon: StartDaemon, pki: Pki) -> None:
    """Neither a failure nor a peer's departure: dicomd itself ends these connections."""
    listen = [
        TLS_LISTENER,
        {"name": "plain", "address": "127.0.0.1:0"},
        TLS_LISTENER | {"name": "balanced", "proxy_protocol": ["127.0.0.1"]},
    ]
    limits = {"request_timeout": "60s"}
    daemon = start_daemon(listen=listen, tls=pki.tls(), dicomd={"drain_timeout": "1s", "workers": 1}, limits=limits)
    begun = {"tls": bytes.fromhex("16030100c8010000c40303") + bytes(90), "plain": associate_rq()[:50], "balanced": b""}
    with ExitStack() as open_ones:
        for name, first in begun.items():
            peer = open_ones.enter_context(RawPeer(daemon.listener(name)))
            peer.send(first)
            daemon.wait_metric("dicomd_connections_total", 1, listener=name)
        daemon.stop()
    for name in begun:
        (line,) = daemon.logged("connection without association", listener=name)
        assert (line["outcome"], line["error"]) == ("aborted_locally", "dicomd stops")
    assert not daemon.logged("TLS handshake failed")


@pytest.mark.slow
def test_certificates_are_rotated_by_a_reload_without_a_dropped_association(
    start_daemon: StartDaemon, pki: Pki, tmp_path: Path
) -> None:
    served = pki.root.issue("old", ["dicomd.test"]).write(tmp_path, "served")
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(certificate=served[0], key=served[1]))
    context = requestor_context(pki.trusted)
    with RawPeer(daemon.address, tls=context) as peer:
        peer.associate()
        new = pki.root.issue("new", ["dicomd.test"], ends=9 * DAY)
        new.write(tmp_path, "served")
        assert daemon.reload()["event"] == "config applied"
        assert daemon.metric("dicomd_tls_certificate_not_after_timestamp_seconds", listener="tls") == new.not_after
        with RawPeer(daemon.address, tls=context) as another:
            assert common_name(another) == "new"
            another.associate()
            assert another.store(instance()).status == 0x0000
            another.release()
        assert peer.store(instance(size=200_000)).status == 0x0000
        assert common_name(peer) == "old"
        peer.release()


@pytest.mark.slow
def test_who_may_come_in_is_changed_by_a_reload_without_a_dropped_association(
    start_daemon: StartDaemon, pki: Pki, tmp_path: Path
) -> None:
    authority, crl = tmp_path / "clients.pem", tmp_path / "clients.crl"
    authority.write_bytes(pki.root.pem)
    crl.write_bytes(pki.root.revocation_list())
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(client_ca=authority, crl=crl))
    certificate = pki.root.issue("", ["ct3.example.org"])
    known = requestor_context(pki.trusted, certificate.write(tmp_path, "ct3"))
    with RawPeer(daemon.address, tls=known) as peer:
        peer.associate()
        crl.write_bytes(pki.root.revocation_list(certificate))
        assert daemon.reload()["event"] == "config applied"
        refused(daemon, known, "certificate verify failed: certificate revoked")
        another = Authority("Another")
        authority.write_bytes(another.pem)
        crl.write_bytes(another.revocation_list())
        assert daemon.reload()["event"] == "config applied"
        refused(daemon, known, "certificate verify failed: self-signed certificate in certificate chain")
        store_one(daemon.address, requestor_context(pki.trusted, pki.show(["ct4.example.org"], root=another)))
        assert peer.store(instance()).status == 0x0000
        peer.release()


@pytest.mark.slow
def test_files_that_cannot_serve_leave_the_old_in_force(start_daemon: StartDaemon, pki: Pki, tmp_path: Path) -> None:
    served = pki.root.issue("old", ["dicomd.test"]).write(tmp_path, "served")
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(certificate=served[0], key=served[1]))
    context = requestor_context(pki.trusted)
    served[1].write_bytes(pki.root.issue("another").key_pem)
    rejected = daemon.reload()
    assert rejected["event"] == "config rejected"
    assert "tls.key" in rejected["config_errors"][0]
    assert daemon.metric("dicomd_config_last_reload_successful") == 0
    store_one(daemon.address, context)


def common_name(peer: RawPeer) -> str:
    """The common name of the certificate that the daemon shows."""
    assert isinstance(peer.sock, ssl.SSLSocket)
    certificate: Any = peer.sock.getpeercert()
    return dict(part[0] for part in certificate["subject"])["commonName"]


@pytest.mark.slow
def test_an_expired_certificate_is_served_after_a_start_and_refused_by_a_reload(
    start_daemon: StartDaemon, pki: Pki, tmp_path: Path
) -> None:
    served = pki.root.issue("late", ["dicomd.test"], begins=-3 * DAY, ends=-DAY).write(tmp_path, "served")
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(certificate=served[0], key=served[1]))
    warned = [record["detail"] for record in daemon.logged("configuration warning")]
    assert any("expired on" in detail for detail in warned), warned
    careless = requestor_context(pki.trusted)
    careless.verify_mode = ssl.CERT_NONE
    store_one(daemon.address, careless)
    rejected = daemon.reload()
    assert rejected["event"] == "config rejected"
    assert "expired on" in rejected["config_errors"][0]
