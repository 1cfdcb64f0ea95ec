"""Reading tables of tasks that run in other workers.

    here? ── yes ──▶ read it
      └ no ──▶ who runs the task, by the last assignment ──▶ POST /peer/… to that worker ──▶ its committed state
                   └ unknown, gone, or it has just let go ──▶ again, for about two seconds; then LogUnavailable

What must live here: finding and asking the owner.  What must not: answering (``runtime.web``), which keys and values a
table has (``runtime.tables``).

The answer is what the owner has committed, as for every read from outside of a task.  A worker that was cut off and
whose tasks others have taken over answers from what it had until its own clock says that its membership is over (the
session time-out), when it lets go of them.  An idle task isn't looked after more closely: to ask the log again and
again whether it is still ours would cost a read a task, and the fence in its commits keeps the data safe anyhow.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from streams.core.state import KeyedState, StateSpec
from streams.errors import ConfigurationError, LogUnavailable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["TOKEN_VARIABLE", "PeerRead", "PeerReads", "PeerScan", "cluster_token", "scan_state"]

TOKEN_VARIABLE = "STREAMS_CLUSTER_TOKEN"
PAUSES_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5)
"""Between two tries: a task that moves is back at work within about as long."""
TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 1.0

T = TypeVar("T")
Entries = list[tuple[bytes, bytes]]


class PeerRead(msgspec.Struct, frozen=True):
    """Ask for the committed value of a key.  app, log_id: who is meant; a port may be somebody else's by now."""

    app: str
    log_id: str
    task: str
    state: str
    key: bytes


class PeerScan(msgspec.Struct, frozen=True):
    """Ask for up to ``limit`` committed entries with first <= key < end, in order of keys."""

    app: str
    log_id: str
    task: str
    state: str
    first: bytes
    end: bytes | None
    limit: int


def cluster_token() -> str:
    """What the workers of an app ask of each other, when it was given to them; else ""."""
    return os.environ.get(TOKEN_VARIABLE, "")


def scan_state(state: KeyedState[Any], first: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Any]]:
    """Up to ``limit`` committed entries."""
    scan = state.committed_scan(first, end)
    try:
        return list(islice(scan, limit))
    finally:
        close = getattr(scan, "close", None)  # a store's iterator that stays open would hold its files
        if close is not None:
            close()


class PeerReads:
    """Committed state, wherever its task runs.

    held: the state of a task that runs here, None of one that doesn't.  spec: of a state, by its name.
    log_id: the log's identity, once it is open.  addresses: by task, where its owner answers; kept up to date by the
    worker.  shared: False for a log that one process has for itself, where there is nobody else to ask.
    """

    def __init__(
        self,
        app: str,
        log_id: Callable[[], str],
        held: Callable[[str, str], KeyedState[Any] | None],
        spec: Callable[[str], StateSpec],
        *,
        shared: bool,
    ) -> None:
        self.addresses: Mapping[str, str] = {}
        self._app = app
        self._log_id = log_id
        self._held = held
        self._spec = spec
        self._shared = shared
        self._session: aiohttp.ClientSession | None = None

    async def read(self, task: str, state: str, key: bytes) -> Any:
        """The committed value of a key; None where there is none.  Raises LogUnavailable, ConfigurationError."""

        def here(held: KeyedState[Any]) -> Any:
            return held.committed(key)

        async def there(address: str) -> Any:
            asked = PeerRead(self._app, self._log_id(), task, state, key)
            found = msgspec.msgpack.decode(await self._post(address, "/peer/read", asked), type=bytes | None)
            return None if found is None else self._spec(state).decode(found)

        return await self._either(task, state, here, there)

    async def scan(
        self, task: str, state: str, first: bytes, end: bytes | None, limit: int
    ) -> Sequence[tuple[bytes, Any]]:
        """Up to ``limit`` committed entries in order of keys.  Raises as ``read``."""

        def here(held: KeyedState[Any]) -> Sequence[tuple[bytes, Any]]:
            return scan_state(held, first, end, limit)

        async def there(address: str) -> Sequence[tuple[bytes, Any]]:
            asked = PeerScan(self._app, self._log_id(), task, state, first, end, limit)
            found = msgspec.msgpack.decode(await self._post(address, "/peer/scan", asked), type=Entries)
            decode = self._spec(state).decode
            return [(key, decode(value)) for key, value in found]

        return await self._either(task, state, here, there)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _either(
        self, task: str, state: str, here: Callable[[KeyedState[Any]], T], there: Callable[[str], Any]
    ) -> T:
        why = ""
        for pause_s in (*PAUSES_S, None):
            held = self._held(task, state)
            if held is not None:
                return here(held)
            if not self._shared:
                break
            address = self.addresses.get(task)
            try:
                if address is not None:
                    found: T = await there(address)
                    return found
                why = "; no worker that can be reached runs it"
            except LogUnavailable as error:
                why = f" ({error})"
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise LogUnavailable(f"task {task} doesn't run here now, and it holds {state}{why}; try again in a moment")

    async def _post(self, address: str, path: str, message: PeerRead | PeerScan) -> bytes:
        import aiohttp  # here: a worker that has all tasks, and every test of an app, does without

        if self._session is None:
            token = cluster_token()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
            self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
        try:
            async with self._session.post(f"http://{address}{path}", data=msgspec.msgpack.encode(message)) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise LogUnavailable(
                f"its worker at {address} doesn't answer: {type(error).__name__}; workers on several machines need "
                f"--host, and --advertise where that isn't the address that others use"
            ) from error
        if response.status == 401:
            raise ConfigurationError(
                f"the worker at {address} doesn't take our token; give all workers of app {self._app} the same "
                f"${TOKEN_VARIABLE}"
            )
        if response.status != 200:
            raise LogUnavailable(f"its worker at {address} answers with HTTP status {response.status}")
        return body
