"""The ArviZ bridge, run as it stands with whichever generation of ArviZ is installed."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sri_pyro
from sri_pyro.evaluation import labelling
from sri_pyro.evaluation.diagnostics import convergence, is_classic, load_arviz, psis, summary_table
from sri_pyro.evaluation.netcdf import export, from_netcdf, to_netcdf
from sri_pyro.numerics.weights import pareto_smooth

SENTENCES = np.array(["test-3", "test-7", "test-19", "test-20", "test-41"])


def groups() -> dict[str, dict[str, Any]]:
    """A small evaluation: 4 replicates of 100 short runs, 500 importance draws, 5 sentences."""
    rng = np.random.default_rng(20261122)
    n = len(SENTENCES)
    return {
        "posterior": {"z": torch.from_numpy(rng.normal(1.0, 2.0, size=(4, 100, n, 3))).float()},
        "proposal": {
            "z": rng.normal(size=(1, 500, n, 3)),
            "log_weight": rng.normal(-40.0, 1.0, size=(1, 500, n)),
        },
        "evidence": {"log_px": rng.normal(-40, 5, n), "se": np.full(n, 0.1), "khat": rng.random(n)},
        "trajectory": {"energy": rng.normal(size=(4, 100, 21, n))},
        "sample_stats": {"log_q": rng.normal(size=(4, 100, n))},
        "log_likelihood": {"x": rng.normal(size=(4, 100, n))},
        "constant_data": {
            "n_tokens": np.arange(n),
            "text": ["a cat", "", "naïve café", "one \t tab", "日本"],
            "refitted": np.array([True, False, False, True, False]),
        },
        "observed_data": {"length": np.arange(n)},
    }


def exported() -> Any:
    dims = {"refitted": ("sentence",), "length": ("sentence",)}
    attrs = {"seed": 3, "config": '{"steps": 20}', "step_size": 0.05}
    return export(groups(), dims, {"sentence": SENTENCES}, attrs)


def names_of(data: Any) -> set[str]:
    return set(data.children) if hasattr(data, "children") else set(data.groups())


def test_importing_the_file_does_not_import_arviz() -> None:
    """ArviZ takes seconds; whoever trains should not wait for it."""
    code = "import sys, sri_pyro.evaluation.diagnostics; print('arviz' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_no_other_file_imports_arviz() -> None:
    package = Path(sri_pyro.__path__[0])
    pattern = re.compile(r"^\s*(import|from) arviz|import_module\(.arviz", re.MULTILINE)
    importers = [path.name for path in package.rglob("*.py") if pattern.search(path.read_text())]
    assert importers == ["diagnostics.py"]


def test_psis_takes_log_weights_in_both_generations() -> None:
    """Oracle: our own PSIS. With the sign of the other generation the ranks would be reversed."""
    log_w = np.random.default_rng(6).normal(-40.0, [0.5, 1.0, 2.0], size=(400, 3))
    before = log_w.copy()
    smoothed, khat = psis(log_w)
    ours, our_khat = pareto_smooth(torch.from_numpy(log_w))
    np.testing.assert_allclose(khat, our_khat, atol=1e-10)
    np.testing.assert_allclose(smoothed, ours - ours.logsumexp(0), atol=1e-9)
    assert (smoothed.argmax(0) == log_w.argmax(0)).all()
    assert np.corrcoef(smoothed[:, 1], log_w[:, 1])[0, 1] > 0.99
    np.testing.assert_array_equal(log_w, before)


def test_every_group_survives() -> None:
    """ArviZ 0.23's own from_dict would drop proposal, evidence and trajectory without a word."""
    data, given = exported(), groups()
    assert names_of(data) == set(given)
    for group, variables in given.items():
        for variable, values in variables.items():
            np.testing.assert_array_equal(data[group][variable].values, np.asarray(values))
    assert data["posterior"]["z"].dims == ("chain", "draw", "sentence", "z_dim")
    assert data["proposal"]["log_weight"].dims == ("chain", "draw", "sentence")
    assert data["trajectory"]["energy"].dims == ("chain", "draw", "step", "sentence")
    assert (data["posterior"].sizes["draw"], data["proposal"].sizes["draw"]) == (100, 500)
    assert data["evidence"]["log_px"].sel(sentence="test-19").item() == given["evidence"]["log_px"][2]
    assert data.attrs["seed"] == 3


def test_arviz_reads_the_export_as_it_is() -> None:
    """az.ess, az.rhat and az.summary without a further word, on independent N(1, 2^2) draws.

    The mean of 400 draws lies within 5.5 standard errors of 1 (0.1 each), all 15 of them at a
    false-alarm rate below 10^-6; an axis taken for another would give other shapes.
    """
    az, data = load_arviz(), exported()
    effective = az.ess(data)["z"]
    assert effective.dims == ("sentence", "z_dim")
    assert ((effective > 200) & (effective < 800)).all()
    assert (abs(az.rhat(data)["z"] - 1) < 0.05).all()
    table = az.summary(data, var_names=["z"], round_to="none")
    assert list(table.index)[:2] == ["z[test-3, 0]", "z[test-3, 1]"]
    assert (abs(table["mean"] - 1.0) < 5.5 * 2.0 / np.sqrt(400)).all()


def test_summary_table_of_some_sentences() -> None:
    """Oracle: numpy's moments of the same draws."""
    table = summary_table(exported(), ["test-7", "test-41"])
    draws = groups()["posterior"]["z"].numpy()[:, :, [1, 4]].reshape(400, 6)
    assert list(table.columns) == ["mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert list(table.index)[3] == "z[test-41, 0]"
    np.testing.assert_allclose(table["mean"].astype(float), draws.mean(0), rtol=1e-5)
    np.testing.assert_allclose(table["sd"].astype(float), draws.std(0, ddof=1), rtol=5e-3)


def test_netcdf_round_trip(tmp_path: Path) -> None:
    data, given = exported(), groups()
    path = to_netcdf(data, tmp_path / "inference.nc")
    back = from_netcdf(path)
    assert type(back) is type(data)
    assert names_of(back) == set(given)
    for group, variables in given.items():
        for variable, values in variables.items():
            np.testing.assert_array_equal(back[group][variable].values, np.asarray(values))
    assert list(back["evidence"]["sentence"].values) == list(SENTENCES)
    assert back["posterior"]["z"].dtype == np.float32
    assert dict(back.attrs) == {"seed": 3, "config": '{"steps": 20}', "step_size": 0.05}
    path.unlink()  # nothing is read later
    assert [p.name for p in tmp_path.iterdir()] == []


def test_the_file_is_compressed_and_read_by_plain_arviz(tmp_path: Path) -> None:
    z = np.zeros((4, 500, 20, 3))
    path = to_netcdf(export({"posterior": {"z": z}}), tmp_path / "inference.nc")
    assert path.stat().st_size < z.nbytes / 10
    with load_arviz().from_netcdf(path)["posterior"] as posterior:
        assert posterior["z"].shape == z.shape


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up half-way: the previous export stays, and no fragment is left beside it."""
    path = to_netcdf(exported(), tmp_path / "inference.nc")
    before = path.read_bytes()

    def half_written(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(OSError, match="No space left on device"):
        to_netcdf(exported(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["inference.nc"]


def test_reading_what_is_not_there_or_not_netcdf(tmp_path: Path) -> None:
    path = tmp_path / "inference.nc"
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no file {path}; write one")):
        from_netcdf(path)
    whole = to_netcdf(exported(), path).read_bytes()
    for damaged in (b"not netCDF at all", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        message = f"{path} cannot be read as netCDF; write it again."
        with pytest.raises(ValueError, match=re.escape(message)):
            from_netcdf(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"groups": {"evidence": {"bits": np.zeros(5)}}},
            "evidence/bits has shape (5,) but its axes are named (); give one name per axis in dims['bits'].",
        ),
        (
            {"groups": {"posterior": {"z": np.zeros((100, 5, 3))}}},
            "posterior/z has shape (100, 5, 3) but its axes are named ('chain', 'draw', 'sentence', "
            "'z_dim'); give one name per axis in dims['z'].",
        ),
        (
            {
                "groups": {"posterior": {"z": np.zeros((100, 5))}},
                "dims": {"posterior/z": ("draw", "sentence")},
            },
            "posterior/z must begin with the axes ('chain', 'draw'), as all of group 'posterior'; "
            "got ('draw', 'sentence').",
        ),
        (
            {"groups": {"evidence": {"log_px": np.zeros(5), "se": np.zeros(4)}}},
            "evidence/se has 4 along 'sentence' where another variable of its group has 5.",
        ),
        (
            {"groups": {"evidence": {"se": np.zeros(4)}}, "coords": {"sentence": SENTENCES}},
            "group 'evidence' has 4 along 'sentence' but coords['sentence'] has 5 labels.",
        ),
        (
            {"groups": {"evidence": {"se": np.zeros(4)}}, "dims": {"es": ("sentence",)}},
            "dims names ['es'], which no group holds; held: ['evidence/se', 'se'].",
        ),
        (
            {"groups": {"evidence": {"se": np.zeros(4)}}, "coords": {"sentense": SENTENCES}},
            "coords names ['sentense'], which no group holds; held: ['sentence'].",
        ),
        (
            {"groups": {"evidence/early": {"se": np.zeros(4)}}},
            "a group's name must be an identifier such as 'evidence'; got 'evidence/early'.",
        ),
        (
            {"groups": {"evidence": {"se": np.zeros(4)}}, "attrs": {"config": {"steps": 20}}},
            "attribute 'config' must be a string or a number to be stored in netCDF; got dict. "
            "Write it as a string, json.dumps for instance.",
        ),
    ],
)
def test_an_export_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export(**change)


def test_the_known_axes_follow_one_convention() -> None:
    """Draws come as (chain, draw), sentences before latent axes, in every variable of the table."""
    order = ("chain", "draw", "step", "sentence", "z_dim")
    for axes in labelling.DIMS.values():
        assert list(axes) == sorted(axes, key=order.index)


@pytest.mark.skipif(not is_classic(load_arviz()), reason="ArviZ 1.x does without Numba")
def test_convergence_does_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it ArviZ 0.23 fails from NumPy 2.4 on. Oracle: the same numbers; and the user's setting is as it was."""
    draws = np.random.default_rng(0).normal(size=(4, 50, 2))
    expected, numba = convergence(draws), load_arviz().Numba
    monkeypatch.setattr(numba, "numba_flag", True)
    found = convergence(draws)
    assert numba.numba_flag
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
