"""Judged: what one evaluated run says, read from its folder and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from sri_pyro.comparing.jobs import seconds_of_training
from sri_pyro.comparing.spent import Spent, spent
from sri_pyro.comparing.standing import code_of
from sri_pyro.comparing.systems import Planned
from sri_pyro.config import load_run
from sri_pyro.evaluation.files import check_metrics
from sri_pyro.evaluation.verdicts import judge, likelihood_is_trusted, number
from sri_pyro.evaluation.verdicts.verdict import Verdict

TOLD: Final = {
    "likelihood": ("bad",),
    "code": ("bad", "caution"),
    "jensen": ("bad", "caution"),
    "noise": ("caution",),
}
"""Verdicts that a comparison repeats, by topic and level: those without which a row would be read wrongly."""
AVERAGED: Final = ("reconstruction", "kl_q_prior", "kl_posterior_prior")
"""Columns of every sentence that a row gives the mean of, beside log p(x)."""

COLUMNS: Final = ("id", "num_tokens", "log_px", "se", "khat", "khat_threshold", *AVERAGED)
"""What is read of every sentence."""


@dataclass(frozen=True)
class Judged:
    """One run of a system, evaluated.

    Attributes:
        run: Which.
        metrics: ``metrics.json``.
        table: ``sentences.csv``.
        cost: Parameters and passes.
        seconds: Wall time of training, all its starts together; None if it was not trained from here.
        trained_by: A digest of the code that trained it.
        judged_by: Likewise.
    """

    run: Planned
    metrics: Mapping[str, Any]
    table: pd.DataFrame
    cost: Spent
    seconds: float | None
    trained_by: str
    judged_by: str

    @classmethod
    def read(cls, run: Planned) -> Judged:
        """Read a run's folder.

        Raises:
            ValueError: If its files are damaged, or do not belong together.
        """
        path = run.folder.path / "metrics.json"
        metrics = json.loads(path.read_text(encoding="utf-8"))
        check_metrics(metrics, path)
        table = read_table(run.folder.path / "sentences.csv")
        found, said = -table["log_px"].mean(), number(metrics["nll"]["value"])
        same = math.isclose(found, said, rel_tol=1e-9) or not (math.isfinite(found) and math.isfinite(said))
        if len(table) != metrics["perplexity"]["num_sentences"] or not same:
            raise ValueError(
                f"{run.folder.path / 'sentences.csv'} does not belong to the metrics.json beside it; remove that, "
                "and compare again."
            )
        return cls(
            run=run,
            metrics=metrics,
            table=table,
            cost=spent(load_run(run.folder.path)),
            seconds=seconds_of_training(run.beside("json")),
            trained_by=code_of(run.folder.read_record()),
            judged_by=code_of(metrics["provenance"]),
        )

    @property
    def trusted(self) -> bool:
        """Whether numbers that rest on importance weights may be shown as estimates."""
        return likelihood_is_trusted(self.metrics)

    @property
    def verdicts(self) -> list[Verdict]:
        """Those of its evaluation without which its row would be read wrongly."""
        return [verdict for verdict in judge(self.metrics) if verdict.level in TOLD.get(verdict.topic, ())]

    def column(self, name: str) -> Tensor:
        """A column of the table of sentences, shape [n]."""
        return torch.tensor(self.table[name].to_numpy(), dtype=torch.float64)

    @property
    def passing(self) -> Tensor:
        """Sentences whose k-hat is below its threshold, shape [n]."""
        return self.column("khat") < self.column("khat_threshold")

    def record(self) -> dict[str, Any]:
        """Its numbers, and digests of all that they were made from."""
        origin = self.metrics["provenance"]
        numbers = (
            "perplexity",
            "nll",
            *AVERAGED,
            "mutual_information",
            "active_units",
            "khat",
            "ess",
            "jensen",
        )
        return {
            "seed": self.run.seed,
            "folder": f"{self.run.system}/{self.run.folder.path.name}",
            **{name: self.metrics[name] for name in numbers},
            "verdicts": [f"{verdict.mark}: {verdict.headline}" for verdict in self.verdicts],
            "cost": {**asdict(self.cost), "training_seconds": self.seconds},
            "digests": {
                "configuration": self.run.folder.read_record()["configuration_digest"],
                "evaluation_configuration": origin["configuration_digest"],
                "data": origin["data_digest"],
                "weights": origin["weights"]["digest"],
                "trained_by": self.trained_by,
                "evaluated_by": self.judged_by,
            },
        }


def read_table(path: Path) -> pd.DataFrame:
    """The columns of ``sentences.csv`` that are compared, to the last bit, which not every parser of pandas keeps.

    Raises:
        ValueError: If it is not whole.
    """
    try:
        return pd.read_csv(path, usecols=list(COLUMNS), dtype=str).astype(float)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a table of sentences ({said}); remove metrics.json beside it, and compare again."
        ) from None


def require_same_sentences(found: Sequence[Judged]) -> None:
    """See that all runs were judged on the same sentences of the same data.

    Raises:
        ValueError: If not.
    """
    for other in found[1:]:
        same_data = (
            other.metrics["provenance"]["data_digest"] == found[0].metrics["provenance"]["data_digest"]
        )
        same_rows = found[0].table[["id", "num_tokens"]].equals(other.table[["id", "num_tokens"]])
        if not (same_data and same_rows):
            raise ValueError(
                f"{found[0].run.name} and {other.run.name} were judged on other sentences; give both the same "
                "data and [evaluation], and compare again."
            )
