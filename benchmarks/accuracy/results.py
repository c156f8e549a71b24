"""From measurements to what is published: the record, as JSON, and its summary, as Markdown."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyro
import torch

from benchmarks.accuracy.contestants import BASELINE, PAPER_STEPS
from benchmarks.accuracy.curves import Comparison, Curve, Price, compared
from benchmarks.accuracy.store import Effort
from sri_pyro.models.decoders.cells import PLAIN, cells_for

BAR, STRETCH = 6.0, 12.0
"""How many times less CPU time than the baseline is asked of the best of ours, and hoped for."""
TITLES = {
    "gaussian": "A Gaussian posterior in 32 dimensions, priced by gradients of the text model",
    "text": "A trained text model, held-out sentences; the divergence by moments",
    "text, by energy": "The same; the divergence by energy, which is an upper estimate",
    "gaussian, its own seconds": "The Gaussian posterior in its own CPU seconds, nearly all of them overhead",
}


@dataclass(frozen=True)
class Setting:
    """Curves of one kind of posterior, and what their gradients cost.

    Attributes:
        name: ``gaussian``, ``text``, or the former with its own seconds.
        curves: Of all contestants.
        prices: Of their gradients.
    """

    name: str
    curves: Sequence[Curve]
    prices: Mapping[str, Price]

    def curve(self, name: str) -> Curve:
        """A contestant's."""
        return next(curve for curve in self.curves if curve.name == name)

    def comparisons(self) -> list[Comparison]:
        """Every contestant against what the baseline reaches in the paper's number of steps."""
        baseline = self.curve(BASELINE)
        return [compared(curve, baseline, PAPER_STEPS, self.prices) for curve in self.curves]


def record(effort: Effort, settings: Sequence[Setting], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found, for the file."""
    return {
        "effort": asdict(effort),
        "machine": {
            "processor": platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "threads": torch.get_num_threads(),
            "compiled_cells": cells_for(torch.zeros(())) is not PLAIN,
        },
        "baseline": {"contestant": BASELINE, "steps": PAPER_STEPS, "bar": BAR, "stretch": STRETCH},
        "settings": {setting.name: _setting(setting) for setting in settings},
        **beside,
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "prices": {name: _price(price) for name, price in setting.prices.items()},
        "curves": {curve.name: _points(curve, setting.prices[curve.cost]) for curve in setting.curves},
        "comparisons": [_finite(asdict(comparison)) for comparison in setting.comparisons()],
    }


def _price(price: Price) -> dict[str, Any]:
    """Milliseconds per sentence, medians over rounds with their standard errors (1.2533 that of a mean)."""
    numbers: dict[str, Any] = {"rounds": len(price.each)}
    for name, values in (("gradient_ms", price.each), ("fixed_ms", price.fixed)):
        numbers[name] = 1e3 * float(np.median(values))
        numbers[f"{name}_se"] = 1.2533e3 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return numbers


def _points(curve: Curve, price: Price) -> list[dict[str, Any]]:
    seconds, means, errors = price.seconds(curve.gradients), curve.means(), curve.errors()
    return [
        _finite({
            "gradients": float(curve.gradients[place]),
            "seconds": float(seconds[place]),
            "kl": float(means[place]),
            "kl_se": float(errors[place]),
            "units": len(curve.units),
            "numbers": list(curve.settings[place]) if curve.settings else None,
        })
        for place in range(len(means))
    ]  # fmt: skip


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: null stands for what was not reached."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


def summary(settings: Sequence[Setting], beside: Mapping[str, Any]) -> str:
    """The tables, as Markdown."""
    parts = [_table(setting) for setting in settings]
    return "\n\n".join([*parts, _prices_table(settings[-1]), _beside(beside)]) + "\n"


def _table(setting: Setting) -> str:
    level = setting.comparisons()[0].level
    lines = [
        f"### {TITLES[setting.name]}",
        "",
        f"The paper's recipe, {PAPER_STEPS} steps in plain Pyro, ends {level:.3g} nats from the posterior.",
        "",
        "| contestant | gradients to be as close | CPU ms a sentence | times less [95 %] |",
        "|---|---|---|---|",
    ]
    for found in setting.comparisons():
        if math.isinf(found.gradients):
            last = setting.curve(found.name)
            lines.append(f"| {found.name} | not reached: {last.means().min():.3g} nats at best | | |")
            continue
        low, high = found.interval
        lines.append(
            f"| {found.name} | {found.gradients:.1f} | {1e3 * found.seconds:.2f} | "
            f"{found.ratio:.1f} [{low:.1f}, {high:.1f}] |"
        )
    return "\n".join(lines)


def _prices_table(setting: Setting) -> str:
    lines = [
        "### What a gradient costs",
        "",
        "| contestant | CPU ms a sentence | besides its gradients |",
        "|---|---|---|",
    ]
    for name, price in setting.prices.items():
        told = _price(price)
        lines.append(
            f"| {name} | {told['gradient_ms']:.4f} ± {told['gradient_ms_se']:.4f} | "
            f"{told['fixed_ms']:.3f} ± {told['fixed_ms_se']:.3f} |"
        )
    return "\n".join(lines)


def _beside(beside: Mapping[str, Any]) -> str:
    same, known, warm = beside["agreement"], beside["reference"], beside["warm_nuts"]
    passed = sum(khat < limit for khat, limit in zip(known["khat"], known["threshold"], strict=True))
    excess = np.array(known["excess"])
    lines = [
        "### Beside it",
        "",
        f"- Plain Pyro and the library have one posterior: gradients differ by {same['single_gradient']:.1e} of the "
        f"largest coordinate in single precision, by {same['double_gradient']:.1e} in double.",
        f"- Posteriors of {len(excess)} sentences by importance draws: k-hat passes for {passed}, smallest effective "
        f"sample {min(known['ess']):.0f}, largest error of a log p(x) {max(known['se']):.3f} nats. The Gaussian's "
        f"entropy exceeds the posterior's by {excess.mean():.3f} ± "
        f"{excess.std(ddof=1) / math.sqrt(len(excess)):.3f} nats.",
        f"- NUTS with a chain for each of {len(warm)} sentences: warming up takes "
        f"{np.mean([one['warmup_seconds'] for one in warm]):.2f} CPU seconds and "
        f"{np.mean([one['warmup_gradients'] for one in warm]):.0f} gradients a sentence; then a draw takes "
        f"{1e3 * np.mean([one['draw_seconds'] for one in warm]):.1f} ms and "
        f"{np.mean([one['draw_gradients'] for one in warm]):.1f} gradients, and is worth "
        f"{np.mean([one['ess_share_median'] for one in warm]):.2f} independent ones (median coordinate; the least "
        f"{np.mean([one['ess_share_least'] for one in warm]):.2f}).",
    ]
    return "\n".join(lines)
