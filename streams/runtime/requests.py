"""Requests to agents: who waits for which answer, and how one gets into an inbox.

A request is a record in the agent's inbox; its answer leaves after the commit that holds its effects, straight to who
waits where that is this worker, else by the log (``runtime.replies``).  The identity
of a request made from inside an agent is derived from the record in hand, so that a re-run repeats it and the callee
answers from its memory.  Behind a window, batch or timer there is no such record: there a re-run asks anew.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streams.core.context import Ambient, ambient
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.errors import AgentFailed, AskCycle, AskTimeout, LogUnavailable
from streams.operators.agent import REQUEST_HEADER, Reply, Request, encode_request
from streams.runtime.replies import Replies

if TYPE_CHECKING:
    from streams.core.log import Log, TopicSpec
    from streams.dsl.agent import Agent
    from streams.runtime.clock import Clock


LEFT = "this worker stops before the answer came; it is asked for again"


class Requests:
    """The open requests of one worker.  ``replies``: their topic, where there are other workers."""

    def __init__(self, log: Log, clock: Clock, replies: TopicSpec | None = None) -> None:
        self.worker_id = uuid.uuid4().hex
        self._log = log
        self._clock = clock
        self._waiting: dict[str, list[asyncio.Future[Reply]]] = {}
        self._leaving = False
        self._replies = Replies(log, clock, replies, self.worker_id, self._hear) if replies is not None else None

    async def ask(self, agent: Agent[Any, Any], key: bytes, value: bytes, timeout_ms: int) -> Any:
        """Send a request and wait for its answer."""
        here = ambient.get()
        partition = self._log.partition_for(key, agent.inbox.partitions)
        target = agent.task_for(partition)
        chain: tuple[str, ...] = ()
        if here is not None:
            chain = (*here.chain, here.context.task_id)
            if target in chain:
                raise AskCycle(
                    f"agent {agent.name}: task {target} is asked while it waits in the same chain of calls "
                    f"({' → '.join(chain)} → {target}), so it could never answer; use cast, or a table that both use"
                )
        reply = await self._exchange(agent, key, value, Request(_identity(here), self.worker_id, chain), timeout_ms)
        if reply.error is not None:
            raise AgentFailed(f"agent {agent.name}: {reply.error}")
        return reply.values[0] if len(reply.values) == 1 else (reply.values or None)

    async def request(self, agent: Agent[Any, Any], key: bytes, value: bytes, identity: str, timeout_ms: int) -> Reply:
        """Ask on behalf of somebody outside, under an id of theirs: asked again, the answer is the one that was given.

        Raises AskTimeout, and LogUnavailable where the log hasn't taken the request, after the time-out at the latest.
        """
        return await self._exchange(agent, key, value, Request(identity, self.worker_id), timeout_ms)

    async def _exchange(
        self, agent: Agent[Any, Any], key: bytes, value: bytes, request: Request, timeout_ms: int
    ) -> Reply:
        """Send a request, wait for its answer.  Several may wait for one: who asks again while it is under way."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request.id, []).append(future)
        taken = False
        try:
            if self._leaving:
                raise LogUnavailable(LEFT)
            async with asyncio.timeout(timeout_ms / 1000):  # of all of it: a log that hangs takes the question first
                if self._replies is not None:
                    await self._replies.listen()
                await self._send(agent, key, value, request)
                taken = True
                return await future
        except TimeoutError:
            if not taken:  # an outage of the log: an agent that asks begins its event again, and loses none by it
                raise LogUnavailable(
                    f"{self._log.url}: the log hasn't taken the question to agent {agent.name} within {timeout_ms} ms; "
                    f"the request may still be carried out"
                ) from None
            raise AskTimeout(
                f"agent {agent.name}: no reply within {timeout_ms} ms; the request may still be carried out"
            ) from None
        finally:
            waiting = self._waiting[request.id]
            waiting.remove(future)
            if not waiting:
                del self._waiting[request.id]

    async def cast(self, agent: Agent[Any, Any], key: bytes, value: bytes, identity: str = "") -> None:
        """Send a request that nobody waits for.  identity: of who asks from outside."""
        await self._send(agent, key, value, Request(identity or _identity(ambient.get())))

    async def _send(self, agent: Agent[Any, Any], key: bytes, value: bytes, request: Request) -> None:
        partition = self._log.partition_for(key, agent.inbox.partitions)
        records = Records([key], [value], [self._clock.now_ms()], [((REQUEST_HEADER, encode_request(request)),)])
        await self._log.append([Append(TopicPartition(agent.inbox.name, partition), records)])

    def answer(self, answers: Sequence[tuple[Request, Reply]]) -> None:
        """Hand answers to those who wait for them; called after the commit that holds their effects.  Doesn't block."""
        away: list[tuple[Request, Reply]] = []
        for request, reply in answers:
            if request.reply_to == self.worker_id:
                self._hear(request.id, reply)
            elif request.reply_to:
                away.append((request, reply))
        if away and self._replies is not None:
            self._replies.send(away)

    def _hear(self, request_id: str, reply: Reply) -> None:
        for future in self._waiting.get(request_id, ()):  # nobody may wait any more
            if not future.done():  # it was sent twice
                future.set_result(reply)

    def leave(self) -> None:
        """Tell everybody who waits, now or later, that this worker stops: who would answer may have stopped before."""
        self._leaving = True
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(LogUnavailable(LEFT))

    async def close(self) -> None:
        """Called when every task has been released: what they answered last is still sent."""
        if self._replies is not None:
            await self._replies.close()


def _identity(here: Ambient | None) -> str:
    if here is None or here.origin is None:
        return uuid.uuid4().hex
    fetched = here.origin.fetched
    if here.called != (here.origin, here.row):
        here.called, here.calls = (here.origin, here.row), 0
    here.calls += 1
    where = f"{fetched.partition}:{fetched.lane}:{fetched.offsets[here.row]}"
    return f"{here.context.task_id}:{here.operator}:{where}:{here.calls}"
