"""The figures of reference posteriors: whether chains have met, and how far inferences are from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sri_pyro.evaluation.calibration import two_sided_gate
from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.drawing import (
    ALARM,
    FIRST,
    MUTED,
    SECOND,
    Panel,
    axes,
    draw,
    level,
    logarithmic_above_one,
    plain_log,
    shortened,
    side_by_side,
    stacked,
)
from sri_pyro.evaluation.reference import LEAST_ESS, RHAT
from sri_pyro.evaluation.verdicts import number
from sri_pyro.evaluation.verdicts.reference import WANTED

Array = NDArray[np.float64]
COMPARED = 2
"""Sentences whose draws are compared quantile by quantile."""
QUANTILES = np.linspace(0.005, 0.995, 100)
LEFT_OUT = f" Sentences whose chains are not to be trusted are left out: wanted are {WANTED}."
UNTRUSTED = "*"
"""Below the axis, at a sentence that is left out."""
MOST_TICKS = 12
"""Sentences that are named below an axis."""


def reference_panels(numbers: Mapping[str, Any], data: InferenceResult) -> list[Panel]:
    """All panels of the findings ``reference``.

    Args:
        numbers: Of the findings.
        data: Their arrays.
    """
    chains = [rhat(numbers, data), effective_draws(numbers, data)]
    found = data["scores"]
    names = [str(name) for name in found["system"].to_numpy()]
    trusted = np.array(
        [numbers["references"][numbers["systems"][name]["reference"]]["trusted"] for name in names],
        dtype=bool,
    )
    if not trusted.any():
        return chains
    known = {
        str(name): np.where(trusted, values.to_numpy(), np.nan) for name, values in found.data_vars.items()
    }
    return [
        *chains,
        *quantiles(data, trusted[0]),
        divergence(data, names, known),
        distance(data, names, known),
        scores(data, names, known),
    ]


def rhat(numbers: Mapping[str, Any], data: InferenceResult) -> Panel:
    """R-hat of every coordinate and of the log joint."""
    values = data["convergence"]["rhat"].to_numpy()
    ax = axes("sentence, by its tokens", "R-hat")
    _by_quantity(ax, values, values >= RHAT, "at or above 1.01")
    _others(ax, numbers, "rhat")
    level(ax, RHAT, f"{RHAT:g}: not met above")
    _sentences(ax, data, _trusted(numbers))
    return draw(
        ax,
        "Have the chains met?",
        "Rank-normalised split R-hat of every coordinate and of log p(x, z), sentence by sentence. From the dashed "
        "line on the chains of a sentence still tell where they began, and it has no reference."
        + _starred(numbers),
        f"The largest R-hat is {np.nanmax(values):.3f}.",
    )


def effective_draws(numbers: Mapping[str, Any], data: InferenceResult) -> Panel:
    """Effective draws for centre and tails, the fewer of the two."""
    found = data["convergence"]
    values = np.minimum(found["ess_bulk"].to_numpy(), found["ess_tail"].to_numpy())
    ax = axes("sentence, by its tokens", "effective draws")
    ax.set_yscale("log")
    plain_log(ax.yaxis)
    _by_quantity(ax, values, values < LEAST_ESS, f"fewer than {LEAST_ESS:g}")
    _others(ax, numbers, "ess")
    level(ax, LEAST_ESS, f"{LEAST_ESS:g}: too few below")
    _sentences(ax, data, _trusted(numbers))
    return draw(
        ax,
        "What the chains are worth",
        "Independent draws that the chains of a sentence are worth for the centre or the tails of every coordinate and "
        "of log p(x, z), whichever are fewer. Below the dashed line R-hat itself is not to be trusted."
        + _starred(numbers),
        f"The fewest are {np.nanmin(values):.0f}.",
    )


def quantiles(data: InferenceResult, trusted: NDArray[np.bool_]) -> list[Panel]:
    """Quantiles of the run's own draws against the reference's, where they differ most and it is to be trusted."""
    z, own = data["posterior"]["z"].to_numpy(), data["judged"]["draws"].to_numpy()[0]
    theirs = np.quantile(z.reshape(-1, *z.shape[2:]), QUANTILES, axis=0)
    ours = np.quantile(own, QUANTILES, axis=0)
    centre, spread = z.mean((0, 1)), z.std((0, 1))
    apart = np.sqrt(((ours - theirs) ** 2).mean(0)) / spread
    rows = np.flatnonzero(trusted & np.isfinite(apart).all(-1)).tolist()
    rows = sorted(rows, key=lambda row: -apart[row].max())[:COMPARED]
    halves = [np.quantile(half, QUANTILES, axis=(0, 1)) for half in np.array_split(z, 2)]
    panels = []
    for row in rows:
        d = int(apart[row].argmax())
        shape = [(of[:, row, d] - centre[row, d]) / spread[row, d] for of in (theirs, ours, *halves)]
        sd, off = (
            own[:, row, d].std() / spread[row, d],
            (own[:, row, d].mean() - centre[row, d]) / spread[row, d],
        )
        panels.append(
            _quantiles(shape, d, int(data["judged"]["sentence"].to_numpy()[row]), float(sd), float(off))
        )
    return panels


def _quantiles(shape: Sequence[Array], d: int, sentence: int, sd: float, off: float) -> Panel:
    theirs, ours, *halves = shape
    ax = axes("quantile of the reference", "quantile")
    ax.axline((0, 0), slope=1, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label="equal")
    for i, half in enumerate(halves):
        ax.plot(theirs, half, color=MUTED, linewidth=0.8, label="" if i else "half of the chains")
    ax.plot(theirs, ours, "o", color=FIRST, markersize=3, markeredgewidth=0, label="own inference")
    return draw(
        ax,
        f"Sentence {sentence}: quantiles of z_{d}",
        "The coordinate in which the run's own inference differs most from the reference, in the latter's standard "
        "deviations from its mean. Flatter than the diagonal: draws too narrow; beside it: off. How far the grey lines "
        "lie apart is noise.",
        f"The inference has {sd:.2f} of the posterior's standard deviation there; its mean is {off:.2f} of one off.",
    )


def divergence(data: InferenceResult, names: Sequence[str], known: Mapping[str, Array]) -> Panel:
    """KL of every inference from the posterior, sentence by sentence."""
    kl = known["kl"]
    ax = axes("sentence, by its tokens", "KL, nats")
    side_by_side(ax, names, kl, 2 * known["kl_se"])
    scale = " The axis is logarithmic above 1." if logarithmic_above_one(ax, kl) else ""
    level(ax, 0, "0: the posterior", MUTED)
    _sentences(ax, data)
    return draw(
        ax,
        "KL(inference ‖ posterior) by the reference",
        "By energy: the reference's mean of log p(x, z) and Gaussian entropy, less the same of the inference, with two "
        "standard errors of the draws." + scale + LEFT_OUT,
        f"Means over sentences, in nats: {_means(names, kl)}.",
    )


def distance(data: InferenceResult, names: Sequence[str], known: Mapping[str, Array]) -> Panel:
    """Sliced Wasserstein distance of every inference, and its floor."""
    apart, floor = known["wasserstein"], known["floor"]
    ax = axes("sentence, by its tokens", "sliced Wasserstein")
    where = side_by_side(ax, names, apart)
    reach = 0.9 / (2 * len(names) + 4)
    for i, x in enumerate(where):
        label = "" if i else "floor"
        ax.hlines(floor[i], x - reach, x + reach, color=MUTED, linewidth=1.4, label=label)
    ax.set_ylim(bottom=0)
    _sentences(ax, data)
    return draw(
        ax,
        "Distance to the reference, and its floor",
        "Sliced 2-Wasserstein distance, in units of z, of as many draws of inference and reference. The dash at each "
        "is the distance between two halves of the reference's chains: nothing can be shown to be nearer than that."
        + LEFT_OUT,
        f"Means over sentences: {_means(names, apart)}; of the floor {np.nanmean(floor):.3f}.",
    )


def scores(data: InferenceResult, names: Sequence[str], known: Mapping[str, Array]) -> Panel:
    """Largest differences of means and of standard deviations, in standard errors."""
    dim = data["posterior"]["z"].shape[-1]
    rows = stacked("sentence, by its tokens", ["mean, standard errors", "sd, standard errors"])
    kinds = [known[name] for name in ("mean_score", "sd_score")]
    gate = two_sided_gate(2 * dim * kinds[0].shape[1])
    for i, (ax, values) in enumerate(zip(rows, kinds, strict=True)):
        ax.set_yscale("log")
        plain_log(ax.yaxis)
        side_by_side(ax, [""] * len(names) if i else names, values)
        if i == 0:
            level(ax, gate, f"{gate:.1f}: chance, 95%")
        else:
            level(ax, gate, "")
        _sentences(ax, data)
    worst = np.maximum(*kinds)
    counts = zip(names, (worst > gate).sum(1), np.isfinite(worst).sum(1), strict=True)
    told = ", ".join(f"{name} {beyond} of {num}" for name, beyond, num in counts)
    return draw(
        rows[-1],
        "Means and standard deviations against the reference",
        "Of all coordinates the one that differs most, in standard errors of both: above in its mean, below in its "
        "standard deviation. Draws of the posterior stay below the dashed line on all sentences with 95%. Standard "
        "errors shrink with more draws: how large a difference is stands in the figures before this one."
        + LEFT_OUT,
        f"Sentences beyond chance: {told}.",
    )


def _by_quantity(ax: Axes, values: Array, alarm: NDArray[np.bool_], label: str) -> None:
    """A dot for every coordinate [n, :-1] and a square for the log joint [n, -1], in the alarm colour where due."""
    places = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    kind = np.broadcast_to(np.arange(values.shape[1]) == values.shape[1] - 1, values.shape)
    for use, marker, color, name in (
        (~kind & ~alarm, "o", FIRST, "a coordinate"),
        (kind & ~alarm, "s", SECOND, "log p(x, z)"),
        (~kind & alarm, "o", ALARM, f"a coordinate {label}"),
        (kind & alarm, "s", ALARM, f"log p(x, z) {label}"),
    ):
        if use.any():
            ax.plot(
                places[use], values[use], marker, color=color, markersize=3.5, markeredgewidth=0, label=name
            )


def _others(ax: Axes, numbers: Mapping[str, Any], what: str) -> None:
    """The worst of every sentence by the references of other runs."""
    for name, quality in list(numbers["references"].items())[1:]:
        worst = [number(value) for value in quality[what]]
        ax.plot(worst, "_", color=MUTED, markersize=9, label=f"worst of {shortened(name)}")


def _trusted(numbers: Mapping[str, Any]) -> list[bool]:
    """Of every sentence whether the run's own reference is to be trusted."""
    return list(next(iter(numbers["references"].values()))["trusted"])


def _starred(numbers: Mapping[str, Any]) -> str:
    """What the star says, where there is one."""
    return "" if all(_trusted(numbers)) else f" {UNTRUSTED}: left out, for wanted are {WANTED}."


def _sentences(ax: Axes, data: InferenceResult, trusted: Sequence[bool] | None = None) -> None:
    """Name sentences below the axis by their lengths; a star marks those that are not to be trusted."""
    tokens = data["constant_data"]["num_tokens"].to_numpy()
    places = range(0, len(tokens), -(-len(tokens) // MOST_TICKS))
    stars = ["" if trusted is None or trusted[place] else UNTRUSTED for place in places]
    ax.set_xticks(places, [f"{tokens[place]}{star}" for place, star in zip(places, stars, strict=True)])
    ax.set_xlim(-0.5, len(tokens) - 0.5)


def _means(names: Sequence[str], values: Array) -> str:
    """Means over sentences in words; of sentences that have none nothing is said."""
    means = (each[np.isfinite(each)] for each in values)
    return ", ".join(
        f"{name} {each.mean():.3f}" if len(each) else f"{name} unknown"
        for name, each in zip(names, means, strict=True)
    )
