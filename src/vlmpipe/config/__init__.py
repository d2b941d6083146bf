"""The configuration: one frozen model a section, loaded from YAML layers and dotted overrides."""

from vlmpipe.config.load import load_config, parse_config
from vlmpipe.config.root import Config

__all__ = ["Config", "load_config", "parse_config"]
