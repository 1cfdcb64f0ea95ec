"""``-A``: what is found, and one line for whatever goes wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., subprocess.CompletedProcess[str]]


def refusal(ran: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command says."""
    assert ran.returncode == 2
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert line.startswith("streams: error: ")
    return line.removeprefix("streams: error: ")


def test_an_app_is_found_by_module_attribute_and_file(call: Call, project: Path) -> None:
    for name in ("bank", "bank:app", "bank.py", "./bank.py:app"):
        assert call("topology", "-A", name).stdout.startswith("app bank · ")


def test_an_app_is_found_in_a_package_below_the_current_folder(call: Call, project: Path) -> None:
    (project / "shop").mkdir()
    (project / "shop" / "__init__.py").write_text("")
    (project / "shop" / "orders.py").write_text("from streams import App\norders = App('orders')\norders.stream('o')\n")
    assert call("topology", "-A", "shop.orders").stdout.startswith("app orders · ")


def test_a_function_that_makes_an_app_is_called(call: Call, project: Path) -> None:
    (project / "made.py").write_text(
        "from streams import App\ndef make():\n    app = App('made')\n    app.stream('o')\n    return app\n"
    )
    assert call("topology", "-A", "made:make").stdout.startswith("app made · ")


def test_an_unknown_module_is_named_with_where_it_was_looked_for(call: Call, project: Path) -> None:
    line = refusal(call("worker", "-A", "nowhere.at_all"))
    assert "there is no module 'nowhere'" in line
    assert str(project) in line


def test_a_missing_submodule_is_told_from_its_package(call: Call, project: Path) -> None:
    (project / "pack").mkdir()
    (project / "pack" / "__init__.py").write_text("")
    assert "there is no module 'pack.app'" in refusal(call("worker", "-A", "pack.app"))


def test_a_module_that_imports_what_isnt_there_is_shown_by_file_and_line(call: Call, project: Path) -> None:
    (project / "needy.py").write_text("import os\nimport not_installed_anywhere\n")
    line = refusal(call("worker", "-A", "needy"))
    assert "needy.py:2: ModuleNotFoundError: No module named 'not_installed_anywhere'" in line


def test_an_error_inside_of_a_module_is_shown_by_file_and_line(call: Call, project: Path) -> None:
    (project / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    assert "broken.py:2: ZeroDivisionError: division by zero" in refusal(call("worker", "-A", "broken"))
    assert "broken.py:2: ZeroDivisionError" in refusal(call("worker", "-A", "broken.py"))


def test_a_syntax_error_is_shown_by_file_and_line(call: Call, project: Path) -> None:
    (project / "typo.py").write_text("x = 1\ndef f(:\n")
    assert "typo.py:2: SyntaxError" in refusal(call("worker", "-A", "typo"))


def test_a_wrong_declaration_is_shown_by_file_and_line(call: Call, project: Path) -> None:
    (project / "wrong.py").write_text("from streams import App\napp = App('x', commit_interval='soon')\n")
    line = refusal(call("worker", "-A", "wrong"))
    assert "wrong.py:2: commit_interval: 'soon' isn't a duration" in line


def test_a_module_that_ends_the_program_is_told_how_not_to(call: Call, project: Path) -> None:
    (project / "script.py").write_text("import sys\nsys.exit(0)\n")
    assert "__main__" in refusal(call("worker", "-A", "script"))


def test_a_module_without_an_app_says_how_to_make_one(call: Call, project: Path) -> None:
    (project / "empty.py").write_text("x = 1\n")
    assert "empty has no App; make one with `app = App('empty')`" in refusal(call("worker", "-A", "empty"))


def test_a_module_with_two_apps_wants_a_choice(call: Call, project: Path) -> None:
    (project / "two.py").write_text("from streams import App\none, other = App('one'), App('other')\n")
    assert "several Apps (one, other)" in refusal(call("worker", "-A", "two"))


def test_an_attribute_that_isnt_there_or_is_no_app_offers_those_that_are(call: Call, project: Path) -> None:
    assert "bank has no 'ap'; it has :app" in refusal(call("worker", "-A", "bank:ap"))
    assert "balances is a Table, not an App; it has :app" in refusal(call("worker", "-A", "bank:balances"))


@pytest.mark.parametrize("name", ["missing.py", "no/such/file.py"])
def test_a_file_that_isnt_there_is_named(call: Call, project: Path, name: str) -> None:
    assert f"there is no file {name}" in refusal(call("worker", "-A", name))


def test_what_can_be_neither_module_nor_file_is_refused(call: Call, project: Path) -> None:
    assert "neither a module nor a file" in refusal(call("worker", "-A", "shop app"))


def test_the_traceback_is_there_for_the_asking(call: Call, project: Path) -> None:
    (project / "broken.py").write_text("1 / 0\n")
    hidden = call("worker", "-A", "broken")
    assert "Traceback" not in hidden.stderr
    assert "STREAMS_TRACEBACK=1" in hidden.stderr
    shown = call("--traceback", "worker", "-A", "broken")
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("streams: error: -A broken: broken.py:1: ZeroDivisionError")


MADE = """
from streams import App
def app(config):
    made = App(config['name'])
    made.stream(config['reads'])
    return made
"""


def test_an_app_is_made_from_a_file_by_the_function_called_app(call: Call, project: Path) -> None:
    (project / "made.py").write_text(MADE)
    (project / "made.toml").write_text("name = 'north'\nreads = 'orders'\n")
    for verb in ("topology", "explain"):
        assert call(verb, "-A", "made", "--config", "made.toml").stdout.startswith("app north")


def test_what_is_wrong_with_the_file_that_an_app_is_made_from_is_one_line(call: Call, project: Path) -> None:
    (project / "made.py").write_text(MADE)
    (project / "made.toml").write_text("name = ")
    assert refusal(call("topology", "-A", "made")) == "-A made: it is made from a file; name one with --config FILE"
    assert "--config nowhere.toml: it can't be read" in refusal(
        call("topology", "-A", "made", "--config", "nowhere.toml")
    )
    assert "--config made.toml: it isn't TOML" in refusal(call("topology", "-A", "made", "--config", "made.toml"))
    assert "made from no file" in refusal(call("topology", "-A", "bank", "--config", "made.toml"))
    (project / "made.toml").write_text("name = 'a b'")
    assert refusal(call("topology", "-A", "made", "--config", "made.toml")).startswith("made.toml: 'a b' can't name")
    (project / "made.toml").write_text("name = 'north'")
    assert "made.py:5: KeyError: 'reads'" in refusal(call("topology", "-A", "made", "--config", "made.toml"))


def test_a_file_without_the_app_that_is_made_from_it_is_refused(call: Call, project: Path) -> None:
    for verb in (["topics"], ["tail", "orders"], ["send", "orders", "1"]):
        assert "name the app with -A" in refusal(call(*verb, "--config", "made.toml"))
