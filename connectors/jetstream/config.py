"""Settings of a log on JetStream, and the URL that carries them.

What must live here: names, defaults, parsing.  What must not: connecting.

    nats://127.0.0.1                                             port 4222 where none is given
    nats://shop@nats-1:4222,nats-2:4222?replicas=3               the password: STREAMS_NATS_PASSWORD
    nats://nats-1?tls=yes&ca_file=/etc/nats/ca.pem&creds_file=/etc/nats/shop.creds
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from streams.core.urls import pairs_of, without_secrets
from streams.errors import ConfigurationError

__all__ = ["NatsConfig", "parse_url"]

DEFAULT_PORT = 4222
WORDS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsConfig:
    """How a NATS server is reached and used.

    servers: URLs to try; any one that answers will do.  replicas: of the streams that are made here.
    session_timeout_ms: a worker that isn't heard of for so long loses its tasks; whole seconds, at least one.
    request_timeout_ms: for how long an answer is waited for.
    compaction_min_bytes: how much of a changelog has to be new before it is worth a pass of compaction.
    creds_file, nkey_file: who we are, in place of user and password.  tls, ca_file, cert_file, key_file: encryption.
    """

    shown: str
    servers: tuple[str, ...]
    user: str = ""
    password: str = ""
    replicas: int = 1
    session_timeout_ms: int = 6_000
    request_timeout_ms: int = 5_000
    compaction_min_bytes: int = 8 * 2**20
    creds_file: str = ""
    nkey_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def client(self) -> dict[str, Any]:
        """Arguments for nats-py.  Raises ConfigurationError for files that can't be used."""
        found: dict[str, Any] = {"servers": list(self.servers)}
        if self.user:
            found.update(user=self.user, password=self.password)
        if self.creds_file:
            found["user_credentials"] = self.creds_file
        if self.nkey_file:
            found["nkeys_seed"] = self.nkey_file
        if self.tls or self.ca_file:
            try:
                context = ssl.create_default_context(cafile=self.ca_file or None)
                if self.cert_file:
                    context.load_cert_chain(self.cert_file, self.key_file or None)
            except OSError as error:
                raise ConfigurationError(
                    f"{self.shown}: its certificates can't be used ({error}); look at ca_file, cert_file and key_file"
                ) from error
            found["tls"] = context
        for path in filter(None, (self.creds_file, self.nkey_file)):
            if not os.access(path, os.R_OK):
                raise ConfigurationError(f"{self.shown}: {path} can't be read; is that where the credentials are?")
        return found


_NUMBERS = {
    "replicas": (1, 5),
    "session_timeout_ms": (1000, 3_600_000),
    "request_timeout_ms": (100, 3_600_000),
    "compaction_min_bytes": (1, 2**40),
}
_TEXTS = ("creds_file", "nkey_file", "ca_file", "cert_file", "key_file")


def parse_url(url: str) -> NatsConfig:
    """Raises ConfigurationError, without secrets."""
    shown = without_secrets(url)
    location, _, query = url.partition("://")[2].partition("?")
    userinfo, _, places = location.rpartition("@")
    user, _, password = userinfo.partition(":")
    servers = []
    for place in places.rstrip("/").split(","):
        host, colon, port = place.rpartition(":") if not place.endswith("]") else (place, "", "")
        if not colon:
            host, port = place, str(DEFAULT_PORT)
        if not host or not port.isdigit():
            raise ConfigurationError(f"{shown}: {place!r} is no server; write nats://<host>:<port>")
        servers.append(f"nats://{host}:{port}")
    settings: dict[str, Any] = {}
    for name, value in pairs_of(query):
        if name in _NUMBERS:
            least, most = _NUMBERS[name]
            if not value.isdigit() or not least <= int(value) <= most:
                raise ConfigurationError(f"{shown}: {name}={value}: a number from {least} to {most} is needed")
            settings[name] = int(value)
        elif name in _TEXTS:
            settings[name] = value
        elif name == "tls" and value in WORDS:
            settings[name] = WORDS[value]
        else:
            known = ", ".join(sorted([*_NUMBERS, *_TEXTS, "tls=yes"]))
            raise ConfigurationError(f"{shown}: {name} is no setting, or not so; there are {known}")
    return NatsConfig(
        shown=f"nats://{','.join(each.removeprefix('nats://') for each in servers)}",
        servers=tuple(servers),
        user=unquote(user),
        password=unquote(password) or os.environ.get("STREAMS_NATS_PASSWORD", ""),
        **settings,
    )
