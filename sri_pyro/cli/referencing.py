"""``sri-pyro reference``: long chains on a few sentences, and how far inferences are from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sri_pyro.cli.calibrating import InferenceOption
from sri_pyro.cli.running import RunArgument, bar_of, naming, redraw
from sri_pyro.cli.stopping import stopping


def reference(
    context: typer.Context,
    run: RunArgument,
    inference: InferenceOption = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Another run on the same data, by its own posterior; may be repeated."
        ),
    ] = None,
    num_sentences: Annotated[int, typer.Option("--num-sentences", help="Held-out sentences.")] = 6,
    num_chains: Annotated[int, typer.Option("--num-chains", help="Chains of each sentence.")] = 4,
    warmup: Annotated[int, typer.Option("--warmup", help="Transitions that adapt.")] = 300,
    draws: Annotated[int, typer.Option("--draws", help="Transitions after it.")] = 500,
    num_samples: Annotated[
        int, typer.Option("--num-samples", help="Draws of each inference, for each sentence.")
    ] = 1000,
    nuts: Annotated[
        int,
        typer.Option("--nuts", help="Of the sentences, how many Pyro's NUTS draws as well, to cross-check."),
    ] = 0,
) -> None:
    """Draw reference posteriors by long chains, and score inferences by them; writes reference.json and .nc.

    The report of an evaluated run is drawn again, with them.

    sri-pyro reference runs/demo

    sri-pyro reference runs/demo --inference short_run,num_steps=40 --inference local_vi,num_steps=200

    sri-pyro reference runs/demo --against runs/vae
    """
    with stopping():
        from sri_pyro.config import Effort, readable_reference, reference_run

        effort = Effort(num_sentences, num_chains, warmup, draws, num_samples, nuts)
        with naming(run), bar_of("transitions") as watch:
            numbers = reference_run(
                run, inference or [], against or [], effort, command=context.obj, watch=watch
            )
        for line in readable_reference(numbers):
            print(line)
        print(f"findings: {run / 'reference.json'} and {run / 'reference.nc'}")
        redraw(run)
