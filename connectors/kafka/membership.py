"""A worker's place among the workers of its app, by Kafka's consumer groups (the classic protocol).

What must live here: finding the group's coordinator, joining, staying, noticing that one is out.  What must not: who
gets what (``core.assignment``), the bytes (``group_wire``), what a worker does about it.

    finding ──▶ joining ──▶ syncing ──▶ member: heartbeats
       ▲           ▲          │            │ │
       │           └──────────┴────────────┘ │  a rebalance has begun, or this member has news
       │           ▲                         │
       │           └─ empty assignment ◀─────┤  out: unknown to the coordinator, or unheard for the session time-out
       └─ from anywhere ◀────────────────────┘  no answer; another broker coordinates; the group is being loaded

    answer                            to                  then
    NONE                              join, sync, beat    syncing, member, member
    MEMBER_ID_REQUIRED                join                joining, under the id in the answer
    REBALANCE_IN_PROGRESS             sync, beat          joining; nothing is let go of
    ILLEGAL_GENERATION                sync, beat          joining; an answer was lost, nothing is let go of
    UNKNOWN_MEMBER_ID                 any                 out; joining as a new member
    NOT_COORDINATOR, … LOADING, none  any                 finding; nothing is let go of before the session is over
    FENCED_INSTANCE_ID and the rest   any                 ConfigurationError: a person has to change something

The leader of the group is the member that the coordinator says it is; it divides the tasks.  Everything else that
members must hear of makes one of them join again, which makes all of them join again and brings the leader what each
has to say.  Tasks run on meanwhile.  A member has news when it has let go of what it was asked to, and when a task
that it warms up is ready.

A worker without a name leaves the group when it closes, and the others take over at once.  One with a name is a static
member (KIP-345) and doesn't: if it is back within the session time-out it finds its tasks where they were, without a
rebalance; else the others take over then, as after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, Any

from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from streams.connectors.kafka.checkpoints import slots_topic
from streams.connectors.kafka.cluster import GROUP
from streams.connectors.kafka.faults import COORDINATOR_MOVED, Code, error_for, name_of
from streams.connectors.kafka.group_leader import SAME_RELEASE, divide
from streams.connectors.kafka.group_wire import (
    PROTOCOL,
    PROTOCOL_TYPE,
    REFUSALS,
    UNREAD,
    GroupCode,
    HeartbeatRequest,
    Told,
    decode_told,
    encode_words,
)
from streams.core.assignment import MemberState, Share
from streams.core.membership import Assignment, Member, OutOfTouch, Wanted
from streams.errors import ConfigurationError, LogCorrupt, LogUnavailable

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["KafkaMembership"]

logger = logging.getLogger("streams")

NEWS_INTERVAL_S = 1.0
"""Between two rounds that one member asks for: warm-ups that are ready one after the other share a round."""
PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
WORTH_A_LINE = 4
"""Attempts that fail before a person is told: a coordinator that moves, or loads its groups, is back before."""
LEAVE_TIMEOUT_S = 5.0
SOON_S = 1.0


class KafkaMembership:
    """Membership in the consumer group ``group``.  Used from one event loop; its requests have a lane of their own.

    session_timeout_ms: a worker that isn't heard of for so long loses its tasks.  heartbeat_interval_ms: how often it
    is heard of, and how soon it hears that others have come or gone.  By default both as the cluster's configuration
    has them.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        member: Member,
        wanted: Wanted,
        *,
        session_timeout_ms: int | None = None,
        heartbeat_interval_ms: int | None = None,
    ) -> None:
        config = cluster.config
        self._cluster = cluster
        self._group = group
        self._member = member
        self._wanted = wanted
        self._session_ms = session_timeout_ms or config.session_timeout_ms
        self._beat_s = (heartbeat_interval_ms or min(config.heartbeat_interval_ms, self._session_ms // 3)) / 1000
        # How long the coordinator waits for members to join again: each living one does at its next heartbeat.
        self._rebalance_ms = self._session_ms
        # aiokafka declares it a string; null says that the member is not a static one.
        self._instance: Any = member.name or None
        self._lane = cluster.lane(f"membership {group}")

        # What this worker has said to us.
        self._reported: frozenset[str] = frozenset()
        self._ready: frozenset[str] = frozenset()
        self._stored: frozenset[str] = member.stored

        # What the group has said.
        self._node: int | None = None
        self._id = ""
        self._generation = -1
        self._acts_on = -1
        self._in = False
        self._share = Share()
        self._elsewhere = False

        # What is next.
        self._join_due = True
        self._turn = 0
        self._turn_from = 0.0
        self._beat_at = 0.0
        self._vouched = 0.0
        self._failures = 0
        self._server = cluster.url
        self._missed: str | None = None
        self._unheard_since: float | None = None
        self._lapse: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()

        # What the worker has been told.
        self._current: Assignment | None = None
        self._delivered: Assignment | None = None
        self._was_out = False
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    # ── Membership ────────────────────────────────────────────────────────────────────────────────────────────────

    async def assignments(self) -> AsyncIterator[Assignment]:
        """As of ``Membership``; ends after ``close``.

        Doesn't raise while no broker answers, but goes on trying, with the empty assignment once the session is over.
        The membership itself runs beside the iterator and goes on when that is left: until ``close``, so that tasks can
        commit and go while the others still know of them.  Raises ConfigurationError when the group refuses this worker
        for good: its name is taken, it isn't allowed, its time-outs are out of bounds.
        """
        assert self._runner is None, "a membership is followed once"
        if self._closed:
            return
        self._runner = asyncio.create_task(self._run(), name=f"membership {self._group}")
        self._runner.add_done_callback(lambda _: self._changed.set())
        while True:
            self._changed.clear()
            if self._runner.done():
                if not self._runner.cancelled():
                    self._runner.result()
                return
            # After a stop of the whole process this may run before the timer that would have said it.
            self._check_lapse()
            following = Assignment() if self._was_out and self._delivered is not None else self._current
            self._was_out = False
            if following is not None and following != self._delivered:
                self._delivered = following
                self._hear()
                yield following
                continue
            if following is not self._current:
                continue
            await self._changed.wait()

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        """As of ``Membership``.  Joins again, soon, where the others wait for what is new in it."""
        self._reported = frozenset(held)
        self._ready = frozenset(ready)
        self._hear()

    def out_of_touch(self) -> OutOfTouch | None:
        """As of ``Membership``; from the first heartbeat on that the coordinator leaves unanswered."""
        since = self._unheard_since
        if since is None:
            return None
        return OutOfTouch(self._server, since, self._missed or "it doesn't answer", not self._in)

    async def close(self) -> None:
        """End the membership, and leave the group unless this worker has a name.  Raises nothing: a member that
        couldn't leave is missed after the session time-out."""
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait({self._runner})
            if not self._runner.cancelled():
                self._runner.exception()  # raised by ``assignments``; seen here so that asyncio doesn't complain
        if self._lapse is not None:
            self._lapse.cancel()
        # A join may hang there; the leave mustn't wait behind it.
        self._cluster.drop(self._lane)
        self._in = False
        self._current = Assignment()
        quiet = self._unheard_since is not None and self._now() - self._unheard_since > SOON_S
        # Where a heartbeat isn't answered, a farewell would wait in vain, and the stop with it.
        if self._id and self._node is not None and self._instance is None and not quiet:
            try:
                await self._ask(LeaveGroupRequest(self._group, self._id), LEAVE_TIMEOUT_S)
            except LogUnavailable as error:
                logger.info("group %s: left without a word (%s); the others notice in a moment", self._group, error)
            self._cluster.drop(self._lane)
        self._id = ""

    # ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────

    def _claims(self) -> frozenset[str]:
        """What this worker may be running: what it says, and what it was told and may be about to start."""
        told = self._delivered.active if self._delivered is not None else frozenset[str]()
        meant = self._current.active if self._current is not None else frozenset[str]()
        return self._reported | told | meant

    def _metadata(self) -> bytes:
        state = MemberState(stored=self._stored, held=self._claims(), ready=self._ready, generation=self._acts_on)
        return encode_words(slots_topic(self._group), self._member, self._wanted, state, self._turn)

    def _has_news(self) -> bool:
        share = self._share
        return bool(share.releases - self._claims() or share.warmups & self._ready or self._elsewhere)

    def _hear(self) -> None:
        if self._in and self._has_news():
            self._wake.set()

    def _ask_for_a_round(self) -> None:
        """Join again with something that the coordinator hasn't heard: else it answers with the old round."""
        self._turn += 1
        self._turn_from = self._now() + NEWS_INTERVAL_S
        self._join_due = True

    # ── the states ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while True:
            try:
                if self._node is None:
                    self._node = await self._cluster.coordinator(self._group, GROUP)
                    self._server = self._cluster.name_of(self._node)
                elif self._join_due:
                    await self._join()
                else:
                    await self._stay()
            except LogUnavailable as error:
                self._miss(str(error).removeprefix(f"{self._cluster.url}: "))
                self._node = None
                self._cluster.drop(self._lane)
                self._failures += 1
                if self._failures == WORTH_A_LINE:
                    logger.debug("%s; trying again", error)  # the worker says it, once for all that notice
                # By chance: or all workers ask a broker that comes back in the same instant.
                await asyncio.sleep(min(LONGEST_PAUSE_S, PAUSE_S * self._failures) * random.uniform(0.5, 1.0))

    async def _join(self) -> None:
        self._arm()
        request = JoinGroupRequest(
            self._group,
            self._session_ms,
            self._rebalance_ms,
            self._id,
            self._instance,
            PROTOCOL_TYPE,
            [(PROTOCOL, self._metadata())],
        )
        response = await self._ask(request, (self._rebalance_ms + self._session_ms) / 1000)
        if response.error_code == GroupCode.MEMBER_ID_REQUIRED:
            self._id = response.member_id
            return
        if self._refused(response.error_code):
            return
        self._id, self._generation = response.member_id, response.generation_id
        members = {member: metadata for member, *_, metadata in response.members}
        await self._sync(divide(self._group, members) if response.leader_id == self._id else [])

    async def _sync(self, shares: list[tuple[str, bytes]]) -> None:
        sent = self._now()
        request = SyncGroupRequest(self._group, self._generation, self._id, self._instance, shares)
        response = await self._ask(request, (self._rebalance_ms + self._session_ms) / 1000)
        if self._refused(response.error_code):
            return
        if self._now() >= sent + self._session_ms / 1000:
            # The answer lay here while this process stood still: the group may be rounds ahead.
            self._out("this process stood still")
            return
        self._vouch(sent)
        self._take(response.member_assignment)

    async def _stay(self) -> None:
        """Wait for the next heartbeat's time, or for news; then say so."""
        while self._now() < self._beat_at:
            until = self._beat_at
            if self._has_news():
                if self._now() >= self._turn_from:
                    self._ask_for_a_round()
                    return
                until = min(until, self._turn_from)
            self._wake.clear()
            try:
                async with asyncio.timeout(until - self._now()):
                    await self._wake.wait()
            except TimeoutError:
                continue
            if self._join_due:
                return
        sent = self._now()
        if self._unheard_since is None:
            self._unheard_since = sent
        request = HeartbeatRequest(self._group, self._generation, self._id, self._instance)
        response = await self._ask(request, self._session_ms / 2000)
        if not self._refused(response.error_code) or response.error_code == GroupCode.REBALANCE_IN_PROGRESS:
            self._vouch(sent)

    async def _ask(self, request: Any, timeout_s: float) -> Any:
        assert self._node is not None
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._cluster.send(self._node, request, self._lane)
        except TimeoutError as error:
            raise LogUnavailable(f"{self._where}: the coordinator doesn't answer") from error
        return response

    @property
    def _where(self) -> str:
        return f"{self._cluster.url}: group {self._group}"

    def _refused(self, code: int) -> bool:
        """Whether a request was refused; what is to be done then is next.  Raises for what can't be mended here."""
        if code == Code.NONE:
            return False
        if code in (GroupCode.REBALANCE_IN_PROGRESS, GroupCode.ILLEGAL_GENERATION):
            self._join_due = True
        elif code == GroupCode.UNKNOWN_MEMBER_ID:
            self._id = ""
            self._out("the group has gone on without it")
        elif code in COORDINATOR_MOVED:
            raise LogUnavailable(f"{self._where}: {name_of(code)}")
        elif code in REFUSALS:
            why = REFUSALS[code].format(name=self._member.name, session_ms=self._session_ms)
            raise ConfigurationError(f"{self._where}: {why}")
        else:
            raise error_for(code, self._where)
        return True

    # ── in and out ────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, assignment: bytes) -> None:
        """Follow what the leader says, if it says it to the worker that this one is now."""
        try:
            told = decode_told(assignment) if assignment else None
        except LogCorrupt as error:
            told = Told(UNREAD, "", "", reason=f"{error}; this worker gets no tasks; {SAME_RELEASE}")
        me = self._member
        if told is None or (
            told.version != UNREAD and (told.version, told.fingerprint) != (me.version, me.fingerprint)
        ):
            # A former life's, or a round that didn't know of this worker.
            self._ask_for_a_round()
            return
        if told.reason and told.reason != self._share.reason:
            logger.warning("group %s: %s", self._group, told.reason)
        self._share = told.share
        self._elsewhere = told.version != UNREAD and told.address != me.address
        self._current = self._share.assignment
        self._stored |= (self._current.active | self._current.standby) & self._wanted.stateful
        self._acts_on = self._generation
        self._in = True
        self._join_due = False
        self._arm()
        self._changed.set()

    def _out(self, why: str) -> None:
        """This worker is no longer a member: its tasks end at once, and it joins anew."""
        self._join_due = True
        self._wake.set()
        self._miss(why)
        if self._in:
            logger.warning("group %s: this worker is out (%s); its tasks stop until it is in again", self._group, why)
            self._in = False
            self._share = Share()
            self._elsewhere = False
            self._current = Assignment()
            self._was_out = True
            self._changed.set()

    def _miss(self, why: str) -> None:
        """The group hasn't heard this member, or doesn't know it; ``why`` in a few words."""
        self._missed = why
        if self._unheard_since is None:
            self._unheard_since = self._now()

    def _vouch(self, sent: float) -> None:
        """The coordinator has answered a request of this time as one of a member."""
        self._failures = 0
        self._unheard_since = self._missed = None
        self._vouched = sent
        self._beat_at = sent + self._beat_s
        self._arm()

    def _arm(self) -> None:
        """Be out when the session is over, by the clock of this machine.

        While a rebalance is on the coordinator lets nobody's session end, so that is added.
        """
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = asyncio.get_running_loop().call_later(self._lapses_at() - self._now(), self._check_lapse)

    def _lapses_at(self) -> float:
        return self._vouched + (self._session_ms + (self._rebalance_ms if self._join_due else 0)) / 1000

    def _check_lapse(self) -> None:
        if self._in and self._now() >= self._lapses_at():
            self._out(f"no heartbeat was answered for {self._session_ms / 1000:g} s")
        elif self._in:
            self._arm()  # a timer may fire a moment early

    @staticmethod
    def _now() -> float:
        # Not the loop's time: uvloop takes that once a turn, and the process may have been stopped since.
        return time.monotonic()
