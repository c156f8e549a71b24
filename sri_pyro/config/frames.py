"""Frames: what was found about sentences as tables, a row for each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sri_pyro.config.text import Text
from sri_pyro.evaluation.evidence import Weighted
from sri_pyro.numerics.weights import normalised
from sri_pyro.types import Batch


def batch_frame(text: Text, batch: Batch, columns: dict[str, Tensor]) -> pd.DataFrame:
    """One row for every sentence of a batch: its line, its text as it was given, and what was found."""
    texts = [text.lines[line].strip() for line in batch.ids.tolist()]
    rest = {name: values.detach().cpu().numpy() for name, values in columns.items()}
    lead = {"line": batch.ids.numpy() + 1, "text": texts, "num_tokens": batch.lengths.numpy()}
    return pd.DataFrame({**lead, **rest})


def posterior_moments(draws: Weighted) -> tuple[Tensor, Tensor]:
    """Self-normalised posterior mean and standard deviation of z, each [B, D]."""
    weights = normalised(draws.log_weight.double())
    z = draws.z.double()
    mean = torch.einsum("sb,sbd->bd", weights, z)
    variance = torch.einsum("sb,sbd->bd", weights, (z - mean).square())
    return mean, variance.sqrt()


def by_line(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Batches are by length; the reader's order is by line."""
    whole = pd.concat(frames, ignore_index=True)
    return whole.iloc[np.argsort(whole["line"].to_numpy(), kind="stable")].reset_index(drop=True)
