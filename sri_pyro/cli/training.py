"""``sri-pyro train``: cost first, then progress; Ctrl-C saves."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sri_pyro.cli.failing import one_voice
from sri_pyro.cli.running import naming, tell
from sri_pyro.cli.stopping import INTERRUPTED, console, stopping

if TYPE_CHECKING:
    from sri_pyro.config import Config, Cost, Group


def train(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FILE|PRESET", help="A TOML file, or a preset's name.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; it must not exist yet, unless resumed. Required.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override an option; may be repeated.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run that the folder holds; begin it if there is none."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the history for TensorBoard as well.")
    ] = False,
) -> None:
    """Train a model into a new folder.

    sri-pyro train experiments/demo.toml --out runs/demo

    sri-pyro train paper --set data.kind=text --set data.path=my.txt --out runs/mine

    sri-pyro train default --set data.kind=sotu --set model.prior.kind=mixture --out runs/mixture

    sri-pyro train mine.toml --set 'model.prior={kind="mixture"}' --out runs/swapped

    The options of every part: sri-pyro show. A killed run continues with --resume and ends with the same
    weights, bit by bit.

    Small models compute fastest on one thread: set OMP_NUM_THREADS=1, and look at the cost that is printed.

    The number of epochs is part of a run: its learning rate, its noise and its best weights follow from it. A
    finished run is therefore not extended; train again, with more epochs, into another folder.

    Several processes share every batch, and end with the weights of one, to rounding:

    torchrun --nproc-per-node 2 -m sri_pyro train mine.toml --out runs/mine
    """
    with stopping(lambda: _what_is_saved(out)):
        _train(context, source, out, overrides or [], resume, tensorboard)


def _train(
    context: typer.Context,
    source: str,
    out: Path | None,
    overrides: Sequence[str],
    resume: bool,
    tensorboard: bool,
) -> None:
    from sri_pyro.config import ConfigError, joined, read_config

    if out is None:
        raise ConfigError(["train needs a folder for the run; give one that does not exist yet, for instance "
                           "--out runs/demo"])  # fmt: skip
    with joined() as group, one_voice(group, context.obj[1:], lambda: _left(out)):
        console.quiet = not group.leads
        _run(context.obj, read_config(source, overrides), out, resume, tensorboard, group)


def _run(
    words: Sequence[str], config: Config, out: Path, resume: bool, tensorboard: bool, group: Group
) -> None:
    from sri_pyro.config import RunFolder, Stopped, Told, tensorboard_watch
    from sri_pyro.config import train as train_run
    from sri_pyro.config.validated import ended

    continuing = resume and RunFolder(out).exists
    command = words if group.size == 1 else ["torchrun", f"--nproc-per-node={group.local_size}", "-m", "sri_pyro",
                                             *words[1:]]  # fmt: skip
    stopping: list[int] = []

    def begin(cost: Cost) -> None:
        if resume and not continuing:
            place = "holds no run" if out.exists() else "does not exist"
            console.print(f"{out} {place} yet: beginning it", highlight=False, soft_wrap=True)
        for number, line in enumerate(cost.lines):
            before = "          " if number else "expected: "
            console.print(f"{before}{line}", highlight=False, soft_wrap=True)
        if cost.advice and not continuing:  # the number of threads of a run that is continued is settled
            console.print(cost.advice, highlight=False, soft_wrap=True)
        if group.size > 1:
            console.print(f"{group.size} processes share every batch", highlight=False, soft_wrap=True)
        closing.enter_context(stop_on_signal(stopping))  # from here on there is something to save

    with ExitStack() as closing, one_voice(group, words[1:], lambda: _left(out)), Bar(config) as bar:
        track = tensorboard_watch(out) if tensorboard and group.leads else None

        def watch(record: Mapping[str, float | str]) -> None:
            bar.watch(record)
            if track is not None:
                track(record)

        told = Told(cost=begin, watch=watch, should_stop=lambda: bool(stopping), tell=tell)
        try:
            with naming(out):
                history = train_run(config, out, resume=resume, command=command, told=told, group=group)
        except Stopped:
            again = [*command, *([] if resume else ["--resume"])]
            console.print(
                f"stopped and saved; continue with: {' '.join(again)}", highlight=False, soft_wrap=True
            )
            # Where one process fails torchrun ends the others at once, and the first one may still be saving.
            raise typer.Exit(INTERRUPTED if group.leads else 0) from None
    if not group.leads:
        return
    said, *notes = ended(history.of("validation"), config, out)
    print(said)
    for note in notes:
        tell(note)


def _what_is_saved(out: Path | None) -> str:
    """What is said of a Ctrl-C that nobody collects: one before the first step, or the second one."""
    if out is not None and _saved(out):
        return f"stopped at once; {_left(out)}"
    return "stopped before anything was saved"


def _left(out: Path) -> str:
    """What a process leaves that cannot go on."""
    return (
        f"{out} is as it was last saved, and --resume continues it"
        if _saved(out)
        else "nothing was saved yet"
    )


def _saved(out: Path) -> bool:
    # Nothing of the library may be imported yet: importing it takes most of the time before the first step.
    return any((place / "last.safetensors").exists() for place in (out, out / "pretraining"))


@contextmanager
def stop_on_signal(received: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM while the block runs; the second one acts as ever."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bar:
    """Live progress: a bar over epochs for each stage, and a line for every validation and event.

    Args:
        config: Whose epochs are counted.
    """

    def __init__(self, config: Config) -> None:
        self._epochs = {
            "": config.training.options["epochs"],
            "pretraining": config.pretraining.options["epochs"],
        }
        self._tasks: dict[str, TaskID] = {}
        self._codes = config.latent_dim > 0
        self._progress = Progress(
            TextColumn("{task.description}epoch {task.completed:.2f} of {task.total:g}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def watch(self, record: Mapping[str, float | str]) -> None:
        """Show a record of training."""
        stage = str(record.get("stage", ""))
        prefix = f"{stage}, " if stage else ""
        if stage not in self._tasks:
            for task in self._tasks.values():
                self._progress.stop_task(task)
            self._tasks[stage] = self._progress.add_task(
                prefix, total=self._epochs[stage], note="", visible=False
            )
        task = self._tasks[stage]
        if record["kind"] == "event":
            console.print(f"{prefix}step {record['step']}: {record['message']}", highlight=False)
            return
        note = f"loss {record['loss']:.2f}" if record["kind"] == "step" else ""
        self._progress.update(task, completed=float(record["epoch"]), visible=True)
        if note:
            self._progress.update(task, note=note)
        if "inner_gradient_error" in record:
            console.print(
                f"epoch {record['epoch']:.2f}: the frozen tail's gradient is {record['inner_gradient_error']:.1%} "
                "from the exact one",
                highlight=False,
            )
        if record["kind"] == "validation":
            from sri_pyro.config.validated import found

            console.print(
                f"{prefix}epoch {record['epoch']:g}: {found(record, self._codes)}",
                highlight=False,
                soft_wrap=True,
            )
