"""The command line: one short function a command. Slow imports stand inside the functions that use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from fedfit import __version__
from fedfit.cli_chat import chat
from fedfit.cli_evaluate import evaluate
from fedfit.cli_plan import plan
from fedfit.cli_reproduce import reproduce
from fedfit.cli_sweep import sweep
from fedfit.cli_use import export, predict
from fedfit.terminal import SCREEN, Json, Quiet, polite_errors, prepare_libraries, print_heads, print_json, say, waiting

if TYPE_CHECKING:
    from fedfit.experiment.session import Session
    from fedfit.settings import Recipe


class _InOrder(TyperGroup):
    """The commands in the order in which a person meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, as the help lists them."""
        return list(_ORDER)


_ORDER = (
    *("run", "resume", "report", "compare", "sweep", "predict", "chat", "evaluate", "export", "reproduce"),
    *("plan", "recipes", "doctor"),
)

app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List the shipped recipes; `recipes show NAME` prints one.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.command()(plan)
app.command()(sweep)
app.command()(reproduce)
app.command()(predict)
app.command()(export)
app.command()(chat)
app.command()(evaluate)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedfit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune one language model across many devices by federated split LoRA."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a TOML file.")] = "demo",
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value …", metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/<name of the recipe>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run in that folder.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe, and report on it."""
    from fedfit.experiment.load import parse_recipe, read_recipe

    with polite_errors(as_json):
        resolved = parse_recipe(read_recipe(recipe), overrides or [], recipe)
        folder = out or Path("runs") / resolved.name
        with waiting("reading data and model …", quiet):
            prepare_libraries()
            from fedfit.experiment.session import Session

            if _follows(resolved, folder):
                return
            session = Session.start(resolved, folder, force=force)
        _drive(session, as_json, quiet)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run that was stopped or killed.")],
    reset_personal: Annotated[
        bool, typer.Option("--reset-personal", help="Devices whose own models are damaged or missing start anew.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run where it stopped."""
    with polite_errors(as_json):
        with waiting("reading data, model and checkpoint …", quiet):
            prepare_libraries()
            from fedfit.experiment.session import Session

            if _follows(None, folder):
                return
            session = Session.resume(folder, reset_personal=reset_personal)
        if session.finished and not quiet:
            say(SCREEN, f"{folder} is finished; its report is made anew")
        _drive(session, as_json, quiet)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; by default into the run folder.")] = None,
    as_json: Json = False,
) -> None:
    """Draw the figures of a run and write its report.html."""
    from fedfit.reports.read import read_run
    from fedfit.reports.report import write_report
    from fedfit.reports.tables import run_table, summary_rows

    with polite_errors(as_json):
        data = read_run(folder)
        written = write_report(folder, out)
    if as_json:
        print_json({"summary": summary_rows(data), "written": [str(path) for path in written]})
    else:
        Console().print(run_table(data))
        say(Console(), f"report: {written[-1]}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="Where the overlaid figures go.")] = Path("comparison"),
    budget_mb: Annotated[float | None, typer.Option(help="Quality-under-Budget: MB sent; by default the least total.")] = None,
    budget_s: Annotated[float | None, typer.Option(help="… and seconds of the system model.")] = None,
    budget_j: Annotated[float | None, typer.Option(help="… and joules of all devices.")] = None,
    target: Annotated[float | None, typer.Option(help="Cost-to-Target: as 0.85; by default the worst final value.")] = None,
    as_json: Json = False,
) -> None:
    """Print tables of several runs (summary, quality and cost, recipes), and overlay their curves.

    Folders that are no run, such as a sweep's, are skipped and named.
    """
    from fedfit.reports.chosen import choose_runs
    from fedfit.reports.comparison import Comparison
    from fedfit.reports.report import write_comparison

    with polite_errors(as_json):
        runs, skipped = choose_runs(folders)
        for line in skipped:
            say(SCREEN, line)
        comparison = Comparison.of(runs, {"mb": budget_mb, "s": budget_s, "j": budget_j}, target)
        written = write_comparison(runs, out)
    if as_json:
        print_json({**comparison.to_json(), "skipped": skipped, "written": [str(path) for path in written]})
        return
    screen = Console()
    for title, table in comparison.tables():
        say(screen, title)
        screen.print(table)
        screen.print()
    say(screen, f"figures: {out}")


@recipes_app.callback()
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the shipped recipes."""
    if context.invoked_subcommand is not None:
        return
    from fedfit.experiment.load import recipe_heads

    hints = (
        "fedfit recipes show NAME > my-recipe.toml   prints one to start from",
        "fedfit plan                                 lists the shipped fleets, for plans without a model",
    )
    print_heads(recipe_heads(), hints, as_json)


@recipes_app.command()
def show(name: Annotated[str, typer.Argument(help="A shipped recipe.")]) -> None:
    """Print a shipped recipe, ready to be redirected to a file."""
    from fedfit.experiment.load import read_recipe

    with polite_errors():
        typer.echo(read_recipe(name), nl=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """List installed packages, accelerator, data sets, and whether the hub answers."""
    from fedfit.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
        return
    for section, entries in findings.items():
        _plain_section(section, entries)


def _plain_section(section: str, entries: dict[str, Any]) -> None:
    typer.echo(section)
    for name, value in entries.items():
        typer.echo(f"  {name:<28} {value}")


def _follows(recipe: Recipe | None, folder: Path) -> bool:
    """Whether this process is one of a cluster's others; it has then taken part to the end."""
    from fedfit.rounds.cluster import this_cluster

    cluster = this_cluster()
    if cluster is None:
        return False
    if not cluster.is_main:
        from fedfit.experiment.follow import follow

        follow(cluster, recipe, folder)
        return True
    cluster.wait()
    return False


def _drive(session: Session, as_json: bool, quiet: bool) -> None:
    """Runs a session to its end behind one bar, then reports."""
    from fedfit.progress import Bar
    from fedfit.reports.answers import answers_of, answers_table
    from fedfit.reports.read import read_run
    from fedfit.reports.report import write_report
    from fedfit.reports.tables import run_table, summary_rows

    path = session.folder.path
    try:
        with Bar(session, SCREEN, hidden=quiet) as bar:
            for result in session.results():
                bar.show(result)
    except KeyboardInterrupt:
        say(SCREEN, f"\nstopped; go on with: fedfit resume {path}")
        raise typer.Exit(130) from None
    finally:
        session.folder.close()
    written = write_report(path)
    data = read_run(path)
    if as_json:
        print_json({"summary": summary_rows(data), "folder": str(path), "report": str(written[-1])})
        return
    screen = Console()
    screen.print(run_table(data))
    if not quiet and (answers := answers_of(data)):
        screen.print()
        screen.print(answers_table(answers))
        screen.print()
    for name, place in (("report", written[-1]), ("figures", path / "figures"), ("adapter", path / "adapter")):
        say(screen, f"{name + ':':<9} {place}")


if __name__ == "__main__":
    app()
