"""Verbs that need no other process: words, pictures, refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.cli.progress import RestoreProgress

Call = Callable[..., subprocess.CompletedProcess[str]]

VERBS = [
    "worker",
    "topology",
    "explain",
    "send",
    "tail",
    "topics",
    "tables",
    "lag",
    "agents",
    "reset",
    "new",
    "doctor",
    "dev",
]

SMALL = """\
from streams import App, agg, tumbling

app = App("small")
rides = app.stream("rides", on_error="dead_letter")
by_city = rides.filter(lambda ride: ride["ok"]).key_by(lambda ride: ride["city"])
by_city.window(tumbling("1h")).aggregate(rides=agg.count()).final().to("rides-per-hour")
"""

TEXT = """\
app small · version 1 · exactly once · 2 tasks

rides · 1 task
  read rides  dead letters: rides.dead-letters
  └─ rides: filter ok
     └─ key_by → small.rides.by-city.repartition

rides.by-city · 1 task
  read small.rides.by-city.repartition  dead letters: rides.dead-letters
  └─ window 1h rides.by-city.1h  [rides.by-city.1h]
     └─ final
        └─ write rides-per-hour
"""

MERMAID = """\
---
title: app small · version 1 · exactly once · 2 tasks
---
flowchart LR
  e0(["rides"])
  e1(["rides.dead-letters"])
  e2(["rides-per-hour"])
  e3(["small.rides.by-city.repartition"])
  subgraph g0["rides · 1 task"]
    e4["rides: filter ok"]
    e5["key_by"]
  end
  subgraph g1["rides.by-city · 1 task"]
    e6["window 1h rides.by-city.1h"]
    e6s0[("rides.by-city.1h")]
    e7["final"]
  end
  e0 --> e1
  e0 --> e4
  e4 --> e5
  e5 --> e3
  e3 --> e1
  e3 --> e6
  e6 --> e7
  e7 --> e2
  e6 -.- e6s0
  classDef internal stroke-dasharray:4 3
  class e3 internal
"""


@pytest.fixture
def small(project: Path) -> str:
    (project / "small.py").write_text(SMALL)
    return "small"


def error(ran: subprocess.CompletedProcess[str], status: int = 2) -> str:
    assert ran.returncode == status, ran.stderr
    [line] = ran.stderr.splitlines()
    assert line.startswith("streams: error: ")
    return line


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_lists_every_verb(call: Call) -> None:
    ran = call("--help")
    assert ran.returncode == 0
    assert [verb for verb in VERBS if f"  {verb} " not in ran.stdout] == []


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_its_help(call: Call, verb: str) -> None:
    ran = call(verb, "--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"Usage: streams {verb} ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["wrker"], "No such command 'wrker'"),
        (["worker"], "Missing option '--app'"),
        (["worker", "-A", "bank", "--port", "high"], "Invalid value for '--port'"),
        (["worker", "-A", "bank", "--stop-timeout", "soon"], "--stop-timeout: 'soon' isn't a duration"),
        (["tail"], "Missing argument"),
        (["topology", "-A", "bank", "--mermaid", "--svg", "x"], "ask for one of them"),
        (["agents"], "name the app"),
    ],
)
def test_wrong_usage_is_one_line_with_status_2(call: Call, arguments: list[str], says: str) -> None:
    assert says in error(call(*arguments))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_produced(shell: str) -> None:
    environment = {**os.environ, "_STREAMS_COMPLETE": f"source_{shell}"}
    ran = subprocess.run(
        [sys.executable, "-c", "from streams.cli import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "_STREAMS_COMPLETE" in ran.stdout
    assert "complete" in ran.stdout


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_topology_is_drawn_as_text(call: Call, small: str) -> None:
    assert call("topology", "-A", small).stdout == TEXT


def test_a_topology_is_drawn_as_mermaid(call: Call, small: str) -> None:
    assert call("topology", "-A", small, "--mermaid").stdout == MERMAID


def test_a_topology_is_drawn_as_svg(call: Call, small: str, project: Path) -> None:
    assert call("topology", "-A", small, "--svg", "out.svg").stdout == "wrote out.svg\n"
    picture = (project / "out.svg").read_text()
    assert call("topology", "-A", small, "--svg", "-").stdout == picture
    root = ET.fromstring(picture)
    names = {"s": "http://www.w3.org/2000/svg"}
    texts = [text.text for text in root.iterfind(".//s:text", names)]
    wanted = {"rides", "rides: filter ok", "key_by", "rides.by-city.1h", "rides-per-hour", "rides.by-city · 1 task"}
    assert wanted <= set(texts)
    boxes = [box.attrib for box in root.iterfind(".//s:rect", names) if box.get("class") != "band"]
    assert len(boxes) == 8
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    places = [tuple(float(box[name]) for name in ("x", "y", "width", "height")) for box in boxes]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in places)
    for index, (x, y, w, h) in enumerate(places):
        for x2, y2, w2, h2 in places[index + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, "two boxes lie over one another"
    assert len(root.findall("./s:path", names)) == MERMAID.count("-->")


def test_a_topology_that_runs_in_a_circle_is_drawn_as_well(call: Call, project: Path) -> None:
    (project / "circle.py").write_text(
        "from streams import App\napp = App('circle')\n"
        "work = app.topic('work')\napp.stream(work).filter(lambda v: v).to(work)\n"
    )
    ET.fromstring(call("topology", "-A", "circle", "--svg", "-").stdout)
    assert "write work" in call("topology", "-A", "circle").stdout


def test_a_picture_that_cant_be_written_is_one_line(call: Call, small: str) -> None:
    assert "can't be written" in error(call("topology", "-A", small, "--svg", "no/such/folder.svg"))


def test_explain_gives_every_edge_its_guarantee_and_reason(call: Call, small: str) -> None:
    plan = json.loads(call("explain", "-A", small, "--json").stdout)
    assert plan["asked"] == "exactly once"
    edges = {(edge["source"], edge["target"]): edge for edge in plan["edges"]}
    assert edges["rides", "tasks of rides"]["guarantee"] == "exactly once"
    assert edges["tasks of rides.by-city", "rides-per-hour"]["why"] == (
        "outputs, changelog and positions in one fenced commit"
    )
    assert {topic["kind"] for topic in plan["topics"]} == {"user", "repartition", "changelog"}
    assert [store["changelog"] for store in plan["stores"]] == ["small.rides.by-city.1h.changelog"]
    assert plan["warnings"] == []
    text = call("explain", "-A", small).stdout
    assert "outputs, changelog and positions in one fenced commit" in text


FOREIGN = """\
from streams import App

app = App("between")
app.stream("embedded:./plant/readings").filter(lambda r: r["hot"]).to(app.topic("embedded:./office/alerts"))
"""


def test_what_lies_on_another_log_is_drawn_and_explained_with_its_place(call: Call, project: Path) -> None:
    (project / "between.py").write_text(FOREIGN)
    plan = json.loads(call("explain", "-A", "between", "--json").stdout)
    edges = {(edge["source"], edge["target"]): edge for edge in plan["edges"]}
    assert edges["embedded:./plant/readings", "tasks of readings"]["guarantee"] == "exactly once"
    assert edges["tasks of readings", "between.alerts.outbox"]["guarantee"] == "exactly once"
    delivery = edges["between.alerts.outbox", "embedded:./office/alerts"]
    assert delivery["guarantee"] == "exactly once"
    assert delivery["why"].startswith("outbox; ")
    text = call("topology", "-A", "between").stdout
    assert "alerts.outbox · 1 task\n  read between.alerts.outbox\n  └─ deliver to embedded:./office/alerts" in text
    picture = call("topology", "-A", "between", "--svg", "-").stdout
    assert ">embedded:./plant/readings<" in picture
    assert ">embedded:./office/alerts<" in picture
    assert "embedded:./plant/readings" in call("topology", "-A", "between", "--mermaid").stdout


def test_a_reset_starts_deliveries_over_as_well(call: Call, project: Path) -> None:
    (project / "between.py").write_text(FOREIGN)
    plant, office = ["--log", "embedded:./plant"], ["--log", "embedded:./office"]
    call("send", "readings", '{"hot": true}', "--create", *plant)
    assert call("worker", "-A", "between", "--until-idle", "-q").returncode == 0
    assert len(call("tail", "alerts", "--json", *office).stdout.splitlines()) == 1
    lag = {row["topic"]: row for row in json.loads(call("lag", "-A", "between", "--json").stdout)}
    assert (lag["between.alerts.outbox"]["position"], lag["between.alerts.outbox"]["lag"]) == (1, 0)
    assert (lag["readings"]["position"], lag["readings"]["end"]) == (1, 1), "its end stands on the other log"
    assert call("reset", "-A", "between", "--yes").returncode == 0
    assert call("worker", "-A", "between", "--until-idle", "-q").returncode == 0
    assert len(call("tail", "alerts", "--json", *office).stdout.splitlines()) == 2


def test_explain_tells_at_least_once_from_exactly_once_by_choice(call: Call, project: Path) -> None:
    (project / "loose.py").write_text(SMALL.replace('App("small")', 'App("small", guarantee="at_least_once")'))
    plan = json.loads(call("explain", "-A", "loose", "--json").stdout)
    edges = {(edge["source"], edge["target"]): edge["guarantee"] for edge in plan["edges"]}
    assert edges["tasks of rides.by-city", "rides-per-hour"] == "at least once"
    assert edges["tasks of rides", "small.rides.by-city.repartition"] == "exactly once"


def test_explain_warns_of_what_may_surprise(call: Call, project: Path) -> None:
    (project / "risky.py").write_text(
        "from streams import App\napp = App('risky')\n"
        "short = app.topic('short', retention='1h')\napp.stream(short).peek(print).to('out')\n"
    )
    plan = json.loads(call("explain", "-A", "risky", "--log", "embedded:./x?durable=false", "--json").stdout)
    assert any("short keeps 1h" in warning for warning in plan["warnings"])
    assert any("power failure" in warning for warning in plan["warnings"])
    assert any(edge["guarantee"] == "at least once" and "peek" in edge["why"] for edge in plan["edges"])
    assert "gone with its process" in call("explain", "-A", "risky", "--log", "memory:").stdout


# ── logs that aren't there, records that don't fit ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [["tail", "t"], ["topics"], ["send", "t", "1"], ["lag", "-A", "bank"], ["tables", "-A", "bank", "balances"]],
)
def test_a_tool_on_a_log_that_isnt_there_says_so_and_makes_none(
    call: Call, project: Path, arguments: list[str]
) -> None:
    assert "there is no log in ./.streams" in error(call(*arguments))
    assert not (project / ".streams").exists()


def test_a_log_in_memory_cant_be_looked_into(call: Call) -> None:
    assert "in memory" in error(call("topics", "--log", "memory:"))


def test_the_log_is_found_by_option_app_and_environment(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("send", "a", "1", "--create", "--log", "embedded:./one").returncode == 0
    assert call("tail", "a", "--log", "embedded:./one").stdout.endswith("  -  1\n")
    monkeypatch.setenv("STREAMS_LOG", "embedded:./two")
    assert call("send", "b", "2", "--create").returncode == 0
    assert (project / "two").is_dir()
    assert [each["topic"] for each in json.loads(call("topics", "--json").stdout)] == ["b"]


def test_a_record_that_doesnt_fit_the_apps_topic_isnt_sent(call: Call) -> None:
    assert call("send", "transfers", "-A", "bank", '{"account": "ann", "amount": 5}').returncode == 0
    line = error(call("send", "transfers", "-A", "bank", '{"account": "ann"}'))
    assert "doesn't fit topic transfers" in line
    assert "amount" in line
    assert len(call("tail", "transfers", "--json").stdout.splitlines()) == 1


def test_stdin_is_sent_line_by_line_with_keys_where_they_are_parted(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a=1\r\n\nb=x=y\n")))
    assert json.loads(call("send", "t", "-", "--create", "-s", "=", "--json").stdout) == {"topic": "t", "sent": 2}
    found = [json.loads(line) for line in call("tail", "t", "--json").stdout.splitlines()]
    assert [(each["key"], each["value"]) for each in found] == [("a", 1), ("b", "x=y")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a=1\nb\n")))
    assert "line 2" in error(call("send", "t", "-s", "="))


def test_a_tombstone_is_sent_and_shown(call: Call) -> None:
    assert call("send", "t", "--create", "--key", "k", "--delete").returncode == 0
    assert call("tail", "t").stdout.rstrip().endswith("k  (deleted)")
    assert json.loads(call("tail", "t", "--json").stdout)["value"] is None
    assert "takes a --key and no value" in error(call("send", "t", "v", "--delete"))


def test_a_tail_begins_where_it_is_told_to(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"".join(b"%d\n" % n for n in range(100)))))
    call("send", "t", "-", "--create")

    def values(*arguments: str) -> list[int]:
        ran = call("tail", "t", "--json", *arguments)
        assert ran.returncode == 0, ran.stderr
        return [json.loads(line)["value"] for line in ran.stdout.splitlines()]

    assert values() == list(range(90, 100))
    assert values("-n", "3") == [97, 98, 99]
    assert values("-n", "0") == []
    assert values("-n", "500") == list(range(100))
    assert values("--from", "start", "-n", "2") == [0, 1]
    assert values("--from", "95") == [95, 96, 97, 98, 99]
    assert values("--from", "end") == []
    assert values("--partition", "0", "-n", "1") == [99]
    assert "holds the offsets 0 to 100" in error(call("tail", "t", "--from", "101"))
    assert "give start, end or an offset" in error(call("tail", "t", "--from", "noon"))
    assert "not 7" in error(call("tail", "t", "--partition", "7"))


def test_bytes_that_are_no_text_are_shown_as_such(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n")))
    call("send", "t", "-", "--create")
    assert call("tail", "t").stdout.rstrip().endswith("0xfffe")
    assert json.loads(call("tail", "t", "--json").stdout)["value"] == {"base64": "//4="}


def test_internal_topics_arent_sent_to(call: Call) -> None:
    assert call("worker", "-A", "bank", "--until-idle", "-q").returncode == 0
    line = error(call("send", "bank.balances.changelog", "x"))
    assert "internal topic (changelog)" in line


def test_agents_are_listed(call: Call) -> None:
    [agent] = json.loads(call("agents", "-A", "bank", "--json").stdout)
    assert (agent["agent"], agent["tables"], agent["writes"]) == ("settle", ["balances"], ["statements"])
    assert "settle" in call("agents", "-A", "bank").stdout


def test_nobody_is_asked_where_no_worker_runs(call: Call) -> None:
    call("send", "transfers", "-A", "bank", '{"account": "ann", "amount": 5}')
    line = error(call("agents", "ask", "settle", '{"account": "ann", "amount": 5}', "-A", "bank"))
    assert "no worker runs app bank" in line


def test_a_reset_of_what_never_ran_says_so(call: Call, project: Path) -> None:
    assert "nothing to reset" in error(call("reset", "-A", "bank", "--yes"))
    assert not (project / ".streams").exists()


# ── new, doctor, progress ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_project_passes_its_own_tests(call: Call, project: Path) -> None:
    assert call("new", "flight-desk").returncode == 0
    folder = project / "flight-desk"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
    assert "streams worker -A flight_desk.app" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["1st", "a b", "tests", "streams"])
def test_a_project_name_that_wont_do_is_refused(call: Call, project: Path, name: str) -> None:
    assert "can't name a project" in error(call("new", name))
    assert not (project / name).exists()


def test_a_new_project_never_writes_over_what_is_there(call: Call, project: Path) -> None:
    (project / "mine").mkdir()
    assert "is there already" in error(call("new", "mine"))
    assert list((project / "mine").iterdir()) == []


def test_the_doctor_says_one_line_for_each_check(call: Call, project: Path) -> None:
    ran = call("doctor")
    assert ran.returncode == 0
    assert all(line[:4].strip() in ("ok", "warn") for line in ran.stdout.splitlines())
    checks = {check["name"]: check for check in json.loads(call("doctor", "--json").stdout)}
    assert {"python", "rocksdict", "log", "log folder", "disk", "open files"} <= checks.keys()
    assert not (project / ".streams").exists(), "looking makes nothing"


def test_the_doctor_fails_where_the_log_cant_be(call: Call, project: Path) -> None:
    ran = call("doctor", "--log", "embedded:./bank.py/log", "--json")
    assert ran.returncode == 1
    assert {check["name"] for check in json.loads(ran.stdout) if check["result"] == "fail"} == {"log folder"}
    assert call("doctor", "--log", "nonsense:").returncode == 1


def test_a_restore_is_told_in_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = RestoreProgress(terminal=False, clock=lambda: now[0], worth_showing=10)
    for second, done in enumerate((0, 100, 200, 300, 400, 500)):
        now[0] = float(second)
        progress("t-0", done, 500)
    progress("small-0", 1, 5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "streams: restoring t-0: 200 of 500 records, 100/s, 3 s left"
    assert lines[-1] == "streams: restoring t-0: 500 of 500 records, 100/s"
    assert len(lines) == 3


def test_a_restore_draws_a_bar_on_a_terminal_and_takes_it_away(capsys: pytest.CaptureFixture[str]) -> None:
    with RestoreProgress(terminal=True, worth_showing=10) as progress:
        progress("t-0", 5, 100)
        assert progress.drawing
        progress("t-0", 100, 100)
        assert not progress.drawing
