"""A start that fails says what the operating system said, where, and what to do."""

import errno
import os

import pytest

from dicomd.store.errors import StoreUnavailable, from_oserror
from dicomd.supervisor.errors import unusable


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "write access"),
        (errno.EPERM, "write access"),
        (errno.EROFS, "for writing"),
        (errno.ENOENT, "make the folder"),
        (errno.ENOTDIR, "instead of a folder"),
        (errno.ELOOP, "symbolic links"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ENOSPC, "Make room"),
        (errno.EDQUOT, "Make room"),
        (errno.EIO, "Check the disk"),
        (errno.ENOLCK, "flock"),
        (errno.ESTALE, "Mount it again"),
        (errno.ENOTCONN, "Mount it again"),
        (errno.ENXIO, "may write to"),
    ],
)
def test_errno_path_and_advice_are_named(number: int, advice: str) -> None:
    cause = OSError(number, os.strerror(number), "/srv/store/.dicomd")
    failure = from_oserror(cause, "open")
    failure.__cause__ = cause
    for error in (cause, failure):
        said = str(unusable("storage.root", "/srv/store", error))
        assert said.startswith("storage.root: /srv/store can't be used: ")
        assert f"{os.strerror(number)} ({errno.errorcode[number]}): /srv/store/.dicomd. " in said
        assert advice in said
        assert "Storage failed" not in said


def test_a_file_system_without_hard_links_needs_no_other_permissions() -> None:
    error = StoreUnavailable("Store needs a file system with hard links", operation="link", errno="EPERM")
    error.__cause__ = OSError(errno.EPERM, os.strerror(errno.EPERM), "/a", None, "/b")
    said = str(unusable("storage.root", "/srv/store", error))
    assert said == (
        "storage.root: /srv/store can't be used: Store needs a file system with hard links: Operation not permitted "
        "(EPERM): /a -> /b. Choose a folder on a file system with hard links"
    )


def test_what_the_operating_system_did_not_say() -> None:
    said = str(unusable("storage.root", "/srv/store", StoreUnavailable("Not mounted: /srv")))
    assert "can't be used: Not mounted: /srv. Mount its file system, or choose a folder" in said
