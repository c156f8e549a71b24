"""The report: one self-contained page, made from the files of a folder alone."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sri_pyro.checkpoint import atomic_path
from sri_pyro.evaluation import figures, latent_figures
from sri_pyro.evaluation.diagnostics import InferenceResult, from_netcdf
from sri_pyro.evaluation.drawing import Panel
from sri_pyro.evaluation.verdicts import (
    estimate,
    judge,
    likelihood_is_trusted,
    number,
    refused_sentences,
    rounded,
)

METHODS = {
    "self_normalised_importance": "self-normalised importance weights",
    "gaussian_entropy_lower_estimate": "Gaussian entropy: biased low by construction",
    "infonce_gaussian": "InfoNCE with Gaussian critics: a lower bound",
}
"""Estimators by the names they have in ``metrics.json``."""


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made of.

    Attributes:
        metrics: ``metrics.json``.
        table: ``sentences.csv``: a row per sentence, its text in the last column.
        data: ``inference.nc``.
        texts: ``samples.json``; lists ``samples``, ``interpolations``, ``reconstructions``.
        history: Records of ``history.jsonl``; none if there is no such file.
        configuration: The one in the provenance, which knows what evaluation overrode; else ``config.toml``.
    """

    metrics: Mapping[str, Any]
    table: pd.DataFrame
    data: InferenceResult
    texts: Mapping[str, Any]
    history: list[dict[str, Any]]
    configuration: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the headline table: what, how much, and how to take it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    heading: str
    panels: list[Panel]


def load_report_inputs(folder: Path) -> ReportInputs:
    """Read what ``write_outputs`` wrote into a folder, and the run's own files where there are any.

    Raises:
        FileNotFoundError: If the folder holds no evaluation.
        ValueError: If a file is damaged.
    """
    for name in ("metrics.json", "sentences.csv", "inference.nc", "samples.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"a report needs {name}, which {folder} does not hold; evaluate the run first."
            )
    metrics = _read_json(folder / "metrics.json")
    stored = metrics.get("provenance", {}).get("configuration")
    return ReportInputs(
        metrics=metrics,
        table=_read_table(folder / "sentences.csv"),
        data=from_netcdf(folder / "inference.nc"),
        texts=_read_json(folder / "samples.json"),
        history=_read_lines(folder / "history.jsonl"),
        configuration=stored if stored is not None else _read_toml(folder / "config.toml"),
    )


def write_report(folder: Path, title: str | None = None) -> Path:
    """Make ``report.html`` in a folder from the files it holds; they are not changed.

    Args:
        folder: Where ``write_outputs`` wrote, and where ``config.toml`` and ``history.jsonl`` lie if there are any.
        title: Of the page; the folder's name if None.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If the folder holds no evaluation.
        ValueError: If a file is damaged.
    """
    page = render(load_report_inputs(folder), title or folder.resolve().name)
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "report.html"


def render(inputs: ReportInputs, title: str) -> str:
    """The page as text; the same inputs give the same page."""
    environment = Environment(
        loader=PackageLoader("sri_pyro.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # drawn by us, without a word of the user's
    return environment.get_template("report.html.j2").render(
        title=title,
        summary=summary(inputs.metrics),
        verdicts=judge(inputs.metrics),
        rows=headline(inputs.metrics),
        sections=sections(inputs),
        texts=inputs.texts,
        has_code=bool(inputs.metrics["active_units"]["of"]),
        provenance=facts(origin(inputs.metrics.get("provenance", {}))),
        configuration=facts(inputs.configuration),
    )


def summary(metrics: Mapping[str, Any]) -> str:
    """The evaluation in one sentence."""
    ppl, units = metrics["perplexity"], metrics["active_units"]
    n = f"{ppl['num_sentences']:,} held-out sentences"
    if refused := refused_sentences(metrics):
        text = f"No perplexity can be stated: {refused:,} of {n} have no valid estimate of log p(x)"
    elif not likelihood_is_trusted(metrics):
        text = f"No perplexity can be stated: the importance weights of {n} are not to be trusted"
    else:
        text = (
            f"Perplexity {ppl['estimate']:.4g} (95% interval {ppl['lower']:.4g} to {ppl['upper']:.4g}) on {n}"
        )
    if not units["of"]:
        return text + "; a language model, without a code."
    kl = estimate(metrics["kl_posterior_prior"])
    if likelihood_is_trusted(metrics):
        text += f"; the code holds {kl.value:.2g} nats a sentence"
    return text + f"; {units['count']} of {units['of']} latent units are active."


def headline(metrics: Mapping[str, Any]) -> list[Row]:
    """The table of headline numbers, each with its error; what cannot be trusted is withheld."""
    ppl, units = metrics["perplexity"], metrics["active_units"]
    trusted = likelihood_is_trusted(metrics)
    sampling, noise = number(ppl["log_se_sampling"]) ** 2, number(ppl["log_se_monte_carlo"]) ** 2
    dominant = "the choice of sentences" if sampling >= noise else "Monte Carlo noise"
    share = max(sampling, noise) / (sampling + noise) if sampling + noise > 0 else 1.0
    counted = f"{ppl['num_tokens']:,} tokens, ends of sentences counted. "
    rows = [
        Row(
            "Perplexity",
            f"{ppl['estimate']:.4g} [{ppl['lower']:.4g}, {ppl['upper']:.4g}]",
            f"{counted}{share:.1%} of the interval's variance comes from {dominant}.",
        )
        if trusted
        else _withheld("Perplexity"),
        _row("Negative log-likelihood", metrics["nll"], "nats a sentence") if trusted else _withheld("NLL"),
    ]
    if "floor" in metrics:
        rows.append(
            Row(
                "Perplexity of the truth",
                f"{number(metrics['floor']['perplexity']):.4g}",
                "The exact law of these sentences: a floor for every model.",
            )
        )
        rows.append(
            _row("Excess over the truth", metrics["floor"]["excess"], "KL(truth ‖ model), nats a sentence")
        )
    if not units["of"]:
        return rows
    rows.append(
        _row("Reconstruction", metrics["reconstruction"], "-log p(x | z) over short runs, nats a sentence")
    )
    name = "KL(posterior ‖ prior)"
    note = "does not depend on the short run"
    rows.append(_row(name, metrics["kl_posterior_prior"], note) if trusted else _withheld(name))
    rows.append(_row("KL(short run ‖ prior)", metrics["kl_q_prior"]))
    rows.append(_row("KL(short run ‖ posterior)", metrics["kl_q_posterior"]))
    cap = math.log(max(1, int(metrics["mutual_information"]["num_samples"])))
    rows.append(_row("Mutual information", metrics["mutual_information"], f"cannot exceed log n = {cap:.2f}"))
    naive = f"Naive count, which noise inflates: {units['naive_count']} (single draws: "
    naive += f"{units['naive_single_draw_count']})"
    rows.append(
        Row(
            "Active units, corrected",
            f"{units['count']} of {units['of']}",
            f"{naive}; {units['active_eigenvalues']} active directions. {units['num_chains']} chains a sentence.",
        )
    )
    khat, ess = metrics["khat"], metrics["ess"]
    rows.append(
        Row(
            "k-hat below its threshold",
            f"{number(khat['share_below']):.1%} of sentences",
            f"Threshold {number(khat['threshold']):.2f}; median {number(khat['median']):.2f}, largest "
            f"{number(khat['max']):.2f}.",
        )
    )
    rows.append(
        Row("Effective draws, median", f"{number(ess['median']):.0f}", f"Smallest {number(ess['min']):.0f}.")
    )
    if "posterior_spread_ratio" in metrics:
        note = "1 is right; below 1 is over-confident"
        rows.append(_row("Variance, short run / posterior", metrics["posterior_spread_ratio"], note))
    return rows


def sections(inputs: ReportInputs) -> list[Section]:
    """All figures that there is something to draw for."""
    metrics, table = inputs.metrics, inputs.table
    has_code = bool(metrics["active_units"]["of"])
    lengths = figures.by_length(table, has_code, likelihood_is_trusted(metrics))
    found = []
    if has_code:
        data = inputs.data
        prior_z = data["prior"]["z"].to_numpy()[0] if "prior" in data else None
        z = data["posterior"]["z"].to_numpy()
        z = z.reshape(-1, *z.shape[2:])
        proposal = data["proposal"]["z"].to_numpy()[0], data["proposal"]["log_weight"].to_numpy()[0]
        units = metrics["active_units"]
        found += [
            Section(
                "Can the likelihood be trusted?",
                [figures.khat_by_length(table), figures.ess_by_length(table)],
            ),
            Section(
                "Does the model use its code?",
                [latent_figures.unit_spectrum(units), latent_figures.unit_eigenvalues(units)],
            ),
        ]
        if "trajectory" in data:
            trajectory = {
                str(name): values.to_numpy() for name, values in data["trajectory"].data_vars.items()
            }
            found.append(Section("The short run, step by step", latent_figures.steps(trajectory)))
        found += [
            Section("Posteriors of four sentences", latent_figures.marginals(table, z, *proposal, prior_z)),
            Section("All sentences together", latent_figures.aggregate(z, *proposal, prior_z)),
        ]
    found += [
        Section("Training", figures.training(inputs.history, has_code)),
        Section("Long and short sentences", lengths),
    ]
    return [section for section in found if section.panels]


def origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of where numbers come from: the command first, and no option that the configuration has.

    Example:
        >>> origin({"seed": 3, "data": {"options": {"seed": 3}}, "command": "evaluate", "configuration": {"seed": 3}})
        {'command': 'evaluate', 'seed': 3, 'data': {}}
    """
    found = {name: value for name, value in provenance.items() if name != "configuration"}
    if "configuration" in provenance and isinstance(found.get("data"), Mapping):
        found["data"] = {name: value for name, value in found["data"].items() if name != "options"}
    first = {"command": found["command"]} if "command" in found else {}
    return first | {name: value for name, value in found.items() if name not in first}


def facts(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as a table: names joined by dots as on the command line, and values; null is "not set".

    Example:
        >>> facts({"seed": 3, "versions": {"torch": "2.6"}, "evaluation": {"num_sentences": None}})
        [('seed', '3'), ('versions.torch', '2.6'), ('evaluation.num_sentences', 'not set')]
    """
    found = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += facts(value, f"{prefix}{name}.")
        elif value is None:
            found.append((f"{prefix}{name}", "not set"))
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((f"{prefix}{name}", text))
    return found


def _row(name: str, record: Mapping[str, Any], note: str = "") -> Row:
    found = estimate(record)
    parts = [note, METHODS.get(found.method, found.method)]
    note = "; ".join(part for part in parts if part)
    value = rounded(found) if math.isfinite(found.value) else "not known"
    return Row(name, value, note[:1].upper() + note[1:] + ("." if note else ""))


def _withheld(name: str) -> Row:
    return Row(name, "not shown", "What it rests on is not to be trusted; see the first verdict.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}); evaluate the run again.") from None
    return data


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is not TOML ({error}); restore it or remove it.") from None


def _read_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    # Read apart, for "nan" is a word and an empty sentence is a text.
    return table.assign(text=pd.read_csv(path, usecols=["text"], dtype=str, na_filter=False)["text"])


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a history; a last line that an interruption cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for i, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if i + 1 < len(lines):
                raise ValueError(
                    f"line {i + 1} of {path} is not JSON; restore the file or remove it."
                ) from None
    return records
