"""The face of the package, its import floors, and the quickstart of the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sri_pyro

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sri_pyro.__all__)
def test_every_name_is_handed_on(name: str) -> None:
    value = getattr(sri_pyro, name)
    assert value.__name__ == name
    assert value.__doc__


def test_names_are_declared_once_and_in_both_places() -> None:
    """Oracle: the imports that type checkers read. A name in one list alone would be untyped, or missing."""
    homes = [name for names in sri_pyro._HOMES.values() for name in names]
    checked = re.search(r"if TYPE_CHECKING:\n(.*?)\n_HOMES", Path(sri_pyro.__file__).read_text(), re.DOTALL)
    assert checked is not None
    imported = set(re.findall(r"\b\w+\b", re.sub(r"from [\w.]+ import", "", checked[1])))
    assert sorted(homes) == sorted(sri_pyro.__all__)
    assert imported == set(sri_pyro.__all__)
    assert len(homes) <= 30


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(
        AttributeError, match=r"^module 'sri_pyro' has no attribute 'Langevin'; it offers: AnnealedELBO, "
    ):
        _ = sri_pyro.Langevin


def test_importing_the_face_imports_no_framework() -> None:
    """The face computes nothing: ``sri-pyro --help`` must not wait for PyTorch."""
    code = "import sys, sri_pyro, sri_pyro.cli; print([m for m in ('torch', 'pyro', 'arviz') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_quickstart_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    block = re.search(r"## Quickstart.*?```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    code = block[1]
    assert len(code.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(names["result"].metrics["perplexity"]["estimate"]) > 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_examples_of_the_docs_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of a page runs, in order and in one namespace: an example nobody runs drifts."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
