"""Makes a throw-away CA and server certificate for the workloads over TLS, with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError


@dataclass(frozen=True)
class Certificates:
    """PEM files: the CA that requestors trust, and the receiver's certificate and key."""

    ca: Path
    certificate: Path
    key: Path


def make(folder: Path) -> Certificates:
    """Make them in `folder`, valid for two days and for 127.0.0.1. Raises BenchError if openssl is missing or fails."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key = folder / "ca.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    new = ["openssl", "req", "-x509", *kind]
    authority = [*new, "-subj", "/CN=bench CA", "-addext", "keyUsage=critical,keyCertSign"]
    server = [
        *(*new, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-CA", str(made.ca), "-CAkey", str(ca_key)),
    ]
    for words, certificate, key in ((authority, made.ca, ca_key), (server, made.certificate, made.key)):
        try:
            subprocess.run(
                [*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError) as error:
            output = error.stderr if isinstance(error, subprocess.CalledProcessError) else b""
            detail = output.decode(errors="replace") or error
            raise BenchError(f"openssl could not make a certificate: {detail}") from error
    return made
