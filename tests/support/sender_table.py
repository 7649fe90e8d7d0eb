"""What senders written by others make of one assortment of objects: the table in docs/senders.md. After a change, run:

.venv/bin/python -m tests.support.sender_table

which runs all senders against a daemon; a sender that isn't installed keeps its row.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pynetdicom
import pytest

import dicomd
from tests.support import senders
from tests.support.assortment import KINDS, PRIVATE_CLASS, Item, differing_elements, is_compressed, make_assortment
from tests.support.comparison import assert_stored_as_sent
from tests.support.daemon import Daemon
from tests.support.orthanc import Orthanc
from tests.support.page_tables import documented, rewrite
from tests.support.part10 import StoredFile, split_part10
from tests.support.relay import Relay
from tests.support.wire import Conversation, uid

TABLE = "senders"
CONFIGURATION = {"contexts": {"sop_classes": ["all-storage", PRIVATE_CLASS]}}

IDENTICAL, REENCODED, CONVERTED, ALTERED, NOT_SENT = "=", "≈", "→", "≠", "-"

Send = Callable[[str, int, list[Path]], object]


@dataclass(frozen=True)
class Sender:
    """A sender with the options of one row; `send` sends the files to a host and port, as far as it can."""

    title: str
    calling: str
    version: Callable[[], str]
    send: Send


def _dcmtk(name: str, *options: str) -> Send:
    return lambda host, port, files: senders.run(senders.program(name), *options, host, port, *files)


def _profile(host: str, port: int, files: list[Path]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as profile:
        profile.write(association_profile())
        profile.flush()
        options = ("-nh", "-xf", profile.name, "Everything")
        senders.run(senders.program("storescu"), *options, host, port, *files)


def _each(send: Callable[..., object]) -> Send:
    """One run for each file, for a sender that ends at the first file that it doesn't understand."""

    def one_by_one(host: str, port: int, files: list[Path]) -> None:
        for file in files:
            send(host, port, file)

    return one_by_one


def _gdcmscu(host: str, port: int, files: list[Path]) -> None:
    senders.gdcmscu(host, port, "--store", "--call", "DICOMD", "--aetitle", "GDCM", "-i", files[0].parent)


def _orthanc(*, transcode: bool, **options: object) -> Send:
    def send(host: str, port: int, files: list[Path]) -> None:
        with tempfile.TemporaryDirectory() as folder, Orthanc(Path(folder), **options) as orthanc:
            orthanc.send(host, port, files, transcode=transcode)

    return send


def _version_of(name: str) -> Callable[[], str]:
    def version() -> str:
        return re.findall(r"\d+(?:\.\d+)+", senders.run(senders.program(name), "--version").output)[0]

    return version


def _debian_version(package: str, name: str) -> Callable[[], str]:
    def version() -> str:
        senders.program(name)
        shown = senders.run("dpkg-query", "-W", "-f", "${Version}", package).output
        found = re.match(r"(?:\d+:)?([\d.]+)", shown)
        if found is None:
            pytest.skip(f"Debian's package {package} is not installed")
        return found[1]

    return version


def _dcmjs_version() -> str:
    package = senders.dcmjs_folder() / "node_modules/dcmjs-dimse/package.json"
    return re.findall(r'"version": "([^"]+)"', package.read_text())[0]


SENDERS = (
    Sender(
        "pynetdicom `storescu -cx`",
        "STORESCU",
        lambda: pynetdicom.__version__,
        lambda host, port, files: senders.pynetdicom("storescu", host, port, *files, "-cx"),
    ),
    Sender(
        "`dicomd send`",
        "DICOMD",
        lambda: dicomd.__version__,
        lambda host, port, files: senders.dicomd("send", host, port, *files),
    ),
    Sender("DCMTK `storescu -R -nh`", "STORESCU", _version_of("storescu"), _dcmtk("storescu", "-R", "-nh")),
    Sender(
        "DCMTK `storescu +C -R -nh -xr`",
        "STORESCU",
        _version_of("storescu"),
        _dcmtk("storescu", "+C", "-R", "-nh", "-xr"),
    ),
    Sender(
        "DCMTK `storescu -nh -xf` (a context for each Transfer Syntax)", "STORESCU", _version_of("storescu"), _profile
    ),
    Sender("DCMTK `dcmsend -nh` (`+dls`)", "DCMSEND", _version_of("dcmsend"), _dcmtk("dcmsend", "-nh")),
    Sender("DCMTK `dcmsend -nh -dn`", "DCMSEND", _version_of("dcmsend"), _dcmtk("dcmsend", "-nh", "-dn")),
    Sender("DCMTK `dcmsend -nh +dly`", "DCMSEND", _version_of("dcmsend"), _dcmtk("dcmsend", "-nh", "+dly")),
    Sender("GDCM `gdcmscu --store`", "GDCM", _version_of("gdcmscu"), _gdcmscu),
    Sender("odil `store`", "ODIL", _debian_version("odil", "odil"), _each(senders.odil)),
    Sender(
        "PixelMed `StorageSOPClassSCU`",
        "PIXELMED",
        _debian_version("libpixelmed-java", "java"),
        _each(senders.pixelmed),
    ),
    Sender("CTN `send_image`", "CTN", _debian_version("ctn", "send_image"), _each(senders.send_image)),
    Sender(
        "dcmjs-dimse",
        "DCMJS",
        _dcmjs_version,
        lambda host, port, files: senders.dcmjs_dimse(host, port, "--each", *files),
    ),
    Sender("Orthanc, may transcode", "ORTHANC", _version_of("Orthanc"), _orthanc(transcode=True)),
    Sender(
        "Orthanc, may not transcode, prefers implicit VR",
        "ORTHANC",
        _version_of("Orthanc"),
        _orthanc(transcode=False, DicomScuPreferredTransferSyntax="1.2.840.10008.1.2", DicomThreadsCount=8),
    ),
)


def association_profile() -> str:
    """An Association profile of DCMTK's with a Presentation Context for each Transfer Syntax of each SOP Class."""
    syntaxes = {
        "Explicit": "LittleEndianExplicit",
        "Implicit": "LittleEndianImplicit",
        "Big": "BigEndianExplicit",
        "Deflated": "1.2.840.10008.1.2.1.99",
        "Baseline": "JPEGBaseline",
        "Extended": "1.2.840.10008.1.2.4.51",
        "J2K": "JPEG2000",
        "JLS": "JPEGLSLossless",
        "RLE": "RLELossless",
    }
    classes = {
        "1.2.840.10008.5.1.4.1.1.2": ("Explicit", "Implicit"),
        "1.2.840.10008.5.1.4.1.1.4": ("Explicit", "JLS"),
        "1.2.840.10008.5.1.4.1.1.7": ("Explicit", "Deflated", "Baseline", "Extended", "J2K", "RLE"),
        "1.2.840.10008.5.1.4.1.1.6.1": ("Explicit", "Big"),
        "1.2.840.10008.5.1.4.1.1.3.1": ("Explicit", "Baseline"),
        "1.2.840.10008.5.1.4.1.1.481.2": ("Implicit",),
        "1.2.840.10008.5.1.4.1.1.66.4": ("Explicit",),
        "1.2.840.10008.5.1.4.1.1.88.33": ("Explicit",),
        "1.2.840.10008.5.1.4.1.1.9.1.1": ("Explicit",),
        PRIVATE_CLASS: ("Explicit",),
    }
    lines = ["[[TransferSyntaxes]]"]
    for name, syntax in syntaxes.items():
        lines += [f"[{name}]", f"TransferSyntax1 = {syntax}"]
    pairs = [f"{sop_class}\\{name}" for sop_class, names in classes.items() for name in names]
    lines += ["[[PresentationContexts]]", "[Contexts]"]
    lines += [f"PresentationContext{number} = {pair}" for number, pair in enumerate(pairs, start=1)]
    lines += ["[[Profiles]]", "[Everything]", "PresentationContexts = Contexts"]
    return "\n".join(lines) + "\n"


def measured(sender: Sender, receiver: Daemon, items: list[Item]) -> list[str]:
    """Run the sender and return its row: title, version, and a cell for each kind.

    Asserts that whatever it sent is stored as sent, or refused with 0xA900 or 0xC000. Skips if it isn't installed.
    """
    version = sender.version()
    receiver.empty()
    with Relay(receiver.address) as relay:
        sender.send(*relay.address, [item.path for item in items])
        talks = relay.conversations()
    files = assert_stored_as_sent(receiver, talks, calling=sender.calling, refusals={0xA900, 0xC000})
    stored = {file.sop_instance_uid: file for file in files}
    refused = _refused(talks)
    return [
        sender.title,
        version,
        *(_cell(item, stored.get(item.instance.sop_instance_uid), refused) for item in items),
    ]


def _refused(talks: list[Conversation]) -> dict[str, int]:
    """The statuses of refused instances, by the SOP Instance UID of the command."""
    return {
        request.sop_instance_uid: response.status
        for talk in talks
        for request, response in zip(talk.requests, talk.responses, strict=True)
        if response.status
    }


def _cell(item: Item, stored: StoredFile | None, refused: dict[str, int]) -> str:
    if stored is None:
        in_file_meta = uid(split_part10(item.path.read_bytes())[1][0x00020003])
        status = refused.get(item.instance.sop_instance_uid) or refused.get(in_file_meta)
        return f"{status:04X}" if status else NOT_SENT
    syntaxes = (item.instance.transfer_syntax, stored.transfer_syntax)
    if stored.data_set == item.instance.data_set and len(set(syntaxes)) == 1:
        return IDENTICAL
    if len(set(syntaxes)) > 1 and any(map(is_compressed, syntaxes)):
        return CONVERTED
    return ALTERED if differing_elements(item.path, stored.path) else REENCODED


def _main() -> None:
    old, new = documented(TABLE), []
    with tempfile.TemporaryDirectory() as folder:
        (files := Path(folder) / "assortment").mkdir()
        (place := Path(folder) / "dicomd").mkdir()
        items = make_assortment(files)
        with Daemon(place, CONFIGURATION) as receiver:
            for sender in SENDERS:
                try:
                    new.append(measured(sender, receiver, items))
                except pytest.skip.Exception as reason:
                    sys.stderr.write(f"{sender.title}: {reason}\n")
                    new.append(old.get(sender.title, [sender.title, "not run"]))
    rewrite(TABLE, ("sender", "version", *KINDS), new)


if __name__ == "__main__":
    _main()
