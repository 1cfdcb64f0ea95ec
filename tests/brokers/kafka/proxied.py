"""A Kafka broker that is also reached through a port where a test puts a proxy.

What must live here: its two listeners.  What must not: a proxy (``tests/guarantees/relay.py``,
``tests/guarantees/kafka_log/proxy.py``).
"""

from __future__ import annotations

from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.ports import free_port

__all__ = ["ProxiedKafka"]


class ProxiedKafka(KafkaBroker):
    """Those who come by ``proxied`` are told to come back that way, where a proxy has to stand that leads from
    ``proxy_port`` to ``upstream_port``; ``bootstrap`` leads to the broker directly."""

    def __init__(self) -> None:
        self.proxy_port, self.upstream_port = free_port(), free_port()
        super().__init__()

    @property
    def proxied(self) -> str:
        return f"127.0.0.1:{self.proxy_port}"

    def _own_settings(self) -> dict[str, str]:
        settings = super()._own_settings()
        listeners = f"{settings['listeners']},PROXIED://127.0.0.1:{self.upstream_port}"
        return settings | {
            "listeners": listeners,
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},PROXIED://{self.proxied}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }
