"""Reports that wanted checksums can't be recorded, at the start and whenever that changes."""

from __future__ import annotations

from dicomd.store.checksum import NOT_SUPPORTED
from dicomd.store.filesystem import FileStore
from dicomd.telemetry.logs import get_logger


def warn_of_checksums(store: FileStore) -> None:
    """Log why the store records no checksums, if it should."""
    if not store.no_checksums:
        return
    if store.no_checksums in NOT_SUPPORTED:
        event, mend = (
            "no checksums are recorded: the file system doesn't support extended attributes",
            "mount it with them",
        )
    else:
        event, mend = "no checksums are recorded: extended attributes can't be written", "find out why (setfattr(1))"
    get_logger().warning(
        event,
        root=str(store.root),
        errno=store.no_checksums,
        advice=f"Instances are stored without checksums. If that isn't intended, {mend}; otherwise set "
        "storage.checksums = false. dicomd tries again every ten seconds",
    )


class ChecksumWatch:
    """Notices when checksums can no longer be recorded, or can be again."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._before = store.no_checksums

    def look(self, *, log: bool) -> None:
        """Compare with the last look, and log a change if `log`: one worker does it for all."""
        before, self._before = self._before, self._store.no_checksums
        if not log or before == self._before:
            return
        if self._before:
            warn_of_checksums(self._store)
        else:
            get_logger().info("checksums are recorded again", root=str(self._store.root))
