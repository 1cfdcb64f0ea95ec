"""Settings of a connection to an MQTT broker, and the URL that carries them.

What must live here: names, defaults, parsing.  What must not: connecting.

    mqtt://127.0.0.1                                    port 1883; MQTT 5
    mqtt://shop@broker?version=3.1.1&keep_alive_s=20    the password: STREAMS_MQTT_PASSWORD, or password_file
    mqtts://broker?ca_file=/etc/mqtt/ca.pem&cert_file=/etc/mqtt/me.pem&key_file=/etc/mqtt/me.key     port 8883
    ws://broker:9001/mqtt    wss://broker/mqtt          MQTT over WebSocket; ports 80 and 443

The client id isn't part of it: it is the name of a session, and each task of a source or a sink has its own.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from streams.connectors.mqtt.events import SessionSettings
from streams.connectors.mqtt.packets import MQTT_3_1_1, MQTT_5, Will
from streams.core.urls import pairs_of, without_secrets
from streams.errors import ConfigurationError

__all__ = ["MqttConfig", "parse_url"]

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
SEND_MAXIMUM = {MQTT_3_1_1: 20, MQTT_5: 1000}
VERSIONS = {"3.1.1": MQTT_3_1_1, "4": MQTT_3_1_1, "5": MQTT_5, "5.0": MQTT_5}


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """How a broker is reached.

    version: MQTT_5 or MQTT_3_1_1.  path: of a WebSocket.
    keep_alive_s: as CONNECT says it; 0 turns it off.  answer_timeout_s: how long the broker may take to answer.
    session_expiry_s: how long the broker keeps a session while nobody is connected; a broker may shorten it.
    receive_maximum: messages at QoS 1 and 2 that the broker may send ahead of our acknowledgements; 16,384 at most.
    send_maximum: as many as we have in flight at most; 0 is 1000 in MQTT 5, where the broker says what it takes, and 20
    in 3.1.1, where it can't: beyond its ``max_inflight_messages`` mosquitto acknowledges at QoS 2 and drops.
    max_packet_bytes: a longer packet that comes ends the connection, and a longer message isn't sent.
    topic_aliases: how many are used in each direction (MQTT 5).
    ca_file, cert_file, key_file: for mqtts and wss.
    """

    shown: str
    scheme: str
    host: str
    port: int
    path: str = "/mqtt"
    version: int = MQTT_5
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    keep_alive_s: int = 30
    answer_timeout_s: float = 10.0
    session_expiry_s: int = 7 * 86_400
    receive_maximum: int = 1000
    send_maximum: int = 0
    max_packet_bytes: int = 16 * 2**20
    topic_aliases: int = 16
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme in ("mqtts", "wss")

    def tls(self) -> ssl.SSLContext | None:
        """None where the connection isn't encrypted.  Raises ConfigurationError for files that can't be used."""
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except OSError as error:
            raise ConfigurationError(
                f"{self.shown}: its certificates can't be used ({error}); look at ca_file, cert_file and key_file"
            ) from error
        return context

    def session(self, client_id: str, *, clean_start: bool, will: Will | None = None) -> SessionSettings:
        """For one connection.  clean_start ends the session that this client id has, and keeps none after it."""
        return SessionSettings(
            client_id=client_id,
            version=self.version,
            clean_start=clean_start,
            session_expiry_s=0 if clean_start else self.session_expiry_s,
            keep_alive_s=self.keep_alive_s,
            user=self.user,
            password=None if self.password is None else self.password.encode(),
            will=will,
            receive_maximum=self.receive_maximum,
            send_maximum=self.send_maximum or SEND_MAXIMUM[self.version],
            max_packet_bytes=self.max_packet_bytes,
            topic_aliases_in=self.topic_aliases,
            topic_aliases_out=self.topic_aliases,
            answer_timeout_s=self.answer_timeout_s,
        )


_NUMBERS = {
    "keep_alive_s": (0, 65_535),
    "session_expiry_s": (1, 0xFFFF_FFFF),
    "receive_maximum": (1, 16_384),  # half of inflight.AGE: what is in flight mustn't be forgotten for its age
    "send_maximum": (1, 65_535),
    "max_packet_bytes": (1024, 268_435_460),
    "topic_aliases": (0, 65_535),
    "answer_timeout_s": (1, 3_600),
}
_FILES = ("ca_file", "cert_file", "key_file")


def parse_url(url: str) -> MqttConfig:
    """Raises ConfigurationError, without secrets."""
    shown = without_secrets(url)
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in PORTS:
        raise ConfigurationError(f"{shown}: an MQTT broker's URL begins with mqtt://, mqtts://, ws:// or wss://")
    location, _, query = rest.partition("?")
    userinfo, _, place = location.rpartition("@")
    address, slash, path = place.partition("/")
    host, colon, port = address.rpartition(":") if not address.endswith("]") else (address, "", "")
    if not colon:
        host, port = address, str(PORTS[scheme])
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigurationError(f"{shown}: {address!r} is no broker; write {scheme}://<host>:<port>")
    if path and scheme in ("mqtt", "mqtts"):
        raise ConfigurationError(f"{shown}: only ws:// and wss:// have a path, and topics aren't part of the URL")
    user, colon, password = userinfo.partition(":")
    settings: dict[str, Any] = {}
    password_file = ""
    for name, value in pairs_of(query):
        if name in _NUMBERS:
            least, most = _NUMBERS[name]
            if not value.isdigit() or not least <= int(value) <= most:
                raise ConfigurationError(f"{shown}: {name}={value}: a number from {least} to {most} is needed")
            settings[name] = int(value)
        elif name in _FILES:
            settings[name] = value
        elif name == "password_file":
            password_file = value
        elif name == "version" and value in VERSIONS:
            settings[name] = VERSIONS[value]
        else:
            known = ", ".join(sorted([*_NUMBERS, *_FILES, "password_file", "version=5", "version=3.1.1"]))
            raise ConfigurationError(f"{shown}: {name} is no setting, or not so; there are {known}")
    if any(settings.get(name) for name in _FILES) and scheme not in ("mqtts", "wss"):
        raise ConfigurationError(f"{shown}: certificates are for mqtts:// and wss://; this one isn't encrypted")
    return MqttConfig(
        shown=f"{scheme}://{address}" + (slash + path if path else ""),
        scheme=scheme,
        host=host.strip("[]"),
        port=int(port),
        path="/" + path if path else "/mqtt",
        user=unquote(user) if user else None,
        password=_password(shown, user, unquote(password) if colon else None, password_file),
        **settings,
    )


def _password(shown: str, user: str, given: str | None, file: str) -> str | None:
    """In the URL, in a file, or in the environment, in this order; none without a user."""
    if not user:
        if file:
            raise ConfigurationError(f"{shown}: a password without a user; write the user before the host, with an @")
        return None
    if given is not None:
        return given
    if file:
        try:
            return Path(file).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{shown}: password_file can't be read ({error})") from error
    return os.environ.get("STREAMS_MQTT_PASSWORD")
