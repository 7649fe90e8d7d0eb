"""Validates single texts in the configuration: names, AE Titles, paths and the layout of the store.

Each function returns the value to use, or raises `UnacceptableError` saying what would be right.
"""

import re
from pathlib import Path

from dicomd.config.problems import UnacceptableError, shown

LAYOUT_ELEMENTS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
LAYOUT_REQUIRED = "SOPInstanceUID"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_LAYOUT_PIECE = re.compile(r"\{([^{}]*)\}|[^{}]+|[{}]")
_LONGEST_COMPONENT = 255 - 24  # NAME_MAX of Linux file systems, with room for the suffix of a second instance


def listener_name(value: object) -> str:
    """Check the name of a listener, which is its metric label and the name of its inherited descriptor."""
    if value == "metrics":
        raise UnacceptableError('"metrics" is the inherited descriptor of [http]', 'another name, such as "dicom"')
    return _name(value)


def peer_name(value: object) -> str:
    """Check the name of a peer, which is its metric label. "unknown" is the label of peers without an entry."""
    if value == "unknown":
        raise UnacceptableError('"unknown" stands for peers without an entry', 'another name, such as "ct1"')
    return _name(value)


def _name(value: object) -> str:
    right = 'letters, digits, "_", "." and "-", at most 64, such as "ct1"'
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UnacceptableError(f"{shown(value)} is not a name", right)
    return value


def ae_title(value: object) -> str:
    r"""Check an AE Title and return it without its padding (PS3.5 §6.2, VR AE).

    It has 1 to 16 characters of the default character repertoire, without backslash and control characters, and
    doesn't consist of spaces only. Leading and trailing spaces are not significant and are removed.
    """
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not an AE Title", 'text such as "CT1"')
    title = value.strip(" ")
    if not title:
        raise UnacceptableError(f"{shown(value)} is an empty AE Title", '1 to 16 characters such as "CT1"')
    if len(title) > 16:
        raise UnacceptableError(f"{shown(value)} is longer than an AE Title may be", f"16 characters, not {len(title)}")
    for character in title:
        if character == "\\" or not " " <= character <= "~":
            raise UnacceptableError(
                f"{shown(value)} contains {shown(character)}, which an AE Title must not",
                "ASCII without backslash and control characters",
            )
    return title


def path(value: object) -> Path:
    """Return a path, made absolute from the working directory if it is relative."""
    if isinstance(value, Path):
        return value.absolute()
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UnacceptableError(f"{shown(value)} is not a path", 'a path such as "/var/lib/dicomd/store"')
    if value.startswith("~"):
        raise UnacceptableError(f"{shown(value)}: ~ is not expanded", "the whole path, from /")
    return Path(value).absolute()


def folder_or_off(value: object) -> Path | None:
    """Return a path; None for the empty text, which means off."""
    return None if value is None or value == "" else path(value)


def certificate_name(value: object) -> str:
    """Check a name as it appears in a certificate: a DNS name, an IP address or a Common Name."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 253:
        raise UnacceptableError(f"{shown(value)} is not a certificate name", 'text such as "ct1.example.org"')
    return value.strip()


def host_name(value: object) -> str:
    """The name of a host as a browser sends it: in lower case, without a port and without a final dot."""
    right = 'a name without scheme and port such as "dicomd.example.org"; of an international one its "xn--" form'
    if not isinstance(value, str) or len(value) > 253 or not _HOST_NAME.fullmatch(value):
        raise UnacceptableError(f"{shown(value)} is not the name of a host", right)
    return value.lower().removesuffix(".")


def layout(value: object) -> str:
    """Check a layout: the relative path of an instance, with placeholders in braces.

    A layout is unambiguous: two instances with different UIDs never share a path, so two UIDs in one component need a
    character between them that can't be part of a UID. And it stays inside the store: no component starts with a dot,
    so none is "..".
    """
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not a layout", _example())
    if not value.endswith(".dcm"):
        raise UnacceptableError(f"{shown(value)} does not end in .dcm", _example())
    if value.startswith("/"):
        raise UnacceptableError(f"{shown(value)} is not a relative path", f"without the leading /: {_example()}")
    used = [element for component in value.split("/") for element in _component(component, value)]
    if LAYOUT_REQUIRED not in used:
        raise UnacceptableError(f"{shown(value)} lacks {{{LAYOUT_REQUIRED}}}", _example())
    return value


def _component(component: str, whole: str) -> list[str]:
    if not component:
        raise UnacceptableError(f"{shown(whole)} has an empty part", _example())
    if component.startswith("."):
        raise UnacceptableError(f"{shown(whole)} has a part that starts with a dot", _example())
    used: list[str] = []
    length = 0
    between: str | None = None  # the text since the last placeholder
    for piece in _LAYOUT_PIECE.finditer(component):
        element = piece[1]
        if element is None:
            text = piece[0]
            if text in {"{", "}"} or not text.isprintable() or "\\" in text:
                raise UnacceptableError(f"{shown(whole)} contains {shown(text)}, which a layout must not", _example())
            length += len(text.encode())
            between = None if between is None else between + text
            continue
        if element not in LAYOUT_ELEMENTS:
            known = ", ".join(f"{{{known}}}" for known in LAYOUT_ELEMENTS)
            raise UnacceptableError(f"{shown('{' + element + '}')} is not a placeholder", f"one of {known}")
        if between is not None and re.fullmatch(r"[0-9.]*", between):
            raise UnacceptableError(
                f"{shown(whole)} has two UIDs that run into each other, so two instances could share a path",
                'a "/", "_" or "-" between them',
            )
        used.append(element)
        length += 64
        between = ""
    if length > _LONGEST_COMPONENT:
        raise UnacceptableError(f"{shown(whole)} can make a name too long for a file system", "shorter parts")
    return used


def _example() -> str:
    return '"{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"'
