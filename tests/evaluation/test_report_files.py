"""Files that a report is made of: missing, damaged, changed by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sri_pyro.evaluation.report import write_report
from sri_pyro.evaluation.report_inputs import load_report_inputs
from tests.evaluation.pages import RunOf, page_of, words


def test_a_configuration_comes_from_the_run_where_the_provenance_has_none(
    tmp_path: Path, run_of: RunOf
) -> None:
    folder = shutil.copytree(run_of("language_model"), tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["provenance"]["configuration"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.toml").write_text("[model]\nkind = 'x'  # by hand\n")
    assert "Configuration model.kind x" in words(write_report(folder).read_text())
    (folder / "config.toml").write_text("[model")
    message = rf"^{re.escape(str(folder / 'config.toml'))} is not TOML \(.*\); restore it or remove it\.$"
    with pytest.raises(ValueError, match=message):
        write_report(folder)


@pytest.mark.parametrize("name", ["metrics.json", "sentences.csv", "inference.nc", "samples.json"])
def test_a_folder_without_an_evaluation_is_refused(name: str, tmp_path: Path, run_of: RunOf) -> None:
    folder = shutil.copytree(run_of("language_model"), tmp_path / "run")
    (folder / name).unlink()
    message = f"a report needs {name}, which {folder} does not hold; evaluate the run first."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        write_report(folder)


def test_damaged_files_are_named_and_the_old_page_stays(tmp_path: Path, run_of: RunOf) -> None:
    folder = shutil.copytree(run_of("language_model"), tmp_path / "run")
    page = page_of(folder)
    whole = (folder / "history.jsonl").read_text()
    (folder / "history.jsonl").write_text('{"kind": \n' + whole)
    message = f"line 1 of {folder / 'history.jsonl'} is not JSON; restore the file or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_report(folder)
    metrics = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(metrics[: len(metrics) // 2])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(folder / 'metrics.json'))} is not whole JSON \("):
        write_report(folder)
    assert (folder / "report.html").read_text() == page
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[1]", "is not a record of training"),
        ('{"kind": "validation", "epoch": 1.0}', "is a validation without the number nll"),
        ('{"kind": "step", "loss": 1.0}', "is a step without the number epoch"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_line_that_is_no_record_is_named(
    line: str, fault: str, last: bool, tmp_path: Path, run_of: RunOf
) -> None:
    """A last line that is whole JSON was not cut short."""
    folder = shutil.copytree(run_of("language_model"), tmp_path / "run")
    path = folder / "history.jsonl"
    kept = path.read_text().splitlines()[:2]
    path.write_text("\n".join([*kept, line] if last else [line, *kept]) + "\n")
    message = f"line {3 if last else 1} of {path} {fault}; restore the file or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_report(folder)


NUMBERS = (
    "active_units, divergence, ess, jensen, khat, kl_posterior_prior, kl_q_posterior, kl_q_prior, "
    "mutual_information, nll, "
)


def leaves(record: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a nested object, as a path."""
    if not isinstance(record, dict):
        return []
    return [each for key, value in record.items() for each in [(*path, key), *leaves(value, (*path, key))]]


def test_every_key_of_the_metrics_is_required_or_not_needed(tmp_path: Path, run_of: RunOf) -> None:
    """Each key is removed, and each object and list emptied, in turn: one sentence names it, or a page is drawn.

    Oracle: nothing but a ValueError of one line that names file and key may come out. Catches a guard that looks at
    the outermost keys alone, whose report of an emptied object ended in a KeyError.
    """
    folder = shutil.copytree(run_of("healthy"), tmp_path / "run")
    path = folder / "metrics.json"
    whole = json.loads(path.read_text())
    for keys in leaves({key: value for key, value in whole.items() if key != "provenance"}):
        for emptied in (False, True):
            damaged = json.loads(json.dumps(whole))
            holder = damaged
            for key in keys[:-1]:
                holder = holder[key]
            if not emptied:
                del holder[keys[-1]]
            elif isinstance(holder[keys[-1]], dict | list):
                holder[keys[-1]] = type(holder[keys[-1]])()
            else:
                holder[keys[-1]] = {}
            path.write_text(json.dumps(damaged))
            if keys in {
                ("short_run",),
                ("noise_scale",),
                ("guarantees",),
            }:  # what is not there of every model
                continue
            with pytest.raises(ValueError) as caught:
                load_report_inputs(folder)
            message = str(caught.value)
            assert message.startswith(f"{path} ")
            assert message.endswith("; evaluate the run again.")
            assert keys[-1] in message
            assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ess": {}}, "lacks ess.median"),
        ({"nll": None}, "must hold an object as nll, and holds None"),
        ({"short_run": {"num_steps": 4}}, "lacks short_run.kl_first"),
        ({"short_run": None}, None),
        ({"noise_scale": "x"}, None),
        ({"provenance": {}}, None),
        ({"provenance": {"configuration": []}}, "must hold an object as provenance.configuration, and holds []"),
        ({"provenance": {"configuration": {"inference": {"noise": {"kind": "linear"}}}}}, None),
        ({"provenance": {"configuration": {"inference": {"noise": []}, "evaluation": {}}}}, None),
    ],
)  # fmt: skip
def test_metrics_changed_by_hand_are_refused_or_drawn(
    change: dict[str, Any], fault: str | None, tmp_path: Path, run_of: RunOf
) -> None:
    folder = shutil.copytree(run_of("healthy"), tmp_path / "run")
    path = folder / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if fault is None:
        write_report(folder)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {fault}; evaluate the run again.')}$"):
        write_report(folder)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("metrics.json", b"{}", f"lacks {NUMBERS}perplexity, reconstruction"),
        ("metrics.json", b"[]", "must hold an object; got []"),
        ("samples.json", b"{}", "lacks samples"),
        ("samples.json", b'{"samples": [], "interpolations": [["a"]], "reconstructions": []}',
         "must hold an object as interpolations[0], and holds ['a']"),
        ("samples.json", b'{"samples": [], "interpolations": [], "reconstructions": [{"original": "a"}]}',
         "lacks reconstructions[0].decoded"),
        ("samples.json", b'"text"', "must hold an object; got 'text'"),
        ("sentences.csv", b"", "is not a table of sentences (No columns to parse from file)"),
        ("sentences.csv", b"id,num_tokens,log_px,khat,text\n",
         "lacks the columns ess, khat_threshold, kl_posterior_prior"),
        ("sentences.csv", b"num_tokens,log_px,khat,khat_threshold,ess,kl_posterior_prior,text\n",
         "holds 0 sentences, and metrics.json beside it was computed from 48"),
    ],
)  # fmt: skip
def test_a_file_of_another_shape_is_refused(
    name: str, content: bytes, fault: str, tmp_path: Path, run_of: RunOf
) -> None:
    folder = shutil.copytree(run_of("language_model"), tmp_path / "run")
    (folder / name).write_bytes(content)
    message = f"{folder / name} {fault}; evaluate the run again."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_report(folder)


def test_a_table_of_sentences_that_is_binary_or_cut_short_is_refused(tmp_path: Path, run_of: RunOf) -> None:
    """A table with fewer rows than its metrics would be drawn without a word."""
    folder = shutil.copytree(run_of("language_model"), tmp_path / "run")
    path = folder / "sentences.csv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:-8]))
    message = (
        f"{path} holds 40 sentences, and metrics.json beside it was computed from 48; evaluate the run again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_report(folder)
    header = rows[0].strip().split(",")
    cells = ["x" if name == "khat" else cell for name, cell in zip(header, rows[1].split(","), strict=False)]
    path.write_text("".join([rows[0], ",".join(cells) + "\n", *rows[2:]]))
    message = f"the column khat of {path} holds something other than numbers; evaluate the run again."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_report(folder)
    path.write_bytes(b"\xff\xfe\x00\x01" * 99)
    message = rf"^{re.escape(str(path))} is not a table of sentences \(.*\); evaluate the run again\.$"
    with pytest.raises(ValueError, match=message):
        write_report(folder)
