"""The frames that the connector packs itself are those that pika would have marshalled."""

from __future__ import annotations

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mq_connector.connection.wire import frames
from pika import spec
from pika.delivery_mode import DeliveryMode
from pika.exceptions import ShortStringTooLong

from . import wire

channels = st.integers(1, 65535)
tags = st.integers(1, 2**64 - 1)
names = st.text(max_size=60)
tables = st.dictionaries(
    st.text(max_size=20),
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
)
properties = st.builds(
    pika.BasicProperties,
    content_type=st.none() | names,
    headers=st.none() | tables,
    delivery_mode=st.none() | st.sampled_from([1, 2, DeliveryMode.Persistent]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | names,
    reply_to=st.none() | names,
    expiration=st.none() | st.integers(0, 10**9).map(str),
    message_id=st.none() | names,
    timestamp=st.none() | st.integers(0, 2**63),
    app_id=st.none() | names,
)


def by_pika(
    channel: int,
    exchange: str,
    routing_key: str,
    props: pika.BasicProperties | None,
    body: bytes,
    mandatory: bool,
    frame_max: int,
) -> bytes:
    publish = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return b"".join([wire.method(channel, publish), *wire.content(channel, body, props, frame_max)])


@given(channels, tags, st.booleans())
def test_settling_frames_are_those_of_pika(channel: int, tag: int, flag: bool) -> None:
    assert frames.ack(channel, tag, flag) == wire.method(channel, spec.Basic.Ack(tag, flag))
    assert frames.reject(channel, tag, flag) == wire.method(channel, spec.Basic.Reject(tag, flag))
    assert frames.nack(channel, tag, flag) == wire.method(
        channel, spec.Basic.Nack(tag, False, flag)
    )


@given(channels, names)
def test_a_cancel_is_that_of_pika(channel: int, tag: str) -> None:
    cancel = spec.Basic.Cancel(consumer_tag=tag, nowait=True)
    assert frames.cancel(channel, tag) == wire.method(channel, cancel)


@given(channels, names, names, st.none() | properties, st.binary(max_size=300), st.booleans())
def test_a_publish_is_that_of_pika(
    channel: int,
    exchange: str,
    routing_key: str,
    props: pika.BasicProperties | None,
    body: bytes,
    mandatory: bool,
) -> None:
    encoded = frames.PropertiesEncoder()(props)
    packed = frames.publish(channel, exchange, routing_key, encoded, body, mandatory, 128)
    assert packed == by_pika(channel, exchange, routing_key, props, body, mandatory, 128)


@pytest.mark.parametrize("frame_max", [4096, 131072])
@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_body_is_cut_where_frame_max_asks_for_it(frame_max: int, over: int, times: int) -> None:
    body = bytes(range(256)) * (times * (frame_max - 8) // 256 + 1)
    body = body[: times * (frame_max - 8) + over]
    packed = frames.publish(7, "", "q", b"\x00\x00", body, True, frame_max)
    assert packed == by_pika(7, "", "q", None, body, True, frame_max)
    _, header, *bodies = wire.decoded(packed)
    assert header.body_size == len(body)
    assert b"".join(each.fragment for each in bodies) == body
    assert len(bodies) == times + (over > 0)
    assert all(len(each.fragment) + frames.OVERHEAD <= frame_max for each in bodies)


def test_an_empty_body_has_no_body_frame() -> None:
    packed = frames.publish(1, "", "q", b"\x00\x00", b"", False, 131072)
    assert [type(each).__name__ for each in wire.decoded(packed)] == ["Method", "Header"]


def test_the_heartbeat_frame_is_that_of_pika() -> None:
    assert pika.frame.Heartbeat().marshal() == frames.HEARTBEAT_FRAME


@given(st.lists(st.none() | properties, max_size=8))
def test_remembering_the_last_properties_never_changes_what_is_encoded(
    several: list[pika.BasicProperties | None],
) -> None:
    encode = frames.PropertiesEncoder()
    for each in several:
        expected = b"".join((each or pika.BasicProperties()).encode())
        assert encode(each) == expected
        assert encode(each) == expected


def test_properties_that_are_changed_between_two_publishes_are_encoded_anew() -> None:
    encode = frames.PropertiesEncoder()
    reused = pika.BasicProperties(expiration="1000")
    encode(reused)
    reused.expiration = "2000"
    assert b"2000" in encode(reused)
    reused.headers = {"part": 1}
    first = encode(reused)
    reused.headers["part"] = 2
    assert encode(reused) != first


# ---- failures


@pytest.mark.parametrize("what", ["exchange", "routing_key"])
def test_names_may_have_255_bytes_and_no_more(what: str) -> None:
    names = {"exchange": "", "routing_key": "", what: "ü" * 127 + "x"}
    packed = frames.publish(1, names["exchange"], names["routing_key"], b"\0\0", b"", True, 4096)
    assert getattr(wire.decoded(packed)[0].method, what) == names[what]
    names[what] += "x"
    with pytest.raises(
        ValueError, match=r"^(exchange|routing key) 'üü.*'… has 256 bytes"
    ) as raised:
        frames.publish(1, names["exchange"], names["routing_key"], b"\0\0", b"", True, 4096)
    assert what.replace("_", " ") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_properties_that_amqp_cannot_carry_are_refused_and_not_remembered() -> None:
    encode = frames.PropertiesEncoder()
    wrong = pika.BasicProperties(reply_to="x" * 256)
    for _ in range(2):
        with pytest.raises(ShortStringTooLong):
            encode(wrong)
    assert encode(None) == b"\x00\x00"


@pytest.mark.parametrize(
    "expiration", ["\u0661\u0660", "\uff11", "²", "1 000", "-1", "", str(2**32)]
)
def test_an_expiration_is_of_the_digits_that_the_broker_reads(expiration: str) -> None:
    with pytest.raises(ValueError, match="expiration is"):
        frames.PropertiesEncoder()(pika.BasicProperties(expiration=expiration))
