"""Validates single texts in the configuration: names, AE Titles, paths and the layout of the store.

Each function returns the value to use, or raises `UnacceptableError` saying what would be right.
"""

import re
from pathlib import Path

from dicomd import ae_titles, layouts
from dicomd.config.problems import UnacceptableError
from dicomd.formatting import shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


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
    expected = 'letters, digits, "_", "." and "-", at most 64, such as "ct1"'
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UnacceptableError(f"{shown(value)} is not a name", expected)
    return value


def ae_title(value: object) -> str:
    """Check an AE Title and return it without its padding: see `dicomd.ae_titles`."""
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not an AE Title", 'text such as "CT1"')
    title = ae_titles.without_padding(value)
    if not title:
        raise UnacceptableError(
            f"{shown(value)} is an empty AE Title", f'1 to {ae_titles.MAX_LENGTH} characters such as "CT1"'
        )
    if len(title) > ae_titles.MAX_LENGTH:
        expected = f"{ae_titles.MAX_LENGTH} characters, not {len(title)}"
        raise UnacceptableError(f"{shown(value)} is longer than an AE Title may be", expected)
    if not ae_titles.is_ae_title(title):
        forbidden = next(character for character in title if character not in ae_titles.CHARACTERS)
        raise UnacceptableError(
            f"{shown(value)} contains {shown(forbidden)}, which an AE Title must not",
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
    expected = 'a name without scheme and port such as "dicomd.example.org"; of an international one its "xn--" form'
    if not isinstance(value, str) or len(value) > 253 or not _HOST_NAME.fullmatch(value):
        raise UnacceptableError(f"{shown(value)} is not the name of a host", expected)
    return value.lower().removesuffix(".")


def layout(value: object) -> str:
    """Check a layout, the relative path of an instance with placeholders in braces: see `dicomd.layouts`."""
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not a layout", layouts.EXAMPLE)
    try:
        layouts.placeholders(value)
    except layouts.LayoutError as error:
        raise UnacceptableError(error.what, error.expected) from error
    return value
