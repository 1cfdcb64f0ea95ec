"""What happens to a record that can't be processed.

What must live here: the policy and its three outcomes.  What must not: finding the failure (``core.mapping``).

    fail          the task stops with an error that names topic, partition and position; nothing is committed
    dead_letter   the original bytes go to the dead-letter topic in the same commit, with cause and position
    skip          the record is passed over and counted
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streams.core.batch import Batch, Origin
from streams.core.log import TopicSpec
from streams.core.mapping import describe_failure
from streams.core.outputs import Outputs
from streams.core.record import Headers, TopicPartition
from streams.errors import DerivedValueFailed, RecordFailed, RetryableError, ServiceRefused, WrongPartition

Action = Literal["fail", "dead_letter", "skip"]

MAX_WORDS = 1000
"""Characters of an error kept in a dead letter's header: a value's repr may be larger than a record may be."""


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """The policy of a stream.  ``dead_letters`` is the topic, given when the action is dead_letter."""

    action: Action = "fail"
    dead_letters: TopicSpec | None = None


FAIL = ErrorPolicy()


class Failures:
    """Carries the policies out for one task, and counts."""

    def __init__(self, outputs: Outputs, task_id: str) -> None:
        self._outputs = outputs
        self._task_id = task_id
        self.skipped: dict[str, int] = {}
        self.dead_lettered: dict[str, int] = {}

    def drop(self, batch: Batch, failed: Sequence[tuple[int, Exception]], operator: str, policy: ErrorPolicy) -> Batch:
        """The batch without its failed elements, each of which met the policy.  Raises RecordFailed on ``fail``."""
        for index, error in failed:
            self.handle(batch.origin, batch.rows[index], error, operator, policy, batch.keys[index], batch.times[index])
        return batch.without([index for index, _ in failed])

    def handle(
        self,
        origin: Origin | None,
        row: int,
        error: Exception,
        operator: str,
        policy: ErrorPolicy,
        key: bytes | None = None,
        time: int = 0,
    ) -> None:
        """Let the record at ``row`` of ``origin`` meet the policy; without an origin, the value derived for ``key``,
        with its event time."""
        if isinstance(error, WrongPartition | RetryableError | ServiceRefused):
            # An outage or a wrong setting says nothing about the record: no policy may drop it for that.
            raise error
        if policy.action == "skip":
            error.with_traceback(None)  # its frames hold the batch
            self.skipped[operator] = self.skipped.get(operator, 0) + 1
            return
        if origin is None:
            self._derived(key, time, error, operator, policy)
            return
        fetched = origin.fetched
        topic, partition = fetched.partition
        if policy.action == "fail":
            raise RecordFailed(
                describe_failure(error),
                topic=topic,
                partition=partition,
                offset=fetched.offsets[row],
                operator=operator,
            ) from error
        assert policy.dead_letters is not None, "a dead_letter policy names its topic"
        records = fetched.records
        headers: Headers = (
            *((records.headers[row] or ()) if records.headers is not None else ()),
            ("streams.error", describe_failure(error)[:MAX_WORDS].encode()),
            ("streams.operator", operator.encode()),
            ("streams.topic", topic.encode()),
            ("streams.partition", str(partition).encode()),
            ("streams.offset", str(fetched.offsets[row]).encode()),
        )
        target = TopicPartition(policy.dead_letters.name, partition % policy.dead_letters.partitions)
        original = records.values[row]
        if not self._outputs.takes(records.keys[row], original, headers):
            # With the headers it would be more than the log takes; where it was read, the original still is.
            original, headers = None, (*headers, ("streams.truncated", b"value"))
        self._outputs.add(target, [records.keys[row]], [original], [records.timestamps[row]], [headers])
        self.dead_lettered[operator] = self.dead_lettered.get(operator, 0) + 1

    def _derived(self, key: bytes | None, time: int, error: Exception, operator: str, policy: ErrorPolicy) -> None:
        """A window or timer emitted a value that can't be processed: its letter has no original bytes to carry."""
        if policy.action == "fail" or policy.dead_letters is None:
            raise DerivedValueFailed(
                f"task {self._task_id}: {operator}: {describe_failure(error)[:MAX_WORDS]}, for a value that a window, "
                f"batch or timer emitted under key {key!r}; fix the code, or set on_error='dead_letter' or 'skip'"
            ) from error
        headers: Headers = (
            ("streams.error", describe_failure(error)[:MAX_WORDS].encode()),
            ("streams.operator", operator.encode()),
            ("streams.task", self._task_id.encode()),
        )
        target = TopicPartition(policy.dead_letters.name, 0)
        self._outputs.add(target, [key], [None], [time], [headers])
        self.dead_lettered[operator] = self.dead_lettered.get(operator, 0) + 1
