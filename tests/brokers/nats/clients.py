"""Helpers of tests for clients of nats-py.

What must live here: what its own methods don't do.  What must not: servers (``server``).
"""

from __future__ import annotations

from nats.aio.client import Client

__all__ = ["taken"]


async def taken(client: Client) -> None:
    """Wait until the server has taken all that the client has sent, subscriptions too.

    A flush is not enough: the ping of nats-py overtakes what waits to be written, which the pong finds written.
    """
    await client.flush()
    await client.flush()
