"""Warns of [[peers]] entries that can never match and of an [access] mode that refuses nobody.

What is warned about here is safe, but probably not what was meant.
"""

from collections.abc import Iterator, Sequence

from dicomd.config.problems import Problem
from dicomd.config.schema import Config, Peer
from dicomd.config.units import Network


def warnings(config: Config, file: str) -> Iterator[Problem]:
    """Yield the warnings in the order of the file."""
    tls = any(listener.tls for listener in config.listen) and config.tls.client_certificate_policy != "none"
    for i, peer in enumerate(config.peers):
        if peer.certificate_names and not tls:
            what = "no listener asks for certificates, so this peer is never admitted"
            yield Problem(file, f"peers[{i}].certificate_names", what, "a listener with tls, and tls.client_ca")
        earlier = next((first for first in config.peers[:i] if _covers(first, peer)), None)
        if earlier is not None:
            what = f'this entry never applies, since "{earlier.name}" comes first and matches every peer that it would'
            yield Problem(file, f"peers[{i}]", what, "the narrower entry first")
    if config.access.mode == "audit" and config.peers:
        yield Problem(
            file, "access.mode", '"audit" admits peers that aren\'t listed', '"enforce" once the log is quiet'
        )


def _covers(first: Peer, later: Peer) -> bool:
    """Whether `first` matches every peer that `later` matches."""
    return (
        _any_or_all(first.ae_titles, later.ae_titles)
        and _any_or_all([n.lower() for n in first.certificate_names], [n.lower() for n in later.certificate_names])
        and _addresses(first.addresses, later.addresses)
    )


def _any_or_all(first: Sequence[str], later: Sequence[str]) -> bool:
    return not first or (bool(later) and set(later) <= set(first))


def _addresses(first: Sequence[Network], later: Sequence[Network]) -> bool:
    return not first or (bool(later) and all(any(_inside(one, other) for other in first) for one in later))


def _inside(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]  # of one version
