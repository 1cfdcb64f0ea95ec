"""Every error that the project raises on purpose.

What must live here: the tree and the words.  What must not: decisions about retrying (``runtime``).

    StreamsError
    ├── ConfigurationError      reconfigure: what was asked for can't be had; nothing was started
    │   ├── TopologyError         the graph contradicts itself (names, co-partitioning, two writers)
    │   ├── TopologyChanged       the log holds the state of another, incompatible topology
    │   ├── GuaranteeError        the guarantee asked for can't be derived from the capabilities
    │   ├── TopicMismatch         a topic exists with other settings than declared
    │   ├── LogLocked             another process holds the embedded log
    │   ├── StoreLocked           a store is open already, here or in another process
    │   └── ServiceRefused        another service that a task needs (a schema registry) turns it down
    ├── DataError               the data is bad, or gone: a person has to choose
    │   ├── RecordFailed          a record can't be processed (decoding, user code, size)
    │   ├── DerivedValueFailed    as RecordFailed, for what a window, batch or timer emitted
    │   ├── PositionLost          the log no longer holds the position that a task needs
    │   ├── PositionBeyondEnd     the log ends before the position that a task has committed
    │   ├── TopicRecreated        the topic is not the one that the position was taken from
    │   ├── LogCorrupt            what is stored doesn't read back
    │   └── WrongPartition        a key was written that belongs to another task
    ├── RetryableError          try again: the task is closed dirty and starts from its last commit
    │   ├── Fenced                another owner has claimed the task since
    │   ├── CommitUnknown         the outcome of a commit isn't known; the log is read to resolve it
    │   ├── LogUnavailable        the log can't be reached or can't take a write now (disk full)
    │   │   └── ConnectionBroken    a server was reached, and the connection ended or no answer came
    │   ├── ServiceUnavailable    another service that a task needs (a schema registry) can't be reached now
    │   ├── StoreUnavailable      a store can't take a read or write now (disk full, closed)
    │   ├── StoreCorrupt          a store doesn't read back; it is set aside and rebuilt from the log
    │   └── AgentStuck            an agent didn't return before the barrier's deadline
    └── RequestError            the answer to one request, not a fault of the task
        ├── AskCycle              an agent asked a task that waits in the same chain of calls
        ├── AskTimeout            no reply before the deadline
        └── AgentFailed           the agent raised while it handled the request

Each message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "AgentFailed",
    "AgentStuck",
    "AskCycle",
    "AskTimeout",
    "CommitUnknown",
    "ConfigurationError",
    "ConnectionBroken",
    "DataError",
    "DerivedValueFailed",
    "Fenced",
    "GuaranteeError",
    "LogCorrupt",
    "LogLocked",
    "LogUnavailable",
    "PositionBeyondEnd",
    "PositionLost",
    "RecordFailed",
    "RequestError",
    "RetryableError",
    "ServiceRefused",
    "ServiceUnavailable",
    "StoreCorrupt",
    "StoreLocked",
    "StoreUnavailable",
    "StreamsError",
    "TopicMismatch",
    "TopicRecreated",
    "TopologyChanged",
    "TopologyError",
    "WrongPartition",
]


class StreamsError(Exception):
    """Root of the tree; catches everything that the project raises on purpose."""


class ConfigurationError(StreamsError):
    """What was asked for can't be had.  Nothing was started; change the configuration."""


class TopologyError(ConfigurationError):
    """The graph contradicts itself: a name used twice, inputs not co-partitioned, two writers of a table."""


class TopologyChanged(ConfigurationError):
    """The log holds the state of an incompatible topology; the message lists the changes and the choices."""


class GuaranteeError(ConfigurationError):
    """The guarantee asked for can't be derived from the capabilities of a connector."""


class TopicMismatch(ConfigurationError):
    """A topic exists with other settings than the app declares."""


class LogLocked(ConfigurationError):
    """Another process holds the embedded log; the message names it."""


class StoreLocked(ConfigurationError):
    """A store is open already, in this process or in another one."""


class ServiceRefused(ConfigurationError):
    """A service beside the log turns down what a task asks of it: a wrong password, an incompatible schema."""


class DataError(StreamsError):
    """The data is bad or gone.  Retrying doesn't help; a person has to choose."""


class RecordFailed(DataError):
    """A record can't be processed.  Carries where it was read and which operator refused it."""

    def __init__(self, reason: str, *, topic: str, partition: int, offset: int, operator: str) -> None:
        self.reason = reason
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.operator = operator
        super().__init__(
            f"{topic}[{partition}]@{offset}: {operator}: {reason}; fix the code or the record, "
            f"or give the stream on_error='dead_letter' or 'skip'"
        )


class DerivedValueFailed(DataError):
    """A value that a window, a batch or a timer emitted can't be processed; no single record stands behind it."""


class PositionLost(DataError):
    """The log no longer holds the position that a task needs (retention went past it)."""

    def __init__(self, *, topic: str, partition: int, position: int, first: int) -> None:
        self.topic = topic
        self.partition = partition
        self.position = position
        self.first = first
        super().__init__(
            f"{topic}[{partition}]: the task stands at {position} but the log starts at {first}: "
            f"{first - position} records were removed unread; keep the topic longer, or go on from the first "
            f"record that is left with on_lost='earliest'"
        )


class PositionBeyondEnd(DataError):
    """The log ends before a position that was committed: it lost its tail, or is another log."""


class TopicRecreated(DataError):
    """The topic was deleted and created again, so positions in it mean nothing any more."""


class LogCorrupt(DataError):
    """What is stored in the log doesn't read back."""


class WrongPartition(DataError):
    """A table was written under a key that another task owns."""


class RetryableError(StreamsError):
    """The task is closed dirty and starts again from its last commit."""


class Fenced(RetryableError):
    """Another owner has claimed the task since; nothing of the refused commit was stored."""


class CommitUnknown(RetryableError):
    """The outcome of a commit isn't known.  Resolved by claiming again and reading the checkpoint."""


class LogUnavailable(RetryableError):
    """The log can't be reached or can't take the write now; nothing of it was stored."""


class ConnectionBroken(LogUnavailable):
    """A server was reached, and then the connection ended, or no answer came.  The address is right, so that this is an
    outage and waited out, at the start of a worker as well."""


class ServiceUnavailable(RetryableError):
    """A service beside the log that a task needs, such as a schema registry, can't be reached now.  Waited out."""


class StoreUnavailable(RetryableError):
    """A store can't take a read or write now (disk full, closed).  Close it; it stands at its last whole write."""


class StoreCorrupt(RetryableError):
    """What a store holds doesn't read back.  It is a cache: it is set aside and rebuilt from the changelog."""


class AgentStuck(RetryableError):
    """An agent didn't return before the barrier's deadline."""


class RequestError(StreamsError):
    """The answer to one request; the task that handled it goes on."""


class AskCycle(RequestError):
    """An agent asked a task that waits in the same chain of calls; it could never answer."""


class AskTimeout(RequestError):
    """No reply came before the deadline.  The request may still be carried out."""


class AgentFailed(RequestError):
    """The agent raised while it handled the request; the message carries its words."""
