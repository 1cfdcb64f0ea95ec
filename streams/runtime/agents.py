"""Running agents: the user's coroutines over the mail of one task.

    mail ──▶ lanes (by key, so that events of one key never overlap) ──▶ async for … yield ──▶ results

A lane is one run of the agent's function.  The task waits until every lane has asked for its next event: that is the
barrier before a commit, and it has a deadline.  What an event changed is taken back when the agent raises and the
stream's policy goes on, or when somebody asked: then the error is the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

import msgspec

from streams.core.batch import Batch, Origin
from streams.core.context import Ambient, ambient
from streams.core.mapping import describe_failure
from streams.errors import AgentStuck, ConfigurationError, RetryableError
from streams.operators.agent import REQUEST_HEADER, AgentWork, Reply, Request, decode_request

logger = logging.getLogger("streams")

NOTHING = -1
"""The index of no event: the lane waits for more."""
CLOSE_TIMEOUT_S = 5.0
"""How long an agent that was cancelled may take to end."""

_plain = msgspec.msgpack.Encoder(enc_hook=lambda value: msgspec.to_builtins(value))
_unplain = msgspec.msgpack.Decoder()


class AgentRunner:
    """Runs one agent of one task."""

    def __init__(self, work: AgentWork, barrier_timeout_ms: int) -> None:
        self.work = work
        self.replies: list[tuple[Request, Reply]] = []
        self._barrier_timeout_s = barrier_timeout_ms / 1000
        self._lanes = [_Lane(self) for _ in range(work.node.concurrency)]
        self._memory = _Memory(work)
        self._repeated: list[Request] = []

    async def run(self, progress: Callable[[], None] = lambda: None) -> None:
        """Hand the waiting mail to the agent; returns when it has asked for more on every lane.

        ``progress`` is called now and then while it works.  The deadline counts for each event by itself.

        Raises what the policy lets through, and AgentStuck after the deadline.
        """
        mail, self.work.mail = self.work.mail, []
        for batch in mail:
            await self._run(batch, progress)

    async def _run(self, batch: Batch, progress: Callable[[], None]) -> None:
        origin = batch.origin
        headers = origin.fetched.records.headers if origin is not None else None
        requests: list[Request | None] | None = None
        if headers is not None:
            requests = [_request(headers[row]) for row in batch.rows]
            batch, requests = self._answer_known(batch, requests)
        if not batch.values:
            return
        for name in self.work.node.prefetch:
            self.work.context.keyed(name).prepare(key for key in batch.keys if key is not None)
        lanes = self._deal(batch)
        for lane, indexes in lanes:
            lane.give(batch, indexes, requests)
        await self._finish([lane for lane, _ in lanes], progress)
        self._collect(batch, lanes)
        repeated, self._repeated = self._repeated, []
        for request in repeated:
            known = self._memory.recall(request)
            if known is not None:
                self.replies.append((request, known))

    async def _finish(self, lanes: Sequence[_Lane], progress: Callable[[], None]) -> None:
        """Wait for the lanes, for as long as each gets on with its events."""
        busy = list(lanes)
        while busy:
            before = [lane.current for lane in busy]
            waited = [lane.done for lane in busy]
            await asyncio.wait(waited, timeout=self._barrier_timeout_s, return_when=asyncio.FIRST_EXCEPTION)
            for lane, done, event in zip(busy, waited, before, strict=True):
                if done.done():
                    done.result()
                elif lane.current == event:
                    raise AgentStuck(lane.describe(self._barrier_timeout_s))
            busy = [lane for lane in busy if not lane.done.done()]
            progress()

    def _deal(self, batch: Batch) -> list[tuple[_Lane, Sequence[int]]]:
        if len(self._lanes) == 1:
            return [(self._lanes[0], range(len(batch)))]
        dealt: list[list[int]] = [[] for _ in self._lanes]
        for index, key in enumerate(batch.keys):
            dealt[(index if key is None else crc32(key)) % len(dealt)].append(index)
        return [(lane, indexes) for lane, indexes in zip(self._lanes, dealt, strict=True) if indexes]

    def _collect(self, batch: Batch, lanes: list[tuple[_Lane, Sequence[int]]]) -> None:
        indexes: list[int] = []
        values: list[Any] = []
        for lane, _ in lanes:
            made_by, made, answers = lane.take()
            if NOTHING in made_by:
                raise ConfigurationError(f"agent {self.work.node.name} yielded outside of its loop over the events")
            indexes.extend(made_by)
            values.extend(made)
            for request, reply in answers:
                self._memory.keep(request, reply)
                self.replies.append((request, reply))
        if values:
            self.work.emit(batch.take(indexes).with_values(values))

    def _answer_known(self, batch: Batch, requests: list[Request | None]) -> tuple[Batch, list[Request | None]]:
        """Leave out what was answered before: a request that came twice gets the same answer."""
        fresh: list[bool] = []
        ids: set[str] = set()
        for request in requests:
            known = self._memory.recall(request) if request is not None else None
            if known is not None and request is not None:
                self.replies.append((request, known))
            repeated = request is not None and request.id in ids
            if repeated and request is not None:
                self._repeated.append(request)
            elif request is not None:
                ids.add(request.id)
            fresh.append(known is None and not repeated)
        if all(fresh):
            return batch, requests
        return batch.select(fresh), [request for request, keep in zip(requests, fresh, strict=True) if keep]

    def take_replies(self) -> list[tuple[Request, Reply]]:
        """The answers that may leave once the commit has succeeded."""
        replies, self.replies = self.replies, []
        return replies

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.close()


class _Lane:
    """One run of the agent's function, and what it made of the events given to it."""

    def __init__(self, runner: AgentRunner) -> None:
        self._work = runner.work
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._given: asyncio.Future[None] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events: Iterator[tuple[int, int, Any]] = iter(())
        self._batch: Batch | None = None
        self._requests: list[Request | None] | None = None
        self.current = NOTHING
        self._kept = 0
        self._here = Ambient(runner.work.context, runner.work.node.name)
        self.made: list[Any] = []
        self.made_by: list[int] = []
        self.answers: list[tuple[Request, Reply]] = []

    def give(self, batch: Batch, indexes: Sequence[int], requests: list[Request | None] | None) -> None:
        """Start on the events of a batch."""
        loop = asyncio.get_running_loop()
        self._batch, self._requests = batch, requests
        if len(indexes) == len(batch):
            self._events = zip(indexes, batch.rows, batch.values, strict=True)
        else:
            self._events = ((index, batch.rows[index], batch.values[index]) for index in indexes)
        undoable = self._work.node.policy.action != "fail" or requests is not None
        self._here.journal = [] if undoable else None
        self._here.origin = batch.origin
        self._here.chain = ()
        self.done = loop.create_future()
        if self._task is None:
            self._task = loop.create_task(self._live())
        elif self._given is not None and not self._given.done():
            self._given.set_result(None)

    def take(self) -> tuple[list[int], list[Any], list[tuple[Request, Reply]]]:
        """What was made of the events given: by index, and the answers; and start anew."""
        taken = self.made_by.copy(), self.made.copy(), self.answers.copy()
        self.made_by.clear()
        self.made.clear()
        self.answers.clear()
        return taken

    async def _live(self) -> None:
        ambient.set(self._here)
        try:
            while not self._closed:
                await self._once()
        except Exception as error:
            if not self.done.done():
                self.done.set_exception(error)

    async def _once(self) -> None:
        """Run the agent's function until it ends; whatever it raises meets the policy, and it is run again."""
        events = self._feed()
        try:
            running = self._work.node.fn(events)
            if inspect.isasyncgen(running):
                made, made_by = self.made.append, self.made_by.append
                async for result in running:
                    made(result)
                    made_by(self.current)
            else:
                await running
        except Exception as error:
            if self._closed:
                return  # raised on its way out: the event was not handled, and none may follow
            self._failed(error)
            return
        finally:
            await events.aclose()
        if self.current != NOTHING:
            self._failed(RuntimeError("the agent returned before its events were done; loop `async for` over them"))
            return
        raise ConfigurationError(f"agent {self._work.node.name} returned; loop over its events with `async for`")

    async def _feed(self) -> AsyncGenerator[Any, None]:
        here = self._here
        while True:
            if here.journal is None:
                for self.current, here.row, value in self._events:  # noqa: B020
                    yield value
            else:
                for self.current, here.row, value in self._events:  # noqa: B020
                    self._begin()
                    yield value
                    self._handled()
            self.current = NOTHING
            self._given = asyncio.get_running_loop().create_future()
            if not self.done.done():
                self.done.set_result(None)
            await self._given

    def _begin(self) -> None:
        """Note where an event that may be taken back begins."""
        request = self._requests[self.current] if self._requests is not None else None
        self._here.chain = request.chain if request is not None else ()
        self._kept = len(self.made)

    def _handled(self) -> None:
        """The agent has asked for its next event, so it is done with the current one."""
        if self._here.journal is not None:
            self._here.journal.clear()
        if self._requests is not None and self.current != NOTHING:
            request = self._requests[self.current]
            if request is not None:
                self.answers.append((request, _reply(self.made[self._kept :])))

    def _failed(self, error: Exception) -> None:
        """Take the current event back; somebody who asked gets the error, else the policy decides."""
        index, batch = self.current, self._batch
        self.current = NOTHING
        if index == NOTHING or batch is None:
            raise error
        if self._here.journal is None:
            self._meet_policy(batch, index, error)
            return
        self._here.undo()
        del self.made[self._kept :]
        del self.made_by[self._kept :]
        request = self._requests[index] if self._requests is not None else None
        # An outage is no answer: it would be remembered, and told again to who asks again.
        if request is not None and request.reply_to and not isinstance(error, RetryableError):
            self.answers.append((request, Reply([], describe_failure(error))))
        else:
            self._meet_policy(batch, index, error)

    def _meet_policy(self, batch: Batch, index: int, error: Exception) -> None:
        node = self._work.node
        failures, where = self._work.context.failures, batch.rows[index]
        failures.handle(
            batch.origin, where, error, f"agent {node.name}", node.policy, batch.keys[index], batch.times[index]
        )

    def describe(self, deadline_s: float) -> str:
        """Where a lane that doesn't come back stands."""
        node, batch, index = self._work.node, self._batch, self.current
        if batch is None or index == NOTHING:
            return f"agent {node.name} didn't ask for an event within {deadline_s:g} s; loop `async for` over them"
        key = batch.keys[index]
        where = _where(batch.origin, batch.rows[index])
        shown = node.decode_key(key) if key is not None else None
        return (
            f"agent {node.name} didn't return from its event with key {shown!r} at {where} within {deadline_s:g} s; "
            f"nothing of it was committed; give its calls a time-out, or raise App(barrier_timeout=…)"
        )

    async def close(self) -> None:
        """End the agent's run; one that doesn't end when it is cancelled is left behind, and said to be."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            _, left = await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            if left:
                logger.warning(
                    "agent %s doesn't end when it is cancelled and is left behind; let CancelledError pass",
                    self._work.node.name,
                )


class _Memory:
    """The last answered requests, in the task's state: a request that comes again gets the answer it got."""

    def __init__(self, work: AgentWork) -> None:
        self._state = work.requests
        self._most = work.context.thresholds.remembered_requests
        oldest = next(self._state.scan(b"n", b"o"), None)
        self._oldest = int.from_bytes(oldest[0][1:], "big") if oldest is not None else 0
        self._next = self._state.get(b"q") or 0

    def recall(self, request: Request) -> Reply | None:
        known = self._state.get(b"r" + request.id.encode())
        return None if known is None else msgspec.convert(known, Reply)

    def keep(self, request: Request, reply: Reply) -> None:
        identity = b"r" + request.id.encode()
        self._state.put(identity, msgspec.to_builtins(reply))
        self._state.put(_numbered(self._next), request.id)
        self._next += 1
        self._state.put(b"q", self._next)
        while self._next - self._oldest > self._most:
            forgotten = self._state.get(_numbered(self._oldest))
            if forgotten is not None:
                self._state.delete(b"r" + forgotten.encode())
                self._state.delete(_numbered(self._oldest))
            self._oldest += 1


def _numbered(number: int) -> bytes:
    return b"n" + number.to_bytes(8, "big")


def _request(headers: tuple[tuple[str, bytes], ...] | None) -> Request | None:
    for name, value in headers or ():
        if name == REQUEST_HEADER:
            return decode_request(value)
    return None


def _reply(values: list[Any]) -> Reply:
    try:
        plain = _unplain.decode(_plain.encode(values))
    except (TypeError, ValueError) as error:
        return Reply([], f"the reply can't be sent: {describe_failure(error)}")
    return Reply(plain)


def _where(origin: Origin | None, row: int) -> str:
    return "no record" if origin is None else f"{origin.fetched.partition}@{origin.fetched.offsets[row]}"
