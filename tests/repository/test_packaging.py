"""What is installed: one top-level name, the rooms as real files, and the same from a wheel and from a source archive.

The archives are built once, from a copy, without the network: the build back end is one of the development packages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("apps", "connectors", "state")


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tree = tmp_path_factory.mktemp("tree")
    for path in ROOT.glob("*"):
        if path.is_file():
            shutil.copy(path, tree)
    for folder in ("streams", *ROOMS):
        shutil.copytree(
            ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.py[co]")
        )
    direct, both = tree / "direct", tree / "both"
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", str(direct), cwd=tree)
    # Without --wheel the wheel is built from the source archive, as the back end of an installer would.
    run("-m", "build", "--no-isolation", "--outdir", str(both), cwd=tree)
    (wheel,), (sdist,), (wheel_of_sdist,) = direct.glob("*.whl"), both.glob("*.tar.gz"), both.glob("*.whl")
    return Built(wheel, sdist, wheel_of_sdist)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def modules_of_the_tree() -> set[str]:
    names = {path.relative_to(ROOT).as_posix() for path in (ROOT / "streams").rglob("*.py")}
    # Before Python 3.13 rglob goes through the links by itself; naming each room makes it so for all.
    for room in ROOMS:
        names |= {f"streams/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / room).rglob("*.py")}
    return names


def test_the_wheel_has_one_top_level_name(built: Built) -> None:
    tops = {PurePosixPath(name).parts[0] for name in names_in(built.wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"streams"}


def test_the_wheel_holds_every_module_of_the_tree_and_the_mark_of_typing(built: Built) -> None:
    names = names_in(built.wheel)
    assert {name for name in names if name.endswith(".py")} == modules_of_the_tree()
    assert {f"streams/{room}/__init__.py" for room in ROOMS} <= names
    assert "streams/py.typed" in names


def test_the_wheel_names_licence_command_and_python(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        texts = {PurePosixPath(name).name: name for name in archive.namelist() if ".dist-info/" in name}
        assert "LICENSE" in texts
        assert "streams = streams.cli:main" in archive.read(texts["entry_points.txt"]).decode()
        metadata = archive.read(texts["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_source_archive_gives_the_same_wheel(built: Built) -> None:
    assert names_in(built.wheel_of_sdist) == names_in(built.wheel)


def test_the_source_archive_holds_files_and_no_links(built: Built) -> None:
    # A link inside an archive is lost, or refused, by some of the tools that unpack it.
    with tarfile.open(built.sdist) as archive:
        assert [member.name for member in archive.getmembers() if not (member.isfile() or member.isdir())] == []


def test_the_source_archive_installs_and_imports(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "site"
    run(
        *("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"),
        *("--disable-pip-version-check", "--target", str(target), str(built.sdist)),
        cwd=tmp_path,
    )
    assert (target / "streams" / "connectors" / "__init__.py").is_file()
    assert not (target / "streams" / "connectors").is_symlink()
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import streams.apps, streams.connectors, streams.core.log, streams.state\n"
        "print(streams.connectors.__file__)\n"
    )
    printed = run("-I", "-c", program, str(target), cwd=tmp_path)
    assert Path(printed.strip()).is_relative_to(target)
