"""Standing: how far a run is, and whether what is there belongs to what is asked for now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sri_pyro.comparing.systems import Planned, differing, judging
from sri_pyro.config import ConfigError
from sri_pyro.config.judge import weights_used
from sri_pyro.config.provenance import source_digest, versions
from sri_pyro.config.trainer import flat
from sri_pyro.wording import counted

State = Literal["absent", "begun", "trained", "judged"]
UNKNOWN_CODE = "unknown"
"""Of a run that was made before source code was recorded."""


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        state: ``absent``; ``begun``: training can go on; ``trained``: to be evaluated; ``judged``: done.
        said: The same for people, with the reason.
        trained_by: The code that trained it, see ``code_of``; None if nobody has begun.
        data: Digest of the sentences that it was trained on; None likewise.
    """

    state: State
    said: str
    trained_by: str | None = None
    data: str | None = None


def code_of(record: Mapping[str, Any]) -> str:
    """A digest of the code behind a record: the library's source and the versions of what it stands on."""
    if "source_digest" not in record:
        return UNKNOWN_CODE
    stands_on = {name: of for name, of in record["versions"].items() if name != "sri_pyro"}
    text = json.dumps([record["source_digest"], stands_on], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_now() -> str:
    """The same of the code that runs here."""
    return code_of({"source_digest": source_digest(), "versions": versions()})


def standing(run: Planned) -> Standing:
    """Look at a run's folder.

    Raises:
        ConfigError: If what is there is another run: it is neither taken for this one nor written over.
        CheckpointError: If its weights are damaged.
    """
    folder = run.folder
    if not folder.exists:
        folder.claim()
        return Standing("absent", "to be trained")
    _require_same_training(run)
    record = folder.read_record()
    code, data = code_of(record), record["data_digest"]
    if not folder.begun():
        return Standing("begun", "begun, before its first step", code, data)
    weights = weights_used(folder)
    if not weights["training_finished"]:
        epochs = run.config.training.options["epochs"]
        return Standing(
            "begun", f"half trained: {weights['epochs_trained']} of {counted(epochs, 'epoch')}", code, data
        )
    lacking = _lacks(run, weights, data)
    if lacking is None:
        return Standing("judged", "done", code, data)
    return Standing("trained", f"trained, {lacking}", code, data)


def _require_same_training(run: Planned) -> None:
    """See that the folder holds the run that is asked for; how it is judged may have changed since."""
    old, new = flat(run.folder.read_config().plain()), flat(run.config.plain())
    keys = [key for key in differing(old, new) if key != "published" and not key.startswith("evaluation.")]
    if keys:
        raise ConfigError(
            [f"{run.folder.path} holds a run of another configuration ({', '.join(keys)}); name another folder with "
             "--out, or remove that one"]
        )  # fmt: skip
    unset = differing(flat(run.folder.read_config().evaluation.plain()), judging(run.config))
    unset = [key for key in unset if key not in judging(run.config) and "." not in key]
    if unset:
        raise ConfigError(
            [f"{run.folder.path} was trained with evaluation.{unset[0]}, which is not set any more and has no value "
             "that says so; give it one"]
        )  # fmt: skip


def _lacks(run: Planned, weights: Mapping[str, Any], data: str) -> str | None:
    """Why the evaluation that is there is not the one that is asked for; None if it is."""
    path = run.folder.path / "metrics.json"
    if not path.is_file():
        return "to be evaluated"
    again = "to be evaluated again: the evaluation that is there"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        judged_by = flat(record["configuration"]["evaluation"])
        if keys := differing(judged_by, judging(run.config)):
            return f"{again} was another one ({', '.join(f'evaluation.{key}' for key in keys)})"
        if record["data_digest"] != data:
            return f"{again} is of other data"
        if record["weights"].get("digest") != weights["digest"]:
            return f"{again} is of other weights"
        if code_of(record) != code_now():
            return f"{again} was made by other source code"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{again} is damaged"
    return None


def require_one_data(runs: Sequence[Planned], standings: Iterable[Standing], now: str | None) -> None:
    """See that all trainings that there are, and the text as it is now, are of the same sentences.

    Args:
        runs: All of them.
        standings: Theirs.
        now: Digest of the text as it is now; None where nothing is left to be read.

    Raises:
        ConfigError: If not.
    """
    named = [(str(run.folder.path), at.data) for run, at in zip(runs, standings, strict=True) if at.data]
    if now is not None:
        named.append(("the text as it is now", now))
    for name, digest in named[1:]:
        if digest != named[0][1]:
            raise ConfigError(
                [f"{named[0][0]} was trained on other sentences than {name}; restore the text, or name another folder "
                 "with --out"]
            )  # fmt: skip


def require_one_code(runs: Sequence[Planned], standings: Sequence[Standing]) -> None:
    """See that one code trains all runs, be it another than now if nothing is left to be trained.

    An evaluation is made again when the code has changed. A training is not: hours are not thrown away for a comment
    that was mended, and whether it was more than that nobody can tell from a digest.

    Raises:
        ConfigError: If not.
    """
    begun = [(run, at) for run, at in zip(runs, standings, strict=True) if at.trained_by]
    left = any(at.state in ("absent", "begun") for at in standings)
    for run, at in begun:
        if left and at.trained_by != code_now():
            raise ConfigError(
                [f"{run.folder.path} was trained by other source code or versions than there are now, and other runs "
                 "are left to be trained; go back to those, name another folder with --out, or say --mixed-code, and "
                 "the table will say so"]
            )  # fmt: skip
    if len(codes := {at.trained_by for _, at in begun}) > 1:
        one = next(run for run, at in begun if at.trained_by != begun[0][1].trained_by)
        raise ConfigError(
            [f"{begun[0][0].folder.path} and {one.folder.path} were trained by other source code or versions, "
             f"{len(codes)} in all; train again into another folder, or say --mixed-code, and the table will say so"]
        )  # fmt: skip
