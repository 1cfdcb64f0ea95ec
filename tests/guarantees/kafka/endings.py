"""Transactions whose end is decided and not yet carried out: Kafka answers the request for an end in between.

What must live here: waiting for them.  What must not: whether a transaction is open (``verifier.hanging``).

A coordinator that has written down how a transaction ends (``PrepareCommit``, ``PrepareAbort``) answers, and then tells
each partition.  Until it has, a partition looks as if the transaction were open, and the group's offsets are the old
ones.  The request is KIP-664's, which aiokafka hasn't got.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

__all__ = ["until_ends_are_carried_out"]

DECIDED = ["PrepareCommit", "PrepareAbort"]
LOADING = 14
"""COORDINATOR_LOAD_IN_PROGRESS: ask again."""
POLL_S = 0.05


class ListTransactionsResponse_v0(Response):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(CompactString("utf-8"))),
        (
            "transactions",
            CompactArray(
                ("transactional_id", CompactString("utf-8")),
                ("producer_id", Int64),
                ("state", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class ListTransactionsRequest_v0(RequestStruct):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ListTransactionsResponse_v0
    SCHEMA = Schema(
        ("state_filters", CompactArray(CompactString("utf-8"))),
        ("producer_id_filters", CompactArray(Int64)),
        ("tags", TaggedFields),
    )


class ListTransactionsRequest(Request[ListTransactionsRequest_v0]):  # type: ignore[misc]
    """Those that a broker coordinates and that are in one of these states."""

    API_KEY = 66

    def __init__(self, states: list[str]) -> None:
        self._states = states

    def build(self, request_struct_class: type[ListTransactionsRequest_v0]) -> Any:
        return request_struct_class(self._states, [], {})


async def until_ends_are_carried_out(bootstrap: str) -> None:
    """Return when no broker has an end to carry out.  Bounded by the caller."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for node in [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]:
            while True:
                answer = await admin._send_request_to_node(node, ListTransactionsRequest(DECIDED))
                assert answer.error_code in (0, LOADING), answer
                if not answer.error_code and not answer.transactions:
                    break
                await asyncio.sleep(POLL_S)
    finally:
        await admin.close()
