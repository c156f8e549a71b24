"""Calibrate: simulation-based calibration of a run's inference, and of others on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sri_pyro.config.alternatives import inferences
from sri_pyro.config.build import evaluation_section, load_corpus, seed_everything
from sri_pyro.config.judge import check_data, weights_used
from sri_pyro.config.provenance import provenance
from sri_pyro.config.run import Run, load_run
from sri_pyro.config.threads import computing_with
from sri_pyro.evaluation.calibration import DRAWS, LEVELS, Calibration, names_of, simulated_ranks
from sri_pyro.evaluation.findings import Findings, Variable, write_findings
from sri_pyro.evaluation.verdicts import spoken
from sri_pyro.evaluation.verdicts.calibration import judge_calibration
from sri_pyro.types import Batch

EXACT = "exact draws"
FEWEST = 20
"""Simulations below which a band is so wide that nothing could leave it."""


def calibrate_run(
    folder: Path | str,
    described: Sequence[str] = (),
    num_simulations: int = 200,
    num_draws: int = DRAWS,
    *,
    command: Sequence[str] = ("sri_pyro.calibrate_run",),
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulate codes and sentences, infer the codes, and write ``calibration.json`` and ``calibration.nc``.

    All inferences see the same sentences. The configuration's seed is set first, so that the same command gives the
    same numbers.

    Args:
        folder: Of a trained run.
        described: Inferences beside the run's own; see ``alternatives.inferences``.
        num_simulations: N.
        num_draws: L, draws of each inference for each sentence.
        command: The command line, for the record.
        watch: Told how many sentences are done, and of how many.

    Returns:
        What stands in ``calibration.json``; ``readable_calibration`` puts it in words.

    Raises:
        ConfigError: If this is no run's folder, or an inference is described wrongly.
        CheckpointError: If the weights are missing or damaged.
        ValueError: If there are too few simulations or draws, or the model has no z.
    """
    for name, value, least in (
        ("num_simulations", num_simulations, FEWEST),
        ("num_draws", num_draws, FEWEST - 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    run = load_run(folder)
    if not run.model.prior.dim:
        raise ValueError(f"there is nothing to calibrate: the model in {run.folder.path} has no z.")
    systems = inferences(run, described)
    corpus = load_corpus(run.config)
    check_data(run, corpus)
    ranks: dict[str, list[Tensor]] = {name: [] for name in systems}
    with computing_with(torch.get_num_threads()):
        seed_everything(run.config.seed)
        done, total = 0, num_simulations * len(systems)
        simulated = list(_simulated(run, num_simulations))
        for name, inference in systems.items():
            for truth, batch in simulated:
                if watch is not None:
                    watch(done, total)
                ranks[name].append(
                    simulated_ranks(run.model.target(batch), inference, truth, num_draws).cpu()
                )
                done += len(batch)
        if watch is not None:
            watch(done, total)
    dim = run.model.prior.dim
    found = {
        name: Calibration.of(torch.cat(parts), num_draws, names_of(dim), dim) for name, parts in ranks.items()
    }
    findings = calibration_findings(found, [batch for _, batch in simulated])
    record = provenance(run.config, corpus.record(), command) | {"weights": weights_used(run.folder)}
    write_findings(run.folder.path, findings, record)
    return dict(findings.numbers)


def _simulated(run: Run, num: int) -> Iterator[tuple[Tensor, Batch]]:
    """Codes and the sentences that were written for them, in batches."""
    at_once = evaluation_section(run.config).batch_size
    for start in range(0, num, at_once):
        size = min(at_once, num - start)
        with torch.no_grad():
            z = run.model.prior().sample((size,))
            tokens = run.model.decoder.generate(z)
        rows = torch.arange(size)
        # Cut to the longest sentence; ids count on.
        batch = Batch(tokens, start + rows.to(tokens.device)).select(rows.to(tokens.device))
        yield z, batch


def calibration_findings(found: Mapping[str, Calibration], batches: Sequence[Batch]) -> Findings:
    """Ranks, distribution functions, bands and coverage of some inferences on the same simulations."""
    first = next(iter(found.values()))
    num, places = len(first.ranks), np.arange(1, first.num_draws + 1)
    expected = places / (first.num_draws + 1)
    numbers = {
        "num_simulations": num,
        "num_draws": first.num_draws,
        "quantities": list(first.names),
        "levels": list(LEVELS),
        "nominal": list(first.nominal),
        "half_width": float(np.abs(first.strict.upper / num - expected).max()),
        "band_confidence": first.band.confidence,
        "strict_confidence": first.strict.confidence,
        "systems": {name: _summary(each) for name, each in found.items()},
    }

    def over_systems(values: list[Any], dims: tuple[str, ...], units: str, about: str) -> Variable:
        return Variable(np.stack(values), ("system", *dims), units, about)

    every = list(found.values())
    bounds = {
        f"{name}{side}": Variable(
            getattr(band, side) / num - expected, ("place",), "1", f"{about}, {side} bound of the difference"
        )
        for name, band, about in (
            ("", first.band, "95% at all places at once, for one function"),
            ("strict_", first.strict, "the same for all functions together"),
        )
        for side in ("lower", "upper")
    }
    groups = {
        "ranks": {
            "rank": over_systems(
                [each.ranks for each in every], ("simulation", "quantity"), "draws",
                "rank of the truth among the draws",
            ),
            "num_tokens": Variable(
                torch.cat([batch.lengths for batch in batches]).cpu().numpy(), ("simulation",), "tokens",
                "of the sentence",
            ),
        },
        "ecdf": {
            "share": Variable(expected, ("place",), "1", "of the ranks that is expected below the place"),
            "difference": over_systems(
                [each.difference for each in every], ("place", "quantity"), "1",
                "share of the ranks below the place, less it",
            ),
            **bounds,
        },
        "coverage": {
            "covered": over_systems(
                [np.array([level.value for level in each.coverage]) for each in every], ("level",), "1",
                "coordinates within their central interval",
            ),
            "se": over_systems(
                [np.array([level.se for level in each.coverage]) for each in every], ("level",), "1",
                "its standard error",
            ),
            "nominal": Variable(np.array(first.nominal), ("level",), "1", "what is to be covered"),
        },
    }  # fmt: skip
    coords = {
        "system": np.array(list(found)), "quantity": np.array(list(first.names)), "place": places,
        "level": np.array(LEVELS),
    }  # fmt: skip
    return Findings("calibration", numbers, groups, coords)


def _summary(found: Calibration) -> dict[str, Any]:
    return {
        "outside": [name for name, out in zip(found.names, found.outside, strict=True) if out],
        "largest_difference": float(np.abs(found.difference).max()),
        "coverage": [asdict(level) for level in found.coverage],
        "dispersion": asdict(found.dispersion),
    }


def readable_calibration(numbers: Mapping[str, Any]) -> list[str]:
    """A calibration as lines to be printed: the verdicts, then the coverage of every inference and of exact draws."""
    width = max(map(len, [*numbers["systems"], EXACT])) + 2
    heads = [f"{100 * level:.0f}% intervals" for level in numbers["levels"]]
    lines = [
        "inference".ljust(width) + "".join(head.rjust(16) for head in heads) + "spread of ranks".rjust(18)
    ]
    exact = "".join(f"{100 * share:.1f}%".rjust(16) for share in numbers["nominal"])
    lines.append(EXACT.ljust(width) + exact + "1".rjust(18))
    for name, system in numbers["systems"].items():
        cells = [_percent(level) for level in system["coverage"]]
        spread = system["dispersion"]
        lines.append(
            name.ljust(width)
            + "".join(cell.rjust(16) for cell in cells)
            + f"{spread['value']:.3f} ± {spread['se']:.3f}".rjust(18)
        )
    legend = (
        "intervals: how many true coordinates they hold, ± a standard error over simulations, beside what they would "
        f"hold if all {numbers['num_draws']} draws were exact (their ends lie between two draws, so that this need not "
        "be the level); spread of ranks: 1 if all is well, more where draws are too narrow or off, less where they are "
        "too wide"
    )
    return [*spoken(judge_calibration(numbers)), "", *lines, legend]


def _percent(record: Mapping[str, Any]) -> str:
    return f"{100 * record['value']:.1f}% ± {100 * record['se']:.1f}"
