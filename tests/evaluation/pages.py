"""Folders with a report, and what is on their pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sri_pyro.evaluation import Evaluation
from sri_pyro.evaluation.export import Interpolation, Reconstruction, Texts, write_outputs

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
    written = Texts(
        [HOSTILE, "a sample"],
        [Interpolation(HOSTILE, "to", [HOSTILE, "to"])],
        [Reconstruction("original", [HOSTILE])],
    )
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


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")
