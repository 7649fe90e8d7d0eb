"""Runs rsyslog as a hospital does: a syslog server over TLS that writes the messages it receives to a file.

No syslog server is imitated: if rsyslog or its TLS module isn't installed, the tests are skipped.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.certificates import Certificate
from tests.support.daemon import free_port
from tests.support.waiting import wait_until

_DEADLINE = 30.0
_MODULES = ("/usr/lib/x86_64-linux-gnu/rsyslog", "/usr/lib/aarch64-linux-gnu/rsyslog")


class SyslogServer:
    """Listens on `port` of 127.0.0.1 once started. A context manager that ends it."""

    def __init__(self, folder: Path, certificate: Certificate, ca: Path) -> None:
        if not Path("/usr/sbin/rsyslogd").exists():
            pytest.skip("rsyslogd is not installed (Debian package rsyslog)")
        if not any(Path(modules, "lmnsd_ossl.so").exists() for modules in _MODULES):
            pytest.skip("rsyslog's TLS module is not installed (Debian package rsyslog-openssl)")
        self.port = free_port()
        self._folder, self._file = folder, folder / "messages.json"
        chain, key = certificate.write(folder, "syslog")
        self._config = folder / "rsyslog.conf"
        self._config.write_text(
            f"""
global(
    workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="ossl"
    defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{chain}" defaultNetstreamDriverKeyFile="{key}"
)
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" port="{self.port}" address="127.0.0.1")
template(name="fields" type="list" option.jsonf="on") {{
    property(outname="facility" name="syslogfacility" format="jsonf")
    property(outname="severity" name="syslogseverity" format="jsonf")
    property(outname="protocol" name="protocol-version" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="application" name="app-name" format="jsonf")
    property(outname="process" name="procid" format="jsonf")
    property(outname="kind" name="msgid" format="jsonf")
    property(outname="text" name="msg" format="jsonf")
}}
action(type="omfile" file="{self._file}" template="fields")
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or restart it after `stop`."""
        self._process = subprocess.Popen(
            ["/usr/sbin/rsyslogd", "-n", "-f", str(self._config), "-i", str(self._folder / "rsyslog.pid")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> None:
        """Stop the server."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None

    def messages(self) -> list[dict[str, Any]]:
        """The messages received so far, in order."""
        if not self._file.exists():
            return []
        return [json.loads(line) for line in self._file.read_text().splitlines() if line.endswith("}")]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until at least `count` messages have been received, and return them."""

        def received() -> list[dict[str, Any]]:
            assert self._process is None or self._process.poll() is None, "rsyslogd has ended"
            return self.messages()

        return wait_until(
            received,
            2 * _DEADLINE,
            until=lambda messages: len(messages) >= count,
            what=f"fewer than {count} messages were received",
        )
