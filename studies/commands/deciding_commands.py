"""The commands of the morning after: ``karui pick``, ``verify`` and ``compare``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ...errors import KaruiError
from ..study_file.plain_numbers import number
from .command_options import Artifacts, Format, Out, Prefer, Storage, Study
from .views import point_view, verification_view


def pick(
    study: Study,
    out: Out = None,
    storage: Storage = None,
    artifacts: Artifacts = None,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Largest file, such as 60KB or 0.1x.")] = None,
    max_latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest latency, such as 0.4ms, or 0.3x of the baseline's.")
    ] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Lowest validation accuracy, such as 0.97 or 0.99x.")
    ] = None,
    prefer: Annotated[
        Prefer, typer.Option(help="What to prefer among the points that fit; recommended loses at most one point.")
    ] = Prefer.recommended,
    point: Annotated[
        str | None, typer.Option(metavar="NAME", help="The point of that name, such as p07, instead of a preference.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why this one and not its neighbours.")] = False,
    requests: Annotated[
        str | None, typer.Option(metavar="RATE", help="What it serves, such as 500/s or 10M/month; with --price.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="PRICE", help="Of a core, such as 0.04/core-hour: says what is saved a month.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the bundle: the file, its metadata, samples and sums.")
    ] = None,
) -> None:
    """Choose one point of the front under a budget, and export it.

    Without a preference or a bound on accuracy it takes the best compromise among the points that lose at most one
    point of accuracy, and names the smallest, the fastest and the most accurate of these. Points are chosen by
    validation accuracy; test accuracy is told beside it, and chooses nothing.

    Exit code 1 where no point fits: then it says which bound fails by how much, and the nearest points.
    """
    from ..choosing.choose import Budget, choose, export_choice
    from ..choosing.cost import describe_saving, parse_price, parse_requests, saving_of
    from ..choosing.recommendation import recommendation_of

    _check_pair(requests, price)
    served = None if requests is None or price is None else (parse_requests(requests), parse_price(price))
    choice = choose(study, out, storage, Budget(max_size, max_latency, min_accuracy), prefer.value, point)
    console = Console()
    console.print(point_view(choice.row, choice.baseline))
    recommendation = recommendation_of(choice)
    _print_sentences(console, recommendation)
    if explain:
        from ..choosing.explain import explain_choice

        _print_sentences(console, [told for told in explain_choice(choice) if told not in recommendation])
    if served is not None:
        _print_sentences(console, describe_saving(saving_of(choice.row, choice.baseline, served[0]), served[1]))
    if export is not None:
        export_choice(choice, export, artifacts)
        console.print(Text(f"exported to {export}/"))


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that `karui pick --export` wrote.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An .npz with inputs and targets, to measure accuracy on.")
    ] = None,
    target: Annotated[str, typer.Option(metavar="NAME", help="Where to measure latency; none to leave it.")] = "local",
    target_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What that target asks for; may be given again.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="baseline.onnx of the results: compares ratios instead of milliseconds."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", parser=number(0.0), help="Of outputs, of the largest.", show_default="in config.json"
        ),
    ] = None,
    latency_tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", parser=number(0.0), help="Of latency.", show_default="0.15 with --reference, else 0.5"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check that a bundle is what was exported, answers as it did, and is as good and as fast as it says.

    Exit code 1 where anything is missed, 2 where it cannot be checked. What cannot be compared is said to be so.
    """
    from ..bundle.check import VerifyOptions
    from ..bundle.verify import as_json as written
    from ..bundle.verify import verify_bundle
    from ..study_file.target_options import read_target_options

    asked = read_target_options(target_option or [])
    for name, share in (("--tolerance", tolerance), ("--latency-tolerance", latency_tolerance)):
        if share is not None and not math.isfinite(share):
            raise KaruiError("that is no share", where=name, expected="a number of 0 or more", got=str(share))
    options = VerifyOptions(data, None if target == "none" else target, reference, tolerance, latency_tolerance, asked)
    found = verify_bundle(bundle, options)
    if as_json:
        print(written(found))
    else:
        Console().print(verification_view(found), soft_wrap=True)
    if found.verdict == "missed":
        raise typer.Exit(1)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A results folder, or a study.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another one.")],
    plot: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes.")] = Path("compare.png"),
    output: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Compare two runs: both fronts on one plot and table, and what both have measured."""
    import json

    from ..comparing.compare import compare_runs, load_run
    from ..comparing.compare_plot import save_comparison
    from ..comparing.compare_view import comparison_table, comparison_view

    found = compare_runs(load_run(run_a), load_run(run_b))
    save_comparison(plot, found)
    if output is Format.csv:
        sys.stdout.write(comparison_table(found).to_csv(index=False, lineterminator="\n"))
    elif output is Format.json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console()
        console.print(comparison_view(found), soft_wrap=True)
        console.print(Text(f"picture: {plot}"))


def _check_pair(requests: str | None, price: str | None) -> None:
    if (requests is None) != (price is None):
        raise KaruiError(
            "requests and price belong together",
            where="--requests, --price",
            expected="both, such as --requests 10M/month --price 0.04/core-hour, or none",
            got="--requests alone" if price is None else "--price alone",
        )


def _print_sentences(console: Console, sentences: list[str]) -> None:
    for sentence in sentences:
        console.print()
        console.print(Text(sentence), soft_wrap=not console.is_terminal)


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(pick)
    app.command()(verify)
    app.command()(compare)
