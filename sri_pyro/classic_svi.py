"""Recognise Pyro's classic ``SVI``, which steps only parameters it sees, and would train nothing of ours."""

from __future__ import annotations

from typing import Any

from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

UNTRAINED = (
    "SVI would train nothing here: it steps only what passes through pyro.param or pyro.module, and the "
    "weights are those of a plain module. Use loss = Trace_ELBO()(model, guide) as a module, with an "
    "optimiser of torch.optim over loss.parameters(); or call pyro.module in the program."
)


def parameter_capture() -> TraceMessenger | None:
    """The handler with which Pyro's classic ``SVI`` collects what it will train; None outside of its step."""
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, BlockMessenger):
            return None
        if isinstance(handler, TraceMessenger) and handler.param_only:
            return handler
    return None


def refuse_classic_svi(module: nn.Module) -> None:
    """Raise if Pyro's classic ``SVI`` is running a plain module, whose weights it would never change.

    ``SVI`` trains what passes through ``pyro.param`` or ``pyro.module``; the weights of a plain module do
    not. To be called first thing in such a module's ``forward``; cheap.

    Raises:
        RuntimeError: If none of the module's weights is among the parameters collected so far.
    """
    capture = parameter_capture()
    trainable = {id(p) for p in module.parameters() if p.requires_grad}
    if capture is None or not trainable:
        return
    captured = {id(site["value"].unconstrained()) for site in parameter_sites(capture)}
    if not trainable & captured:
        raise RuntimeError(UNTRAINED)


def parameter_sites(capture: TraceMessenger) -> list[dict[str, Any]]:
    """The parameters a capture holds."""
    return [site for site in capture.trace.nodes.values() if site["type"] == "param"]
