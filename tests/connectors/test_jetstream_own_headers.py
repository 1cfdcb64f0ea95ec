"""A user's header that is called like one of ours is a header, and stands for nothing else."""

from __future__ import annotations

import pytest

from streams.connectors.jetstream.foreign_config import ForeignConfig
from streams.connectors.jetstream.foreign_messages import Form
from streams.connectors.jetstream.messages import record_of, rows_of
from streams.core.log import Append
from streams.core.record import Headers, Records, TopicPartition

OWN = ["Streams-Key", "Streams-Time", "Streams-Tombstone", "Streams-Packed", "Nats-Msg-Id", "Nats-Expected-Stream"]
AT = TopicPartition("orders", 0)


def head_of(lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + lines + b"\r\n"


@pytest.mark.parametrize("key", [None, b"theirs"])
@pytest.mark.parametrize("value", [b"value", None])
@pytest.mark.parametrize("name", OWN)
def test_a_header_with_a_name_of_ours_does_not_pose_as_what_that_name_means(
    name: str, value: bytes | None, key: bytes | None
) -> None:
    # As a key it would send the record to another task than the one that holds the state of its own key.
    headers: Headers = ((name, b"7"), ("trace", b"on"))
    ((lines, payload),) = rows_of(Records([key], [value], [5], [headers]))
    assert record_of(head_of(lines), payload, 9) == (key, value, 5, headers)
    names = {line.partition(b":")[0] for line in lines.splitlines()}
    assert names <= {b"Streams-Time", b"Streams-Packed", b"Streams-Tombstone"}, "the server may take others for orders"


def test_a_header_named_streams_key_is_not_the_key_on_a_stream_of_others_either() -> None:
    config = ForeignConfig.__new__(ForeignConfig)
    object.__setattr__(config, "kind", "stream")
    form = Form(config, "orders", "orders", ["orders"])
    headers: Headers = (("Streams-Key", b"posed"),)
    ((_, lines, payload),) = form.messages([Append(AT, Records([None], [b"v"], [5], [headers]))], "n", 0)
    assert record_of(head_of(lines), payload, 9) == (None, b"v", 5, headers)
