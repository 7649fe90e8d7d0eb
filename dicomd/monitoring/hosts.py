"""Checks the Host header of a request (RFC 9110 §7.2) before the HTTP endpoint shows what it knows about peers.

Any web site can let its own name resolve to this machine's address (DNS rebinding). A browser then attributes our
answer to that site and lets its scripts read it. The Host header of such a request has the site's name, so pages about
peers are only shown under an IP address, `localhost`, or a name in the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import Final

ALWAYS: Final = "localhost"
_AUTHORITY: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/\\\s]+))(?::[0-9]{0,5})?", re.ASCII)


def is_shown(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Whether a request with these Host headers, of which there must be exactly one, may see pages about peers.

    `names` are the configured ones, in lower case.
    """
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
