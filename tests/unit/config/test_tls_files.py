"""The findings about the files of [tls]."""

import contextlib
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from dicomd.config import examine
from dicomd.config.certificates import revocation_due, server_certificate
from dicomd.config.schema import Tls
from dicomd.config.tls import Findings, check_tls_files
from tests.support.certificates import DAY, Authority, Certificate, self_signed

Look = Callable[..., Findings]

ROOT = Authority()
ISSUING = ROOT.below()
CRL = ROOT.revocation_list(ROOT.issue("revoked"))


@pytest.fixture
def look_at(tmp_path: Path) -> Look:
    """Examine a certificate and other files of [tls]."""

    def look_at(certificate: Certificate, **files: bytes) -> Findings:
        served, key = certificate.write(tmp_path, "served")
        paths = {}
        for name, content in files.items():
            paths[name] = tmp_path / name
            paths[name].write_bytes(content)
        return check_tls_files("c.toml", Tls(certificate=served, key=key, **paths), time.time())

    return look_at


def keys(problems: list) -> list[str]:
    return [problem.key for problem in problems]


def test_a_certificate_with_its_chain_is_fine(look_at: Look) -> None:
    assert look_at(ISSUING.issue("a", ends=400 * DAY)) == Findings()


def test_a_certificate_without_what_leads_to_it_is_a_warning(look_at: Look) -> None:
    alone = ISSUING.issue("a", ends=400 * DAY)
    found = look_at(Certificate(alone.x509, alone.key))
    assert not found.errors + found.lapsed
    assert "CN=Test Issuing Authority" in found.warnings[0].what
    assert "chain may be incomplete" in found.warnings[0].what


def test_a_self_signed_certificate_is_a_warning(look_at: Look) -> None:
    found = look_at(self_signed())
    assert not found.errors + found.lapsed
    assert "self-signed" in found.warnings[-1].what


@pytest.mark.parametrize(
    ("begins", "ends", "said"), [(-3 * DAY, -DAY, "expired on"), (DAY, 3 * DAY, "is not valid before")]
)
def test_a_certificate_that_is_not_valid_now_has_lapsed(look_at: Look, begins: object, ends: object, said: str) -> None:
    found = look_at(ISSUING.issue("a", begins=begins, ends=ends))
    assert keys(found.lapsed) == ["tls.certificate"]
    assert said in found.lapsed[0].what
    assert not found.errors


def test_a_certificate_that_ends_soon_is_a_warning(look_at: Look) -> None:
    assert "expires on" in look_at(ISSUING.issue("a", ends=20 * DAY)).warnings[0].what


def test_a_certificate_for_clients_is_an_error(look_at: Look) -> None:
    found = look_at(ROOT.issue_for_clients_only("a"))
    assert keys(found.errors) == ["tls.certificate"]
    assert "is not valid as a server certificate: its extended key usage lacks serverAuth" in found.errors[0].what


def test_a_key_of_another_certificate_is_an_error(tmp_path: Path) -> None:
    served, _ = ISSUING.issue("a").write(tmp_path, "a")
    _, key = ISSUING.issue("b").write(tmp_path, "b")
    found = check_tls_files("c.toml", Tls(certificate=served, key=key), time.time())
    assert keys(found.errors) == ["tls.key"]
    assert "doesn't match" in found.errors[0].what


def test_an_authority_that_has_expired_is_a_warning(tmp_path: Path) -> None:
    served, key = ISSUING.issue("a", ends=400 * DAY).write(tmp_path, "served")
    tls = Tls(certificate=served, key=key, client_ca=ROOT.write(tmp_path / "root.pem"))
    assert check_tls_files("c.toml", tls, time.time()) == Findings()
    found = check_tls_files("c.toml", tls, time.time() + 11 * 86400)
    assert keys(found.warnings) == ["tls.client_ca"]
    assert "CN=Test Root expired" in found.warnings[0].what


def test_a_file_without_an_authority_is_an_error(look_at: Look) -> None:
    for content in (b"", b"not a certificate", ROOT.issue("a").pem):
        assert keys(look_at(ISSUING.issue("a"), client_ca=content).errors) == ["tls.client_ca"]


def test_a_revocation_list_is_looked_at(look_at: Look) -> None:
    good = ISSUING.issue("a", ends=400 * DAY)
    revoked = ROOT.issue("b")
    found = look_at(good, client_ca=ROOT.pem, crl=ROOT.revocation_list(revoked, ends=90 * DAY))
    assert found == Findings()
    assert keys(look_at(good, client_ca=ROOT.pem, crl=ROOT.revocation_list(ends=DAY)).warnings) == ["tls.crl"]
    found = look_at(good, client_ca=ROOT.pem, crl=ROOT.revocation_list(revoked, ends=-DAY))
    assert keys(found.lapsed) == ["tls.crl"]
    for content in (b"", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", ROOT.pem):
        assert keys(look_at(good, client_ca=ROOT.pem, crl=content).errors) == ["tls.crl"]


def test_the_first_of_several_revocation_lists_is_due(tmp_path: Path) -> None:
    path = tmp_path / "crl"
    path.write_bytes(ROOT.revocation_list(ends=9 * DAY) + ISSUING.revocation_list(ends=2 * DAY))
    assert revocation_due(path) == pytest.approx(time.time() + 2 * 86400, abs=60)


@given(data=st.data())
def test_damaged_revocation_lists_are_no_crash(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    der = bytearray(x509.load_pem_x509_crl(CRL).public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    armoured = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "X509 CRL")
    path = tmp_path_factory.getbasetemp() / "damaged.crl"
    path.write_text(armoured)
    with contextlib.suppress(OSError, ValueError):
        revocation_due(path)


def test_dates_are_those_of_the_certificate(tmp_path: Path) -> None:
    for kind in ("ec", "rsa"):
        made = ISSUING.issue("CT, room 1", ["ct1.example.org"], kind=kind)
        found = server_certificate(*made.write(tmp_path, kind))
        assert found.not_after == made.not_after
        assert found.subject == "CN=CT, room 1"
        assert found.issuer == "CN=Test Issuing Authority"


def test_a_lapsed_certificate_keeps_a_reload_but_no_start_from_happening(tmp_path: Path) -> None:
    served, key = ISSUING.issue("a", begins=-3 * DAY, ends=-DAY).write(tmp_path, "served")
    file = tmp_path / "c.toml"
    file.write_text(
        f'listen = [{{name = "a", address = "127.0.0.1:0", tls = true}}]\nstorage.root = "{tmp_path}"\n'
        f'[tls]\ncertificate = "{served}"\nkey = "{key}"\n'
    )
    assert keys(list(examine(file).errors)) == ["tls.certificate"]
    starting = examine(file, starting=True)
    assert starting.config is not None
    assert "tls.certificate" in keys(list(starting.warnings))
