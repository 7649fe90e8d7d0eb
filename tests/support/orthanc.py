"""Orthanc as a sender: a server of its own that is given files over HTTP, and told to send them to a receiver."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import senders
from tests.support.daemon import free_port
from tests.support.waiting import wait_until


class Orthanc:
    """A running Orthanc with an empty store in `folder`. A context manager that ends it.

    `options` are those of its configuration file.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "orthanc.log"
        self._config = folder / "orthanc.json"
        own = {
            "Name": "sender",
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "Plugins": [],
            "DicomServerEnabled": False,
            "HttpPort": self._port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageCompression": False,
            "OverwriteInstances": True,
        }
        self._config.write_text(json.dumps(own | options))

    def __enter__(self) -> Self:
        program = senders.program("Orthanc")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_until(self._answers, senders.DEADLINE, what="Orthanc doesn't answer", pause=0.05)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def send(self, host: str, port: int, files: Sequence[Path], *, transcode: bool) -> dict[str, Any]:
        """Take the files in, and send each over an Association of its own; return Orthanc's answers by file name.

        `transcode` says whether it may change the Transfer Syntax if the receiver doesn't take that of the file.
        """
        modality = {"AET": "DICOMD", "Host": host, "Port": port, "AllowTranscoding": transcode}
        self._ask("PUT", "/modalities/receiver", json.dumps(modality).encode())
        answers = {}
        for file in files:
            taken = self._ask("POST", "/instances", file.read_bytes())
            if "ID" not in taken:
                answers[file.name] = taken
                continue
            order = {"Resources": [taken["ID"]], "Synchronous": True, "LocalAet": "ORTHANC"}
            answers[file.name] = self._ask("POST", "/modalities/receiver/store", json.dumps(order).encode())
        return answers

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        try:
            return "Version" in self._ask("GET", "/system")
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=senders.DEADLINE) as answer:  # noqa: S310 - its own http: URL
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
        answered: dict[str, Any] = json.loads(text or b"{}")
        return answered

    def _end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(senders.DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
