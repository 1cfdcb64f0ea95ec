"""The tree is as ARCHITECTURE.md says: links, packages, sizes, no path of anybody's machine, examples under test."""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("apps", "connectors", "state")
LIMIT_OF_LINES = 500

TEXT_SUFFIXES = {".cfg", ".css", ".csv", ".html", ".ini", ".js", ".json", ".md", ".py", ".sh", ".svg", ".toml", ".txt"}
TEXT_SUFFIXES |= {".pyi", ".yaml", ".yml", ""}
SOURCES = ("streams", *ROOMS, "examples", "tests", "docs", ".ci")
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|root|home/\w+|Users/\w+|tmp/v)/")


def files_under(*folders: str) -> list[Path]:
    """Every file below the folders, links not followed, caches left out."""
    found = [Path(at) / name for folder in folders for at, _, names in os.walk(ROOT / folder) for name in names]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def package_files() -> list[Path]:
    return [path for path in files_under("streams", *ROOMS) if path.suffix == ".py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_a_folder_with_a_relative_link_into_the_package(room: str) -> None:
    link = ROOT / "streams" / room
    assert (ROOT / room).is_dir()
    assert not (ROOT / room).is_symlink()
    assert link.is_symlink(), f"streams/{room} must be a link (git: core.symlinks must be true)"
    assert link.readlink() == Path("..") / room, "an absolute link would point into another checkout"


def test_the_package_has_no_other_links() -> None:
    links = {path for folder in ("streams", *ROOMS) for path in (ROOT / folder).rglob("*") if path.is_symlink()}
    assert {name_of(path) for path in links} == {f"streams/{room}" for room in ROOMS}


def test_every_folder_with_modules_is_a_package() -> None:
    # A folder without __init__.py is left out of the wheel, and nobody notices before users do.
    folders = {path.parent for path in package_files()}
    assert [name_of(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "streams" / "py.typed").is_file()


def test_no_module_of_the_package_is_longer_than_the_limit() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in package_files()}
    assert {name: lines for name, lines in lengths.items() if lines > LIMIT_OF_LINES} == {}, "two rooms in one?"


def machine_paths(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if MACHINE_PATH.search(line)]


def test_a_path_of_a_machine_is_recognised() -> None:
    for folder in ("root", "work", "home/ann", "Users/ann"):
        assert machine_paths(f'path = "/{folder}/x"') == [f'path = "/{folder}/x"']
    assert machine_paths("kafka://broker/work/x\n../work/x\n/var/lib/streams") == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    # .git is a file with an absolute path in a linked work tree; .coverage is a database.
    at_the_top = [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith((".cov", ".git"))]
    files = [path for path in files_under(*SOURCES) if path.is_file()] + at_the_top
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in files if path.suffix in TEXT_SUFFIXES}
    assert {name: found for name, text in texts.items() if (found := machine_paths(text))} == {}


def test_every_example_is_named_by_a_test() -> None:
    tests = [path for path in files_under("tests") if path.suffix == ".py" and "repository" not in path.parts]
    text = "\n".join(path.read_text(encoding="utf-8") for path in tests)
    examples = [path.stem for path in (ROOT / "examples").glob("*.py") if not path.stem.startswith("_")]
    untested = [stem for stem in examples if not re.search(rf"\b{stem}\.py\b|\bexamples[./]{stem}\b", text)]
    assert sorted(untested) == []


def bound_names(tree: ast.Module) -> set[str]:
    """What the module's own statements bind at the top: what mypy, pyright and an editor's completion see."""
    names: set[str] = set()
    statements = list(tree.body)
    for node in tree.body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            statements.extend(node.body)
    for node in statements:
        match node:
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def listed_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                return list(ast.literal_eval(value))
    return None


@pytest.mark.parametrize("package", ["streams", "streams.testing"])
def test_the_public_names_exist_and_static_tools_see_them(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None, f"{package} has no __init__.py"
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    listed = listed_names(tree)
    assert listed, f"{package} has no literal __all__"
    assert len(set(listed)) == len(listed), "a name is listed twice"
    assert [name for name in listed if name not in bound_names(tree)] == [], "listed, but static tools don't see it"
    assert [name for name in listed if not hasattr(module, name)] == [], "listed, but not there at run time"
