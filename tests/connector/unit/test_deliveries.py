"""What the reader takes out of the stream, and what it leaves to pika, down to the byte."""

from __future__ import annotations

import itertools
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mq_connector.connection.wire.deliveries import DeliveryReader, Properties, Timed
from mq_connector.connection.wire.frames import HEARTBEAT_FRAME
from pika import spec

from . import wire
from .reading import (
    OTHER,
    OURS,
    Message,
    Sink,
    assert_delivered,
    fed,
    frames_of,
    messages,
    names,
    no_signs_of_life,
)

__all__ = ["no_signs_of_life"]


for_pika = st.sampled_from(
    [
        [HEARTBEAT_FRAME],
        [wire.method(0, spec.Connection.Blocked("low on memory"))],
        [wire.method(OURS, spec.Basic.CancelOk("ctag1.0"))],
        [wire.method(OURS, spec.Queue.DeclareOk("q", 1, 2))],
        wire.delivery(OTHER, 1, b"for another channel"),
        # A returned message's content looks like a delivery's.
        [
            wire.method(OURS, spec.Basic.Return(312, "NO_ROUTE", "", "gone")),
            *wire.content(OURS, b"came back"),
        ],
        [wire.method(OURS, spec.Basic.Return(312, "NO_ROUTE", "", "g")), *wire.content(OURS, b"")],
        [wire.method(OTHER, spec.Basic.GetOk(9, False, "", "q", 0)), *wire.content(OTHER, b"got")],
        # Only looks like a delivery: the letters are in another channel's body.
        [wire.method(OTHER, spec.Basic.Deliver("c", 1, False, "", "q")), *wire.content(OTHER, b"")],
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[Message], bytes]:
    """Frames of a stream, the messages in it, and what pika must get."""
    stream: list[bytes] = []
    expected: list[Message] = []
    others = b""
    for each in draw(st.lists(messages | for_pika, max_size=8)):
        if isinstance(each, Message):
            expected.append(each)
            own = frames_of(len(expected), each, frame_max=draw(st.sampled_from([64, 4096])))
            # Between the frames of one message may stand frames of other channels.
            for frame in own:
                stream.append(frame)
                if draw(st.integers(0, 4)) == 0:
                    stream.append(HEARTBEAT_FRAME)
                    others += HEARTBEAT_FRAME
        else:
            stream += each
            others += b"".join(each)
    return stream, expected, others


@given(streams(), st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_however_the_stream_is_cut_each_frame_reaches_its_reader_whole(
    stream: tuple[list[bytes], list[Message], bytes], sizes: list[int]
) -> None:
    frames, expected, others = stream
    data = b"".join(frames)
    forwarded: list[bytes] = []
    sink = Sink()
    reader = DeliveryReader(forwarded.append)
    reader.attach(OURS, sink)
    position = 0
    for size in itertools.cycle(sizes):
        if position >= len(data):
            break
        reader.feed(data[position : position + size])
        position += size
    assert_delivered(sink, expected)
    assert b"".join(forwarded) == others
    for each in forwarded:
        wire.decoded(each)  # whole frames only, for pika mustn't be left with half of one


def test_a_stream_may_be_cut_at_any_byte() -> None:
    expected = [Message(b"x" * 100), Message(b"", routing_key="other"), Message(b"y")]
    others = wire.method(OURS, spec.Basic.CancelOk("ctag1.0"))
    frames = [frame for tag, each in enumerate(expected, 1) for frame in frames_of(tag, each, 64)]
    data = b"".join([*frames, others])
    for cut in range(len(data) + 1):
        forwarded: list[bytes] = []
        sink = Sink()
        reader = DeliveryReader(forwarded.append)
        reader.attach(OURS, sink)
        reader.feed(data[:cut])
        reader.feed(data[cut:])
        assert_delivered(sink, expected)
        assert b"".join(forwarded) == others


@pytest.mark.parametrize("size", [131064, 131065, 3_000_000])
def test_a_body_of_many_frames_arrives_in_one_piece(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    message = Message(body[:size])
    data = b"".join(frames_of(1, message))
    forwarded: list[bytes] = []
    sink = Sink()
    reader = DeliveryReader(forwarded.append)
    reader.attach(OURS, sink)
    for start in range(0, len(data), 65536):
        reader.feed(data[start : start + 65536])
    assert_delivered(sink, [message])
    assert not forwarded


def test_a_message_of_the_channel_before_is_not_mixed_into_that_of_the_next() -> None:
    """Half a message was read when the channel went, and its number came back."""
    pieces = frames_of(1, Message(b"z" * 200), 64)
    sink = Sink()
    reader = DeliveryReader(lambda _: None)
    reader.attach(OURS, Sink())
    reader.feed(b"".join(pieces[:3]))
    reader.detach(OURS)
    reader.attach(OURS, sink)
    reader.feed(b"".join(frames_of(1, Message(b"new"))))
    assert_delivered(sink, [Message(b"new")])


def test_without_its_sink_a_channel_is_read_by_pika() -> None:
    forwarded: list[bytes] = []
    sink = Sink()
    reader = DeliveryReader(forwarded.append)
    reader.attach(OURS, sink)
    reader.detach(OURS)
    reader.detach(OURS)
    data = b"".join(frames_of(1, Message(b"body")))
    reader.feed(data)
    assert b"".join(forwarded) == data
    assert not sink.delivered


def test_the_sink_hears_that_its_channel_closes_before_pika_does() -> None:
    order: list[str] = []
    sink = Sink()
    reader = DeliveryReader(lambda data: order.append(f"pika, sink told {sink.closed} times"))
    reader.attach(OURS, sink)
    close = spec.Channel.Close(406, "PRECONDITION_FAILED", 60, 80)
    reader.feed(wire.method(OTHER, close))
    assert sink.closed == 0
    reader.feed(wire.method(OURS, close))
    assert order == ["pika, sink told 0 times", "pika, sink told 1 times"]


def test_pika_is_told_of_the_peers_life_once_a_second_while_deliveries_bypass_it(
    no_signs_of_life: list[float],
) -> None:
    now = no_signs_of_life
    forwarded: list[bytes] = []
    reader = DeliveryReader(forwarded.append)
    reader.attach(OURS, Sink())
    for tick in range(100):
        now[0] = 1000 + tick / 10
        reader.feed(b"".join(frames_of(tick + 1, Message(b"body"))))
    assert forwarded == [HEARTBEAT_FRAME] * 10


def test_all_that_came_together_came_at_one_time(no_signs_of_life: list[float]) -> None:
    now = no_signs_of_life
    reader = DeliveryReader(lambda _: None)
    seen: list[float] = []
    sink = Sink()
    sink.deliver = lambda *_: seen.append(reader.now)  # type: ignore[method-assign]
    reader.attach(OURS, sink)
    for now[0] in (7.0, 8.5):
        reader.feed(b"".join(b"".join(frames_of(tag, Message(b"body"))) for tag in (1, 2)))
    assert seen == [7.0, 7.0, 8.5, 8.5]


@given(st.integers(0, 2**64 - 1), st.booleans(), names, names, st.integers(0, 2**32 - 1))
def test_what_was_asked_for_by_basic_get_comes_with_its_own_method(
    tag: int, redelivered: bool, exchange: str, routing_key: str, count: int
) -> None:
    method = spec.Basic.GetOk(tag, redelivered, exchange, routing_key, count)
    forwarded, sink = fed(wire.method(OURS, method), *wire.content(OURS, b"got"))
    [(got, properties, body)] = sink.delivered
    assert (got, properties, body) == (method, pika.BasicProperties(), b"got")
    assert forwarded == []


def test_a_content_header_may_be_larger_than_a_frame() -> None:
    """RabbitMQ adds to the headers of a message that dies."""
    large = pika.BasicProperties(headers={"large": ["x" * 100_000] * 5})
    _, sink = fed(*frames_of(1, Message(b"body", large)))
    assert_delivered(sink, [Message(b"body", large)])


def test_names_that_stay_the_same_on_a_channel_are_decoded_once_however_many_channels_take_turns() -> (
    None
):
    """64 queues on a connection would pay for three texts with each message."""
    reader, sinks = DeliveryReader(lambda _: None), {number: Sink() for number in (1, 2)}
    for number, sink in sinks.items():
        reader.attach(number, sink)
    for tag in (1, 2):
        for number in sinks:
            frames = wire.delivery(
                number, tag, b"body", consumer_tag=f"ctag{number}", routing_key=f"queue.{number}"
            )
            reader.feed(b"".join(frames))
    for number, sink in sinks.items():
        first, second = (method for method, _, _ in sink.delivered)
        assert (first.consumer_tag, first.routing_key) == (f"ctag{number}", f"queue.{number}")
        assert second.consumer_tag is first.consumer_tag
        assert second.routing_key is first.routing_key


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ({}, Properties),
        ({"expiration": "1000", "message_id": "m", "headers": {"timestamp": 1}}, Properties),
        ({"timestamp": 1}, Timed),
        ({"timestamp": 1, "expiration": "1000", "headers": {"a": "b"}, "app_id": "x"}, Timed),
    ],
)
def test_only_what_says_when_it_was_sent_is_looked_at_for_its_age(
    properties: dict[str, Any], kind: type[Properties]
) -> None:
    sink = Sink()
    reader = DeliveryReader(lambda _: None)
    reader.attach(OURS, sink)
    sent = pika.BasicProperties(**properties)
    # The second one comes by a known route, as a whole.
    first, second = (wire.delivery(OURS, tag, b"body", sent) for tag in (1, 2))
    reader.feed(b"".join([*first, *second]))
    assert [type(found) for _, found, _ in sink.delivered] == [kind, kind]
    assert all(found == sent for _, found, _ in sink.delivered)
