"""TLS with implementations that others wrote, with and without certificates of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE

from tests.daemon.conftest import TLS_LISTENER, StartDaemon
from tests.support import senders
from tests.support.certificates import Authority, Pki, requestor_context
from tests.support.daemon import Daemon, Record
from tests.support.objects import CT_IMAGE_STORAGE
from tests.support.pydicom_files import sample

PEER_NAMES = ["ct1.example.org", "10.1.2.3", "2001:db8::1"]


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Senders send the same sample: each test finds its own."""
    yield
    if "secure" in request.fixturenames:
        request.getfixturevalue("secure").empty()


def ended(daemon: Daemon, calling: str) -> Record:
    """The line of the Association with this Calling AE Title; each test has its own, for lines come behind answers."""
    return daemon.wait_logged("association ended", dicom_calling_aet=calling)


@pytest.mark.system
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_anonymous(secure: Daemon, pki: Pki, profile: str) -> None:
    done = senders.run(
        *(
            senders.program("storescu"),
            "-aet",
            f"ANONYMOUS{profile}",
            "+tla",
            profile,
            "+cf",
            pki.trusted,
            secure.host,
            secure.port,
        ),
        sample("CT_small.dcm"),
    )
    assert done.exit_status == 0, done.output
    assert len(secure.stored()) == 1
    assert "certificate_names" not in ended(secure, f"ANONYMOUS{profile}")


@pytest.mark.system
def test_dcmtk_with_a_certificate(secure: Daemon, pki: Pki) -> None:
    certificate, key = pki.peer
    done = senders.run(
        *(
            senders.program("storescu"),
            "-aet",
            "DCMTK",
            "+tls",
            key,
            certificate,
            "+cf",
            pki.trusted,
            secure.host,
            secure.port,
        ),
        sample("CT_small.dcm"),
    )
    assert done.exit_status == 0, done.output
    assert ended(secure, "DCMTK")["certificate_names"] == PEER_NAMES


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
    application = AE(ae_title=calling)
    ds = dcmread(sample("CT_small.dcm"))
    application.add_requested_context(CT_IMAGE_STORAGE, ds.file_meta.TransferSyntaxUID)
    context = requestor_context(pki.trusted, pki.peer if certificate else None)
    association = application.associate(secure.host, secure.port, tls_args=(context, "dicomd.test"))
    assert association.is_established
    assert association.send_c_store(ds).Status == 0x0000
    association.release()
    assert len(secure.stored()) == 1
    assert ended(secure, calling).get("certificate_names") == (PEER_NAMES if certificate else None)


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
    assert "nobody checks who answers" in echo("--tls", "--tls-insecure")
    assert "or want TLS" in echo()
    strict = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(client_ca=pki.trusted))
    assert "it may want a certificate" in echo("--tls", "--ca", pki.trusted, daemon=strict)
    plain = start_daemon()
    assert "no TLS with the peer" in echo("--tls", "--ca", pki.trusted, daemon=plain)
