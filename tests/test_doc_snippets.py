"""Every Python snippet of the documentation runs, as a reader would run it: in order, in an empty folder.

Which blocks: fenced ``python`` blocks of README.md, ARCHITECTURE.md, CONTRIBUTING.md and docs/. The blocks of one file
share a module, the file runs in a process of its own with warnings as errors, and a function ``test_…`` without
parameters is called after the block that defines it. Tracebacks name the Markdown file and its line. A comment on the
line before a block says otherwise:

    <!-- snippet: not run because it needs a broker -->      the reason is required
    <!-- snippet: file shop/app.py -->                       written to that file, not run; any language
    <!-- snippet: run -->                                    a shell block that is run: all of it, or its `$ ` lines

This file is also the program that runs one document, in an empty folder: ``python …/test_doc_snippets.py README.md``.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md") if (ROOT / name).is_file()]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
TIMEOUT_S = 180

PYTHON = {"py", "python", "python3"}
SHELL = {"bash", "console", "sh", "shell"}
FENCE = re.compile(r"^(?P<indent>[ ]*)(?P<fence>`{3,}|~{3,})[ ]*(?P<info>[^`]*)$")
COMMENT = re.compile(r"^\s*<!--\s*snippet:\s*(?P<text>.*?)\s*-->\s*$")


class BadDocument(Exception):
    """A directive or a fence that would leave a snippet out in silence."""


@dataclass(frozen=True)
class Block:
    """One fenced block that something is done with. line: of its first line of code, from 1."""

    action: str
    line: int
    code: str
    file: str = ""


def blocks_of(text: str) -> list[Block]:
    """What is to be done with a document, in order. Raises BadDocument naming the line."""
    found: list[Block] = []
    lines = text.splitlines()
    directive, at = "", 0
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if comment := COMMENT.match(line):
            if directive:
                raise BadDocument(f"line {at}: no block follows the comment `snippet: {directive}`")
            directive, at = comment["text"], number
        elif fence := FENCE.match(line):
            start = number
            closing = re.compile(rf"^\s*{re.escape(fence['fence'][0])}{{{len(fence['fence'])},}}\s*$")
            while number < len(lines) and not closing.match(lines[number]):
                number += 1
            if number == len(lines):
                raise BadDocument(f"line {start}: the block is not closed")
            code = textwrap.dedent("\n".join(lines[start:number])) + "\n"
            number += 1
            language = (fence["info"].split() or [""])[0].lower()
            if block := block_of(language, directive, start, code):
                found.append(block)
            directive = ""
        elif "<!-- snippet" in line.replace("<!--snippet", "<!-- snippet"):
            raise BadDocument(f"line {number}: a snippet comment stands alone on its line: {line.strip()}")
        elif line.strip() and directive:
            raise BadDocument(f"line {at}: no block follows the comment `snippet: {directive}`")
    if directive:
        raise BadDocument(f"line {at}: no block follows the comment `snippet: {directive}`")
    return found


def block_of(language: str, directive: str, start: int, code: str) -> Block | None:
    match directive.split(maxsplit=3):
        case []:
            return Block("python", start + 1, code) if language in PYTHON else None
        case ["not", "run", "because", _]:
            return None
        case ["file", name] if not Path(name).is_absolute() and ".." not in Path(name).parts:
            return Block("file", start + 1, code, name)
        case ["run"] if language in SHELL:
            commands = [line[2:] for line in code.splitlines() if line.startswith("$ ")]
            return Block("shell", start + 1, "\n".join(commands) + "\n" if commands else code)
        case _:
            raise BadDocument(
                f"line {start - 1}: `snippet: {directive}` is not one of: not run because …, file NAME, run"
            )


def run_document(path: Path) -> None:
    """Carry out the blocks of a document in the working folder. Whatever a block raises comes out."""
    text = path.read_text(encoding="utf-8")
    blocks = blocks_of(text)
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    # A real module: dataclasses, msgspec and pydantic look their annotations up in sys.modules.
    module = ModuleType(re.sub(r"\W", "_", path.stem))
    sys.modules[module.__name__] = module
    sys.path.insert(0, os.getcwd())
    for block in blocks:
        match block.action:
            case "file":
                Path(block.file).parent.mkdir(parents=True, exist_ok=True)
                Path(block.file).write_text(block.code, encoding="utf-8")
            case "shell":
                print(block.code, flush=True)
                subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=True, stdin=subprocess.DEVNULL)
            case _:
                run_python(block, module, str(path))


def run_python(block: Block, module: ModuleType, filename: str) -> None:
    before = dict(vars(module))
    # The blank lines put the code where it stands in the document, and so its tracebacks.
    code = compile("\n" * (block.line - 1) + block.code, filename, "exec", dont_inherit=True)
    exec(code, vars(module))  # noqa: S102 - the project's own documentation, not data
    for name, value in list(vars(module).items()):
        if not name.startswith("test_") or value is before.get(name) or not inspect.isfunction(value):
            continue
        if not inspect.signature(value).parameters:
            result = value()
            if inspect.iscoroutine(result):
                asyncio.run(result)


def run_in_a_process(document: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-W", "error", __file__, str(document)]
    # The commands of a shell block are those of the environment under test.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    environment.pop("STREAMS_LOG", None)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS])
def test_every_snippet_runs(document: Path, tmp_path: Path) -> None:
    done = run_in_a_process(document, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_shows_a_pipeline_that_runs() -> None:
    blocks = blocks_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [block for block in blocks if block.action in ("file", "python") and "App(" in block.code]


def document(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "guide.md"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_failing_snippet_is_reported_with_its_line(tmp_path: Path) -> None:
    guide = document(tmp_path, "# Guide\n\n```python\nx = 1\n```\n\ntext\n\n```python\ny = x + 1\nassert y == 3\n```\n")
    done = run_in_a_process(guide, tmp_path)
    assert done.returncode == 1
    assert 'guide.md", line 11' in done.stderr
    assert "assert y == 3" in done.stderr


def test_blocks_share_a_module_and_files_and_commands_are_there_for_the_next(tmp_path: Path) -> None:
    text = """\
        <!-- snippet: file shop/app.py -->
        ```python
        answer = 42
        ```

        ```python
        from __future__ import annotations
        from dataclasses import dataclass
        from shop.app import answer
        ```

        - in a list:

          ```python
          @dataclass
          class Order:
              amount: int = answer
          ```

        <!-- snippet: run -->
        ```console
        $ echo found > found.txt
        found
        ```

        ```sh
        exit 1
        ```

        ```python
        import pathlib, typing
        assert typing.get_type_hints(Order) == {"amount": int}
        assert pathlib.Path("found.txt").read_text() == "found\\n"
        ```
        """
    done = run_in_a_process(document(tmp_path, text), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("test", ["def test_it():\n    assert 1 == 2", "async def test_it():\n    raise ValueError"])
def test_a_test_that_a_snippet_defines_is_called(test: str, tmp_path: Path) -> None:
    done = run_in_a_process(document(tmp_path, f"```python\n{test}\n```\n"), tmp_path)
    assert done.returncode == 1
    assert "in test_it" in done.stderr


def test_a_command_that_fails_is_reported(tmp_path: Path) -> None:
    done = run_in_a_process(document(tmp_path, "<!-- snippet: run -->\n```sh\nfalse\ntrue\n```\n"), tmp_path)
    assert done.returncode == 1


def test_a_block_is_left_out_only_with_a_reason() -> None:
    block = "```python\n1 / 0\n```\n"
    assert blocks_of("<!-- snippet: not run because it shows an error -->\n" + block) == []
    assert blocks_of(block) == [Block("python", 2, "1 / 0\n")]
    for comment in ("not run", "not run because", "skip", "file", "file ../x.py", "file /x.py", "run"):
        with pytest.raises(BadDocument, match="line 1"):
            blocks_of(f"<!-- snippet: {comment} -->\n{block}")


@pytest.mark.parametrize(
    "text",
    [
        "<!-- snippet: run -->\ntext\n",
        "<!-- snippet: run -->\n",
        "text <!-- snippet: run -->\n",
        "```python\nx = 1\n",
        "````python\nx = 1\n```\n",
    ],
)
def test_a_comment_without_a_block_and_a_block_without_an_end_are_errors(text: str) -> None:
    with pytest.raises(BadDocument, match=r"line \d"):
        blocks_of(text)


if __name__ == "__main__":
    run_document(Path(sys.argv[1]).resolve())
