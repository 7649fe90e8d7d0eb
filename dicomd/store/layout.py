"""The layout: derives an instance's path from the UIDs in its Data Set.

Invariant: nothing that was received becomes part of a path unless it is a UID, that is, digits separated by single
dots. So no value can escape from the root, name a hidden file, or name another instance's file.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dicomd.store.tags import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from dicomd.uids import MAX_UID_LENGTH

PLACEHOLDERS: Final[dict[str, int]] = {
    "StudyInstanceUID": STUDY_INSTANCE_UID,
    "SeriesInstanceUID": SERIES_INSTANCE_UID,
    "SOPInstanceUID": SOP_INSTANCE_UID,
}

SUFFIX: Final = ".dcm"

# NAME_MAX of Linux file systems, with room for the number of another Data Set under the same UID.
_LONGEST_COMPONENT: Final = 255 - 24
_PIECE: Final = re.compile(r"\{([^{}]*)\}|[^{}]+|[{}]")


class Place(NamedTuple):
    """Where an instance belongs: ``directory`` relative to the root ("" for the root itself), and ``name`` in it."""

    directory: str
    name: str

    @property
    def path(self) -> str:
        """The same as one path, relative to the root."""
        return f"{self.directory}/{self.name}" if self.directory else self.name


def numbered(name: str, number: int) -> str:
    """Return the name of Data Set ``number`` under one UID, ``name`` itself for the first, number 0."""
    return f"{name.removesuffix(SUFFIX)}_{number}{SUFFIX}" if number else name


class Layout:
    """A layout template, checked and compiled. Raises ValueError for an invalid one, saying what would be right.

    ``elements`` are the tags (0xGGGGEEEE) that a path needs.
    """

    __slots__ = ("_directory", "_name", "elements", "template")

    def __init__(self, template: str) -> None:
        used = check_template(template)
        self.template: str = template
        self.elements: frozenset[int] = frozenset(PLACEHOLDERS[name] for name in used)
        positional = template
        for index, name in enumerate(PLACEHOLDERS):
            positional = positional.replace(f"{{{name}}}", f"{{{index}}}")
        directory, _, name = positional.rpartition("/")
        self._directory = directory.format
        self._name = name.format

    def place(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Place:
        """Return the place of an instance. The UIDs have passed ``uid_from_value``; one that isn't needed may be ""."""
        return Place(
            self._directory(study_instance_uid, series_instance_uid, sop_instance_uid),
            self._name(study_instance_uid, series_instance_uid, sop_instance_uid),
        )


def check_template(template: str) -> list[str]:
    """Return the placeholders of a layout template in order. Raises ValueError for an invalid template.

    A layout ends in ".dcm", stays below the root, and has no component that starts with a dot (``.dicomd`` is the
    store's own). It is unambiguous: instances with different UIDs never share a path, so it contains {SOPInstanceUID},
    and two UIDs in one component have a character between them that can't be part of a UID.
    """
    if not template.endswith(SUFFIX):
        raise ValueError(f"a layout must end in {SUFFIX}")
    if "{SOPInstanceUID}" not in template:
        raise ValueError("a layout must contain {SOPInstanceUID}")
    return [name for component in template.split("/") for name in _placeholders(component)]


def _placeholders(component: str) -> list[str]:
    if not component:
        raise ValueError("a layout must be a relative path without empty components")
    if component.startswith("."):
        raise ValueError("no component of a layout may start with a dot")
    used: list[str] = []
    length = 0
    between: str | None = None  # the text since the last placeholder of this component
    for piece in _PIECE.finditer(component):
        name = piece[1]
        if name is None:
            text = piece[0]
            if text in {"{", "}"} or "\\" in text or not text.isprintable():
                raise ValueError(f"{text!r} is not allowed in a layout")
            length += len(text.encode())
            between = None if between is None else between + text
            continue
        if name not in PLACEHOLDERS:
            raise ValueError(f"{{{name}}} is not one of " + ", ".join(f"{{{known}}}" for known in PLACEHOLDERS))
        if between is not None and not between.strip("0123456789."):
            raise ValueError("two UIDs in one component need a character between them that can't be part of a UID")
        used.append(name)
        length += MAX_UID_LENGTH
        between = ""
    if length > _LONGEST_COMPONENT:
        raise ValueError(f"a component of a layout must never exceed {_LONGEST_COMPONENT} bytes")
    return used
