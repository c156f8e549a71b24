"""The command: what is kept, what is made again, and what the two files say; measurements are made up."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.document import document, markdown, number
from benchmarks.facts import facts, sources_digest
from benchmarks.kept import Kept
from benchmarks.measurements import Measurement, Run
from benchmarks.rows import Bar, Row, single
from benchmarks.timing import Spread

FACTS = {
    "commit": "0123456789abcdef", "changed_since_commit": False, "sources": "5", "processor": "P", "cores": 2,
    "threads": 1, "system": "Linux", "python": "3.11", "torch": "2.13", "pyro": "1.9", "numpy": "2.4",
    "jax": "not available", "compiled": True, "gpu": "not available", "gpu_cells": False,
}  # fmt: skip


class Bench:
    """A table of three measurements that say which of them were made."""

    def __init__(self, folder: Path) -> None:
        self.made: list[str] = []
        self.faults: dict[str, BaseException] = {}
        self.out = folder / "latest"
        self.measurements = [
            Measurement(name, name.upper(), self._making(name)) for name in ("a", "b/x", "b/y")
        ]

    def _making(self, name: str):
        def make(run: Run) -> list[Row]:
            if name in self.faults:
                raise self.faults[name]
            self.made.append(name)
            return [Row(f"{name}/ratio", "ours / theirs", Spread(2.0, 1.5, 2.5, 9), "x", Bar(1.6))]

        return make

    def __call__(self, *arguments: str) -> int:
        return command.main([*arguments, "--out", str(self.out)])

    @property
    def json(self) -> dict:
        return json.loads(self.out.with_suffix(".json").read_text(encoding="utf-8"))

    @property
    def table(self) -> str:
        return self.out.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(command, "MEASUREMENTS", made.measurements)
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(command, "facts", lambda: FACTS)
    return made


# --- Kept, stopped, made again -------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_where_it_was(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.faults["b/x"] = KeyboardInterrupt()
    assert bench() == 130
    assert "stopped in b/x; what was finished is kept, and the same command goes on from here." in (
        capsys.readouterr().err
    )
    assert bench.json["missing"] == {"b/x": "not measured", "b/y": "not measured"}
    bench.faults.clear()
    assert bench() == 0
    assert bench.made == ["a", "b/x", "b/y"]
    assert bench.json["missing"] == {}
    assert bench() == 0
    assert bench.made == ["a", "b/x", "b/y"]


def test_one_failure_does_not_take_the_others(bench: Bench) -> None:
    bench.faults["a"] = MemoryError("no room")
    assert bench() == 1
    assert bench.made == ["b/x", "b/y"]
    assert bench.json["missing"] == {"a": "failed: MemoryError: no room"}
    assert "- `a`: failed: MemoryError: no room" in bench.table


def test_only_and_fresh(bench: Bench) -> None:
    assert bench("--only", "b") == 0
    assert bench.made == ["b/x", "b/y"]
    assert bench("--only", "a", "--only", "b/y", "--fresh") == 0
    assert bench.made == ["b/x", "b/y", "a", "b/y"]
    assert [part["name"] for part in bench.json["measurements"]] == ["a", "b/x", "b/y"]  # the table's order


def test_quick_and_whole_runs_are_kept_apart(bench: Bench) -> None:
    assert bench("--quick") == 0
    assert bench.json["quick"]
    assert bench.table.splitlines()[2].startswith("A quick run")
    assert bench() == 0
    assert bench.made == 2 * ["a", "b/x", "b/y"]
    assert not bench.json["quick"]


def test_slow_measurements_are_left_out_of_quick_runs_unless_asked_for() -> None:
    measurements = [Measurement("a", "", lambda run: []), Measurement("b", "", lambda run: [], slow=True)]
    chosen = [
        command.choose(measurements, only, quick)
        for only, quick in ((None, True), (["b"], True), (None, False))
    ]
    assert [[m.name for m in part] for part in chosen] == [["a"], ["b"], ["a", "b"]]


def test_unknown_name_is_refused_in_one_sentence(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench("--only", "b/z")
    assert stop.value.code == 2
    assert "error: unknown measurement 'b/z'; known: a, b/x, b/y. Did you mean 'b/" in capsys.readouterr().err
    assert not bench.made


@pytest.mark.parametrize("name", FACTS)
def test_numbers_of_other_sources_versions_and_machines_are_not_put_together(
    tmp_path: Path, name: str
) -> None:
    kept = Kept.under(tmp_path, FACTS, quick=False)
    kept.put("a", [], "today")
    assert Kept.under(tmp_path, FACTS, quick=False).get("a") == ([], "today")
    assert Kept.under(tmp_path, FACTS | {name: "other"}, quick=False).get("a") is None


def test_facts_name_what_numbers_depend_on() -> None:
    found = facts()
    assert found.keys() == FACTS.keys()
    json.dumps(found)
    assert found["sources"] == sources_digest()


# --- The document --------------------------------------------------------------------------------------------


def test_rows_come_back_from_json() -> None:
    rows = [
        Row("a", "A", Spread(1.0, 0.5, 2.0, 7), "x", Bar(0.9), "a note"),
        Row("b", "B", single(3.0), "s", Bar(2.0, "less")),
        Row("c", "C", single(4.0)),
    ]
    assert [Row.of_plain(json.loads(json.dumps(row.plain()))) for row in rows] == rows
    assert [row.met for row in rows] == [True, False, None]


def test_a_bar_can_be_met_exactly_and_never_by_no_number() -> None:
    for better in ("more", "less"):
        assert Bar(2.0, better).met_by(2.0)
        assert not Bar(2.0, better).met_by(float("nan"))
    assert Bar(2.0, "less").met_by(1.0)
    assert not Bar(2.0, "more").met_by(1.0)


def test_json_says_all_of_every_number(bench: Bench) -> None:
    bench()
    results = bench.json
    assert results.keys() == {"format", "quick", "facts", "measurements", "missing"}
    assert results["format"] == 1
    assert results["facts"] == FACTS | {"peak_gflops": None}
    for part in results["measurements"]:
        assert part.keys() == {"name", "title", "date", "rows"}
        for name, row in part["rows"].items():
            assert row == {
                "name": name, "what": "ours / theirs", "value": 2.0, "low": 1.5, "high": 2.5, "pairs": 9,
                "unit": "x", "bar": {"value": 1.6, "better": "more"}, "met": True, "note": "",
            }  # fmt: skip


def test_table_shows_spreads_bars_and_what_is_missed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    rows = [
        Row("a/met", "A", Spread(2.345, 1.5, 2.5, 9), "x", Bar(1.6)),
        Row("a/missed", "B", single(41.0), "MiB", Bar(40.0, "less"), "huge"),
        Row("a/peak", "C", Spread(1234.5, 1000.0, 2000.0, 3), "GFLOP/s"),
        Row("a/error", "D", single(2.5e-7)),
    ]
    kept.put("a", rows, "2026-01-01 00:00 UTC")
    measurements = [Measurement(name, f"Title of {name}", lambda run: []) for name in ("a", "b")]
    results = document(FACTS, measurements, kept, {}, quick=False)
    assert results["facts"]["peak_gflops"] == 1234.5
    lines = markdown(results).splitlines()
    for line in (
        "Of 2 bars 1 are met; missed: `a/missed`.",
        "- Peak of matrix products on one thread: 1234 GFLOP/s.",
        "## Title of a",
        "| A | 2.35x | 1.5 to 2.5 | 9 | ≥ 1.6x | met |",
        "| B (huge) | 41 MiB |  |  | ≤ 40 MiB | **missed** |",
        "| C | 1,234 GFLOP/s | 1,000 to 2,000 | 3 |  |  |",
        "| D | 2.5e-07 |  |  |  |  |",
        "- `b`: not measured",
    ):
        assert line in lines
    assert any("Without JAX its rows are left out" in line for line in lines)


def test_numbers_have_three_figures() -> None:
    assert [number(x) for x in (0, 1.2345, 12.345, 123.45, 12345.6, 0.012345, 0.0012345)] == [
        "0", "1.23", "12.3", "123", "12,346", "0.0123", "1.2e-03",
    ]  # fmt: skip


def test_list_names_all_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [measurement.name for measurement in command.MEASUREMENTS]
