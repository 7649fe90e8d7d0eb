"""Data Sets and identities for the tests of the store, encoded by hand so that every byte on the wire is visible."""

import gc
import struct
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import xxhash

from dicomd.store import checksum
from dicomd.store.filesystem import FileStore
from dicomd.store.layout import Layout
from dicomd.store.settings import StoreSettings
from dicomd.store.types import InstanceIdentity, Stored
from tests.support.encoding import element

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

LAYOUT = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"
STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.4", "1.2.3.4.5"

UNDEFINED = 0xFFFFFFFF

SETTINGS = StoreSettings(
    layout=Layout(LAYOUT),
    durability="fsync",
    duplicates="keep-both",
    reserve_free=0,
    max_object_size=1 << 30,
    checksums=True,
)


def item(number: int, length: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHI", 0xFFFE, number, length)


def head(
    sop_class: str | None = CT_IMAGE_STORAGE,
    instance: str | None = INSTANCE,
    study: str | None = STUDY,
    series: str | None = SERIES,
    syntax: str = EXPLICIT,
) -> bytes:
    uids = ((0x00080016, sop_class), (0x00080018, instance), (0x0020000D, study), (0x0020000E, series))
    return b"".join(element(tag, "UI", uid, syntax) for tag, uid in uids if uid is not None)


def data_set(instance: str = INSTANCE, pixels: bytes = b"\1\2\3\4", **others: Any) -> bytes:
    return head(instance=instance, **others) + element(0x7FE00010, "OW", pixels, others.get("syntax", EXPLICIT))


def identity(
    instance: str = INSTANCE, syntax: str = EXPLICIT, calling: str = "CT1", called: str = "DICOMD"
) -> InstanceIdentity:
    return InstanceIdentity(CT_IMAGE_STORAGE, instance, syntax, calling, called)


_made: list[FileStore] = []


def close_stores() -> None:
    """Close all that `file_store` has made."""
    while _made:
        _made.pop().close()


def file_store(root: Path, *, start: bool = True, layout: str = LAYOUT, **overrides: Any) -> FileStore:
    """A store at `root` with these settings instead of the usual ones, which is closed at the end of the test."""
    store = own_file_store(root, layout=layout, **overrides)
    _made.append(store)
    if start:
        store.start()
    return store


def own_file_store(root: Path, *, layout: str = LAYOUT, **overrides: Any) -> FileStore:
    """The same, but not started, and left for the caller to close."""
    return FileStore(root, replace(SETTINGS, layout=Layout(layout), **overrides))


def put(store: FileStore, data: bytes, who: InstanceIdentity | None = None, cuts: Sequence[int] = ()) -> Stored:
    """Store one Data Set, written in fragments cut at `cuts`."""
    writer = store.open(who or identity())
    view = memoryview(data)
    edges = [0, *cuts, len(data)]
    try:
        for start, stop in pairwise(edges):
            writer.write([view[start:stop]], stop - start)
        return writer.commit()
    finally:
        writer.release()


def recorded(path: Path) -> bytes | None:
    """The checksum recorded with the file, or None."""
    with path.open("rb") as file:
        return checksum.read(file.fileno())


def assert_summed(store: FileStore, stored: Stored) -> None:
    """The checksum matches the file's bytes, if the file system supports extended attributes."""
    if store.checksums:
        assert recorded(stored.path) == xxhash.xxh128_digest(stored.path.read_bytes())


def files(root: Path) -> list[str]:
    """Every file below the root, including temporary ones, but without the store's locks and sentinel."""
    own = root / ".dicomd"
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.is_dir() and path.parent != own / "locks" and path != own / "store"
    )


def folders(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() and ".dicomd" not in path.parts
    )


def open_descriptors() -> set[int]:
    """The open descriptors of this process, after collecting garbage that holds any."""
    gc.collect()
    return {int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.exists() or entry.is_symlink()}


def path_of(fd: int) -> Path:
    """The current path of the file or folder that is open as `fd`."""
    return Path(f"/proc/self/fd/{fd}").readlink()
