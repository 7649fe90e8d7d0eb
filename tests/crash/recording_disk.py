"""A disk that records: a FUSE file whose writes and flushes are logged in order, as by dm-log-writes.

    python -m tests.crash.recording_disk MOUNTPOINT IMAGE LOG POSITION

It shows IMAGE as MOUNTPOINT/disk. A loop device on it passes each write on at once and turns each flush of the file
system above (REQ_OP_FLUSH, and the flush that FUA implies) into an fsync.

Invariant: requests are handled one at a time, and each is in LOG and counted in POSITION before the kernel learns that
it is complete.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

import mfusepy

from tests.crash.disk_log import DISK, FLUSH, Position, record


class RecordingDisk(mfusepy.Operations):  # type: ignore[misc]
    """The file system, which contains only the disk."""

    use_ns = True

    def __init__(self, image: Path, log: Path, position: Path) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._position = Position(position)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != f"/{DISK}":
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self._image).st_size}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", DISK]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        os.pwrite(self._image, data, offset)
        self._record(offset, data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._record(FLUSH, b"")
        return 0

    def _record(self, offset: int, data: bytes) -> None:
        os.write(self._log, record(offset, data))
        self._position.advance()


if __name__ == "__main__":
    mountpoint, *paths = (Path(argument) for argument in sys.argv[1:])
    mfusepy.FUSE(RecordingDisk(*paths), str(mountpoint), foreground=True, nothreads=True, fsname="dicomd-test")
