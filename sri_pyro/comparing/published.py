"""Published: the numbers of a printed table, and whether one may stand beside a run's own."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

WORDS: Final = {
    "train_sentences": "training sentences",
    "train_tokens": "training tokens",
    "valid_sentences": "validation sentences",
    "test_sentences": "test sentences judged",
    "test_tokens": "test tokens judged",
    "vocabulary": "entries of the vocabulary",
    "embedding": "units of the embedding",
    "hidden": "hidden units",
    "latent": "latent units",
}
"""What a protocol may fix, in words."""
PRINTED: Final = 0.005
"""Half of the last printed digit."""


@dataclass(frozen=True)
class Published:
    """A row of a printed table.

    Attributes:
        corpus: Of which data.
        system: The row's name.
        source: Where it is printed.
        perplexity: As printed.
        reconstruction: Nats a sentence; None of a language model.
        kl: KL(q || prior), nats a sentence; None likewise.
        active_units: Without a correction for noise; None likewise.
        nll: Nats a sentence that the perplexity implies: its logarithm times the tokens of a sentence.
    """

    corpus: str
    system: str
    source: str
    perplexity: float
    reconstruction: float | None
    kl: float | None
    active_units: int | None
    nll: float

    @property
    def gap(self) -> float | None:
        """Reconstruction + KL - NLL, nats a sentence: below zero, Jensen's inequality is broken."""
        return (
            None
            if self.reconstruction is None or self.kl is None
            else self.reconstruction + self.kl - self.nll
        )

    @property
    def violates_jensen(self) -> bool:
        """Whether the three printed numbers contradict one another by more than their rounding explains."""
        rounding = 2 * PRINTED + self.nll / math.log(self.perplexity) * PRINTED / self.perplexity
        return self.gap is not None and self.gap < -rounding


@dataclass(frozen=True)
class Beside:
    """What of a printed table stands beside a system.

    Attributes:
        row: Its row; None if it has none, or may not.
        why: Why it may not; empty if the system claims none, or has it.
    """

    row: Published | None
    why: str


def systems_known() -> list[str]:
    """The rows' names.

    Example:
        >>> systems_known()[:2]
        ['LSTM-LM', 'Anneal-VAE']
    """
    return list(dict.fromkeys(name for corpus in _table()["corpus"] for name in corpus["systems"]))


def published(corpus: Mapping[str, Any], system: str) -> Published:
    """A row of a corpus of the table."""
    row, protocol = corpus["systems"][system], corpus["protocol"]
    return Published(
        corpus=corpus["name"],
        system=system,
        source=_table()["source"],
        perplexity=row["perplexity"],
        reconstruction=row.get("reconstruction"),
        kl=row.get("kl"),
        active_units=row.get("active_units"),
        nll=math.log(row["perplexity"]) * protocol["test_tokens"] / protocol["test_sentences"],
    )


def beside(metrics: Mapping[str, Any], name: str | None) -> Beside:
    """The row that a system's file names, where data, sizes and judged sentences are the published ones.

    Args:
        metrics: What ``evaluate`` wrote, with its provenance.
        name: The row; None if the file names none.
    """
    if name is None:
        return Beside(None, "")
    found = facts(metrics)
    corpora = [corpus for corpus in _table()["corpus"] if name in corpus["systems"]]
    test = ("test_sentences", "test_tokens")
    same = [corpus for corpus in corpora if all(corpus["protocol"][key] == found[key] for key in test)]
    if not same:
        return Beside(
            None,
            f"the {found['test_sentences']:,} sentences judged ({found['test_tokens']:,} tokens) are no published "
            "test set",
        )
    row = published(same[0], name)
    wanted = dict(same[0]["protocol"])
    if row.kl is None:
        wanted["latent"] = 0  # a language model's
    other = [
        f"{_count(found[key])} {WORDS[key]} in place of {_count(value)}"
        for key, value in wanted.items()
        if found[key] != value
    ]
    return Beside(None, "; ".join(other)) if other else Beside(row, "")


def facts(metrics: Mapping[str, Any]) -> dict[str, int | None]:
    """What a protocol may fix, of a run; None is unknown. Of the test split, those are counted that were judged."""
    record = metrics["provenance"]
    data, model = record["data"], record["configuration"]["model"]
    judged = record["configuration"]["evaluation"].get("split") == "test"
    splits = data["splits"]
    return {
        "train_sentences": splits["train"]["sentences"],
        "train_tokens": splits["train"]["tokens"],
        "valid_sentences": splits["valid"]["sentences"],
        "test_sentences": metrics["perplexity"]["num_sentences"] if judged else 0,
        "test_tokens": metrics["perplexity"]["num_tokens"] if judged else 0,
        "vocabulary": data["vocabulary"]["size"],
        "embedding": model["decoder"].get("embedding"),
        "hidden": model["decoder"].get("hidden"),
        "latent": metrics["active_units"]["of"],
    }


def _count(value: int | None) -> str:
    return "an unknown number of" if value is None else f"{value:,}"


@cache
def _table() -> dict[str, Any]:
    text = (resources.files("sri_pyro.comparing") / "published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
