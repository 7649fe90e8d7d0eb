"""Builds from the configuration the access rules that admission and `dicomd check-peer` apply."""

from __future__ import annotations

from dicomd.config.schema import Config
from dicomd.net.access import AccessRules, PeerRule
from dicomd.services.operations import Rights


def access_rules(config: Config) -> AccessRules:
    """Return the access rules of a configuration."""
    return AccessRules(
        [
            PeerRule(
                name=peer.name,
                ae_titles=frozenset(peer.ae_titles),
                networks=peer.addresses,
                certificate_names=peer.certificate_names,
                rights=Rights(echo="echo" in peer.allow, store="store" in peer.allow),
                associations=peer.associations,
            )
            for peer in config.peers
        ],
        ae_titles=config.dicomd.ae_titles,
        audit=config.access.mode == "audit",
        associations_per_peer=config.limits.associations_per_peer,
    )
