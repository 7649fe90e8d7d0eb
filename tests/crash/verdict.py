"""Judges a store after a crash: is every acknowledged instance there, and is every file complete?

Every file is read to its end and compared with what was sent; neither its name nor its size is relied on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.senders import digest
from tests.support.part10 import read_part10


@dataclass
class Verdict:
    """The findings, as SOP Instance UIDs and paths."""

    whole: dict[str, Path] = field(default_factory=dict)
    """Complete instances, identical to what was sent."""
    lost: list[str] = field(default_factory=list)
    """Acknowledged instances that are missing."""
    partial: list[Path] = field(default_factory=list)
    """Files under a final name that differ from what was sent, or are no instance at all."""
    twice: list[Path] = field(default_factory=list)
    """Files with an instance that another file also contains."""

    @property
    def broken(self) -> bool:
        """Whether the store has broken the promise."""
        return bool(self.lost or self.partial or self.twice)


def judge(root: Path, sent: Mapping[str, bytes], acknowledged: Mapping[str, bytes]) -> Verdict:
    """Read every file of the store outside .dicomd. Senders may continue if `acknowledged` was taken beforehand."""
    verdict = Verdict()
    for path in sorted(root.rglob("*")):
        if ".dicomd" in path.relative_to(root).parts or path.is_dir():
            continue
        try:
            file = read_part10(path)
            uid = file.sop_instance_uid
            complete = path.suffix == ".dcm" and sent.get(uid) == digest(file.data_set)
        except FileNotFoundError:  # just taken back by the daemon
            continue
        except (ValueError, KeyError, IndexError):
            complete, uid = False, ""
        if not complete:
            verdict.partial.append(path)
        elif uid in verdict.whole:
            verdict.twice.append(path)
        else:
            verdict.whole[uid] = path
    verdict.lost = [uid for uid in acknowledged if uid not in verdict.whole]
    return verdict


@dataclass
class Found:
    """Contents of several folders: (SOP Instance UID, digest) → the latest time it can have been published there."""

    whole: dict[tuple[str, bytes], float] = field(default_factory=dict)
    partial: list[Path] = field(default_factory=list)


def find(folders: Iterable[Path], known: set[tuple[str, bytes]], moved: Mapping[Path, float]) -> Found:
    """Read every file of some folders outside .dicomd; `moved` maps files or folders to when they were moved there."""
    found = Found()
    for path in (Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names):
        if ".dicomd" in path.parts:
            continue
        try:
            file = read_part10(path)
            key = file.sop_instance_uid, digest(file.data_set)
        except (ValueError, KeyError, IndexError):
            key = "", b""
        if key not in known or path.suffix != ".dcm":
            found.partial.append(path)
            continue
        at = next((moved[place] for place in (path, *path.parents) if place in moved), math.inf)
        found.whole[key] = max(at, found.whole.get(key, -math.inf))
    return found


def temporary_files(root: Path) -> set[Path]:
    """The files in the folder for temporary files."""
    return set((root / ".dicomd" / "tmp").iterdir())
