"""Options that every command has, as Typer annotations, and the way from them to a Session; must not run anything."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from latcli.commands import configuration
from latcli.commands.parsing import parse_epsilon
from latcli.commands.session import Precision as PrecisionName
from latcli.commands.session import Session
from latcli.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

WHERE = "Where and how it runs"
OUTPUT = "Output"

#: Under this key a context's `meta` says which file set a parameter.
ORIGINS = "latcli.origins"


@dataclass
class Invocation:
    """What must be known of a command line even where it fails."""

    debug: bool = False


class RefusedValue(typer.BadParameter):
    """An option's value that its parser refused, with the parser's own hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def parsed_by(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser as Typer wants it: a refusal learns from Typer which option it is about."""

    def parser(text: str) -> T:
        try:
            return parse(text)
        except UsageError as error:
            raise RefusedValue(error.message, error.hint) from error

    return parser


def shape_of(command: Any) -> configuration.Command:
    """What configuration files may set, read off Typer's own command or group."""
    options = {
        opt.removeprefix("--"): configuration.Option(
            param.name, "switch" if param.is_flag else "list" if param.multiple else "value"
        )
        for param in command.params
        if param.param_type_name == "option" and not param.is_eager
        for opt in param.opts
        if opt.startswith("--")
    }
    below = {name: shape_of(inner) for name, inner in getattr(command, "commands", {}).items()}
    return configuration.Command(options if not below else {}, below)


def _path_of(ctx: typer.Context) -> tuple[str, ...]:
    node: Any = ctx
    path: list[str] = []
    while node.parent is not None:
        path.insert(0, node.command.name)
        node = node.parent
    return tuple(path)


def _use_configuration(ctx: typer.Context, file: Path | None) -> Path | None:
    if not ctx.resilient_parsing:  # as it is while the shell completes a word
        files = configuration.files_in_use(file)
        root = shape_of(ctx.find_root().command)
        settings = configuration.settings_for(_path_of(ctx), root, files)
        ctx.default_map = {name: setting.value for name, setting in settings.items()}
        ctx.meta[ORIGINS] = {name: setting.origin for name, setting in settings.items()}
    return file


def _remember_debug(ctx: typer.Context, debug: bool) -> bool:
    ctx.ensure_object(Invocation).debug |= debug
    return debug


def flag(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option that takes no value; Typer's help would give it a column `<bool>`, which nobody types."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel, **more)


# Eager: it lays the defaults of all the others.
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Options from this TOML file instead of latcli.toml.",
        rich_help_panel=WHERE,
        is_eager=True,
        callback=_use_configuration,
    ),
]
Store = Annotated[
    Path,
    typer.Option("--store", metavar="DIR", envvar="LATCLI_STORE", help="Where runs are kept.", rich_help_panel=WHERE),
]
Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", envvar="LATCLI_DATA", help="Where data sets are.", rich_help_panel=WHERE),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=WHERE),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="auto, fp32 or bf16: what gradients are computed in. Results are always scored in fp32.",
        rich_help_panel=WHERE,
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=0, help="Equal seeds give equal files.", rich_help_panel=WHERE),
]
Offline = Annotated[bool, flag("--offline", envvar="LATCLI_OFFLINE", help="Download nothing.", panel=WHERE)]
Json = Annotated[bool, flag("--json", help="One JSON document on stdout, and nothing else there.", panel=OUTPUT)]
Quiet = Annotated[bool, flag("--quiet", "-q", help="No progress and no notes on stderr.", panel=OUTPUT)]
Debug = Annotated[bool, flag("--debug", help="Show the traceback of an error.", panel=OUTPUT, callback=_remember_debug)]

Epsilon = Annotated[
    float,
    typer.Option(
        "--epsilon",
        metavar="E",
        parser=parsed_by(parse_epsilon),
        help="Largest change of a pixel: 8/255 or 0.031.",
        show_default="8/255",
        rich_help_panel="Attack",
    ),
]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs of the store that begin so, the newest first: by the last part of their id, or by the whole of it."""
    try:
        folders = [file.parent.name for file in Path(ctx.params["store"]).glob("*/run.json")]
    except OSError:
        return []
    ids = sorted(folders, reverse=True)
    return [name for name in [*(run.rpartition("-")[2] for run in ids), *ids] if name.startswith(incomplete)]


def _session(
    store: Store = Path("runs"),
    data: Data = Path("data"),
    device: Device = "auto",
    precision: Precision = "auto",
    seed: Seed = 0,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Session:
    return Session(store, data, device, precision, seed, offline, json, quiet, debug, config)


def with_session(body: Callable[Concatenate[Session, P], int | None]) -> Callable[..., int | None]:
    """A command from its body: adds the options that every command has, and hands the body the Session they make."""
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(_session, eval_str=True).parameters.values())

    @functools.wraps(body)
    def command(**values: Any) -> int | None:
        session = _session(**{parameter.name: values.pop(parameter.name) for parameter in shared})
        return body(session, **values)  # type: ignore[call-arg]

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *shared]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
