"""The bridge to ArviZ, the only file that imports it: PSIS, held-out ELPD, summaries, convergence.

Two generations are in use and both are served: 0.22-0.23 (``InferenceData``) and 1.x (xarray's
``DataTree``, Python 3.12 and later). ArviZ takes seconds to import, so functions import it when they
run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sri_pyro.numerics.weights import khat_threshold

if TYPE_CHECKING:
    import pandas as pd

InferenceResult: TypeAlias = Any
"""``arviz.InferenceData`` with ArviZ 0.22-0.23, ``xarray.DataTree`` with ArviZ 1.x."""


def load_arviz() -> ModuleType:
    """Import ArviZ, without the notices that 0.23 prints about the coming of 1.x."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\\s*ArviZ is undergoing a major refactor", FutureWarning)
        warnings.filterwarnings("ignore", ".*alias_mapping")  # of matplotlib 3.11, from ArviZ 0.23
        return import_module("arviz")


def is_classic(az: ModuleType) -> bool:
    """True for the generation of ``InferenceData`` (1.x answers to that name too, with a warning)."""
    return "InferenceData" in vars(az)


def psis(log_weights: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth log weights with ArviZ's own PSIS; the cross-check of ``numerics.weights``.

    ``psislw`` takes log weights in ArviZ 0.23 but log likelihoods, which it negates, in 1.x. This
    takes log weights with both. The two also cut the tail differently (0.23 rounds its length up,
    as the paper does, 1.x down), so that k-hat is the same only where 3 sqrt(S) (or S / 5, up to 225
    draws) is whole; elsewhere it moves by about 0.01, at S = 512 by 0.15 at worst.

    Args:
        log_weights: Nats, shape [S, B]: draws first.

    Returns:
        Smoothed log weights, normalised to sum to one over the draws, shape [S, B]; and k-hat, [B].

    Raises:
        ValueError: If the tail cannot be fitted: 1.x refuses short and constant tails, for which
            0.23 gives +inf.

    Example:
        >>> equal_but_one = np.append(np.linspace(0.0, 0.1, 99), 8.0)
        >>> smoothed, khat = psis(equal_but_one[:, None])
        >>> bool(khat[0] > 0.5), round(float(np.exp(smoothed).sum()), 6)
        (True, 1.0)
    """
    az = load_arviz()
    draws_last = np.asarray(log_weights, dtype=np.float64).T
    if is_classic(az):
        smoothed, khat = az.psislw(draws_last)
    else:
        array_stats = import_module("arviz_stats.base").array_stats
        smoothed, khat = array_stats.psislw(-draws_last, axis=-1)
    return np.asarray(smoothed).T, np.asarray(khat)


def elpd(
    log_px: ArrayLike,
    se: ArrayLike,
    khat: ArrayLike,
    *,
    num_samples: int,
    sentences: ArrayLike | None = None,
    name: str = "log_px",
) -> Any:
    r"""Present held-out log-evidence as ArviZ's ``ELPDData``, for ``az.plot_khat`` and ``az.compare``.

    .. math:: elpd = \sum_{i=1}^n \log \hat p(x_i), \qquad se^2 = n \, Var_i(\log \hat p(x_i))

    This is the ELPD itself, on sentences the model was not trained on; ``az.loo`` with a latent
    variable per sentence would instead be a harmonic mean of :math:`p(x|z)`, wrong by tens of nats.
    The sample variance over sentences already contains the Monte Carlo noise of each, so ``se`` is not
    added to it; it is kept as ``result["mc_se"]``. The effective number of parameters is 0 by
    definition, for nothing is fitted to these sentences.

    ``az.compare`` exponentiates its input: with texts of less than e^-700 pass
    ``method="pseudo-BMA"``.

    Args:
        log_px: Nats per sentence, shape [n].
        se: Monte Carlo standard error of each, nats, shape [n].
        khat: Pareto shape of each sentence's weights, shape [n].
        num_samples: Importance samples per sentence, which set the threshold on k-hat. One, as in the table of a
            language model, says that log p(x) is exact: k-hat is -inf and the threshold 0.7.
        sentences: Labels, shape [n]; 0 to n - 1 if None.
        name: What the numbers are called in plots.

    Raises:
        ValueError: If there are fewer than two sentences or no samples, or the arrays differ in length.

    Example:
        >>> result = elpd([-40.0, -42.0], [0.1, 0.1], [0.2, 0.9], num_samples=1000)
        >>> float(result["se"]), bool(result["warning"])
        (2.0, True)
    """
    import xarray as xr

    az = load_arviz()
    columns = {"log_px": np.asarray(log_px), "se": np.asarray(se), "khat": np.asarray(khat)}
    labels = np.arange(columns["log_px"].size) if sentences is None else np.asarray(sentences)
    shapes = {key: value.shape for key, value in {**columns, "sentences": labels}.items()}
    if len(set(shapes.values())) > 1 or labels.ndim != 1 or labels.size < 2:
        raise ValueError(
            "log_px, se, khat and sentences must have one value per sentence, for at least two "
            f"sentences; got shapes {shapes}."
        )
    per_sentence = {
        key: xr.DataArray(value.astype(float), dims="sentence", coords={"sentence": labels}, name=key)
        for key, value in columns.items()
    }
    n, good_k = labels.size, 0.7 if num_samples == 1 else khat_threshold(num_samples)
    common = {
        "se": float(np.sqrt(n * columns["log_px"].var(ddof=1))),
        "n_samples": num_samples,
        "n_data_points": n,
        "warning": bool((columns["khat"] > good_k).any()),
        "good_k": good_k,
        "scale": "log",
        "pareto_k": per_sentence["khat"],
    }
    total, pointwise = float(columns["log_px"].sum()), per_sentence["log_px"].rename(name)
    if is_classic(az):  # a pandas Series; the name of its first entry says which criterion it is
        series = {"elpd_loo": total, "se": common["se"], "p_loo": 0.0, "loo_i": pointwise}
        result = az.ELPDData({**series, **common})
    else:
        kinds = import_module("arviz_stats.utils")
        fields = {"elpd": total, "p": 0.0, "elpd_i": pointwise, **common}
        one_class_for_all = not hasattr(kinds, "ELPDDataLOO")  # ArviZ 1.0; later a class a criterion
        result = kinds.ELPDData(kind="loo", **fields) if one_class_for_all else kinds.ELPDDataLOO(**fields)
    result["mc_se"] = per_sentence["se"]
    return result


def summary_table(
    data: InferenceResult, sentences: Sequence[Any] | None = None, var_names: Sequence[str] = ("z",)
) -> pd.DataFrame:
    """Tabulate posterior moments with their Monte Carlo error, ESS and R-hat, one row per coordinate.

    The columns are unrounded and the same in both generations, which differ in how they compute
    ``ess_tail``. Costs some milliseconds per coordinate: name a few sentences.

    Args:
        data: An :func:`export` with a ``posterior``; at least two chains and four draws for R-hat.
        sentences: Labels of the sentences to tabulate; None for all.
        var_names: Variables of the posterior.

    Returns:
        Columns mean, sd, mcse_mean, ess_bulk, ess_tail, r_hat.
    """
    az = load_arviz()
    coords = None if sentences is None else {"sentence": list(sentences)}
    table: pd.DataFrame = az.summary(data, var_names=list(var_names), coords=coords, round_to="none")
    return table[["mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]]


def convergence(draws: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Whether Markov chains have met, and how many independent draws theirs are worth.

    Args:
        draws: Shape [chains, draws, ...], at least two chains and four draws of each.

    Returns:
        ``rhat`` (of ranks, split), ``ess_bulk``, ``ess_tail`` (the smaller of those for the quantiles of 5 % and
        95 %), ``mcse_mean`` and ``mcse_sd``, each of shape [...].

    Raises:
        ValueError: If there are fewer chains or draws.

    Example:
        >>> found = convergence(np.random.default_rng(0).normal(size=(4, 100, 3)))
        >>> found["rhat"].shape, bool((found["rhat"] < 1.05).all())
        ((3,), True)

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner (2021), Rank-normalization, folding, and localization.
    """
    import xarray as xr

    array = np.asarray(draws, dtype=np.float64)
    if array.ndim < 2 or array.shape[0] < 2 or array.shape[1] < 4:
        raise ValueError(
            "convergence is judged by at least two chains of at least four draws, shape [chains, draws, ...]; got "
            f"{array.shape}."
        )
    az = load_arviz()
    axes = ("chain", "draw", *(f"axis_{i}" for i in range(array.ndim - 2)))
    data = xr.Dataset({"x": (axes, array)})
    with _without_numba(az):
        found = {
            "rhat": az.rhat(data, method="rank"),
            "ess_bulk": az.ess(data, method="bulk"),
            "ess_tail": az.ess(data, method="tail", prob=(0.05, 0.95)),
            "mcse_mean": az.mcse(data, method="mean"),
            "mcse_sd": az.mcse(data, method="sd"),
        }
    return {name: np.asarray(values["x"]) for name, values in found.items()}


@contextmanager
def _without_numba(az: ModuleType) -> Iterator[None]:
    """Keep ArviZ 0.23 from Numba, where that is installed: with it ``mcse`` of a deviation fails from NumPy 2.4 on."""
    numba = getattr(az, "Numba", None) if is_classic(az) else None
    if numba is None or not numba.numba_flag:
        yield
        return
    numba.numba_flag = False
    try:
        yield
    finally:
        numba.numba_flag = True
