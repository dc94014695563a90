"""The command line: Typer signatures and help texts, nothing else; bodies are imported inside the function."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from latcli import __version__, process
from latcli.cli_options import complete_run, flag, with_session
from latcli.commands.session import Session

app = typer.Typer(
    name="latcli",
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)
runs_app = typer.Typer(help="Look at stored runs, check them, remove them.", invoke_without_command=True)
app.add_typer(runs_app, name="runs", rich_help_panel="Look around")


def main() -> NoReturn:
    """Run the process's command line and end the process with its exit code."""
    sys.exit(process.run(app, sys.argv[1:]))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"latcli {__version__}")
        raise typer.Exit


def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        ctx.get_help()  # Typer's rich help prints itself


@app.callback()
def latcli(
    ctx: typer.Context,
    version: Annotated[
        bool, flag("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Localized adversarial attacks: fool an image classifier by a photo's background alone."""
    _help_without_command(ctx)


@runs_app.callback()
def runs(ctx: typer.Context) -> None:
    """Look at stored runs, check them, remove them."""
    _help_without_command(ctx)


Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The end of a run's id, or latest.", autocompletion=complete_run),
]
Runs = Annotated[list[str], typer.Argument(metavar="RUN", help="Ends of ids, or latest.", autocompletion=complete_run)]


@app.command(rich_help_panel="Look around")
@with_session
def doctor(session: Session) -> int:
    """Show what this machine offers: device, weights, data sets, disk, database.

    Exit code 1 where something is broken; what is only missing is no failure.
    """
    from latcli.commands.doctor import examine
    from latcli.reporting import listing

    result = examine(session)
    session.show(result, listing.checks)
    return result.exit_code


@runs_app.command("list")
@with_session
def runs_list(
    session: Session,
    command: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this command.")] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only running, completed, failed, interrupted or crashed ones."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", metavar="N", min=1, help="The newest N only.")] = None,
) -> None:
    """List the runs of the store, the newest first."""
    from latcli.commands.runs import list_runs
    from latcli.reporting import listing

    session.show(list_runs(session.store, command=command, status=status, limit=limit), listing.runs)


@runs_app.command("show")
@with_session
def runs_show(session: Session, run: Run) -> None:
    """Show all that is known of one run: options, images, numbers, files."""
    from latcli.commands.runs import show_run
    from latcli.reporting import listing

    session.show(show_run(session.store, run), listing.run)


@runs_app.command("verify")
@with_session
def runs_verify(session: Session, runs: Runs = []) -> int:  # noqa: B006 (Typer only reads it)
    """Check that the files of the runs named, or of all, are as they were written, and the database with them.

    Exit code 1 where anything is wrong.
    """
    from latcli.commands.runs import verify_runs
    from latcli.reporting import listing

    result = verify_runs(session.store, runs)
    session.show(result, listing.verification)
    return result.exit_code


@runs_app.command("rm")
@with_session
def runs_rm(
    session: Session,
    runs: Runs,
    force: Annotated[bool, flag("--force", help="Also one that a machine now gone left behind as running.")] = False,
) -> None:
    """Remove runs with all their files. A run that is at work is refused."""
    from latcli.commands.runs import rm_runs
    from latcli.reporting import listing

    session.show(rm_runs(session.store, runs, force=force), listing.removal)


@runs_app.command("path")
@with_session
def runs_path(
    session: Session,
    run: Run,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="One of the run's files.")] = None,
) -> None:
    """Print the path of a run's folder, or of one of its files, for use by a shell."""
    from latcli.commands.runs import run_path

    result = run_path(session.store, run, file)
    if session.json:
        session.print_json(result.to_json())
    else:
        print(result.path, file=session.stdout)
