"""The figures of model criticism; pure functions of what its findings hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.drawing import ALARM, FIRST, GRID, SECOND, Panel, axes, draw
from sri_pyro.evaluation.verdicts.criticism import LEVEL

LAWS = {"posterior": (SECOND, "posterior"), "inference": (FIRST, "inference")}
SOURCES = {"prior": (FIRST, "from the prior"), "posterior": (SECOND, "at codes of held-out sentences")}


def criticism_panels(numbers: Mapping[str, Any], data: InferenceResult) -> list[Panel]:
    """All panels of the findings ``criticism`` that there is something to draw for.

    Args:
        numbers: Of the findings.
        data: Their arrays.
    """
    panels = [eigenvalues(data), holes(data)] if numbers["codes"] else []
    return [*panels, *([discrepancies(data), lengths(data)] if numbers["texts"] else [])]


def eigenvalues(data: InferenceResult) -> Panel:
    """Eigenvalues of the codes' covariance, and the band of the prior's draws."""
    codes = data["codes"]
    low, high = codes["eigenvalue_band"].to_numpy()[0]
    rank = np.arange(1, len(low) + 1)
    ax = axes("rank", "eigenvalue")
    ax.fill_between(rank, low, high, color=GRID, linewidth=0, label="prior, 95%")
    for law, values in zip(codes["law"].to_numpy(), codes["eigenvalues"].to_numpy(), strict=True):
        color, label = LAWS[str(law)]
        ax.plot(rank, values, "o" if law == "inference" else "s", color=color, markersize=4, label=label)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return draw(
        ax,
        "One code of each sentence: eigenvalues",
        "Eigenvalues of the covariance of one code of every sentence, in units of the prior's. In the grey band, "
        "which holds over all ranks at once, lie those of as many draws of the prior; below it are directions that "
        "sentences leave unused.",
        f"The largest eigenvalues are {', '.join(f'{v:.2f}' for v in codes['eigenvalues'].to_numpy()[:, 0])}.",
    )  # fmt: skip


def holes(data: InferenceResult) -> Panel:
    """How near codes are to one another, and draws of the prior to codes."""
    codes = data["codes"]
    ax = axes("distance to the nearest code", "share that lies nearer")
    first = codes.isel(law=0)
    color, label = LAWS[str(first["law"].to_numpy())]
    _steps(ax, first["nearest_code"].to_numpy(), color, f"codes ({label})", "-")
    _steps(ax, first["nearest_prior"].to_numpy(), ALARM, "draws of the prior", (0, (4, 3)))
    ax.set_ylim(0, 1)
    prior_near, code_near = (
        float(np.median(first[name].to_numpy())) for name in ("nearest_prior", "nearest_code")
    )
    return draw(
        ax,
        "Holes in the prior",
        "Distribution of the distance to the nearest code of a sentence, for other codes and for draws of the "
        "prior. Where the dashed line runs to the right of the other, the prior has places far from every code.",
        f"Half of the prior's draws lie within {prior_near:.2f} of a code, half of the codes within {code_near:.2f}.",
    )  # fmt: skip


def discrepancies(data: InferenceResult) -> Panel:
    """Discrepancies of the model's texts from held-out ones, in units of those of held-out text from itself."""
    texts = data["texts"]
    names = [str(name).replace("_", "-") for name in texts["statistic"].to_numpy()]
    # Sets of another size vary otherwise, so every source has its own unit.
    units = np.maximum(np.quantile(texts["control"].to_numpy(), 1 - LEVEL, axis=1), 1e-12)
    ax = axes("discrepancy, held-out text against itself = 1", "")
    ax.grid(visible=False)
    rows = np.arange(len(names))[::-1]
    ax.barh(rows, np.ones(len(names)), color=GRID, height=0.6, label="held out, 95%")
    for source, values in zip(
        texts["source"].to_numpy(), texts["discrepancy"].to_numpy() / units, strict=True
    ):
        color, label = SOURCES[str(source)]
        ax.plot(values, rows, "o" if source == "prior" else "s", color=color, markersize=5, label=label)
    ax.set_xlim(left=0)
    ax.set_yticks(rows, names)
    off = [
        f"{name} ({p:.2g})"
        for name, p in zip(names, texts["p_holm"].to_numpy()[0], strict=True)
        if p <= LEVEL
    ]
    return draw(
        ax,
        "Sentences of the model against held-out ones",
        "How far the model's sentences lie from random halves of the held-out text by each statistic, in units of "
        "what 95% of halves lie from one another (grey). Points within the grey are as held-out text is; what the "
        "squares share with the circles is the decoder's doing.",
        f"More than chance by {', '.join(off) or 'none'}.",
    )  # fmt: skip


def lengths(data: InferenceResult) -> Panel:
    """Sentences by number of words."""
    own, held_out = data["texts"]["lengths"].to_numpy()[0]
    ax = axes("words", "share of sentences")
    words = np.arange(len(own))
    ax.bar(words, held_out / held_out.sum(), color=GRID, width=0.9, label="held out")
    ax.plot(words, own / own.sum(), "o-", color=FIRST, markersize=4, label="model")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return draw(
        ax,
        "Lengths of sentences",
        "Sentences by number of words: those that the model writes from the prior, and held-out ones. They should "
        "agree but for chance; a model without a sense of its end writes too long ones.",
        f"Mean lengths are {(words * own).sum() / own.sum():.1f} and {(words * held_out).sum() / held_out.sum():.1f}.",
    )  # fmt: skip


def _steps(ax: Any, values: NDArray[np.float64], color: str, label: str, style: Any) -> None:
    ordered = np.sort(values)
    ax.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=color, linestyle=style, label=label)
