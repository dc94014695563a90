"""The house: what may be imported where, and what modules and the registry promise; layers are import-linter's."""

from __future__ import annotations

import ast
from pathlib import Path

import latcli
from latcli.engine.registry import BUILT_IN

PACKAGE = Path(latcli.__file__).parent
MODULES = {
    ".".join([PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def packages_of(file: Path) -> set[str]:
    """The packages that a module imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_engine_and_store_know_no_terminal_and_only_the_command_line_knows_typer():
    users = {name: packages_of(file) & {"typer", "rich"} for name, file in MODULES.items()}
    assert [name for name, found in users.items() if found and name.startswith(("latcli.engine", "latcli.store"))] == []
    assert {name for name, found in users.items() if "typer" in found} <= {
        "latcli.cli",
        "latcli.options",
        "latcli.process",
    }


def test_every_module_says_what_it_is_for():
    assert [name for name, file in MODULES.items() if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_the_registry_names_what_exists():
    for target in (target for names in BUILT_IN.values() for target in names.values()):
        module, _, attribute = target.partition(":")
        body = ast.parse(MODULES[module].read_text()).body
        assert attribute in {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, target
