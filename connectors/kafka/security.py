"""Who we are and whom we trust: from a configuration to an open connection, or to words about why there is none.

What must live here: TLS, SASL, secret files, tokens, the explanation of a connection that failed.  What must not:
when to connect again, and to whom (``cluster``).

    open_connection(config, host, port) ──▶ a connection that the broker answers on
              │                       ├──▶ ConfigurationError: it will never work like this, as the broker says
              │                       └──▶ ConnectionBroken: a broker, or what stands before it, hung up: an outage
              └──────────────────────────▶ LogUnavailable: it may work later, or something is wrong

Secret files are read when a connection is opened, so that a new password or certificate needs no restart.  Words of
others (brokers, OpenSSL, users' functions) go through ``_scrubbed`` before they are shown.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import ApiVersionRequest

from streams.connectors.kafka.config import KafkaConfig, warn_if_open
from streams.connectors.kafka.connection import Connection
from streams.errors import ConfigurationError, ConnectionBroken, LogUnavailable, StreamsError

__all__ = ["connection_error", "connection_settings", "explain_connection_error", "load_callable", "open_connection"]

_PROTOCOLS = {"plaintext": "PLAINTEXT", "tls": "SSL", "sasl": "SASL_PLAINTEXT", "sasl_tls": "SASL_SSL"}


async def open_connection(config: KafkaConfig, host: str, port: int) -> Connection:
    """A connection on which the broker answers requests: encrypted and logged in as ``config`` says.

    Takes no longer than ``connect_timeout_ms``.  Raises ConfigurationError or LogUnavailable, one line each.
    """
    connection = Connection(
        host,
        port,
        client_id=config.client_id,
        request_timeout_ms=config.request_timeout_ms,
        **connection_settings(config),
    )
    try:
        async with asyncio.timeout(config.connect_timeout_ms / 1000):
            await connection.connect()
            if not config.authenticated:
                # Where a login is wanted, the first request tells the version, and any other one ends the connection
                # without a word.
                await connection.send(ApiVersionRequest())
    except (KafkaError, OSError, ValueError) as error:
        await _closed(connection)
        if config.encrypted and isinstance(error, ConnectionError) and await _speaks_plainly(config, host, port):
            raise ConfigurationError(
                f"{_at(config, host, port)} doesn't encrypt on this port; name the port that does, or use "
                f"security={'sasl' if config.authenticated else 'plaintext'}"
            ) from error
        raise connection_error(error, config, host, port, connection.offered, answered=connection.answered) from error
    except StreamsError:  # of a token provider
        await _closed(connection)
        raise
    except BaseException:
        connection.close()
        raise
    return connection


async def _speaks_plainly(config: KafkaConfig, host: str, port: int) -> bool:
    """Whether the broker answers without encryption: that it ended a TLS handshake may have other reasons."""
    trial = AIOKafkaConnection(host, port, client_id=config.client_id, request_timeout_ms=config.connect_timeout_ms)
    try:
        async with asyncio.timeout(config.connect_timeout_ms / 1000):
            await trial.connect()
    except (KafkaError, OSError, ValueError):
        return False
    finally:
        await _closed(trial)
    return True


async def _closed(connection: AIOKafkaConnection) -> None:
    """Close, and wait a moment for it, so that no half-open transport outlives its loop."""
    closed = connection.close()
    # What was never established is never lost either, and would be waited for in vain.
    if connection._protocol is not None:
        await asyncio.wait([closed], timeout=1)


def connection_settings(config: KafkaConfig) -> dict[str, Any]:
    """Keyword arguments for ``aiokafka.conn.create_conn``.  Called for each connection; reads the files that changed.

    Raises ConfigurationError that names the setting and the file.
    """
    settings: dict[str, Any] = {"security_protocol": _PROTOCOLS[config.security]}
    if config.encrypted:
        settings["ssl_context"] = _tls(config)
    if config.authenticated:
        settings["sasl_mechanism"] = config.mechanism
        if config.mechanism == "OAUTHBEARER":
            settings["sasl_oauth_token_provider"] = _tokens(config)
        else:
            settings["sasl_plain_username"] = config.user or _missing(config, "user")
            settings["sasl_plain_password"] = _secret(config, "password") or _missing(config, "password")
    return settings


def load_callable(setting: str, path: str) -> Callable[..., Any]:
    """What ``module:name`` names.  Raises ConfigurationError that names the setting."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"there is no module {error.name!r}"
        raise ConfigurationError(f"{setting}={path}: {missing} where Python looks for modules") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{setting}={path}: module {module} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigurationError(
            f"{setting}={path}: {name} is {type(found).__name__}, not something that can be called"
        )
    return found  # type: ignore[no-any-return]


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _missing(config: KafkaConfig, name: str) -> str:
    variable = f", the environment variable {config.env}_{name.upper()}" if config.env else ""
    file = "" if name == "user" else f", {name}_file=/path"
    raise ConfigurationError(
        f"{config.url}: mechanism={config.mechanism} needs a {name}: give it by {name} in the URL{variable}{file}, or "
        f"in the file that config=/path.toml names"
    )


def _secret(config: KafkaConfig, name: str) -> str:
    """A secret given as it is or by the name of a file; "" for neither."""
    text: str = getattr(config, name).reveal()
    setting = f"{name}_file"
    path: str = getattr(config, setting)
    return _read(config, setting, path) if path else text


def _read(config: KafkaConfig, setting: str, path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(config, setting, path, error) from None
    if not text:
        raise ConfigurationError(f"{config.url}: {setting}={path} is empty")
    warn_if_open(setting, path)
    return text


def _unreadable(
    config: KafkaConfig, setting: str, path: str, error: OSError | UnicodeDecodeError
) -> ConfigurationError:
    why = error.strerror if isinstance(error, OSError) else "it is not text"
    return ConfigurationError(f"{config.url}: {setting}={path} can't be read: {why}")


def _scrubbed(text: str, config: KafkaConfig) -> str:
    """``text`` without the secrets that may have got into somebody else's message."""
    for secret in (config.password.reveal(), config.token.reveal(), config.key_password.reveal()):
        if len(secret) > 2:
            text = text.replace(secret, "***")
    return " ".join(text.split())


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tls(config: KafkaConfig) -> ssl.SSLContext:
    stamps = []
    for setting in ("ca_file", "cert_file", "key_file", "key_password_file"):
        if path := getattr(config, setting):
            try:
                status = Path(path).expanduser().stat()
            except OSError as error:
                raise _unreadable(config, setting, path, error) from None
            stamps.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return _context(config, tuple(stamps))


@functools.lru_cache(maxsize=16)
def _context(config: KafkaConfig, stamps: tuple[tuple[int, int, int], ...]) -> ssl.SSLContext:
    """stamps: of the files that it is made of, so that new ones make a new one.  Reading the system's authorities
    takes milliseconds, too long for every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = config.check_hostname
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not config.ca_file:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(Path(config.ca_file).expanduser())
        except ssl.SSLError:
            raise ConfigurationError(
                f"{config.url}: ca_file={config.ca_file} holds no certificates in PEM (-----BEGIN CERTIFICATE-----)"
            ) from None
        except OSError as error:
            raise _unreadable(config, "ca_file", config.ca_file, error) from None
    if config.cert_file:
        _load_own(context, config)
    return context


def _load_own(context: ssl.SSLContext, config: KafkaConfig) -> None:
    """Our own certificate and key."""
    setting, path = ("key_file", config.key_file) if config.key_file else ("cert_file", config.cert_file)
    for name, one in (("cert_file", config.cert_file), (setting, path)):
        try:
            Path(one).expanduser().read_bytes()
        except OSError as error:
            raise _unreadable(config, name, one, error) from None
    password = _secret(config, "key_password")
    asked = False

    def answer() -> str:
        # Without an answer of ours OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return password

    key = str(Path(config.key_file).expanduser()) if config.key_file else None
    try:
        context.load_cert_chain(Path(config.cert_file).expanduser(), key, answer)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"the key isn't that of the certificate in cert_file={config.cert_file}"
        elif asked:
            why = "key_password doesn't open the key" if password else "the key is encrypted; give key_password_file"
        else:
            why = f"there is no certificate or key in PEM in it, or in cert_file={config.cert_file}"
        raise ConfigurationError(f"{config.url}: {setting}={path}: {why}") from None
    warn_if_open(setting, path)


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """Hands out a token each time that a connection is opened."""

    def __init__(self, config: KafkaConfig, provider: Callable[[], Any] | None) -> None:
        self._config = config
        self._provider = provider

    async def token(self) -> str:
        config = self._config
        if self._provider is None:
            return await asyncio.to_thread(_secret, config, "token")
        where = f"{config.url}: token_provider={config.token_provider}"
        try:
            if inspect.iscoroutinefunction(self._provider):
                token = await self._provider()
            else:
                token = await asyncio.to_thread(self._provider)
                if inspect.isawaitable(token):
                    token = await token
        except Exception as error:
            why = _scrubbed(f"{type(error).__name__}: {error}", config)
            raise LogUnavailable(f"{where} gave no token ({why}); see to what it asks") from error
        if not isinstance(token, str) or not token.strip():
            raise ConfigurationError(
                f"{where} returned {type(token).__name__} where a token is wanted, a str that isn't empty"
            )
        return token.strip()


def _tokens(config: KafkaConfig) -> _Tokens:
    if config.token_provider:
        return _Tokens(config, load_callable("token_provider", config.token_provider))
    if not config.token_file and not config.token:
        _missing(config, "token")
    return _Tokens(config, None)


# ── what went wrong ───────────────────────────────────────────────────────────────────────────────────────────────────


def connection_error(
    error: BaseException,
    config: KafkaConfig,
    host: str,
    port: int,
    offered: tuple[str, ...] = (),
    *,
    answered: bool = False,
) -> StreamsError:
    """What to raise for what aiokafka raised: LogUnavailable if time may mend it, else ConfigurationError.

    answered: the broker had answered the first question, for its versions.
    """
    if isinstance(error, StreamsError):
        return error
    words, kind = _explained(error, config, offered, answered)
    return kind(f"{_at(config, host, port)} {_scrubbed(words, config)}")


def explain_connection_error(error: BaseException, config: KafkaConfig, host: str, port: int) -> str:
    """One line without secrets: what is wrong with a connection, and what to check."""
    return str(connection_error(error, config, host, port))


def _at(config: KafkaConfig, host: str, port: int) -> str:
    return f"{config.url}: broker {f'[{host}]' if ':' in host else host}:{port}"


_CERTIFICATE_FAULTS = {
    10: "has a certificate that has expired; renew it",
    18: "has a certificate signed by itself; name it (or its authority) by ca_file",
    19: "has a certificate of an authority that isn't trusted here; name the authority's by ca_file",
    20: "has a certificate of an authority that isn't trusted here; name the authority's by ca_file",
    62: "has a certificate for another name than this; use a name in it, or check_hostname=false",
    64: "has a certificate for another address than this; use a name in it, or check_hostname=false",
}
"""By OpenSSL's X509_V_ERR_…"""


def _explained(
    error: BaseException, config: KafkaConfig, offered: tuple[str, ...], answered: bool
) -> tuple[str, type[StreamsError]]:
    """What is wrong and what to check; a ConfigurationError only where it is certain that waiting won't help."""
    cause = error.__cause__ if isinstance(error, KafkaConnectionError) and error.__cause__ is not None else error
    plain, encrypted = ("sasl", "sasl_tls") if config.authenticated else ("plaintext", "tls")
    match cause:
        case ssl.SSLCertVerificationError():
            return _CERTIFICATE_FAULTS.get(
                cause.verify_code, f"has a bad certificate: {cause.verify_message}"
            ), ConfigurationError
        case ssl.SSLError() if "ALERT" in (cause.reason or ""):
            return _explained_alert(cause.reason, config), ConfigurationError
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return f"doesn't speak TLS on this port; check the port, or use security={plain}", ConfigurationError
        case ssl.SSLError():
            return (
                f"and we don't come to terms on encryption ({cause.reason or cause}); check port and security",
                LogUnavailable,
            )
        case socket.gaierror():
            return (
                f"isn't known by this name ({cause.strerror}); check the name, and DNS on this machine",
                LogUnavailable,
            )
        case TimeoutError():
            return (
                f"doesn't answer within {config.connect_timeout_ms} ms; check host and port, what stands between "
                f"(firewall, VPN), and that it is a Kafka broker that runs",
                LogUnavailable,
            )
        case ConnectionRefusedError():
            return "refuses connections; check that it runs and listens on this port", LogUnavailable
        case asyncio.IncompleteReadError(expected=int() as first) if first > 100 * 2**20:
            # What was taken for the length of an answer are the first bytes of another protocol.
            if first >> 16 == 0x1503:
                return f"encrypts on this port; use security={encrypted}", ConfigurationError
            return (
                f"isn't a Kafka broker: it begins with {first.to_bytes(4, 'big')!r}; check host and port",
                ConfigurationError,
            )
        case asyncio.IncompleteReadError() if answered and not config.authenticated:
            # In order, behind the one question that it answers anybody: who resets a connection says nothing by it.
            instead = "sasl_tls" if config.encrypted else "sasl"
            return (
                f"answered once and ended the connection, as one does that wants a login; then use security={instead}",
                LogUnavailable,
            )
        case asyncio.IncompleteReadError():
            return _hung_up("ended the connection", config, answered), ConnectionBroken
        case ConnectionError() | KafkaConnectionError():
            return _hung_up("reset the connection", config, answered), ConnectionBroken
        case SaslAuthenticationFailed() if config.mechanism == "OAUTHBEARER":
            return (
                f"refuses the token ({cause}); check that it hasn't expired, its audience and its scope",
                ConfigurationError,
            )
        case SaslAuthenticationFailed():
            return (
                f"refuses user {config.user!r} ({cause}); check user, password and mechanism={config.mechanism}",
                ConfigurationError,
            )
        case UnsupportedSaslMechanismError():
            instead = f"; it has {', '.join(offered)}" if offered else "; use another"
            return f"doesn't have mechanism={config.mechanism}{instead}", ConfigurationError
        case IllegalSaslStateError():
            return (
                f"wants no login on this port; use security={'tls' if config.encrypted else 'plaintext'}",
                ConfigurationError,
            )
        case ValueError() if config.mechanism.startswith("SCRAM"):
            return (
                f"doesn't know the password of {config.user!r} itself ({cause}): it may not be who it says it is",
                ConfigurationError,
            )
        case OSError(strerror=str() as words):
            return f"can't be reached ({words}); check host and port, and the network", LogUnavailable
    return f"can't be used ({type(cause).__name__}: {cause}); check port, security and mechanism", LogUnavailable


def _hung_up(what: str, config: KafkaConfig, answered: bool) -> str:
    when = "after its first answer" if answered else "before it answered"
    return (
        f"{what} {when}: it may be starting or stopping, or what stands between finds no broker; if that lasts, check "
        f"port and security={config.security}, and the broker's own log"
    )


def _explained_alert(reason: str, config: KafkaConfig) -> str:
    """What a broker means that breaks off a handshake (RFC 8446, 6.2)."""
    if not config.cert_file:
        return f"refuses us ({reason}), as one does that wants a certificate: give cert_file and key_file"
    if "PROTOCOL_VERSION" in reason:
        return f"speaks no version of TLS that is safe ({reason}); it has to allow TLS 1.2 or 1.3"
    return f"refuses the certificate in cert_file={config.cert_file} ({reason}); check who signed it, and until when"
