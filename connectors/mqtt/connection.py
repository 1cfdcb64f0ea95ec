"""A session on a transport: what asyncio adds to ``session``.

What must live here: reading with back pressure, writing in batches, timers.  What must not: the protocol (``session``),
sockets (``transport``), connecting again (``runtime.restarts``), and deciding what is acknowledged.

A connection is used by one task.  ``events`` gives out what has come, in batches; the calls that send never block, and
what they send is written together when the loop turns; ``drain`` waits for a broker that reads slowly.  When more than
``ahead_bytes`` have come that nobody has taken, reading pauses, and TCP makes the broker wait; pings go on.

A connection never comes back by itself.  Whoever owns the session opens the next one, and only after it has made sure
that the session is still its own: in 3.1.1 nobody tells that another client has taken it over, and mosquitto before
2.0.15 doesn't in MQTT 5 either (its issue 2607).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.errors import ConnectionLost
from streams.connectors.mqtt.events import Closed, Connected, Event, SessionSettings
from streams.connectors.mqtt.packets import Publish, Subscription
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import Reason
from streams.connectors.mqtt.session import Session, State
from streams.connectors.mqtt.transport import OnData, OnLost, Transport, open_stream
from streams.errors import ConfigurationError, StreamsError

__all__ = ["Connection"]

AHEAD_BYTES = 4 * 2**20


class Connection:
    """Made by ``Connection.open``.  ``connected`` is what the broker said."""

    def __init__(self, config: MqttConfig, settings: SessionSettings, ahead_bytes: int) -> None:
        self.config = config
        self._session = Session(settings)
        self._loop = asyncio.get_running_loop()
        self._ahead_bytes = ahead_bytes
        self._transport: Transport | None = None
        self._events: list[Event] = []
        self._bytes = 0  # that came since events were last taken
        self._paused = False
        self._end: Closed | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()

    @classmethod
    async def open(cls, config: MqttConfig, settings: SessionSettings, *, ahead_bytes: int = AHEAD_BYTES) -> Connection:
        """Connect, and wait until the broker has accepted it.

        Raises ConnectionLost, Refused, WireError, SessionTakenOver; Unsendable for settings that MQTT can't carry.
        """
        self = cls(config, settings, ahead_bytes)
        start = _websocket(config) if config.scheme in ("ws", "wss") else open_stream
        try:
            async with asyncio.timeout(config.answer_timeout_s):
                self._transport = await start(config, self._on_data, self._on_lost)
        except TimeoutError:
            words = f"{config.shown}: the broker can't be reached within {config.answer_timeout_s:g} s"
            error = ConnectionLost(words, Reason.SERVER_UNAVAILABLE)
            error.before_connect = True
            raise error from None
        except ConnectionLost as error:
            error.before_connect = True
            raise
        try:
            self._session.start(self._loop.time())
            self._flush()
            self._set_timer()
            while self._session.connected is None:
                await self._more()
            self._set_timer()  # the keep alive time may be the broker's, and short
        except BaseException:
            self.abort()
            raise
        assert isinstance(self._events[0], Connected)
        del self._events[0]
        return self

    @property
    def connected(self) -> Connected:
        assert self._session.connected is not None
        return self._session.connected

    @property
    def window(self) -> int:
        """How many messages at QoS 1 and 2 may be published now; grows with Puback and Pubcomp."""
        return self._session.window

    @property
    def unacked(self) -> int:
        """Messages of the broker's that we haven't acknowledged to the end."""
        return self._session.unacked

    @property
    def overruns(self) -> int:
        """Messages that came although the receive maximum was reached."""
        return self._session.overruns

    async def events(self) -> list[Event]:
        """What has come, at least one event, in order.  Waits for it.

        Raises the error that ended the connection once everything before it was given out; after ``close``,
        ConnectionLost.
        """
        while not self._events:
            await self._more()
        batch, self._events, self._bytes = self._events, [], 0
        if self._paused:
            self._paused = False
            self._session.hold(self._loop.time())
            if self._transport is not None:
                self._transport.resume_reading()
        return batch

    def publish(self, packet: Publish) -> None:
        """As Session.publish."""
        self._session.publish(packet)
        self._flush_soon()

    def puback(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        self._session.puback(packet_ids, reason)
        self._flush_soon()

    def pubrec(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        self._session.pubrec(packet_ids, reason)
        self._flush_soon()

    def pubcomp(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        self._session.pubcomp(packet_ids, reason)
        self._flush_soon()

    def pubrel(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        self._session.pubrel(packet_ids, reason)
        self._flush_soon()

    def subscribe(
        self, packet_id: int, subscriptions: Sequence[Subscription], properties: Properties | None = None
    ) -> None:
        self._session.subscribe(packet_id, subscriptions, properties)
        self._flush_soon()

    def unsubscribe(self, packet_id: int, topic_filters: Sequence[str]) -> None:
        self._session.unsubscribe(packet_id, topic_filters)
        self._flush_soon()

    def ping(self) -> int:
        """The number that the Pong to it carries."""
        number = self._session.ping()
        self._flush()
        self._set_timer()
        return number

    async def drain(self) -> None:
        """Wait until the broker keeps up with what we write, all that was sent until now included.

        Returns at the end of the connection too; ``events`` raises why.
        """
        if self._flushing:
            self._flush()  # else what was sent in this turn isn't seen, however much it is
        if self._transport is not None:
            await self._transport.drain()

    async def close(self, reason: int = 0, session_expiry_s: int | None = None) -> None:
        """Say DISCONNECT and wait until the connection is closed.  A second call does nothing."""
        self._take(self._session.disconnect(reason, session_expiry_s))
        self._flush()
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(self.config.answer_timeout_s):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()  # a broker that doesn't read keeps nobody from ending
            await self._gone.wait()

    def abort(self) -> None:
        """Drop the connection at once, as a crash would; the broker publishes the will."""
        self._take(self._session.ended())
        if self._transport is not None:
            self._transport.abort()

    # Within

    async def _more(self) -> None:
        if self._end is not None:
            raise self._end.error or ConnectionLost("the connection to the broker was closed here")
        assert self._waiter is None, "a connection is used by one task"
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _on_data(self, data: bytes) -> None:
        self._take(self._session.receive(data, self._loop.time()))
        self._bytes += len(data)
        if self._bytes > self._ahead_bytes and not self._paused and self._events and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _on_lost(self, error: StreamsError | None) -> None:
        if error is not None and self._session.state is not State.CLOSED:
            self._take(self._session.failed(error))
        self._take(self._session.ended())
        if self._timer is not None:
            self._timer.cancel()
        self._gone.set()

    def _take(self, events: list[Event]) -> None:
        if not events:
            return
        if isinstance(events[-1], Closed):
            self._end = events.pop()  # type: ignore[assignment]
            error = self._end.error  # type: ignore[union-attr]
            if error is not None and not str(error).startswith(self.config.shown):
                error.args = (f"{self.config.shown}, client {self._session.settings.client_id}: {error}",)
            self._flush()  # the DISCONNECT that says why
            if self._timer is not None:
                self._timer.cancel()
            if self._transport is not None:
                if isinstance(error, ConnectionLost):
                    self._transport.abort()  # nobody reads there: what is written would keep it open for good
                else:
                    self._transport.close()
        self._events += events
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self._session.output(self._loop.time())
        if data and self._transport is not None and not self._gone.is_set():
            self._transport.write(data)

    def _set_timer(self) -> None:
        """Set anew when it rings and when the deadline comes nearer, not at each packet, which only moves it away."""
        if self._timer is not None:
            self._timer.cancel()
        if self._session.state is not State.CLOSED and self._session.deadline < float("inf"):
            self._timer = self._loop.call_at(self._session.deadline, self._on_timer)

    def _on_timer(self) -> None:
        now_s = self._loop.time()
        if self._paused:
            self._session.hold(now_s)
        self._take(self._session.tick(now_s))
        self._flush()
        self._set_timer()


def _websocket(config: MqttConfig) -> Callable[[MqttConfig, OnData, OnLost], Awaitable[Transport]]:
    try:
        from streams.connectors.mqtt.websocket import open_websocket
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{config.shown}: MQTT over WebSocket needs {error.name}: pip install 'streams-log[mqtt]'"
        ) from error
    return open_websocket
