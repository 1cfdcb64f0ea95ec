"""Operator, accounts and users as signed tokens, for servers that trust an operator (ADR-14).

What must live here: keys, tokens, credentials files.  What must not: a server.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

UNLIMITED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer")


class Key:
    """A pair of keys."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def token(self, subject: str, name: str, claims: dict[str, Any], *, ends_s: float = 0.0) -> str:
        """A JWT that this key has signed."""
        body: dict[str, Any] = {
            "jti": base64.b32encode(os.urandom(16)).decode().rstrip("="),
            "iat": int(time.time()),
            "iss": self.public,
            "name": name,
            "sub": subject,
            "nats": {"version": 2, **claims},
        }
        if ends_s:
            body["exp"] = int(ends_s)
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
        return f"{signed}.{_encoded(self._pair.sign(signed.encode()))}"


class Operator:
    """Signs accounts, and their users."""

    def __init__(self) -> None:
        self._key = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._accounts: dict[str, tuple[Key, str]] = {}
        self.account("system", jetstream=False)

    def account(self, name: str, *, jetstream: bool) -> None:
        key = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = dict.fromkeys((*UNLIMITED, *(JETSTREAM if jetstream else ())), -1)
        claims = {"type": "account", "limits": {**limits, "wildcards": True}}
        self._accounts[name] = key, self._key.token(key.public, name, claims)

    def user(self, account: str, file: Path, *, ends_s: float = 0.0) -> Path:
        """A credentials file, as nsc writes it."""
        key = Key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "pub": {}, "sub": {}, **dict.fromkeys(UNLIMITED[:3], -1)}
        jwt = self._accounts[account][0].token(key.public, file.stem, claims, ends_s=ends_s)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return file

    def config(self) -> str:
        """Lines of a server's configuration."""
        token = self._key.token(self._key.public, "tests", {"type": "operator"})
        preload = "\n".join(f"  {key.public}: {jwt}" for key, jwt in self._accounts.values())
        system = self._accounts["system"][0].public
        return f"operator: {token}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
