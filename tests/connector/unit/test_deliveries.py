"""What the reader takes out of the stream, and what it leaves to pika, down to the byte."""

from __future__ import annotations

import copy
import itertools
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mq_connector.connection.wire import deliveries
from mq_connector.connection.wire.deliveries import DeliveryReader, Properties, Timed
from mq_connector.connection.wire.frames import HEARTBEAT_FRAME
from pika import spec
from pika.exceptions import InvalidFrameError

from . import wire

OURS, OTHER = 1, 2


@pytest.fixture(autouse=True)
def no_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock stands still, so that the reader adds no heartbeats of its own."""
    now = [0.0]
    monkeypatch.setattr(f"{deliveries.__name__}.time.monotonic", lambda: now[0])
    yield now


@dataclass
class Message:
    """A delivery to be sent, and what must come of it."""

    body: bytes
    properties: pika.BasicProperties = field(default_factory=pika.BasicProperties)
    redelivered: bool = False
    exchange: str = ""
    routing_key: str = "input"
    consumer_tag: str = "ctag1.0"


class Sink:
    """Collects what is delivered on one channel."""

    def __init__(self) -> None:
        self.delivered: list[tuple[Any, Any, bytes]] = []
        self.closed = 0

    def deliver(self, method: Any, properties: Any, body: bytes) -> None:
        self.delivered.append((method, properties, body))

    def closing(self) -> None:
        self.closed += 1


def frames_of(tag: int, message: Message, frame_max: int = wire.FRAME_MAX) -> list[bytes]:
    return wire.delivery(
        OURS,
        tag,
        message.body,
        message.properties,
        consumer_tag=message.consumer_tag,
        redelivered=message.redelivered,
        exchange=message.exchange,
        routing_key=message.routing_key,
        frame_max=frame_max,
    )


def assert_delivered(sink: Sink, messages: Sequence[Message]) -> None:
    assert len(sink.delivered) == len(messages)
    for tag, ((method, properties, body), message) in enumerate(
        zip(sink.delivered, messages, strict=True), 1
    ):
        assert type(method) is spec.Basic.Deliver
        expected = spec.Basic.Deliver(
            message.consumer_tag, tag, message.redelivered, message.exchange, message.routing_key
        )
        assert method == expected
        assert properties == message.properties
        assert type(body) is bytes
        assert body == message.body


names = st.text(max_size=30)
messages = st.builds(
    Message,
    body=st.binary(max_size=400),
    properties=st.builds(
        pika.BasicProperties,
        headers=st.none() | st.dictionaries(names, st.integers(0, 99), max_size=3),
        expiration=st.none() | st.just("1000"),
        reply_to=st.none() | names,
    ),
    redelivered=st.booleans(),
    exchange=names,
    routing_key=names,
    consumer_tag=st.sampled_from(["ctag1.0", "ctag1.1", "zähler"]),
)
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


# ---- properties


@given(messages)
def test_lazy_properties_equal_those_of_pika(message: Message) -> None:
    raw = b"".join(message.properties.encode())
    assert Properties(raw) == message.properties
    assert message.properties == Properties(raw)
    assert Properties(raw) == Properties(raw)
    assert Properties(raw).reply_to == message.properties.reply_to
    assert b"".join(Properties(raw).encode()) == raw
    assert repr(Properties(raw)) == repr(message.properties)
    assert copy.deepcopy(Properties(raw)) == message.properties
    assert copy.copy(Properties(raw)) == message.properties
    assert isinstance(Properties(raw), pika.BasicProperties)


def test_properties_tell_which_they_are_before_they_are_decoded() -> None:
    raw = b"".join(pika.BasicProperties(reply_to="q", correlation_id="c").encode())
    properties = Properties(raw)
    assert properties.flags == properties.FLAG_REPLY_TO | properties.FLAG_CORRELATION_ID
    assert "correlation_id" not in vars(properties)
    properties.content_type = "text/plain"
    assert properties.correlation_id == "c"
    assert properties.flags & properties.FLAG_CONTENT_TYPE, "they may have been set since"
    assert Properties(b"").flags & Properties.FLAG_REPLY_TO, (
        "what is broken is found by decoding it"
    )


def test_lazy_properties_differ_where_those_of_pika_do() -> None:
    raw = b"".join(pika.BasicProperties(expiration="1000").encode())
    assert Properties(raw) != pika.BasicProperties(expiration="1001")
    assert Properties(raw) != pika.BasicProperties()
    assert Properties(raw) != "1000"


def test_lazy_properties_have_no_more_attributes_than_those_of_pika() -> None:
    raw = b"".join(pika.BasicProperties().encode())
    properties = Properties(raw)
    with pytest.raises(AttributeError, match="colour"):
        _ = properties.colour
    assert vars(properties) == vars(pika.BasicProperties())
    assert not hasattr(properties, "colour")


def test_an_attribute_can_be_set_before_any_was_read() -> None:
    properties = Properties(b"".join(pika.BasicProperties(reply_to="q", expiration="1").encode()))
    properties.expiration = "5"
    assert (properties.reply_to, properties.expiration) == ("q", "5")


def test_lazy_properties_may_be_read_first_by_several_threads_at_once() -> None:
    raw = b"".join(pika.BasicProperties(headers={"a": 1}, reply_to="q").encode())
    wrong: list[object] = []
    for _ in range(300):
        properties = Properties(raw)
        ready = threading.Barrier(4)

        def read(properties: Properties = properties, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                if properties.reply_to != "q" or properties.headers != {"a": 1}:
                    wrong.append(vars(properties))
            except AttributeError as error:
                wrong.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


# ---- failures: what no broker sends


def fed(*frames: bytes) -> tuple[list[bytes], Sink]:
    forwarded: list[bytes] = []
    sink = Sink()
    reader = DeliveryReader(forwarded.append)
    reader.attach(OURS, sink)
    reader.feed(b"".join(frames))
    return forwarded, sink


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="http"),
        pytest.param(b"AMQP\x00\x01\x00\x00", id="another AMQP"),
        pytest.param(b"\x00" * 8, id="zeros"),
        pytest.param(struct.pack(">BHL", 4, OURS, 0) + b"\xce", id="unknown frame type"),
        pytest.param(struct.pack(">BHL", 3, OURS, 131073) + b"\xce", id="oversized frame"),
        pytest.param(struct.pack(">BHL", 2, OURS, 2**21 + 1) + b"\xce", id="oversized header"),
        pytest.param(struct.pack(">BHL", 3, OURS, 2**32 - 1) + b"\xce", id="four gigabytes"),
    ],
)
def test_what_is_no_frame_is_refused_before_it_is_waited_for(data: bytes) -> None:
    with pytest.raises(InvalidFrameError, match=r"^frame of type \d+ with \d+ bytes"):
        fed(data)


@pytest.mark.parametrize("data", [b"\x15\x03\x01\x00\x02\x02\x0a", b"H"])
def test_what_can_be_no_frame_is_refused_though_it_is_shorter_than_one(data: bytes) -> None:
    """A TLS port says seven bytes to who speaks plainly, and waits."""
    with pytest.raises(InvalidFrameError, match="no AMQP frame"):
        fed(data)


def test_whole_messages_before_a_malformed_frame_are_delivered() -> None:
    sink = Sink()
    reader = DeliveryReader(lambda _: None)
    reader.attach(OURS, sink)
    with pytest.raises(InvalidFrameError):
        reader.feed(b"".join(frames_of(1, Message(b"first"))) + b"garbage!")
    assert_delivered(sink, [Message(b"first")])


def test_a_frame_without_its_end_octet_is_left_for_pika_to_refuse() -> None:
    pieces = frames_of(1, Message(b"body"))
    pieces[0] = pieces[0][:-1] + b"\x00"
    forwarded, sink = fed(pieces[0])
    assert forwarded == [pieces[0]]
    assert not sink.delivered


def test_a_body_before_its_header_is_refused() -> None:
    method, _, body = frames_of(1, Message(b"body"))
    with pytest.raises(InvalidFrameError, match="header"):
        fed(method, body)


def test_a_body_longer_than_its_header_says_is_refused() -> None:
    method, header, body = frames_of(1, Message(b"body"))
    with pytest.raises(InvalidFrameError, match="bytes too many"):
        fed(method, header, body.replace(b"\x04body", b"\x05bodyx"))


def test_a_delivery_cut_short_within_its_frame_is_refused() -> None:
    broken = struct.pack(">BHL", 1, OURS, 6) + b"\x00\x3c\x00\x3c\x03c" + b"\xce"
    with pytest.raises(Exception, match=r"buffer|index"):
        fed(broken)


def test_malformed_properties_cost_only_the_message_that_has_them() -> None:
    """As a handler that looks at them raises, the message is dead-lettered."""
    method, _, body = frames_of(1, Message(b"body"))
    raw = b"\x20\x00\x00"  # headers, whose size has four bytes
    header = struct.pack(">BHLHHQ", 2, OURS, 12 + len(raw), 60, 0, 4) + raw + b"\xce"
    _, sink = fed(method, header, body)
    properties = sink.delivered[0][1]
    for _ in range(2):
        with pytest.raises(struct.error):
            _ = properties.reply_to


@pytest.mark.parametrize("more", [{}, {"content_type": "a/b"}, {"content_encoding": "utf-8"}])
@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"\x01tT" + b"\xff" * 8, id="a time beyond the year 9999"),
        pytest.param(b"\x01n?" + b"\x00" * 8, id="a type that there isn't"),
    ],
)
def test_pika_gets_a_content_header_without_the_headers_that_it_cannot_read(
    more: dict[str, str], odd: bytes
) -> None:
    """On a channel without a sink, or of what comes back: the connection would be lost by them."""
    others: dict[str, Any] = {
        **more,
        "delivery_mode": 2,
        "message_id": "mine",
        "timestamp": 2**64 - 1,
    }
    headers = {"h": "0" * (len(odd) - 7)}
    data = b"".join(wire.content(OTHER, b"body", pika.BasicProperties(headers=headers, **others)))
    plain = b"".join(pika.BasicProperties(headers=headers).encode())[2:]
    assert plain in data
    data = data.replace(plain, struct.pack(">L", len(odd)) + odd)
    before, behind = wire.method(OTHER, spec.Basic.Qos()), wire.method(OTHER, spec.Basic.QosOk())
    forwarded, _ = fed(before, data, behind)
    expected = wire.content(OTHER, b"body", pika.BasicProperties(**others))
    assert b"".join(forwarded) == b"".join([before, *expected, behind])


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
