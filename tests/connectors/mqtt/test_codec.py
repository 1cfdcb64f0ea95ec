"""The MQTT codec by itself: what is written reads back, in whatever pieces; what is broken is an error of ours."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.mqtt.decoder import Decoder
from streams.connectors.mqtt.encoder import PUBACKS, PUBCOMPS, PUBRECS, PUBRELS, encode, encode_acks, encode_publish
from streams.connectors.mqtt.errors import MalformedPacket, ProtocolError, Unsendable, WireError
from streams.connectors.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connack,
    Connect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Will,
)
from streams.connectors.mqtt.reasons import Reason
from tests.connectors.mqtt.strategies import packets, publishes

LIMIT = 2**20
VERSIONS = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5])


def decoder(version: int, limit: int = LIMIT) -> Decoder:
    return Decoder(version, max_packet_bytes=limit)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@VERSIONS
@given(data=st.data())
def test_every_packet_reads_back_in_whatever_pieces_it_comes(version: int, data: st.DataObject) -> None:
    sent = data.draw(st.lists(packets(version), min_size=1, max_size=5))
    wire = b"".join(encode(packet, version) for packet in sent)
    reader = decoder(version)
    read: list[Packet] = []
    for piece in in_pieces(wire, data.draw(st.lists(st.integers(0, 10_000), max_size=6))):
        read += reader.feed(piece)
    assert (read, reader.error) == (sent, None)


@VERSIONS
@given(data=st.data())
def test_a_packet_that_comes_byte_by_byte_is_given_out_with_its_last_byte(version: int, data: st.DataObject) -> None:
    sent = data.draw(packets(version))
    wire = encode(sent, version)
    reader = decoder(version)
    assert [reader.feed(wire[at : at + 1]) for at in range(len(wire))] == [*[[]] * (len(wire) - 1), [sent]]


@VERSIONS
@given(noise=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_noise_is_an_error_of_ours_or_is_waited_with(version: int, noise: bytes, cuts: list[int]) -> None:
    reader = decoder(version)
    for piece in in_pieces(noise, cuts):
        reader.feed(piece)
    assert reader.error is None or isinstance(reader.error, (MalformedPacket, ProtocolError))


@VERSIONS
@given(data=st.data())
def test_a_mutated_packet_is_read_or_refused_and_what_is_read_can_be_written(version: int, data: st.DataObject) -> None:
    wire = bytearray(b"".join(encode(each, version) for each in data.draw(st.lists(packets(version), min_size=1))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(wire) - 1))
        match data.draw(st.sampled_from(["set", "cut", "add"])):
            case "set":
                wire[at] = data.draw(st.integers(0, 255))
            case "cut" if len(wire) > 1:
                del wire[at]
            case _:
                wire.insert(at, data.draw(st.integers(0, 255)))
    reader = decoder(version)
    for packet in reader.feed(bytes(wire)):
        try:
            again = encode(packet, version)
        except Unsendable:
            continue  # such as a topic filter with a wildcard inside a level, which only a broker judges
        assert decoder(version).feed(again) == [packet]
    assert reader.error is None or isinstance(reader.error, WireError)


@VERSIONS
@given(data=st.data())
def test_the_pieces_make_no_difference_to_what_is_found_wrong(version: int, data: st.DataObject) -> None:
    good = data.draw(publishes(version))
    wire = encode(good, version) + data.draw(st.binary(min_size=1, max_size=60))
    whole, torn = decoder(version), decoder(version)
    found = whole.feed(wire)
    in_parts = [
        each for piece in in_pieces(wire, data.draw(st.lists(st.integers(0, 500)))) for each in torn.feed(piece)
    ]
    assert found[0] == good
    assert found == in_parts
    assert (type(whole.error), str(whole.error)) == (type(torn.error), str(torn.error))


BROKEN_IN_BOTH = {
    "packet of type 0": "0000",
    "PUBACK with flags": "41020001",
    "PUBREL without its flag": "60020001",
    "SUBSCRIBE without its flag": "80060001000161ff",
    "PUBLISH with QoS 3": "3605000161000100",
    "PUBLISH with DUP at QoS 0": "3804000161ff",
    "PUBLISH with packet identifier 0": "3206000161000000",
    "PUBLISH without room for a topic": "300100",
    "PUBLISH whose topic is longer than it": "30050010616161",
    "PUBLISH that ends before its identifier": "3203000161",
    "PUBLISH with a wildcard": "300500012b0061",
    "PUBLISH with U+0000": "3005000100ff00",
    "PUBLISH with a surrogate": "30080003eda08000aaaa",
    "PUBLISH with broken UTF-8": "30060002c32800ff",
    "PUBACK with identifier 0": "40020000",
    "PUBACK of one byte": "400101",
    "PUBCOMP of nothing": "7000",
    "a length in five bytes": "30ffffffff01",
    "CONNACK with reserved flags": "20020200",
    "CONNACK of one byte": "200100",
    "SUBACK without reasons": "90020001",
    "SUBSCRIBE with QoS 3": "8206000100016103",
    "PINGRESP with a body": "d00100",
    "CONNECT of another protocol": "100c00044d515454030000000000",
    "CONNECT with its reserved flag": "100d00044d5154540403003c000161",
    "CONNECT with a will's QoS without a will": "100d00044d515454040a003c000161",
}
BROKEN_IN_3 = {
    "AUTH": "f000",
    "DISCONNECT with a reason": "e00100",
    "PUBACK with a reason": "4003000100",
    "CONNACK with a reserved return code": "20020006",
    "SUBACK with a reserved return code": "9003000187",
    "a password without a user": "100d00044d5154540442003c000161",
}
BROKEN_IN_5 = {
    "a length in more bytes than it needs": "b0840000010000",
    "a property's length in more bytes than it needs": "3006000161800061",
    "PUBLISH without properties": "3003000161",
    "an unknown property": "3006000161027f00",
    "properties longer than the packet": "30050001610901",
    "a property that runs into the payload": "300a0001610226000161000162",
    "text of a property that isn't UTF-8": "300a00016105030002c328ff",
    "UNSUBACK without reasons": "b003000100",
    "AUTH with a reason and no properties": "f00118",
}
FORBIDDEN_IN_5 = {
    "a property twice": "300900016104010001016100",
    "a property out of place": "3008000161032100016161",
    "PUBLISH without topic and alias": "300400000061",
    "payload format 2": "300600016102010261",
    "subscription identifier 0": "3006000161020b0061",
    "receive maximum 0": "200600000321000000",
    "authentication data without a method": "2008000005160002aabb00",
    "a response topic with a wildcard": "3009000161040800012b61",
    "CONNACK refused, with a session": "2003018700",
}


def error_of(version: int, wire: str) -> WireError:
    reader = decoder(version)
    data = bytes.fromhex(wire)
    assert reader.feed(encode(Puback(7), version) + data) == [Puback(7)], "what came before it is still right"
    assert reader.error is not None, f"nothing is wrong with it: {data!r}"
    assert reader.feed(encode(Puback(8), version)) == [], "nothing is read after an error"
    return reader.error


@pytest.mark.parametrize(("name", "wire"), (BROKEN_IN_BOTH | BROKEN_IN_3).items())
def test_a_malformed_packet_of_3_1_1_is_refused(name: str, wire: str) -> None:
    assert isinstance(error_of(MQTT_3_1_1, wire), MalformedPacket), name


@pytest.mark.parametrize(("name", "wire"), (BROKEN_IN_BOTH | BROKEN_IN_5).items())
def test_a_malformed_packet_of_5_is_refused(name: str, wire: str) -> None:
    assert isinstance(error_of(MQTT_5, wire), MalformedPacket), name


@pytest.mark.parametrize(("name", "wire"), FORBIDDEN_IN_5.items())
def test_what_5_forbids_is_a_protocol_error(name: str, wire: str) -> None:
    error = error_of(MQTT_5, wire)
    assert isinstance(error, ProtocolError), (name, error)
    assert error.reason >= 0x80


def test_a_connack_that_refuses_and_has_a_session_is_forbidden_in_3_1_1_too() -> None:
    assert isinstance(error_of(MQTT_3_1_1, "20020105"), ProtocolError)


def test_an_empty_topic_is_forbidden_in_3_1_1() -> None:
    assert isinstance(error_of(MQTT_3_1_1, "3003000061"), ProtocolError)


@VERSIONS
def test_a_packet_above_the_limit_is_refused_at_its_header_with_the_setting_named(version: int) -> None:
    reader = decoder(version, limit=1000)
    wire = encode_publish(Publish("a", bytes(1000 - 3 - 3 - (version == MQTT_5))), version)
    assert len(wire) == 1000
    assert len(reader.feed(wire)) == 1
    reader.feed(b"\x30\xff\xff\xff\x7f")
    assert reader.error is not None
    assert reader.error.reason == Reason.PACKET_TOO_LARGE
    assert "max_packet_bytes=1000" in str(reader.error)


def test_a_length_that_is_announced_takes_no_memory_before_it_comes() -> None:
    reader = decoder(MQTT_5, limit=2**28)
    tracemalloc.start()
    try:
        reader.feed(b"\x30\xff\xff\xff\x7f" + bytes(10))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_packet_in_small_pieces_is_put_together_once() -> None:
    payload = bytes(range(256)) * 4 * 1024 * 3
    wire = encode_publish(Publish("large", payload), MQTT_5)
    reader = decoder(MQTT_5, limit=2**23)
    tracemalloc.start()
    try:
        found = [each for at in range(0, len(wire), 1024) for each in reader.feed(wire[at : at + 1024])]
        # Put together at every piece, it would still be right, but take a time that is quadratic in its length.
        assert tracemalloc.get_traced_memory()[1] < 5 * len(payload)
    finally:
        tracemalloc.stop()
    assert [packet.payload for packet in found if isinstance(packet, Publish)] == [payload]


def test_a_decoder_of_a_broker_learns_the_version_from_connect() -> None:
    for version in (MQTT_3_1_1, MQTT_5):
        reader = Decoder(None, max_packet_bytes=LIMIT)
        hello = Connect("me", will=Will("gone", b"x", 2, True), user="u", password=b"p")
        message = Publish("a/b", b"x", 1, False, False, 3)
        assert reader.feed(encode(hello, version) + encode(message, version)) == [hello, message]
        assert reader.version == version


def test_a_decoder_of_a_broker_refuses_what_comes_before_connect_and_other_versions() -> None:
    for wire, reason in (
        (encode(Puback(1), MQTT_5), Reason.PROTOCOL_ERROR),
        (encode_publish(Publish("a", b""), MQTT_5), Reason.PROTOCOL_ERROR),
        (encode(Connack(), MQTT_5), Reason.PROTOCOL_ERROR),
        (b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00", Reason.UNSUPPORTED_PROTOCOL_VERSION),
    ):
        reader = Decoder(None, max_packet_bytes=LIMIT)
        assert reader.feed(wire) == []
        assert reader.error is not None
        assert reader.error.reason == reason


@VERSIONS
def test_acknowledgements_in_batches_are_the_same_bytes(version: int) -> None:
    ids = [1, 2, 255, 256, 65535]
    for kind, make in ((PUBACKS, Puback), (PUBRECS, Pubrec), (PUBRELS, Pubrel), (PUBCOMPS, Pubcomp)):
        assert encode_acks(kind, ids) == b"".join(encode(make(each), version) for each in ids)
        assert decoder(version).feed(encode_acks(kind, ids)) == [make(each) for each in ids]
    assert encode_acks(PUBACKS, []) == b""


@pytest.mark.parametrize(
    "packet",
    [
        Publish("", b""),
        Publish("a/+", b""),
        Publish("a/#", b""),
        Publish("a\0", b""),
        Publish("\udc80", b""),
        Publish("a" * 65536, b""),
        Publish("a", b"", qos=1),
        Publish("a", b"", qos=3, packet_id=1),
        Publish("a", b"", qos=1, packet_id=65536),
        Publish("a", b"", packet_id=1),
        Publish("a", b"", dup=True),
        Publish("a", b"", properties={"assigned_client_identifier": "x"}),
        Publish("a", b"", properties={"topic_alias": 65536}),
        Publish("a", b"", properties={"payload_format_indicator": 2}),
        Puback(0),
        Subscribe(1, ()),
        Subscribe(1, (Subscription("a#"),)),
        Subscribe(1, (Subscription("#/a"),)),
        Subscribe(1, (Subscription("a", qos=3),)),
        Connect("c", keep_alive_s=65536),
        Connect("c", password=bytes(65536)),
        Connect("c", will=Will("a/#")),
    ],
    ids=str,
)
def test_what_mqtt_has_no_bytes_for_is_refused_before_it_is_sent(packet: Packet) -> None:
    with pytest.raises(Unsendable):
        encode(packet, MQTT_5)


@pytest.mark.parametrize("kind", [PUBACKS, PUBRECS, PUBRELS, PUBCOMPS])
@pytest.mark.parametrize("wrong", [0, 65536, -1])
def test_no_batch_holds_an_identifier_that_mqtt_has_not(kind: int, wrong: int) -> None:
    with pytest.raises(Unsendable):
        encode_acks(kind, [1, wrong])
