"""From Kafka's error codes to the errors of this project.

What must live here: which code means wait, reconfigure or give way.  What must not: deciding what to do then.
"""

from __future__ import annotations

import aiokafka.errors

from streams.errors import ConfigurationError, DataError, Fenced, LogUnavailable, StreamsError

__all__ = [
    "COORDINATOR_MOVED",
    "MOVED",
    "Code",
    "error_for",
    "name_of",
]


class Code:
    """The codes that are told apart (kafka.apache.org/protocol, "Error Codes")."""

    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER = 6
    REQUEST_TIMED_OUT = 7
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    COORDINATOR_LOADING = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    OUT_OF_ORDER_SEQUENCE = 45
    DUPLICATE_SEQUENCE = 46
    INVALID_PRODUCER_EPOCH = 47
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    KAFKA_STORAGE_ERROR = 56
    UNKNOWN_PRODUCER_ID = 59
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    OFFSET_NOT_AVAILABLE = 78
    PRODUCER_FENCED = 90
    UNKNOWN_TOPIC_ID = 100
    INCONSISTENT_TOPIC_ID = 103


MOVED = frozenset(
    {
        Code.UNKNOWN_TOPIC_OR_PARTITION,
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_LEADER,
        Code.REPLICA_NOT_AVAILABLE,
        Code.KAFKA_STORAGE_ERROR,
        Code.FENCED_LEADER_EPOCH,
        Code.UNKNOWN_LEADER_EPOCH,
        Code.OFFSET_NOT_AVAILABLE,
        Code.UNKNOWN_TOPIC_ID,
        Code.INCONSISTENT_TOPIC_ID,
    }
)
"""The partition may have another leader by now: look again, and ask there."""

COORDINATOR_MOVED = frozenset({Code.COORDINATOR_LOADING, Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR})
"""The coordinator may be another broker by now, or isn't ready."""

_FENCED = frozenset({Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED})
_NOT_ALLOWED = {
    Code.TOPIC_AUTHORIZATION_FAILED: "an ACL for the topic (Read, Write, Describe; Create to make it; everything for "
    "topics that begin with the app's name and a dot)",
    Code.GROUP_AUTHORIZATION_FAILED: "an ACL for the group, which has the app's name (Read)",
    Code.CLUSTER_AUTHORIZATION_FAILED: "an ACL for the cluster (Create, IdempotentWrite)",
    Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "an ACL for transactional ids that begin with the app's name "
    "(Write, Describe)",
}


_MISCONFIGURED = {
    17: "give the topic another name",
    24: "give the app another name",
    26: "choose a session_timeout_ms that the broker's group.min.session.timeout.ms and …max… allow",
    32: "raise the topic's message.timestamp.before.max.ms or message.timestamp.after.max.ms",
    35: "Kafka 2.8 or later is needed",
    38: "set replication in the log's URL to what the cluster can hold",
    44: "ask who runs the cluster for its policy on topics",
    50: "lower transaction_timeout_ms in the log's URL to the broker's transaction.max.timeout.ms or less",
    76: "choose another compression in the log's URL",
    87: "look at what the broker validates for the topic",
}
"""What trying again doesn't mend, and what does."""


def name_of(code: int) -> str:
    """The name of a code as Kafka's documents have it."""
    kind = aiokafka.errors.kafka_errors.get(code)
    return f"{kind.message} ({code})" if kind is not None else f"error {code}"


def error_for(code: int, what: str) -> StreamsError:
    """The error to raise for a code.  ``what``: where it is and what was tried, as in "kafka://…: task shop.a-0"."""
    if code in _FENCED:
        return Fenced(f"{what}: another owner has taken over, or the broker timed the transaction out; nothing stored")
    if code in _NOT_ALLOWED:
        return ConfigurationError(f"{what}: not allowed ({name_of(code)}); give the user {_NOT_ALLOWED[code]}")
    if code in (Code.MESSAGE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE):
        return DataError(
            f"{what}: larger than the topic's max.message.bytes allows ({name_of(code)}); raise that, or lower "
            f"batch_bytes and max_record_bytes in the log's URL"
        )
    if code in _MISCONFIGURED:
        return ConfigurationError(f"{what}: {name_of(code)}; {_MISCONFIGURED[code]}")
    return LogUnavailable(f"{what}: {name_of(code)}")
