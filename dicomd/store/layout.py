"""Derives an instance's path from the UIDs in its Data Set, by the configured layout (`dicomd.layouts`).

Invariant: nothing that was received becomes part of a path unless it is a UID, that is, digits separated by single
dots. So no value can escape from the root, name a hidden file, or name another instance's file.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dicomd.layouts import PLACEHOLDERS, SUFFIX, placeholders
from dicomd.tags import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID

ELEMENTS: Final = dict(zip(PLACEHOLDERS, (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID), strict=True))
"""The tag, 0xGGGGEEEE, of the element that each placeholder stands for."""


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
    """A layout, checked and compiled. Raises `LayoutError`.

    ``elements`` are the tags (0xGGGGEEEE) that a path needs.
    """

    __slots__ = ("_directory", "_name", "elements", "template")

    def __init__(self, template: str) -> None:
        self.template: str = template
        self.elements: frozenset[int] = frozenset(ELEMENTS[name] for name in placeholders(template))
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
