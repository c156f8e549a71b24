"""An evaluation on disk: one file to read it back whole, and its netCDF and CSV for other readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sri_pyro import checkpoint
from sri_pyro.checkpoint import atomic_path
from sri_pyro.evaluation import Evaluation
from sri_pyro.evaluation.diagnostics import export, to_netcdf
from sri_pyro.evaluation.evaluate import Chains, StepTrace
from sri_pyro.evaluation.evidence import Weighted
from sri_pyro.evaluation.metrics import ActiveUnits


def save_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write every table and tensor of an evaluation; ``load_evaluation`` reads it back."""
    lengths = torch.tensor([len(row) for row in evaluation.tokens])
    flat = torch.tensor([token for row in evaluation.tokens for token in row])
    table = {name: torch.tensor(column.to_numpy()) for name, column in evaluation.table.items()}
    trace = {} if evaluation.trace is None else vars(evaluation.trace)
    tensors = {
        **checkpoint.prefixed("table", {str(name): values for name, values in table.items()}),
        **checkpoint.prefixed("chains", _tensors(vars(evaluation.chains))),
        **checkpoint.prefixed("proposal", _tensors(vars(evaluation.proposal))),
        **checkpoint.prefixed("trace", {name: torch.tensor(values) for name, values in trace.items()}),
        **checkpoint.prefixed("tokens", {"flat": flat, "lengths": lengths}),
    }
    header = {
        "columns": [str(name) for name in evaluation.table.columns],
        "metrics": evaluation.metrics,
        "units": asdict(evaluation.units),
    }
    checkpoint.save(path, tensors, header)


def load_evaluation(path: Path) -> Evaluation:
    """Read what ``save_evaluation`` wrote.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    tensors, header = checkpoint.load(path)
    table = checkpoint.part("table", tensors)
    trace = {name: values.numpy() for name, values in checkpoint.part("trace", tensors).items()}
    tokens = checkpoint.part("tokens", tensors)
    return Evaluation(
        table=pd.DataFrame({name: table[name].numpy() for name in header["columns"]}),
        metrics=header["metrics"],
        units=ActiveUnits(**header["units"]),
        chains=Chains(**checkpoint.part("chains", tensors)),
        proposal=Weighted(**checkpoint.part("proposal", tensors)),
        trace=StepTrace(**trace) if trace else None,
        tokens=[row.tolist() for row in torch.split(tokens["flat"], tokens["lengths"].tolist())],
    )


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def write_sentences(path: Path, evaluation: Evaluation, texts: Sequence[str]) -> None:
    """Write the table of sentences as CSV, their text in the last column."""
    with atomic_path(path) as temporary:
        evaluation.table.assign(text=list(texts)).to_csv(temporary, index=False)


def write_netcdf(path: Path, evaluation: Evaluation, texts: Sequence[str], attrs: Mapping[str, str]) -> None:
    """Write draws, weights and numbers in the layout that ArviZ knows; sentences are labelled by their id."""
    table, proposal = evaluation.table, evaluation.proposal
    evidence = {name: table[name].to_numpy() for name in ("log_px", "se", "khat", "ess")}
    groups: dict[str, dict[str, Any]] = {
        "posterior": {"z": _one_chain(evaluation.chains.z)},
        "proposal": {"z": _one_chain(proposal.z), "log_weight": _one_chain(proposal.log_weight)},
        "log_likelihood": {"x": _one_chain(proposal.log_likelihood)},
        "evidence": evidence,
        "constant_data": {"n_tokens": table["num_tokens"].to_numpy(), "text": np.asarray(texts, dtype=str)},
    }
    dims: dict[str, Sequence[str]] = {}
    coords = {"sentence": table["id"].to_numpy()}
    if evaluation.trace is not None:
        trace = evaluation.trace
        groups["trajectory"] = {
            "energy": -trace.log_joint,
            "gradient_norm": trace.grad_norm,
            "distance": trace.distance,
            "kl_posterior": trace.kl_posterior,
        }
        # Means over chains, of a few sentences: axes of their own. The gradient is met before a step, the
        # distance after it.
        for name, step in {
            "energy": "position",
            "kl_posterior": "position",
            "gradient_norm": "step",
            "distance": "step",
        }.items():
            dims[f"trajectory/{name}"] = ("traced_sentence", step)
        coords["traced_sentence"] = table["id"].to_numpy()[trace.sentence]
    to_netcdf(export(groups, dims, coords, dict(attrs)), path)


def _one_chain(values: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    array: np.ndarray[Any, np.dtype[Any]] = values.detach().cpu().numpy()[None]
    return array
