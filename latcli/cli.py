"""The Typer app: its commands are made from the option classes; what they do is imported when one is called."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from copy import copy
from dataclasses import MISSING, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from latcli import __version__, config, options, process
from latcli.engine import registry
from latcli.errors import UsageError
from latcli.options import BASIC, LARGEST_TRIED, PANELS, Common, Computing, Field, Recording, RefusedValue
from latcli.session import Session

_MAIN, _LOOK = "Main commands", "Utilities"


@dataclass(frozen=True)
class Command:
    """One command: its options, and its function `(options, session) -> result` as `module:function`.

    The function may give a context of the result: it is shown inside, and what is left to do is done on leaving it.
    `shared` are the options that it takes besides its own. `check` is a function `(options, session)` that refuses what
    it can before the command's own imports. `reporting.documents` has what draws its document.
    """

    options: type
    run: str
    shared: type = Recording
    panel: str | None = None
    check: str | None = None


COMMANDS: Mapping[tuple[str, ...], Command] = {
    ("attack",): Command(options.AttackOptions, "latcli.commands.attack:attacking", panel=_MAIN),
    ("mask",): Command(options.MaskOptions, "latcli.commands.mask:run", panel=_MAIN),
    ("train",): Command(options.TrainOptions, "latcli.commands.train:run", panel=_MAIN),
    ("eval",): Command(
        options.EvalOptions, "latcli.commands.evaluate:run", panel=_MAIN, check="latcli.commands.runs:require_models"
    ),
    ("report",): Command(options.ReportOptions, "latcli.commands.report:run", shared=Common, panel=_MAIN),
    ("reproduce",): Command(options.ReproduceOptions, "latcli.commands.reproduce:run", panel=_MAIN),
    ("demo",): Command(options.DemoOptions, "latcli.commands.demo:run", Computing, _MAIN),
    ("classes",): Command(options.ClassesOptions, "latcli.commands.classifiers:run", Computing, _LOOK),
    ("doctor",): Command(options.DoctorOptions, "latcli.commands.doctor:run", Computing, _LOOK),
    ("runs", "list"): Command(options.RunsListOptions, "latcli.commands.runs:list_runs", shared=Common),
    ("runs", "show"): Command(options.RunsShowOptions, "latcli.commands.runs:show_run", shared=Common),
    ("runs", "verify"): Command(options.RunsVerifyOptions, "latcli.commands.runs:verify_runs", shared=Common),
    ("runs", "rm"): Command(options.RunsRemoveOptions, "latcli.commands.runs:remove_runs", shared=Common),
    ("runs", "path"): Command(options.RunsPathOptions, "latcli.commands.runs:run_path", shared=Common),
}


def _without_types(parameters: list[Any]) -> None:
    """Keep the Python types of arguments and switches out of the help."""
    for one in parameters:
        if isinstance(one, TyperArgument) or getattr(one, "is_flag", False):
            one.display_type_rich = lambda ctx: None


class _Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _without_types(self.get_params(ctx))
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="latcli", cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["--help", "-h"]}
)
_runs = typer.Typer(cls=_Group, invoke_without_command=True)
app.add_typer(_runs, name="runs", rich_help_panel=_LOOK)


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
        bool, typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Localized adversarial attacks and training: fool an image classifier by changing only a photo's background."""
    _help_without_command(ctx)


@_runs.callback()
def runs(ctx: typer.Context) -> None:
    """List, inspect, verify and remove stored runs."""
    _help_without_command(ctx)


def add_command(path: tuple[str, ...], command: Command) -> None:
    """Add a command to the app, with a parameter for each of its options."""
    fields = [*options.fields_of(command.options), *options.fields_of(command.shared)]
    own = {one.name for one in options.fields_of(command.options)}

    def call(**values: Any) -> int:
        del values["help_all"]
        kept: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        session = Session(**{name: value for name, value in kept.items() if name not in own})
        given = command.options(**{name: value for name, value in kept.items() if name in own})
        # With --json the document is all there may be on stdout, whatever a user's own code prints.
        with redirect_stdout(session.stderr) if session.json else nullcontext():
            if command.check is not None:
                _imported(command.check)(given, session)
            made = _imported(command.run)(given, session)
            unwritten: OSError | None = None
            with made if isinstance(made, AbstractContextManager) else nullcontext(made) as result:
                try:
                    code = session.show(result, " ".join(path))
                except OSError as error:  # a reader that has gone away leaves no run half done
                    unwritten = error
                with suppress(OSError):  # it fails once more, and is reported, when the process ends
                    session.stdout.flush()
            if unwritten is not None:
                raise unwritten
        return code

    parameters = [_parameter(one) for one in sorted(fields, key=_place)]
    call.__signature__ = inspect.Signature([*parameters, _HELP_ALL])  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in [*parameters, _HELP_ALL]}
    call.__doc__ = command.options.__doc__
    group = app if len(path) == 1 else _runs
    few = frozenset(one.name for one in fields if one.is_argument or BASIC in one.marks) | {"help", "help_all"}
    kinds = {one.name: one.kind for one in fields if one.kind is not None}
    group.command(path[-1], rich_help_panel=command.panel, cls=_showing_first(few, kinds))(call)


def _imported(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _place(field: Field) -> tuple[bool, int]:
    """Arguments first, then panel by panel, in each as the class has them."""
    return (False, 0) if field.is_argument else (True, PANELS.index(field.info.rich_help_panel))


def _parameter(field: Field) -> inspect.Parameter:
    """A field as Typer wants it: lists for tuples, one name for a switch, callbacks where something happens early."""
    info, kind = copy(field.info), field.type
    if field.name == "config":
        info.is_eager, info.callback = True, _use_config_files  # it lays the defaults of all the others
    if field.name == "debug":
        info.callback = _remember_debug
    if kind is bool and not info.param_decls:
        info.param_decls = (f"--{field.key}",)
    default: Any = inspect.Parameter.empty if field.default is MISSING else field.default
    if field.parse is not None:  # it says what the value is
        kind, default, info.callback = str | None, field.default if kind is str else None, _parsing(field)
    elif get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]], [] if default == () else default  # type: ignore[misc]
    elif float in (kind, *get_args(kind)):
        info.callback = _finite(field)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _parsing(field: Field) -> Callable[[str | None], Any]:
    def callback(text: str | None) -> Any:
        try:
            return field.default if text is None or field.parse is None else field.parse(text)
        except UsageError as error:
            raise RefusedValue(error.message, error.hint) from error

    return callback


def _finite(field: Field) -> Callable[[float | None], float | None]:
    def callback(value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):  # the JSON of a run's configuration has no such numbers
            raise RefusedValue(f"--{field.key} is {value:g}, not a finite number", "give a finite number, such as 0.5")
        return value

    return callback


def _use_config_files(ctx: typer.Context, file: Path | None) -> Path | None:
    if not ctx.resilient_parsing:  # as it is while the shell completes a word
        node: Any = ctx
        path: list[str] = []
        while node.parent is not None:
            path.insert(0, str(node.command.name))
            node = node.parent
        shape = {where: tuple(settable(one)) for where, one in COMMANDS.items()}
        settings = config.settings_for(tuple(path), shape, config.files_in_use(file))
        ctx.default_map = {name: setting.value for name, setting in settings.items()}
        ctx.meta[process.ORIGINS] = {name: setting.origin for name, setting in settings.items()}
    return file


def settable(command: Command) -> list[Field]:
    """The options of a command that a file may set."""
    fields = [*options.fields_of(command.options), *options.fields_of(command.shared)]
    return [one for one in fields if not one.is_argument and one.name != "config"]


def _remember_debug(ctx: typer.Context, debug: bool) -> bool:
    ctx.ensure_object(process.Invocation).debug |= debug
    return debug


# two lengths of help


def _showing_first(few: frozenset[str], kinds: Mapping[str, registry.Kind]) -> type[TyperCommand]:
    """A command whose --help shows these parameters, and whose --help-all shows all.

    kinds: options that take registered names; help adds the names of installed plug-ins.
    """

    class Brief(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            words: list[str] = []
            for word, following in zip(args, [*args[1:], ""], strict=False):
                words.append(word)
                if word == "--smallest-epsilon":
                    try:
                        options.parse_epsilon(following)
                    except UsageError:
                        words.append(LARGEST_TRIED)
            return super().parse_args(ctx, words)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            _without_types(self.get_params(ctx))
            parameters: list[Any] = self.params
            for one in parameters:
                if one.name in kinds and (plugins := registry.plugin_names(kinds[one.name])):
                    one.help = f"{one.help} Plug-ins: {', '.join(plugins)}."
                one.hidden = not ctx.meta.get(_EVERYTHING) and one.name not in few
            super().format_help(ctx, formatter)

    return Brief


_EVERYTHING = "latcli.help_all"


def _show_everything(ctx: typer.Context, asked: bool) -> None:
    if asked:
        ctx.meta[_EVERYTHING] = True
        ctx.get_help()
        raise typer.Exit


_HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--help-all", metavar="", is_eager=True, callback=_show_everything, help="Show every option and exit."
        ),
    ],
)


for _path, _command in COMMANDS.items():
    add_command(_path, _command)
