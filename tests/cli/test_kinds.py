"""Which topics belong to an app, where the log can't tell."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from streams.cli.workers import kinds_on
from streams.core.log import TaskRef
from streams.core.topology import TopologyRecord

RECORD = TopologyRecord(app="shop", version=1, partitions={}, stores={}, internal_topics={"shop.a.outbox": 1}, slots=[])


@pytest.mark.parametrize("foreign", [b"", b"text", msgspec.msgpack.encode({"else": 1})])
def test_a_topic_of_others_that_is_called_like_checkpoints_is_left_alone(foreign: bytes) -> None:
    async def checkpoint(task: TaskRef) -> bytes:
        return msgspec.msgpack.encode(RECORD) if task.group == "shop" else foreign

    log = cast(Any, SimpleNamespace(url="kafka://broker", checkpoint=checkpoint))
    names = ["train.checkpoints", "shop.checkpoints", "shop.a.outbox", "orders"]
    assert asyncio.run(kinds_on(log, names)) == {"shop.checkpoints": "checkpoints", "shop.a.outbox": "outbox"}
