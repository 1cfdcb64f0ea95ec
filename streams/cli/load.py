"""``-A``: from the name of a module, or a file, to the App in it.

    shop.app          the module's only App, or the one called ``app``
    shop.app:orders   that attribute, or the App that it returns when it is a function
    flows/orders.py   the same by file

A function called ``app`` counts as well where a module has no App.  One with a parameter is given what stands in the
TOML file that ``--config`` names, as a dict.

What must live here: finding and importing.  What must not: running the app.  The current folder is importable, as for
``python -m``.  Whatever goes wrong is one line that says which file and line.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from streams.cli.failures import HINT, one_line, wants_traceback, where
from streams.errors import ConfigurationError, StreamsError

if TYPE_CHECKING:
    from streams.dsl.app import App

__all__ = ["load_app", "load_optional"]


def load_app(name: str, config: str | None = None) -> App:
    """Import the App that ``-A name`` means.  config: the file that it is made from.  Raises ConfigurationError."""
    from streams.dsl.app import App

    location, attribute = _split(name)
    module = _import(name, location)
    found = _attribute(name, module, attribute) if attribute else _only_app(name, module)
    if callable(found) and not isinstance(found, type):
        found = _made(name, found, config)
    elif config is not None:
        raise ConfigurationError(f"--config {config}: -A {name} is an app by itself, and made from no file")
    if not isinstance(found, App):
        raise ConfigurationError(f"-A {name}: {attribute} is a {type(found).__name__}, not an App{_offer(module)}")
    return found


def load_optional(name: str | None, config: str | None) -> App | None:
    """As ``load_app``, for verbs that do without an app.  Raises ConfigurationError."""
    if name is None and config is not None:
        raise ConfigurationError(f"--config {config}: it says what an app is made from; name the app with -A")
    return None if name is None else load_app(name, config)


def _split(name: str) -> tuple[str, str]:
    location, colon, attribute = name.rpartition(":")
    return (location, attribute) if colon and location else (name, "")


def _import(name: str, location: str) -> ModuleType:
    try:
        if location.endswith(".py") or os.sep in location:
            return _import_file(name, Path(location))
        return _import_module(name, location)
    except ConfigurationError as error:
        if str(error).startswith("-A "):
            raise
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> ConfigurationError:
    if isinstance(error, SystemExit):
        what = f"the module ended the program (exit {error.code}); put that behind `if __name__ == '__main__':`"
    elif isinstance(error, StreamsError):
        what = str(error)
    elif isinstance(error, SyntaxError):
        what = f"{type(error).__name__}: {error.msg}"
    else:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = "" if wants_traceback() or isinstance(error, StreamsError | SyntaxError) else f" ({HINT})"
    return ConfigurationError(one_line(f"-A {name}: {where(error)}: {what}{hint}"))


def _import_module(name: str, location: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if not all(part.isidentifier() for part in location.split(".")):
        raise ConfigurationError(f"-A {name}: {location!r} is neither a module nor a file; write -A shop.app or app.py")
    importlib.invalidate_caches()
    try:
        return importlib.import_module(location)
    except ModuleNotFoundError as error:
        if error.name is not None and (location == error.name or location.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"-A {name}: there is no module {error.name!r}, neither in {here} nor installed; run from the folder "
                f"that holds it, or name a file as in -A {location.rpartition('.')[2]}.py"
            ) from None
        raise


def _import_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"-A {name}: there is no file {path}; name a module or a .py file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"_streams_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"-A {name}: {path} is not a Python file; name a module or a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # classes of the module look their annotations up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _attribute(name: str, module: ModuleType, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"-A {name}: {module.__name__} has no {attribute!r}{_offer(module)}")
        found = getattr(found, part)
    return found


def _made(name: str, make: Callable[..., Any], config: str | None) -> Any:
    """What a function makes, of what stands in a file if it has a parameter for that."""
    wants = bool(inspect.signature(make).parameters)
    if wants and config is None:
        raise ConfigurationError(f"-A {name}: it is made from a file; name one with --config FILE")
    if config is not None and not wants:
        raise ConfigurationError(f"--config {config}: -A {name} is a function without a parameter for it")
    given = [] if config is None else [_read(config)]
    try:
        return make(*given)
    except ConfigurationError as error:
        raise _broken(name, error) if config is None else ConfigurationError(f"{config}: {error}") from error
    except Exception as error:
        raise _broken(name, error) from error


def _read(config: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(Path(config).read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--config {config}: it can't be read ({error.strerror})") from error
    except ValueError as error:  # TOML's own error, and that of text that isn't UTF-8
        raise ConfigurationError(f"--config {config}: it isn't TOML: {error}") from error


def _apps(module: ModuleType) -> dict[str, Any]:
    from streams.dsl.app import App

    apps: dict[int, tuple[str, Any]] = {}
    for attribute, value in vars(module).items():
        if isinstance(value, App):
            apps.setdefault(id(value), (attribute, value))
    return dict(apps.values())


def _offer(module: ModuleType) -> str:
    apps = _apps(module)
    return f"; it has {', '.join(f':{attribute}' for attribute in apps)}" if apps else "; it has no App at all"


def _only_app(name: str, module: ModuleType) -> Any:
    apps = _apps(module)
    if "app" in apps:
        return apps["app"]
    if len(apps) == 1:
        return next(iter(apps.values()))
    if not apps and callable(made := getattr(module, "app", None)):
        return made
    if not apps:
        raise ConfigurationError(
            f"-A {name}: {module.__name__} has no App; make one with "
            f"`app = App({module.__name__.split('.')[-1]!r})`, or name another module"
        )
    raise ConfigurationError(
        f"-A {name}: {module.__name__} has several Apps ({', '.join(apps)}); choose one, as in "
        f"-A {name}:{next(iter(apps))}"
    )
