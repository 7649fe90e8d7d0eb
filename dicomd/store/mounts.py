"""Distinguishes a store whose mount is missing from one that is about to be made.

Invariant: an empty folder where a store has been is a missing mount, and nothing is made in it. Where stores have been
is recorded outside of them, in a file that a remount doesn't hide: one line for each store, with its name, a tab and
its root. A mount point at or above the root that /etc/fstab lists, but where nothing is mounted, is no place for a new
store either.

The root and the mount points are resolved first, since each may be a symbolic link. What is mounted is looked up in the
kernel's table, because a device number doesn't distinguish a bind mount from the file system that it is a part of.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dicomd.syncing import sync_folder

_FSTAB: Final = Path("/etc/fstab")
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-3][0-7]{2})")  # how fstab(5) and mountinfo write spaces and tabs in a path
_AUTOFS: Final = "autofs"
_BTRFS: Final = "btrfs"
_SUBVOLUME_INODE: Final = 256  # of the top folder of each subvolume (BTRFS_FIRST_FREE_OBJECTID)


def recall(record: Path, root: Path) -> bytes:
    """Return the name of the store that was at ``root``, b"" if none is recorded. Raises OSError."""
    known = _read(record)
    return known.get(str(root)) or known.get(os.path.realpath(root), b"")


def remember(record: Path, root: Path, name: bytes) -> None:
    """Record durably that the store of this name is at ``root``, and at its resolved path. Raises OSError."""
    before = _read(record)
    known = before | {str(root): name, os.path.realpath(root): name}
    if known == before:
        return
    draft = record.with_name(f"{record.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.writelines(b"%s\t%s\n" % (what, os.fsencode(where)) for where, what in known.items())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(record)
        sync_folder(record.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def missing_mount(root: Path, fstab: Path = _FSTAB) -> str:
    """Return the mount point at or above ``root`` that ``fstab`` lists but where nothing is mounted, "" if none.

    A listed mount point counts as missing if it is below the mount that ``root`` is on; one above that mount is not
    needed. If several are missing, the lowest is returned. Raises OSError if ``root`` can't be looked at.
    """
    try:
        lines = fstab.read_bytes().splitlines()
    except OSError:
        return ""  # containers have none
    place = Path(os.path.realpath(root))
    points = [point for point in _mount_points(lines) if place.is_relative_to(point)]
    mount = _mount_of(place) if points else None
    if mount is None:
        return ""
    missing = [point for point in points if point != mount.point and point.is_relative_to(mount.point)]
    return str(max(missing, key=lambda point: len(point.parts), default=""))


class _Mount(NamedTuple):
    """A line of mountinfo (proc_pid_mountinfo(5)): ``shown`` is the folder of the ``device`` that ``point`` shows."""

    parent: str
    device: str
    shown: Path
    point: Path
    kind: str


def _mount_points(fstab: list[bytes]) -> Iterator[Path]:
    for line in fstab:
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith(b"#"):
            continue
        point = _path(fields[1])
        if point.is_absolute() and point != _path(fields[0]):  # swap has none, and a bind to itself can't be missing
            yield Path(os.path.realpath(point))


def _mount_of(place: Path) -> _Mount | None:
    """Return the mount that shows what is, or would be, at ``place``; None if the kernel doesn't say."""
    number = _mount_id(place)  # first, as this may trigger an automount
    mounts = _mounts()
    mount = mounts.get(number)
    while mount is not None and (beneath := mounts.get(mount.parent)) is not None and _shows(beneath, mount):
        mount = beneath
    return mount


def _shows(beneath: _Mount, mount: _Mount) -> bool:
    """Return whether ``beneath`` would show the same without ``mount``, in which case ``mount`` doesn't count.

    An autofs mount stands in for a file system that is mounted on first access. If it is still on top after an access,
    that file system isn't mounted. And systemd mounts the folders that a service may write to (ReadWritePaths=) over
    themselves. A btrfs subvolume that is mounted where it lies in the subvolume above would be visible without its
    mount, too, but it does count, as a file system of its own: openSUSE lists those below ``/`` in fstab.
    """
    if beneath is mount:  # the first mount is its own parent, say on a system that runs from its initramfs
        return False
    if mount.kind == _AUTOFS:
        return True
    if mount.device != beneath.device or not mount.point.is_relative_to(beneath.point):
        return False
    if mount.shown != beneath.shown / mount.point.relative_to(beneath.point):
        return False
    return not (mount.kind == _BTRFS and _is_subvolume(mount.point))


def _is_subvolume(point: Path) -> bool:
    try:
        return point.stat().st_ino == _SUBVOLUME_INODE
    except OSError:
        return False


def _mount_id(place: Path) -> str:
    """Return the ID of the mount that ``place``, or the nearest existing folder above, is on; "" if unknown."""
    for folder in (place, *place.parents):  # "/." triggers automounts
        try:
            fd = os.open(f"{folder}/.", os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            status = Path(f"/proc/self/fdinfo/{fd}").read_text()
        except OSError:
            return ""
        finally:
            os.close(fd)
        found = re.search(r"^mnt_id:\s*(\d+)", status, re.MULTILINE)
        return found[1] if found else ""
    return ""


def _mounts() -> dict[str, _Mount]:
    try:
        lines = _MOUNTINFO.read_bytes().splitlines()
    except OSError:
        return {}
    mounts = {}
    for line in lines:
        fields, _, more = line.partition(b" - ")
        number, parent, device, shown, point, *_ = fields.split(b" ")
        kind = more.partition(b" ")[0]
        mounts[number.decode()] = _Mount(parent.decode(), device.decode(), _path(shown), _path(point), kind.decode())
    return mounts


def _path(field: bytes) -> Path:
    return Path(os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), field)))


def _read(record: Path) -> dict[str, bytes]:
    try:
        lines = record.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    known = {}
    for line in lines:
        name, _, root = line.partition(b"\t")
        known[os.fsdecode(root)] = name
    return known
