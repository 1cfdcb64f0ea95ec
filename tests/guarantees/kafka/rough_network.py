"""A broker behind a rough network: connections break before a request or before its answer, and some stand still.

What must live here: the proxy and the broker that names it to its clients.  What must not: what is expected then.

Workers use the listener that leads through the proxy; the tests' own clients, and the broker itself, the other one.  An
answer that is lost is the hard case: the request was carried out, and whoever sent it doesn't know.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from types import TracebackType

from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.ports import free_port

CHUNK = 2**16
PATIENCE_S = 10.0
FAULTS = ("request lost", "answer lost", "answer late")


class ProxiedBroker(KafkaBroker):
    """``bootstrap`` is the way without the proxy; ``rough`` the one through it."""

    def __init__(self) -> None:
        self.behind, self.front = free_port(), free_port()
        super().__init__()

    @property
    def rough(self) -> str:
        return f"127.0.0.1:{self.front}"

    def _own_settings(self) -> dict[str, str]:
        own = super()._own_settings()
        return {
            **own,
            "listeners": f"{own['listeners']},ROUGH://127.0.0.1:{self.behind}",
            "advertised.listeners": f"{own['advertised.listeners']},ROUGH://{self.rough}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,ROUGH:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }


class _Connection:
    """Two pumps; ``fault`` is what happens to the next chunk of a direction."""

    def __init__(self) -> None:
        self.fault = ""
        self.stall_s = 0.0
        self.done = asyncio.Event()


class RoughNetwork:
    """The proxy, on a thread of its own.  ``trouble`` lets one fault happen to some connection."""

    def __init__(self, broker: ProxiedBroker, chance: random.Random) -> None:
        self.happened: Counter[str] = Counter()
        self._broker = broker
        self._chance = chance
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> RoughNetwork:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def trouble(self) -> None:
        """To the next request or answer of a connection by chance: lost with its connection, or late."""
        fault = self._chance.choice([*FAULTS, "answer lost"])
        stall_s, choice = self._chance.uniform(0.1, 3.0), self._chance.random()
        self._loop.call_soon_threadsafe(self._arm, fault, stall_s, choice)

    def _arm(self, fault: str, stall_s: float, choice: float) -> None:
        free = [each for each in self._connections if not each.fault]
        if free:
            chosen = free[int(choice * len(free))]
            chosen.fault, chosen.stall_s = fault, stall_s

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._broker.front)

    async def _close(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.done.set()
        while self._connections:  # noqa: ASYNC110 - each goes in a turn or two
            await asyncio.sleep(0.01)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            broker, on = await asyncio.open_connection("127.0.0.1", self._broker.behind)
        except OSError:
            back.close()
            return
        connection = _Connection()
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, client, on, "request")),
            asyncio.create_task(self._pump(connection, broker, back, "answer")),
        ]
        await connection.done.wait()
        self._connections.discard(connection)
        for pump in pumps:
            pump.cancel()
        on.close()
        back.close()

    async def _pump(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, what: str
    ) -> None:
        try:
            while chunk := await source.read(CHUNK):
                if connection.fault.startswith(what):
                    fault, connection.fault = connection.fault, ""
                    self.happened[fault] += 1
                    if fault.endswith("lost"):
                        return
                    await asyncio.sleep(connection.stall_s)
                sink.write(chunk)
                await sink.drain()
        except OSError:
            return  # the other end has gone: so does this one
        finally:
            connection.done.set()
