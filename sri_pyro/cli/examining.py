"""Commands that look at one side of a run more closely: doctor, criticise."""

from __future__ import annotations

from typing import Annotated

import typer

from sri_pyro.cli.running import RunArgument, bar_of, naming, redraw, tell
from sri_pyro.cli.stopping import NOTHING, stopping


def doctor(
    context: typer.Context,
    run: RunArgument,
    sentences: Annotated[int, typer.Option(help="Sentences of the validation split.")] = 16,
    chains: Annotated[int, typer.Option(help="Chains of each sentence, at least.")] = 128,
) -> None:
    """Say whether the steps of a run are too small, right, too large or unstable, and whether there are enough of them.

    Writes doctor.json and doctor.nc into the run's folder, and draws the report of an evaluated run again, with them.

    sri-pyro doctor runs/demo
    """
    with stopping(lambda: NOTHING):
        from sri_pyro.config import doctor_run, readable_doctor

        with naming(run), bar_of("runs of all sentences") as watch:
            numbers = doctor_run(run, sentences, chains, command=context.obj, watch=watch)
        for line in readable_doctor(numbers):
            print(line)
        redraw(run)


def criticise(context: typer.Context, run: RunArgument) -> None:
    """Say what is wrong with the model of an evaluated run, and what with its inference.

    Codes are tested against the prior, and the model's sentences against held-out ones.

    Writes criticism.json and criticism.nc into the run's folder, and draws the report again, with them.

    sri-pyro criticise runs/demo
    """
    with stopping(lambda: NOTHING):
        from sri_pyro.config import criticise_run, readable_criticism

        with naming(run):
            numbers = criticise_run(run, command=context.obj, tell=tell)
        for line in readable_criticism(numbers):
            print(line)
        redraw(run)
