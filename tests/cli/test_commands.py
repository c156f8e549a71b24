"""The command line: what each command prints and leaves, and how it ends when it is stopped."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyro
import pytest
import torch

from sri_pyro import checkpoint
from sri_pyro.config import Stopped, Told, load_run, read_config, train
from tests.cli.helpers import ROOT, SENTENCES, Say, refused, write_config
from tests.configurations import PRESETS


def test_help_teaches(say: Say) -> None:
    said = say("--help")
    assert said.code == 0
    for command in (
        "train",
        "evaluate",
        "report",
        "calibrate",
        "reference",
        "compare",
        "doctor",
        "criticise",
        "sample",
        "interpolate",
        "score",
        "encode",
        "presets",
        "show",
    ):
        assert command in said.out
        assert f"sri-pyro {command}" in say(command, "--help").out


def test_the_versions_are_told(say: Say) -> None:
    """Oracle: the versions that the modules themselves know."""
    python = ".".join(map(str, sys.version_info[:3]))
    said = say("--version")
    assert said.code == 0
    assert re.fullmatch(rf"sri_pyro \S+, torch {re.escape(torch.__version__)}, pyro {pyro.__version__}, "
                        rf"Python {python}\n", said.out)  # fmt: skip


def test_no_command_is_a_request_for_help(say: Say) -> None:
    said = say()
    assert said.code == 0
    assert said.out == say("--help").out


def test_presets_and_show(say: Say) -> None:
    assert [line.split(":")[0] for line in say("presets").out.splitlines()] == PRESETS.split(", ")
    assert 'kind = "ula"' in say("presets", "paper").out
    refused(
        say("presets", "papper"),
        f"unknown preset 'papper'; known: {PRESETS}. Did you mean 'paper'?",
    )
    shown = say("show").out
    for word in ("wiring", "num_steps", "prior_share", "(required)", "friction"):
        assert word in shown
    assert shown.startswith(
        "Every part with its own defaults. A preset sets some of them otherwise: sri-pyro show default.\n"
        "[top of the file]  What concerns the whole run.\n"
        '      preset = "default"  The recipe underneath: decoder wiring, sampler, warm-up, learning rule and '
        "optimiser.\n"
    )
    assert "      friction = 2.0  gamma > 0, in inverse units of h.\n" in shown
    assert ":math:" not in shown
    assert "``" not in shown
    assert "\\" not in shown
    whole = say("show", "paper", "--set", "data.kind=pcfg", "--set", "training.epochs=3").out
    assert "epochs = 3\n" in whole
    assert 'kind = "pcfg"' in whole


def test_train_says_what_it_costs_and_leaves_a_whole_folder(say: Say, config: Path, tmp_path: Path) -> None:
    said = say("train", config, "--out", tmp_path / "run")
    assert said.code == 0
    assert "expected: about " in said.err
    number = r"\d+\.\d+ ± \d[\d.]*"
    assert len(re.findall(rf"epoch \d+: validation nll {number}, perplexity ", said.err)) == 2
    folder = re.escape(str(tmp_path / "run"))
    assert re.match(
        rf"trained: {folder}; best validation nll {number} nats per sentence, perplexity ", said.out
    )
    records = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    validations = [record for record in records if record["kind"] == "validation"]
    assert all(0 < record["nll_mc_se"] < record["nll_se"] for record in validations)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.safetensors", "config.toml", "history.jsonl", "last.safetensors", "provenance.json", "run.log",
        "vocabulary.txt",
    ]  # fmt: skip
    record = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert record["versions"].keys() == {"python", "torch", "pyro", "numpy", "arviz", "sri_pyro"}
    assert record["configuration"]["training"]["epochs"] == 2
    assert len(record["data_digest"]) == 64
    assert record["command"].startswith("sri-pyro ")


def test_train_does_not_read_the_test_split(say: Say, tmp_path: Path) -> None:
    """Two texts that differ in their test file alone train the same weights."""
    (tmp_path / "valid.txt").write_text("\n".join(SENTENCES[:20]))
    for name, test in (("a", SENTENCES[20:40]), ("b", [*SENTENCES[20:35], "the cat sits on my friend ."])):
        (tmp_path / f"{name}.test").write_text("\n".join(test))
        config = write_config(tmp_path)
        (tmp_path / "text.txt").write_text("\n".join(SENTENCES[40:]))
        files = [f"data.valid_path={tmp_path}/valid.txt", f"data.test_path={tmp_path / name}.test"]
        assert say("train", config, "--out", tmp_path / name, "--set", files[0], "--set", files[1]).code == 0
    a, b = (checkpoint.load(tmp_path / name / "last.safetensors")[0] for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_empty_folder_and_a_killed_predecessor_do_not_block(
    say: Say, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / ".run.abc.tmp").mkdir()
    assert say("train", config, "--out", tmp_path / "run").code == 0


def test_evaluate_writes_what_the_readme_promises(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["perplexity"].keys() >= {"estimate", "lower", "upper", "se"}
    for name in ("nll", "reconstruction", "kl_posterior_prior", "kl_q_prior", "mutual_information"):
        assert metrics[name].keys() >= {"value", "se"}, name
    assert metrics["kl_q_prior"]["method"]
    assert metrics["active_units"].keys() >= {"count", "of", "naive_count"}
    assert metrics["khat"].keys() >= {"threshold", "share_below", "max"}
    assert "median" in metrics["ess"]
    assert metrics["provenance"].keys() >= {"configuration", "versions", "seed", "data_digest", "command"}
    table = pd.read_csv(trained / "sentences.csv")
    assert len(table) == 8
    assert -table["log_px"].mean() == pytest.approx(metrics["nll"]["value"])
    assert set(table["text"]) <= set(SENTENCES)
    assert (trained / "inference.nc").stat().st_size > 1000


def test_the_report_is_drawn_again_from_the_files(say: Say, run: Path, trained: Path) -> None:
    (run / "report.html").unlink()
    said = say("report", run)
    assert said.code == 0
    assert said.out == f"report: {run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert page == (trained / "report.html").read_text()
    texts = json.loads((run / "samples.json").read_text())
    assert len(texts["samples"]) == 10
    assert len(texts["interpolations"][0]["decoded"]) == 7
    assert texts["reconstructions"][0]["original"] in SENTENCES
    assert len(texts["reconstructions"][0]["decoded"]) == 3
    (run / "inference.nc").unlink()
    refused(
        say("report", run), f"a report needs inference.nc, which {run} does not hold; evaluate the run first."
    )


def test_evaluating_again_gives_the_same_numbers(say: Say, run: Path) -> None:
    before = json.loads((run / "metrics.json").read_text())
    said = say("evaluate", run)
    assert said.code == 0
    assert said.out.splitlines()[-1] == f"report: {run / 'report.html'}"
    assert f"note: {run} already holds an evaluation: this one takes its place\n" in said.err
    for words in ("likelihood", "Perplexity", "KL(posterior", "Active units", "k-hat"):
        assert words in said.out
    after = json.loads((run / "metrics.json").read_text())
    del before["provenance"], after["provenance"]
    assert after == before


def test_an_evaluation_says_which_weights_it_judges_and_that_training_has_not_ended(
    say: Say, trained: Path, config: Path, tmp_path: Path
) -> None:
    whole = json.loads((trained / "metrics.json").read_text())["provenance"]["weights"]
    assert whole["file"] == "best.safetensors"
    assert whole["epoch"] in (1, 2)
    assert (whole["epochs_trained"], whole["training_finished"]) == (2, True)
    out = tmp_path / "stopped"
    parts = read_config(config, ["training.epochs=50"])
    steps = iter(range(100))
    with pytest.raises(Stopped):
        train(parts, out, told=Told(should_stop=lambda: next(steps) == 1))
    said = say("evaluate", out)
    assert said.code == 0
    assert (
        "note: training has not ended (0 epochs done): these are the weights so far, and sri-pyro train "
        f"{out / 'config.toml'} --out {out} --resume goes on\n"
    ) in said.err
    part = json.loads((out / "metrics.json").read_text())["provenance"]["weights"]
    assert part.pop("digest") == checkpoint.digest(checkpoint.load(out / "last.safetensors")[0])
    assert part == {"file": "last.safetensors", "epoch": 0, "epochs_trained": 0, "training_finished": False}


def test_evaluate_sets_its_own_section_alone(say: Say, run: Path) -> None:
    assert say("evaluate", run, "--set", "evaluation.split=valid").code == 0
    record = json.loads((run / "metrics.json").read_text())["provenance"]
    assert record["configuration"]["evaluation"]["split"] == "valid"
    refused(
        say("evaluate", run, "--set", "training.epochs=9"),
        "section 'training' was settled by training; an evaluation can set evaluation.* alone",
    )


def test_sample_interpolate_score_encode(say: Say, trained: Path, tmp_path: Path) -> None:
    samples = say("sample", trained, "--num", 3, "--seed", 5).out.splitlines()
    assert len(samples) == 3
    assert say("sample", trained, "--num", 3, "--seed", 5).out.splitlines() == samples
    assert say("sample", trained, "--num", 3, "--seed", 6).out.splitlines() != samples
    path = say("interpolate", trained, SENTENCES[0], SENTENCES[-1], "--steps", 4).out.splitlines()
    assert [line.split()[0] for line in path] == ["0.00", "0.33", "0.67", "1.00"]
    text = tmp_path / "few.txt"
    text.write_text("the cat sits at home .\n\na dog dances .\n")
    said = say("score", trained, text)
    assert "note: 1 of 3 lines left out: 1 blank\n" in said.err
    assert "2 of 2 sentences" in said.err
    frame = pd.read_csv(io.StringIO(said.out))
    assert frame["text"].tolist() == ["the cat sits at home .", "a dog dances ."]
    assert frame["line"].tolist() == [1, 3]
    assert frame["num_tokens"].tolist() == [7, 5]
    assert frame["num_unknown"].tolist() == [0, 1]
    assert (frame["log_px"] < 0).all()
    assert say("encode", trained, text, "--out", tmp_path / "codes.csv").code == 0
    codes = pd.read_csv(tmp_path / "codes.csv")
    assert codes.columns.tolist()[-4:] == ["z_mean_0", "z_mean_1", "z_sd_0", "z_sd_1"]
    assert (codes[["z_sd_0", "z_sd_1"]] > 0).all(axis=None)


@pytest.mark.parametrize("command", ["score", "encode"])
def test_sentences_whose_k_hat_fails_are_told(command: str, say: Say, trained: Path, tmp_path: Path) -> None:
    """Oracle: k-hat and threshold of the table that ``score`` prints. Catches a count of the last batch alone, and a
    note that is always there: the ladder's draws are enough here.
    """
    text = tmp_path / "few.txt"
    text.write_text("\n".join(SENTENCES[:60]))
    draws = "evaluation.estimator.num_samples=40"
    words = (trained, text, "--set", draws, "--set", "evaluation.batch_size=25")
    table = pd.read_csv(io.StringIO(say("score", *words).out))
    failed = int((~(table["khat"] < table["threshold"])).sum())
    said = say(command, *words)
    assert 0 < failed < 60
    notes = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: k-hat is not below its threshold for {failed} of 60 sentences: do not trust what rests on their "
        "importance weights; use the estimator 'ladder' (--target-se 0.05) or 'annealed' (--set "
        "evaluation.estimator=annealed)"
    ]
    said = say(command, trained, text, "--target-se", 0.05)
    assert said.code == 0
    assert "note: " not in said.err
    refused(
        say(command, trained, text, "--set", "training.epochs=3"),
        "section 'training' was settled by training; an evaluation can set evaluation.* alone",
    )


def test_what_is_doubtful_is_told(say: Say, trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "odd.txt"
    text.write_text("\n".join([*SENTENCES[:3], "quousque tandem abutere .", "the " * 5000]))
    said = say("encode", trained, text)
    assert said.code == 0
    notes = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: 1 of 5 lines left out: 1 longer than max_length = 12 words",
        "note: 1 of 4 sentences are mostly words that the model does not know (line 4); their numbers say little "
        "about the words themselves",
    ]
    said = say("interpolate", trained, "the cat dances at home .", "a dog runs .", "--steps", 2)
    assert "note: the model does not know dances, and reads <unk> instead\n" in said.err


def test_resume_without_a_run_says_that_it_begins_one(say: Say, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begins = f"{run} does not exist yet: beginning it\n"
    assert begins in say("train", config, "--out", run, "--resume").err
    assert begins not in say("train", config, "--out", run, "--resume").err


def test_python_gives_the_same_as_the_command_line(say: Say, trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "few.txt"
    text.write_text("\n".join(SENTENCES[:3]))
    printed = pd.read_csv(io.StringIO(say("score", trained, text).out))
    run = load_run(trained)
    torch.manual_seed(0)
    pd.testing.assert_frame_equal(run.score(SENTENCES[:3]), printed, rtol=1e-12)


def test_loading_a_run_leaves_the_generators_alone(trained: Path) -> None:
    before = torch.get_rng_state()
    load_run(trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_of_a_language_model_has_no_codes(say: Say, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = [
        "preset=language_model",
        "model.prior.dim=0",
        "inference=prior",
    ]
    config.write_text(
        config.read_text()
        .replace("[inference]\nnum_steps = 3\n", "")
        .replace("prior.dim = 2", "")
        .replace('kind = "gaussian", num_samples = 40, pilot_chains = 8', 'kind = "prior"')
    )
    sets = [word for override in overrides for word in ("--set", override)]
    said = say("train", config, "--out", run, *sets)
    assert said.code == 0
    assert "validation nll" in said.err
    assert "k-hat" not in said.err
    assert say("sample", run, "--num", 2).code == 0
    refused(
        say("interpolate", run, "a", "b"), f"there is nothing to interpolate: the model in {run} has no z."
    )
    assert say("evaluate", run).code == 0
    assert json.loads((run / "metrics.json").read_text())["kl_posterior_prior"]["value"] == pytest.approx(
        0, abs=1e-6
    )


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(config: Path, tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the kernel fails the same write."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "sri_pyro", "train", str(config), "--out", str(run)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"sri-pyro: {run / 'last.safetensors'} cannot be written (")
    assert last.endswith("; is the disk full?")
    assert "Traceback" not in done.stderr
    assert not list(run.glob("*.safetensors")) + list(run.glob(".*"))
    assert subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_exits_130(number: signal.Signals, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "sri_pyro", "train", str(config), "--out", str(run)]
    process = subprocess.Popen(
        [*command, "--set", "training.epochs=100000"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (run / "best.safetensors").exists():  # the first epoch is done
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped and saved; continue with: sri-pyro train " in err
    assert " --resume" in err
    assert "Traceback" not in err
    _, state = checkpoint.load(run / "last.safetensors")
    records = (run / "history.jsonl").read_text().splitlines()
    assert state["history"] == len(records)
    assert not list(run.glob(".*.tmp"))


def test_an_interrupt_before_training_leaves_nothing(config: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, sri_pyro.config.trainer as t\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background has it ignored
        "t.load_corpus = lambda config: os.kill(os.getpid(), signal.SIGINT)\n"
        "from sri_pyro.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", str(config), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip() == "stopped before anything was saved"
    assert not (tmp_path / "run").exists()


def test_the_module_runs_as_the_script_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sri_pyro", "presets"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert "\ndefault: " in done.stdout


def test_runs_of_other_seeds_are_judged_on_the_same_sentences(say: Say, config: Path, tmp_path: Path) -> None:
    """Otherwise they could not be compared. Planted: sentences chosen by the run's own seed."""
    chosen = []
    for seed in (1, 2):
        run = tmp_path / str(seed)
        few = ("--set", f"seed={seed}", "--set", "evaluation.num_sentences=3")
        assert say("train", config, "--out", run, *few).code == 0
        assert say("evaluate", run).code == 0
        chosen.append(pd.read_csv(run / "sentences.csv")["id"].tolist())
    assert chosen[0] == chosen[1]


def test_evaluate_climbs_to_an_error_and_bounds_its_own_text(say: Say, run: Path) -> None:
    """--target-se names the ladder, --set its other options; simulated sentences get a row and a verdict."""
    ladder = "evaluation.estimator"
    small = [f"{ladder}.num_samples=64", f"{ladder}.chains=32", f"{ladder}.most_temperatures=6"]
    options = [
        *small,
        "evaluation.simulated=4",
        "evaluation.num_sentences=6",
        "evaluation.traced_sentences=0",
    ]
    said = say(
        "evaluate", run, "--target-se", 0.2, *(word for option in options for word in ("--set", option))
    )
    assert said.code == 0, said.err
    assert "Gap of the bounds, own text" in said.out
    assert "Error of a log p(x), median" in said.out
    metrics = json.loads((run / "metrics.json").read_text())
    estimator = metrics["provenance"]["configuration"]["evaluation"]["estimator"]
    assert (estimator["kind"], estimator["target_se"], estimator["chains"]) == ("ladder", 0.2, 32)
    assert sum(metrics["ladder"]["sentences"]) == 6
    refused = say("evaluate", run, "--target-se", -1)
    assert refused.code == 2
    assert "target_se must be a positive number of nats; got -1.0." in refused.err
