"""Settings of a Kafka log, and the URL, environment and file that carry them.

What must live here: names, defaults, parsing, what contradicts what.  What must not: connecting, reading secret files
(``security``).

    kafka://broker-1:9092,broker-2:9092                       no encryption, nobody asks who we are
    kafka://broker-1?security=tls&ca_file=/etc/kafka/ca.pem   port 9092 where none is given
    kafka://shop@broker-1?security=sasl_tls&mechanism=SCRAM-SHA-512     the password: STREAMS_KAFKA_PASSWORD
    kafka://broker-1?config=/etc/kafka/shop.toml              the settings, by the same names, in a file

A setting is taken from the first place that has it: the URL, the environment (``STREAMS_KAFKA_`` and its name in
capitals; another prefix by ``env=``), the file that ``config`` names, the default.  A secret is a ``Secret`` from
where it is read to where it is sent, so that no message, log line or ``repr`` can show it.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints
from urllib.parse import quote, unquote

from streams.core.secret import Secret
from streams.core.urls import pairs_of, quoted, without_secrets
from streams.errors import ConfigurationError

__all__ = ["ENVIRONMENT", "KafkaConfig", "Secret", "parse_url", "safe_url", "warn_if_open"]

logger = logging.getLogger("streams")

ENVIRONMENT = "STREAMS_KAFKA"
DEFAULT_PORT = 9092
INT32_MAX = 2**31 - 1

Security = Literal["plaintext", "tls", "sasl", "sasl_tls"]
Mechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
Acks = Literal["all", "1", "0"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """How a Kafka cluster is reached and used.  Raises ConfigurationError for what contradicts itself.

    servers: (host, port) of brokers to ask first; any one that answers will do.
    security: ``sasl`` and ``sasl_tls`` say who we are, ``tls`` and ``sasl_tls`` encrypt.
    mechanism: how to say who we are.  user, password or password_file: for all but OAUTHBEARER.
    token, token_file or token_provider: for OAUTHBEARER; a provider is ``module:callable`` (or async), called without
        arguments each time that a token is needed.
    ca_file: PEM with the authorities to trust; the system's where none is given.  cert_file, key_file (the key may
        be in cert_file), key_password or key_password_file: who we are, for brokers that ask for a certificate.
    check_hostname: refuse a certificate that isn't the host's.  That it is signed is always checked.
    Secret files are read again at each connection, a token's each time that one is needed.

    client_id: shows in the broker's logs and quotas.
    replication: of topics that are created; -1 is the broker's default.
    partitioner: the partition of a key: murmur2 (as the Java client), round_robin, random, or ``module:function``.
    compression, batch_bytes: of record batches; the broker's limit (message.max.bytes) is 1 MiB by default.
    acks, linger_ms: of what is appended outside of tasks.  A commit always waits for all replicas in sync.  Only with
        ``all`` is a batch sent again when no answer came (with ``1`` that is CommitUnknown); with ``0`` nobody says
        whether it arrived, and there are no positions.
    max_record_bytes, max_commit_bytes, max_commit_records: see ``Limits``.
    fetch_max_bytes, fetch_partition_max_bytes, fetch_max_wait_ms: of one answer of one broker.
    session_timeout_ms, heartbeat_interval_ms: a worker that isn't heard of for so long loses its tasks.
    transaction_timeout_ms: the broker aborts a commit that takes longer.
    connect_timeout_ms, request_timeout_ms: until one broker counts as gone; until an answer does.

    config: the file that more settings were read from.  env: what the names of environment variables begin with.
    """

    servers: tuple[tuple[str, int], ...]

    security: Security = "plaintext"
    mechanism: Mechanism = ""
    user: str = ""
    password: Secret = field(default=Secret())
    password_file: str = ""
    token: Secret = field(default=Secret())
    token_file: str = ""
    token_provider: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    key_password: Secret = field(default=Secret())
    key_password_file: str = ""
    check_hostname: bool = True

    client_id: str = "streams"
    replication: int = -1
    partitioner: str = "murmur2"
    compression: Compression = "zstd"
    batch_bytes: int = 900_000
    acks: Acks = "all"
    linger_ms: int = 5
    max_record_bytes: int = 1_000_000
    max_commit_bytes: int = 64 * 2**20
    max_commit_records: int = 200_000
    fetch_max_bytes: int = 32 * 2**20
    fetch_partition_max_bytes: int = 2**20
    fetch_max_wait_ms: int = 500
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 1_000
    transaction_timeout_ms: int = 15_000
    connect_timeout_ms: int = 5_000
    request_timeout_ms: int = 30_000

    config: str = ""
    env: str = ENVIRONMENT

    def __post_init__(self) -> None:
        for name in _SECRETS:
            if isinstance(text := getattr(self, name), str):
                object.__setattr__(self, name, Secret(text))
        for problem in _problems(self):
            raise ConfigurationError(f"{self.url}: {problem}")

    @property
    def url(self) -> str:
        """The brokers and nothing else."""
        return "kafka://" + ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.servers
        )

    @property
    def safe_url(self) -> str:
        """The URL of the same settings without the secrets: to be shown, and to be opened where they are at hand."""
        given = [
            (one.name, getattr(self, one.name))
            for one in fields(self)
            if one.name not in ("servers", "user", *_SECRETS) and getattr(self, one.name) != one.default
        ]
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        query = "&".join(f"{name}={_as_text(value)}" for name, value in given)
        return self.url.replace("://", f"://{user}", 1) + (f"?{query}" if query else "")

    @property
    def encrypted(self) -> bool:
        return self.security in ("tls", "sasl_tls")

    @property
    def authenticated(self) -> bool:
        return self.security in ("sasl", "sasl_tls")


_SECRETS = ("password", "token", "key_password")
# Of these one is enough, and the first place that has any of them settles it.
_ALTERNATIVES = (
    ("password", "password_file"),
    ("token", "token_file", "token_provider"),
    ("key_password", "key_password_file"),
)
# From the name of a setting to its text and where that was found.
_Layer = dict[str, tuple[str, str]]
_FOR_TLS = ("ca_file", "cert_file", "key_file", "key_password", "key_password_file", "check_hostname")
_FOR_PASSWORDS = ("user", "password", "password_file")
_FOR_TOKENS = ("token", "token_file", "token_provider")
_BROKER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>\d{1,5}))?")
_CALLABLE = re.compile(r"[\w.]+:[\w.]+")
_ENCODE = "in a password, @ : / ? & # are written %40 %3A %2F %3F %26 %23"
# Least values where 1 isn't right.
_LEAST = {"replication": -1, "linger_ms": 0, "fetch_max_wait_ms": 0}
_TYPES = {name: kind for name, kind in get_type_hints(KafkaConfig).items() if name != "servers"}
# What other clients call it, where the nearest name would mislead.
_ELSEWHERE = {
    "security_protocol": "security",
    "sasl_mechanism": "mechanism",
    "sasl_username": "user",
    "sasl_password": "password",
    "username": "user",
    "ssl_cafile": "ca_file",
    "ssl_ca_location": "ca_file",
    "ssl_certfile": "cert_file",
    "ssl_keyfile": "key_file",
    "compression_type": "compression",
    "replication_factor": "replication",
    "max_request_size": "max_record_bytes",
    "message_max_bytes": "max_record_bytes",
    "batch_size": "batch_bytes",
}


def parse_url(url: str, environ: Mapping[str, str] | None = None) -> KafkaConfig:
    """The settings in ``url``, in the environment (``os.environ``) and in the file that ``config`` names.

    Reads that file, no other, and connects to nothing.  Raises ConfigurationError, one line without secrets, that
    names what isn't understood.
    """
    shown = safe_url(url)
    scheme, _, rest = url.partition("://")
    if scheme != "kafka" or not rest:
        raise ConfigurationError(f"{shown!r} is not the URL of a Kafka cluster; write kafka://host:9092")
    location, _, query = rest.partition("?")
    userinfo, _, hosts = location.rpartition("@")
    servers = _servers(hosts, shown)
    in_url = [*_userinfo(userinfo), *pairs_of(query)]
    for number, (name, _) in enumerate(in_url):
        if name not in _TYPES and "@" in query and not userinfo:
            raise ConfigurationError(f"{shown}: an @ stands behind the question mark; {_ENCODE}")
        _check_known(name, shown)
        if name in [other for other, _ in in_url[:number]]:
            raise ConfigurationError(f"{shown}: {name} is given twice; give it once")
    given = {name: (text, shown) for name, text in in_url}
    environ = os.environ if environ is None else environ
    prefix, _ = given.get("env", (ENVIRONMENT, ""))
    around = {
        name: (environ[variable], variable)
        for name in _TYPES
        if prefix and (variable := f"{prefix}_{name.upper()}") in environ
    }
    path, _ = given.get("config") or around.get("config") or ("", "")
    settings = _merged(given, around, _file(path, shown) if path else {})
    read: dict[str, Any] = {name: _read(name, text, where) for name, (text, where) in settings.items()}
    return KafkaConfig(servers=servers, **read)


def safe_url(url: str) -> str:
    """``url`` without its secrets, whatever it looks like: for messages about a URL that can't be parsed."""
    return without_secrets(url, lambda name: name in _TYPES and name not in _SECRETS)


def _as_text(value: object) -> str:
    return quoted(str(value).lower() if isinstance(value, bool) else str(value))


def _userinfo(text: str) -> Iterator[tuple[str, str]]:
    user, colon, password = text.partition(":")
    if user:
        yield "user", unquote(user)
    if colon:
        yield "password", unquote(password)


def _servers(text: str, shown: str) -> tuple[tuple[str, int], ...]:
    hosts, _, topic = text.partition("/")
    if topic:
        raise ConfigurationError(
            f"{shown}: before the question mark stand brokers only, as in kafka://host-1:9092,host-2:9092"
        )
    found = []
    for one in hosts.split(","):
        match = _BROKER.fullmatch(one.strip())
        if match is None or not 0 < int(match["port"] or DEFAULT_PORT) < 2**16:
            raise ConfigurationError(
                f"{shown}: a broker is written host:port, and several with commas between them; {_ENCODE}"
            )
        found.append((match["six"] or match["host"], int(match["port"] or DEFAULT_PORT)))
    return tuple(found)


def _check_known(name: str, where: str) -> None:
    if name in _TYPES:
        return
    plain = re.sub(r"\W", "_", name).lower()
    if plain in ("name", "group_instance_id"):
        raise ConfigurationError(f"{where}: there is no setting {name!r}; a worker is named by --name")
    near = [_ELSEWHERE[plain]] if plain in _ELSEWHERE else difflib.get_close_matches(plain, _TYPES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_TYPES))}"
    raise ConfigurationError(f"{where}: there is no setting {name!r}; {hint}")


def _file(path: str, shown: str) -> _Layer:
    """The settings of a TOML file as texts.  Files that it names lie relative to it."""
    try:
        found = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{shown}: config={path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{shown}: config={path} is not TOML: {error}") from None
    settings: _Layer = {}
    for name, value in found.items():
        _check_known(name, path)
        if name in ("config", "env"):
            raise ConfigurationError(f"{path}: {name} belongs in the URL or the environment, not in the file itself")
        if not isinstance(value, bool | int | str):
            raise ConfigurationError(f"{path}: {name} is not {_wanted(name)}")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if name.endswith("_file"):
            text = str(Path(path).expanduser().parent / Path(text).expanduser())
        settings[name] = (text, path)
    if not settings.keys().isdisjoint(_SECRETS):
        warn_if_open("config", path)
    return settings


def warn_if_open(setting: str, path: str) -> None:
    """One line, once, about a file with a secret that every user of the machine can read."""
    try:
        is_open = os.name == "posix" and Path(path).expanduser().stat().st_mode & stat.S_IROTH
    except OSError:
        return  # gone since it was read: whoever reads it next will say so
    if is_open and path not in _told:
        _told.add(path)
        logger.warning("%s=%s can be read by every user of this machine; chmod o-r takes that away", setting, path)


_told: set[str] = set()


def _merged(given: _Layer, around: _Layer, file: _Layer) -> _Layer:
    """One value of each setting: of the URL before the environment before the file."""
    for group in _ALTERNATIVES:
        layers = [given, around, file]
        while layers and not any(name in layers[0] for name in group):
            layers.pop(0)
        for later in layers[1:]:
            for name in group:
                later.pop(name, None)
    known = {**file, **around, **given}
    security, mechanism = (known.get(name, ("", ""))[0].lower() for name in ("security", "mechanism"))
    # The environment serves several clusters: what this one has no use for is meant for another.
    unused = set(_FOR_TLS if security not in ("tls", "sasl_tls") else ())
    if security not in ("sasl", "sasl_tls"):
        unused |= {"mechanism", *_FOR_PASSWORDS, *_FOR_TOKENS}
    else:
        unused |= set(_FOR_PASSWORDS if mechanism == "oauthbearer" else _FOR_TOKENS)
    return {**file, **{name: found for name, found in around.items() if name not in unused}, **given}


def _wanted(name: str) -> str:
    kind = _TYPES[name]
    if choices := get_args(kind):
        return "one of " + ", ".join(one for one in choices if one)
    if kind is int:
        return f"a whole number from {_LEAST.get(name, 1)} to {INT32_MAX}"
    return "true or false" if kind is bool else "text"


def _read(name: str, text: str, where: str) -> object:
    kind = _TYPES[name]
    if kind is Secret:
        return Secret(text)
    if kind is str:
        return text
    try:
        if choices := get_args(kind):
            return {one.lower(): one for one in choices}[text.strip().lower()]
        return (
            int(text)
            if kind is int
            else {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        )
    except (KeyError, ValueError):
        near = difflib.get_close_matches(text.lower(), {str(one).lower(): 0 for one in get_args(kind) if one}, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigurationError(f"{where}: {name}={text!r} is not {_wanted(name)}{hint}") from None


def _problems(config: KafkaConfig) -> Iterator[str]:
    """What is wrong with a whole configuration, one line each."""
    given = {one.name for one in fields(config) if getattr(config, one.name) != one.default}
    if not config.servers:
        yield "no broker is named; write kafka://host:9092"
    for name, kind in _TYPES.items():
        value = getattr(config, name)
        if (choices := get_args(kind)) and value not in choices:
            yield f"{name}={value!r} is not {_wanted(name)}"
        if kind is int and not _LEAST.get(name, 1) <= value <= INT32_MAX:
            yield f"{name}={value} is not {_wanted(name)}"
    if config.replication == 0:
        yield "replication=0 keeps nothing; give the number of copies, or -1 for the broker's default"
    yield from _unused(config, given)
    for group in _ALTERNATIVES:
        if len(both := [name for name in group if name in given]) > 1:
            yield f"{' and '.join(both)} say the same thing; give one of them"
    if "key_file" in given and "cert_file" not in given:
        yield "key_file needs cert_file, the certificate that the key belongs to"
    if not {"key_password", "key_password_file"}.isdisjoint(given) and "cert_file" not in given:
        yield "key_password needs cert_file and key_file"
    if "token_provider" in given and not _CALLABLE.fullmatch(config.token_provider):
        yield f"token_provider={config.token_provider!r} is not module:callable"
    if config.partitioner not in ("murmur2", "round_robin", "random") and not _CALLABLE.fullmatch(config.partitioner):
        yield f"partitioner={config.partitioner!r} is not one of murmur2, round_robin, random, or module:function"
    if config.heartbeat_interval_ms * 2 > config.session_timeout_ms:
        yield (
            f"heartbeat_interval_ms={config.heartbeat_interval_ms} is more than half of session_timeout_ms="
            f"{config.session_timeout_ms}: one lost heartbeat would cost the worker its tasks"
        )
    if config.fetch_max_wait_ms >= config.request_timeout_ms:
        yield (
            f"fetch_max_wait_ms={config.fetch_max_wait_ms} is not below request_timeout_ms="
            f"{config.request_timeout_ms}: each wait for records would end as a time-out"
        )
    if config.max_record_bytes > config.max_commit_bytes:
        yield f"max_record_bytes={config.max_record_bytes} is above max_commit_bytes={config.max_commit_bytes}"


def _unused(config: KafkaConfig, given: set[str]) -> Iterator[str]:
    """Settings that would be passed over in silence: a password that isn't sent is a mistake, not a wish."""
    if not config.encrypted:
        for name in _FOR_TLS:
            if name in given:
                better = "sasl_tls" if config.authenticated else "tls"
                yield f"{name} is given, but security={config.security} doesn't encrypt; add security={better}"
    if not config.authenticated:
        better = "sasl_tls" if config.encrypted else "sasl_tls (or sasl, unencrypted)"
        for name in ("mechanism", *_FOR_PASSWORDS, *_FOR_TOKENS):
            if name in given:
                yield f"{name} is given, but security={config.security} doesn't log in; add security={better}"
        return
    if not config.mechanism:
        yield f"security={config.security} needs a mechanism: {_wanted('mechanism')}"
    for name in _FOR_PASSWORDS if config.mechanism == "OAUTHBEARER" else _FOR_TOKENS:
        if name in given:
            yield f"{name} is given, but mechanism={config.mechanism} makes no use of it"
