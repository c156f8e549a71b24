"""Validated: what a validation found, in words, as training shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sri_pyro.config.settings import Config
from sri_pyro.evaluation.verdicts.likelihood import FAILED_BAD
from sri_pyro.wording import fixed

Validation = Mapping[str, Any]
"""A record of the kind ``validation``; older runs lack ``nll_se`` and the shares of k-hat."""


def found(validation: Validation, codes: bool) -> str:
    """The numbers of one validation as a line.

    Args:
        validation: The record.
        codes: Whether the model has z; without it log p(x) is exact, and there is nothing else to tell.

    Example:
        >>> record = {"nll": 27.0215, "nll_se": 1.04, "ppl": 27.91, "kl_posterior_prior": 3.2, "reconstruction": 24.5,
        ...     "khat": 0.55, "khat_threshold": 0.525, "khat_share_below": 0.47}
        >>> print(found(record, codes=True))
        validation nll 27.021 ± 1.040, perplexity 27.91, KL(posterior || prior) 3.200, reconstruction 24.50, k-hat below
        0.53 for 47.0% of sentences: do not trust nll, perplexity and KL
        >>> print(found(record, codes=False))
        validation nll 27.021 ± 1.040, perplexity 27.91
    """
    text = f"validation nll {_nll(validation, 3)}, perplexity {fixed(validation['ppl'], 2)}"
    if not codes:
        return text
    return (
        f"{text}, KL(posterior || prior) {fixed(validation['kl_posterior_prior'], 3)}, reconstruction "
        f"{fixed(validation['reconstruction'], 2)}, {_khat(validation)}"
    )


def ended(validations: Iterable[Validation], config: Config, out: Path) -> list[str]:
    """What is said at the end of training: its best validation, and a note where that may not be the best.

    Args:
        validations: All records.
        config: Of the run.
        out: Its folder.
    """
    select, codes = config.training.options["select"], config.latent_dim > 0
    best = min(validations, key=lambda record: record[select] if math.isfinite(record[select]) else math.inf)
    text = (
        f"trained: {out}; best {'' if select == 'nll' else f'by {select}, with '}validation nll {_nll(best, 2)} nats "
        f"per sentence, perplexity {fixed(best['ppl'], 2)}"
    )
    text += f", KL(posterior || prior) {fixed(best['kl_posterior_prior'], 2)} nats" if codes else ""
    text += f", after epoch {best['epoch']:g}"
    if not codes:
        return [text]
    lines = [f"{text}; {_khat(best)}"]
    if select == "nll" and best.get("khat_share_below", 1.0) < 0.5:
        lines.append(
            f"epoch {best['epoch']:g} was chosen by numbers of which more than half rest on weights that fail, so that "
            "another may be better: raise validation.num_samples, and judge this one by sri-pyro evaluate "
            f"{out} --set evaluation.estimator=annealed"
        )
    return lines


def _nll(validation: Validation, decimals: int) -> str:
    """With its standard error, where there is one: one sentence has none."""
    error = f" ± {fixed(validation['nll_se'], decimals)}" if "nll_se" in validation else ""
    return f"{fixed(validation['nll'], decimals)}{error}"


def _khat(validation: Validation) -> str:
    """For how many sentences the importance weights pass, and which numbers rest on those that fail."""
    if "khat_share_below" not in validation:
        return f"median k-hat {validation['khat']:.2f}"
    share = validation["khat_share_below"]
    text = f"k-hat below {validation['khat_threshold']:.2f} for {share:.1%} of sentences"
    return text + (": do not trust nll, perplexity and KL" if 1 - share > FAILED_BAD else "")
