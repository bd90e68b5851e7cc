"""Messages on their way out, and what they look like on the wire."""

from __future__ import annotations

import base64
import builtins
import contextlib
import json
import threading
import time
from typing import Any

import pika
from waiting import eventually

from .checklist import scenario
from .lab import Lab, decode, encode
from .scenarios_consuming import Taken

#: What Neon's peers send each other: every kind of value that survives the format.
SHAPES: list[dict[Any, Any]] = [
    {"text": "plain"},
    {"text": "Grüße, 世界, 🙂, \x00\x1f\u2028\ud7ff"},
    {"quotes": "'\"\\n", "lines": "a\nb\r\n\tc"},
    {"none": None, "yes": True, "no": False},
    {"int": -(10**30), "float": 1.5e-300, "negative": -0.0, "complex": 1 + 2j},
    {"bytes": b"\x00\xff'\"", b"bytes key": 1},
    {"tuple": (1, (2,), ()), "list": [1, [2], []], "set": {1, 2}, "dict": {"a": {"b": {}}}},
    {1: "int key", (1, "a"): "tuple key", None: "none key", 2.5: "float key"},
    {
        "context": {"session": {"id": "x"}, "klat": [1]},
        "data": {"utterances": ["hi"], "lang": "en"},
    },
    {"audio": "UklGR" * 5000},
]


# ---- the wire format


@scenario("wire", wire=False)
def bodies_are_the_same_bytes(lab: Lab) -> None:
    for shape in SHAPES:
        assert lab.find("dict_to_b64", "utils.network_utils")(shape) == encode(shape)


@scenario("wire", wire=False)
def bodies_of_others_are_read(lab: Lab) -> None:
    for shape in SHAPES:
        assert lab.find("b64_to_dict", "utils.network_utils")(encode(shape)) == shape


@scenario(
    "wire", wire=False, incumbent_fails="a message is evaluated: whoever may publish runs code"
)
def nothing_in_a_body_is_run(lab: Lab) -> None:
    marks: list[int] = []
    builtins.conformance_mark = marks.append  # type: ignore[attr-defined]
    body = base64.b64encode(json.dumps("{'a': conformance_mark(1)}").encode())
    try:
        with contextlib.suppress(Exception):
            lab.find("b64_to_dict", "utils.network_utils")(body)
    finally:
        del builtins.conformance_mark  # type: ignore[attr-defined]
    assert not marks


@scenario("wire")
def every_shape_arrives(lab: Lab) -> None:
    queue = lab.name()
    connector = lab.connector()
    peer = lab.peer()
    peer.declare(queue)
    for shape in SHAPES:
        connector.send_message(shape, queue=queue)
        received = decode(peer.take(queue)[1])
        assert len(received.pop("message_id")) == 32
        assert received == shape


@scenario("wire")
def messages_expire_after_a_second(lab: Lab) -> None:
    queue = lab.name()
    connector = lab.connector()
    peer = lab.peer()
    peer.declare(queue)
    connector.send_message({"a": 1}, queue=queue)
    assert peer.take(queue)[0].expiration == "1000"
    connector.send_message({"a": 1}, queue=queue, expiration=4321)
    assert peer.take(queue)[0].expiration == "4321"


@scenario("wire")
def the_message_id_is_the_contexts_or_a_new_one(lab: Lab) -> None:
    queue = lab.name()
    connector = lab.connector()
    peer = lab.peer()
    peer.declare(queue)
    cases = (
        ({"message_id": "mine"}, "mine"),
        ({"message_id": "mine", "context": {"mq": {"message_id": "other"}}}, "mine"),
        ({"context": {"mq": {"message_id": "from context"}}}, "from context"),
        ({"message_id": None, "context": {"mq": {"message_id": "from context"}}}, "from context"),
    )
    for data, expected in cases:
        assert connector.send_message(data, queue=queue) == expected
        assert decode(peer.take(queue)[1])["message_id"] == expected
    new = connector.send_message({"a": 1}, queue=queue)
    assert len(new) == 32
    assert decode(peer.take(queue)[1])["message_id"] == new


# ---- send_message


@scenario("send_message")
def a_message_before_its_consumer_is_delivered(lab: Lab) -> None:
    queue = lab.name()
    taken = Taken()
    connector = lab.connector()
    connector.send_message({"early": True}, queue=queue, expiration=5000)
    connector.register_consumer("it", connector.vhost, queue, taken)
    lab.run(connector)
    taken.eventually(1)
    assert decode(taken[0])["early"] is True


@scenario("send_message")
def a_message_goes_to_its_vhost(lab: Lab) -> None:
    taken = Taken()
    service = lab.consume(taken)
    connector = lab.connector()
    connector.vhost = "/elsewhere"
    connector.send_message({"a": 1}, vhost=lab.vhost, queue=service.queue)
    taken.eventually(1)


@scenario("send_message")
def a_message_goes_through_an_exchange(lab: Lab) -> None:
    exchange = lab.name("exchange")
    taken = Taken()
    service = lab.consume(taken, exchange=exchange, exchange_type="direct")
    for kind in ("direct", pika.exchange_type.ExchangeType.direct):
        service.send_message(
            {"a": 1}, exchange=exchange, queue=service.queue, exchange_type=kind, expiration=3000
        )
    taken.eventually(2)


@scenario("send_message")
def a_fanout_needs_nobody_to_listen(lab: Lab) -> None:
    connector = lab.connector()
    kind = pika.exchange_type.ExchangeType.fanout
    sent = connector.send_message({"a": 1}, exchange=lab.name("exchange"), exchange_type=kind)
    assert len(sent) == 32


@scenario("send_message")
def connection_properties_are_used(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)
    connector.send_message({"a": 1}, queue=connector.queue, connection_props={"heartbeat": 20})
    taken.eventually(1)


@scenario("send_message")
def messages_are_sent_from_many_threads(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)

    def send(worker: int) -> None:
        for number in range(5):
            connector.send_message({"n": (worker, number)}, queue=connector.queue, expiration=9000)

    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    taken.eventually(40)
    assert {decode(body)["n"] for body in taken} == {(w, n) for w in range(8) for n in range(5)}


@scenario(
    "send_message",
    by_chance=True,
    incumbent_fails="each message opens a connection: some fifty a second",
)
def a_thousand_messages_take_a_few_seconds(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)
    # The machine's own measure, however busy it is: half the seconds that it takes to open a thousand connections.
    began = time.monotonic()
    for _ in range(50):
        pika.BlockingConnection(lab.parameters()).channel()
    allowed = 10 * (time.monotonic() - began)
    began = time.monotonic()
    for number in range(1000):
        connector.send_message({"n": number}, queue=connector.queue, expiration=600_000)
        took = time.monotonic() - began
        assert took < allowed, f"{number} messages in {took:.1f} of {allowed:.1f} s"
    taken.eventually(1000)


@scenario("send_message")
def nothing_to_send_is_an_error(lab: Lab) -> None:
    connector = lab.connector()
    nothing: list[Any] = [{}, []]
    for bad in nothing:
        try:
            connector.send_message(bad, queue="q")
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"{bad!r} was sent")


# ---- emit_mq_message, publish_message


@scenario("emit", transient=True)
def a_blocking_connection_carries_messages(lab: Lab) -> None:
    queue = lab.name()
    cls = lab.find("MQConnector")
    data = {"a": 1}
    connection = pika.BlockingConnection(lab.parameters())
    lab.closing(connection.close)
    first = cls.emit_mq_message(connection, data, queue=queue, expiration=5000)
    second = cls.emit_mq_message(connection=connection, request_data=data, queue=queue, exchange="")
    assert data == {"a": 1}
    assert connection.is_open
    peer = lab.peer()
    received = [decode(peer.take(queue)[1])["message_id"] for _ in range(2)]
    assert received == [first, second]


@scenario("emit", transient=True)
def a_select_connection_carries_messages(lab: Lab) -> None:
    queue = lab.name()
    cls = lab.find("MQConnector")
    opened = threading.Event()
    connection = pika.SelectConnection(lab.parameters(), on_open_callback=lambda _: opened.set())
    threading.Thread(target=connection.ioloop.start, daemon=True).start()
    lab.closing(lambda: connection.ioloop.add_callback_threadsafe(connection.close))
    assert opened.wait(30)
    sent: list[str] = []

    def emit() -> None:
        sent.append(cls.emit_mq_message(connection, {"a": 1}, queue=queue, expiration=5000))

    connection.ioloop.add_callback_threadsafe(emit)
    peer = lab.peer()
    eventually(lambda: sent and peer.exists(queue))
    assert decode(peer.take(queue)[1]) == {"a": 1, "message_id": sent[0]}


@scenario("emit")
def an_emitted_message_is_checked(lab: Lab) -> None:
    cls = lab.find("MQConnector")
    connection = pika.BlockingConnection(lab.parameters())
    lab.closing(connection.close)
    try:
        cls.emit_mq_message(connection, {}, queue="q")
    except ValueError:
        return
    raise AssertionError("nothing was sent as something")


@scenario("emit")
def a_published_message_reaches_all_subscribers(lab: Lab) -> None:
    exchange = lab.name("exchange")
    taken = Taken()
    connector = lab.connector()
    connector.register_subscriber("it", connector.vhost, taken, exchange=exchange)
    lab.run(connector)
    with connector.create_mq_connection(connector.vhost) as connection:
        sent = connector.publish_message(connection, {"a": 1}, exchange=exchange)
    taken.eventually(1)
    assert decode(taken[0]) == {"a": 1, "message_id": sent}


@scenario("emit", transient=True)
def a_fanout_with_a_queue_binds_it(lab: Lab) -> None:
    exchange, queue = lab.name("exchange"), lab.name()
    connector = lab.connector()
    with connector.create_mq_connection(connector.vhost) as connection:
        connector.emit_mq_message(
            connection, {"a": 1}, exchange, queue, exchange_type="fanout", expiration=5000
        )
    assert decode(lab.peer().take(queue)[1])["a"] == 1
