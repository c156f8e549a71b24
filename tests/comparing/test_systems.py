"""What files must agree in to be compared, each refusal in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_pyro.cli import main
from sri_pyro.comparing.systems import planned, read_systems
from tests.comparing.helpers import write_systems

CHANGES = {
    "other data": (
        "max_length = 12", "max_length = 11",
        "{0} and {1} are about other data (data.max_length); give both the same [data], and compare other data by "
        "another command",
    ),
    "other split": (
        "num_chains = 8", 'num_chains = 8\nsplit = "valid"',
        "{0} and {1} are judged in another way (evaluation.split); give both the same [evaluation]",
    ),
    "other row": (
        "[data]", 'published = "FB-VEA"\n[data]',
        "{1}: no published table has the system 'FB-VEA'; known: Anneal-VAE, Cyclical-VAE, FB-VAE, FBP-VAE, LSTM-LM, "
        "Lagging-VAE, SA-VAE, SRI. Did you mean 'FB-VAE'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_compared_is_refused(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, sentence = CHANGES[change]
    paths = write_systems(tmp_path)[:2]
    paths[1].write_text(paths[1].read_text().replace(before, after, 1))
    assert main(["compare", *map(str, paths), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"sri-pyro: {sentence.format(*paths)}\n"
    assert not (tmp_path / "out").exists()


def test_estimators_of_models_with_codes_are_the_same_and_a_language_model_is_exact(tmp_path: Path) -> None:
    paths = write_systems(tmp_path)
    assert [system.name for system in read_systems(list(map(str, paths)))] == ["lm", "two", "three"]
    paths[2].write_text(paths[2].read_text().replace("num_samples = 200", "num_samples = 41"))
    with pytest.raises(ValueError) as refusal:
        read_systems(list(map(str, paths)))
    assert str(refusal.value) == (
        f"{paths[1]} and {paths[2]} have other estimators of log p(x) (evaluation.estimator.num_samples); give all "
        "models with a latent variable the same one"
    )


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_systems(tmp_path)[1]
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / path.name
    other.write_text(path.read_text())
    with pytest.raises(ValueError) as refusal:
        read_systems([str(path), str(other)])
    assert str(refusal.value) == f"{path} and {other} are both called 'two'; rename one of them"


def test_the_problems_of_all_systems_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its source: the file, the preset, the shared file or the override. Catches a command that stops at the
    first system, and one that tells what all share once for each.
    """
    (tmp_path / "bad.toml").write_text("preset = 'nopreset'\n[training]\nepochs = 0\n")
    (tmp_path / "shared.toml").write_text("[validation]\nbatch_size = 0\n")
    words = [
        "default",
        "nopreset",
        str(tmp_path / "bad.toml"),
        "--out",
        str(tmp_path / "out"),
        "--set",
        "seed=x",
    ]
    assert main(["compare", *words, "--with", str(tmp_path / "shared.toml")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "sri-pyro: the configuration has 7 problems:"
    assert [line.split("; ")[0] for line in told[1:]] == [
        "  - --set seed=x: configuration: seed must be a whole number",
        "  - default: [data] needs a kind",
        f"  - {tmp_path / 'shared.toml'}: validation: batch_size must be at least 1",
        "  - nopreset cannot be read: No such file or directory",
        f"  - {tmp_path / 'bad.toml'}: unknown preset 'nopreset'",
        f"  - {tmp_path / 'bad.toml'}: [data] needs a kind",
        f"  - {tmp_path / 'bad.toml'}: training: epochs must be at least 1",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "compare needs a folder for the runs and the table; give one, for instance --out runs/compared"),
        (
            "--out {out} --reference tow",
            "--reference names no system 'tow'; known: lm, three, two. Did you mean 'two'?",
        ),
        ("--out {out} --only four", "--only names no system 'four'; known: lm, three, two"),
        ("--out {out} --seeds 0", "--seeds must be at least 1; got 0"),
        ("--out {out} --jobs 0", "--jobs must be at least 1; got 0"),
        ("--out {out} --seeds x", "compare: --seeds must be a whole number; got 'x'"),
    ],
)
def test_options_are_refused_in_one_sentence(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in write_systems(tmp_path)]
    assert main(["compare", *paths, *words.format(out=tmp_path / "out").split()]) == 2
    assert capsys.readouterr().err == f"sri-pyro: {sentence}\n"


def test_seeds_follow_the_files_own_and_change_nothing_else(tmp_path: Path) -> None:
    """The split of the data has a seed of its own. Catches a seed that moves sentences between splits."""
    paths = write_systems(tmp_path)[:2]
    paths[0].write_text("seed = 7\n" + paths[0].read_text())
    systems = read_systems(list(map(str, paths)), ["training.epochs=5"])
    runs = planned(systems, 2, Path("out"))
    assert [(run.name, run.folder.path) for run in runs] == [
        ("lm seed 7", Path("out/lm/seed-7")), ("two seed 0", Path("out/two/seed-0")),
        ("lm seed 8", Path("out/lm/seed-8")), ("two seed 1", Path("out/two/seed-1")),
    ]  # fmt: skip
    assert [run.config.seed for run in runs] == [7, 0, 8, 1]
    assert {run.config.training.options["epochs"] for run in runs} == {5}
    plain = [{**run.config.plain(), "seed": None} for run in runs]
    assert plain[0] == plain[2]
    assert runs[3].begin == (
        "train", str(paths[1]), "--set", "training.epochs=5", "--set", "seed=1", "--out", "out/two/seed-1",
    )  # fmt: skip
