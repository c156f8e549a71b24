"""An evaluation on disk: numbers as JSON and CSV, draws and traces as netCDF, texts beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sri_pyro.evaluation.chains import StepTrace
from sri_pyro.evaluation.evaluate import BENNETT, FOLDING, SPENT, UPPER, Evaluation
from sri_pyro.evaluation.latent_space import describe
from sri_pyro.evaluation.netcdf import export, to_netcdf
from sri_pyro.writing import atomic_path

MOST_VALUES = 8_000_000
"""Codes of a group are kept up to so many numbers (32 MB before compression); of more, fewer draws."""
REPLICATES = 4
"""Short runs are independent; they are filed under as many chains, so that R-hat compares them."""
EVIDENCE = (
    "log_px", "se", "khat", "khat_threshold", "ess", "num_samples", "rounds", "reconstruction",
    "kl_q_prior", "kl_posterior_prior", "kl_q_posterior",
)  # fmt: skip
"""Columns of every table of sentences in the group ``evidence``; those that some tables have come behind."""

ABOUT = {
    "posterior/z": ("1", "codes: end points of independent runs of the inference, in the inference's own law q"),
    "proposal/z": ("1", "codes drawn from the importance proposal; the posterior once weighted by log_weight"),
    "proposal/log_weight": ("nat", "log p(x, z) - log proposal(z); the log of its mean exponential estimates log p(x)"),
    "proposal/log_likelihood": ("nat", "log p(x | z) of the whole sentence; not log p(x)"),
    "prior/z": ("1", "codes drawn from the prior"),
    "evidence/log_px": ("nat", "estimate of log p(x) of the sentence, its end included"),
    "evidence/se": ("nat", "Monte Carlo standard error of log_px"),
    "evidence/khat": ("1", "Pareto shape of the importance weights' tail"),
    "evidence/khat_threshold": ("1", "k-hat at or above which log_px is not to be trusted"),
    "evidence/ess": ("draws", "effective sample size of the importance weights"),
    "evidence/num_samples": ("draws", "importance draws used"),
    "evidence/rounds": ("1", "fits of the proposal; of the estimator ladder, the rung that is counted"),
    "evidence/reconstruction": ("nat", "mean of -log p(x | z) over runs of the inference"),
    "evidence/kl_q_prior": ("nat", "KL(inference || prior); a lower estimate unless metrics.json names another method"),
    "evidence/kl_posterior_prior": ("nat", "KL(posterior || prior) by self-normalised importance weights"),
    "evidence/kl_q_posterior": ("nat", "KL(inference || posterior), by the same method"),
    "evidence/negative_share": ("1", "share of runs whose map has a negative determinant (estimator jacobian)"),
    "evidence/smallest_eigenvalue": ("1", "smallest eigenvalue of a step's Jacobian; at or below 0 a step folds"),
    "evidence/gradients": ("1", "gradients of log p(x | z) in z that the estimate took, draws that decided included"),
    "evidence/evaluations": ("1", "evaluations of log p(x | z) that the estimate took besides"),
    "evidence/bennett_lower": ("nat", "lower end of Bennett's 95% interval of log p(x); NaN where it says nothing"),
    "evidence/bennett_upper": ("nat", "upper end of Bennett's 95% interval of log p(x); NaN where it says nothing"),
    "evidence/upper": ("nat", "approximate upper bound of log p(x), bidirectional Monte Carlo from resampled draws"),
    "evidence/upper_se": ("nat", "its Monte Carlo standard error over chains"),
    "evidence/upper_reverse": ("nat", "approximate upper bound of log p(x) by reverse importance sampling"),
    "evidence/upper_reverse_se": ("nat", "its Monte Carlo standard error over chains"),
    "simulated/num_tokens": ("tokens", "predicted tokens of a sentence that the model wrote"),
    "simulated/log_px": ("nat", "lower bound of its log p(x), by the estimator of the evaluation"),
    "simulated/se": ("nat", "Monte Carlo standard error of log_px"),
    "simulated/khat": ("1", "Pareto shape of the importance weights' tail"),
    "simulated/khat_threshold": ("1", "k-hat at or above which log_px is not to be trusted"),
    "simulated/rounds": ("1", "fits of the proposal; of the estimator ladder, the rung that is counted"),
    "simulated/upper": ("nat", "upper bound of log p(x) by bidirectional Monte Carlo from the exact code"),
    "simulated/upper_se": ("nat", "its Monte Carlo standard error over chains"),
    "simulated/upper_reverse": ("nat", "upper bound of log p(x) by reverse importance sampling from the exact code"),
    "simulated/upper_reverse_se": ("nat", "its Monte Carlo standard error over chains"),
    "trajectory/energy": ("nat", "-log p(x, z_k), mean over the runs of a sentence"),
    "trajectory/kl_posterior": ("nat", "KL(q_k || posterior), a lower estimate from a Gaussian entropy"),
    "trajectory/gradient_norm": ("nat", "norm of the gradient of log p(x, z_k) in z, mean over runs"),
    "trajectory/distance": ("1", "distance of z_k from z_0, mean over runs"),
    "trajectory/negative_log_px": ("nat", "-log p(x) of the sentence"),
    "constant_data/text": ("1", "the sentence"),
    "constant_data/n_tokens": ("tokens", "predicted tokens, the end of the sentence included"),
}  # fmt: skip
"""Units and meaning of every variable that is written, by group and name."""


class ExportArguments(TypedDict):
    """What ``netcdf.export`` takes, but for the attributes."""

    groups: dict[str, dict[str, Any]]
    dims: dict[str, Sequence[str]]
    coords: dict[str, Any]


@dataclass(frozen=True)
class Reconstruction:
    """A sentence and what its codes decode to.

    Attributes:
        original: The sentence.
        decoded: Sentences decoded from draws of its code.
    """

    original: str
    decoded: Sequence[str]


@dataclass(frozen=True)
class Interpolation:
    """Two sentences and what is decoded on the way from the code of one to that of the other.

    Attributes:
        first: Where it starts.
        last: Where it ends.
        decoded: Sentences, those of both codes included.
    """

    first: str
    last: str
    decoded: Sequence[str]


@dataclass(frozen=True)
class Texts:
    """Sentences a model wrote, for the report.

    Attributes:
        samples: Sentences for codes drawn from the prior.
        interpolations: Ways from held-out sentences to others.
        reconstructions: Held-out sentences and their decodings.
    """

    samples: Sequence[str] = ()
    interpolations: Sequence[Interpolation] = ()
    reconstructions: Sequence[Reconstruction] = ()


def export_arguments(
    evaluation: Evaluation, texts: Sequence[str], prior_z: Tensor | None = None
) -> ExportArguments:
    """Arrange an evaluation in the groups that ArviZ knows.

    ``posterior`` holds the inference's draws of z and ``proposal`` the importance sampler's, with
    ``log_weight`` and ``log_likelihood``; the two follow different laws. A model without codes has no
    ``posterior`` and no z. There is on purpose no group ``log_likelihood``: ``az.loo`` would make of it a
    harmonic mean over latents; give ``diagnostics.elpd`` the group ``evidence``. In ``trajectory`` are means
    over chains of a few sentences, at steps 0 (the prior) to K; no gradient is taken at the last.

    Args:
        evaluation: What to arrange.
        texts: The sentences, in the order of its table.
        prior_z: Draws of a prior that is not N(0, I), shape [m, D]; go into the group ``prior``.

    Raises:
        ValueError: If there is not one text per sentence.
    """
    table = evaluation.table
    if len(texts) != len(table):
        raise ValueError(
            f"an export needs the text of every sentence; got {len(texts)} texts for {len(table)} sentences."
        )
    evidence = {
        name: table[name].to_numpy()
        for name in (*EVIDENCE, *BENNETT, *FOLDING, *SPENT, *UPPER)
        if name in table
    }
    dims: dict[str, Sequence[str]] = dict.fromkeys(evidence, ("sentence",))
    coords: dict[str, Any] = {"sentence": table["id"].to_numpy()}
    proposal = evaluation.proposal
    keep = _affordable(proposal.z)
    groups: dict[str, dict[str, Any]] = {
        "evidence": evidence,
        "proposal": {
            "log_weight": _array(proposal.log_weight[:keep])[None],
            "log_likelihood": _array(proposal.log_likelihood[:keep])[None],
        },
        "constant_data": {"text": np.array(texts, dtype=object), "n_tokens": table["num_tokens"].to_numpy()},
    }
    dims["proposal/log_likelihood"] = ("chain", "draw", "sentence")
    if evaluation.units.of:
        groups["proposal"]["z"] = _array(proposal.z[:keep])[None]
        groups["posterior"] = {
            "z": _replicated(_array(evaluation.chains.z[: _affordable(evaluation.chains.z)]))
        }
    if evaluation.simulated is not None:
        own = {str(name): evaluation.simulated[name].to_numpy() for name in evaluation.simulated}
        groups["simulated"] = own
        dims |= {f"simulated/{name}": ("simulated_sentence",) for name in own}
    if prior_z is not None:
        groups["prior"] = {"z": _array(prior_z)[None]}
        dims["prior/z"] = ("chain", "draw", "z_dim")
    if evaluation.trace is not None:
        groups["trajectory"], trajectory_dims = _trajectory(evaluation.trace)
        dims |= trajectory_dims
        coords["traced_sentence"] = table["id"].to_numpy()[evaluation.trace.sentence]
    return {"groups": groups, "dims": dims, "coords": coords}


def write_netcdf(
    path: Path,
    evaluation: Evaluation,
    texts: Sequence[str],
    attrs: Mapping[str, str | int | float] | None = None,
    prior_z: Tensor | None = None,
) -> None:
    """Write ``export_arguments`` to a netCDF file, whole or not at all; every variable says what it is."""
    arguments = export_arguments(evaluation, texts, prior_z)
    data = export(**arguments, attrs=attrs)
    for group, variables in arguments["groups"].items():
        for name in variables:
            units, description = ABOUT[f"{group}/{name}"]
            data[group][name].attrs.update(units=units, description=description)
    to_netcdf(data, path)


def write_outputs(
    folder: Path,
    evaluation: Evaluation,
    sentences: Sequence[str],
    provenance: Mapping[str, Any],
    *,
    texts: Texts | None = None,
    prior_z: Tensor | None = None,
    noise_scale: float | None = None,
) -> dict[str, Any]:
    """Write all that an evaluation found into a folder, from which ``write_report`` makes the page.

    ``metrics.json`` (the headline numbers, what ``latent_space.describe`` adds, and the provenance; a number
    that is not finite is null), ``sentences.csv``, ``inference.nc`` and ``samples.json``, each replaced whole.

    Args:
        folder: Exists already.
        evaluation: What to write.
        sentences: The text of every sentence, in the order of its table.
        provenance: JSON-able; ``configuration``, ``versions``, ``seed``, ``data_digest``, ``command``.
        texts: Sentences the model wrote.
        prior_z: Draws of a prior that is not N(0, I), shape [m, D]; a few thousand.
        noise_scale: The noise scale of the inference in evaluation, if it has one.

    Returns:
        What went into ``metrics.json``.

    Raises:
        ValueError: If there is not one text per sentence.
    """
    metrics = {**evaluation.metrics, **describe(evaluation, prior_z, noise_scale), "provenance": provenance}
    attrs = {"provenance": json.dumps(finite(provenance), ensure_ascii=False)}
    write_netcdf(folder / "inference.nc", evaluation, sentences, attrs, prior_z)
    with atomic_path(folder / "sentences.csv") as temporary:
        evaluation.table.assign(text=list(sentences)).to_csv(temporary, index=False)
    write_json(folder / "samples.json", asdict(texts or Texts()))
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write strict JSON, whole or not at all; what is not finite becomes null."""
    with atomic_path(path) as temporary:
        text = json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The same JSON-able value with None for every number that is not finite.

    Example:
        >>> finite({"a": [1.0, math.nan], "b": (2, -math.inf)})
        {'a': [1.0, None], 'b': [2, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trajectory(trace: StepTrace) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
    """Variables on one axis of K + 1 positions, and their axes."""
    nothing = np.full((len(trace.sentence), 1), np.nan)
    by_step = {
        "energy": -trace.log_joint,
        "kl_posterior": trace.kl_posterior,
        "gradient_norm": np.concatenate([trace.grad_norm, nothing], axis=1),
        "distance": np.concatenate([np.zeros_like(nothing), trace.distance], axis=1),
    }
    dims: dict[str, Sequence[str]] = {f"trajectory/{name}": ("traced_sentence", "step") for name in by_step}
    dims["negative_log_px"] = ("traced_sentence",)
    return {**by_step, "negative_log_px": trace.negative_log_px}, dims


def _affordable(z: Tensor) -> int:
    """How many draws [S, n, D] of each sentence are kept."""
    return min(len(z), max(2, MOST_VALUES // max(1, z[0].numel())))


def _replicated(z: NDArray[Any]) -> NDArray[Any]:
    """Independent draws [M, ...] filed as [chains, draws, ...]; what does not fill a chain is left out."""
    chains = REPLICATES if len(z) >= 2 * REPLICATES else 1
    draws = len(z) // chains
    return z[: chains * draws].reshape(chains, draws, *z.shape[1:])


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array.astype(np.float32) if array.dtype == np.float64 else array
