"""A Kafka broker that lets nobody in unasked: TLS, passwords, tokens, client certificates, and ACLs.

What must not live here: one broker's life (``broker.py``).

===================  ==================================================================================================
listener             who gets in
===================  ==================================================================================================
``SASL_PLAINTEXT``   PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, without encryption
``SASL_SSL``         the same behind TLS
``SSL``              TLS with a client certificate: CN=alice is the user alice
===================  ==================================================================================================

``admin`` may do everything; anybody else nothing before ``grant``.  OAUTHBEARER takes tokens that nobody has signed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, Literal

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from tests.brokers.kafka import admin
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.certificates import Authority
from tests.brokers.kafka.jars import program
from tests.brokers.ports import free_port

Listener = Literal["SASL_PLAINTEXT", "SASL_SSL", "SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
Resource = Literal["topic", "group", "cluster", "transactional_id"]

USERS: Mapping[str, str] = {"admin": "admin-secret", "alice": "alice-secret", "bob": "b@b:s/e?c#r%e&t +"}
"""Name → password, with every mechanism.  Bob's has what has to be quoted in a URL."""

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
SASL_LISTENERS = ("SASL_PLAINTEXT", "SASL_SSL")
UNSECURED = "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecured"

# The numbers of the protocol: org.apache.kafka.common.resource.ResourceType, .PatternType, .acl.AclOperation.
RESOURCES: Mapping[Resource, int] = {"topic": 2, "group": 3, "cluster": 4, "transactional_id": 5}
OPERATIONS = {
    "all": 2,
    "read": 3,
    "write": 4,
    "create": 5,
    "delete": 6,
    "alter": 7,
    "describe": 8,
    "describe_configs": 10,
    "alter_configs": 11,
    "idempotent_write": 12,
}
ANY, LITERAL, PREFIXED, ALLOW = 1, 3, 4, 3


class SecuredKafka(KafkaBroker):
    """See the module.  ``port`` and ``client`` are those of ``SASL_PLAINTEXT`` and of ``admin``."""

    def __init__(self, properties: Mapping[str, str] | None = None) -> None:
        program("openssl")
        self.ports: dict[Listener, int] = {"SASL_SSL": free_port(), "SSL": free_port()}
        scram = [
            f'{mechanism}=[name={user},password="{password}"]'
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for user, password in USERS.items()
        ]
        options = tuple(argument for credential in scram for argument in ("--add-scram", credential))
        super().__init__(properties, format_options=options)
        self.ports["SASL_PLAINTEXT"] = self.port
        self.folder.mkdir(mode=0o700)
        self.authority = Authority(self.folder / "authority")
        self.stranger = Authority(self.folder / "stranger")
        certificate, key = self.authority.sign("broker")
        (self.folder / "keystore.pem").write_text(key.read_text() + certificate.read_text())
        self.client_certificate, self.client_key = self.authority.sign("alice")

    def address(self, listener: Listener) -> str:
        """``127.0.0.1:port`` of a listener."""
        return f"127.0.0.1:{self.ports[listener]}"

    @property
    def client(self) -> dict[str, Any]:
        return self.client_of("admin")

    def client_of(
        self, user: str, listener: Listener = "SASL_PLAINTEXT", mechanism: Mechanism = "PLAIN", password: str = ""
    ) -> dict[str, Any]:
        """The arguments of an aiokafka client; ``password`` in place of the right one."""
        found: dict[str, Any] = {"bootstrap_servers": self.address(listener), "security_protocol": listener}
        if listener != "SASL_PLAINTEXT":
            found["ssl_context"] = context = ssl.create_default_context(cafile=str(self.authority.certificate))
            if listener == "SSL":
                context.load_cert_chain(self.client_certificate, self.client_key)
        if listener != "SSL":
            found["sasl_mechanism"] = mechanism
            if mechanism == "OAUTHBEARER":
                found["sasl_oauth_token_provider"] = Tokens(user)
            else:
                found |= {"sasl_plain_username": user, "sasl_plain_password": password or USERS[user]}
        return found

    def grant(self, user: str, resource: Resource, name: str, *operations: str, prefix: bool = False) -> None:
        """Allow these operations (all, if none is named) to a user; return when the broker knows.

        ``name`` is a name, ``*``, or with ``prefix`` how names begin; a cluster's is ``kafka-cluster``.
        """
        wanted = {OPERATIONS[operation] for operation in operations or ("all",)}
        admin.blocking(self._grant(user, RESOURCES[resource], name, wanted, PREFIXED if prefix else LITERAL))

    async def _grant(self, user: str, resource: int, name: str, wanted: set[int], pattern: int) -> None:
        principal = f"User:{user}"
        async with asyncio.timeout(30), admin.admin(self.client) as connected:
            for operation in wanted:
                request = CreateAclsRequest(resource, name, pattern, principal, "*", operation, ALLOW)
                answer = await connected._send_request(request)
                for code, message in answer.creation_responses:
                    if code:
                        raise for_code(code)(message)

            async def known() -> bool | None:
                request = DescribeAclsRequest(resource, name, pattern, principal, None, ANY, ALLOW)
                answer = await connected._send_request(request)
                # (type, name[, pattern], entries), and an entry is (principal, host, operation, permission).
                there = {entry[2] for found in answer.resources for entry in found[-1]}
                return True if wanted <= there else None

            await admin.until(known)

    def _own_settings(self) -> dict[str, str]:
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        listeners = f"SASL_PLAINTEXT://{self.bootstrap},{listeners}"
        settings = super()._own_settings() | {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{self.controllers[self.node_id]}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": (
                "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SASL_PLAINTEXT"
            ),
            "inter.broker.listener.name": "SASL_PLAINTEXT",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "keystore.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.folder / "authority" / "ca.pem"),
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        }
        known = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
        modules = {
            "plain": f'plain.PlainLoginModule required username="admin" password="{USERS["admin"]}" {known};',
            "scram-sha-256": "scram.ScramLoginModule required;",
            "scram-sha-512": "scram.ScramLoginModule required;",
            "oauthbearer": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="admin";',
        }
        for listener in ("sasl_plaintext", "sasl_ssl", "controller"):
            for mechanism, module in modules.items():
                name = f"listener.name.{listener}.{mechanism}"
                settings[f"{name}.sasl.jaas.config"] = f"org.apache.kafka.common.security.{module}"
            name = f"listener.name.{listener}.oauthbearer"
            settings[f"{name}.sasl.login.callback.handler.class"] = f"{UNSECURED}LoginCallbackHandler"
            settings[f"{name}.sasl.server.callback.handler.class"] = f"{UNSECURED}ValidatorCallbackHandler"
        return settings


def token(user: str, lifetime_s: float = 3600) -> str:
    """A token for OAUTHBEARER that says who somebody is, signed by nobody (RFC 7515, appendix A.5)."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + lifetime_s})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, ""])


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """What aiokafka asks for tokens."""

    def __init__(self, user: str) -> None:
        self._user = user

    async def token(self) -> str:
        return token(self._user)
