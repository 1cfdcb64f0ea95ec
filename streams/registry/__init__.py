"""Values and keys whose schemas are kept by a schema registry (Confluent's, Karapace, Apicurio …).

    from streams.registry import SchemaRegistry

    registry = SchemaRegistry("http://registry:8081")
    orders = app.topic("orders", value=registry.avro(Order))

What must live here: codecs in Confluent's wire format, and the conversation with the registry behind them.  What must
not: anything about Kafka; the codecs work on every log, and in a TestDriver.

The format, the cache of ids, the subjects and the HTTP are ``confluent-kafka``'s own serializers and client, in the
extra ``registry``: they are what other programs on the topic use as well, kept by those who run the registry, with
wheels for all Pythons that we support.  (python-schema-registry-client knows no Protobuf; fastavro with an HTTP client
would leave ids, subjects, references and message indexes to us.)  Of its Kafka client nothing is used or started.

    connection   who we are to the registry, and what its failures mean
    derived      an Avro schema from a Python class, values to plain data and back
    codecs       ``SchemaRegistry``
"""

from __future__ import annotations

from streams.errors import ConfigurationError

__all__ = ["SchemaRegistry"]

try:
    from streams.registry.codecs import SchemaRegistry
except ModuleNotFoundError as error:
    raise ConfigurationError(
        f"a schema registry needs packages that aren't installed ({error.name}); install them with "
        f"pip install 'streams-log[registry]'"
    ) from error
