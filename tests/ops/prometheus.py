"""Runs a real Prometheus alongside a daemon, with the configuration and the rules of ops/.

It uses loopback, a free port and a temporary folder. Every wait has a deadline, and it is ended only through the
process held here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.ops.files import PROMETHEUS, RULES
from tests.support.daemon import free_port
from tests.support.waiting import T, wait_until

DEADLINE = 20.0
"""Seconds to wait for the next scrape or evaluation, which happen every second."""
_SCRAPED = "127.0.0.1:11113"

Sample = dict[str, Any]
"""`metric` contains its labels; `value` the time, and the value as text."""


class Prometheus:
    """Scrapes `target`, "host:port", and evaluates the rules every second."""

    def __init__(self, program: Path, folder: Path, target: str) -> None:
        config = (PROMETHEUS / "prometheus.yml").read_text()
        assert _SCRAPED in config
        for written, meant in ((_SCRAPED, target), ("interval: 15s", "interval: 1s"), ("timeout: 10s", "timeout: 1s")):
            config = config.replace(written, meant)
        self._config = folder / "prometheus.yml"
        self._config.write_text(config)
        shutil.copy(RULES, folder)
        self._program, self._folder, self._log = program, folder, folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def start(self) -> None:
        """Start Prometheus and wait until it answers. Raises AssertionError."""
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warn",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_until(self._ready, "ready")

    def stop(self) -> None:
        """Stop Prometheus, with SIGKILL if SIGTERM isn't enough."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[Sample]:
        """The samples of an instant query; a scalar counts as one. Raises AssertionError with Prometheus's message."""
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        result: list[Sample] = data["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The value of the only sample, or None if there is no sample."""
        samples = self.query(expression)
        return float(samples[0]["value"][1]) if len(samples) == 1 else None

    def rules(self) -> list[dict[str, Any]]:
        """The rules as Prometheus has read them."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def names(self) -> set[str]:
        """The names of all its series."""
        return set(self._get("label/__name__/values"))

    def labels(self, name: str) -> set[str]:
        """The labels that a metric's series have."""
        return {label for series in self._get("series", **{"match[]": name}) for label in series} - {"__name__"}

    def wait_until(self, condition: Callable[[], T], what: str) -> T:
        """Wait until a condition returns a true value, and return it. Raises AssertionError."""
        process = self._process
        assert process is not None

        def look() -> T:
            assert process.poll() is None, f"Prometheus ended\n{self._log.read_text()}"
            return condition()

        return wait_until(
            look,
            DEADLINE,
            what=f"Prometheus: not {what}",
            pause=0.1,
            failed=lambda message: AssertionError(f"{message}\n{self._log.read_text()}"),
        )

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=DEADLINE) as response:  # noqa: S310 - loopback
                return bool(response.status == 200)
        except OSError:
            return False

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self._url}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as response:  # noqa: S310 - loopback
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert answer["status"] == "success", answer
        return answer["data"]
