"""``SchemaRegistry``: codecs in Confluent's wire format.

What must live here: what ``registry.avro(…)``, ``.json_schema(…)`` and ``.protobuf(…)`` mean.  What must not: HTTP and
its failures (``connection``), schemas of classes (``derived``).

    byte 0 | schema id, 4 bytes, big-endian | Protobuf only: which message of the file | the value

Written: the codec's schema is registered under its subject, or looked up, before the first value goes out.  Read: Avro
needs the schema that a value was written with, so the first value of each id asks the registry; JSON and Protobuf are
read by the schema and the class at hand and ask nothing.  What was learnt is kept for the life of the process.

A codec is made anew for each topic (``Codec.bind``), since its subject is named after it.  Internal topics and states
of an app have subjects of their own, under their own names, as they have in Kafka Streams: a reader's schema never
becomes a version of the subject that it reads.

The canonical schema of such a codec is its format and the name of the record, without its fields: whether an edit can
read what is stored is the registry's decision (its compatibility mode), and each stored value says how it was written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from confluent_kafka.schema_registry import (
    Schema,
    record_subject_name_strategy,
    topic_record_subject_name_strategy,
    topic_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from streams.dsl.codec import Codec
from streams.dsl.schema import wire_schema
from streams.errors import ConfigurationError, StreamsError
from streams.registry.connection import TROUBLE, Connection, UnknownSchema
from streams.registry.derived import Conversion, avro_conversion, avro_schema, json_conversion, json_schema

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["SchemaRegistry", "Subject"]

T = TypeVar("T")
M = TypeVar("M", bound="Message")

Subject = Literal["topic", "record", "topic_record"]
"""How a subject is called: ``orders-value``, ``Order``, ``orders-Order``."""

_STRATEGIES: dict[str, Callable[[SerializationContext | None, str | None], str | None]] = {
    "topic": topic_subject_name_strategy,
    "record": record_subject_name_strategy,
    "topic_record": topic_record_subject_name_strategy,
}
_id_of = struct.Struct(">xI").unpack_from
_NO_CONVERSION = Conversion(lambda value, _: value, lambda plain, _: plain)

Write = Callable[[Any, SerializationContext], bytes | None]
Read = Callable[[bytes, SerializationContext], Any]


class SchemaRegistry:
    """A schema registry; its methods make codecs for ``key=`` and ``value=``.

    url: ``http://host:8081``, several after commas are tried in turn; ``mock://`` is a registry in memory, for tests
    with a TestDriver, which finds every change of a schema compatible.  user and password, or token (sent as a bearer):
    the login.  ca_file, cert_file, key_file, key_password: TLS, in PEM.  Each of these that isn't given is taken from
    the environment, ``STREAMS_REGISTRY_URL`` and so on; none but the address is ever shown.

    register: False only looks schemas up, for registries that applications may not write to.  subject: how subjects are
    named.  timeout_s: to connect and to be answered; everything of the worker waits meanwhile.  settings: more of them,
    under the names of ``confluent_kafka.schema_registry.SchemaRegistryClient``.

    Nothing is sent before the first value.  Raises ConfigurationError for settings that can't be.
    """

    def __init__(
        self,
        url: str = "",
        *,
        user: str = "",
        password: str = "",
        token: str = "",
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
        key_password: str = "",
        register: bool = True,
        subject: Subject = "topic",
        timeout_s: float = 2.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        given = {
            "url": url,
            "user": user,
            "password": password,
            "token": token,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
            "key_password": key_password,
        }
        if subject not in _STRATEGIES:
            raise ConfigurationError(f"subject={subject!r}: subjects are named by 'topic', 'record' or 'topic_record'")
        self._connection = Connection(given, timeout_s=timeout_s, more=settings or {})
        self._subject = _STRATEGIES[subject]
        self._register = register

    def __repr__(self) -> str:
        return f"SchemaRegistry({str(self._connection)!r})"

    # ── the three formats ─────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def avro(self, schema: type[T]) -> Codec[T]: ...
    @overload
    def avro(self, schema: str | Mapping[str, Any] | Schema, *, type: type[T]) -> Codec[T]: ...
    @overload
    def avro(self, schema: str | Mapping[str, Any] | Schema | None = None) -> Codec[Any]: ...
    def avro(self, schema: Any = None, *, type: Any = None) -> Codec[Any]:
        """Values in Avro.

        schema: a dataclass, msgspec.Struct or TypedDict, from which it is derived; or the schema, as text or a dict,
        values then being dicts; or that with ``type``, the class of the values.  It is the reader's schema as well:
        values written with another one are resolved to it, with its defaults.  None: values are read as they were
        written, and written with the latest schema of their subject.
        """
        cls = type if type is not None else schema if _is_class(schema) else None
        text = avro_schema(schema) if _is_class(schema) else schema
        known = None if text is None else _as_schema(text, "AVRO")
        conversion = _NO_CONVERSION if cls is None else avro_conversion(cls)
        writing = self._writing(known) | {"validate.strict.allow.default": True}  # a field that the schema lacks
        client = self._connection.client

        def read() -> Read:
            made: Read = AvroDeserializer(
                client, known, conversion.from_plain, conf={"subject.name.strategy": self._subject}
            )
            return made

        def write() -> Write:
            made: Write = AvroSerializer(client, known, conversion.to_plain, conf=writing)
            return made

        return self._codec("avro", _name_of(known, "name"), write, read, asks=True)

    @overload
    def json_schema(self, schema: type[T], *, validate: bool = True) -> Codec[T]: ...
    @overload
    def json_schema(
        self, schema: str | Mapping[str, Any] | Schema, *, type: type[T], validate: bool = True
    ) -> Codec[T]: ...
    @overload
    def json_schema(
        self, schema: str | Mapping[str, Any] | Schema | None = None, *, validate: bool = True
    ) -> Codec[Any]: ...
    def json_schema(self, schema: Any = None, *, type: Any = None, validate: bool = True) -> Codec[Any]:
        """Values in JSON, with a JSON Schema in the registry.

        schema, type: as for ``avro``; pydantic models have a schema here too.  validate: check values against it, when
        they are written and when they are read; what that costs is most of what such a codec costs.
        """
        cls = type if type is not None else schema if _is_class(schema) else None
        text = json_schema(schema) if _is_class(schema) else schema
        known = None if text is None else _as_schema(text, "JSON")
        conversion = _NO_CONVERSION if cls is None else json_conversion(cls)
        writing = self._writing(known) | {"validate": validate}
        reading = {"subject.name.strategy": self._subject, "validate": validate}
        client = self._connection.client
        asked = None if known is not None else client

        def read() -> Read:
            made: Read = JSONDeserializer(known, conversion.from_plain, asked, reading)
            return made

        def write() -> Write:
            made: Write = JSONSerializer(known, client, conversion.to_plain, writing)
            return made

        return self._codec("json-schema", _name_of(known, "title"), write, read, asks=asked is not None)

    def protobuf(self, message: type[M]) -> Codec[M]:
        """Messages of one class that ``protoc`` generated; the files that its file imports are registered as well.

        They are read as that class, whatever the registry says, by Protobuf's own rules of evolution: one class of
        messages a topic.
        """
        client = self._connection.client
        writing = {
            "subject.name.strategy": self._subject,
            "auto.register.schemas": self._register,
            "normalize.schemas": True,
        }

        def read() -> Read:
            made: Read = ProtobufDeserializer(message)
            return made

        def write() -> Write:
            made: Write = ProtobufSerializer(message, client, writing)
            return made

        return self._codec("protobuf", message.DESCRIPTOR.full_name, write, read, asks=False)

    # ── what they share ───────────────────────────────────────────────────────────────────────────────────────────

    def _writing(self, known: Schema | None) -> dict[str, Any]:
        return {
            "subject.name.strategy": self._subject,
            "auto.register.schemas": self._register and known is not None,
            "use.latest.version": known is None,
            "normalize.schemas": True,  # a schema that was only formatted anew is the same
        }

    def _codec(
        self, wire: str, record: str, write: Callable[[], Write], read: Callable[[], Read], *, asks: bool
    ) -> Codec[Any]:
        schema = wire_schema(f"registry:{wire}:{record}")

        def bind(topic: str, part: Literal["key", "value"]) -> Codec[Any]:
            context = SerializationContext(topic, MessageField.KEY if part == "key" else MessageField.VALUE)
            encode = self._encoder(write(), context)
            decode = self._decoder(read(), context) if asks else _reader(read(), context)
            return Codec(wire, decode, encode, schema)

        def unbound(_: Any) -> NoReturn:
            raise ConfigurationError(f"a codec of {self!r} is used without a topic; call its at('<topic>', 'value')")

        try:
            write()
            read()
        except StreamsError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"the {wire} schema {record or ''} can't be used: {type(error).__name__}: {error}"
            ) from error
        return Codec(wire, unbound, unbound, schema, bind)

    def _encoder(self, write: Write, context: SerializationContext) -> Callable[[Any], bytes]:
        connection = self._connection
        what = f"the {context.field}s of {context.topic} can't be written"
        registered = False

        def encode(value: Any) -> bytes:
            nonlocal registered
            try:
                if registered:
                    raw = write(value, context)
                else:
                    raw = connection.ask(what, lambda: write(value, context))
                    registered = True
            except StreamsError:
                raise
            except UnknownSchema as error:
                raise connection.refused(str(error)) from error
            except TROUBLE as error:
                raise connection.failure(error, what) from error
            except Exception as error:
                # Whatever a serializer says about a value; a codec's word for it is TypeError.
                raise TypeError(f"{value!r:.60} doesn't fit the schema: {_said(error)}") from error
            if raw is None:
                raise TypeError("None can't be written: it stands for no value, as a tombstone")
            return raw

        return encode

    def _decoder(self, read: Read, context: SerializationContext) -> Callable[[bytes], Any]:
        connection, subject = self._connection, self._subject(context, None)
        known: set[bytes] = set()

        def decode(raw: bytes) -> Any:
            head = raw[:5]
            if head in known:
                return read(raw, context)
            if len(head) == 5 and head[0] == 0:
                (number,) = _id_of(head)
                purpose = f"schema {number} of the {context.field}s of {context.topic} isn't known"
                # By itself, so that the registry's answer is told from what is wrong with the value.
                connection.ask(purpose, lambda: connection.client.get_schema(number, subject))
            else:
                purpose = f"the {context.field}s of {context.topic} can't be read"
            try:
                value = read(raw, context)
            except TROUBLE as error:  # of schemas that the value's own refers to
                raise connection.failure(error, purpose) from error
            known.add(head)
            return value

        return decode


def _reader(read: Read, context: SerializationContext) -> Callable[[bytes], Any]:
    return lambda raw: read(raw, context)


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _is_class(schema: Any) -> bool:
    return isinstance(schema, type)


def _as_schema(schema: Any, kind: str) -> Schema:
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, str) and not schema.lstrip().startswith(("{", "[")):
        # Avro's "string" and the like, with JSON's quotes or without: the serializer takes no schema that is a text.
        schema = {"type": schema.strip().strip('"')}
    return Schema(schema if isinstance(schema, str) else json.dumps(schema), kind)


def _name_of(schema: Schema | None, field: str) -> str:
    """What a schema calls its record; "" where it doesn't."""
    if schema is None or schema.schema_str is None:
        return ""
    try:
        found = json.loads(schema.schema_str)
    except ValueError as error:
        raise ConfigurationError(f"the schema is no JSON: {error}: {schema.schema_str!r:.60}") from None
    if not isinstance(found, dict):
        return ""
    return ".".join(str(found[name]) for name in ("namespace", field) if name in found)
