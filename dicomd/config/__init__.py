"""The configuration: its schema, a loader that reports all errors at once, and the documents generated from it.

Invariant: this package imports no other room of dicomd, and no other room reads settings from the file or the
environment.
"""

from dicomd.config.checks import Examination, examine
from dicomd.config.contexts import SupportedContexts
from dicomd.config.keys import unreloadable_changes
from dicomd.config.load import load_config
from dicomd.config.problems import ConfigError, Problem
from dicomd.config.schema import Config
from dicomd.config.show import to_toml
from dicomd.config.units import Address, HostPort, Network

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "Examination",
    "HostPort",
    "Network",
    "Problem",
    "SupportedContexts",
    "examine",
    "load_config",
    "to_toml",
    "unreloadable_changes",
]
