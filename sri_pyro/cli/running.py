"""Commands on a run's folder: evaluate, report, sample, interpolate, score, encode."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sri_pyro.cli.stopping import NOTHING, console, stopping
from sri_pyro.wording import counted

if TYPE_CHECKING:
    import pandas as pd

    from sri_pyro.config import Run

Watch = Callable[[int, int], None]


def tell(sentence: str) -> None:
    """Say something beside the results."""
    console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)


def sentences_bar() -> AbstractContextManager[Watch]:
    """A bar over sentences."""
    return bar_of("sentences")


@contextmanager
def bar_of(what: str) -> Iterator[Watch]:
    """A bar over things; what it gives is told how many are done, and of how many."""
    bar = Progress(
        TextColumn(f"{{task.completed:.0f}} of {{task.total:.0f}} {what}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task(what, total=None, start=False, visible=False)

    def watch(done: int, total: int) -> None:
        if not bar.tasks[0].started:
            bar.start_task(task)
        bar.update(task, completed=done, total=total, visible=True)

    with bar:
        yield watch


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give a failed write the name that the user knows: it has none on a full disk, or a temporary file's."""
    try:
        yield
    except OSError as error:
        temporary = str(error.filename or "").endswith(".tmp")
        if error.strerror is None or (error.filename is not None and not temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that 'train' made.")]
TextArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Plain or gzip text, one sentence a line.")
]
OutOption = Annotated[Path | None, typer.Option(help="Where to write the CSV; standard output by default.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]
DeviceOption = Annotated[str | None, typer.Option(help="Where to compute; where it was trained, by default.")]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="evaluation.b=c", help="Override an option of the evaluation."),
]
TargetOption = Annotated[
    float | None,
    typer.Option(metavar="NATS", help="Climb the estimator 'ladder' until every log p(x) is so exact."),
]


def asked(target_se: float | None, overrides: Sequence[str] | None) -> list[str]:
    """Both options as overrides; what is set comes last, to have the last word on the options of the ladder."""
    ladder = (
        [] if target_se is None else [f'evaluation.estimator={{kind = "ladder", target_se = {target_se}}}']
    )
    return [*ladder, *(overrides or [])]


def evaluate(
    context: typer.Context,
    run: RunArgument,
    overrides: OverridesOption = None,
    target_se: TargetOption = None,
) -> None:
    """Judge a run on its test split and write metrics.json, sentences.csv, inference.nc and report.html.

    This is the only command that touches the test split. It takes the place of an evaluation that the folder
    already holds.

    sri-pyro evaluate runs/demo

    sri-pyro evaluate runs/demo --target-se 0.05

    sri-pyro evaluate runs/demo --set evaluation.split=valid --set evaluation.estimator=annealed
    """
    with stopping(_what_stands(run)):
        _evaluate(run, asked(target_se, overrides), context.obj)


def _evaluate(run: Path, overrides: Sequence[str], command: Sequence[str]) -> None:
    from sri_pyro.config import Begun, evaluate_run, readable

    total = 0

    def begun(what: Begun) -> None:
        nonlocal total
        total = what.sentences
        if (run / "metrics.json").exists():
            tell(f"{run} already holds an evaluation: this one takes its place")
        if what.weights["training_finished"] is False:
            tell(
                f"training has not ended ({counted(what.weights['epochs_trained'], 'epoch')} done): these are the "
                f"weights so far, and sri-pyro train {run / 'config.toml'} --out {run} --resume goes on"
            )
        watch(0, total)

    def advanced(done: int) -> None:
        watch(done, total)
        if done == total:
            tell("all sentences are scored; what follows compares them, draws and writes")

    with naming(run), sentences_bar() as watch:
        metrics = evaluate_run(run, overrides, command=command, begun=begun, watch=advanced)
    for line in readable(metrics):
        print(line)
    print(f"report: {run / 'report.html'}")


def report(run: RunArgument) -> None:
    """Draw report.html of an evaluated run again.

    sri-pyro report runs/demo
    """
    with stopping(_what_stands(run)):
        from sri_pyro.config import report_run

        print(f"report: {report_run(run)}")


def redraw(run: Path) -> None:
    """Draw the page of an evaluated run with what an analysis found, which stands even where that fails."""
    from sri_pyro.config import redrawn

    with stopping(lambda: "stopped; the findings are written, and the report is as it was"):
        try:
            page = redrawn(run)
        except (FileNotFoundError, ValueError) as error:
            tell(f"the findings are written, and not in the report: {error}")
        else:
            tell(
                f"{page} is drawn again" if page else "the run has no report yet: sri-pyro evaluate draws it"
            )


def _what_stands(run: Path) -> Callable[[], str]:
    """What is said of an evaluation that is stopped: whether its page, the last file to take its place, is new."""
    page = run / "report.html"

    def stamp() -> tuple[int, int] | None:
        return (page.stat().st_ino, page.stat().st_mtime_ns) if page.exists() else None

    before = stamp()

    def said() -> str:
        if stamp() != before:
            return f"stopped; {page} was written"
        return f"{NOTHING}, and the evaluation in {run} stands" if before else NOTHING

    return said


def sample(
    run: RunArgument,
    num: Annotated[int, typer.Option(help="How many sentences.")] = 10,
    temperature: Annotated[float, typer.Option(help="1 samples the model, 0 decodes greedily.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling; 1 keeps every word.")] = 1.0,
    seed: SeedOption = 0,
    device: DeviceOption = None,
) -> None:
    """Write sentences for codes drawn from the prior.

    sri-pyro sample runs/demo --num 10 --temperature 0.7
    """
    _print(_loaded(run, seed, device).sampled(num, temperature, top_p))


def interpolate(
    run: RunArgument,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A sentence.")],
    last: Annotated[str, typer.Argument(metavar="LAST", help="Another sentence.")],
    steps: Annotated[int, typer.Option(help="How many sentences, both ends counted.")] = 7,
    seed: SeedOption = 0,
    device: DeviceOption = None,
) -> None:
    """Decode along the line between the codes of two sentences.

    sri-pyro interpolate runs/demo "where are you from ?" "i have a meeting tomorrow ."
    """
    batches = _loaded(run, seed, device).interpolated(first, last, steps, tell=tell)
    _print([f"{share:.2f}  {text}" for share, text in batch] for batch in batches)


def score(
    run: RunArgument,
    file: TextArgument,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    overrides: OverridesOption = None,
    target_se: TargetOption = None,
) -> None:
    """Estimate log p(x) of every sentence of a text, with its standard error and k-hat, as CSV.

    Where k-hat is not below its threshold log p(x) is not to be trusted; another estimator may do better.

    sri-pyro score runs/demo my.txt --out scores.csv

    sri-pyro score runs/demo my.txt --target-se 0.05
    """
    _tabulate(_loaded(run, seed, device, asked(target_se, overrides)).score, file, out)


def encode(
    run: RunArgument,
    file: TextArgument,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    overrides: OverridesOption = None,
    target_se: TargetOption = None,
) -> None:
    """Give the posterior mean and standard deviation of z for every sentence of a text, as CSV.

    sri-pyro encode runs/demo my.txt --out codes.csv
    """
    _tabulate(_loaded(run, seed, device, asked(target_se, overrides)).encode, file, out)


def _loaded(run: Path, seed: int, device: str | None, overrides: Sequence[str] = ()) -> Run:
    from sri_pyro.config import load_run, seed_everything

    loaded = load_run(run, device, overrides)
    seed_everything(seed)  # after loading, which may draw from the generator
    return loaded


def _print(batches: Iterator[list[str]]) -> None:
    """Print sentences as they are written, for a reader who may have seen enough after the first."""
    done = 0
    with stopping(lambda: f"stopped after {counted(done, 'sentence')}" if done else NOTHING):
        for batch in batches:
            print("\n".join(batch), flush=True)
            done += len(batch)


def _tabulate(judge: Callable[..., pd.DataFrame], file: Path, out: Path | None) -> None:
    """Judge every sentence of a text under a progress bar, and write the table as CSV."""
    from sri_pyro.config import atomic_path

    if out is None:
        with sentences_bar() as watch:
            frame = judge(file, tell=tell, watch=watch)
        with stopping(lambda: "stopped; the table that was printed is not whole"):
            frame.to_csv(sys.stdout, index=False)
        return
    # The file is opened first, so that a place that takes none costs no work.
    with naming(out), atomic_path(out) as temporary:
        with sentences_bar() as watch:
            frame = judge(file, tell=tell, watch=watch)
        frame.to_csv(temporary, index=False)
    console.print(f"{counted(len(frame), 'sentence')} written to {out}", highlight=False)
