"""A task: a subtopology at work on one partition, as pure code.

What must live here: the step from buffered inputs to outputs and state changes, the advance of event time, and what a
commit consists of.  What must not: I/O on a log, clocks, asyncio.  ``runtime.driver`` feeds it and carries out what
it captures.

    accept ──▶ buffered ── step ──▶ outputs, overlay, positions ── capture ──▶ Captured ── (commit) ── committed
                             │
                             └─ the watermark reached a window or a timer: advancing, slice by slice, each committed

The unit of commit is a slice of a step (protocol 6).  While ``advancing`` is set nothing else is processed, after a
restart neither: what is left in the state below that watermark is the cursor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from streams.core.batch import FOREVER, NEVER, Batch, Origin
from streams.core.checkpoint import Checkpoint, partition_key
from streams.core.context import TaskContext
from streams.core.graph import (
    Mailbox,
    Node,
    Processor,
    SourceNode,
    Subtopology,
    TimedProcessor,
    WallProcessor,
    fan_out,
    needs_record_order,
)
from streams.core.inputs import Input, Piece, SourceProcessor, choose
from streams.core.log import Append
from streams.core.outputs import Outputs
from streams.core.plan import Captured, Plan, assign_prefixes, changelog_records
from streams.core.policy import Failures
from streams.core.record import START, Fetched, Position, Records, TopicPartition
from streams.core.state import CacheBudget, KeyedState, State, StateSpec, UnencodableState, WindowedState
from streams.core.store import Changes, Store, StoreState, StoreView, prefix_bytes
from streams.core.watermark import (
    MARK_HEADER,
    InputWatermark,
    Mark,
    MarkedWatermark,
    SourceWatermark,
    combine,
    encode_mark,
)


class Task:
    """Belongs to one claim; after any error it is thrown away and built anew from the checkpoint.

    identities: by state name, the identity of its changelog topic.
    """

    def __init__(
        self,
        subtopology: Subtopology,
        partition: int,
        *,
        plan: Plan,
        checkpoint: Checkpoint,
        store: Store,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        self.id = subtopology.task_id(partition)
        self.partition = partition
        self.checkpoint = checkpoint
        self._plan = plan
        self._store = store
        self._identities = dict(identities or {})
        self._prefixes = assign_prefixes(store.state, subtopology.states)
        self.states: dict[str, State] = {name: self._open(spec, store) for name, spec in subtopology.states.items()}
        internal = {spec.name for node in subtopology.nodes for spec in node.writes if spec.kind != "user"}
        self.outputs = Outputs(plan.limits, internal)
        self.failures = Failures(self.outputs, self.id)
        self.context = TaskContext(
            self.id,
            partition,
            outputs=self.outputs,
            failures=self.failures,
            states=self.states,
            siblings=subtopology.partitions,
            partitions=plan.partitions,
            partitioner=plan.partitioner,
            spreads=plan.spreads,
            thresholds=plan.thresholds,
        )
        self.watermark = self.context.watermark = checkpoint.watermark
        self.advancing = checkpoint.advancing
        self.must_commit = False
        self.dirty = False
        self.records_in = 0
        largest = max(1, min(plan.thresholds.piece_records, plan.limits.max_commit_records))
        self._piece_records = 1 if needs_record_order(subtopology.nodes) else largest
        self._requests_first = True
        self._piece_rows = 1  # it doubles: what the first records expand to isn't known yet
        self._spread = 1.0
        self._weighed = False
        self._change_bytes = plan.thresholds.guessed_change_bytes
        self._marked: tuple[int, bool] = (NEVER, False)
        self._marked_at_ms: int | None = None
        self._captured_ms = 0
        self.processors: dict[Node, Processor] = {}
        self._delays: dict[int, int] = {}
        self._build(subtopology.nodes)
        self._timed = [
            (cast(TimedProcessor, self.processors[node]), self._delays[id(node)])
            for node in subtopology.nodes
            if hasattr(self.processors[node], "advance")
        ]
        self.mailboxes = [
            cast(Mailbox, self.processors[node]) for node in subtopology.nodes if hasattr(self.processors[node], "mail")
        ]
        self._ordered = [(each, delay) for each, delay in self._timed if getattr(each, "in_order", False)]
        self._holding = [each.holding for each in self.processors.values() if hasattr(each, "holding")]
        self._wall = [cast(WallProcessor, each) for each in self.processors.values() if hasattr(each, "tick")]
        self._marked_topics = [
            (spec.name, self._delays[id(node)])
            for node in subtopology.nodes
            for spec in node.writes
            if spec.kind == "repartition"
        ]
        self.inputs = [self._input(cast(SourceNode, node)) for node in subtopology.sources]
        self._watermarks = [each.watermark for each in self.inputs if each.timed]
        self.ends: Mapping[TopicPartition, Position] = {}

    # ── building ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, spec: StateSpec, store: Store) -> State:
        budget = CacheBudget(self._plan.state_cache_bytes, self._plan.thresholds.weighed_values)
        view = StoreView(store, prefix_bytes(self._prefixes[spec.name]))
        if spec.kind == "windowed":
            return WindowedState(view, store, spec.encode, spec.decode, budget=budget)
        return KeyedState(view, spec.encode, spec.decode, budget=budget)

    def _build(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._delays[id(node)] = max((self._delays[id(up)] + up.holds_ms for up in node.upstream), default=0)
        for node in reversed(nodes):
            children = [self.processors[each].process for each in nodes if node in each.upstream]
            self.context.processor_delay_ms = self._delays[id(node)]
            self.processors[node] = node.build(self.context, fan_out(children))

    def _input(self, node: SourceNode) -> Input:
        assert node.reads is not None
        partition = TopicPartition(node.reads.name, self.partition)
        key = partition_key(partition)
        saved = self.checkpoint.inputs.get(key)
        watermark: InputWatermark
        upstream = self._plan.upstream_tasks.get(node.reads.name)
        watermark = MarkedWatermark(upstream, saved) if upstream else SourceWatermark(node.slack_ms, saved)
        return Input(
            partition,
            self.checkpoint.positions.get(key, START),
            cast(SourceProcessor, self.processors[node]),
            watermark,
            timed=node.timed,
            aligned=node.aligned,
            idle_after_ms=None if upstream else node.idle_after_ms,
        )

    # ── facts in ──────────────────────────────────────────────────────────────────────────────────────────────────

    def wanted(self) -> list[TopicPartition]:
        """The partitions of which more may be buffered now: the bound that carries backpressure to the source."""
        return [each.partition for each in self.inputs if each.waiting < 2 * self._plan.thresholds.piece_records]

    def accept(self, fetched: Fetched, now_ms: int) -> None:
        """Buffer a batch that was read."""
        for each in self.inputs:
            if each.partition == fetched.partition:
                each.heard_at_ms = now_ms
                each.accept(fetched)

    def tick(self, now_ms: int) -> None:
        """Tell the time: inputs that have been silent for long turn idle, and the watermark goes on without them."""
        changed = False
        for each in self.inputs:
            if each.heard_at_ms is None:
                each.heard_at_ms = now_ms
            if each.waiting or each.idle_after_ms is None or self._behind(each):
                continue
            if now_ms - each.heard_at_ms >= each.idle_after_ms:
                changed |= each.watermark.silent()
        if changed:
            self.dirty = True
            self._move_watermark()
        for processor in self._wall:
            self.dirty |= processor.tick(now_ms)

    def _behind(self, each: Input) -> bool:
        end = self.ends.get(each.partition)
        return end is None or not each.buffered.reached(end)

    @property
    def caught_up(self) -> bool:
        """Nothing is buffered, nothing known to the log is unread, nothing waits for a commit, and downstream tasks
        have heard how far event time has come."""
        return (
            not self.dirty
            and not (self._marked_topics and self._mark() != self._marked)
            and self.advancing is None
            and not any(each.waiting or self._behind(each) for each in self.inputs)
        )

    # ── work ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> bool:
        """Process the next piece, or the next slice of what is due.  False when there is nothing to do now."""
        assert not self.must_commit, "a slice that is full is committed before the next step"
        if self.advancing is not None:
            self._advance(self.advancing)
            return True
        if self._move_watermark():  # a piece whose agents had to finish first left that to do
            return True
        moved = False
        for each in self.inputs:
            moved |= each.settle_marks()
        if moved:
            self.dirty = True
            if self._move_watermark():
                return True
        chosen = choose(self.inputs, self._behind, requests_first=self._requests_first)
        if chosen is None:
            return moved
        source, before = chosen
        self._requests_first = source.aligned
        until = self._next_timer(source)
        if until < FOREVER and self._reach(source, until):
            return True
        self._process(source, source.take(self._rows(), before=before, until=until))
        return True

    def _reach(self, source: Input, until: int) -> bool:
        """Let the next record move event time before it is taken, where that makes a timer due: it fires first."""
        head = source.head_time()
        if head is None or head < until or not source.timed:
            return False
        source.watermark.observe(head)
        return self._move_watermark()

    def _rows(self) -> int:
        """How many rows may be taken so that what follows from them fits into the commit, as far as can be told."""
        dirty = sum(state.dirty_count for state in self.states.values())
        return max(1, min(self._piece_rows, int(self.outputs.room / self._spread), self._dirty_bound - dirty))

    def _next_timer(self, source: Input) -> int:
        """From which timestamp on a record of ``source`` makes a timer due; FOREVER if it can't."""
        if not self._ordered or not source.timed or not isinstance(source.watermark, SourceWatermark):
            return FOREVER  # marks move event time, and not the records between them
        deadline = min(each.deadline() + delay for each, delay in self._ordered)
        others = [each.watermark for each in self._watermarks if each is not source.watermark and not each.idle]
        if min(others, default=FOREVER) < deadline:
            return FOREVER
        return deadline + source.watermark.slack_ms if deadline < FOREVER else FOREVER

    def _process(self, source: Input, piece: Piece) -> None:
        before = self.watermark
        if piece.times:
            source.watermark.observe(max(piece.times))
        after = combine(self._watermarks, before) if source.timed else before
        others = [each.watermark for each in self._watermarks if each is not source.watermark and not each.idle]
        origin = Origin(
            piece.fetched,
            piece.first,
            piece.times_by_row(),
            before=before,
            after=after,
            ceiling=min(others, default=FOREVER),
            slack_ms=source.watermark.slack_ms,
        )
        self.dirty = True
        source.position = piece.position
        produced = self.outputs.count
        if piece.failures:
            source.source.failed(origin, piece.failures)
        if piece.values:
            self.records_in += len(piece.values)
            source.source.process(Batch(piece.keys, piece.values, piece.times, piece.rows, origin))
        self._spread = max(1.0, (self.outputs.count - produced) / piece.row_count, self._spread * 0.9)
        self._piece_rows = min(self._piece_records, self._piece_rows * 2)
        if after > before and not self.mail_waits:
            self._begin_advance(after)
        self.check_bounds()

    @property
    def mail_waits(self) -> bool:
        """Agents have events to handle: nothing is committed and event time stands still until they have."""
        return any(box.mail for box in self.mailboxes)

    def pace(self, took_s: float, wanted_s: float) -> None:
        """Agents took that long over a piece: make the next ones smaller while that holds up the commit."""
        if took_s > wanted_s:
            self._piece_rows = max(1, self._piece_rows // 4)

    def check_bounds(self) -> None:
        """Ask for a commit when outputs or changed state have reached their bounds."""
        if not self._weighed and any(state.dirty_count for state in self.states.values()):
            self.must_commit = True  # the first commit is small: it tells how much a changed state weighs
        if self.outputs.full or sum(state.dirty_count for state in self.states.values()) >= self._dirty_bound:
            self.must_commit = True

    def _move_watermark(self) -> bool:
        after = combine(self._watermarks, self.watermark)
        if after <= self.watermark:
            return False
        self._begin_advance(after)
        return True

    def _next_deadline(self) -> int:
        return min((each.deadline() + delay for each, delay in self._timed), default=FOREVER)

    def _begin_advance(self, watermark: int) -> None:
        if self._next_deadline() > watermark:
            self.watermark = self.context.watermark = watermark
        else:
            self.advancing = watermark
            self._advance(watermark)

    def _advance(self, watermark: int) -> None:
        """Let event time come to ``watermark``, from one deadline to the next, so that what is due earlier comes first
        whichever operator it is due in.  Stops where the slice is full."""
        self.dirty = True
        while (due := self._next_deadline()) <= watermark:
            # A timer may set another one that is due before the watermark: it fires at its own time, not behind it.
            step = watermark if len(self._timed) == 1 and not self._ordered else due
            self.context.watermark = max(self.context.watermark, due - 1)
            for each, delay in self._timed:
                if not each.advance(step - delay):
                    self.must_commit = True
                    return
                if self.mail_waits:  # what an agent makes of it comes before anything that is due later
                    return
        self.watermark = self.context.watermark = watermark
        self.advancing = None
        self.check_bounds()

    # ── commit ────────────────────────────────────────────────────────────────────────────────────────────────────

    def mark_due(self, now_ms: int) -> bool:
        """True when downstream tasks should hear of the watermark, even if there is nothing else to commit."""
        if not self._marked_topics or self._mark() == self._marked:
            return False
        return self._marked_at_ms is None or now_ms - self._marked_at_ms >= self._plan.watermark_interval_ms

    def _mark(self) -> tuple[int, bool]:
        held = min((holding() for holding in self._holding), default=FOREVER)
        return max(NEVER, min(self.watermark, held)), all(each.idle for each in self._watermarks)

    def capture(self, now_ms: int) -> Captured:
        """Everything since the last commit, as one.  Nothing may be processed until it is committed."""
        self._captured_ms = now_ms
        number = self.checkpoint.number + 1
        appends = self.outputs.take()
        if self.mark_due(now_ms):
            appends.extend(self._marks(number, now_ms))
        changes: dict[str, list[tuple[bytes, Changes]]] = {}
        for name, state in self.states.items():
            taken = state.take_changes()
            if taken:
                self._check_sizes(name, taken)
                changes[name] = taken
                appends.append(
                    Append(TopicPartition(self._plan.changelog(name), self.partition), changelog_records(taken, now_ms))
                )
        self._weigh(changes)
        checkpoint = msgspec.structs.replace(
            self.checkpoint,
            number=number,
            positions={
                **self.checkpoint.positions,
                **{partition_key(each.partition): each.position for each in self.inputs},
            },
            watermark=self.watermark,
            advancing=self.advancing,
            inputs={partition_key(each.partition): each.watermark.save() for each in self.inputs},
        )
        return Captured(checkpoint, appends, {each.partition: each.position for each in self.inputs}, changes)

    def _check_sizes(self, name: str, taken: Sequence[tuple[bytes, Changes]]) -> None:
        limit = self._plan.limits.max_record_bytes
        for _, changes in taken:
            for key, value in changes.puts if changes.largest_bytes + 1_000 > limit else ():
                if len(value) + len(key) + 16 > limit:
                    raise UnencodableState(
                        f"task {self.id}: the value of key {key!r} in {name} has {len(value)} bytes, and the log "
                        f"takes at most {limit} (its max_record_bytes); keep less in one value, or raise the limit in "
                        f"the log's URL"
                    )

    def _weigh(self, changes: Mapping[str, list[tuple[bytes, Changes]]]) -> None:
        """Learn how large changed states are, which bounds how many may wait for a commit."""
        weighed = 2 * self._plan.thresholds.weighed_values
        puts = [put for parts in changes.values() for _, each in parts for put in each.puts[:weighed]]
        self._weighed = self._weighed or bool(changes)
        if puts:
            mean = sum(len(key) + len(value) for key, value in puts) // len(puts)
            self._change_bytes = max(64, mean, self._change_bytes // 2)

    @property
    def _dirty_bound(self) -> int:
        fit = self._plan.limits.max_commit_bytes // 4 // self._change_bytes
        return max(1, min(self._plan.thresholds.dirty_entries, fit))

    def _marks(self, number: int, now_ms: int) -> list[Append]:
        self._marked, self._marked_at_ms = self._mark(), now_ms
        watermark, idle = self._marked
        appends = []
        for topic, delay in self._marked_topics:
            mark = encode_mark(Mark(self.id, max(NEVER, watermark - delay), idle, self.checkpoint.epoch, number))
            for partition in range(self._plan.partitions[topic]):
                records = Records([None], [mark], [now_ms], [((MARK_HEADER, b""),)])
                appends.append(Append(TopicPartition(topic, partition), records))
        return appends

    def committed(self, captured: Captured, ends: Mapping[TopicPartition, Position]) -> None:
        """The log has committed ``captured``: only now is the state applied, with the identity of the commit."""
        self.checkpoint = captured.checkpoint
        self.must_commit = False
        self.dirty = False
        if captured.changes:
            self._apply(captured.changes, ends)
        for state in self.states.values():
            state.applied()

    def _apply(self, taken: Mapping[str, list[tuple[bytes, Changes]]], ends: Mapping[TopicPartition, Position]) -> None:
        known = self._store.state
        changelogs = dict(known.changelogs) if known is not None else {}
        flat: dict[bytes, Changes] = {}
        for name, parts in taken.items():
            changelogs[name] = ends[TopicPartition(self._plan.changelog(name), self.partition)]
            for sub, changes in parts:
                flat[prefix_bytes(self._prefixes[name]) + sub] = changes
        self._store.apply(flat, self.store_state(changelogs))

    def store_state(self, changelogs: Mapping[str, Position]) -> StoreState:
        """The identity that the store's contents stand for."""
        made = self.checkpoint
        return StoreState(
            made.log_id,
            made.epoch,
            made.number,
            dict(changelogs),
            self._prefixes,
            self._identities,
            made.claim,
            self._captured_ms,
        )
