"""Derives an instance's path by the configured layout (`dicomd.layouts`).

Invariant: nothing that was received becomes part of a path unless it is a UID, that is, digits separated by single
dots, or was made safe by `store.path_values`. So no value can escape from the root, name a hidden file, or name another
instance's file.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NoReturn

from dicomd.layouts import PLACEHOLDERS, SUFFIX, UIDS, pieces, placeholders
from dicomd.store.errors import LayoutElementInvalid
from dicomd.store.path_values import PathValues
from dicomd.tags import MODALITY, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_DATE, STUDY_INSTANCE_UID

ELEMENTS: Final = dict(zip(UIDS, (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID), strict=True))
"""The tag, 0xGGGGEEEE, of the element that each placeholder stands for that must have a value."""
OPTIONAL_ELEMENTS: Final = {"Modality": MODALITY, "StudyDate": STUDY_DATE}
"""The same for those that may be absent."""
VALUES: Final = dict(
    zip(
        ("CalledAETitle", "CallingAETitle", "Peer", "Modality", "StudyDate", "ReceivedDate"),
        PathValues._fields,
        strict=True,
    )
)
"""The field of ``PathValues`` that each of the other placeholders stands for."""


class Place(NamedTuple):
    """Where an instance belongs: ``directory`` relative to the root ("" for the root itself), and ``name`` in it."""

    directory: str
    name: str

    @property
    def path(self) -> str:
        """The same as one path, relative to the root."""
        return f"{self.directory}/{self.name}" if self.directory else self.name

    def is_of(self, path: str) -> bool:
        """Whether this is the place of the file at ``path``, which may be any of the Data Sets under one UID."""
        return re.fullmatch(_any_number(re.escape(self.path.removesuffix(SUFFIX))), path) is not None


def refuse_uid(tag: int) -> NoReturn:
    """Raise the ``LayoutElementInvalid`` for an element (0xGGGGEEEE) that the path needs."""
    raise LayoutElementInvalid("A UID needed for the path is missing or invalid", element=tag)


def numbered(name: str, number: int) -> str:
    """Return the name of Data Set ``number`` under one UID, ``name`` itself for the first, number 0."""
    return f"{name.removesuffix(SUFFIX)}_{number}{SUFFIX}" if number else name


def _any_number(pattern: str) -> str:
    """Return the pattern for all that ``numbered`` makes of paths that match ``pattern`` before their suffix."""
    return rf"{pattern}(_[1-9]\d*)?{re.escape(SUFFIX)}"


class Layout:
    """A layout, checked and compiled. Raises `LayoutError`.

    ``elements`` are the tags (0xGGGGEEEE) that a path needs, ``optional_elements`` those that it is made of if they are
    there. ``has_values`` says whether it is made of anything but UIDs, ``has_date`` whether of the date of reception.
    """

    __slots__ = (
        "_directory",
        "_name",
        "elements",
        "has_date",
        "has_values",
        "optional_elements",
        "placeholders",
        "template",
    )

    def __init__(self, template: str) -> None:
        self.template: str = template
        self.placeholders: frozenset[str] = frozenset(placeholders(template))
        self.elements: frozenset[int] = frozenset(ELEMENTS[name] for name in self.placeholders & ELEMENTS.keys())
        self.optional_elements: frozenset[int] = frozenset(
            OPTIONAL_ELEMENTS[name] for name in self.placeholders & OPTIONAL_ELEMENTS.keys()
        )
        self.has_values: bool = not self.placeholders <= UIDS.keys()
        self.has_date: bool = "ReceivedDate" in self.placeholders
        fields = {name: str(index) for index, name in enumerate(UIDS)}
        fields |= {name: f"{len(UIDS)}.{field}" for name, field in VALUES.items()}
        formatted = "".join(text if name is None else f"{{{fields[name]}}}" for name, text in pieces(template))
        directory, _, name = formatted.rpartition("/")
        self._directory = directory.format
        self._name = name.format

    def place(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uid: str,
        values: PathValues | None = None,
    ) -> Place:
        """Return the place of an instance. The UIDs have passed ``uid_from_value``; one that isn't needed may be "".

        ``values`` are needed if the layout ``has_values``.
        """
        return Place(
            self._directory(study_instance_uid, series_instance_uid, sop_instance_uid, values),
            self._name(study_instance_uid, series_instance_uid, sop_instance_uid, values),
        )

    def values_in(self, path: str) -> dict[str, str]:
        """Return what stands for each placeholder in the path of a file, nothing if that isn't of this form.

        It may be the path of any of the Data Sets under one UID.
        """
        seen = set[str]()
        pattern = ""
        for name, text in pieces(self.template.removesuffix(SUFFIX)):
            if name is None:
                pattern += re.escape(text)
            elif name in seen:
                pattern += f"(?P={name})"
            else:
                seen.add(name)
                pattern += f"(?P<{name}>{PLACEHOLDERS[name].pattern})"
        found = re.fullmatch(_any_number(pattern), path)
        return {} if found is None else found.groupdict()
