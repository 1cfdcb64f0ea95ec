"""JetStream's API: requests with answers in JSON.

What must live here: requests, and what the server's error codes mean.  What must not: what they are for.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from streams.connectors.jetstream.client import Connection
from streams.errors import ConfigurationError, LogUnavailable, StreamsError

__all__ = ["EXPECTED", "Api", "ApiError", "ErrorCode", "Stored", "refused_with"]

EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class ErrorCode:
    """Codes of JetStream (server/errors.json) that are told apart."""

    STREAM_NOT_FOUND = 10059
    NO_MESSAGE_FOUND = 10037
    STREAM_NAME_IN_USE = 10058
    WRONG_LAST_SEQUENCE = 10071
    WRONG_LAST_MSG_ID = 10070
    CONSUMER_NOT_FOUND = 10014
    INSUFFICIENT_RESOURCES = 10023
    INSUFFICIENT_STORAGE = 10047
    JETSTREAM_NOT_ENABLED = 10076
    JETSTREAM_NOT_ENABLED_FOR_ACCOUNT = 10039


FULL = (ErrorCode.INSUFFICIENT_RESOURCES, ErrorCode.INSUFFICIENT_STORAGE)


def refused_with(error: Mapping[str, Any]) -> str:
    """What the server says of a message that it doesn't store, and what that mostly means."""
    said = f"{error.get('description')} ({error.get('err_code')})"
    if error.get("err_code") in FULL:
        said += ": its disk is full, or its max_file_store used up; make room, and start it anew"
    return said


class ApiError(Exception):
    """An error that the server answered with."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{words} ({code})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream."""

    seq: int
    payload: bytes
    head: bytes = b""
    subject: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Api:
    """Requests over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def call(self, subject: str, request: Any = None) -> dict[str, Any]:
        """The answer.  Raises ApiError, LogUnavailable."""
        message = await self.connection.request(
            f"$JS.API.{subject}",
            _encode(request) if request is not None else b"",
            again=subject.startswith(("STREAM.INFO.", "STREAM.MSG.GET.")),
        )
        answer: dict[str, Any] = _decode(message.payload)
        error = answer.get("error")
        if error is not None:
            raise ApiError(error.get("err_code", error.get("code", 0)), error.get("description", ""))
        return answer

    async def stream(self, name: str) -> dict[str, Any] | None:
        """What the server says of a stream; None for one that doesn't exist."""
        try:
            return await self.call(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.code == ErrorCode.STREAM_NOT_FOUND:
                return None
            raise self.failure(error, f"stream {name}") from error

    async def message(self, stream: str, **which: Any) -> Stored | None:
        """A message of a stream, from its leader: by ``seq``, ``last_by_subj``, or ``seq`` and ``next_by_subj``."""
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", which)
        except ApiError as error:
            if error.code in (ErrorCode.NO_MESSAGE_FOUND, ErrorCode.STREAM_NOT_FOUND):
                return None
            raise self.failure(error, f"stream {stream}") from error
        held = answer["message"]
        return Stored(
            held["seq"], base64.b64decode(held.get("data", "")), base64.b64decode(held.get("hdrs", "")), held["subject"]
        )

    async def publish(
        self, subject: str, payload: bytes, *, after: int | None = None, ttl_s: int | None = None
    ) -> int | None:
        """Store a message; its sequence.  ``after``: only if the last one of its subject has this sequence (0: there is
        none), else None is returned.  ``ttl_s``: for how long.  Raises LogUnavailable; it may have been stored."""
        headers = [(EXPECTED, b"%d" % after)] if after is not None else []
        if ttl_s is not None:
            headers.append(("Nats-TTL", b"%ds" % ttl_s))
        message = await self.connection.request(subject, payload, headers)
        answer: dict[str, Any] = _decode(message.payload)
        error = answer.get("error")
        if error is None:
            return int(answer["seq"])
        if error.get("err_code") == ErrorCode.WRONG_LAST_SEQUENCE:
            return None
        raise LogUnavailable(f"{self.connection.url}: {subject}: {refused_with(error)}")

    async def purge(self, stream: str, subject: str, *, before: int | None = None, keep: int | None = None) -> None:
        """Remove messages of a subject: all, those below a sequence, or all but the last ``keep``."""
        request: dict[str, Any] = {"filter": subject}
        if before is not None:
            request["seq"] = before
        if keep is not None:
            request["keep"] = keep
        try:
            await self.call(f"STREAM.PURGE.{stream}", request)
        except ApiError as error:
            raise self.failure(error, f"purging {subject}") from error

    async def subjects(self, stream: str, subject: str) -> list[str]:
        """The subjects of a stream, with messages, that a filter matches."""
        try:
            answer = await self.call(f"STREAM.INFO.{stream}", {"subjects_filter": subject})
        except ApiError as error:
            raise self.failure(error, f"stream {stream}") from error
        return list(answer["state"].get("subjects") or ())

    def failure(self, error: ApiError, what: str) -> StreamsError:
        """The error of this project for one of the server."""
        where = f"{self.connection.url}: {what}: {error}"
        if error.code in (ErrorCode.JETSTREAM_NOT_ENABLED, ErrorCode.JETSTREAM_NOT_ENABLED_FOR_ACCOUNT):
            return ConfigurationError(
                f"{where}; start the server with JetStream (nats-server -js), or enable the account"
            )
        if 400 <= error.code < 500 or error.code in (ErrorCode.STREAM_NAME_IN_USE, 10052, 10065):
            return ConfigurationError(where)
        return LogUnavailable(where)
