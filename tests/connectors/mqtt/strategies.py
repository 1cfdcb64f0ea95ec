"""Packets as Hypothesis makes them: every kind, every property where it may stand, both versions."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from streams.connectors.mqtt.packets import (
    MQTT_5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import RETURN_CODES

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
topics = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0+#"), min_size=1, max_size=20)
filters = st.builds(
    lambda levels, rest: "/".join(levels) + rest,
    st.lists(st.one_of(topics.map(lambda topic: topic.replace("/", "-")), st.just("+")), min_size=1, max_size=4),
    st.sampled_from(["", "/#", "/"]),
)
blobs = st.binary(max_size=40)
ids = st.integers(1, 0xFFFF)
qos = st.integers(0, 2)
flags = st.integers(0, 1)
reasons = st.integers(0, 255)
_u32, _u16 = st.integers(0, 2**32 - 1), st.integers(0, 0xFFFF)
_pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def properties(**each: st.SearchStrategy[Any]) -> st.SearchStrategy[Properties]:
    return st.fixed_dictionaries({}, optional={**each, "user_property": _pairs})  # type: ignore[return-value]


of_publish = properties(
    payload_format_indicator=flags,
    message_expiry_interval=_u32,
    content_type=texts,
    response_topic=topics,
    correlation_data=blobs,
    subscription_identifier=st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3),
    topic_alias=st.integers(1, 0xFFFF),
)
of_will = properties(
    payload_format_indicator=flags,
    message_expiry_interval=_u32,
    content_type=texts,
    response_topic=topics,
    correlation_data=blobs,
    will_delay_interval=_u32,
)
of_connect = properties(
    session_expiry_interval=_u32,
    request_problem_information=flags,
    request_response_information=flags,
    receive_maximum=st.integers(1, 0xFFFF),
    topic_alias_maximum=_u16,
    maximum_packet_size=st.integers(1, 2**32 - 1),
    authentication_method=texts,
)
of_connack = properties(
    session_expiry_interval=_u32,
    assigned_client_identifier=texts,
    server_keep_alive=_u16,
    authentication_method=texts,
    response_information=texts,
    server_reference=texts,
    reason_string=texts,
    receive_maximum=st.integers(1, 0xFFFF),
    topic_alias_maximum=_u16,
    maximum_qos=flags,
    retain_available=flags,
    maximum_packet_size=st.integers(1, 2**32 - 1),
    wildcard_subscription_available=flags,
    subscription_identifier_available=flags,
    shared_subscription_available=flags,
)
of_ack = properties(reason_string=texts)
of_subscribe = properties(subscription_identifier=st.lists(st.integers(1, 268_435_455), min_size=1, max_size=1))
of_unsubscribe = properties()
of_disconnect = properties(session_expiry_interval=_u32, server_reference=texts, reason_string=texts)
of_auth = st.one_of(
    properties(reason_string=texts),
    st.builds(lambda method, data: Properties(authentication_method=method, authentication_data=data), texts, blobs),
)


def publishes(version: int) -> st.SearchStrategy[Publish]:
    def at(level: int) -> st.SearchStrategy[Publish]:
        return st.builds(
            Publish,
            topic=topics,
            payload=st.one_of(blobs, st.binary(min_size=100, max_size=300)),
            qos=st.just(level),
            retain=st.booleans(),
            dup=st.booleans() if level else st.just(False),
            packet_id=ids if level else st.just(0),
            properties=of_publish if version == MQTT_5 else st.just(Properties()),
        )

    return qos.flatmap(at)


def packets(version: int) -> st.SearchStrategy[Packet]:
    five = version == MQTT_5
    nothing: st.SearchStrategy[Properties] = st.just(Properties())
    ack = {"packet_id": ids, "reason": reasons if five else st.just(0), "properties": of_ack if five else nothing}
    wills = st.builds(Will, topics, blobs, qos, st.booleans(), of_will if five else nothing)
    users = st.tuples(texts, st.one_of(st.none(), blobs))
    logins: st.SearchStrategy[Any] = st.one_of(st.just((None, None)), users)
    subscriptions = (
        st.builds(Subscription, filters, qos, st.booleans(), st.booleans(), qos)
        if five
        else st.builds(Subscription, filters, qos)
    )
    several = st.lists(reasons if five else st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=4).map(tuple)
    kinds: list[st.SearchStrategy[Any]] = [
        publishes(version),
        *(st.builds(kind, **ack) for kind in (Puback, Pubrec, Pubrel, Pubcomp)),
        st.builds(
            lambda login, **rest: Connect(user=login[0], password=login[1], **rest),
            logins,
            client_id=texts,
            clean_start=st.booleans(),
            keep_alive_s=_u16,
            will=st.one_of(st.none(), wills),
            properties=of_connect if five else nothing,
        ),
        st.builds(Connack, st.booleans(), st.just(0), of_connack if five else nothing),
        st.builds(
            Connack,
            st.just(False),
            reasons if five else st.sampled_from([int(code) for code in RETURN_CODES.values()]),
            of_connack if five else nothing,
        ),
        st.builds(
            Subscribe,
            ids,
            st.lists(subscriptions, min_size=1, max_size=3).map(tuple),
            of_subscribe if five else nothing,
        ),
        st.builds(Suback, ids, several, of_ack if five else nothing),
        st.builds(
            Unsubscribe, ids, st.lists(filters, min_size=1, max_size=3).map(tuple), of_unsubscribe if five else nothing
        ),
        st.builds(Unsuback, ids, several if five else st.just(()), of_ack if five else nothing),
        st.builds(Pingreq),
        st.builds(Pingresp),
        st.builds(Disconnect, reasons if five else st.just(0), of_disconnect if five else nothing),
    ]
    if five:
        kinds.append(st.builds(Auth, reasons, of_auth))
    return st.one_of(kinds)
