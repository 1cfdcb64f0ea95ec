"""Where a worker's stores lie, when several workers of one machine may share a log.

    <root>/<place>/place.lock     held with flock by the worker whose place it is, for its life
    <root>/<place>/<task>/        a store

What must live here: giving each process a folder of its own.  What must not: what a store is (``runtime.stores``).

A worker takes the first place that nobody holds: 0, 1, 2 …  So one that comes back finds the stores of a former life,
and its membership says which tasks those are.  A worker with a name has the place of that name.  The kernel drops the
lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from streams.errors import ConfigurationError

__all__ = ["LOCK", "check_worker_name", "every_place", "is_shared", "place"]

LOCK = "place.lock"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def is_shared(log_url: str) -> bool:
    """Whether several processes can work on this log at the same time."""
    return log_url.partition(":")[0] not in ("embedded", "memory")


def check_worker_name(name: str) -> str:
    """``name``; raises ConfigurationError for what can't be the name of a worker (it names a folder as well)."""
    if name and not _NAME.fullmatch(name):
        raise ConfigurationError(f"worker name {name!r}: use up to 100 letters, digits, dots, dashes and underscores")
    return name


@contextmanager
def place(root: Path, name: str = "") -> Iterator[Path]:
    """A folder below ``root`` that is this process's own inside of the block.

    Raises ConfigurationError where it can't be made, or where another process of this machine has that name.
    """
    folders = [root / f"worker-{name}"] if name else (root / str(number) for number in itertools.count())
    for folder in folders:
        descriptor = _lock(folder)
        if descriptor is not None:
            try:
                yield folder
            finally:
                os.close(descriptor)
            return
    raise ConfigurationError(
        f"another worker named {name!r} runs on this machine, in {root / f'worker-{name}'}; give each worker its own "
        f"name"
    )


@contextmanager
def every_place(root: Path) -> Iterator[None]:
    """Hold every place that there is, so that no worker of this machine uses one inside of the block.

    Raises ConfigurationError, naming the folder, where one is in use.
    """
    with ExitStack() as held:
        for folder in sorted(each.parent for each in root.glob(f"*/{LOCK}")):
            descriptor = _lock(folder)
            if descriptor is None:
                raise ConfigurationError(f"a worker of this machine uses {folder}; stop it first")
            held.callback(os.close, descriptor)
        yield


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the lock of a place; None while another process has it."""
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # a reset has removed the folder in between
        except OSError as error:
            raise ConfigurationError(
                f"{folder}: stores can't be kept there ({error.strerror}); choose another folder with App(state_dir=…)"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Else two processes might hold two files of one name, when a reset removed the first of them.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
