"""What the tests of configurations share: a corpus of seconds, and the complaints about a configuration of it."""

from typing import Any

import pytest

from sri_pyro.config import ConfigError, parse_config, presets
from sri_pyro.config.layers import laid_over

PCFG: dict[str, Any] = {"data": {"kind": "pcfg", "num_train": 40, "num_valid": 12, "num_test": 12}}
PRESETS = ", ".join(presets())
"""As messages list them."""


def problems(data: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(laid_over(PCFG, data), overrides)
    return list(caught.value.problems)
