"""Configurations from texts, for tests that need no file."""

from __future__ import annotations

from dicomd.config import Config, ConfigError
from dicomd.config.load import validate


def parse_config(text: str, file: str = "configuration") -> Config:
    """Load a configuration from its text; `file` is its name in problems. Raises ConfigError, as for a file."""
    found = validate(text, file)
    if found.problems:
        raise ConfigError(found.problems)
    return found.config
