"""Data walk one way: each room imports only rooms below it (docs/architecture.md)."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRANCES = {"covergraph/__init__.py", "covergraph/api.py", "covergraph/cli.py"}


def sources(*folders: str) -> list[str]:
    """Paths of the .py files below the folders, relative to the repository; links are not entered."""
    return sorted(
        (Path(directory) / name).relative_to(ROOT).as_posix()
        for folder in folders
        for directory, _, names in os.walk(ROOT / folder)
        for name in names
        if name.endswith(".py")
    )


def imported(path: str) -> Iterator[str]:
    """Dotted names of all that a file imports when it runs, wherever it does so; `from a import b` is a and a.b."""
    package = installed_package(path)
    for node in running(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def running(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, save what stands under `if TYPE_CHECKING:`, which only type checkers read."""
    yield node
    skip = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for child in node.orelse if isinstance(node, ast.If) and skip else ast.iter_child_nodes(node):
        yield from running(child)


def installed_package(path: str) -> list[str]:
    """The package that a file belongs to, as it is installed: tracers/a.py belongs to covergraph.tracers."""
    parts = Path(path).parent.parts
    return list(parts) if parts[0] == "covergraph" else ["covergraph", *parts]


def offenders(files: list[str], *forbidden: str) -> list[str]:
    """`file: name` for each import of a forbidden package or of anything in it."""
    return [
        f"{file}: {name}"
        for file in files
        for name in imported(file)
        if any(name == package or name.startswith(f"{package}.") for package in forbidden)
    ]


def rooms(*names: str) -> list[str]:
    return [f"covergraph.{name}" for name in names]


UPSTAIRS = rooms("api", "cli", "tracers", "models")


def test_only_the_entrances_import_tracers_and_models() -> None:
    core = [file for file in sources("covergraph") if file not in ENTRANCES]
    assert len(core) > 10
    assert offenders(core, *rooms("tracers", "models")) == []


def test_models_import_nothing_else_of_covergraph() -> None:
    names = {name for file in sources("models") for name in imported(file) if name.startswith("covergraph")}
    assert {name for name in names if not name.startswith("covergraph.models.")} == set()


def test_models_import_few_packages() -> None:
    tops = {name.split(".")[0] for file in sources("models") for name in imported(file)}
    assert {"torch", "sklearn"} <= tops
    assert tops & {"sympy", "networkx", "scipy", "pandas", "matplotlib", "typer"} == set()


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("graph", rooms("rules", "passes", "bound", "measure", "trajectory", "report")),
        ("rules", ["torch", *rooms("passes", "bound", "measure", "trajectory", "report")]),
        ("passes", rooms("bound", "measure", "trajectory", "report")),
        ("bound", ["torch", *rooms("measure", "trajectory")]),
        ("measure", ["sympy", *rooms("rules", "passes", "bound", "trajectory", "report")]),
        ("trajectory", rooms("passes", "bound")),
        ("report", []),
    ],
)
def test_rooms_import_only_what_is_below_them(room: str, forbidden: list[str]) -> None:
    files = sources(f"covergraph/{room}")
    assert files
    assert offenders(files, *forbidden, *UPSTAIRS) == []


@pytest.mark.parametrize("file", ["errors.py", "rounding.py"])
def test_errors_and_rounding_import_nothing(file: str) -> None:
    assert set(imported(f"covergraph/{file}")) <= {"__future__", "__future__.annotations"}


def test_values_import_no_room() -> None:
    names = [name for name in imported("covergraph/values.py") if name.startswith("covergraph")]
    assert [name for name in names if not name.startswith(("covergraph.errors", "covergraph.rounding"))] == []


def test_the_reader_of_imports_sees_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "import a.b as c",
        "from . import d",
        "from ..e import f",
        "def g():",
        "    from covergraph import tracers",
        "if TYPE_CHECKING:",
        "    import unseen",
        "else:",
        "    import seen",
    ]
    (tmp_path / "covergraph" / "x").mkdir(parents=True)
    (tmp_path / "covergraph" / "x" / "y.py").write_text("\n".join(lines))
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    relative = {"covergraph.x", "covergraph.x.d", "covergraph.e", "covergraph.e.f"}
    assert set(imported("covergraph/x/y.py")) == {"a.b", "covergraph", "covergraph.tracers", "seen", *relative}
