"""Requests that aiokafka hasn't got: metadata with the topics' ids, and fetching by them (KIP-516).

What must live here: the layout of messages (kafka.apache.org/protocol).  What must not: sending them.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest_v11
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

__all__ = ["FetchByIdRequest", "MetadataRequest"]


ANY = NOT_A_REPLICA = NO_SESSION_EPOCH = -1
NO_SESSION = 0
READ_COMMITTED = 1


class Uuid(AbstractType[UUID]):
    """16 bytes (KIP-516)."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class MetadataResponse_v10(Response):
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class MetadataRequest_v10(RequestStruct):
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = MetadataResponse_v10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class MetadataRequest(Request[MetadataRequest_v10]):
    """Brokers, cluster id, and the named topics with their ids; all topics for None.  Creates none."""

    API_KEY = 3

    def __init__(self, names: list[str] | None) -> None:
        self._names = names

    def build(self, request_struct_class: type[MetadataRequest_v10]) -> Any:
        named: list[Any] | None = None if self._names is None else [(UUID(int=0), name, {}) for name in self._names]
        return request_struct_class(named, False, False, False, {})


class FetchResponse_v13(Response):
    API_KEY = 1
    API_VERSION = 13
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("high_watermark", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        (
                            "aborted_transactions",
                            CompactArray(("producer_id", Int64), ("first_offset", Int64), ("tags", TaggedFields)),
                        ),
                        ("preferred_read_replica", Int32),
                        ("records", CompactBytes),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class FetchRequest_v13(RequestStruct):
    API_KEY = 1
    API_VERSION = 13
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = FetchResponse_v13
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("max_wait_ms", Int32),
        ("min_bytes", Int32),
        ("max_bytes", Int32),
        ("isolation_level", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("fetch_offset", Int64),
                        ("last_fetched_epoch", Int32),
                        ("log_start_offset", Int64),
                        ("max_bytes", Int32),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("forgotten", CompactArray(("topic_id", Uuid), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))),
        ("rack_id", CompactString("utf-8")),
        ("tags", TaggedFields),
    )


class FetchByIdRequest(Request[FetchRequest_v11 | FetchRequest_v13]):
    """Committed records of partitions (topic, its id, number, offset), by the topic's id where the broker knows how to:
    a topic that was deleted and created again is then another one, whatever its offsets.

    ``wait_ms`` for the first byte at most; ``max_bytes`` in all, ``partition_bytes`` of each.
    """

    API_KEY = 1

    def __init__(
        self, wait_ms: int, max_bytes: int, partition_bytes: int, partitions: list[tuple[str, str, int, int]]
    ) -> None:
        self._limits = (wait_ms, 1, max_bytes)
        self._partition_bytes = partition_bytes
        self._partitions = partitions

    def build(self, request_struct_class: type[RequestStruct]) -> Any:
        topics: dict[Any, list[Any]] = {}
        most = self._partition_bytes
        by_id = request_struct_class is FetchRequest_v13
        for topic, topic_id, number, offset in self._partitions:
            if by_id:
                topics.setdefault(UUID(topic_id), []).append((number, ANY, offset, ANY, ANY, most, {}))
            else:
                topics.setdefault(topic, []).append((number, ANY, offset, ANY, most))
        whole = (NOT_A_REPLICA, *self._limits, READ_COMMITTED, NO_SESSION, NO_SESSION_EPOCH)
        if by_id:
            return request_struct_class(*whole, [(key, held, {}) for key, held in topics.items()], [], "", {})
        return request_struct_class(*whole, list(topics.items()), [], "")
