"""The config of a run: one typed value, read from YAML or ``key=value`` texts, or made from a bare data file."""

from __future__ import annotations

from cotune.config.read import config_from_data, config_in_memory, load_config
from cotune.config.run import RunConfig

__all__ = ["RunConfig", "config_from_data", "config_in_memory", "load_config"]
