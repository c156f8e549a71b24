"""``sri-pyro calibrate``: whether an inference's draws have the law that they claim."""

from __future__ import annotations

from typing import Annotated

import typer

from sri_pyro.cli.running import RunArgument, naming, redraw, sentences_bar
from sri_pyro.cli.stopping import stopping

InferenceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--inference",
        metavar="KIND,a=b,...",
        help="Another inference on the same weights, beside the run's own; may be repeated.",
    ),
]


def calibrate(
    context: typer.Context,
    run: RunArgument,
    inference: InferenceOption = None,
    num_simulations: Annotated[
        int, typer.Option("--num-simulations", help="Sentences that the model writes to be inferred.")
    ] = 200,
    num_draws: Annotated[int, typer.Option("--num-draws", help="Draws of z for each of them.")] = 199,
) -> None:
    """Check by simulation whether an inference's draws are of the posterior; writes calibration.json and .nc.

    The report of an evaluated run is drawn again, with them.

    The model draws codes and writes sentences for them; the inference gets the sentences. If its draws are of the
    posterior, the rank of each true code among them is uniform.

    sri-pyro calibrate runs/demo

    sri-pyro calibrate runs/demo --inference short_run,num_steps=40 --inference local_vi,num_steps=200

    --inference reference takes long Hamiltonian chains, as a control.
    """
    with stopping():
        from sri_pyro.config import calibrate_run, readable_calibration

        with naming(run), sentences_bar() as watch:
            numbers = calibrate_run(
                run, inference or [], num_simulations, num_draws, command=context.obj, watch=watch
            )
        for line in readable_calibration(numbers):
            print(line)
        print(f"findings: {run / 'calibration.json'} and {run / 'calibration.nc'}")
        redraw(run)
