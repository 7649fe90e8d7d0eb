"""The grammar of a layout, such as "{StudyInstanceUID}/{SOPInstanceUID}.dcm": the path of an instance in the store.

A layout ends in ".dcm", stays below the root, and has no component that starts with a dot (`.dicomd` is the store's
own). Its first folder isn't `unfiled`, which has the instances that can't be filed. Invariant: it is unambiguous.
Instances with different UIDs never share a path, so it contains {SOPInstanceUID}, and two UIDs in one component have a
character between them that can't be part of a UID.
"""

from __future__ import annotations

import re
from typing import Final

from dicomd.formatting import shown
from dicomd.uids import MAX_UID_LENGTH

PLACEHOLDERS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
SUFFIX: Final = ".dcm"
UNFILED: Final = "unfiled"
"""The folder in the root that has the instances kept because of `storage.unfiled`."""
EXAMPLE: Final = '"{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"'

_REQUIRED: Final = "SOPInstanceUID"
# NAME_MAX of Linux file systems, with room for the number of another Data Set under the same UID.
_LONGEST_COMPONENT: Final = 255 - 24
_PIECE: Final = re.compile(r"\{([^{}]*)\}|[^{}]+|[{}]")


class LayoutError(ValueError):
    """The text is not a layout. `what` says what is wrong, `expected` what would be right."""

    def __init__(self, what: str, expected: str = EXAMPLE) -> None:
        super().__init__(f"{what} ({expected})")
        self.what = what
        self.expected = expected


def placeholders(layout: str) -> list[str]:
    """Return the placeholders in a layout, in order. Raises `LayoutError`."""
    if not layout.endswith(SUFFIX):
        raise LayoutError(f"{shown(layout)} does not end in {SUFFIX}")
    if layout.startswith("/"):
        raise LayoutError(f"{shown(layout)} is not a relative path", f"without the leading /: {EXAMPLE}")
    if layout.startswith(f"{UNFILED}/"):
        raise LayoutError(f"{shown(layout)} begins with {UNFILED}/, which is for instances that can't be filed")
    used = [name for component in layout.split("/") for name in _placeholders(component, layout)]
    if _REQUIRED not in used:
        raise LayoutError(f"{shown(layout)} lacks {{{_REQUIRED}}}")
    return used


def _placeholders(component: str, layout: str) -> list[str]:
    if not component:
        raise LayoutError(f"{shown(layout)} has an empty part")
    if component.startswith("."):
        raise LayoutError(f"{shown(layout)} has a part that starts with a dot")
    used: list[str] = []
    length = 0
    between: str | None = None  # the text since the last placeholder of this component
    for piece in _PIECE.finditer(component):
        name = piece[1]
        if name is None:
            text = piece[0]
            if text in {"{", "}"} or "\\" in text or not text.isprintable():
                raise LayoutError(f"{shown(layout)} contains {shown(text)}, which a layout must not")
            length += len(text.encode())
            between = None if between is None else between + text
            continue
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise LayoutError(f"{shown(piece[0])} is not a placeholder", f"one of {known}")
        if between is not None and not between.strip("0123456789."):
            raise LayoutError(
                f"{shown(layout)} has two UIDs that run into each other, so two instances could share a path",
                'a "/", "_" or "-" between them',
            )
        used.append(name)
        length += MAX_UID_LENGTH
        between = ""
    if length > _LONGEST_COMPONENT:
        raise LayoutError(f"{shown(layout)} can make a name too long for a file system", "shorter parts")
    return used
