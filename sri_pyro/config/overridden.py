"""Overridden: the configuration of a trained run with another evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sri_pyro.config import toml
from sri_pyro.config.layers import merged
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config, overridden_config


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """A run's configuration with another evaluation."""
    given: dict[str, Any] = {}
    for text in overrides:
        given = merged(given, toml.nested(*toml.assignment(text)))
    if settled := sorted(set(given) - {"evaluation"}):
        raise ConfigError(
            [
                f"section '{name}' was settled by training; an evaluation can set evaluation.* alone"
                for name in settled
            ]
        )
    return overridden_config(config, overrides)
