"""The command line: searching, watching, printing the front; and, from other files, what decides afterwards."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from .. import __version__
from ..errors import KaruiError, OutputError
from .commands.command_options import Artifacts, Format, Out, Storage, Study
from .commands.deciding_commands import add_commands
from .commands.views import cache_view, front_view, preflight_view, training_view
from .storage.folder import CACHE_NAME, explain_cache_errors, explain_unreadable
from .study_file.plain_numbers import number, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from ..evaluators.measurement import Measurement
    from ..search.objectives import Objective
    from .run import StudyResult

app = typer.Typer(
    name="karui",
    help="Make a trained PyTorch model light: search bit-width, sparsity, student and NAS cells, measure every "
    "candidate, and get the Pareto front of size / speed / accuracy with a deployable file behind every point.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        print(f"karui {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def search(
    study: Study,
    trials: Annotated[
        int | None, typer.Option(metavar="N", parser=whole_number(1), help="Candidates to evaluate in all.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(metavar="H", parser=number(0.0), help="Longest time of this run.")
    ] = None,
    out: Out = None,
    storage: Storage = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", parser=whole_number(0), help="Seed of the sampler and of training.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the task's data.")] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Trained networks.", show_default="karui-cache beside --out")
    ] = None,
    artifacts: Artifacts = None,
    no_gates: Annotated[
        bool, typer.Option("--no-gates", help="Evaluate every candidate to its end, however hopeless.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", parser=whole_number(0), help="Candidates at a time, each in a process.", show_default="1"
        ),
    ] = None,
) -> None:
    """Search a study and measure its front again; the same command goes on where it was stopped.

    SIGTERM and SIGHUP stop it as Ctrl-C does. Given a second time while the first is still running, it joins in.

    Writes trials.csv, log.jsonl, front.csv, front.png and the front's ONNX files to the results folder.
    """
    from .commands.signals import Terminated, ended_by_signals
    from .run import run_study
    from .watching.progress import ProgressView

    console = Console()
    given = {"trials": trials, "hours": hours, "seed": seed, "data": data, "cache": cache, "workers": workers}
    try:
        with ended_by_signals(), ProgressView(console) as view:
            result = run_study(
                study,
                out=out,
                storage=storage,
                watcher=view,
                artifacts=artifacts,
                gates=not no_gates,
                **given,  # type: ignore[arg-type]
            )
    except Terminated as ended:
        _say_stopped()
        raise typer.Exit(ended.exit_code) from ended
    _show_result(console, result)
    if not len(result.front):
        raise typer.Exit(1)


@app.command()
def front(
    study: Study,
    out: Out = None,
    storage: Storage = None,
    output: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Print the Pareto front of a study: every point's size, speed and accuracy."""
    from .results.certification import read_certification
    from .results.further import further_of
    from .results.read import find_results, read_baseline_measurements, read_front, read_objectives

    results = find_results(study, out, storage)
    table = read_front(results)
    if output is Format.csv:
        sys.stdout.write(table.to_csv(index=False, lineterminator="\n"))
    elif output is Format.json:
        sys.stdout.write(table.to_json(orient="records", indent=2) + "\n")
    else:
        console = Console()
        further = further_of(read_objectives(results))
        console.print(front_view(table, further), soft_wrap=True)
        if len(table) and "test_accuracy" not in table.columns:
            console.print("The front so far, by validation accuracy: the search has not finished.")
        elif len(table) and (certification := read_certification(results.folder)) is not None:
            console.print(Text(certification.describe()), soft_wrap=True)
        _recommend(console, table, read_baseline_measurements(results) if len(table) else {}, further)


def _recommend(
    console: Console, table: pd.DataFrame, baseline: Mapping[str, Measurement], further: Sequence[Objective]
) -> None:
    """Print which points of a front are recommended."""
    from .choosing.recommendation import front_recommendation

    for sentence in front_recommendation(table, baseline, further):
        console.print(Text(sentence), soft_wrap=True)


add_commands(app)


@app.command()
def preflight(
    study: Study,
    out: Out = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the task's data.")] = None,
) -> None:
    """Say what each axis can win on the study's target, from probes of the model's own largest layers.

    Takes some seconds; a search does the same when it begins. Results are kept by target and not measured twice.
    """
    from .preflight.preflight import run_preflight
    from .preflight.preflight_sentences import sentences
    from .study_file.spec_reading import resolve_spec

    console = Console(soft_wrap=True)
    with console.status("") as status:
        found = run_preflight(study, out=out, data=data, told=lambda text: status.update(Text(text)))
    for each in found.targets:
        console.print(preflight_view(each))
    if found.training is not None:
        console.print(training_view(found.training))
    for sentence in sentences(found, resolve_spec(study)):
        console.print(Text(f"note: {sentence}"))


@app.command()
def report(
    study: Study,
    out: Out = None,
    storage: Storage = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="The page.", show_default="report.html in --out")
    ] = None,
) -> None:
    """Write one page about a study, which opens from disk, and its plots as PNG and SVG.

    It also works while the search runs, and where no candidate keeps the bounds.
    """
    from .report import write_report

    page, *pictures = write_report(study, out=out, storage=storage, to=to)
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
    print(f"and {len(pictures)} pictures to {pictures[0].parent}/")


@app.command("watch")
def watch_search(
    study: Study,
    out: Out = None,
    storage: Storage = None,
    once: Annotated[bool, typer.Option("--once", help="Show how things stand, and end.")] = False,
) -> None:
    """Show a search that runs elsewhere: progress, running candidates, the front so far, what failed, the time left.

    It reads only; it ends when the search does, or with Ctrl-C, which the search does not notice.
    """
    from .watching.watch import watch

    watch(study, Console(), out=out, storage=storage, once=once)


@app.command()
def init(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the study.")]) -> None:
    """Write a commented study file and a task file to start from; the pair runs as written."""
    from .study_file.scaffold import write_scaffold

    study, task = write_scaffold(name, Path())
    print(f"wrote {study} and {task}\nnext: put your model and data into {task}, then run\n\n    karui search {study}")


@app.command("cache")
def show_cache(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The cache.")] = Path("runs") / CACHE_NAME,
    clear: Annotated[bool, typer.Option("--clear", help="Remove what no search uses now.")] = False,
) -> None:
    """Show how much of trained networks is kept for other studies, or clear it; results are not touched."""
    from ..spaces.building.stage_cache import StageCache

    kept = StageCache(folder)
    with explain_unreadable(folder, "the cache"):
        if not folder.is_dir():
            remedy = "name the folder that --cache was given"
            raise OutputError("there is no such cache", where=str(folder), remedy=remedy)
        if not kept.is_one():  # what lies in a folder of anybody else's is not to be removed, whatever it is called
            raise OutputError(
                "that folder is no cache of karui's",
                where=str(folder),
                expected="a folder that a search has made, with CACHEDIR.TAG in it",
                got="a folder without it",
                remedy="name the folder that --cache was given",
            )
        if clear:
            with explain_cache_errors(folder):
                kept.trim(0)
        sizes = kept.sizes()
    Console().print(cache_view(folder, sizes), soft_wrap=True)


def main() -> None:
    """Run the command line; errors a person can put right are printed without a traceback."""
    # Read when torch is first loaded. Without it torch's threads spin while they wait for each other: with another
    # busy process on the same cores, an epoch of the bundled study took 8 s instead of 1.7 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy's threads do the same, and the matrices here are too small to gain from several.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name of a file may hold what the terminal has no letters for
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except KaruiError as error:
        _print_error(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # what the system refuses is no bug; where, and what to do, it says itself
        if sys.argv[1:2] in (["search"], ["preflight"]):  # where the task's own code runs, which may have raised it
            raise
        _print_error(_refusal(error))
        code = KaruiError.exit_code
    except Exception as error:
        code = _explain_usage(error)
    if code == INTERRUPTED:  # typer itself turns Ctrl-C into this code, and says nothing
        _say_stopped()
    sys.exit(code if isinstance(code, int) else 0)


def _say_stopped() -> None:
    Console(stderr=True).print("stopped: every finished trial is kept; the same command goes on from there")


def _refusal(error: OSError) -> OutputError:
    where = None if error.filename is None else os.fsdecode(error.filename)
    got = f"{type(error).__name__}: {error.strerror or error}"
    return OutputError(
        "the system refuses a file or a folder", where=where, got=got, remedy="check its name and its permissions"
    )


def _explain_usage(error: Exception) -> int:
    """Print click's own usage errors its own way, and what a database refuses; all else is a bug with its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        if "sqlalchemy" in sys.modules:
            from .storage.storage_errors import STORAGE_ERRORS, storage_refusal

            if isinstance(error, STORAGE_ERRORS):
                _print_error(storage_refusal(error))
                return KaruiError.exit_code
        raise error
    show()
    return int(getattr(error, "exit_code", 2))


def _print_error(error: KaruiError) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), (error.what, "bold")))
    for label, text in error.details():
        console.print(Text(f"  {label + ':':<10}{text}"))


def _show_result(console: Console, result: StudyResult) -> None:
    from ..search.stopping.early_stopping import describe_reports
    from .results.further import further_of

    console.print(Text(f"{result.ending}; {len(result.trials)} trials"))
    if told := describe_reports(result.gates):
        console.print(Text(told), soft_wrap=True)
    if not len(result.front):
        from .run import describe_values

        none = "No candidate keeps every bound. The nearest:" if result.nearest else "No candidate was measured."
        console.print(none, highlight=False)
        for record in result.nearest:
            console.print(Text(f"  {describe_values(record, result.objectives)}"))
        return
    console.print(front_view(result.front, further_of(result.objectives)), soft_wrap=True)
    if result.certification is not None:
        console.print(Text(result.certification.describe()), soft_wrap=True)
    _recommend(console, result.front, result.baseline, further_of(result.objectives))
    here = result.folder.relative_to(Path.cwd()) if result.folder.is_relative_to(Path.cwd()) else result.folder
    console.print(Text(f"results: {here}/ (front.csv, front.png, trials.csv, front/*.onnx)"))
