"""What keeps the house readable: short modules that know few others, and tests that stay outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES = 400
MOST_IMPORTS = 12

# Its programs put all floors together.
LABORATORY = ("training/benchmarks/", "training/experiments/")

# Methods of a patch that put something in another's place.
_PATCHES = {"setattr", "delattr", "setitem", "delitem"}
# A table of ours that a test may put something into, and why.
OPEN_TABLES = {"METHODS": "it is the seam for methods: a test puts one of its own there"}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def _imports(path: Path) -> dict[str, str]:
    """What each imported name of ours stands for: a module, or a module and what is taken from it."""
    found: dict[str, str] = {}
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: where for name, where in found.items() if where.split(".")[0] in PACKAGES}


def _modules_imported(path: Path) -> set[str]:
    return {where if _is_module(where) else where.rpartition(".")[0] for where in _imports(path).values()}


def test_no_module_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {_named(path): len(path.read_text().splitlines()) for path in [*MODULES, *TESTS]}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_module_knows_more_than_a_dozen_others() -> None:
    known = {_named(path): len(_modules_imported(path)) for path in MODULES}
    product = {name: count for name, count in known.items() if not name.startswith(LABORATORY)}
    assert {name: count for name, count in product.items() if count > MOST_IMPORTS} == {}


def test_no_test_module_imports_another() -> None:
    names = {path.stem for path in TESTS if path.stem.startswith("test_")}
    for path in TESTS:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                parts = {part for alias in node.names for part in alias.name.split(".")}
                parts |= set((getattr(node, "module", None) or "").split("."))
                assert not parts & (names | {"tests"}), f"{_named(path)}:{node.lineno}"


def _patches_of_ours(path: Path) -> Iterator[str]:
    ours = _imports(path)
    for node in ast.walk(_tree(path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PATCHES):
            continue
        if not node.args or ast.unparse(node.func.value) == "object":
            continue
        target = node.args[0]
        root = target
        while isinstance(root, ast.Attribute):
            root = root.value
        name = root.id if isinstance(root, ast.Name) else ""
        texts = [
            part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        inside = name in ours and name not in OPEN_TABLES
        inside |= any(text.split(".")[0] in PACKAGES and "." in text for text in texts)
        inside |= any(text.rpartition(".")[2].startswith("_") for text in texts)
        if inside:
            yield f"{_named(path)}:{node.lineno} {ast.unparse(node)[:80]}"


def test_tests_patch_nothing_inside_of_ours() -> None:
    """A constructor's parameter, a setting or a fake serves: what is patched by name breaks with each renaming."""
    assert [found for path in TESTS for found in _patches_of_ours(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr("service.app.open_backend", None)',
        'monkeypatch.setattr(recipes, "datetime", None)',
        'monkeypatch.setattr(recipes.RecipeStore, "verify", None)',
        'patched.setattr(RecipeStore, "verify", None)',
        'monkeypatch.setattr(thing, "_seconds", None)',
        'patched.setitem(TABLE, "part", None)',
    ],
)
def test_such_a_patch_is_found(tmp_path: Path, line: str) -> None:
    imports = "from service.station import recipes\nfrom service.station.recipes import TABLE, RecipeStore\n"
    file = tmp_path / "test_imagined.py"
    file.write_text(imports + line)
    assert len(list(_patches_of_ours(file))) == 1
