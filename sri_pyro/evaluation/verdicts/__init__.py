"""Verdicts: what the numbers of an evaluation say in plain language, and what to do about it.

Pure functions of the dictionary in ``metrics.json``, so that page, command line and tests say the same; a file for
each topic. Every threshold is a named constant with its reason. A number that is missing (null) or not finite is
unknown.
"""

from sri_pyro.evaluation.verdicts.judging import judge
from sri_pyro.evaluation.verdicts.likelihood import likelihood_is_trusted, refused_sentences
from sri_pyro.evaluation.verdicts.reading import estimate, number, rounded
from sri_pyro.evaluation.verdicts.verdict import Level, Verdict, spoken

__all__ = [
    "Level",
    "Verdict",
    "estimate",
    "judge",
    "likelihood_is_trusted",
    "number",
    "refused_sentences",
    "rounded",
    "spoken",
]
