"""TLS with senders written by others, with and without client certificates."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.association import Association

from tests.daemon.conftest import TLS_LISTENER, StartDaemon
from tests.support import senders
from tests.support.certificates import Authority, Pki, requestor_context
from tests.support.daemon import Daemon, Record
from tests.support.objects import CT_IMAGE_STORAGE
from tests.support.pydicom_files import sample

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

PEER_NAMES = ["ct1.example.org", "10.1.2.3", "2001:db8::1"]


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the store, because senders send the same sample and each test must find its own."""
    yield
    if "secure" in request.fixturenames:
        request.getfixturevalue("secure").empty()


@dataclass(frozen=True)
class Stored:
    """The outcome of a sender's Association with one instance."""

    well: bool
    output: str


Send = Callable[[Daemon, Pki, tuple[Path, Path] | None, str], Stored]
"""Sends the sample to a daemon under a Calling AE Title, with or without a client certificate."""


def dcmtk(daemon: Daemon, pki: Pki, shown: tuple[Path, Path] | None, calling: str, *options: str) -> Stored:
    certificate = ("+tls", shown[1], shown[0]) if shown else ("+tla",)
    done = senders.run(
        *(senders.program("storescu"), "-aet", calling, *certificate, *options, "+cf", pki.trusted),
        *(daemon.host, daemon.port, sample("CT_small.dcm")),
    )
    return Stored(done.exit_status == 0, done.output)


def open_with_pynetdicom(daemon: Daemon, pki: Pki, shown: tuple[Path, Path] | None, calling: str) -> Association:
    application = AE(ae_title=calling)
    application.add_requested_context(CT_IMAGE_STORAGE, dcmread(sample("CT_small.dcm")).file_meta.TransferSyntaxUID)
    context = requestor_context(pki.trusted, shown)
    return application.associate(daemon.host, daemon.port, tls_args=(context, "dicomd.test"))


def pynetdicom(daemon: Daemon, pki: Pki, shown: tuple[Path, Path] | None, calling: str) -> Stored:
    association = open_with_pynetdicom(daemon, pki, shown, calling)
    if not association.is_established:
        rejection: Any = association.acceptor.primitive
        return Stored(False, f"{rejection.result}/{rejection.result_source}/{rejection.diagnostic}")
    status: int = association.send_c_store(dcmread(sample("CT_small.dcm"))).Status
    association.release()
    return Stored(status == 0x0000, f"{status:04X}")


def ended(daemon: Daemon, calling: str) -> Record:
    """The log record of the Association with this Calling AE Title, unique per test because logging follows answers."""
    return daemon.wait_logged("association ended", dicom_calling_aet=calling)


@pytest.mark.system
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_anonymous(secure: Daemon, pki: Pki, profile: str) -> None:
    stored = dcmtk(secure, pki, None, f"ANONYMOUS{profile}", profile)
    assert stored.well, stored.output
    assert len(secure.stored()) == 1
    assert "certificate_names" not in ended(secure, f"ANONYMOUS{profile}")


@pytest.mark.system
def test_dcmtk_with_a_certificate(secure: Daemon, pki: Pki) -> None:
    stored = dcmtk(secure, pki, pki.peer, "DCMTK")
    assert stored.well, stored.output
    assert ended(secure, "DCMTK")["certificate_names"] == PEER_NAMES


@pytest.mark.parametrize(
    "options", [("--profile-8996",), ("--profile-8996-mod",), ("--request-sni", "dicomd.test")], ids=lambda o: o[0]
)
def test_dcmtk_with_the_options_of_its_newer_versions(secure: Daemon, pki: Pki, options: tuple[str, ...]) -> None:
    calling = f"DCMTK {options[0].strip('-')}"[:16].upper()
    sent = dcmtk(secure, pki, pki.peer, calling, senders.option("storescu", options[0]), *options[1:])
    assert sent.well, sent.output
    assert ended(secure, calling)["instances"] == 1


@pytest.mark.system
def test_dcmtk_of_the_retired_aes_profile_is_refused(secure: Daemon, pki: Pki) -> None:
    seen = len(secure.records)
    done = senders.run(*(senders.program("echoscu"), "+tla", "+pa", "-ic", secure.host, secure.port))
    assert done.exit_status
    record = secure.wait_for(lambda r: r["event"] == "TLS handshake failed", since=seen)
    assert record["error"] in ("no shared cipher", "unsupported protocol")


@pytest.mark.parametrize("certificate", [False, True], ids=["anonymous", "with a certificate"])
def test_pynetdicom(secure: Daemon, pki: Pki, certificate: bool) -> None:
    calling = f"PYNETDICOM{int(certificate)}"
    stored = pynetdicom(secure, pki, pki.peer if certificate else None, calling)
    assert stored.well, stored.output
    assert len(secure.stored()) == 1
    assert ended(secure, calling).get("certificate_names") == (PEER_NAMES if certificate else None)


@pytest.mark.parametrize(
    ("send", "refusal"),
    [
        pytest.param(dcmtk, "Calling AE Title Not Recognized", marks=pytest.mark.system),
        pytest.param(pynetdicom, "1/1/3"),
    ],
    ids=["DCMTK", "pynetdicom"],
)
def test_a_peer_is_known_by_the_name_in_its_certificate(
    start_daemon: StartDaemon, pki: Pki, send: Send, refusal: str
) -> None:
    """A peer entry matched only by that name; a reload changes the name, and the open Association continues."""
    ct2 = pki.show(["ct2.example.org"])

    def entry(name: str) -> list[dict[str, Any]]:
        return [{"name": "ct", "certificate_names": [name]}]

    def comes_in(shown: tuple[Path, Path], calling: str) -> None:
        stored = send(daemon, pki, shown, calling)
        assert stored.well, stored.output
        assert ended(daemon, calling)["dicom_peer"] == "ct"

    def stays_out(shown: tuple[Path, Path], calling: str, names: str) -> None:
        stored = send(daemon, pki, shown, calling)
        assert not stored.well
        assert refusal in stored.output
        line = daemon.wait_logged("association rejected", dicom_calling_aet=calling)
        assert (line["rule"], line["dicom_peer"]) == ("peers", "unknown")
        assert line["advice"] == (
            f"peers.ct requires another certificate name (the peer's: {names}): add it to its certificate_names, "
            "or have the peer present that certificate"
        )

    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(client_ca=pki.trusted), peers=entry("CT1.example.org"))
    comes_in(pki.peer, "FIRST")
    stays_out(ct2, "SECOND", "ct2.example.org")
    stays_on = open_with_pynetdicom(daemon, pki, pki.peer, "STAYS")
    assert stays_on.is_established
    daemon.configure(peers=entry("ct2.example.org"))
    assert daemon.reload()["event"] == "config applied"
    comes_in(ct2, "THIRD")
    stays_out(pki.peer, "FOURTH", ", ".join(PEER_NAMES))
    assert stays_on.send_c_store(dcmread(sample("CT_small.dcm"))).Status == 0x0000
    stays_on.release()
    assert ended(daemon, "STAYS")["outcome"] == "released"
    daemon.wait_metric("dicomd_peer_instances_total", 3, peer="ct")
    daemon.wait_metric("dicomd_access_refusals_total", 2, rule="peers", mode="enforce")


@pytest.mark.system
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("certificate", [False, True], ids=["anonymous", "with a certificate"])
def test_openssl(secure: Daemon, pki: Pki, version: str, certificate: bool) -> None:
    certificates, key = pki.peer
    shown = ("-cert", certificates, "-cert_chain", certificates, "-key", key) if certificate else ()
    before = secure.metric("dicomd_tls_handshakes_total", listener="tls", result="ok")
    done = senders.run(
        *(senders.program("openssl"), "s_client", "-connect", f"{secure.host}:{secure.port}", version),
        *("-CAfile", pki.trusted, "-verify_return_error", "-verify_hostname", "dicomd.test", *shown),
    )
    assert done.exit_status == 0, done.output
    assert "Verify return code: 0 (ok)" in done.output
    assert "Compression: NONE" in done.output
    assert "TLS session ticket:" not in done.output
    secure.wait_metric("dicomd_tls_handshakes_total", before + 1, listener="tls", result="ok")


@pytest.mark.system
def test_openssl_may_not_renegotiate(secure: Daemon, pki: Pki) -> None:
    done = subprocess.run(
        [senders.program("openssl"), "s_client", "-connect", f"{secure.host}:{secure.port}", "-tls1_2"],
        input=b"R\n",
        capture_output=True,
        timeout=senders.DEADLINE,
        check=False,
    )
    assert b"no renegotiation" in done.stdout + done.stderr


def test_dicomd_itself(secure: Daemon, pki: Pki) -> None:
    options = ("--tls", "--ca", pki.trusted)
    done = senders.dicomd("send", secure.host, secure.port, *options, "--calling", "SEND", sample("CT_small.dcm"))
    assert done.exit_status == 0, done.output
    assert len(secure.stored()) == 1
    assert "certificate_names" not in ended(secure, "SEND")
    shown = ("--certificate", pki.peer[0], "--key", pki.peer[1])
    done = senders.dicomd("echo", secure.host, secure.port, *options, *shown, "--calling", "ECHO")
    assert done.exit_status == 0, done.output
    assert ended(secure, "ECHO")["certificate_names"] == PEER_NAMES


def test_dicomd_says_why_there_is_no_tls(secure: Daemon, pki: Pki, start_daemon: StartDaemon, tmp_path: Path) -> None:
    def echo(*options: str | Path, daemon: Daemon = secure) -> str:
        done = senders.dicomd("echo", daemon.host, daemon.port, *options)
        assert done.exit_status == (0 if "insecure" in str(options) else 1), done.output
        return done.output

    another = Authority("Another").write(tmp_path / "another.pem")
    assert "unable to get local issuer certificate" in echo("--tls", "--ca", another)
    wrong_name = echo("--tls", "--ca", pki.trusted, "--tls-name", "pacs.example.org")
    assert "pacs.example.org" in wrong_name
    assert "the peer's identity is not verified" in echo("--tls", "--tls-insecure")
    assert "or may require TLS" in echo()
    strict = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(client_ca=pki.trusted))
    assert "it may require a client certificate" in echo("--tls", "--ca", pki.trusted, daemon=strict)
    plain = start_daemon()
    assert "TLS handshake with the peer failed" in echo("--tls", "--ca", pki.trusted, daemon=plain)
