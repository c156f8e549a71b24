"""What ``train`` says of its validations: on how many sentences they rest, and that they blew up."""

import json
import re
from pathlib import Path
from typing import Any

from sri_pyro.config import parse_config
from sri_pyro.config.validated import ended, found
from tests.cli.helpers import Say
from tests.configurations import PCFG

PASSED: dict[str, Any] = {
    "kind": "validation", "epoch": 1.0, "nll": 30.0, "nll_se": 1.5, "ppl": 20.0, "kl_posterior_prior": 2.0,
    "reconstruction": 28.0, "khat": 0.3, "khat_threshold": 0.525, "khat_share_below": 0.95,
}  # fmt: skip
FAILED = PASSED | {"epoch": 2.0, "nll": 20.0, "reconstruction": 29.0, "khat_share_below": 0.4}
DOUBT = ": do not trust nll, perplexity and KL"


def said(*records: dict[str, Any], select: str = "nll", dim: int = 2) -> list[str]:
    config = parse_config(PCFG, [f"training.select={select}", f"model.prior.dim={dim}"])
    return ended(records, config, Path("runs/x"))


def test_numbers_that_rest_on_failed_weights_are_marked() -> None:
    """Oracle: the share that a report withholds them for, a tenth. Catches a mark that looks at the median."""
    assert found(PASSED, codes=True).endswith(", k-hat below 0.53 for 95.0% of sentences")
    assert found(PASSED | {"khat_share_below": 0.89}, codes=True).endswith(f"for 89.0% of sentences{DOUBT}")
    old = {name: value for name, value in PASSED.items() if not name.startswith("khat_")}
    assert found(old, codes=True).endswith(", median k-hat 0.30")
    assert "k-hat" not in found(PASSED, codes=False)


def test_a_perplexity_of_three_hundred_digits_is_not_printed() -> None:
    assert ", perplexity 1.01e+304, KL" in found(PASSED | {"ppl": 1.0142e304}, codes=True)
    assert ", perplexity 999999.00, KL" in found(PASSED | {"ppl": 999999.0}, codes=True)


def test_a_best_epoch_chosen_by_failed_weights_is_doubted() -> None:
    """Catches a note for whatever epoch fails, and one where the choice does not rest on weights."""
    assert said(PASSED, FAILED | {"nll": 40.0}) == [
        "trained: runs/x; best validation nll 30.00 ± 1.50 nats per sentence, perplexity 20.00, KL(posterior || prior) "
        "2.00 nats, after epoch 1; k-hat below 0.53 for 95.0% of sentences"
    ]
    line, note = said(PASSED, FAILED)
    assert line.endswith(f", after epoch 2; k-hat below 0.53 for 40.0% of sentences{DOUBT}")
    assert note == (
        "epoch 2 was chosen by numbers of which more than half rest on weights that fail, so that another may be "
        "better: raise validation.num_samples, and judge this one by sri-pyro evaluate runs/x --set "
        "evaluation.estimator=annealed"
    )


def test_the_best_epoch_is_the_one_that_was_selected() -> None:
    """Catches the epoch of the lowest nll where the weights kept are those of the best reconstruction."""
    (line,) = said(PASSED, FAILED | {"khat_share_below": 1.0}, select="reconstruction")
    assert "; best by reconstruction, with validation nll 30.00 ± 1.50 nats" in line
    assert ", after epoch 1; " in line
    (line,) = said(PASSED, FAILED, dim=0)
    assert line.endswith("nll 20.00 ± 1.50 nats per sentence, perplexity 20.00, after epoch 2")


def test_training_says_for_how_many_sentences_k_hat_passes(say: Say, config: Path, tmp_path: Path) -> None:
    """Oracle: the share in the history, at every epoch and at the end; errors have as many decimals as numbers."""
    trained = say("train", config, "--out", tmp_path / "run", "--set", "validation.num_samples=100")
    assert trained.code == 0
    assert trained.err.count("note: training.epochs = 2 ends before the noise scale is 1, ") == 1
    assert (
        "WARNING sri_pyro.config.trainer: training.epochs = 2 ends"
        in (tmp_path / "run" / "run.log").read_text()
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    shares = [record["khat_share_below"] for record in lines if record["kind"] == "validation"]
    for epoch, share in enumerate(shares, 1):
        told = rf"epoch {epoch}: validation nll \d+\.\d{{3}} ± \d+\.\d{{3}}, .* k-hat below 0\.50 for {share:.1%} of "
        assert re.search(told, trained.err)
    assert re.search(
        rf"nll \d+\.\d\d ± \d+\.\d\d nats .*for ({'|'.join(f'{s:.1%}' for s in shares)}) of", trained.out
    )


def test_a_training_that_blew_up_fails_in_one_sentence(say: Say, config: Path, tmp_path: Path) -> None:
    """It ended with 0, and said that it was trained."""
    run = tmp_path / "run"
    failed = say("train", config, "--out", run, "--set", "training.learning_rate=1e6")
    assert failed.code == 2
    assert failed.out == ""
    told = [line for line in failed.err.splitlines() if line.startswith("sri-pyro: ")]
    assert len(told) == 1
    assert "training has blown up: the validation after epoch 1 gave nll " in told[0]
    assert "lower learning_rate" in told[0]
    assert (run / "last.safetensors").exists()
    assert not (run / "best.safetensors").exists()
