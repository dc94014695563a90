"""The house: which way imports point, what the registry and the modules promise."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import latcli
from latcli.engine.registry import BUILT_IN

PACKAGE = Path(latcli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

#: A layer and what it may import of latcli besides itself; `documents` and `errors` may be imported by all.
BELOW = {
    "cli": {"commands", "reporting", "store", "engine", "documents", "errors", "results", "version"},
    "commands": {"reporting", "store", "engine", "documents", "errors", "results", "version"},
    "reporting": {"documents", "errors", "results", "version"},
    "store": {"documents", "errors", "results", "version"},
    "engine": {"documents", "errors", "results", "version"},
    "documents": set(),
    "errors": set(),
    "results": {"errors"},
    "version": set(),
}

HEAVY = {"torch", "torchvision", "numpy", "timm", "ultralytics", "cv2", "PIL", "matplotlib", "sqlite_utils", "mlxtend"}


def name_of(file: Path) -> str:
    parts = [PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """The layer of a module of latcli: its package, `cli` for the modules at the top, `version` for latcli itself."""
    _, _, rest = module.partition(".")
    first = rest.split(".")[0]
    if not first:
        return "version"
    return first if first in BELOW else "cli"


def imports_of(tree: ast.AST, module: str, is_package: bool = False) -> set[str]:
    """Every module that a tree imports, at the top or inside a function; `from x import y` as x and x.y."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def is_module(name: str) -> bool:
    file = PACKAGE.parent.joinpath(*name.split("."))
    return file.with_suffix(".py").exists() or (file / "__init__.py").exists()


def misdirected(tree: ast.AST, module: str, is_package: bool = False) -> list[str]:
    """The modules of latcli that this one imports and must not."""
    layer = layer_of(module)
    imported = {name for name in imports_of(tree, module, is_package) if name.partition(".")[0] == "latcli"}
    layers = {name: layer_of(name) for name in imported if is_module(name)}
    return sorted(name for name, other in layers.items() if other != layer and other not in BELOW[layer])


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_point_down(file: Path) -> None:
    assert misdirected(parse(file), name_of(file), file.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "line", "layers"),
    [
        ("latcli.engine.images", "from latcli.store import database", {"store"}),
        ("latcli.engine.attacks.pgd", "def f():\n    import latcli.reporting.text", {"reporting"}),
        ("latcli.reporting.text", "from ..engine.images import Photo", {"engine"}),
        ("latcli.session", "from latcli.cli import app", {"cli"}),
        ("latcli.store.files", "from latcli import __version__", set()),
        ("latcli.cli", "from latcli.engine import registry", set()),
    ],
)
def test_an_arrow_that_points_up_is_found(module: str, line: str, layers: set[str]) -> None:
    assert {layer_of(name) for name in misdirected(ast.parse(line), module)} == layers


#: The commands that have a folder, and those that each of them may know.
COMMANDS = {
    "train": set(),
    "report": set(),
    "attack": {"report"},
    "eval": {"report", "train"},
    "reproduce": {"attack", "eval", "report", "train"},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_knows_those_below_it_alone(command: str) -> None:
    folder = PACKAGE / "commands" / command
    imported = {name for file in folder.glob("*.py") for name in imports_of(parse(file), name_of(file))}
    others = {name.split(".")[2] for name in imported if name.startswith("latcli.commands.")} & COMMANDS.keys()

    assert {path.name for path in (PACKAGE / "commands").iterdir() if (path / "__init__.py").exists()} == set(COMMANDS)
    assert others - {command} <= COMMANDS[command]


@pytest.mark.parametrize(
    "file", [file for file in MODULES if layer_of(name_of(file)) in {"engine", "store"}], ids=name_of
)
def test_engine_and_store_know_no_terminal(file: Path) -> None:
    packages = {name.partition(".")[0] for name in imports_of(parse(file), name_of(file))}

    assert packages & {"typer", "click", "rich"} == set()


def test_only_the_command_line_knows_typer() -> None:
    users = {name_of(f) for f in MODULES if "typer" in {n.partition(".")[0] for n in imports_of(parse(f), name_of(f))}}

    assert {layer_of(name) for name in users} == {"cli"}


@pytest.mark.parametrize(
    "module",
    ["latcli.cli", "latcli.engine.registry", "latcli.errors", "latcli.session", "latcli.reporting.text"],
)
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(file: Path) -> None:
    docstring = ast.get_docstring(parse(file)) or ""

    assert len(docstring.split()) >= 5


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in BUILT_IN.items() for name in names])
def test_the_registry_names_what_exists(kind: str, name: str) -> None:
    module, _, attribute = BUILT_IN[kind][name].partition(":")  # type: ignore[index]
    spec = importlib.util.find_spec(module)

    assert spec is not None
    assert spec.origin is not None
    body = parse(Path(spec.origin)).body
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert attribute in defined
