"""Records the corpus: what real senders send to the daemon, one file per connection (`python -m tests.fuzz.record`).

The bytes are the senders' own, recorded by the relay. Only small, made-up instances are sent, and the files of a sender
that isn't installed are left as they are.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.seeds import CORPUS
from tests.support import senders
from tests.support.daemon import Daemon
from tests.support.objects import MR_IMAGE_STORAGE, write_file
from tests.support.pydicom_files import sample
from tests.support.relay import Relay

Send = Callable[[str, int], senders.Run]
LONGEST = 32 * 1024
"""Maximum bytes of a recording, because mutations of long ones are mostly mutations of pixels."""


def conversations(folder: Path) -> dict[str, Send]:
    """The recordings to make: a name, and a function that sends to a host and port."""
    ct, mr = folder / "ct.dcm", folder / "mr.dcm"
    write_file(ct, size=64)
    write_file(mr, size=64, sop_class_uid=MR_IMAGE_STORAGE)

    def dcmtk(name: str, *options: str | int | Path) -> Send:
        def send(host: str, port: int) -> senders.Run:
            first = [option for option in options if not isinstance(option, Path)]
            files = [option for option in options if isinstance(option, Path)]
            return senders.run(senders.program(name), *first, host, port, *files)

        return send

    return {
        "dcmtk-echoscu": dcmtk("echoscu"),
        "dcmtk-echoscu-many-contexts": dcmtk("echoscu", "-ppc", 12, "-pts", 30),
        "dcmtk-echoscu-abort": dcmtk("echoscu", "--abort"),
        "dcmtk-storescu": dcmtk("storescu", "-R", ct, mr),
        "dcmtk-storescu-deflated": dcmtk("storescu", "-R", "-xd", ct),
        "dcmtk-storescu-implicit": dcmtk("storescu", "-R", "-xi", ct),
        "dcmtk-storescu-big-endian": dcmtk("storescu", "-R", "-xb", ct),
        "dcmtk-storescu-user-identity": dcmtk("storescu", "-R", "-usr", "nobody", "-pwd", "secret", ct),
        "dcmtk-storescu-structured-report": dcmtk("storescu", "-R", sample("reportsi.dcm")),
        "dcmtk-dcmsend": dcmtk("dcmsend", ct, mr),
        "gdcm-gdcmscu": lambda host, port: senders.gdcmscu(host, port, "--store", "-i", ct),
        "gdcm-gdcmscu-echo": lambda host, port: senders.gdcmscu(host, port, "--echo"),
        "dcmjs-dimse": lambda host, port: senders.dcmjs_dimse(host, port, ct, mr),
        "pynetdicom-storescu": lambda host, port: senders.pynetdicom("storescu", host, port, ct),
        "pynetdicom-storescu-needed-contexts": lambda host, port: senders.pynetdicom(
            "storescu", host, port, "-cx", ct, mr
        ),
        "pynetdicom-echoscu": lambda host, port: senders.pynetdicom("echoscu", host, port),
        "dicomd-send": lambda host, port: senders.dicomd("send", host, port, ct, sample("image_dfl.dcm")),
        "dicomd-send-compressed": lambda host, port: senders.dicomd("send", host, port, sample("MR_small_RLE.dcm")),
    }


def main() -> int:
    """Record everything; return 1 if a sender failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) as daemon:
        for name, send in conversations(Path(folder)).items():
            failed += not _record(name, send, daemon)
    return int(failed > 0)


def _record(name: str, send: Send, daemon: Daemon) -> bool:
    with Relay(daemon.address) as relay:
        try:
            done = send(*relay.address)
        except pytest.skip.Exception as absent:
            print(f"{name}: {absent}")
            return True
        recordings = relay.recordings()
    for number, recording in enumerate(recordings, 1):
        file = CORPUS / (f"{name}.bin" if len(recordings) == 1 else f"{name}-{number}.bin")
        stream = bytes(recording.requestor)
        if len(stream) <= LONGEST:
            file.write_bytes(stream)
        print(f"{file.name}: {len(stream)} bytes{'' if len(stream) <= LONGEST else ', too long to keep'}")
    if done.exit_status or not recordings:
        print(f"{name} failed: {done.output}")
    return not done.exit_status and bool(recordings)


if __name__ == "__main__":
    sys.exit(main())
