"""The page: whole, alone, safe, and silent about numbers that cannot be trusted."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch

from sri_pyro.evaluation import Evaluation, figures, latent_figures
from sri_pyro.evaluation.export import Reconstruction, Texts, write_outputs
from sri_pyro.evaluation.headline import headline, summary
from sri_pyro.evaluation.report import render, write_report
from sri_pyro.evaluation.report_inputs import load_report_inputs

EvaluationOf = Callable[[str], Evaluation]
RunOf = Callable[[str], Path]
HOSTILE = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects ids, attributes and headings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: Counter[str] = Counter()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids.update(value or "" for name, value in attrs if name == "id")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def words(page: str) -> str:
    """What someone reads, white space made single."""
    return " ".join(" ".join(read(page).text).split())


def folder_of(kind: str, evaluation_of: EvaluationOf, folder: Path, **more: Any) -> Path:
    """A run's folder with everything that a report may read."""
    evaluation = evaluation_of(kind)
    texts = [HOSTILE if i % 5 == 0 else f"sentence {i}" for i in range(len(evaluation.table))]
    provenance = {"seed": 3, "data_digest": "abc123", "command": HOSTILE, "versions": {"torch": "2.6"},
                  "configuration": {"model": {"kind": HOSTILE}, "evaluation": {"num_sentences": None}}}  # fmt: skip
    written = Texts([HOSTILE, "a sample"], [[HOSTILE, "to"]], [Reconstruction("original", [HOSTILE])])
    write_outputs(folder, evaluation, texts, provenance, texts=written, **more)
    records = [
        {"kind": "step", "step": 1, "epoch": 0.1, "loss": 50.0},
        {"kind": "step", "step": 2, "epoch": 0.2, "loss": 45.0},
        {"kind": "event", "step": 2, "message": "x"},
        {"kind": "validation", "step": 2, "epoch": 1.0, "nll": 44.0, "kl_posterior_prior": 0.5},
        {"kind": "validation", "step": 4, "epoch": 2.0, "nll": 43.0, "kl_posterior_prior": None},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"kind": "st')
    return folder


@pytest.fixture(scope="module")
def run_of(evaluation_of: EvaluationOf, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """A folder with its report, by kind of evaluation; not to be changed."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            folder = folder_of(kind, evaluation_of, tmp_path_factory.mktemp(kind), noise_scale=1.0)
            (folder / "config.toml").write_text("seed = 3  # as written by hand\n")
            write_report(folder, f"Title {HOSTILE}")
            made[kind] = folder
        return made[kind]

    return get


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["healthy", "collapsed", "cold", "language_model"])
def test_the_page_is_alone_well_formed_and_safe(kind: str, run_of: RunOf) -> None:
    """No script, no resource from elsewhere, no id twice, no word of the user's as markup."""
    page = page_of(run_of(kind))
    reader = read(page)
    assert not reader.tags.keys() & {"script", "link", "img", "iframe", "object"}
    assert max(reader.ids.values()) == 1
    for _tag, name, value in reader.attributes:
        assert name not in ("src", "srcset", "onload", "onclick")
        assert name not in ("href", "xlink:href") or value.startswith("#")
    without_namespaces = page.replace("http://www.w3.org/", "")
    assert not re.search(r"https?:|@import|url\((?!#)", without_namespaces)
    assert words(page).startswith(f"Title {HOSTILE} Title {HOSTILE}")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", words(page))


def test_every_figure_is_described_and_drawn(run_of: RunOf) -> None:
    page = page_of(run_of("healthy"))
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    reader = read(page)
    assert len(drawings) == reader.tags["figure"] == reader.tags["figcaption"] == 18
    described = [value for tag, name, value in reader.attributes if tag == "div" and name == "aria-label"]
    assert len(described) == len(drawings)
    assert all(len(text) > 10 for text in described)
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "viewBox" in drawing
        assert "#00000" not in drawing  # every stand-in has become a variable of the page


def test_the_page_tells_what_it_should_in_order(run_of: RunOf, evaluation_of: EvaluationOf) -> None:
    text = words(page_of(run_of("healthy")))
    ppl = evaluation_of("healthy").metrics["perplexity"]
    wanted = [
        f"Title {HOSTILE}",
        f"Perplexity {ppl['estimate']:.4g} (95% interval {ppl['lower']:.4g} to {ppl['upper']:.4g}) on 48 held-out",
        "Verdicts", "The likelihood is trustworthy.", "Not collapsed", "Headline numbers",
        f"{ppl['estimate']:.4g} [{ppl['lower']:.4g}, {ppl['upper']:.4g}]", "the choice of sentences",
        "InfoNCE with Gaussian critics: a lower bound", "Active units, corrected", "4 of 4",
        "Can the likelihood be trusted?", "k-hat by sentence length", "Does the model use its code?", "Active units",
        "The short run, step by step", "KL(short run ‖ posterior) by step", "Posteriors of four sentences",
        "in that dimension alone", "All sentences together", "chi-squared with 4 degrees of freedom",
        "Training and validation",
        "Long and short sentences", "Sentences sampled from the prior", HOSTILE, "Interpolations",
        "from the posterior mean of one held-out sentence to that of another", "decoded greedily", "Reconstructions",
        "How these numbers were made", "command", "data_digest", "abc123", "versions.torch", "Configuration",
        f"model.kind {HOSTILE}", "evaluation.num_sentences not set",
    ]  # fmt: skip
    place = 0
    for each in wanted:
        found = text.find(each, place)
        assert found >= 0, each
        place = found


def test_a_collapsed_model_is_called_so_on_the_page(run_of: RunOf) -> None:
    text = words(page_of(run_of("collapsed")))
    assert "Bad COLLAPSED: the model ignores its code." in text
    assert (
        "COLLAPSED: the model ignores its code; 0 of 4 latent units are active." in text
    )  # the first sentence


def test_a_likelihood_that_failed_is_withheld(run_of: RunOf, evaluation_of: EvaluationOf) -> None:
    """The number stays in metrics.json; the page says what is wrong in its stead."""
    evaluation = evaluation_of("cold")
    ppl = evaluation.metrics["perplexity"]
    text = words(page_of(run_of("cold")))
    assert "No perplexity can be stated" in text
    assert "Perplexity not shown" in text
    assert "log perplexity" not in text
    assert "do not believe the right halves" in text
    for number in (ppl["estimate"], ppl["lower"], ppl["upper"]):
        assert f"{number:.4g}" not in text
    excess = {"value": 0.5, "se": 0.1, "num_samples": 9}
    valid = {"configuration": {"evaluation": {"split": "valid"}}}
    assert "of 48 validation sentences" in summary({**evaluation.metrics, "provenance": valid})
    rows = headline({**evaluation.metrics, "floor": {"perplexity": 20.0, "excess": excess}})
    withheld = {row.name for row in rows if row.value == "not shown"}
    assert withheld >= {
        "Perplexity",
        "KL(posterior ‖ prior)",
        "KL(short run ‖ posterior)",
        "Excess over the truth",
    }


def test_a_language_model_has_a_page_without_codes(run_of: RunOf) -> None:
    text = words(page_of(run_of("language_model")))
    assert "This model has no code: it is a language model." in text
    assert "Sentences sampled from the model" in text
    for absent in ("Active units", "posterior", "k-hat"):
        assert absent not in text


def test_a_learned_prior_is_compared_with_its_own_draws(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    folder = folder_of("healthy", evaluation_of, tmp_path, prior_z=torch.randn(500, 4))
    text = words(write_report(folder).read_text())
    assert "less that of the prior's own draws" in text
    assert "chi-squared" not in text


def test_the_page_is_a_function_of_the_files_and_leaves_matplotlib_alone(run_of: RunOf) -> None:
    folder, before = run_of("healthy"), dict(matplotlib.rcParams)
    inputs = load_report_inputs(folder)
    assert render(inputs, f"Title {HOSTILE}") == page_of(folder)
    assert dict(matplotlib.rcParams) == before
    assert str(folder) not in page_of(folder)


def test_many_sentences_are_drawn_in_part_but_for_those_that_fail(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 48 dots 10 are left; those that give alarm all stay."""
    monkeypatch.setattr(figures, "MOST_POINTS", 10)
    table = load_report_inputs(run_of("healthy")).table
    panel = figures.khat_by_length(table)
    assert panel.caption.endswith(" Of 48 sentences 10 are drawn, and all that give alarm.")
    alarmed = figures.khat_by_length(table.assign(khat=table["khat"].abs() + 1))
    assert len(re.findall(r"<use[^>]*var\(--first\)", panel.svg)) == 10
    assert len(re.findall(r"<use[^>]*var\(--alarm\)", alarmed.svg)) == 48 + 1  # the legend has one


def blue_markers(svg: str) -> int:
    """How many markers of a drawing have the page's first colour; ticks are markers too, of another."""
    return len(re.findall(r"<use[^>]*fill: var\(--first\)", svg))


def test_directions_are_coloured_as_the_table_counts_them(run_of: RunOf) -> None:
    """Four eigenvalues above 0.01 of which two pass the edge of noise: two are coloured, and the line says 0.05."""
    units = {"eigenvalues": [0.5, 0.06, 0.04, 0.02], "active_eigenvalues": 2, "noise_edge": 0.04, "of": 4}
    panel = latent_figures.unit_eigenvalues(units)
    assert blue_markers(panel.svg) == 2 + 1  # the legend has one
    assert "0.05 (0.01 + noise)" in panel.svg
    assert panel.alt == "2 of 4 eigenvalues are above 0.05."
    units = load_report_inputs(run_of("collapsed")).metrics["active_units"]
    assert units["noise_edge"] > 0
    beyond = [value > 0.01 + units["noise_edge"] for value in units["eigenvalues"]]
    assert sum(beyond) == units["active_eigenvalues"]


def losses(count: int) -> list[dict[str, Any]]:
    """Records of ten batches an epoch: alternately long and short sentences, 10 nats apart, and a slow fall."""
    return [
        {"kind": "step", "step": i, "epoch": i / 10, "loss": 50.0 - i / 10 + 10 * (i % 2)}
        for i in range(1, count + 1)
    ]


def test_single_batches_are_dots_and_their_mean_over_an_epoch_is_the_line() -> None:
    """By hand: the mean over ten batches that end at i is 55 - (i - 4.5) / 10, whatever their lengths; the first epoch
    has no line before its end. Catches a line through single batches, and a mean of another width.
    """
    records = losses(30)
    epochs, values = (np.array([record[name] for record in records]) for name in ("epoch", "loss"))
    where, mean, error = figures.running_mean(epochs, values)
    assert where == pytest.approx(epochs[9:])
    assert mean == pytest.approx([55 - (i - 4.5) / 10 for i in range(10, 31)])
    assert error[0] == pytest.approx(values[:10].std(ddof=1) / np.sqrt(10))
    validation = {"kind": "validation", "epoch": 3.0, "nll": 40.0}
    (panel,) = figures.training([*records, validation], with_code=False)
    assert (
        len(re.findall(r"<use[^>]*fill: var\(--muted\); fill-opacity", panel.svg)) == 30 + 1
    )  # the legend has one
    assert panel.caption.startswith("Above: the objective")
    assert "Below: held-out NLL" in panel.caption
    assert panel.alt == "During training: loss from 59.9 to 47, NLL from 40 to 40."


def test_a_single_record_is_drawn_as_a_point() -> None:
    """A line through one point is nothing."""
    (panel,) = figures.training(losses(1), with_code=True)
    assert panel.caption.endswith(" One record only.")
    assert figures.training([], with_code=True) == []
    (panel,) = figures.training(losses(2), with_code=True)
    assert "One record" not in panel.caption


def test_validation_curves_say_that_they_have_no_error() -> None:
    record = {"kind": "validation", "epoch": 1.0, "nll": 40.0, "kl_posterior_prior": 1.0}
    panels = figures.training([record, {**record, "epoch": 2.0}], with_code=True)
    assert len(panels) == 2
    assert all("no error is recorded" in panel.caption for panel in panels)


def test_effective_draws_within_a_decade_have_ticks(run_of: RunOf) -> None:
    """Powers of ten alone would leave the axis from 30 to 90 without a number."""
    table = load_report_inputs(run_of("healthy")).table
    panel = figures.ess_by_length(table.assign(ess=[35.0 + i for i in range(len(table))]))
    assert re.search(r">50</text>", panel.svg)


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


def test_refused_sentences_are_named_in_the_summary(run_of: RunOf) -> None:
    metrics = dict(load_report_inputs(run_of("healthy")).metrics)
    metrics["nll"] = {**metrics["nll"], "num_samples": 44}
    metrics["perplexity"] = {**metrics["perplexity"], "estimate": None, "lower": None, "upper": None}
    text = summary(metrics)
    assert text.startswith("No perplexity can be stated: 4 of 48 held-out sentences have no valid estimate")


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


NUMBERS = "active_units, ess, jensen, khat, kl_posterior_prior, kl_q_posterior, kl_q_prior, mutual_information, nll, "


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
            if keys in {("short_run",), ("noise_scale",)}:  # what is not there of every model
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


NUMBERS = "active_units, ess, jensen, khat, kl_posterior_prior, kl_q_posterior, kl_q_prior, mutual_information, nll, "


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("metrics.json", b"{}", f"lacks {NUMBERS}perplexity, reconstruction"),
        ("metrics.json", b"[]", "must hold an object; got []"),
        ("samples.json", b"{}", "lacks samples"),
        ("samples.json", b'{"samples": [], "interpolations": [["a"], "b"], "reconstructions": []}',
         "must hold a list as interpolations[1], and holds 'b'"),
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
