"""Model criticism apart from inference criticism: the findings ``criticism``.

Codes of the posterior and texts written from the prior speak of the model alone; codes of an inference that the
posterior does not share speak of the inference; texts written at codes of held-out sentences tell a decoder that is at
fault from a prior that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sri_pyro.evaluation.code_criticism import ABOUT, TESTS, CodeTests, compare_codes
from sri_pyro.evaluation.findings import Findings, Variable
from sri_pyro.evaluation.text_criticism import TextChecks, check_texts
from sri_pyro.evaluation.text_statistics import STATISTICS, Words

REPLICATES = 399
"""Of eight statistics taken together the least p-value is then 0.02."""


def criticise(
    codes: Mapping[str, Tensor],
    prior: Callable[[int], Tensor],
    whiten: Callable[[Tensor], Tensor],
    texts: Mapping[str, Sequence[Words]],
    held_out: Sequence[Words],
    training: Sequence[Words],
    replicates: int = REPLICATES,
) -> Findings:
    """Test codes against the prior, and texts against held-out ones.

    Args:
        codes: One code of each of the same sentences by law, ``posterior`` and ``inference``, each [n, D]; none of a
            model without codes.
        prior: Maps a number to as many draws of the prior.
        whiten: Maps codes to units of the prior.
        texts: Sentences that the model wrote by where their codes came from, ``prior`` and ``posterior``.
        held_out: Held-out sentences.
        training: Those trained on.
        replicates: Simulations, and halvings of the held-out text.

    Raises:
        ValueError: If there are too few sentences to compare.
    """
    by_law = {law: compare_codes(z, prior, whiten, replicates) for law, z in codes.items()}
    by_source = {
        source: check_texts(written, held_out, training, replicates) for source, written in texts.items()
    }
    numbers: dict[str, Any] = {
        "replicates": replicates,
        "num_codes": len(next(iter(codes.values()))) if codes else 0,
        "codes": {law: _code_numbers(found) for law, found in by_law.items()},
        "texts": {source: _text_numbers(found) for source, found in by_source.items()},
        "num_texts": {source: int(found.lengths[0].sum()) for source, found in by_source.items()},
        "num_held_out": len(held_out),
    }
    groups: dict[str, dict[str, Variable]] = {}
    coords: dict[str, Any] = {}
    if by_law:
        groups |= _code_groups(list(by_law.values()))
        coords |= {"law": list(by_law), "test": list(TESTS)}
    if by_source:
        groups |= _text_groups(by_source)
        coords |= {"source": list(by_source), "statistic": list(STATISTICS)}
    return Findings("criticism", numbers, groups, coords)


def _code_numbers(found: CodeTests) -> dict[str, Any]:
    columns = zip(
        TESTS, found.statistic.tolist(), np.median(found.null, 0).tolist(), found.p, found.p_holm, strict=True
    )
    return {
        name: {"statistic": value, "null_median": typical, "p": p, "p_holm": adjusted, "about": ABOUT[name]}
        for name, value, typical, p, adjusted in columns
    }


def _text_numbers(found: TextChecks) -> dict[str, Any]:
    return {
        name: {
            "value": found.value[i],
            "held_out": found.held_out[i],
            "discrepancy": found.discrepancy[i],
            "control_median": float(np.median(found.control[:, i])),
            "p": found.p[i],
            "p_holm": found.p_holm[i],
            "about": statistic.description,
        }
        for i, (name, statistic) in enumerate(STATISTICS.items())
    }


def _code_groups(found: Sequence[CodeTests]) -> dict[str, dict[str, Variable]]:
    def stacked(name: str) -> Any:
        return np.stack([getattr(each, name) for each in found])

    return {
        "codes": {
            "statistic": Variable(stacked("statistic"), ("law", "test"), "1", "statistics of the codes"),
            "null": Variable(stacked("null"), ("law", "replicate", "test"), "1", "those of draws of the prior"),
            "p_holm": Variable(stacked("p_holm"), ("law", "test"), "1", "p-values, for the tests of a law at once"),
            "eigenvalues": Variable(
                stacked("eigenvalues"), ("law", "rank"), "1", "of the codes' covariance, in units of the prior's"
            ),
            "eigenvalue_band": Variable(
                stacked("eigenvalue_band"), ("law", "end", "rank"), "1", "simultaneous 95 % band of the prior's draws"
            ),
            "squared_radius": Variable(
                stacked("squared_radius"), ("law", "code"), "1", "of codes, in units of the prior"
            ),
            "nearest_code": Variable(
                stacked("nearest_code"), ("law", "code"), "1", "distance of a code to its nearest other one"
            ),
            "nearest_prior": Variable(
                stacked("nearest_prior"), ("law", "prior_draw"), "1", "distance of a prior draw to its nearest code"
            ),
        }
    }  # fmt: skip


def _text_groups(found: Mapping[str, TextChecks]) -> dict[str, dict[str, Variable]]:
    checks = list(found.values())
    longest = max(each.lengths.shape[1] for each in checks)
    lengths = np.stack(
        [np.pad(each.lengths, ((0, 0), (0, longest - each.lengths.shape[1]))) for each in checks]
    )
    by_statistic = ("source", "statistic")
    return {
        "texts": {
            "discrepancy": Variable(
                np.array([each.discrepancy for each in checks]), by_statistic, "1",
                "mean discrepancy between the sentences and halves of the held-out text",
            ),
            "control": Variable(
                np.stack([each.control for each in checks]), ("source", "halving", "statistic"), "1",
                "discrepancy between two halves of the held-out text",
            ),
            "p_holm": Variable(
                np.array([each.p_holm for each in checks]), by_statistic, "1", "p-values, for all statistics at once"
            ),
            "lengths": Variable(
                lengths, ("source", "of", "num_words"), "sentences",
                "by number of words: of the sentences, and of the held-out text scaled to as many",
            ),
        }
    }  # fmt: skip
