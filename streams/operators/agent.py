"""Agents in the graph: a mailbox between the pure task and the runtime that runs the user's coroutine.

What must live here: what an agent is to a task.  What must not: asyncio; ``runtime.agents`` takes the batches out of
the mailbox, runs the agent over them, and hands back what it yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streams.core.batch import Batch
from streams.core.context import TaskContext
from streams.core.graph import Emit
from streams.core.log import TopicSpec
from streams.core.state import KeyedState, StateSpec
from streams.operators.base import Operator

REQUEST_HEADER = "streams.request"
"""Carries an encoded ``Request`` in the records of an agent's inbox."""


class Request(msgspec.Struct, array_like=True, frozen=True):
    """Who asks an agent.

    id: repeats when the asker runs again, so that the callee answers from what it remembers.
    reply_to: names the worker that waits; empty for a cast.
    chain: the tasks that wait for this call, the first asker first.
    """

    id: str
    reply_to: str = ""
    chain: tuple[str, ...] = ()


encode_request = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """What an agent answered: values it yielded, or an error in words."""

    values: list[Any]
    error: str | None = None


def requests_state(agent: str) -> StateSpec:
    """The bounded memory of answered requests: by request id the reply, and by number the id, oldest first."""
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    return StateSpec(f"{agent}.requests", "keyed", encode, decode, "requests/1", of_keys=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class Agent(Operator):
    """Runs ``fn`` over the events that reach it; what it yields goes downstream.

    inbox: the topic through which it is asked; its source is one of the upstream nodes.
    tables: what it reads and writes.  prefetch: those of them whose keys look like the records' keys, so that a batch's
    rows can be read at once.  concurrency: events in flight at once; those of one key never overlap.
    encode_reply: values to what msgpack carries.
    """

    fn: Callable[..., Any]
    inbox: TopicSpec
    tables: Sequence[StateSpec]
    prefetch: Sequence[str]
    concurrency: int
    decode_key: Callable[[bytes], Any]

    @property
    def states(self) -> Sequence[StateSpec]:
        return (*self.tables, requests_state(self.name))

    def label(self) -> str:
        return f"agent {self.name}"

    def build(self, context: TaskContext, emit: Emit) -> AgentWork:
        return AgentWork(self, context, emit)


class AgentWork:
    """The mailbox of one agent in one task."""

    def __init__(self, node: Agent, context: TaskContext, emit: Emit) -> None:
        self.node = node
        self.context = context
        self.emit = emit
        self.requests: KeyedState[Any] = context.keyed(requests_state(node.name).name)
        self.mail: list[Batch] = []

    def process(self, batch: Batch) -> None:
        self.mail.append(batch)
