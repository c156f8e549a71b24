"""Checkpoints that survive what happens to files, and refuse whole sentences for what is not theirs.

Oracle: bytes and bits. A round trip is exact or wrong; a damaged file is refused whatever part is damaged.
"""

import errno
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sri_pyro import checkpoint
from sri_pyro.checkpoint import CheckpointError, load, load_weights, save
from sri_pyro.writing import atomic_path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Atomic writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text("old")

    def half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the ne")
            assert temporary.parent == tmp_path  # the same file system, or the replacement would be a copy
            assert path.read_text() == "old"
            raise failure

    with pytest.raises(failure):
        half()
    assert path.read_text() == "old"
    assert files(tmp_path) == ["weights.safetensors"]


def test_a_block_that_fails_before_any_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "new"):
        raise RuntimeError
    assert files(tmp_path) == []


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_path(path) as one, atomic_path(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() in ("one", "two")
    assert files(tmp_path) == ["x"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write fails half-way, inside ``save``: what was there before still loads."""
    path = tmp_path / "a.safetensors"
    save(path, {"w": torch.ones(3)}, {"step": 1})

    def full(tensors: dict, filename: str | Path, *_: object, **__: object) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"w": torch.zeros(3)}, {"step": 2})
    monkeypatch.undo()
    tensors, header = load(path)
    assert torch.equal(tensors["w"], torch.ones(3))
    assert header["step"] == 1
    assert files(tmp_path) == ["a.safetensors"]


# --- Round trips -------------------------------------------------------------------------------------------


def test_every_bit_and_type_comes_back(tmp_path: Path) -> None:
    """NaN payloads apart, what is loaded is what was saved: views, scalars, empties, other types."""
    base = torch.randn(6, 4)
    tensors = {
        "plain": base,
        "view": base.T[1:],
        "shared": base[:2],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "longs": torch.tensor([2**62 + 1]),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "tiny": torch.tensor([5e-324, -0.0], dtype=torch.float64),
    }
    header = {"step": 7, "best": 1.25, "names": ["a", "ü"], "nested": {"deep": [1, None, True]}}
    save(tmp_path / "x", tensors, header)
    found, again = load(tmp_path / "x")
    assert again == header
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert torch.signbit(found["tiny"][1])


def test_loading_does_not_hold_on_to_the_file(tmp_path: Path) -> None:
    """A tensor mapped from the file would change, or crash, when the next checkpoint takes its place."""
    save(tmp_path / "x", {"w": torch.ones(4)}, {})
    found, _ = load(tmp_path / "x")
    save(tmp_path / "x", {"w": torch.zeros(4)}, {})
    assert torch.equal(found["w"], torch.ones(4))


def test_prefixes_part_what_shares_a_file() -> None:
    one, two = {"a": torch.ones(1), "b/c": torch.zeros(1)}, {"a": torch.full((1,), 5.0)}
    both = checkpoint.prefixed("model", one) | checkpoint.prefixed("model_ema", two)
    assert checkpoint.part("model", both).keys() == one.keys()
    assert checkpoint.part("model_ema", both)["a"].item() == 5.0
    assert checkpoint.part("absent", both) == {}


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.95)),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "groups": lambda p: torch.optim.Adam([{"params": p[:1], "lr": 0.5}, {"params": p[1:]}], lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_interrupted_optimiser_goes_on_bit_by_bit(name: str, tmp_path: Path) -> None:
    """Five steps, through a file, five more: the weights are those of ten steps. A learning rate lowered on the
    way comes back as well. Catches moments lost, a step count restarted, groups merged.
    """

    def build() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(1)
        module = nn.Linear(3, 2)
        return module, OPTIMIZERS[name](list(module.parameters()))

    def steps(module: nn.Linear, optimizer: torch.optim.Optimizer, start: int) -> None:
        for k in range(start, start + 5):
            optimizer.zero_grad()
            torch.manual_seed(k)
            (module(torch.randn(4, 3)) - 1).square().sum().backward()
            optimizer.step()
            if k == 2:
                optimizer.param_groups[0]["lr"] *= 0.5

    whole, optimizer = build()
    steps(whole, optimizer, 0)
    steps(whole, optimizer, 5)

    first, optimizer = build()
    steps(first, optimizer, 0)
    tensors, header = checkpoint.optimizer_tensors(optimizer)
    everything = checkpoint.prefixed("model", first.state_dict()) | checkpoint.prefixed("optimizer", tensors)
    save(tmp_path / "x", everything, {"optimizer": header})

    second, optimizer = build()
    found, again = load(tmp_path / "x")
    load_weights(second, checkpoint.part("model", found), "model")
    checkpoint.restore_optimizer(optimizer, checkpoint.part("optimizer", found), again["optimizer"])
    steps(second, optimizer, 5)
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)

    if name != "sgd":  # positive control: a fresh optimiser goes elsewhere
        fresh, optimizer = build()
        load_weights(fresh, checkpoint.part("model", found), "model")
        steps(fresh, optimizer, 5)
        assert not torch.equal(fresh.weight, whole.weight)


# --- Refusals ----------------------------------------------------------------------------------------------


def saved(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save(path, {"weight": torch.randn(20, 3), "bias": torch.randn(20)}, {"step": 3})
    return path


def refuse(path: Path) -> None:
    """The whole sentence, whatever the damage: which file, what it is not, what to do."""
    sentence = rf"^{re.escape(str(path))} is not a whole checkpoint of this library \(.+\); "
    end = r"it was truncated or altered\. Restore it from a copy, or train again\.$"
    with pytest.raises(CheckpointError, match=sentence + end):
        load(path)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "folder"):
        sentence = f"there is no checkpoint at {path}; train first, or name another run folder."
        with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
            load(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 9, 40, -200, -1])
def test_a_truncated_file(keep: int, tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    refuse(path)


@pytest.mark.parametrize(
    "content", [b"not a checkpoint at all, but text", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" + b"a" * 99]
)
def test_a_file_of_another_kind(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    refuse(path)


def test_safetensors_of_somebody_else(tmp_path: Path) -> None:
    """No header of ours: tensors alone say nothing of the configuration they belong to."""
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "foreign")
    refuse(tmp_path / "foreign")
    save_file({"w": torch.ones(2)}, tmp_path / "foreign", metadata={"sri_pyro": "{not json"})
    refuse(tmp_path / "foreign")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, path)
    refuse(path)


def test_a_single_changed_byte_of_the_tensors_is_seen(tmp_path: Path) -> None:
    """A checkpoint altered on disk or in transfer: flipping one byte of a weight must not load in silence."""
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x20
    path.write_bytes(bytes(content))
    refuse(path)


def test_a_changed_header_is_seen(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    for at in range(8, 8 + size, 9):
        broken = bytearray(content)
        broken[at] ^= 0x08
        path.write_bytes(bytes(broken))
        try:
            tensors, header = load(path)
        except CheckpointError:
            continue
        assert header == {"step": 3}  # whatever still loads is what was saved
        assert {name: tuple(t.shape) for name, t in tensors.items()} == {"weight": (20, 3), "bias": (20,)}


UNFIT = "the model of 'x' does not fit its configuration: "
SAME_RUN = ". Use the configuration and the checkpoint of one and the same run."
WIDTH = "'weight' has shape (4, 3), the configuration makes (2, 3). A different vocabulary or width?"
DAMAGED = "the model of 'x' holds values in 'bias' that are not finite; it was damaged."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w | {"weight": torch.zeros(4, 3)}, UNFIT + WIDTH),
        (lambda w: {"weight": w["weight"]}, UNFIT + "the checkpoint has no 'bias'" + SAME_RUN),
        (lambda w: w | {"extra": torch.zeros(1)}, UNFIT + "the configuration has no 'extra'" + SAME_RUN),
        (lambda w: w | {"bias": torch.tensor([1.0, math.nan])}, DAMAGED),
        (lambda w: w | {"bias": torch.tensor([1.0, math.inf])}, DAMAGED),
        (lambda w: {}, UNFIT + "the checkpoint has no 'bias'" + SAME_RUN),
    ],
    ids=["shape", "missing", "extra", "nan", "inf", "empty"],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_copied(
    change: Callable[[dict], dict], sentence: str
) -> None:
    module = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = change({"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        load_weights(module, given, "the model of 'x'")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])  # no half-loaded module


def test_weights_that_fit_are_copied() -> None:
    module = nn.Linear(3, 2)
    given = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    load_weights(module, given, "model")
    assert torch.equal(module.weight, given["weight"])
    given["weight"].zero_()
    assert module.weight.abs().max() > 0  # a copy, not a view
    assert module.weight.requires_grad
