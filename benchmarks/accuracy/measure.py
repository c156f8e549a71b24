"""All measurements, each made once and kept in the store, and the curves that they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy import gaussian, mcmc, plain
from benchmarks.accuracy import text as real
from benchmarks.accuracy.clock import Job, priced, steps_timed, transitions_timed
from benchmarks.accuracy.contestants import Langevin, langevin
from benchmarks.accuracy.curves import Curve, Price
from benchmarks.accuracy.search import RECIPES, searched
from benchmarks.accuracy.store import Effort, Store
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.target import Target
from sri_pyro.types import Batch

WARMUP = {"HMC": 40, "NUTS": 20}
"""Transitions in which step size and mass matrix adapt; their states count as draws, and their time counts too."""
DRAWS = {"HMC": 15, "NUTS": 5}
LOOKS = {
    name: tuple(look for look in (*range(10), *range(10, 60, 2)) if look < WARMUP[name] + DRAWS[name])
    for name in mcmc.KERNELS
}
"""Transitions after which the law of the state is judged."""
ESTIMATES = {"moments": real.by_moments, "energy": real.by_energy}
"""Of the divergence on text; the first is drawn."""
GROUP = 4
"""Runs of MCMC on the oracle that make one unit: 256 states or more determine a covariance in 32 dimensions."""


# --- the Gaussian oracle -----------------------------------------------------------------------------------


def gaussian_curves(store: Store[Effort]) -> list[Curve]:
    """Setting A: exact for short runs, estimated for HMC and NUTS."""
    precision = gaussian.oracle().precision

    def exact_divergence(recipe: str, numbers: Sequence[float], steps: int) -> float:
        return gaussian.run_divergence(recipe, numbers, steps, precision)

    curves = []
    for contestant in langevin(store.effort):
        numbers = _tuned(store, "gaussian", contestant, exact_divergence, finest=0.005)
        exact = [
            gaussian.run_divergence(contestant.recipe, of, steps, precision)
            for of, steps in zip(numbers, contestant.steps, strict=True)
        ]
        curves.append(_curve(contestant, numbers, np.array(exact)[:, None], ("exact",)))
    return curves + [_oracle_mcmc(store, kernel) for kernel in mcmc.KERNELS]


Divergence = Callable[[str, Sequence[float], int], float]
"""Of a recipe with its numbers and K, nats."""


def _tuned(
    store: Store[Effort], setting: str, contestant: Langevin, divergence: Divergence, finest: float
) -> list[tuple[float, ...]]:
    """The numbers of a contestant for each K: those that come closest, as far as a search finds."""
    if contestant.numbers is not None:
        return [contestant.numbers] * len(contestant.steps)
    found: list[tuple[float, ...]] = []
    start: Sequence[float] = RECIPES[contestant.recipe].start
    for steps in contestant.steps:

        def quality(numbers: Sequence[float], steps: int = steps) -> float:
            return -divergence(contestant.recipe, numbers, steps)

        def search(begin: Sequence[float] = start, quality: Any = quality) -> list[float]:
            return searched(quality, begin, finest=finest)[0]

        start = store.once(f"{setting}/tuned/{contestant.recipe} {steps}", search)
        found.append(tuple(start))
    return found


def _oracle_mcmc(store: Store[Effort], kernel: str) -> Curve:
    rows, looks = store.effort.batch, list(LOOKS[kernel])

    def make() -> dict[str, Any]:
        path, x = gaussian.mcmc_run(kernel, rows, WARMUP[kernel], DRAWS[kernel])
        return {"states": path.states[looks].tolist(), "gradients": path.gradients.tolist(), "x": x.tolist()}

    runs = [store.once(f"gaussian/{kernel}/{run}", make) for run in range(store.effort.oracle_runs)]
    states = torch.tensor([run["states"] for run in runs], dtype=torch.float64)  # [runs, looks, rows, D]
    x = torch.tensor([run["x"] for run in runs], dtype=torch.float64)
    parts = gaussian.groups(len(runs), GROUP)
    found = [
        [gaussian.state_divergence(states[part, look].flatten(0, 1), x[part].flatten(0, 1)) for part in parts]
        for look in range(len(looks))
    ]
    names = tuple(f"runs {part[0]} to {part[-1]}" for part in parts)
    return Curve(f"Pyro, {kernel}", kernel, _mean_gradients(runs, looks), np.array(found), names)


# --- the trained text model --------------------------------------------------------------------------------


def text_curves(
    store: Store[Effort], text: real.Text
) -> tuple[dict[str, list[Curve]], dict[str, real.Column]]:
    """Setting B, by each estimate of the divergence, and what is known of its posteriors."""
    target = text.model.target(text.judged)
    known = _reference(store, target, "text/reference")
    units = tuple(str(int(name)) for name in text.judged.ids)
    curves: dict[str, list[Curve]] = {name: [] for name in ESTIMATES}
    tuning = text.model.target(text.tuned)
    of_tuning = _reference(store, tuning, "text/tuning")

    def to_tuning(recipe: str, numbers: Sequence[float], steps: int) -> float:
        return real.measured(tuning, of_tuning, recipe, numbers, steps, store.effort.tuning_chains)

    for contestant in langevin(store.effort):
        numbers = _tuned(store, "text", contestant, to_tuning, finest=0.1)
        found = [
            _run(store, target, contestant.recipe, of, steps)
            for of, steps in zip(numbers, contestant.steps, strict=True)
        ]
        for name, estimate in ESTIMATES.items():
            of_sentences = np.array([estimate(each, known) for each in found])
            curves[name].append(_curve(contestant, numbers, of_sentences, units))
    for kernel in mcmc.KERNELS:
        for name, curve in _text_mcmc(store, text, known, kernel).items():
            curves[name].append(curve)
    return curves, known


def _reference(store: Store[Effort], target: Target, name: str) -> dict[str, real.Column]:
    """By sentences a few at a time, for so many draws of all of them would not fit into memory."""
    assert target.select is not None, "a text model's target can be cut"
    found: dict[str, real.Column] = {}
    for rows in torch.arange(target.batch_size).split(4):
        part = target.select(rows)

        def make(part: Target = part) -> dict[str, real.Column]:
            return real.reference(part, store.effort.reference_draws)

        for column, values in store.once(f"{name}/{int(rows[0])}", make).items():
            found[column] = found.get(column, []) + values
    return found


def _run(
    store: Store[Effort], target: Target, recipe: str, numbers: tuple[float, ...], steps: int
) -> dict[str, real.Column]:
    """A summary of where chains end."""
    inference = real.short_run(recipe, numbers, steps)
    label = " ".join(f"{number:.4g}" for number in numbers)

    def make() -> dict[str, real.Column]:
        return real.summarised(target, real.end_points(target, inference, store.effort.chains))

    found: dict[str, real.Column] = store.once(f"text/runs/{recipe} {steps} at {label}", make)
    return found


def _text_mcmc(
    store: Store[Effort], text: real.Text, known: dict[str, real.Column], kernel: str
) -> dict[str, Curve]:
    effort, looks = store.effort, list(LOOKS[kernel])
    # Evenly over the lengths, by which the sentences are sorted.
    rows = torch.linspace(0, len(text.judged) - 1, effort.mcmc_sentences).round().long()
    few = text.judged.select(rows)
    copies = effort.batch // len(few)
    tokens, program = few.tokens.repeat(copies, 1), plain.text_program(text.model.decoder)

    def make() -> dict[str, Any]:
        start = torch.randn(len(tokens), text.model.prior.dim)
        path = mcmc.run(kernel, program, tokens, start, WARMUP[kernel], DRAWS[kernel])
        return {"states": path.states[looks].tolist(), "gradients": path.gradients.tolist()}

    runs = [store.once(f"text/{kernel}/{run}", make) for run in range(effort.mcmc_runs)]
    states = torch.tensor([run["states"] for run in runs])  # [runs, looks, copies * sentences, D]
    target = text.model.target(few)
    found = [
        real.summarised(target, states[:, look].reshape(len(runs) * copies, len(few), -1))
        for look in range(len(looks))
    ]
    known_few = {name: [values[row] for row in rows.tolist()] for name, values in known.items()}
    units, gradients = tuple(str(int(name)) for name in few.ids), _mean_gradients(runs, looks)
    return {
        name: Curve(
            f"Pyro, {kernel}",
            kernel,
            gradients,
            np.array([estimate(each, known_few) for each in found]),
            units,
        )
        for name, estimate in ESTIMATES.items()
    }


def _mean_gradients(runs: list[dict[str, Any]], looks: list[int]) -> np.ndarray:
    spent: np.ndarray = np.array([run["gradients"] for run in runs], dtype=float)[:, looks].mean(0)
    return spent


def _curve(
    contestant: Langevin, numbers: list[tuple[float, ...]], divergence: np.ndarray, units: tuple[str, ...]
) -> Curve:
    gradients = np.array(contestant.steps, dtype=float)
    return Curve(contestant.name, contestant.cost, gradients, divergence, units, tuple(numbers))


# --- time --------------------------------------------------------------------------------------------------


def prices(store: Store[Effort], text: real.Text) -> dict[str, Price]:
    """CPU seconds per sentence of every contestant's gradients on the text model."""
    program = plain.text_program(text.model.decoder)

    def make() -> dict[str, Any]:
        jobs: dict[str, list[Job]] = {}
        for batch in text.timed:
            _add_jobs(
                jobs,
                program,
                batch.tokens,
                lambda batch=batch: text.model.target(batch),
                text.model.prior.dim,
            )
            jobs.setdefault("pyro, our decoder", []).append(_own_program_job(text, batch))
        return _plain(priced(jobs, store.effort.rounds))

    return _read_prices(store.once("text/prices", make))


def oracle_prices(store: Store[Effort]) -> dict[str, Price]:
    """The same on the oracle, where a gradient is next to nothing and all is overhead."""

    def make() -> dict[str, Any]:
        of = gaussian.oracle()
        _, x = of.sample(store.effort.batch)
        program = gaussian.program(of)
        jobs: dict[str, list[Job]] = {}
        _add_jobs(jobs, program, x, lambda: Target.from_program(program, (x,)), x.shape[1])
        return _plain(priced(jobs, store.effort.rounds))

    return _read_prices(store.once("gaussian/prices", make))


def _add_jobs(
    jobs: dict[str, list[Job]], program: plain.Program, data: Tensor, target: Any, dim: int
) -> None:
    rows, step = len(data), 0.05
    dtype = data.dtype if data.is_floating_point() else torch.get_default_dtype()

    def start() -> Tensor:
        return torch.randn(rows, dim, dtype=dtype)

    def by_hand(num_steps: int) -> Tensor:
        return plain.langevin(program, data, start(), [step] * num_steps)

    jobs.setdefault("pyro", []).append(steps_timed(by_hand, rows))
    for name in ("ula", "lm", "baoab"):
        integrator, schedule = RECIPES[name].make(*[step] * len(RECIPES[name].start))

        def ours(num_steps: int, integrator: Any = integrator, schedule: Any = schedule) -> object:
            return ShortRunLangevin(num_steps, integrator, schedule)(target())

        jobs.setdefault(name, []).append(steps_timed(ours, rows))
    for kernel in mcmc.KERNELS:

        def chain(kernel: str = kernel) -> mcmc.Path:
            return mcmc.run(kernel, program, data, start(), warmup=0, draws=4)

        jobs.setdefault(kernel, []).append(transitions_timed(chain, rows))


def _own_program_job(text: real.Text, batch: Batch) -> Job:
    """The loop of the baseline, with this library's Pyro program in place of the plain one."""

    def by_hand(num_steps: int) -> Tensor:
        z = torch.randn(len(batch), text.model.prior.dim)
        return plain.langevin(lambda _: text.model(batch), batch.tokens, z, [0.05] * num_steps)

    return steps_timed(by_hand, len(batch))


def _plain(found: dict[str, Price]) -> dict[str, Any]:
    return {
        name: {"fixed": price.fixed.tolist(), "each": price.each.tolist()} for name, price in found.items()
    }


def _read_prices(found: dict[str, Any]) -> dict[str, Price]:
    return {name: Price(np.array(price["fixed"]), np.array(price["each"])) for name, price in found.items()}
