"""Findings: what is written is what is read, and a damaged file is named."""

from pathlib import Path

import numpy as np
import pytest

from sri_pyro.evaluation.findings import Findings, Variable, read_findings, write_findings


def found() -> Findings:
    values = np.arange(6.0).reshape(2, 3)
    kl = Variable(values, ("sentence", "step"), "nat", "a divergence")
    return Findings(
        "doctor", {"step": 0.5, "none": float("nan")}, {"curvature": {"kl": kl}}, {"sentence": [4, 9]}
    )


def test_they_come_back(tmp_path: Path) -> None:
    """Oracle: what was written. Catches lost units, labels and provenance, and NaN in JSON."""
    assert read_findings(tmp_path, "doctor") is None
    write_findings(tmp_path, found(), {"seed": 3})
    back = read_findings(tmp_path, "doctor")
    assert back is not None
    numbers, data = back
    assert numbers == {"step": 0.5, "none": None, "provenance": {"seed": 3}}
    assert data.attrs["provenance"] == '{"seed": 3}'
    kl = data["curvature"]["kl"]
    assert np.array_equal(kl.to_numpy(), np.arange(6.0).reshape(2, 3))
    assert (kl.dims, kl.attrs) == (("sentence", "step"), {"units": "nat", "description": "a divergence"})
    assert kl["sentence"].to_numpy().tolist() == [4, 9]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_findings(tmp_path, found(), {})
    for text in ("{", "[]"):
        (tmp_path / "doctor.json").write_text(text)
        with pytest.raises(ValueError, match=r"doctor\.json"):
            read_findings(tmp_path, "doctor")
    write_findings(tmp_path, found(), {})
    (tmp_path / "doctor.nc").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"doctor\.nc"):
        read_findings(tmp_path, "doctor")
