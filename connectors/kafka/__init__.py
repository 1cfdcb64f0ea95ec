"""Kafka: the app's log, and a foreign log to read from and deliver to."""

from streams.connectors.kafka.config import KafkaConfig, parse_url
from streams.connectors.kafka.log import KafkaLog

__all__ = ["KafkaConfig", "KafkaLog", "parse_url"]
