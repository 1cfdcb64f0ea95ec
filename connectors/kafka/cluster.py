"""A Kafka cluster as its clients see it: who leads what, and connections to the brokers.

What must live here: metadata and connections.  What must not: what the requests are for.

A broker answers the requests of one connection in order, so that a fetch which waits for records holds up what is sent
behind it: each user of the cluster has *lanes*, and each lane its own connection to each broker.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.coordination import FindCoordinatorRequest

from streams.connectors.kafka.config import KafkaConfig
from streams.connectors.kafka.faults import COORDINATOR_MOVED, Code, error_for, name_of
from streams.connectors.kafka.security import open_connection
from streams.connectors.kafka.wire import MetadataRequest
from streams.core.record import TopicPartition
from streams.errors import ConfigurationError, ConnectionBroken, LogUnavailable

__all__ = ["GROUP", "TRANSACTION", "Cluster", "TopicMetadata", "Unanswered", "together"]

logger = logging.getLogger("streams")
T = TypeVar("T")

GROUP, TRANSACTION = 0, 1
"""Kinds of coordinators."""

UNKNOWN_TOPIC_PATIENCE_S = 1.0
"""How long a topic may be unknown to the brokers after it was created."""
LEADERLESS_PATIENCE_S = 15.0
RETRY_S = 0.05
CLOSE_S = 1.0

# Its own lines would say again, with a traceback, what our errors say in one.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())
logging.getLogger("aiokafka").propagate = False


class Unanswered(ConnectionBroken):
    """A request was sent and no answer came: it may have been carried out."""


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Requests side by side.  When one fails, the others are cancelled and have ended before its error is raised.

    Left to themselves they would go on, by a connection that is made for a lane which its owner has dropped.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _seen(error: Exception) -> str:
    """What was seen when a connection ended; an answer that couldn't be read shows, since it may be a fault of ours."""
    cause = error.__cause__
    expected = cause is None or isinstance(cause, OSError | EOFError)
    return str(error) if expected else f"{error}: {type(cause).__name__}: {cause}"


@dataclass(frozen=True, slots=True)
class TopicMetadata:
    """A topic as the brokers describe it.  leaders: by partition, the node; -1 while there is none."""

    id: str
    leaders: Mapping[int, int]
    internal: bool = False


@dataclass(slots=True)
class _Node:
    host: str
    port: int
    connections: dict[str, AIOKafkaConnection] = field(default_factory=dict)


class Cluster:
    """Metadata of a cluster, and connections by (node, lane).  Used from one event loop."""

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        self.identity = ""
        self._nodes: dict[int, _Node] = {}
        self._topics: dict[str, TopicMetadata] = {}
        self._locks: dict[tuple[int, str], asyncio.Lock] = {}
        self._lanes = itertools.count(1)
        self._closed = False
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def url(self) -> str:
        return self.config.safe_url

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Find the cluster through any of its servers.  Raises LogUnavailable, ConfigurationError."""
        self._closed = False
        await self.refresh([])

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        for node in self._nodes.values():
            for connection in node.connections.values():
                self._hang_up(connection)
            node.connections.clear()
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_S)

    def _hang_up(self, connection: AIOKafkaConnection) -> None:
        # TLS says goodbye first, and uvloop refuses to close a loop over a connection that still does.
        closed = connection.close(reason=CloseReason.SHUTDOWN)
        self._closing.add(closed)
        closed.add_done_callback(self._closing.discard)

    def lane(self, what: str) -> str:
        """A lane of one's own."""
        return f"{what} {next(self._lanes)}"

    def drop(self, lane: str) -> None:
        """Close the connections of a lane."""
        for node in self._nodes.values():
            connection = node.connections.pop(lane, None)
            if connection is not None:
                self._hang_up(connection)
        for key in [key for key in self._locks if key[1] == lane]:
            del self._locks[key]

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, node: int, request: Any, lane: str = "", *, answered: bool = True) -> Any:
        """The response of a broker; None for a request that is never ``answered`` (producing with acks=0).

        Raises LogUnavailable when it couldn't be sent, Unanswered when it was and whether it was carried out isn't
        known, and ConfigurationError for a broker that is too old.
        """
        connection = await self._connection(node, lane)
        try:
            return await connection.send(request, expect_response=answered)
        except (NotImplementedError, IncompatibleBrokerVersion) as error:
            raise ConfigurationError(
                f"{self.url}: the broker is too old for {type(request).__name__} ({error}); 2.8 or later is needed"
            ) from error
        except (KafkaError, OSError, TimeoutError) as error:
            self._forget(node, lane, connection)
            what = "did not answer in time" if isinstance(error, TimeoutError) else f"is gone ({_seen(error)})"
            raise Unanswered(f"{self.url}: broker {self._name(node)} {what}") from error

    def name_of(self, node: int) -> str:
        """A broker, as a person finds it."""
        return f"{self.url}: broker {self._name(node)}"

    def _name(self, node: int) -> str:
        known = self._nodes.get(node)
        return f"{known.host}:{known.port}" if known is not None else str(node)

    async def _connection(self, number: int, lane: str) -> AIOKafkaConnection:
        async with self._locks.setdefault((number, lane), asyncio.Lock()):
            node = self._nodes.get(number)
            if self._closed or node is None:
                raise self._unknown(number)
            connection = node.connections.get(lane)
            if connection is not None and connection.connected():
                return connection
            connection = await self._connect(node.host, node.port)
            if self._closed or self._nodes.get(number) is not node:  # nobody would ever close it
                self._hang_up(connection)
                raise self._unknown(number)
            node.connections[lane] = connection
            return connection

    def _unknown(self, number: int) -> LogUnavailable:
        why = "the log is closed" if self._closed else f"broker {number} isn't known any more"
        return LogUnavailable(f"{self.url}: {why}")

    async def _connect(self, host: str, port: int) -> AIOKafkaConnection:
        return await open_connection(self.config, host, port)

    def _forget(self, number: int, lane: str, connection: AIOKafkaConnection) -> None:
        node = self._nodes.get(number)
        if node is not None and node.connections.get(lane) is connection:
            del node.connections[lane]
        self._hang_up(connection)

    # ── metadata ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def refresh(self, names: Collection[str] | None) -> Mapping[str, TopicMetadata]:
        """Ask for the metadata of topics (all for None); those that don't exist are missing in the answer."""
        response = await self._ask_any(MetadataRequest(None if names is None else sorted(names)))
        self.identity = response.cluster_id or ""
        self._learn(response.brokers)
        found: dict[str, TopicMetadata] = {}
        for code, name, topic_id, internal, partitions, *_ in response.topics:
            if code not in (Code.NONE, Code.UNKNOWN_TOPIC_OR_PARTITION, Code.LEADER_NOT_AVAILABLE):
                raise error_for(code, f"{self.url}: topic {name}")
            if code == Code.NONE:
                leaders = {number: leader for _, number, leader, *_ in partitions}
                found[name] = TopicMetadata(str(topic_id), leaders, internal)
        for name in names or ():
            self._topics.pop(name, None)
        self._topics.update(found)
        return found

    def _learn(self, brokers: Iterable[Any]) -> None:
        known = {number: (host, port) for number, host, port, *_ in brokers}
        for number in [number for number in self._nodes if number not in known and number >= 0]:
            self._close_node(number)
        for number, (host, port) in known.items():
            node = self._nodes.get(number)
            if node is not None and (node.host, node.port) != (host, port):
                self._close_node(number)
                node = None
            if node is None:
                self._nodes[number] = _Node(host, port)

    def _close_node(self, number: int) -> None:
        for connection in self._nodes.pop(number).connections.values():
            self._hang_up(connection)

    async def _ask_any(self, request: Any) -> Any:
        """The answer of whichever broker gives one: those that are known first, then the servers of the URL."""
        known = [number for number in self._nodes if number >= 0]
        random.shuffle(known)
        self._seed()
        failure: LogUnavailable | None = None
        for number in [*known, *range(-1, -1 - len(self.config.servers), -1)]:
            try:
                async with asyncio.timeout(self.config.connect_timeout_ms / 1000):
                    answer = await self.send(number, request)
            except (LogUnavailable, TimeoutError) as error:
                if isinstance(error, TimeoutError):  # a broker that hangs: the connection would wait for it
                    error = LogUnavailable(f"{self.url}: broker {self._name(number)} does not answer")
                    self._close_lane(number, "")
                if failure is None or isinstance(error, ConnectionBroken):  # of several servers, it says the most
                    failure = error
                continue
            if number < 0 and answer is not None:
                self.drop_seeds()
            return answer
        assert failure is not None
        raise failure

    def _close_lane(self, number: int, lane: str) -> None:
        node = self._nodes.get(number)
        if node is not None and (connection := node.connections.pop(lane, None)) is not None:
            self._hang_up(connection)

    def drop_seeds(self) -> None:
        """Close what was only needed to find the cluster."""
        for number in [number for number in self._nodes if number < 0]:
            self._close_node(number)

    def topic_id(self, topic: str) -> str | None:
        """The id of a topic as last heard."""
        known = self._topics.get(topic)
        return known.id if known is not None else None

    async def leaders(
        self,
        partitions: Collection[TopicPartition],
        *,
        anew: bool = False,
        patience_s: float = UNKNOWN_TOPIC_PATIENCE_S,
    ) -> dict[TopicPartition, int]:
        """The broker that leads each partition.

        Waits ``patience_s`` for topics that were just created, and longer for elections.  Raises ConfigurationError
        for a topic or partition that doesn't exist, LogUnavailable for one without a leader.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            missing = {at.topic for at in partitions if anew or self._leader(at) is None}
            if missing:
                await self.refresh(missing)
            anew = False
            found = {at: self._leader(at) for at in partitions}
            absent = [at for at, leader in found.items() if leader is None]
            if not absent:
                return {at: leader for at, leader in found.items() if leader is not None}
            unknown = [at for at in absent if at.topic not in self._topics]
            waited = loop.time() - started
            if unknown and waited > patience_s:
                raise ConfigurationError(f"{self.url}: there is no topic {unknown[0].topic!r}; create it first")
            beyond = [at for at in absent if at not in unknown and at.partition not in self._topics[at.topic].leaders]
            if beyond and waited > patience_s:
                count = len(self._topics[beyond[0].topic].leaders)
                raise ConfigurationError(f"{self.url}: {beyond[0]} doesn't exist; its topic has {count} partitions")
            if waited > LEADERLESS_PATIENCE_S:
                raise LogUnavailable(f"{self.url}: {absent[0]} has no leader; look at the brokers that hold it")
            await asyncio.sleep(RETRY_S)

    def _leader(self, at: TopicPartition) -> int | None:
        topic = self._topics.get(at.topic)
        leader = topic.leaders.get(at.partition, -1) if topic is not None else -1
        return leader if leader >= 0 and leader in self._nodes else None

    def moved(self, topics: Iterable[str]) -> None:
        """What is known of these topics is out of date."""
        for topic in topics:
            self._topics.pop(topic, None)

    async def coordinator(self, key: str, kind: int) -> int:
        """The broker that coordinates a group or a transactional id.  Waits while one is being chosen."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEADERLESS_PATIENCE_S
        while True:
            response = await self._ask_any(FindCoordinatorRequest(key, kind))
            code = response.error_code
            if code == Code.NONE:
                if response.coordinator_id not in self._nodes:
                    await self.refresh([])
                return int(response.coordinator_id)
            if code not in COORDINATOR_MOVED:
                raise error_for(code, f"{self.url}: the coordinator of {key}")
            if loop.time() > deadline:
                raise LogUnavailable(f"{self.url}: no coordinator for {key}: {name_of(code)}")
            await asyncio.sleep(RETRY_S)

    def any_node(self) -> int:
        """Some broker; a server of the URL while none is known, as when a cluster that starts names no brokers."""
        known = [number for number in self._nodes if number >= 0]
        if not known:
            self._seed()
        return random.choice(known or list(self._nodes))

    def _seed(self) -> None:
        for index, (host, port) in enumerate(self.config.servers):
            self._nodes.setdefault(-1 - index, _Node(host, port))
