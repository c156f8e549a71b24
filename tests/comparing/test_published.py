"""Published rows: what was printed, which of it contradicts itself, and beside which runs it may stand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sri_pyro.comparing import published as room
from sri_pyro.comparing.published import beside, published, systems_known


def corpora() -> dict[str, Any]:
    return {corpus["name"]: corpus for corpus in room._table()["corpus"]}


def test_every_corpus_has_every_system() -> None:
    assert len(systems_known()) == 8
    for corpus in corpora().values():
        assert set(corpus["systems"]) == set(systems_known())
        assert corpus["protocol"].keys() <= room.WORDS.keys()


def test_three_rows_contradict_themselves_and_no_other() -> None:
    """Oracle: computed by hand, NLL = log PPL x tokens a sentence; on SNLI 107,581 / 10,000 = 10.758."""
    found = {
        (name, system): published(corpus, system)
        for name, corpus in corpora().items()
        for system in corpus["systems"]
    }
    violating = {key: row.gap for key, row in found.items() if row.violates_jensen}
    assert violating == {
        ("SNLI", "SA-VAE"): pytest.approx(30.12 + 2.34 - math.log(21.49) * 10.7581),
        ("SNLI", "FB-VAE"): pytest.approx(23.36 + 8.48 - math.log(22.00) * 10.7581),
        ("SNLI", "SRI"): pytest.approx(22.24 + 10.02 - math.log(21.21) * 10.7581),
    }
    assert [round(gap, 1) for gap in violating.values() if gap is not None] == [-0.5, -1.4, -0.6]
    assert found["Penn Treebank", "LSTM-LM"].gap is None


def of_penn_treebank(dim: int) -> dict[str, Any]:
    """What an evaluation of the whole of it says."""
    splits = {
        "train": {"sentences": 42068, "tokens": 929589}, "valid": {"sentences": 3370, "tokens": 73760},
        "test": {"sentences": 3761, "tokens": 82430},
    }  # fmt: skip
    return {
        "perplexity": {"num_sentences": 3761, "num_tokens": 82430},
        "active_units": {"of": dim},
        "provenance": {
            "data": {"splits": splits, "vocabulary": {"size": 10002}},
            "configuration": {
                "model": {"decoder": {"kind": "lstm", "embedding": 256, "hidden": 256}},
                "evaluation": {"split": "test"},
            },
        },
    }


def test_the_whole_of_the_published_protocol_shows_its_row() -> None:
    row = beside(of_penn_treebank(32), "FB-VAE").row
    assert row is not None
    assert (row.corpus, row.perplexity, row.reconstruction, row.kl, row.active_units) == (
        "Penn Treebank", 96.35, 94.52, 8.15, 32,
    )  # fmt: skip
    language_model = beside(of_penn_treebank(0), "LSTM-LM").row
    assert language_model is not None
    assert language_model.perplexity == 100.47
    assert beside(of_penn_treebank(32), None) == room.Beside(None, "")


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("provenance.data.splits.train.sentences", 10000, "10,000 training sentences in place of 42,068"),
        ("provenance.data.splits.train.tokens", 929588, "929,588 training tokens in place of 929,589"),
        ("provenance.data.vocabulary.size", 9000, "9,000 entries of the vocabulary in place of 10,002"),
        ("provenance.configuration.model.decoder.hidden", 128, "128 hidden units in place of 256"),
        ("active_units.of", 8, "8 latent units in place of 32"),
        ("perplexity.num_sentences", 1000, "the 1,000 sentences judged (82,430 tokens) are no published test set"),
        ("perplexity.num_tokens", 82431, "the 3,761 sentences judged (82,431 tokens) are no published test set"),
        ("provenance.configuration.evaluation.split", "valid",
         "the 0 sentences judged (0 tokens) are no published test set"),
    ],
)  # fmt: skip
def test_anything_else_shows_none_and_says_why(place: str, value: object, why: str) -> None:
    metrics = of_penn_treebank(32)
    *path, last = place.split(".")
    entry = metrics
    for part in path:
        entry = entry[part]
    assert entry[last] != value
    entry[last] = value
    assert beside(metrics, "SRI") == room.Beside(None, why)


def test_a_model_with_codes_is_no_language_model() -> None:
    assert beside(of_penn_treebank(32), "LSTM-LM").why == "32 latent units in place of 0"
