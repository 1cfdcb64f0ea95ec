"""A connection of aiokafka that notices what aiokafka 0.14 doesn't.

What must live here: that.  What must not: settings and words (``security``), when to connect (``cluster``).

Every byte that is sent goes through ``_Writer``, whoever sends it: requests, the login, the question for versions.  So
what a transport throws becomes an outage in one place, and what is thrown before, while a request is encoded, stays the
bug that it is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import SaslAuthenticationFailed
from aiokafka.protocol.admin import SaslHandShakeRequest

__all__ = ["Connection"]


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """offered: the mechanisms that the broker would have liked better."""

    offered: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """The broker has answered the first question, for the versions that it speaks."""
        return bool(self._versions)

    @property
    def _writer(self) -> _Writer | None:
        return self.__dict__.get("_writer")

    @_writer.setter
    def _writer(self, stream: asyncio.StreamWriter | None) -> None:
        self.__dict__["_writer"] = None if stream is None else _Writer(stream)

    def authenticator_oauth(self) -> _TokenCheck:
        return _TokenCheck(sasl_oauth_token_provider=self._sasl_oauth_token_provider)

    def send(self, request: Any, expect_response: bool = True) -> Any:
        waiting = super().send(request, expect_response)
        return self._noted(waiting) if isinstance(request, SaslHandShakeRequest) else waiting

    async def _noted(self, waiting: Any) -> Any:
        response = await waiting
        self.offered = tuple(response.enabled_mechanisms)
        return response


class _Writer:
    """What aiokafka writes with.  It takes OSError for a broken connection and nothing else, and uvloop throws
    RuntimeError on a transport that has just closed, whose end nobody has been told yet."""

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except OSError:
            raise
        except Exception as error:
            raise _broken(error) from error

    async def drain(self) -> None:
        try:
            await self._stream.drain()
        except OSError:
            raise
        except Exception as error:
            raise _broken(error) from error

    def close(self) -> None:
        self._stream.close()


def _broken(error: Exception) -> ConnectionResetError:
    return ConnectionResetError(f"the connection broke while it was written to ({type(error).__name__})")


class _TokenCheck(OAuthAuthenticator):  # type: ignore[misc]
    async def step(self, payload: bytes | None) -> Any:
        # A broker refuses a token in a message of success and waits (RFC 7628, 3.2.3): the next request would be
        # taken for an answer to that, and its own answer for anything.
        if payload:
            raise SaslAuthenticationFailed(payload.decode("utf-8", "replace"))
        return await super().step(payload)
