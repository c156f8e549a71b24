"""The report: one self-contained page, made from the files of a folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

from sri_pyro.evaluation import figures, latent_figures
from sri_pyro.evaluation.analyses import (
    ANALYSES,
    Examined,
    alarms,
    examined,
    of_other_weights,
    outdated,
    worst_first,
)
from sri_pyro.evaluation.drawing import Panel
from sri_pyro.evaluation.headline import headline, summary
from sri_pyro.evaluation.latent_space import passing
from sri_pyro.evaluation.report_inputs import ReportInputs, load_report_inputs
from sri_pyro.evaluation.sandwich_figures import sandwich_panels
from sri_pyro.evaluation.verdicts import Verdict, judge, likelihood_is_trusted
from sri_pyro.evaluation.which_divergence import which_divergence
from sri_pyro.writing import atomic_path

Codes = NDArray[Any]
TEXTS = ("samples", "interpolations", "reconstructions")
"""What the model writes, as ``samples.json`` and the page's template call it."""
EVALUATED = ("metrics.json", "sentences.csv", "inference.nc")
"""Where the numbers of an evaluation are."""


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    heading: str
    panels: list[Panel]


@dataclass(frozen=True)
class Tab:
    """A part of the page that is shown by itself.

    Attributes:
        name: On the tab.
        sections: Figures.
        blocks: Names of what the template writes before them.
        verdicts: What stands before all else.
    """

    name: str
    sections: list[Section]
    blocks: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()


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
    return template("report.html.j2").render(
        title=title,
        summary=summary(inputs.metrics),
        rows=headline(inputs.metrics),
        which_divergence=which_divergence(
            inputs.metrics,
            {
                name: numbers
                for name, (numbers, _) in inputs.findings.items()
                if not of_other_weights(numbers, inputs.metrics)
            },
        ),
        tabs=tabs(inputs),
        texts=inputs.texts,
        has_code=bool(inputs.metrics["active_units"]["of"]),
        provenance=facts(origin(inputs.metrics.get("provenance", {}))),
        configuration=facts(inputs.configuration),
        files=[*EVALUATED, *(f"{name}.{kind}" for name in inputs.findings for kind in ("json", "nc"))],
    )


def template(name: str, package: str = "sri_pyro.evaluation") -> Template:
    """A page's template, which may include those of the report: its style is that of every page."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("sri_pyro.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    environment.filters["svg"] = (
        Markup  # drawn by us; what is the user's in it is text, escaped by the drawing
    )
    return environment.get_template(name)


def unbroken(cell: str) -> str:
    """A cell whose lines break between a number and its interval alone.

    Example:
        >>> unbroken("37.9 [34.0, 42.1]"), unbroken("3.1 ± 0.2 (exact density)")
        ('37.9 [34.0,\\xa042.1]', '3.1\\xa0±\\xa00.2 (exact density)')
    """
    return cell.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(", ", ",\N{NO-BREAK SPACE}")


def tabs(inputs: ReportInputs) -> list[Tab]:
    """All parts of the page that there is something for, in the order in which they are read."""
    further = {
        name: outdated(name) if of_other_weights(findings[0], inputs.metrics) else examined(name, *findings)
        for name, findings in inputs.findings.items()
    }
    found = [
        Tab("Overview", [], ["numbers"], worst_first([*judge(inputs.metrics), *alarms(further)])),
        Tab("Likelihood", _likelihood(inputs)),
        Tab("Inference", _inference(inputs) if _has_code(inputs) else []),
        *(_examined(name, further) for name in ("doctor", "reference", "calibration")),
        Tab("Latent code", _code(inputs) if _has_code(inputs) else []),
        Tab("Text", [], [kind for kind in TEXTS if inputs.texts[kind]]),
        _examined("criticism", further),
        Tab("Training", [Section("Training", figures.training(inputs.history, _has_code(inputs)))]),
        Tab("Record", [], ["record"]),
    ]
    return [tab for tab in map(_drawn, found) if tab.sections or tab.blocks or tab.verdicts]


def _drawn(tab: Tab) -> Tab:
    return replace(tab, sections=[section for section in tab.sections if section.panels])


def _has_code(inputs: ReportInputs) -> bool:
    return bool(inputs.metrics["active_units"]["of"])


def _likelihood(inputs: ReportInputs) -> list[Section]:
    table, has_code = inputs.table, _has_code(inputs)
    trust = []
    if has_code:
        log_weight = inputs.data["proposal"]["log_weight"].to_numpy()[0]
        trust = [
            figures.khat_by_length(table),
            figures.ess_by_length(table),
            figures.heaviest_weight(table, log_weight),
        ]
    lengths = figures.by_length(table, has_code, likelihood_is_trusted(inputs.metrics))
    between = sandwich_panels(inputs.data) if "simulated" in inputs.data else []
    return [
        Section("Can the likelihood be trusted?", trust),
        Section("Between two bounds", between),
        Section("Long and short sentences", lengths),
    ]


def _inference(inputs: ReportInputs) -> list[Section]:
    found, data = [], inputs.data
    if "trajectory" in data:
        trajectory = {str(name): values.to_numpy() for name, values in data["trajectory"].data_vars.items()}
        found.append(Section("The short run, step by step", latent_figures.steps(trajectory)))
    marginals = latent_figures.marginals(inputs.table, *_codes(inputs))
    return [*found, Section("Posteriors of four sentences", marginals)]


def _code(inputs: ReportInputs) -> list[Section]:
    units, (z, proposal_z, log_weight, prior_z) = inputs.metrics["active_units"], _codes(inputs)
    return [
        Section(
            "Does the model use its code?",
            [latent_figures.unit_spectrum(units), latent_figures.unit_eigenvalues(units)],
        ),
        Section(
            "All sentences together",
            latent_figures.aggregate(z, proposal_z, log_weight, passing(inputs.table), prior_z),
        ),
    ]


def _examined(name: str, further: Mapping[str, Examined]) -> Tab:
    """The tab of a further analysis; empty where the folder holds no findings of it."""
    shown, found = ANALYSES[name], further.get(name, Examined([], []))
    return Tab(shown.tab, [Section(shown.heading, found.panels)], verdicts=found.verdicts)


def _codes(inputs: ReportInputs) -> tuple[Codes, Codes, Codes, Codes | None]:
    """Codes by the inference [M, n, D], by the proposal [S, n, D] with log weights [S, n], and by the prior."""
    data = inputs.data
    z = data["posterior"]["z"].to_numpy()
    proposal = data["proposal"]["z"].to_numpy()[0], data["proposal"]["log_weight"].to_numpy()[0]
    prior_z = data["prior"]["z"].to_numpy()[0] if "prior" in data else None
    return z.reshape(-1, *z.shape[2:]), *proposal, prior_z


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
