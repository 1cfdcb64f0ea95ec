"""Settings of NATS, and the URL and environment that carry them.

What must live here: names, defaults, parsing, what contradicts what.  What must not: connecting, reading secret files
(``login``).

    nats://127.0.0.1                                             port 4222 where none is given
    nats://shop@nats-1:4222,nats-2:4222?replicas=3               the password: STREAMS_NATS_PASSWORD
    nats://nats-1?tls=yes&ca_file=/etc/nats/ca.pem&creds_file=/etc/nats/shop.creds

A setting is taken from the URL, else from the environment (``STREAMS_NATS_`` and its name in capitals), else it has its
default.  Secrets come from the environment or from files; a user and password may stand in the URL, too.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from streams.core.secret import Secret
from streams.core.urls import pairs_of, without_secrets
from streams.errors import ConfigurationError

__all__ = ["ENVIRONMENT", "NatsConfig", "parse_url"]

ENVIRONMENT = "STREAMS_NATS_"
DEFAULT_PORT = 4222


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsConfig:
    """How a NATS server is reached and used.

    servers: URLs to try; any one that answers will do.  replicas: of the streams that are made here.
    session_timeout_ms: a worker that isn't heard of for so long loses its tasks; whole seconds, at least one.
    request_timeout_ms: for how long an answer is waited for.
    ping_interval_ms: a server that leaves three pings in a row unanswered is left for another one.
    compaction_min_bytes: how much of a changelog has to be new before it is worth a pass of compaction.
    inbox_prefix: what subjects of answers begin with, for users that may not subscribe to all of _INBOX.
    monitor_url: the server's monitoring (http://host:8222), to be asked for its sync_interval.

    Who we are, one of: user and password or password_file; token or token_file; creds_file or creds (its text);
    nkey_file or nkey (the seed); a client certificate by itself, where the server maps certificates to users.
    tls: "no", "yes", or "first" for servers that want the handshake before anything else.  ca_file: PEM with the
    authorities to trust, in place of the system's.  cert_file, key_file, key_password or key_password_file: ours.
    Secret files are read again whenever the connection is made anew.
    """

    shown: str
    servers: tuple[str, ...]
    user: str = ""
    password: Secret = field(default=Secret())
    password_file: str = ""
    token: Secret = field(default=Secret())
    token_file: str = ""
    creds: Secret = field(default=Secret())
    creds_file: str = ""
    nkey: Secret = field(default=Secret())
    nkey_file: str = ""
    tls: str = "no"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    key_password: Secret = field(default=Secret())
    key_password_file: str = ""
    replicas: int = 1
    session_timeout_ms: int = 6_000
    request_timeout_ms: int = 5_000
    ping_interval_ms: int = 5_000
    compaction_min_bytes: int = 8 * 2**20
    inbox_prefix: str = "_INBOX"
    monitor_url: str = ""

    @property
    def encrypted(self) -> bool:
        return self.tls != "no" or bool(self.ca_file or self.cert_file)

    def client(self) -> dict[str, Any]:
        """Arguments for nats-py.  Reads files.  Raises ConfigurationError for those that can't be used."""
        from streams.connectors.jetstream.login import client_settings

        return client_settings(self)


_NUMBERS = {
    "replicas": (1, 5),
    "session_timeout_ms": (1000, 3_600_000),
    "request_timeout_ms": (100, 3_600_000),
    "ping_interval_ms": (100, 3_600_000),
    "compaction_min_bytes": (1, 2**40),
}
_TEXTS = (
    *("creds_file", "nkey_file", "password_file", "token_file"),
    *("ca_file", "cert_file", "key_file", "key_password_file", "inbox_prefix", "monitor_url"),
)
_SECRETS = ("password", "token", "creds", "nkey", "key_password")
_TLS = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no", "first": "first"}
_PLAIN = ("tls", *_NUMBERS, *_TEXTS)
# Whoever says by one of these who we are doesn't want another one that is lying about in the environment.
_LOGINS = {
    "user and password": ("user", "password", "password_file"),
    "token": ("token", "token_file"),
    "creds": ("creds", "creds_file"),
    "nkey": ("nkey", "nkey_file"),
}
_INBOX = re.compile(r"[A-Za-z0-9_$=+-]+(?:\.[A-Za-z0-9_$=+-]+)*")


def parse_url(url: str, environ: Mapping[str, str] | None = None) -> NatsConfig:
    """The settings in ``url`` and in the environment (``os.environ``).  Reads no file.

    Raises ConfigurationError, one line without secrets.
    """
    environ = os.environ if environ is None else environ
    shown = re.sub(r"://[^/?]*@", "://", without_secrets(url))
    location, _, query = url.partition("://")[2].partition("?")
    userinfo, _, places = location.rpartition("@")
    servers = _servers(places, shown)
    if "@" in query and not userinfo:
        raise ConfigurationError(f"{shown}: an @ stands behind the question mark; write %3F for a ? in a password")
    given = _userinfo(userinfo)
    for name, value in pairs_of(query):
        if name in _SECRETS or name == "user":
            raise ConfigurationError(
                f"{shown}: {name} has no place behind the question mark; set {ENVIRONMENT}{name.upper()}"
                + ("" if name == "user" else f", or {name}_file")
            )
        if name not in _PLAIN:
            near = difflib.get_close_matches(name, _PLAIN, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_PLAIN))}"
            raise ConfigurationError(f"{shown}: {name} is no setting; {hint}")
        if name in given:
            raise ConfigurationError(f"{shown}: {name} is given twice; give it once")
        given[name] = value
    around = {
        name: text for name in ("user", *_SECRETS, *_PLAIN) if (text := environ.get(f"{ENVIRONMENT}{name.upper()}", ""))
    }
    merged = _merged(given, around, shown)
    settings: dict[str, Any] = {name: _read(name, text, shown) for name, text in merged.items()}
    config = NatsConfig(shown=f"nats://{','.join(each[7:] for each in servers)}", servers=servers, **settings)
    if config.user and not (config.password or config.password_file):
        raise ConfigurationError(
            f"{shown}: user {config.user} has no password; set {ENVIRONMENT}PASSWORD, or password_file"
        )
    if (config.key_file or config.key_password or config.key_password_file) and not config.cert_file:
        raise ConfigurationError(f"{shown}: a key without its certificate; set cert_file")
    return config


def _servers(places: str, shown: str) -> tuple[str, ...]:
    servers = []
    for place in places.rstrip("/").split(","):
        host, colon, port = place.rpartition(":") if not place.endswith("]") else (place, "", "")
        if not colon:
            host, port = place, str(DEFAULT_PORT)
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            # Not what stands there: it may be a password whose host was forgotten.
            raise ConfigurationError(f"{shown}: that names no server, or what is no server; write nats://<host>:<port>")
        servers.append(f"nats://{host}:{port}")
    return tuple(servers)


def _userinfo(text: str) -> dict[str, str]:
    user, colon, password = text.partition(":")
    if not text:
        return {}
    return {"user": unquote(user), **({"password": unquote(password)} if colon else {})}


def _merged(given: dict[str, str], around: Mapping[str, str], shown: str) -> dict[str, str]:
    """Of the URL before the environment, and one way of saying who we are."""
    if "user" in given and not (given.keys() | around.keys()) & {"password", "password_file"}:
        given["token"] = given.pop("user")  # nats://<token>@<host>, as NATS' own tools have it
    kinds = _kinds(given) or _kinds(around)
    if len(kinds) > 1:
        raise ConfigurationError(f"{shown}: {' and '.join(kinds)} are both given; say in one way who we are")
    found = {**around, **given}
    for kind, names in _LOGINS.items():
        if kind not in kinds:
            found = {name: text for name, text in found.items() if name not in names}
    for name in _SECRETS:
        if name in found and f"{name}_file" in found:
            found.pop(name if f"{name}_file" in given else f"{name}_file")
    return found


def _kinds(settings: Mapping[str, str]) -> list[str]:
    return [kind for kind, names in _LOGINS.items() if settings.keys() & set(names)]


def _read(name: str, text: str, shown: str) -> str | int | Secret:
    if name in _SECRETS:
        return Secret(text)
    if name in _NUMBERS:
        least, most = _NUMBERS[name]
        if not text.isdigit() or not least <= int(text) <= most:
            raise ConfigurationError(f"{shown}: {name}={text}: a number from {least} to {most} is needed")
        return int(text)
    if name == "tls":
        if text not in _TLS:
            raise ConfigurationError(f"{shown}: tls={text}: yes, no or first is needed")
        return _TLS[text]
    if name == "inbox_prefix" and not _INBOX.fullmatch(text):
        raise ConfigurationError(f"{shown}: inbox_prefix={text}: words with dots between them are needed")
    if name == "monitor_url" and not text.startswith(("http://", "https://")):
        raise ConfigurationError(f"{shown}: monitor_url={text}: write http://<host>:8222")
    return text
