"""Clients of NATS ask agents while workers are killed: who asks again under the same id is answered, with the same
answer each time, and each request takes effect exactly once."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import nats
from nats.aio.client import Client

from tests.brokers.nats.server import NatsServer
from tests.guarantees.kafka.fleet import Fleet
from tests.guarantees.support import APPS, by_key, with_log
from tests.stages import rounds

APP = APPS / "asked.py"
REQUESTS = 240
KILLS = rounds(2, 4)
AT_ONCE = 12
ACCOUNTS = 5
ASKED_FOR_S = 1.0
"""How long a client waits before it asks again: often too short, so that requests are repeated in all states."""
PATIENCE_S = 240.0
AGAIN = ("429", "503", "504")


class Clients:
    """So many at once, each of which asks until it is answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.amounts = {f"r{number}": 1 + number % 7 for number in range(REQUESTS)}
        self.answers: dict[str, int] = {}
        self.repeated = 0

    @staticmethod
    def account(request: str) -> str:
        return f"acc-{int(request[1:]) % ACCOUNTS}"

    async def ask_all(self) -> None:
        """Ask everything; what was answered before has to be answered alike."""
        async with asyncio.timeout(PATIENCE_S):
            connection = await nats.connect(self._url)
            waiting = iter(list(self.amounts))

            async def one_by_one() -> None:
                for request in waiting:
                    answer = await self._ask(connection, request)
                    assert self.answers.setdefault(request, answer) == answer, request

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(one_by_one())
            await connection.close()

    async def _ask(self, connection: Client, request: str) -> int:
        value = {"id": request, "account": self.account(request), "amount": self.amounts[request]}
        while True:
            try:
                answer = await connection.request(
                    "bank.settle",
                    json.dumps(value).encode(),
                    timeout=ASKED_FOR_S,
                    headers={"Nats-Msg-Id": request},
                )
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                self.repeated += 1
                await asyncio.sleep(0.05)
                continue
            if (code := (answer.headers or {}).get("Nats-Service-Error-Code")) is None:
                found = json.loads(answer.data)
                assert found["id"] == request
                return int(found["balance"])
            assert code in AGAIN, answer.headers
            self.repeated += 1
            await asyncio.sleep(0.05)

    def check(self, settled: Mapping[str, list[int]]) -> None:
        """settled: the balances that the agent's results show, by account, in order."""
        expected: dict[str, list[int]] = {}
        for request, amount in self.amounts.items():
            expected.setdefault(self.account(request), []).append(amount)
        for account, amounts in expected.items():
            balances = settled[account]
            assert len(balances) == len(amounts), f"{account}: each request takes effect once"
            assert balances[-1] == sum(amounts)
            steps = [after - before for before, after in zip([0, *balances], balances, strict=False)]
            assert sorted(steps) == sorted(amounts)
            mine = [answer for request, answer in self.answers.items() if self.account(request) == account]
            assert sorted(mine) == balances, "what clients were told is what was committed"


def ask_while_workers_die(clients: Clients, fleet: Fleet, kill: Callable[[], int]) -> None:
    """Ask everything, and kill a worker whenever a further part of it is answered; then ask everything again."""

    async def disturb() -> None:
        for number in range(1, KILLS + 1):
            enough = number * REQUESTS // (KILLS + 2)
            while len(clients.answers) < enough:  # noqa: ASYNC110 - it is counted up beside
                await asyncio.sleep(0.002)
            killed = kill()
            fleet.kill(killed)
            fleet.start(killed)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.ask_all())
            group.create_task(disturb())
        await clients.ask_all()

    asyncio.run(main())
    assert len(clients.answers) == REQUESTS
    assert clients.repeated > 0, "no kill hit a request"


def test_each_request_takes_effect_once_whichever_of_two_workers_is_killed(
    nats_own: NatsServer, tmp_path: Path, chance: random.Random
) -> None:
    clients = Clients(nats_own.url)
    log = f"{nats_own.url}?session_timeout_ms=2000"
    with Fleet(APP, "", tmp_path, env={"NATS": nats_own.url}, log=log) as fleet:
        fleet.start_all(2)
        ask_while_workers_die(clients, fleet, lambda: chance.randrange(2))
        clients.check(asyncio.run(settled_on(nats_own.url)))
        fleet.stop_all()


async def settled_on(url: str) -> dict[str, list[int]]:
    """The agent's results, by a client that isn't ours."""
    connection = await nats.connect(url)
    stream = connection.jetstream()
    found: dict[str, list[int]] = {}
    async with asyncio.timeout(PATIENCE_S):
        # The topic takes committed results in a moment later.
        while (last := (await stream.stream_info("settled")).state.last_seq) < REQUESTS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for number in range(1, last + 1):
        message = await stream.get_msg("settled", number)
        assert message.headers is not None
        found.setdefault(message.headers["Streams-Key"], []).append(json.loads(message.data or b"")["balance"])
    await connection.close()
    return found


def test_each_request_takes_effect_once_though_the_only_worker_is_killed(nats_own: NatsServer, tmp_path: Path) -> None:
    clients = Clients(nats_own.url)
    folder = tmp_path / "log"
    with Fleet(APP, "", tmp_path, env={"NATS": nats_own.url}, log=f"embedded:{folder}") as fleet:
        fleet.start_all(1)
        ask_while_workers_die(clients, fleet, lambda: 0)
        fleet.stop_all()
    results = with_log(folder, lambda log: by_key(log, "settled"))
    clients.check({account: [each["balance"] for each in them] for account, them in results.items()})
