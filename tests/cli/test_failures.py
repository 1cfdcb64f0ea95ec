"""One line for every error."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from streams.cli.failures import describe, status_of, where
from streams.core.duration import parse_duration_ms
from streams.errors import ConfigurationError, LogLocked, RecordFailed, StreamsError


def raised_in(path: Path, code: str, name: str) -> Exception:
    """What a function in a file of its own raises."""
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the code above raises
        module.fail()
    return caught.value


def test_what_was_raised_on_purpose_is_its_message_on_one_line() -> None:
    assert describe(StreamsError("two\n  lines")) == "two lines"


def test_what_was_not_names_the_users_innermost_line(tmp_path: Path) -> None:
    code = "import json\n\ndef fail():\n    json.loads('{')\n"
    error = raised_in(tmp_path / "users.py", code, "users")
    assert where(error) == f"{tmp_path / 'users.py'}:4", "not the line in the standard library"
    assert describe(error).startswith(f"{tmp_path / 'users.py'}:4: JSONDecodeError: ")
    assert describe(error).endswith("(STREAMS_TRACEBACK=1 shows the traceback)")


def test_a_fault_of_our_own_names_our_line() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_duration_ms("soon")
    trimmed = caught.value.__traceback__
    assert trimmed is not None
    error = RuntimeError("odd").with_traceback(trimmed.tb_next)
    assert "core/duration.py:" in where(error)


def test_compiled_code_is_nobodys_own_file() -> None:
    msgspec = pytest.importorskip("msgspec")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is msgspec's
        msgspec.json.decode(b"{")
    assert where(caught.value).partition(":")[0].endswith("test_failures.py")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigurationError("x"), 2),
        (LogLocked("x"), 2),
        (StreamsError("x"), 1),
        (RecordFailed("x", topic="t", partition=0, offset=0, operator="o"), 1),
        (ValueError("x"), 1),
    ],
)
def test_wrong_settings_are_told_from_failures_by_the_status(error: Exception, status: int) -> None:
    assert status_of(error) == status
