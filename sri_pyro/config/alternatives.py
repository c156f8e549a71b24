"""Alternatives: other inferences on the weights of a trained model, named on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sri_pyro.config import toml
from sri_pyro.config.layers import laid_over, merged
from sri_pyro.config.run import Run
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config, parse_config
from sri_pyro.evaluation.reference import LongChains
from sri_pyro.inference import INFERENCES
from sri_pyro.wording import listed, meant

OWN = "own"
"""The name of a run's own inference among its alternatives."""
CHAINS = "reference"
"""The name of chains as long as a reference's, as a control."""


def inferences(run: Run, described: Sequence[str]) -> dict[str, nn.Module]:
    """The run's own inference, and the others that are described, by what they are called.

    Args:
        run: A trained model.
        described: Each the options of a section [inference], parted by commas; the first may be a bare kind. What is
            not said is as the run has it, if the kind is the run's, and else as the default preset or the part itself
            has it. ``reference`` are long Hamiltonian chains.

    Raises:
        ConfigError: If a description is none, or what it describes would have to be trained first.
    """
    return {OWN: run.inference} | {text: _described(run, text) for text in described}


def _described(run: Run, text: str) -> nn.Module:
    if text.strip() == CHAINS:
        return LongChains()
    try:
        config = _parsed(_options(run, text))
    except ConfigError as error:
        said = [problem.removeprefix("--set ") for problem in error.problems]
        raise ConfigError([f"--inference {text}: {problem}" for problem in said]) from None
    built: nn.Module = config.inference.build(
        vocab_size=len(run.vocabulary), latent_dim=run.model.prior.dim, num_examples=run.folder.num_examples
    )
    if any(True for _ in built.parameters()):
        try:
            built.load_state_dict(run.inference.state_dict())
        except RuntimeError:
            raise ConfigError(
                [f"--inference {text}: it has weights of its own, which this run has not trained; train it, in a run "
                 "of its own"]
            ) from None  # fmt: skip
    return built.to(run.device).eval()


def _options(run: Run, text: str) -> dict[str, object]:
    """The configuration of a run with the inference that is described."""
    given: dict[str, object] = {}
    for number, part in enumerate(parted(text)):
        bare = number == 0 and "=" not in part
        if not bare and "=" not in part:
            raise ConfigError([f"give option=value after each comma; got '{part.strip()}'"])
        given = merged(given, toml.nested(*toml.assignment(f"kind={part}" if bare else part)))
    plain = run.config.plain()
    options = laid_over({"inference": plain["inference"]}, {"inference": given})["inference"]
    kind, known = options["kind"], (*INFERENCES, CHAINS)
    if isinstance(kind, str) and ":" not in kind and kind not in INFERENCES:
        raise ConfigError([f"unknown inference '{kind}'; known: {listed(known)}{meant(kind, known)}"])
    # How a run was trained says nothing of an inference that it was not trained with.
    settled = ("objective", "step_size", "training", "pretraining")
    kept = ("data", "model", *(settled if kind == run.config.inference.kind else ()))
    return {**{name: plain[name] for name in kept}, "inference": options}


def _parsed(data: dict[str, object]) -> Config:
    """The configuration, with another objective if an encoder would learn nothing from the one: it learns no more."""
    try:
        return parse_config(data)
    except ConfigError as error:
        try:
            return parse_config({**data, "objective": "elbo"})
        except ConfigError:
            raise error from None


def parted(text: str) -> list[str]:
    """Text at the commas that are not within brackets or quotes.

    Example:
        >>> parted('short_run, num_steps=4, step_schedule={kind="list", step_sizes=[0.1, 0.2]}')
        ['short_run', ' num_steps=4', ' step_schedule={kind="list", step_sizes=[0.1, 0.2]}']
    """
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += 0 if quote else (sign in "[{") - (sign in "]}")
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
