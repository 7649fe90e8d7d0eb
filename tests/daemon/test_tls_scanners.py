"""Scans a TLS listener with the tools that auditors use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.daemon.conftest import TLS_LISTENER, StartDaemon
from tests.support import senders
from tests.support.certificates import DAY, Pki

pytestmark = pytest.mark.system

# Caused by the test's certificate: its authority is not publicly trusted, and no revocations are published for it.
_OF_THE_TEST = frozenset(("cert_chain_of_trust", "cert_revocation"))
_HARMLESS = frozenset(("OK", "INFO", "LOW", "DEBUG"))
# sslscan does not support TLS 1.3's CCM; for TLS 1.2 it lists the suites that an ECDSA certificate allows.
_GCM_AND_CHACHA = {
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_CCM = {f"ECDHE-ECDSA-AES{bits}-{mode}" for bits in (128, 256) for mode in ("CCM", "CCM8")}
_TLS_1_3 = {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}


def scanned(pki: Pki, start_daemon: StartDaemon, profile: str) -> tuple[str, Any]:
    """Start a daemon with this profile; return HOST:PORT of its listener, and the daemon."""
    served, key = pki.root.issue("127.0.0.1", ["127.0.0.1"], ends=300 * DAY).write(pki.folder, f"scanned-{profile}")
    daemon = start_daemon(listen=[TLS_LISTENER], tls=pki.tls(certificate=served, key=key, profile=profile))
    return f"{daemon.host}:{daemon.port}", daemon


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_testssl_finds_nothing_above_low(start_daemon: StartDaemon, pki: Pki, tmp_path: Path) -> None:
    target, _ = scanned(pki, start_daemon, "bcp195")
    report = tmp_path / "report.json"
    checks = ("-p", "-s", "-f", "-P", "-S", "-R", "-C", "-B", "-I", "-F", "-Z", "-L", "-J", "-W", "-D")
    done = senders.run(
        *(senders.program("testssl"), "--quiet", "--color", "0", "--warnings", "batch", "--ip", "one"),
        *(*checks, "--jsonfile", report, target),
        deadline=850,
    )
    found = json.loads(report.read_text())
    severities = {finding["id"]: finding["severity"] for finding in found}
    assert "scanTime" in severities, done.output
    said = {finding["id"]: finding["finding"] for finding in found}
    assert {said[version] for version in ("TLS1", "TLS1_1", "SSLv2", "SSLv3")} == {"not offered"}
    assert severities["secure_client_renego"] == "OK"
    serious = [one for one in found if one["severity"] not in _HARMLESS and one["id"] not in _OF_THE_TEST]
    assert not [one for one in serious if one["id"] != "engine_problem"], serious  # of the scanner's own openssl


@pytest.mark.parametrize(
    ("profile", "suites"),
    [
        ("bcp195", _TLS_1_3 | _GCM_AND_CHACHA),
        ("modified-bcp195", _TLS_1_3 | _GCM_AND_CHACHA | _CCM),
        ("modern", _TLS_1_3),
    ],
)
def test_sslscan_finds_what_the_profile_says(
    start_daemon: StartDaemon, pki: Pki, tmp_path: Path, profile: str, suites: set[str]
) -> None:
    target, daemon = scanned(pki, start_daemon, profile)
    report = tmp_path / "report.xml"
    done = senders.run(senders.program("sslscan"), f"--xml={report}", target)
    assert done.exit_status == 0, done.output
    root = ET.parse(report).getroot()  # noqa: S314 - written by sslscan
    enabled = {f"{one.get('type')} {one.get('version')}" for one in root.iter("protocol") if one.get("enabled") == "1"}
    assert enabled == ({"tls 1.3"} if profile == "modern" else {"tls 1.2", "tls 1.3"})
    assert {one.get("cipher") for one in root.iter("cipher")} == suites
    assert [one.get("supported") for one in root.iter("renegotiation")] in (["0"], [])
    assert not [one for one in root.iter("heartbleed") if one.get("vulnerable") == "1"]
    assert daemon.logged("TLS handshake failed"), "the scanner's failed handshakes are not in the log"
