"""A server that says it is too old.  It is none: no version before 2.12 is among the packages that tests can have."""

from __future__ import annotations

import asyncio

import pytest

from streams.connectors.jetstream.log import JetStreamLog
from streams.errors import ConfigurationError

INFO = b'INFO {"server_id":"OLD","version":"%b","headers":true,"max_payload":1048576,"jetstream":true}\r\n'


def refusal(version: bytes) -> str:
    """What a log says of a server with this version."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(INFO % version)
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
        finally:  # the run may be over, and this cancelled, before the end of the connection is read
            writer.close()

    async def run() -> str:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(60):
            log = JetStreamLog(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(ConfigurationError) as raised:
                await log.open()
            return str(raised.value)

    return asyncio.run(run())


@pytest.mark.parametrize("version", [b"2.9.10", b"2.11.17"])
def test_a_server_without_atomic_batches_is_refused_with_the_version_that_is_needed(version: bytes) -> None:
    said = refusal(version)
    assert f"nats-server {version.decode()} has no atomic batches; use 2.12 or a later one" in said
    assert "\n" not in said
