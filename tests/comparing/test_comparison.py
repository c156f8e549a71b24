"""A comparison end to end: what it computes, what it takes from what is there, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sri_pyro import checkpoint
from sri_pyro.cli import main
from sri_pyro.comparing import Asked, Outcome, compare, plan, standing
from sri_pyro.config import Stopped, Told, read_config, train
from sri_pyro.evaluation.paired import holm
from tests.comparing.helpers import SYSTEMS, Calls, untimed, write_systems

FILES = ("alone.html", "comparison.json", "table.csv", "table.html", "table.md", "table.tex")


def asked(folder: Path, **more: object) -> Asked:
    sources = [str(folder / f"{name}.toml") for name in SYSTEMS]
    return Asked(**{"sources": sources, "out": folder / "out", "seeds": 2, **more})  # type: ignore[arg-type]


def log_px(folder: Path, name: str) -> np.ndarray:
    """From the files of the runs, seeds by sentences."""
    seeds = [pd.read_csv(folder / "out" / name / f"seed-{i}" / "sentences.csv") for i in (0, 1)]
    assert seeds[0]["id"].tolist() == seeds[1]["id"].tolist()
    return np.stack([each["log_px"].to_numpy() for each in seeds])


def test_the_table_is_what_the_runs_say(made: tuple[Path, Outcome]) -> None:
    """Oracle: NumPy on the sentences of every run. Catches a wrong reference, sign, seed or run."""
    folder, outcome = made
    table = pd.read_csv(folder / "out" / "table.csv", dtype={"seed": str}).set_index(["system", "seed"])
    assert list(table.index) == [(name, seed) for name in SYSTEMS for seed in ("0", "1", "all")]
    reference = log_px(folder, "lm")
    tokens = pd.read_csv(folder / "out" / "lm" / "seed-0" / "sentences.csv")["num_tokens"].sum()
    for name in SYSTEMS:
        mine = log_px(folder, name)
        assert not np.array_equal(mine[0], mine[1])
        row = table.loc[(name, "all")]
        assert row["perplexity"] == pytest.approx(math.exp(-mine.mean(0).sum() / tokens))
        each = np.exp(-mine.sum(1) / tokens)
        assert row["perplexity_sd"] == pytest.approx(each.std(ddof=1))
        assert [table.loc[(name, seed)]["perplexity"] for seed in ("0", "1")] == pytest.approx(list(each))
        assert row["nll_sd"] == pytest.approx((-mine.mean(1)).std(ddof=1))
        if name != "lm":
            assert row["difference"] == pytest.approx((mine.mean(0) - reference.mean(0)).mean())
            assert table.loc[(name, "1")]["difference"] == pytest.approx((mine[1] - reference.mean(0)).mean())
    assert table.loc["lm"]["difference"].isna().all()
    p = [table.loc[(name, "all")]["difference_p_value"] for name in ("two", "three")]
    assert [table.loc[(name, "all")]["difference_p_holm"] for name in ("two", "three")] == pytest.approx(
        holm(p)
    )
    assert (outcome.failed, outcome.missing, outcome.done, outcome.stopped) == ({}, [], 6, False)
    assert set(FILES) <= {path.name for path in (folder / "out").iterdir()}


def test_other_numbers_are_those_of_the_runs(made: tuple[Path, Outcome]) -> None:
    folder, _ = made
    table = pd.read_csv(folder / "out" / "table.csv", dtype={"seed": str}).set_index(["system", "seed"])
    for name in SYSTEMS:
        found = [
            json.loads((folder / "out" / name / f"seed-{i}" / "metrics.json").read_text()) for i in (0, 1)
        ]
        for column in ("reconstruction", "kl_q_prior", "kl_posterior_prior", "mutual_information"):
            values = [each[column]["value"] for each in found]
            assert [table.loc[(name, s)][column] for s in ("0", "1")] == pytest.approx(values)
            assert table.loc[(name, "all")][column] == pytest.approx(np.mean(values), abs=1e-12)
        for column, key in (("corrected", "count"), ("naive", "naive_count"), ("at_most", "at_most")):
            counts = [each["active_units"][key] for each in found]
            assert [table.loc[(name, s)][f"active_units_{column}"] for s in ("0", "1")] == counts
        assert table.loc[(name, "0")]["training_seconds"] > 0
    for name, gradients in (("lm", 0), ("two", 3), ("three", 3)):
        assert table.loc[(name, "all")]["decoder_gradients"] == gradients


def test_a_second_call_does_nothing_and_says_the_same(folder: Path, calls: Calls) -> None:
    before = untimed(folder / "out")
    outcome = compare(asked(folder))
    assert calls.commands == []
    assert untimed(folder / "out") == before
    assert outcome.done == 6
    assert {line.split(": ", 1)[1] for line in plan(asked(folder))} == {"done"}


def test_killed_half_way_the_same_command_ends_at_the_same_table(
    folder: Path, tmp_path: Path, calls: Calls
) -> None:
    """One run stopped in the middle of an epoch, one evaluation lost, one run never begun: bit by bit, all the same."""
    before = untimed(folder / "out")
    out = folder / "out"
    shutil.rmtree(out / "two" / "seed-0")
    shutil.rmtree(out / "three" / "seed-1")
    (out / "lm" / "seed-1" / "metrics.json").unlink()
    steps = iter(range(100))
    with pytest.raises(Stopped):
        train(
            read_config(folder / "two.toml", ["seed=0"]),
            out / "two" / "seed-0",
            told=Told(should_stop=lambda: next(steps) == 3),
        )
    assert [line for line in plan(asked(folder)) if not line.endswith(": done")] == [
        "two seed 0: half trained: 1 of 2 epochs",
        "lm seed 1: trained, to be evaluated",
        "three seed 1: to be trained",
    ]
    compare(asked(folder))
    assert sorted(calls.told) == sorted([
        "train two/seed-0", "evaluate two/seed-0", "evaluate lm/seed-1", "train three/seed-1", "evaluate three/seed-1",
    ])  # fmt: skip
    assert untimed(out) == before


def test_a_failing_run_is_told_and_takes_no_other_along(
    folder: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "out" / "two")
    calls.failing = lambda words: words[0] == "train" and "two/seed-0" in " ".join(words)
    words = ["compare", *asked(folder).sources, "--out", str(folder / "out"), "--seeds", "2"]
    assert main(words) == 2
    said = capsys.readouterr()
    log = folder / "out" / "two" / "seed-0.log"
    assert said.err.splitlines()[-1] == f"sri-pyro: two seed 0 failed: planted: this one fails; see {log}"
    assert "table: " in said.out
    record = json.loads((folder / "out" / "comparison.json").read_text())
    assert [len(system["seeds"]) for system in record["systems"]] == [2, 1, 2]
    assert record["missing"] == ["two seed 0"]
    assert "This table is not whole yet" in (folder / "out" / "table.html").read_text()
    calls.failing = lambda words: False
    assert main(words) == 0
    assert json.loads((folder / "out" / "comparison.json").read_text())["missing"] == []


def test_a_failing_reference_leaves_no_differences(folder: Path, calls: Calls) -> None:
    shutil.rmtree(folder / "out" / "lm")
    calls.failing = lambda words: words[0] == "train"
    outcome = compare(asked(folder))
    assert sorted(outcome.failed) == ["lm seed 0", "lm seed 1"]
    assert [row.difference for row in outcome.rows] == [None, None]
    text = (folder / "out" / "table.md").read_text()
    assert "There is no run of the reference lm yet, and so no difference from it." in text


def test_an_evaluation_by_other_code_is_made_again_and_a_training_is_not(
    folder: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = untimed(folder / "out")
    path = folder / "out" / "two" / "seed-0" / "metrics.json"
    record = json.loads(path.read_text())
    record["provenance"]["source_digest"] = "0" * 64
    path.write_text(json.dumps(record))
    assert plan(asked(folder))[1] == (
        "two seed 0: trained, to be evaluated again: the evaluation that is there was made by other source code"
    )
    compare(asked(folder))
    assert calls.told == ["evaluate two/seed-0"]
    assert untimed(folder / "out") == before
    # All of it was trained by other code, and nothing is left to be trained: evaluated by one code, and told.
    monkeypatch.setattr(standing, "code_now", lambda: "other")
    assert len([line for line in plan(asked(folder)) if line.endswith("made by other source code")]) == 6


def retrained_by(folder: Path, run: str, digest: str) -> None:
    """Forge the record of a training."""
    path = folder / "out" / run / "provenance.json"
    record = json.loads(path.read_text())
    record["source_digest"] = digest
    path.write_text(json.dumps(record))


def test_trainings_by_different_code_do_not_stand_in_one_table(folder: Path, calls: Calls) -> None:
    retrained_by(folder, "two/seed-1", "0" * 64)
    out = folder / "out"
    with pytest.raises(ValueError) as refusal:
        compare(asked(folder))
    assert str(refusal.value) == (
        f"{out / 'lm' / 'seed-0'} and {out / 'two' / 'seed-1'} were trained by other source code or versions, 2 in "
        "all; train again into another folder, or say --mixed-code, and the table will say so"
    )
    compare(asked(folder, mixed_code=True))
    text = (out / "table.md").read_text()
    assert "MIXED CODE: these trainings were made by 2 different versions of the source code." in text
    assert calls.commands == []


def test_a_training_by_other_code_is_not_continued(folder: Path, calls: Calls) -> None:
    for name in SYSTEMS:
        for seed in (0, 1):
            retrained_by(folder, f"{name}/seed-{seed}", "0" * 64)
    compare(asked(folder))  # all by one code: nothing to refuse, and something to tell
    text = (folder / "out" / "table.md").read_text()
    assert "All were trained by one and the same other source code, and evaluated by the present one." in text
    shutil.rmtree(folder / "out" / "three" / "seed-1")
    with pytest.raises(ValueError) as refusal:
        compare(asked(folder))
    assert str(refusal.value) == (
        f"{folder / 'out' / 'lm' / 'seed-0'} was trained by other source code or versions than there are now, and "
        "other runs are left to be trained; go back to those, name another folder with --out, or say --mixed-code, "
        "and the table will say so"
    )
    assert calls.commands == []


def test_another_evaluation_is_made_again_with_the_same_weights(folder: Path, calls: Calls) -> None:
    more = ["evaluation.num_chains=12"]
    weights = checkpoint.digest(checkpoint.load(folder / "out" / "two" / "seed-0" / "best.safetensors")[0])
    assert plan(asked(folder, overrides=more))[0] == (
        "lm seed 0: trained, to be evaluated again: the evaluation that is there was another one "
        "(evaluation.num_chains)"
    )
    compare(asked(folder, overrides=more))
    assert {words[0] for words in calls.commands} == {"evaluate"}
    record = json.loads((folder / "out" / "two" / "seed-0" / "metrics.json").read_text())["provenance"]
    assert record["configuration"]["evaluation"]["num_chains"] == 12
    assert record["weights"]["digest"] == weights
    assert {line.split(": ", 1)[1] for line in plan(asked(folder, overrides=more))} == {"done"}


def test_an_evaluation_of_other_weights_or_another_file_is_not_taken(folder: Path, calls: Calls) -> None:
    one, other = folder / "out" / "two" / "seed-0", folder / "out" / "two" / "seed-1"
    record = json.loads((one / "metrics.json").read_text())
    record["provenance"]["weights"] = json.loads((other / "metrics.json").read_text())["provenance"][
        "weights"
    ]
    (one / "metrics.json").write_text(json.dumps(record))
    assert plan(asked(folder))[1].endswith(
        "to be evaluated again: the evaluation that is there is of other weights"
    )
    (one / "metrics.json").write_text("{}")
    assert plan(asked(folder))[1].endswith("to be evaluated again: the evaluation that is there is damaged")
    compare(asked(folder))
    shutil.copyfile(other / "sentences.csv", one / "sentences.csv")
    with pytest.raises(ValueError) as refusal:
        compare(asked(folder))
    assert str(refusal.value) == (
        f"{one / 'sentences.csv'} does not belong to the metrics.json beside it; remove that, and compare again."
    )


def test_a_folder_of_another_run_is_refused(folder: Path, calls: Calls) -> None:
    with pytest.raises(ValueError) as refusal:
        compare(asked(folder, overrides=["training.epochs=3"]))
    assert str(refusal.value) == (
        f"{folder / 'out' / 'lm' / 'seed-0'} holds a run of another configuration (training.epochs); name another "
        "folder with --out, or remove that one"
    )
    assert calls.commands == []


def test_sentences_that_changed_meanwhile_are_refused_before_anything_is_trained(
    tmp_path: Path, calls: Calls
) -> None:
    write_systems(tmp_path, epochs=1)
    compare(asked(tmp_path, seeds=1, only=["lm"]))
    assert calls.told == ["train lm/seed-0", "evaluate lm/seed-0"]
    with (tmp_path / "text.txt").open("a") as file:
        file.write("one more sentence here .\n")
    with pytest.raises(ValueError) as refusal:
        compare(asked(tmp_path, seeds=1))
    assert str(refusal.value) == (
        f"{tmp_path / 'out' / 'lm' / 'seed-0'} was trained on other sentences than the text as it is now; restore the "
        "text, or name another folder with --out"
    )
    assert len(calls.commands) == 2


def test_only_restricts_the_work_and_not_the_table(folder: Path, calls: Calls) -> None:
    for name in ("two", "three"):
        shutil.rmtree(folder / "out" / name / "seed-1")
    assert "three seed 1: to be trained (left out by --only)" in plan(asked(folder, only=["two"]))
    outcome = compare(asked(folder, only=["two"], reference="two"))
    assert calls.told == ["train two/seed-1", "evaluate two/seed-1"]
    assert [len(row.judged) for row in outcome.rows] == [2, 2, 1]
    assert outcome.missing == ["three seed 1"]
    differences = {row.name: row.difference for row in outcome.rows}
    assert differences["two"] is None
    assert differences["lm"] is not None
    assert differences["lm"].counts_seeds
    assert differences["three"] is not None
    assert not differences["three"].counts_seeds


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(path) for path in write_systems(tmp_path)]
    assert main(["compare", *sources, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name} seed 0: to be trained" for name in SYSTEMS]
    assert not (tmp_path / "out").exists()
