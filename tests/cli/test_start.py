"""What a start loads: ``import streams``, and each verb, only what it uses.

Nothing here is measured: which modules are there at the end is what a start costs, and is the same on every machine.
The verbs run one after the other in forks of one process that has loaded nothing yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.cli.program import VERBS, Later, command

APP = """\
from streams import App

app = App("shop")
orders = app.stream(app.topic("orders", key=str, value=dict))
counts = app.table("counts", key=str, value=int, default=int)


@app.agent(orders)
async def count(found):
    async for order in found:
        counts["all"] += 1
        yield 1
"""

# Runs each command line in a fork, with its output thrown away; prints, of each, its status and what it has loaded.
FORKS = """\
import json, os, sys

for line in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        out = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = 0
        try:
            if line == ["import streams"]:
                import streams
            else:
                from streams.cli import main

                main(line)
        except SystemExit as ended:
            status = ended.code
        os.write(writing, json.dumps([status, sorted({name.split(".")[0] for name in sys.modules})]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        print(answer.read().decode())
    os.waitpid(child, 0)
"""

# Each takes longer to import than an interpreter takes to start, or comes with an extra that may not be there.
HEAVY = {
    *("aiohttp", "aiokafka", "attr", "confluent_kafka", "croniter", "google", "httpx2", "hypothesis", "matplotlib"),
    *("nats", "prometheus_client", "pydantic", "pytest", "rich", "wsproto", "yarl"),
}
OF_A_LOG = {"asyncio", "msgspec", "orjson", "rocksdict", "uvloop"}
LINES = [
    ["import streams"],
    ["--help"],
    ["--version"],
    ["worker", "--help"],
    ["topology", "-A", "shop"],
    ["explain", "-A", "shop"],
    ["send", "orders", '{"n": 1}', "--key", "a", "-A", "shop", "--create"],
    ["worker", "-A", "shop", "--until-idle"],
    ["topics"],
    ["tail", "orders"],
    ["tables", "-A", "shop", "counts"],
    ["lag", "-A", "shop"],
    ["agents", "-A", "shop"],
    ["reset", "-A", "shop", "--yes"],
    ["doctor"],
    ["new", "made"],
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """By command line: the top-level names of all modules that were there when it had ended."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "shop.py").write_text(APP)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
    ran = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(LINES)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    found = dict(zip((" ".join(line) for line in LINES), map(json.loads, ran.stdout.splitlines()), strict=True))
    said = (folder / "said").read_text()
    assert {line: status for line, (status, _) in found.items() if status != 0} == {}, said
    assert Path(folder / ".streams").is_dir(), said
    return {line: set(names) for line, (_, names) in found.items()}


def test_streams_and_its_help_load_no_package_of_others_but_the_parser(loaded: dict[str, set[str]]) -> None:
    assert loaded["import streams"] & (HEAVY | OF_A_LOG | {"typer"}) == set()
    for line in ("--help", "--version"):
        assert loaded[line] & (HEAVY | OF_A_LOG) == set(), line
    assert "typer" in loaded["--help"], "nothing was looked at"


def test_no_verb_loads_what_it_does_not_use(loaded: dict[str, set[str]]) -> None:
    assert "rocksdict" in loaded["worker -A shop --until-idle"], "no log was opened"
    assert {line: found for line, names in loaded.items() if (found := names & HEAVY)} == {}


@pytest.mark.parametrize("name", VERBS)
def test_the_list_of_verbs_says_what_each_verb_says_of_itself(name: str) -> None:
    # The list is written down, so that no verb has to be imported for it.
    listed = command().commands[name]
    assert isinstance(listed, Later)
    for limit in (20, 45, 66, 1000):
        assert listed.get_short_help_str(limit) == listed.verb().get_short_help_str(limit)
