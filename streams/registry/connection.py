"""A connection to a schema registry: its settings, and what its failures mean for a record.

What must live here: settings, secrets, the classes of failures.  What must not: schemas and codecs (``codecs``).

An answer is asked for once a schema and process, in place: codecs run inside of a task's step, so everything of this
worker waits for it, its heartbeats too.  So a request is tried once and given up after ``timeout_s``, and after a
failure nothing is asked for twice as long as it took: however many tasks try again, a registry that hangs holds the
worker for a third of its time at most.

    can't be reached, HTTP 408, 429, 5xx, no JSON   ServiceUnavailable   the task tries again until it can be
    HTTP 401, 403, schema refused, other answers,   ServiceRefused       the app stops with one line
      no trust over TLS
    a schema id that the registry doesn't have      UnknownSchema        the record meets its stream's error policy
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.error import OAuthTokenError
from httpx2 import TransportError

from streams.core.urls import without_secrets
from streams.errors import ConfigurationError, ServiceRefused, ServiceUnavailable, StreamsError

__all__ = ["TROUBLE", "Connection", "UnknownSchema"]

T = TypeVar("T")

TROUBLE = (SchemaRegistryError, TransportError, OAuthTokenError)
"""What the client raises when it has no answer, or another than was hoped for."""

ENVIRONMENT = "STREAMS_REGISTRY_"
_FILES = {
    "ca_file": "ssl.ca.location",
    "cert_file": "ssl.certificate.location",
    "key_file": "ssl.key.location",
    "key_password": "ssl.key.password",
}
_SETTINGS = ("url", "user", "password", "token", *_FILES)


class UnknownSchema(ValueError):
    """A record names a schema that the registry doesn't have."""


class Connection:
    """Asks the registry.  ``str()`` of it is its address, without secrets."""

    def __init__(
        self,
        given: Mapping[str, str],
        *,
        timeout_s: float,
        more: Mapping[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``given``: by the names in ``_SETTINGS``; what isn't there is taken from the environment.  ``more``: settings
        under the client library's own names.  Raises ConfigurationError.  Nothing is sent yet."""
        settings = {name: given.get(name) or os.environ.get(ENVIRONMENT + name.upper(), "") for name in _SETTINGS}
        urls, user, password = _split(settings["url"])
        self._name = ",".join(urls)
        self._clock = clock
        self._closed_until = clock()
        self._reason = ""
        self.user, password = settings["user"] or user, settings["password"] or password
        self.login = "a user" if self.user else "a token" if settings["token"] else "nobody"
        if bool(self.user) != bool(password):
            raise self._wrong("a user and a password belong together: one of them is missing")
        if self.user and settings["token"]:
            raise self._wrong("give a user and a password, or a token")
        if timeout_s <= 0:
            raise self._wrong(f"timeout_s has to be more than 0, not {timeout_s!r}")
        conf: dict[str, Any] = {"url": self._name, "timeout": timeout_s, "max.retries": 0}
        conf.update({theirs: settings[name] for name, theirs in _FILES.items() if settings[name]})
        if self.user:
            conf["basic.auth.user.info"] = f"{self.user}:{password}"
        if settings["token"]:
            # Only Confluent's cloud asks for a cluster; it is in `more` there.
            conf["bearer.auth.credentials.source"] = "STATIC_TOKEN"
            conf["bearer.auth.token"] = settings["token"]
            conf["bearer.auth.logical.cluster"] = ""
        try:
            self.client: SchemaRegistryClient = SchemaRegistryClient.new_client({**conf, **more})
        except OSError as error:
            files = ", ".join(f"{name}={settings[name]!r}" for name in list(_FILES)[:3] if settings[name])
            raise self._wrong(f"a certificate or key can't be read ({files}): {error}") from error
        except (TypeError, ValueError) as error:
            raise self._wrong(str(error)) from error

    def __str__(self) -> str:
        return self._name

    def _wrong(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"schema registry {self}: {reason}")

    def refused(self, words: str) -> ServiceRefused:
        """For a schema that was to be there before anything is written with it."""
        return ServiceRefused(f"{words}; register it, or let the app do so with register=True")

    def ask(self, purpose: str, request: Callable[[], T]) -> T:
        """What ``request`` returns, which may go over the network.  Blocks, at worst for ``timeout_s`` to
        connect and once more for the answer, of each address.

        purpose: what fails without it, as a clause ("… can't be written").  Raises as the table above says; what else
        ``request`` raises passes through.
        """
        began = self._clock()
        if began < self._closed_until:
            raise ServiceUnavailable(self._reason)
        try:
            return request()
        except (*TROUBLE, json.JSONDecodeError) as error:
            failure = self.failure(error, purpose)
            if isinstance(failure, ServiceUnavailable):
                ended = self._clock()
                self._closed_until, self._reason = ended + 2 * (ended - began), str(failure)
            raise failure from error

    def failure(self, error: Exception, purpose: str) -> StreamsError | UnknownSchema:
        """What an error of the client means."""
        if not isinstance(error, SchemaRegistryError):
            distrust = _tls_error(error)
            if distrust is not None:
                return ServiceRefused(
                    f"schema registry {self}: no TLS connection ({_line(distrust)}), so {purpose}; give ca_file= for "
                    f"its authority, cert_file= and key_file= if it wants to know ours, and an address that encrypts"
                )
            said = f"{type(error).__name__}: {_line(error)}" if not isinstance(error, ValueError) else "it sent no JSON"
            return ServiceUnavailable(
                f"schema registry {self} can't be reached ({said}), so {purpose}; start it, or correct its address"
            )
        status, words = error.http_status_code, _line(error.error_message)
        if status in (408, 429) or status >= 500:
            return ServiceUnavailable(f"schema registry {self} answers HTTP {status} ({words}), so {purpose}")
        if status in (401, 403):
            who = {"a user": f"user {self.user!r}: check the password", "a token": "the token: give a valid one"}
            hint = who.get(self.login, "to answer without a login: give user= and password=, or token=")
            return ServiceRefused(f"schema registry {self} refuses {hint} (HTTP {status}), so {purpose}")
        if error.error_code is None or status not in (error.error_code, error.error_code // 100):
            # Some other server: a record must not be called bad for what that one says.
            return ServiceRefused(
                f"{self} answers HTTP {status}, and not as a schema registry does, so {purpose}; check its address"
            )
        if status == 404:
            return UnknownSchema(f"schema registry {self}: {words}, so {purpose}")
        return ServiceRefused(f"schema registry {self} refuses it (HTTP {status}: {words}), so {purpose}")


def _split(urls: str) -> tuple[list[str], str, str]:
    """Addresses without logins, and the login: one that stays in a URL would end in the client's logs."""
    if not urls:
        raise ConfigurationError(
            f"a schema registry needs its address: SchemaRegistry('http://registry:8081'), or ${ENVIRONMENT}URL"
        )
    found: list[str] = []
    user = password = ""
    if urls.startswith("mock://"):  # the library's registry in memory, one for each client
        return [urls], "", ""
    for url in urls.split(","):
        try:
            parts = urlsplit(url.strip())
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"schema registry {without_secrets(url)!r} is no address: {error}") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ConfigurationError(
                f"schema registry {without_secrets(url)!r} is no address: write http://host:port or https://host:port"
            )
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
        place = parts.netloc.rpartition("@")[2]
        found.append(f"{parts.scheme}://{place}{parts.path.rstrip('/')}")
    return found, user, password


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The reason why two ends can't agree on TLS, which waiting doesn't change."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _line(words: object) -> str:
    return " ".join(str(words).split()).rstrip(".;")[:300]
