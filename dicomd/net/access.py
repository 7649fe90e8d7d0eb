"""Decides who may do what, by [[peers]], [access] and dicomd.ae_titles, for admission and `dicomd check-peer` alike.

Entries are tried in the order of the file, and the first of which all criteria match is the peer. A requestor that
matches none is refused, or in audit mode admitted and logged. An Association is judged once, by all that is known by
then; before it only an address is known, and a connection from one that no entry could match is closed unread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from dicomd.addresses import host_of
from dicomd.ae_titles import is_ae_title
from dicomd.net.rejection import Rejection
from dicomd.rejections import RejectReason
from dicomd.services.operations import EVERYTHING, NOTHING, Rights

Network = IPv4Network | IPv6Network
_IP = IPv4Address | IPv6Address

CALLED_AE_TITLES: Final = "dicomd.ae_titles"
PEERS: Final = "peers"
"""The rule that refuses a requestor that matches no entry."""
NO_PEERS: Final = "no [[peers]]"
"""The rule that lets everybody in."""
_PER_PEER: Final = "limits.associations_per_peer"


class Source(NamedTuple):
    """The peer of a connection, as far as it is known before negotiation.

    `address` is as `normal_address` writes it. `certificate_names` are the names in the certificate that a TLS peer has
    presented and that was verified; they are empty without one.
    """

    address: str
    certificate_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerRule:
    """A [[peers]] entry. Empty criteria match everything; `associations` may be open at once, None for the default."""

    name: str
    ae_titles: frozenset[str]
    networks: tuple[Network, ...]
    certificate_names: tuple[str, ...]
    rights: Rights
    associations: int | None = None


@dataclass(frozen=True, slots=True)
class AuditedRefusal:
    """A refusal: the `rule` behind it ("peers.ct1.allow"), its `key` in the schema for metrics, and the answer."""

    rule: str
    key: str
    rejection: Rejection


class AccessDecision(NamedTuple):
    """Who an Association's requestor is, and what it may do.

    `peer` is a configured name, or "". With `refusal` it isn't let in; with `audited` it is let in, but would not be
    under "enforce". `rights` are those in force, `configured_rights` those of its rule. Its Associations are counted
    under `counted_as`, up to `associations`, a limit that the key `limited_by` sets.
    """

    peer: str
    rule: str
    counted_as: str
    associations: int
    limited_by: str
    rights: Rights = EVERYTHING
    configured_rights: Rights = EVERYTHING
    refusal: Rejection | None = None
    refused_by: str = ""
    audited: AuditedRefusal | None = None


class AccessRules:
    """The rules of one configuration. Immutable, so thread-safe.

    `ae_titles` are the Called AE Titles that are accepted, all if empty; `associations_per_peer` applies to a peer
    without an entry, or whose entry sets no limit. Without `peers`, everybody may do everything.
    """

    def __init__(
        self, peers: Sequence[PeerRule] = (), *, ae_titles: Iterable[str] = (), audit: bool, associations_per_peer: int
    ) -> None:
        self._peers = tuple(_Matcher(peer) for peer in peers)
        self._ae_titles, self._audit = frozenset(ae_titles), audit
        self._per_peer = associations_per_peer
        # A connection may be closed unread only if no entry could match, whatever the peer sends later.
        self._any_address = audit or not peers or not all(peer.networks for peer in peers)
        self._networks = tuple({network for peer in peers for network in peer.networks})

    def refuses_address(self, address: str) -> str:
        """Return why no requestor at this address could be let in, whatever it sends; empty if one could."""
        if self._any_address:
            return ""
        ip = _ip(address)
        if ip is not None and any(ip in network for network in self._networks):
            return ""
        return "no [[peers]] entry has this address: add it to the addresses of one"

    def judge(self, *, calling: str, called: str, source: Source) -> AccessDecision:
        """Judge a requestor by its AE Titles and its source."""
        unknown = AccessDecision("", NO_PEERS, host_of(source.address), self._per_peer, _PER_PEER)
        if not is_ae_title(calling):
            rejection = _calling("the Calling AE Title is empty or not valid")
            return unknown._replace(rule="PS3.5 §6.2", refusal=rejection)
        if self._ae_titles and called not in self._ae_titles:
            advice = "the Called AE Title is not in dicomd.ae_titles: add it there"
            rejection = Rejection(RejectReason.CALLED_AE_TITLE_NOT_RECOGNIZED, advice)
            return unknown._replace(rule=CALLED_AE_TITLES, refusal=rejection, refused_by=CALLED_AE_TITLES)
        if not self._peers:
            return unknown
        ip, names = _ip(source.address), _folded(source.certificate_names)
        for peer in self._peers:
            if peer.matches(calling, ip, names):
                return self._known(peer.rule)
        refusal = AuditedRefusal(PEERS, PEERS, _calling(self._advice(calling, source, ip, names)))
        return self._refused(unknown._replace(rule=PEERS, configured_rights=NOTHING), refusal)

    def _known(self, rule: PeerRule) -> AccessDecision:
        name = f"peers.{rule.name}"  # no address has this form, so no stranger is counted as this peer
        decision = AccessDecision(
            peer=rule.name,
            rule=name,
            counted_as=name,
            associations=self._per_peer if rule.associations is None else rule.associations,
            limited_by=_PER_PEER if rule.associations is None else f"{name}.associations",
            rights=EVERYTHING if self._audit else rule.rights,
            configured_rights=rule.rights,
        )
        if rule.rights != NOTHING:
            return decision
        advice = f"{name}.allow is empty: add what the peer may do"
        return self._refused(decision, AuditedRefusal(f"{name}.allow", "peers.allow", _calling(advice)))

    def _refused(self, decision: AccessDecision, refusal: AuditedRefusal) -> AccessDecision:
        """Return the decision with this refusal, which in audit mode is only noted."""
        if self._audit:
            return decision._replace(audited=refusal)
        return decision._replace(rule=refusal.rule, rights=NOTHING, refusal=refusal.rejection, refused_by=refusal.key)

    def _advice(self, calling: str, source: Source, ip: _IP | None, names: frozenset[bytes]) -> str:
        """Say why the closest entry doesn't match, and how to let this requestor in."""
        by_title = [peer for peer in self._peers if peer.has_title(calling)]
        here = [peer for peer in by_title if peer.has_address(ip)]
        if here:
            shown = ", ".join(source.certificate_names) if names else "none"
            return (
                f"peers.{here[0].rule.name} requires another certificate name (the peer's: {shown}): add it to its "
                "certificate_names, or have the peer present that certificate"
            )
        if by_title and by_title[0].rule.ae_titles:
            return f"peers.{by_title[0].rule.name} has this AE Title, but not this address: add it to its addresses"
        named = [peer for peer in self._peers if peer.has_address(ip) and peer.rule.networks]
        title = json.dumps([calling])
        if named:
            return f"peers.{named[0].rule.name} has this address, but not this AE Title: add {title} to its ae_titles"
        address = json.dumps([source.address])
        return f"no [[peers]] entry has this AE Title: add one with ae_titles = {title} and addresses = {address}"


class _Matcher:
    """A rule, prepared for quick matching."""

    __slots__ = ("_names", "rule")

    def __init__(self, rule: PeerRule) -> None:
        self.rule = rule
        self._names = _folded(rule.certificate_names)

    def matches(self, calling: str, ip: _IP | None, names: frozenset[bytes]) -> bool:
        named = not self._names or not self._names.isdisjoint(names)
        return named and self.has_title(calling) and self.has_address(ip)

    def has_title(self, calling: str) -> bool:
        return not self.rule.ae_titles or calling in self.rule.ae_titles

    def has_address(self, ip: _IP | None) -> bool:
        networks = self.rule.networks
        return not networks or (ip is not None and any(ip in network for network in networks))


def normal_address(host: str) -> str:
    """The address as people write it: IPv4-mapped IPv6 (RFC 4291 §2.5.5.2) as IPv4, without a scope."""
    if ":" not in host:  # IPv4, in the kernel's own form
        return host
    ip = _ip(host.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return host if ip is None else str(ip)


def in_networks(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address, as `normal_address` writes it, is in one of the networks."""
    ip = _ip(address)
    return ip is not None and any(ip in network for network in networks)


def _ip(address: str) -> _IP | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def _folded(names: Iterable[str]) -> frozenset[bytes]:
    """Certificate names as they are compared: the case of ASCII letters, but of no others, is ignored."""
    return frozenset(name.encode("utf-8", "surrogatepass").lower() for name in names)


def _calling(advice: str) -> Rejection:
    return Rejection(RejectReason.CALLING_AE_TITLE_NOT_RECOGNIZED, advice)
