"""What log p(x) of a sentence costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.contestants.ours import build_model
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Row
from benchmarks.sizes import SIZES
from benchmarks.timing import Spread, interleaved, timed
from sri_pyro.evaluation import AnnealedImportance, GaussianImportance
from sri_pyro.evaluation.evidence import EvidenceEstimator
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.target import Target
from sri_pyro.types import Batch

MANY_SENTENCES, MANY_SAMPLES = 1_000, 500
ROUNDS, SECONDS = 4, 30
INFORMATIVE = 4.0
"""Factor on output weights and on those that read z. With weights as they are drawn the posterior is the prior and no
sentence needs a second proposal; so it is some 3 nats away, as those of trained models are."""


@dataclass(frozen=True)
class Case:
    """An estimator with every option but the number of samples at its default, and how much of it is timed.

    Attributes:
        words: Its name.
        build: Makes it, given the number of samples.
        sentences: In the batch.
        samples: Of each.
        quick_samples: In a quick run; extrapolation over samples is fair only where nearly all the work is theirs.
    """

    words: str
    build: Callable[[int], EvidenceEstimator]
    sentences: int
    samples: int
    quick_samples: int


CASES = {
    "gaussian": Case("default sampler (gaussian)", lambda S: GaussianImportance(num_samples=S), 8, 500, 500),
    "annealed": Case("annealed", lambda S: AnnealedImportance(num_samples=S), 2, 125, 25),
}


def build_target(sentences: int) -> Target:
    """Sentences whose codes matter."""
    problem = Problem.build(replace(SIZES["S"], batch=sentences))
    latent = problem.size.latent
    weights = problem.weights
    for weight in (
        weights["start.weight"],
        weights["output.weight"],
        weights["cell.weight_ih_l0"][:, -latent:],
    ):
        weight *= INFORMATIVE
    return build_model(problem).eval().target(Batch(problem.tensor(problem.tokens)))


def measure(run: Run) -> list[Row]:
    """Processor seconds per sentence at size S."""
    inference = ShortRunLangevin().eval()
    samples = {name: case.quick_samples if run.quick else case.samples for name, case in CASES.items()}
    proposals: dict[str, list[float]] = {name: [] for name in CASES}

    def work(name: str, case: Case) -> Callable[[], None]:
        target, estimator = build_target(case.sentences), case.build(samples[name])

        def estimate() -> None:
            parts = estimator(target, inference)
            proposals[name].append(sum(len(rows) for rows, _ in parts) / case.sentences)

        return estimate

    contest = {name: timed(work(name, case)) for name, case in CASES.items()}
    seconds = interleaved(contest, run.effort(ROUNDS, SECONDS), run.watch)
    rows = []
    for name, case in CASES.items():
        each = Spread.of(seconds[name]).scaled(1 / case.sentences)
        scale = MANY_SENTENCES * MANY_SAMPLES / samples[name] / 60
        rounds = sum(proposals[name]) / len(proposals[name])
        rows += [
            Row(
                f"evidence/{name}/seconds_per_sentence",
                f"{case.words}: processor time a sentence, {case.sentences} sentences x {samples[name]} samples",
                each,
                "s",
                note=f"{rounds:.2f} proposals a sentence" if name == "gaussian" else "",
            ),
            Row(
                f"evidence/{name}/minutes_for_{MANY_SENTENCES}",
                f"{case.words}: {MANY_SENTENCES:,} sentences x {MANY_SAMPLES} samples, extrapolated",
                each.scaled(scale),
                "min",
            ),
        ]
    return rows


MEASUREMENTS = [Measurement("evidence", "Evidence, size S (12 tokens a sentence)", measure)]
