"""Says what an operator can do about an instance that was refused: for its log line, and for the last refusals."""

from __future__ import annotations

from typing import Final

from dicomd.lacks import Lack
from dicomd.layouts import UNFILED
from dicomd.services.storage import StoreOperation
from dicomd.statuses import Status
from dicomd.tags import SOP_CLASS_UID

_SPACE: Final = {
    Lack.SPACE: "make room on the store's file system: `df -h` and `df -i` show whether space or inodes are used up",
    Lack.INODES: "the inodes of the store's file system are used up (`df -i`): remove files, or enlarge it",
    Lack.QUOTA: "the quota of dicomd's user on the store's file system is used up (`quota`): raise it, or remove files",
    Lack.RESERVE: "make room on the store's file system (`df -h`), or lower storage.reserve_free",
    Lack.FILE_SIZE: "the store's file system can't hold a file of this size: use another one",
}
_ANOTHER_FILE_SYSTEM: Final = (
    "the whole store has to be one file system: move what is mounted there, or what a symbolic link leads to, into the "
    "store's own file system or out of the store"
)
KEPT_UNFILED: Final = (
    "this file may be the only copy now: find out what is wrong with it, send or file it corrected, and report it to "
    "the sender's vendor"
)
"""What to do about an instance that was kept unfiled."""
_UNFILED_FULL: Final = "the folder unfiled in the store is full: look at what is in it, and move it elsewhere"
_TOO_LARGE: Final = "raise storage.max_object_size if such objects are expected"


def advice(status: Status, operation: StoreOperation, rule: str) -> str:
    """Return what to do about an instance that was answered with `status`, "" if the line has nothing to add.

    `rule` is the rule of [[peers]] that the requestor matched.
    """
    error = operation.error
    if status == Status.NOT_AUTHORIZED:
        return may_not("store", rule)
    if error is None:
        return ""
    if status == Status.DATA_SET_MISMATCH:
        of_class = error.element == SOP_CLASS_UID
        name = "SOP Class UID" if of_class else "SOP Instance UID"
        said = operation.identity.sop_class_uid if of_class else operation.identity.sop_instance_uid
        found = error.found or "no valid UID"
        return f"the {name} in the Data Set is {found}, in the command {said}: report it to the sender's vendor"
    if error.lack is not None:
        return _SPACE[error.lack]
    if status == Status.OBJECT_TOO_LARGE:
        return _TOO_LARGE
    if error.operation == UNFILED:  # its folder is full
        return _UNFILED_FULL
    return _ANOTHER_FILE_SYSTEM if error.errno == "EXDEV" else ""


def may_not(right: str, rule: str) -> str:
    """Return how to let a peer do what its rule doesn't allow."""
    return f'the peer may not {right}: add "{right}" to {rule}.allow'
