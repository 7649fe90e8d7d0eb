"""By which names the HTTP endpoint shows what it knows of peers: the Host header of a request (RFC 9110 §7.2).

Why: a page of any web site can point its own name at this machine (DNS rebinding). A browser then takes our answer for
that site's, and its scripts may read it. Such a request bears the site's name, so those pages are shown only under an
IP address, `localhost`, or a name that the configuration has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import Final

ALWAYS: Final = "localhost"
_AUTHORITY: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/\\\s]+))(?::[0-9]{0,5})?", re.ASCII)


def is_shown(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Whether a request with these Host headers, of which there has to be one, is for us; `names` in lower case."""
    if len(hosts) != 1:
        return False
    match = _AUTHORITY.fullmatch(hosts[0].strip().lower())
    if match is None:
        return False
    if (v6 := match["v6"]) is not None:
        return ":" in v6 and _is_address(v6)
    name = match["name"].removesuffix(".")
    return name == ALWAYS or name in names or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
