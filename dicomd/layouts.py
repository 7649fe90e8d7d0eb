"""The grammar of a layout, such as "{StudyInstanceUID}/{SOPInstanceUID}.dcm": the path of an instance in the store.

A layout ends in ".dcm", stays below the root, and has no component that starts with a dot (`.dicomd` is the store's
own). No value can make its first folder `unfiled`, which has the instances that can't be filed. Invariant: it is
unambiguous. Instances with different UIDs, or with different values of any other placeholder in it, never share a path.
So it contains {SOPInstanceUID}; between two values in one component there is a character that can't be part of the
first, where it ends; and the file's name doesn't end with a value that could contain the "_" that precedes the number
of another Data Set under the same UID.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import ascii_letters, digits
from typing import Final, NamedTuple

from dicomd.ae_titles import MAX_LENGTH as MAX_AE_TITLE
from dicomd.formatting import shown
from dicomd.uids import MAX_UID_LENGTH

SUFFIX: Final = ".dcm"
UNFILED: Final = "unfiled"
"""The folder in the root that has the instances kept because of `storage.unfiled`."""
EXAMPLE: Final = '"{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"'

ABSENT: Final = "none"
"""Stands for a value that is absent."""
ESCAPE: Final = "%"
"""Begins the three characters that stand for a byte that isn't safe in a path."""
MAX_MODALITY: Final = 16  # of VR CS (PS3.5 §6.2)
MAX_PEER: Final = 64  # characters of a name in the configuration


class ValueForm(NamedTuple):
    """The form of a placeholder's value in a path: at most `longest` bytes, all of them among `characters`."""

    longest: int
    characters: frozenset[str]

    @property
    def pattern(self) -> str:
        """A regular expression for a text of these characters."""
        return f"[{re.escape(''.join(sorted(self.characters)))}]+"


_UID: Final = ValueForm(MAX_UID_LENGTH, frozenset(digits + "."))
_AE_TITLE: Final = ValueForm(3 * MAX_AE_TITLE, frozenset(ascii_letters + digits + "_.-" + ESCAPE))

UIDS: Final = {"StudyInstanceUID": _UID, "SeriesInstanceUID": _UID, "SOPInstanceUID": _UID}
"""The placeholders whose values must be present and valid."""
PLACEHOLDERS: Final = UIDS | {
    "CalledAETitle": _AE_TITLE,
    "CallingAETitle": _AE_TITLE,
    "Peer": ValueForm(MAX_PEER + 2, _AE_TITLE.characters),  # a name that means something else has one byte escaped
    "Modality": ValueForm(3 * MAX_MODALITY, frozenset(ascii_letters + digits + ESCAPE)),
    "StudyDate": ValueForm(8, frozenset(digits + ABSENT)),
    "ReceivedDate": ValueForm(8, frozenset(digits)),
}
OF_THE_TRANSFER: Final = ("CalledAETitle", "CallingAETitle", "Peer", "ReceivedDate")
"""Those that may be different when the same instance is sent once more."""
NOT_IN_FILES: Final = ("Peer", "ReceivedDate")
"""Those whose value no stored file tells."""

_REQUIRED: Final = "SOPInstanceUID"
_NUMBER: Final = "_"  # precedes the number of another Data Set under the same UID
# NAME_MAX of Linux file systems, with room for that number.
_ROOM_FOR_NUMBER: Final = 24
_LONGEST_COMPONENT: Final = 255 - _ROOM_FOR_NUMBER
# Where folders are built before they are put in place: "/.dicomd/tmp/", the name of a temporary file, its suffix, "/".
_LONGEST_PREFIX: Final = 64
_PATH_MAX: Final = 4096  # of Linux, including the NUL at the end
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
    components = [_placeholders(component, layout) for component in layout.split("/")]
    if _may_be_unfiled(layout.partition("/")[0]):
        raise LayoutError(f"{shown(layout)} may begin with {UNFILED}/, which is for instances that can't be filed")
    used = [name for component in components for name in component]
    if _REQUIRED not in used:
        raise LayoutError(f"{shown(layout)} lacks {{{_REQUIRED}}}")
    if components[-1] and _NUMBER in PLACEHOLDERS[last := components[-1][-1]].characters:
        raise LayoutError(
            f"the name of a file can't end with {{{last}}}, as the number of another Data Set might seem part of it",
            f"a folder of that name, or {{{_REQUIRED}}}{SUFFIX} at the end",
        )
    return used


def pieces(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield the parts of a layout: the name of a placeholder, or None for the text between two, and how it is written.

    A brace without its counterpart is a piece of its own.
    """
    for piece in _PIECE.finditer(text):
        yield piece[1], piece[0]


def fits_below(root: str, layout: str) -> bool:
    """Whether every path that a valid layout can make is short enough for the system, `root` included."""
    longest = sum(
        len(written.encode()) if name is None else PLACEHOLDERS[name].longest for name, written in pieces(layout)
    )
    return len(root.encode(errors="surrogateescape")) + _LONGEST_PREFIX + longest + _ROOM_FOR_NUMBER < _PATH_MAX


def _placeholders(component: str, layout: str) -> list[str]:
    if not component:
        raise LayoutError(f"{shown(layout)} has an empty part")
    if component.startswith("."):
        raise LayoutError(f"{shown(layout)} has a part that starts with a dot")
    used: list[str] = []
    length = 0
    between = ""  # the text since the last placeholder of this component
    for name, written in pieces(component):
        if name is None:
            if written in {"{", "}"} or "\\" in written or not written.isprintable():
                raise LayoutError(f"{shown(layout)} contains {shown(written)}, which a layout must not")
            length += len(written.encode())
            between += written
            continue
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise LayoutError(f"{shown(written)} is not a placeholder", f"one of {known}")
        if used:
            _require_separation(used[-1], between, layout)
        used.append(name)
        length += PLACEHOLDERS[name].longest
        between = ""
    if length > _LONGEST_COMPONENT:
        raise LayoutError(f"{shown(layout)} can make a name too long for a file system", "shorter parts")
    return used


def _may_be_unfiled(folder: str) -> bool:
    """Whether a folder may get the reserved name; not by a value alone, since those have its first letter encoded."""
    parts = list(pieces(folder))
    pattern = "".join(re.escape(text) if name is None else PLACEHOLDERS[name].pattern for name, text in parts)
    return not (len(parts) == 1 and parts[0][0]) and re.fullmatch(pattern, UNFILED) is not None


def _require_separation(name: str, between: str, layout: str) -> None:
    """Require a character that can't be part of the value of this placeholder between it and the next one."""
    characters = PLACEHOLDERS[name].characters
    if characters.issuperset(between):
        possible = [f'"{separator}"' for separator in "/_-@+" if separator not in characters]
        raise LayoutError(
            f"{shown(layout)} has two values that run into each other, so two instances could share a path",
            f"{', '.join(possible[:-1])} or {possible[-1]} after {{{name}}}",
        )
