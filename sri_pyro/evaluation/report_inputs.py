"""What a report is made of: the files of a folder, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sri_pyro.evaluation.analyses import ANALYSES
from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.files import check_metrics, check_texts
from sri_pyro.evaluation.findings import read_findings, read_object
from sri_pyro.evaluation.netcdf import from_netcdf
from sri_pyro.history import read_record
from sri_pyro.wording import listed

DRAWN = {"step": ("epoch", "loss"), "validation": ("epoch", "nll")}
"""Numbers of a history that the figures draw."""
COLUMNS = ("num_tokens", "log_px", "khat", "khat_threshold", "ess", "kl_posterior_prior")
"""Numbers of every sentence that the page is made of."""


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
        findings: Of further analyses that the folder holds, numbers and arrays by name.
    """

    metrics: Mapping[str, Any]
    table: pd.DataFrame
    data: InferenceResult
    texts: Mapping[str, Any]
    history: list[dict[str, Any]]
    configuration: Mapping[str, Any]
    findings: Mapping[str, tuple[dict[str, Any], InferenceResult]] = field(default_factory=dict)


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
    metrics, texts = (
        read_object(folder / f"{name}.json", "evaluate the run again") for name in ("metrics", "samples")
    )
    check_metrics(metrics, folder / "metrics.json")
    check_texts(texts, folder / "samples.json")
    stored = metrics.get("provenance", {}).get("configuration")
    return ReportInputs(
        metrics=metrics,
        table=_read_table(folder / "sentences.csv", metrics["perplexity"]["num_sentences"]),
        data=from_netcdf(folder / "inference.nc"),
        texts=texts,
        history=_read_lines(folder / "history.jsonl"),
        configuration=stored if stored is not None else _read_toml(folder / "config.toml"),
        findings={name: found for name in ANALYSES if (found := read_findings(folder, name)) is not None},
    )


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is not TOML ({error}); restore it or remove it.") from None


def _read_table(path: Path, num_sentences: int) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not a table of sentences ({said}); evaluate the run again.") from None
    lacking = [name for name in (*COLUMNS, "text") if name not in table]
    if lacking:
        raise ValueError(f"{path} lacks the columns {listed(lacking)}; evaluate the run again.")
    if len(table) != num_sentences:
        raise ValueError(
            f"{path} holds {len(table)} sentences, and metrics.json beside it was computed from "
            f"{num_sentences}; evaluate the run again."
        )
    for name in COLUMNS:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(
                f"the column {name} of {path} holds something other than numbers; evaluate the run again."
            )
    # Read apart, for "nan" is a word and an empty sentence is a text.
    return table.assign(text=pd.read_csv(path, usecols=["text"], dtype=str, na_filter=False)["text"])


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a history; a last line that an interruption cut short, before its end, is left out."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; restore the file or remove it.") from None
    records: list[dict[str, Any]] = []
    lines = text.splitlines()
    for i, line in enumerate(lines, 1):
        try:
            records.append(read_record(line, DRAWN))
        except ValueError as error:
            if i < len(lines) or text.endswith("\n"):
                raise ValueError(f"line {i} of {path} {error}; restore the file or remove it.") from None
    return records
