"""Configuration: the schema, reading it with all errors at once, describing it.

The rule: nothing of dicomd is imported here but this package, and nothing else reads the file or the environment for
settings.
"""

from dicomd.config.checks import Examination, check, examine
from dicomd.config.contexts import SupportedContexts
from dicomd.config.keys import unreloadable_changes, without_effect
from dicomd.config.load import load_config, parse_config
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
    "check",
    "examine",
    "load_config",
    "parse_config",
    "to_toml",
    "unreloadable_changes",
    "without_effect",
]
