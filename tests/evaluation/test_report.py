"""The page: whole, alone, safe, and silent about numbers that cannot be trusted."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
import torch

from sri_pyro.evaluation.headline import headline, summary
from sri_pyro.evaluation.report import render, write_report
from sri_pyro.evaluation.report_inputs import load_report_inputs
from tests.evaluation.pages import HOSTILE, EvaluationOf, RunOf, folder_of, page_of, read, words


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
    assert len(drawings) == reader.tags["figure"] == reader.tags["figcaption"] == 19
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
        "Can the likelihood be trusted?", "k-hat by sentence length", "The heaviest weight of a sentence",
        "Long and short sentences", "The short run, step by step", "KL(inference ‖ posterior) by step",
        "Posteriors of four sentences", "in that dimension alone", "Does the model use its code?", "Active units",
        "All sentences together", "chi-squared with 4 degrees of freedom", "Sentences sampled from the prior", HOSTILE,
        "Interpolations", "from the posterior mean of one held-out sentence to that of another", "decoded greedily",
        "Reconstructions", "Training and validation", "How these numbers were made", "command", "data_digest", "abc123",
        "versions.torch", "Configuration",
        f"model.kind {HOSTILE}", "evaluation.num_sentences not set",
    ]  # fmt: skip
    place = 0
    for each in wanted:
        found = text.find(each, place)
        assert found >= 0, each
        place = found


def test_every_part_has_a_tab_that_shows_it(run_of: RunOf) -> None:
    """Oracle: the page's own rules. Catches a part that no button shows, and buttons of parts that are not there."""
    parts = ["Overview", "Likelihood", "Inference", "Latent code", "Text", "Training", "Record", "Everything"]
    for kind, gone in (("healthy", set()), ("language_model", {"Inference", "Latent code"})):
        page = page_of(run_of(kind))
        names = [name for name in parts if name not in gone]
        assert re.findall(r"<label for=\"[^\"]+\">([^<]+)</label>", page) == names
        buttons = re.findall(r'<input type="radio" name="tab" id="([^"]+)"', page)
        assert re.findall(r'<label for="([^"]+)"', page) == buttons
        shown = [re.search(rf"#{b}:checked ~ main > \.tab[^{{]*{{ display: block; }}", page) for b in buttons]
        assert all(shown)
        assert page.count('<div class="tab">') == len(names) - 1
        assert page.count(" checked>") == 1


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
        "Negative log-likelihood",  # as it is called where it is shown
        "KL(posterior ‖ prior)",
        "KL(inference ‖ posterior)",
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


def test_a_number_of_one_has_no_plural_and_information_says_whose_it_is(run_of: RunOf) -> None:
    """Mutual information of the inference above KL(posterior ‖ prior) of the model looks impossible, and is not."""
    metrics = dict(load_report_inputs(run_of("healthy")).metrics)
    metrics["active_units"] = {**metrics["active_units"], "count": 1, "active_eigenvalues": 1}
    notes = {row.name: row.note for row in headline(metrics)}
    assert "1 active direction." in notes["Active units, corrected"]
    assert summary(metrics).endswith("at least 1 of 4 latent units is active.")
    assert (
        "it may exceed KL(posterior ‖ prior), which is of the model's"
        in notes["Mutual information, at least"]
    )


def test_refused_sentences_are_named_in_the_summary(run_of: RunOf) -> None:
    metrics = dict(load_report_inputs(run_of("healthy")).metrics)
    metrics["nll"] = {**metrics["nll"], "num_samples": 44}
    metrics["perplexity"] = {**metrics["perplexity"], "estimate": None, "lower": None, "upper": None}
    text = summary(metrics)
    assert text.startswith("No perplexity can be stated: 4 of 48 held-out sentences have no valid estimate")


def test_chains_that_diverged_are_told_where_there_are_some(run_of: RunOf) -> None:
    metrics = dict(load_report_inputs(run_of("healthy")).metrics)
    assert metrics["divergence"]["chains"] == 0
    assert metrics["divergence"]["num_chains"] == 48 * metrics["active_units"]["num_chains"]
    assert "Chains that diverged" not in [row.name for row in headline(metrics)]
    metrics["divergence"] = {"chains": 7, "num_chains": 3000, "sentences": 2}
    row = next(row for row in headline(metrics) if row.name == "Chains that diverged")
    assert (row.value, row.note) == ("7 of 3,000", "They ran again with shorter steps, on 2 sentences.")


def test_a_kl_far_below_zero_is_not_a_number_to_print(run_of: RunOf) -> None:
    """A Gaussian entropy of chains in two heaps over-states theirs; -0.84 ± 0.03 stood in the table once."""
    metrics = dict(load_report_inputs(run_of("healthy")).metrics)
    for value, shown in ((-0.84, False), (-0.05, True)):
        metrics["kl_q_posterior"] = {**metrics["kl_q_posterior"], "value": value, "se": 0.03}
        row = next(row for row in headline(metrics) if row.name.startswith("KL(inference ‖ posterior)"))
        assert (row.value != "not known") == shown
