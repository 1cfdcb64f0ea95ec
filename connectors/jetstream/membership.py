"""A worker's place among the workers of its app, by messages that live as long as a session.

What must live here: saying that one is there, leading, following.  What must not: who gets what (``core.assignment``),
the messages (``group``), what a worker does about it.

    each worker, every beat    say what it is and holds (Nats-TTL: the session) ──▶ lead, if nobody does
                               ──▶ read the round ──▶ say so
    the leader, besides        read what everybody says ──▶ divide, if somebody came, went or has news
                               ──▶ write the round

Who takes a round over says so *before* it starts what is new in it, so that the next round knows what it may be
running; one that hasn't said so yet is taken to run what it was told.  The lease of the leader is renewed and taken
over by compare-and-set, and so is a round written: a leader that was away finds that another has gone on.

Advice only: a worker that stood still finds at its next step that its session is over, and stops its tasks; a commit of
a task that has moved on is refused by the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.client import Message, Subscription, publication
from streams.connectors.jetstream.group import (
    GROUPS,
    Round,
    Words,
    divide,
    encode,
    heard,
    last_round,
    news_subject,
    subject_of,
    words_of,
)
from streams.connectors.waiting import Wake
from streams.core.assignment import MemberState, Share
from streams.core.membership import Assignment, Member, OutOfTouch, Wanted
from streams.errors import ConfigurationError, LogUnavailable

__all__ = ["JetStreamMembership"]

logger = logging.getLogger("streams")

NEWS_INTERVAL_S = 1.0
"""Between two rounds for warm-ups that are ready one after the other."""
MANY_FAILURES = 4
"""After so many in a row the stream of all groups may be gone."""


class JetStreamMembership:
    """Membership in ``group``.  session_s: a worker that isn't heard of for so long loses its tasks.  remake: makes the
    stream of all groups, should it be missing: what it holds lives no longer than a session anyway."""

    def __init__(
        self,
        api: Api,
        group: str,
        member: Member,
        wanted: Wanted,
        *,
        session_s: int = 6,
        beat_s: float = 1.0,
        remake: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._api = api
        self._group = group
        self._member = member
        self._wanted = wanted
        self._session_s = session_s
        self._remake = remake
        self._beat_s = min(beat_s, session_s / 3)
        self._id = member.name or secrets.token_hex(8)
        self._incarnation = secrets.token_hex(8)
        self._subject = subject_of(group, "member", self._id)

        # What this worker has said to us.
        self._reported: frozenset[str] = frozenset()
        self._ready: frozenset[str] = frozenset()
        self._stored: frozenset[str] = member.stored

        # What the group has said.
        self._seq = 0
        self._lead_seq = 0
        self._led = 0.0
        self._number = -1
        self._share = Share()
        self._in = False
        self._vouched = 0.0
        self._said: MemberState | None = None
        self._round_at = 0.0
        self._out_at = float("-inf")
        self._unheard_since: float | None = None
        self._missed = ""
        self._lapse: asyncio.TimerHandle | None = None
        self._wake = Wake()

        # What the worker has been told.
        self._current: Assignment | None = None
        self._delivered: Assignment | None = None
        self._was_out = False
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    # ── Membership ────────────────────────────────────────────────────────────────────────────────────────────────

    async def assignments(self) -> AsyncIterator[Assignment]:
        """As of ``Membership``; ends after ``close``.  Doesn't raise while no server answers, but goes on trying, with
        the empty assignment once the session is over.  Raises ConfigurationError when another worker has its name."""
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
            self._check_lapse()  # after a stop of the whole process this may run before the timer that would say so
            following = Assignment() if self._was_out and self._delivered is not None else self._current
            self._was_out = False
            if following is not None and following != self._delivered:
                self._delivered = following
                self._wake.set()
                yield following
                continue
            if following is self._current:
                await self._changed.wait()

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        """As of ``Membership``."""
        self._reported, self._ready = frozenset(held), frozenset(ready)
        self._wake.set()

    def out_of_touch(self) -> OutOfTouch | None:
        """As of ``Membership``; from the first step on that the server leaves without an answer."""
        since = self._unheard_since
        if since is None:
            return None
        was_in = self._in or self._out_at > float("-inf")
        return OutOfTouch(self._api.connection.url, since, self._missed or "it doesn't answer", was_in and not self._in)

    async def close(self) -> None:
        """End the membership, and leave unless this worker has a name, by which it may be back within its session.
        Raises nothing: a member that couldn't leave is missed when its session is over."""
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait({self._runner})
            if not self._runner.cancelled():
                self._runner.exception()  # raised by ``assignments``; seen here so that asyncio doesn't complain
        if self._lapse is not None:
            self._lapse.cancel()
        self._in = False
        self._current = Assignment()
        try:
            lead = subject_of(self._group, "lead")
            stored = await self._api.message(GROUPS, last_by_subj=lead) if self._lead_seq else None
            if stored is not None and stored.seq == self._lead_seq:
                await self._api.purge(GROUPS, lead)
            if self._seq and not self._member.name:
                await self._api.purge(GROUPS, self._subject)
            await self._tell()
        except LogUnavailable as error:
            logger.info("group %s: left without a word (%s); the others notice in a moment", self._group, error)
        self._seq = self._lead_seq = 0

    # ── one step after the other ──────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        news: Subscription | None = None
        failures = 0
        try:
            while True:
                if self._unheard_since is None:
                    self._unheard_since = self._now()
                try:
                    if news is None:
                        news = await self._api.connection.subscribe(news_subject(self._group), self._hear)
                    if failures >= MANY_FAILURES and self._remake is not None:
                        await self._remake()
                    await self._step()
                    failures = 0
                    if self._in:
                        self._unheard_since, self._missed = None, ""
                except LogUnavailable as error:
                    failures += 1
                    self._missed = str(error).removeprefix(f"{self._api.connection.url}: ")
                    logger.debug("group %s: %s; trying again", self._group, error)  # the worker tells of the outage
                # While steps fail, what wakes the loop comes of that: its tasks stop and report it, say.  Each worker
                # waits for another while, or all of them would be at the server in the moment that it is back.
                pause_s = random.uniform(0.5, 1.0) * self._beat_s if failures else 0.0
                await self._wake.wait(self._beat_s, least_s=pause_s)
        finally:
            if news is not None:
                await news.close()

    def _hear(self, messages: list[Message]) -> None:
        self._wake.set_by_others()

    async def _tell(self) -> None:
        await self._api.connection.write(publication(news_subject(self._group), b""))

    async def _step(self) -> None:
        await self._say()
        if await self._leads():
            await self._lead()
        await self._follow()
        if self._in and self._number >= 0:
            await self._say()  # before the worker hears of it
            if self._said is not None and self._said.generation == self._number:
                self._current = self._share.assignment
                self._changed.set()

    async def _say(self) -> None:
        """Be there for another session, with what is new."""
        me = self._member
        state = MemberState(
            me.version, me.fingerprint, me.address, self._stored, self._claims(), self._ready, self._number
        )
        now = self._now()
        if self._in and state == self._said and now < self._vouched + self._beat_s / 2:
            return  # woken by others; there is nothing to say
        words = Words(
            self._id,
            self._incarnation,
            me.name,
            state,
            [(task.name, task.slot) for task in self._wanted.tasks],
            self._wanted.stateful,
            self._wanted.standbys,
        )
        seq = await self._api.publish(self._subject, encode(words), after=self._seq, ttl_s=self._session_s)
        if seq is None:
            await self._replaced()
            return
        if self._now() >= now + self._session_s:
            self._out("this process stood still")
            return
        fresh = self._said is None or state != self._said
        self._seq, self._said, self._vouched, self._in = seq, state, now, True
        self._arm()
        if fresh:
            await self._tell()

    async def _replaced(self) -> None:
        """The last word under this name isn't the one that we know: an answer was lost, the session is over, or another
        worker has the name."""
        stored = await self._api.message(GROUPS, last_by_subj=self._subject)
        words = words_of(stored.payload) if stored is not None else None
        if stored is not None and words is not None and words.incarnation != self._incarnation and self._in:
            raise ConfigurationError(
                f"{self._api.connection.url}: group {self._group}: another worker is called {self._id!r}; give each a "
                f"name of its own"
            )
        if self._in and (words is None or words.incarnation != self._incarnation):
            self._out("the group has gone on without it")
        self._seq = stored.seq if stored is not None else 0
        self._said = None
        self._wake.set()

    async def _leads(self) -> bool:
        """Renew the lease, or take it where nobody has it."""
        subject, mine = subject_of(self._group, "lead"), self._incarnation.encode()
        if not self._in:
            return False
        if self._lead_seq and self._now() < self._led + self._beat_s / 2:
            return True
        now = self._now()
        if not self._lead_seq:
            stored = await self._api.message(GROUPS, last_by_subj=subject)
            if stored is not None and stored.payload and stored.payload != mine:
                return False
            self._lead_seq = stored.seq if stored is not None else 0
        seq = await self._api.publish(subject, mine, after=self._lead_seq, ttl_s=self._session_s)
        self._lead_seq, self._led = seq or 0, now
        return seq is not None

    async def _lead(self) -> None:
        """Divide anew, if there is a reason."""
        seq, before = await last_round(self._api, self._group)
        members = await heard(self._api, self._group)
        if self._id not in members:
            return  # a replica that is behind answered
        if before is None and self._now() < self._out_at + self._session_s:
            return  # the group has lost its memory: members that haven't noticed yet still run what they had
        if not self._due(members, before):
            return
        told = divide(self._group, members, before)
        number = (
            before.number + 1
            if before is not None
            else max(0, *(each.state.generation + 1 for each in members.values()), 0)
        )
        await self._api.publish(subject_of(self._group, "round"), encode(Round(number, self._id, told)), after=seq)
        self._round_at = self._now()
        await self._tell()

    def _due(self, members: dict[str, Words], before: Round | None) -> bool:
        if before is None or {id: each.incarnation for id, each in members.items()} != {
            id: each.incarnation for id, each in before.told.items()
        }:
            return True
        released = ready = False
        for id, told in before.told.items():
            state = members[id].state
            if state.generation < before.number:
                continue  # it hasn't heard of the round yet
            released |= bool(told.share.releases - state.held)
            ready |= bool(told.share.warmups & state.ready)
        if ready and not released and self._now() < self._round_at + NEWS_INTERVAL_S:
            return False
        return released or ready

    async def _follow(self) -> None:
        """Read the round; what it says to this life of the worker is what it follows."""
        _, round = await last_round(self._api, self._group)
        told = round.told.get(self._id) if round is not None else None
        if told is not None and told.incarnation != self._incarnation:
            if self._in and self._share != Share():
                self._said = None  # say it again, at the next beat: whether another life has this name shows there
            return
        if round is None or told is None:
            if self._share != Share():
                self._out("the group has gone on without it")
            return
        if round.number <= self._number or not self._in:
            return
        if told.share.reason and told.share.reason != self._share.reason:
            logger.warning("group %s: %s", self._group, told.share.reason)
        self._share, self._number = told.share, round.number
        assignment = told.share.assignment
        self._stored |= (assignment.active | assignment.standby) & self._wanted.stateful

    # ── in and out ────────────────────────────────────────────────────────────────────────────────────────────────

    def _claims(self) -> frozenset[str]:
        """What this worker may be running: what it says, and what it was told and may be about to start."""
        told = self._delivered.active if self._delivered is not None else frozenset[str]()
        return self._reported | told | self._share.assignment.active

    def _out(self, why: str) -> None:
        """This worker is no longer a member: its tasks end at once, and it joins anew, as another life."""
        self._incarnation = secrets.token_hex(8)
        self._lead_seq = 0
        self._said = None
        self._missed = self._missed or why
        self._wake.set()
        if self._in:
            logger.warning("group %s: this worker is out (%s); its tasks stop until it is in again", self._group, why)
            self._out_at = self._now()
        self._in = False
        self._share = Share()
        self._number = -1
        self._current = Assignment()
        self._was_out = True
        self._changed.set()

    def _arm(self) -> None:
        if self._lapse is not None:
            self._lapse.cancel()
        left = self._vouched + self._session_s - self._now()
        self._lapse = asyncio.get_running_loop().call_later(max(0.0, left), self._check_lapse)

    def _check_lapse(self) -> None:
        if not self._in:
            return
        if self._now() >= self._vouched + self._session_s:
            self._out(f"no word of it was taken for {self._session_s:g} s")
        else:
            self._arm()  # a timer may fire a moment early

    @staticmethod
    def _now() -> float:
        # Not the loop's time: uvloop takes that once a turn, and the process may have been stopped since.
        return time.monotonic()
