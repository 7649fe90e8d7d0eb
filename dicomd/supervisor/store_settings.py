"""Translates the configuration into the settings of the store, for a start and for a reload alike."""

from __future__ import annotations

from dicomd.config.schema import Config
from dicomd.store.layout import Layout
from dicomd.store.settings import StoreSettings


def store_settings(config: Config) -> StoreSettings:
    """Return the settings of the store that ``config`` describes; its root is no part of them."""
    storage = config.storage
    return StoreSettings(
        layout=Layout(storage.layout),
        durability=storage.durability,
        duplicates=storage.duplicates,
        reserve_free=storage.reserve_free,
        max_object_size=storage.max_object_size,
        checksums=storage.checksums,
        want_patient_id=config.audit.wanted,
        unfiled=storage.unfiled,
    )
