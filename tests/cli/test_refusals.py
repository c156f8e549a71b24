"""One sentence and exit code 2 for everything that a user can mend, and nothing left half-written."""

import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sri_pyro import checkpoint
from sri_pyro.config import ConfigError, Run, load_run
from sri_pyro.data import DataError
from tests.cli.helpers import ROOT, SENTENCES, Say, refused

OPTIONS_OF_TRAIN = "--help, --out, --resume, --set, --tensorboard"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", "unknown command 'trian'; known: calibrate, compare, criticise, doctor, encode, evaluate, "
                  "interpolate, presets, reference, report, sample, score, show, train. Did you mean 'train'?"),
        ("qqq --help", "unknown command 'qqq'; known: calibrate, compare, criticise, doctor, encode, evaluate, "
                       "interpolate, presets, reference, report, sample, score, show, train"),
        ("train x --resum", f"train has no option '--resum'; it accepts: {OPTIONS_OF_TRAIN}. Did you mean '--resume'?"),
        ("train x -z 3", f"train has no option '-z'; it accepts: {OPTIONS_OF_TRAIN}"),
        ("--nope", "sri-pyro has no option '--nope'; it accepts: --help, --version"),
        ("train", "train needs FILE|PRESET (a TOML file, or a preset's name); see sri-pyro train --help"),
        ("interpolate runs/x hello", "interpolate needs LAST (another sentence); see sri-pyro interpolate --help"),
        ("sample runs/x --num many", "sample: --num must be a whole number; got 'many'"),
        ("sample runs/x --num 3 --num=2.5", "sample: --num must be a whole number; got '2.5'"),
        ("sample runs/x --top-p=", "sample: --top-p must be a number; got ''"),
        ("train x --out", "option '--out' requires an argument; see sri-pyro train --help"),
        ("train x --resume=yes", "option '--resume' does not take a value; see sri-pyro train --help"),
    ],
)  # fmt: skip
def test_a_mistake_of_the_command_line_is_one_sentence(words: str, sentence: str, say: Say) -> None:
    """Nothing but the sentence: the parser's own box has a usage, a hint and a frame around it."""
    said = say(*words.split())
    refused(said, sentence)
    assert said.err == f"sri-pyro: {sentence}\n"
    assert said.out == ""


def test_a_word_too_many(say: Say) -> None:
    """The usage is in the parser's words, which differ between its versions."""
    said = say("presets", "paper", "default")
    assert said.code == 2
    assert said.err.startswith("sri-pyro: got unexpected extra argument")
    assert "(default); expected: sri-pyro presets [OPTIONS] " in said.err
    assert said.err.endswith("; see sri-pyro presets --help\n")
    assert said.err.count("\n") == 1


def test_a_mistake_is_told_without_waiting_for_the_library() -> None:
    code = "import sys; from sri_pyro.cli import main; main(['train', '--x']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr == f"sri-pyro: train has no option '--x'; it accepts: {OPTIONS_OF_TRAIN}\n"


def test_no_preset_is_read_with_the_compiler_of_pytorch() -> None:
    """It takes long to import, and no refusal needs it; normal draws on tensors without memory bring it along."""
    code = (
        "import sys; from sri_pyro.config import parse_config, presets\n"
        "for name in presets(): parse_config({'preset': name, 'data': 'pcfg'})\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_reader_that_has_seen_enough_is_not_complained_of() -> None:
    command = f"{sys.executable} -m sri_pyro show | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_an_existing_folder_is_not_trained_over(say: Say, config: Path, run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    refused(
        say("train", config, "--out", run),
        f"{run} already holds a run; continue it with --resume, or name another folder with --out",
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("dear")
    refused(
        say("train", config, "--out", tmp_path / "other"),
        f"{tmp_path / 'other'} exists and is not a run folder; name another one with --out",
    )


def test_resume_with_another_configuration_or_text(say: Say, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert say("train", config, "--out", run, "--resume").code == 0
    refused(
        say("train", config, "--out", run, "--resume", "--set", "training.epochs=3", "--set", "seed=4"),
        f"{run} was begun with another configuration (seed, training.epochs); resume with its own "
        f"{run / 'config.toml'}, or name another folder with --out",
    )
    assert say("train", run / "config.toml", "--out", run, "--resume").code == 0
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES[1:]))
    refused(
        say("train", config, "--out", run, "--resume"),
        f"{run} was begun with other data than the configuration reads now; restore the text, or name another "
        "folder with --out",
    )
    refused(
        say("evaluate", run),
        f"the text is not what {run} was trained on, so that test sentences may have been trained on; restore "
        "the text, or train again",
    )


MANY = "\n".join(SENTENCES)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "{path} does not exist; give a text file, one sentence a line."),
        (b"", "{path} is empty; give a text file, one sentence a line."),
        (b"a\x00b\n" * 20, None),
        ("caf\u00e9 au lait\n".encode("latin-1") * 20, None),
        (b"word " * 300_000, None),
        (gzip.compress(MANY.encode())[:-9], None),
        (b"one sentence\n" * 3, "too few sentences to split: 1 distinct ones are left and at least 10 are needed; "
                               "give more text, or a file for each split."),
        (("long " * 30 + "\n").encode() * 20, "every sentence of {path} is longer than max_length = 12 words; "
                               'raise it, set too_long to "truncate", or give one sentence a line.'),
        ("\n".join(f"w{i} x{i} y{i}" for i in range(60)).encode(), None),
    ],
    ids=["missing", "empty", "binary", "latin-1", "endless line", "damaged gzip", "few", "too long", "unknown"],
)  # fmt: skip
def test_unusable_text(
    say: Say, config: Path, tmp_path: Path, content: bytes | None, sentence: str | None
) -> None:
    """The data room's own tests hold each sentence whole; here: one sentence, code 2, and no folder."""
    path = tmp_path / "text.txt"
    path.unlink() if content is None else path.write_bytes(content)
    said = say("train", config, "--out", tmp_path / "run")
    assert said.code == 2
    assert len([line for line in said.err.splitlines() if line.startswith("sri-pyro: ")]) == 1
    if sentence is not None:
        refused(said, sentence.format(path=path))
    assert sorted(p.name for p in tmp_path.iterdir() if p != path) == ["run.toml"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("inference.num_steps=0", "--set {set}: inference 'short_run': num_steps must be at least 1; got 0. For draws "
                                  "that do not move use the inference 'prior'."),
        ("inference.step_schedule.first=-0.1",
         "--set {set}: step_schedule 'geometric': first must be a positive finite number; got -0.1."),
        ("training.epoch=3", "--set {set}: training has no option 'epoch'; it accepts: batch_size, checkpoint_every, "
                             "clip_norm, cycles, decay, decay_factor, epochs, hold, inference_dropout, "
                             "learning_rate, log_every, max_decays, num_samples, optimizer, patience, select, update, "
                             "validate_every. Did you mean 'epochs'?"),
        ("device=cuda:9", "there is no device 'cuda:9' here; available: cpu"),
        ("objective=trajectory", "--set {set}: the learning rule 'trajectory' needs every position of the run, and "
                                 "these draws carry only the last; set record_path = true on the inference "
                                 "'short_run'."),
    ],
)  # fmt: skip
def test_unusable_options_leave_nothing_behind(
    say: Say, config: Path, tmp_path: Path, override: str, sentence: str
) -> None:
    said = say("train", config, "--out", tmp_path / "run", "--set", override)
    if "cuda" in override:
        assert said.err.strip().startswith("sri-pyro: there is no device 'cuda:9' here; available: cpu")
        assert said.code == 2
    else:
        refused(said, sentence.format(set=override))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.toml", "text.txt"]


def test_a_model_that_does_not_fit_into_memory(say: Say, config: Path, tmp_path: Path) -> None:
    refused(
        say("train", config, "--out", tmp_path / "run", "--set", "model.decoder.hidden=30000000"),
        "decoder 'lstm' does not fit into memory with embedding = 4, hidden = 30000000, max_length = 8; "
        "choose smaller numbers",
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_memory_that_ends_on_the_way(
    error: Exception, say: Say, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Run, "sampled", full)
    refused(
        say("sample", trained),
        "the memory of this device is not enough for the run; choose a smaller model, smaller batches or fewer "
        "samples",
    )


def test_score_refuses_what_it_cannot_read(say: Say, trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "foreign.txt"
    text.write_text("quousque tandem abutere catilina\n")
    refused(
        say("score", trained, text, "--out", tmp_path / "scores.csv"),
        f"100% of the words of {text} are not in the vocabulary; it is probably of another language or "
        "tokenisation than the text trained on.",
    )
    assert not (tmp_path / "scores.csv").exists()
    refused(say("sample", trained, "--num", 0), "the number of samples must be at least 1; got 0.")
    refused(say("sample", trained, "--temperature", -1), "temperature must be at least 0; got -1.0. 0 decodes "
            "greedily, 1 samples.")  # fmt: skip
    refused(say("interpolate", trained, "", "a dog runs ."), "an interpolation needs two sentences; one of those "
            "given is empty or too long.")  # fmt: skip


def test_a_sentence_in_words_is_refused(trained: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_run(trained).score([["the", "cat"]])  # type: ignore[list-item]
    assert str(caught.value) == (
        "a sentence is one text, its words with blanks between them; sentence 1 is a list: ['the', 'cat']."
    )


def test_what_cannot_be_written_has_the_name_that_was_given(
    say: Say, trained: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "few.txt"
    text.write_text(SENTENCES[0])
    out = tmp_path / "nodir" / "x.csv"
    refused(
        say("score", trained, text, "--out", out), f"cannot read or write {out}: No such file or directory"
    )

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    out = tmp_path / "x.csv"
    refused(say("score", trained, text, "--out", out), f"cannot read or write {out}: No space left on device")
    refused(say("evaluate", run), f"cannot read or write {run}: No space left on device")
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["presets"], ["show"]], ids=["less than a buffer", "more than one"])
def test_a_full_standard_output_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sri_pyro", *arguments], cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.stderr == "sri-pyro: cannot write to standard output: No space left on device\n"
    assert done.returncode == 2


def test_train_without_a_folder(say: Say, config: Path) -> None:
    refused(
        say("train", config),
        "train needs a folder for the run; give one that does not exist yet, for instance --out runs/demo",
    )


def test_no_run_folder(say: Say, tmp_path: Path) -> None:
    for command in ("evaluate", "sample", "report"):
        refused(say(command, tmp_path), f"{tmp_path} is not a run folder: it has no config.toml")


def test_truncated_checkpoint(say: Say, config: Path, run: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        (run / name).write_bytes((run / name).read_bytes()[:-40])
    said = say("sample", run)
    assert said.code == 2
    assert said.err.startswith(
        f"sri-pyro: {run / 'best.safetensors'} is not a whole checkpoint of this library ("
    )
    assert said.err.endswith("it was truncated or altered. Restore it from a copy, or train again.\n")
    said = say("train", run / "config.toml", "--out", run, "--resume")
    assert said.code == 2
    assert f"{run / 'last.safetensors'} is not a whole checkpoint" in said.err


def test_one_flipped_bit_is_noticed(say: Say, run: Path) -> None:
    """Without a digest the file still parses, and one weight is another number."""
    content = bytearray((run / "best.safetensors").read_bytes())
    content[-30] ^= 1
    (run / "best.safetensors").write_bytes(content)
    refused(
        say("sample", run),
        f"{run / 'best.safetensors'} is not a whole checkpoint of this library (its digest is not that of its "
        "content); it was truncated or altered. Restore it from a copy, or train again.",
    )


def test_vocabulary_of_another_run(say: Say, run: Path) -> None:
    words = (run / "vocabulary.txt").read_text().splitlines()
    record = json.loads((run / "provenance.json").read_text())["data"]["vocabulary"]
    swapped = [*words[:-2], words[-1], words[-2]]  # the same size: shapes alone would not tell
    (run / "vocabulary.txt").write_text("\n".join(swapped) + "\n")
    refused(
        say("sample", run),
        f"{run / 'vocabulary.txt'} is not the vocabulary that this run was trained with: it has {len(words)} "
        f"entries, and the record says {record['size']} entries with digest {record['digest'][:12]}; restore the "
        "file, or train again",
    )


def test_configuration_of_another_run(say: Say, run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("hidden = 6", "hidden = 7"))
    other = (
        f"{run / 'config.toml'} is not the configuration that this run was trained with; restore the file, or "
        "train again"
    )
    for command in ("sample", "evaluate", "report"):
        refused(say(command, run), other)
    # Sizes may agree where meanings do not: a schedule that was never trained must not be reported as if it was.
    (run / "config.toml").write_text(text.replace("num_steps = 3", "num_steps = 2"))
    assert "num_steps = 3" in text
    refused(say("evaluate", run), other)


def test_missing_weights_and_record(say: Say, run: Path) -> None:
    """The newest weights took the place of lost best ones without a word. Who wants them says so, as is told."""
    epoch = checkpoint.load(run / "best.safetensors")[1]["epoch"]
    (run / "best.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for command in ("sample", "evaluate"):
        refused(
            say(command, run),
            f"{run} has lost best.safetensors, the weights of epoch {epoch} that did best on validation; restore it, "
            "or copy last.safetensors to that name to take the newest weights, of epoch 2, for the best.",
        )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / "best.safetensors").write_bytes(before["last.safetensors"])
    assert say("sample", run).code == 0
    (run / "best.safetensors").unlink()
    (run / "last.safetensors").unlink()
    refused(
        say("sample", run),
        f"there is no checkpoint at {run / 'last.safetensors'}; train first, or name another run folder.",
    )
    (run / "provenance.json").write_text("{}")
    refused(say("sample", run), f"{run / 'provenance.json'} is missing or damaged ('data'); train again")


def test_load_run_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.toml$"):
        load_run(tmp_path)
