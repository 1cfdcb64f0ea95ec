"""From a URL to a log, or to a transport that isn't one.

The scheme of the URL chooses: the connectors of this package first, then what other packages offer under the entry
point group ``streams.logs`` (scheme = "module:callable", called with the URL).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from streams.core.edge import Edge
from streams.core.endpoint import Endpoint, Service
from streams.core.log import Log
from streams.core.urls import without_secrets
from streams.errors import ConfigurationError

ENTRY_POINTS = "streams.logs"


def _embedded(url: str) -> Log:
    from streams.connectors.embedded.log import EmbeddedLog

    return EmbeddedLog(url)


def _memory(url: str) -> Log:
    from streams.connectors.memory.log import MemoryLog

    return MemoryLog()


def _kafka(url: str) -> Log:
    try:
        from streams.connectors.kafka.log import KafkaLog
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a log on kafka: needs packages that aren't installed ({error.name}); install them with "
            f"pip install 'streams-log[kafka]'"
        ) from error
    return KafkaLog(url)


def _nats(url: str) -> Log:
    try:
        from streams.connectors.jetstream.log import JetStreamLog
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a log on NATS JetStream: needs packages that aren't installed ({error.name}); install them with "
            f"pip install 'streams-log[nats]'"
        ) from error
    return JetStreamLog(url)


def _jetstream(url: str) -> Log:
    try:
        from streams.connectors.jetstream.foreign import ForeignJetStream
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a topic on NATS JetStream: needs packages that aren't installed ({error.name}); install them with "
            f"pip install 'streams-log[nats]'"
        ) from error
    return ForeignJetStream(url)


OWN: dict[str, Callable[[str], Log]] = {
    "embedded": _embedded,
    "memory": _memory,
    "kafka": _kafka,
    "nats": _nats,
    "jetstream": _nats,
}
FOREIGN: dict[str, Callable[[str], Log]] = {
    "jetstream": _jetstream,
    "nats-kv": _jetstream,
    "nats-object": _jetstream,
}
"""What holds topics of others and is no app's log; where a scheme isn't here, the topic is one of such a log."""


def _core_nats(url: str) -> Edge:
    try:
        from streams.connectors.nats.edge import NatsEdge
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"topics on NATS need packages that aren't installed ({error.name}); install them with "
            f"pip install 'streams-log[nats]'"
        ) from error
    return NatsEdge(url)


def _mqtt(url: str) -> Edge:
    from streams.connectors.mqtt.edge import MqttEdge

    return MqttEdge(url)


EDGES: dict[str, Callable[[str], Edge]] = {
    "nats": _core_nats,
    "mqtt": _mqtt,
    "mqtts": _mqtt,
    "ws": _mqtt,
    "wss": _mqtt,
}


def open_edge(url: str) -> Edge:
    """The transport that the location of a topic names, not yet opened."""
    return EDGES[url.partition(":")[0]](url)


def open_foreign(location: str) -> Log:
    """What holds a topic that isn't on the app's own log, not yet opened.  Raises ConfigurationError."""
    scheme = location.partition(":")[0]
    return FOREIGN[scheme](location) if scheme in FOREIGN else open_log(location)


def open_service(url: str, app: str, version: int, endpoints: Sequence[Endpoint]) -> Service:
    """What listens for requests to an app's agents at a server, not yet opened; the endpoints are checked.

    Raises ConfigurationError.
    """
    scheme = url.partition(":")[0]
    if scheme != "nats":
        raise ConfigurationError(
            f"agent {endpoints[0].agent}: nothing answers on {without_secrets(url)!r}; write nats://<host>:<port>/<subject>"
        )
    try:
        from streams.connectors.nats.services import NatsService
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"an agent that answers on NATS needs packages that aren't installed ({error.name}); install them with "
            f"pip install 'streams-log[nats]'"
        ) from error
    service = NatsService(url, app, version)
    service.check(endpoints)
    return service


def open_log(url: str) -> Log:
    """The log that a URL names, not yet opened.  Raises ConfigurationError for one that names none."""
    scheme = url.partition(":")[0]
    if scheme in OWN:
        return OWN[scheme](url)
    from importlib.metadata import entry_points  # here: our own logs do without, and it brings in the parser of e-mails

    for found in entry_points(group=ENTRY_POINTS, name=scheme):
        return cast(Log, found.load()(url))
    raise ConfigurationError(
        f"log {without_secrets(url)!r}: nothing is known about {scheme!r}; use embedded:<folder>, as in "
        f"--log embedded:./data, or kafka://<host>:<port>, or nats://<host>:<port>"
    )
