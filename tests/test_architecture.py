"""The house: what may be imported where, and what the registry promises; layers are import-linter's."""

import ast
from pathlib import Path

import latcli
from latcli.engine.registry import BUILT_IN

PACKAGE = Path(latcli.__file__).parent
MODULES = {
    ".".join([PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def packages_of(file):
    """The packages that a module imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_engine_and_store_know_no_terminal_and_only_the_command_line_knows_typer():
    users = {name: packages_of(file) & {"typer", "rich"} for name, file in MODULES.items()}
    assert [name for name, found in users.items() if found and name.startswith(("latcli.engine", "latcli.store"))] == []
    typed = {name for name, found in users.items() if "typer" in found}
    assert typed <= {"latcli.cli", "latcli.options", "latcli.process"}


def test_the_registry_names_what_exists():
    for target in (target for names in BUILT_IN.values() for target in names.values()):
        module, _, attribute = target.partition(":")
        body = ast.parse(MODULES[module].read_text()).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assigned = {ast.unparse(one) for node in body if isinstance(node, ast.Assign) for one in node.targets}
        assert attribute in defined | assigned, target
