"""The table in its forms: whole, alone, safe, and silent about numbers that cannot be trusted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

from sri_pyro.comparing import Asked, Outcome, compare, layout
from sri_pyro.comparing.forms import escaped, latex, markdown
from sri_pyro.comparing.layout import Column, Table
from tests.comparing.helpers import SYSTEMS, Calls
from tests.evaluation.pages import read, words


def page_of(folder: Path) -> str:
    return (folder / "out" / "table.html").read_text()


def test_the_page_is_alone_and_well_formed(made: tuple[Path, Outcome]) -> None:
    """No script and no resource from elsewhere; the only links lead to each run's own report, which is there."""
    page = page_of(made[0])
    reader = read(page)
    assert not reader.tags.keys() & {"script", "link", "img", "iframe", "object"}
    links = [value for _, name, value in reader.attributes if name == "href"]
    assert [link for link in links if not link.startswith("#")] == [
        f"{name}/seed-{seed}/report.html" for name in SYSTEMS for seed in (0, 1)
    ]
    assert all((made[0] / "out" / link).is_file() for link in links if not link.startswith("#"))
    assert not re.search(r"https?:|@import|url\((?!#)", page.replace("http://www.w3.org/", ""))
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", words(page))
    (drawing,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    ElementTree.fromstring(drawing)
    assert "#00000" not in drawing


def test_there_is_a_page_without_links(made: tuple[Path, Outcome]) -> None:
    """Oracle: the page, less its section of links. Catches links to runs that are not where the page is sent."""
    out = made[0] / "out"
    alone = (out / "alone.html").read_text()
    assert "href" not in {name for tag, name, _ in read(alone).attributes if tag == "a"}
    whole = re.sub(
        r"<section>\n<h2>Reports of the runs.*?</section>\n", "", page_of(made[0]), flags=re.DOTALL
    )
    assert alone.split() == whole.split()


def test_the_page_says_how_to_read_every_column_and_what_collapsed(made: tuple[Path, Outcome]) -> None:
    text = words(page_of(made[0]))
    for column in (*layout.COLUMNS[1:], *layout.DIFFERENCES[1:]):
        assert column.how in text
    collapsed = [
        row.name
        for row in made[1].rows
        if any("ollapsed" in n.text or "COLLAPSED" in n.text for n in row.notes)
    ]
    assert collapsed  # two epochs teach nothing
    for row in made[1].rows:
        for note in row.notes:
            assert note.text in text
    for heading in (
        "Systems",
        "log p(x) less that of lm, paired by sentence",
        "Over seeds",
        "Reports of the runs",
    ):
        assert heading in text


def test_all_forms_have_the_same_cells(made: tuple[Path, Outcome]) -> None:
    out = made[0] / "out"
    cells = [cell for row in layout.numbers(made[1].rows).rows for cell in row]
    text, tex = (out / "table.md").read_text(), (out / "table.tex").read_text()
    page = words(page_of(made[0])).replace("\N{NO-BREAK SPACE}", " ")
    for cell in cells:
        assert cell in text
        assert cell in page
        assert escaped(cell) in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3
    assert {line.count(" & ") for line in tex.splitlines() if line.startswith(tuple(SYSTEMS))} == {11, 6, 8}


def test_a_likelihood_that_is_not_to_be_trusted_is_not_shown(folder: Path, calls: Calls) -> None:
    """Planted: weights that fail on every sentence. The numbers stay in the file for machines."""
    for seed in (0, 1):
        path = folder / "out" / "two" / f"seed-{seed}" / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["khat"] |= {"share_below": 0.2, "failed_sentences": 12}
        path.write_text(json.dumps(metrics))
    outcome = compare(Asked([str(folder / f"{name}.toml") for name in SYSTEMS], folder / "out", seeds=2))
    assert calls.commands == []
    row = next(row for row in outcome.rows if row.name == "two")
    cells = next(each for each in layout.numbers(outcome.rows).rows if each[0] == "two")
    assert cells[1] == cells[4] == layout.WITHHELD
    difference = next(each for each in layout.differences(outcome.rows, "lm").rows if each[0] == "two")
    assert difference[1] == layout.WITHHELD
    for text in (words(page_of(folder)), (folder / "out" / "table.md").read_text()):
        assert "The likelihood is not to be trusted, and is not shown. (2 of 2 trainings)" in text
        assert f"{row.perplexity.estimate:.4g} [" not in text
    assert f"two,all,{row.perplexity.num_sentences}" in (folder / "out" / "table.csv").read_text()
    (drawing,) = re.findall(r"<svg.*?</svg>", page_of(folder), flags=re.DOTALL)
    assert ">two<" not in drawing
    assert ">three<" in drawing


def test_a_broken_bound_is_flagged(folder: Path, calls: Calls) -> None:
    path = folder / "out" / "three" / "seed-1" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["jensen"] |= {"violated": True, "binding": True}
    path.write_text(json.dumps(metrics))
    compare(Asked([str(folder / f"{name}.toml") for name in SYSTEMS], folder / "out", seeds=2))
    for text in (words(page_of(folder)), (folder / "out" / "table.md").read_text()):
        assert "Reconstruction, KL and likelihood contradict one another. (1 of 2 trainings)" in text
        assert (
            "three: Recon + KL(q ‖ prior) is below the NLL, which is impossible, in 1 of 2 trainings." in text
        )


def test_names_of_files_are_text_everywhere(tmp_path: Path, folder: Path, calls: Calls) -> None:
    """A hostile name is no markup of the page, the drawing or LaTeX, and no mathematics of matplotlib's."""
    name = "a$x_1$<b>&"
    shutil.move(folder / "two.toml", folder / f"{name}.toml")
    shutil.move(folder / "out" / "two", folder / "out" / name)
    compare(Asked([str(folder / "lm.toml"), str(folder / f"{name}.toml")], folder / "out", seeds=2))
    assert calls.commands == []
    page = page_of(folder)
    assert "<b>" not in page
    assert name in words(page)
    assert r"a\$x\_1\$$<$b$>$\&" in (folder / "out" / "table.tex").read_text()


def test_an_empty_table_is_left_out() -> None:
    nothing = Table("Nothing", [Column("System", "x")], [])
    one = Table("One", [Column("System", "its name"), Column("a|b", "")], [["s", "1"]])
    text = markdown([nothing, one], "Title", ["a note"])
    assert text == (
        "# Title\n\n## One\n\n| System | a&#124;b |\n| --- | --- |\n| s | 1 |\n\n- System: its name\n\n## Notes\n\n"
        "- a note\n"
    )
    assert "Nothing" not in latex([nothing, one], [])


def test_one_seed_speaks_of_trained_models(folder: Path, calls: Calls) -> None:
    outcome = compare(Asked([str(folder / f"{name}.toml") for name in SYSTEMS], folder / "out", seeds=1))
    table = layout.differences(outcome.rows, "lm")
    assert {row[3] for row in table.rows} == {"these models"}
    assert not layout.spreads(outcome.rows).rows
    assert "They are over sentences alone where a system has one seed" in words(page_of(folder))
