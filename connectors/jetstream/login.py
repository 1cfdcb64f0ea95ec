"""Who we are and whom we trust: from settings to what nats-py takes.

What must live here: secret files, credentials, TLS contexts, and words for a login or handshake that failed.  What must
not: when to connect (``session``).

Files are read when the connection is made, and again whenever it is made anew, so that a renewed certificate, password
or credentials file needs no restart.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams.connectors.jetstream.config import NatsConfig
from streams.core.secret import Secret
from streams.errors import ConfigurationError

__all__ = ["NO_TLS", "client_settings", "refusal"]

NO_TLS = "the server offers no encryption"
_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END")


def client_settings(config: NatsConfig) -> dict[str, Any]:
    """Arguments for ``nats.connect``.  Everything is tried once: raises ConfigurationError for what can't be used."""
    found: dict[str, Any] = {
        "servers": list(config.servers),
        "ping_interval": config.ping_interval_ms / 1000,
        "inbox_prefix": config.inbox_prefix,
    }
    if config.user:
        found["user"] = config.user
        found["password"] = _tried(lambda: _text(config, "password", config.password, config.password_file))
    if config.token or config.token_file:
        found["token"] = _tried(lambda: _text(config, "token", config.token, config.token_file))
    if config.nkey or config.nkey_file:
        seed = _text(config, "nkey", config.nkey, config.nkey_file)
        _signed(config, "nkey_file", seed, "")
        found["nkeys_seed_str"] = seed
    if config.creds or config.creds_file:
        _, seed = _credentials(config)
        _signed(config, "creds_file", seed, "")
        found["user_jwt_cb"] = lambda: _credentials(config)[0].encode()
        found["signature_cb"] = lambda nonce: _signed(config, "creds_file", _credentials(config)[1], nonce)
    if config.encrypted:
        found["tls"] = _context(config)
        found["tls_handshake_first"] = config.tls == "first"
    return found


def _tried(read: Callable[[], Any]) -> Callable[[], Any]:
    """``read``, which is called at each connect and has to work now."""
    read()
    return read


def _text(config: NatsConfig, name: str, secret: Secret, path: str) -> str:
    """A secret as it stands, or the file that holds it, without the end of its line."""
    if not path:
        return secret.reveal()
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise ConfigurationError(f"{config.shown}: {name}_file={path} can't be read: {why}") from None


def _credentials(config: NatsConfig) -> tuple[str, str]:
    """JWT and seed."""
    text = _text(config, "creds", config.creds, config.creds_file)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    where = f"creds_file={config.creds_file}" if config.creds_file else "creds"
    if jwt is None or seed is None:
        raise ConfigurationError(f"{config.shown}: {where} holds no user's JWT with its seed, as nsc writes them")
    try:
        body = jwt[1].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        ends = float(claims.get("exp") or 0)
    except (IndexError, ValueError, TypeError, AttributeError):
        raise ConfigurationError(f"{config.shown}: the JWT of {where} can't be read") from None
    if ends and ends < time.time():
        on = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ends))
        raise ConfigurationError(f"{config.shown}: {where} has expired on {on} UTC; get a new one from the account")
    return jwt[1], seed[1]


def _signed(config: NatsConfig, name: str, seed: str, nonce: str) -> bytes:
    """The server's challenge, signed."""
    try:
        import nkeys
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{config.shown}: logins by nkey and by credentials need a package that isn't installed ({error.name}); "
            f"pip install 'streams-log[nats]'"
        ) from error
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        signed = base64.b64encode(pair.sign(nonce.encode()))
        pair.wipe()
        return signed
    except (nkeys.NkeysError, binascii.Error, ValueError):
        raise ConfigurationError(f"{config.shown}: {name} holds no seed of an nkey (SU…)") from None


def _context(config: NatsConfig) -> ssl.SSLContext:
    password = _text(config, "key_password", config.key_password, config.key_password_file)
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
        if config.cert_file:
            # A callable: OpenSSL would ask at the terminal for the password of a key, and wait.
            context.load_cert_chain(config.cert_file, config.key_file or None, password=lambda: password)
    except (OSError, ValueError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"{config.shown}: its certificates can't be used ({why}); look at ca_file, cert_file, key_file and "
            f"key_password_file"
        ) from error
    return context


# ── what a server has said ────────────────────────────────────────────────────────────────────────────────────────


def refusal(error: Exception) -> str | None:
    """What to tell somebody whom no server will ever let in like this; None for an error that may pass."""
    if isinstance(error.__cause__, ConfigurationError):
        return str(error.__cause__).partition(": ")[2]
    words = str(error).lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        if "hostname mismatch" in words or "ip address mismatch" in words:
            return (
                f"its certificate is another host's ({error.verify_message}); name the server as the certificate does"
            )
        return f"its certificate isn't trusted ({error.verify_message}); name the authority with ca_file"
    if isinstance(error, ssl.SSLError):
        if "certificate_required" in words or "certificate required" in words:
            return "it wants a certificate of ours; set cert_file and key_file"
        if "alert" in words and ("certificate" in words or "unknown_ca" in words or "unknown ca" in words):
            return f"it refuses our certificate ({error.reason}); look at cert_file and key_file"
        if "wrong_version_number" in words or "wrong version number" in words:
            return "it doesn't begin with a TLS handshake; use tls=yes instead of tls=first, or the port that does"
        return None
    if NO_TLS in words:
        return f"{NO_TLS}, and nothing was sent; name the port that does, or leave out tls and the certificates"
    if "expired" in words and "auth" in words:
        return "the server says that the credentials have expired; get new ones from the account"
    if "revoked" in words:
        return "the server says that the credentials are revoked; get new ones from the account"
    if "authorization violation" in words or "authentication" in words:
        return "the server refused the login; look at user, password, token, nkey, creds or the certificate"
    return None
