"""What public services and clients do beyond what they are told to: each as small as it can be."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any
from unittest.mock import Mock

import pika
from waiting import eventually

from .checklist import scenario
from .lab import CLIENT, Lab, decode
from .scenarios_asking import Responder, _service

#: A part of a streamed reply, which only the alpha of the incumbent's next release knows.
_STREAMS = "0.10.0 has no `stream_callback`; 0.10.1a3 has"


def _both(lab: Lab, first: str) -> Any:
    """A class that is a connector and a thread, in either order of initialisation."""
    base = lab.find("MQConnector")

    class Both(base, threading.Thread):  # type: ignore[misc,valid-type]
        def __init__(self, config: Any, name: str) -> None:
            if first == "thread":
                threading.Thread.__init__(self, daemon=True)
            base.__init__(self, config, name)
            if first == "connector":
                threading.Thread.__init__(self, daemon=True)

    return lab.connector(Both)


@scenario("connector")
def a_connector_may_be_a_thread_as_well(lab: Lab) -> None:
    for first in ("thread", "connector"):
        both = _both(lab, first)
        got: list[bytes] = []
        queue = lab.name()
        both.register_consumer(
            "it",
            both.vhost,
            queue,
            lambda _channel, _method, _properties, body, into=got: into.append(body),
        )
        lab.run(both)
        assert both.check_health() and both.started
        both.send_message({"a": 1}, queue=queue)
        eventually(partial(list, got))
        both.stop()


@scenario("connector")
def a_connector_that_is_a_thread_runs_on_it(lab: Lab) -> None:
    both = _both(lab, "thread")
    got: list[bytes] = []
    queue = lab.name()
    both.register_consumer("it", both.vhost, queue, lambda *given: got.append(given[3]))
    both.start()
    lab.peer().declare(queue)
    lab.peer().send(queue, {"a": 1})
    eventually(lambda: got)


# ---- the client


@scenario("client")
def a_configuration_that_is_set_from_outside_counts(lab: Lab) -> None:
    responder = Responder(
        lab, lambda request: [{"message_id": request["message_id"], "echo": request["text"]}]
    )
    clients = lab.module("utils.client_utils")
    before = clients._default_mq_config
    clients._default_mq_config = lab.config()
    try:
        reply = clients.send_mq_request(lab.vhost, {"text": "hi"}, responder.queue, timeout=30)
    finally:
        clients._default_mq_config = before
    assert reply["echo"] == "hi"


@scenario("client", wire=False)
def the_configuration_from_outside_has_the_incumbents_shape(lab: Lab) -> None:
    default = lab.module("utils.client_utils")._default_mq_config
    assert set(default) == {"server", "port", "users"}
    assert isinstance(default["users"][CLIENT], dict)


@scenario("client", incumbent_fails=_STREAMS)
def each_part_of_a_stream_reaches_its_callback(lab: Lab) -> None:
    responder = Responder(
        lab,
        lambda request: [
            {"message_id": request["message_id"], "part": part, "is_final": part == 2}
            for part in range(3)
        ],
    )
    parts: list[int] = []
    lab.configure()
    reply = lab.find("send_mq_request", "utils.client_utils")(
        lab.vhost,
        {"text": "hi"},
        responder.queue,
        timeout=30,
        stream_callback=lambda part: parts.append(part["part"]),
    )
    assert parts == [0, 1, 2]
    assert reply["part"] == 2


@scenario("client", incumbent_fails=_STREAMS)
def a_callback_that_fails_costs_no_reply(lab: Lab) -> None:
    responder = Responder(lab, lambda request: [{"message_id": request["message_id"], "echo": 1}])
    lab.configure()
    callback = Mock(side_effect=ValueError("not this"))
    reply = lab.find("send_mq_request", "utils.client_utils")(
        lab.vhost, {"text": "hi"}, responder.queue, timeout=30, stream_callback=callback
    )
    callback.assert_called_once()
    assert reply["echo"] == 1


@scenario("client", incumbent_fails="0.10.0 waits on behind a reply that it can't read")
def a_reply_that_cannot_be_read_ends_the_request_at_once(lab: Lab) -> None:
    class Malformed(Responder):
        def _on_request(self, channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
            replies = decode(body)["routing_key"]
            if not self._denied:
                channel.queue_declare(replies)
            channel.basic_publish("", replies, b"no reply at all")

    responder = Malformed(lab, None)
    lab.configure()
    # The incumbent waits that long.
    timeout = 8 if lab.kind == "incumbent" else 60
    began = time.monotonic()
    send = lab.find("send_mq_request", "utils.client_utils")
    for replies in (None, lab.name("replies")):
        options = {"response_queue": replies, "timeout": timeout}
        assert send(lab.vhost, {"a": 1}, responder.queue, **options) == {}
    assert time.monotonic() - began < timeout - 1


# ---- ids


@scenario("client")
def a_client_may_send_an_empty_id_and_waits_for_it(lab: Lab) -> None:
    responder = Responder(
        lab, lambda request: [{"echo": 0}, {"message_id": request["message_id"], "echo": 1}]
    )
    lab.configure()
    reply = lab.find("send_mq_request", "utils.client_utils")(
        lab.vhost, {"message_id": "", "text": "hi"}, responder.queue, timeout=30
    )
    assert (reply["message_id"], reply["echo"]) == ("", 1)


@scenario("callback")
def an_empty_id_comes_back_empty(lab: Lab) -> None:
    service = _service(lab, lambda self, body: {"answer": 1})
    peer = lab.peer()
    replies = peer.declare(lab.name("replies"))
    peer.send(service.queue, {"message_id": "", "routing_key": replies})
    reply = decode(peer.take(replies)[1])
    assert reply["context"]["mq"]["message_id"] == ""


@scenario("callback")
def an_id_comes_back_as_it_is(lab: Lab) -> None:
    service = _service(lab, lambda self, body: {"answer": 1})
    peer = lab.peer()
    replies = peer.declare(lab.name("replies"))
    for known in (0, 7, ("a", 1)):
        peer.send(service.queue, {"message_id": known, "routing_key": replies})
        assert decode(peer.take(replies)[1])["context"]["mq"]["message_id"] == known


@scenario("callback", incumbent_fails="a reply address in `context.mq` is overlooked")
def a_reply_address_may_stand_in_the_context(lab: Lab) -> None:
    service = _service(lab, lambda self, body: {"answer": 1})
    peer = lab.peer()
    replies = peer.declare(lab.name("replies"))
    peer.send(service.queue, {"context": {"mq": {"routing_key": replies, "message_id": "mine"}}})
    reply = decode(peer.take(replies)[1])
    assert reply["answer"] == 1
    assert reply["context"]["mq"]["message_id"] == "mine"


@scenario("wire")
def what_is_sent_keeps_an_empty_id(lab: Lab) -> None:
    connector = lab.connector()
    peer = lab.peer()
    queue = peer.declare(lab.name())
    for known in ("", 0):
        assert connector.send_message({"message_id": known}, queue=queue) == known
        assert decode(peer.take(queue)[1])["message_id"] == known


# ---- the channel of a callback


def _storing(lab: Lab, other: str, stored: list[bytes]) -> Any:
    """A consumer whose callback closes its channel before it stores what has come."""

    def store(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        channel.basic_ack(delivery_tag=method.delivery_tag)
        channel.queue_delete(other)
        channel.close()
        stored.append(body)

    return lab.consume(store, auto_ack=False, on_error=lambda *_: None)


@scenario("survival")
def what_a_callback_does_after_it_has_closed_its_channel_counts(lab: Lab) -> None:
    stored: list[bytes] = []
    peer = lab.peer()
    other = peer.declare(lab.name())
    connector = _storing(lab, other, stored)
    peer.send(connector.queue, {"a": 1})
    eventually(lambda: stored)
    eventually(lambda: not peer.exists(other))
    connector.stop_consumers()
    assert [decode(each) for each in stored] == [{"a": 1}]
    eventually(lambda: peer.count(connector.queue) == 0)


@scenario(
    "survival", incumbent_fails="`close()` closes the consumer's own channel, and nothing says so"
)
def a_callback_that_closes_its_channel_costs_no_consumer(lab: Lab) -> None:
    stored: list[bytes] = []
    peer = lab.peer()
    connector = _storing(lab, peer.declare(lab.name()), stored)
    for number in range(3):
        peer.send(connector.queue, {"number": number})
        eventually(lambda: len(stored) > number)  # noqa: B023 - called at once
    assert connector.check_health()


@scenario(
    "survival", incumbent_fails="`close()` closes the consumer's own channel, and nothing says so"
)
def a_decorated_handler_that_closes_its_channel_answers(lab: Lab) -> None:
    base = lab.find("MQConnector")

    class Service(base):  # type: ignore[misc,valid-type]
        @lab.find("create_mq_callback", "utils.rabbit_utils")(  # type: ignore[untyped-decorator]
            include_callback_props=("channel", "body")
        )
        def handle(self, channel: Any, body: dict[str, Any]) -> dict[str, Any]:
            channel.close()
            return {"answer": body["number"]}

    service = lab.connector(Service)
    service.queue = lab.name()
    service.register_consumer("it", service.vhost, service.queue, service.handle)
    lab.run(service)
    peer = lab.peer()
    for number in range(2):
        assert peer.ask(service.queue, number=number)["answer"] == number


@scenario("register_consumer")
def each_name_of_pikas_channel_means_something(lab: Lab) -> None:
    """Or the error says what to use instead."""
    names = [name for name in dir(pika.channel.Channel) if not name.startswith("_")]
    troubles: dict[str, str] = {}
    done: list[bool] = []

    def look(channel: Any, *_: Any) -> None:
        for name in names:
            try:
                getattr(channel, name)
            except AttributeError as error:
                troubles[name] = str(error)
        done.append(True)

    connector = lab.consume(look)
    lab.peer().send(connector.queue, {})
    eventually(lambda: done)
    for name, trouble in troubles.items():
        assert lab.kind == "ours" and f"no {name}: " in trouble, trouble


@scenario("register_consumer")
def a_callback_may_take_a_message_of_another_queue(lab: Lab) -> None:
    got: list[Any] = []
    peer = lab.peer()
    other = peer.declare(lab.name())
    peer.send(other, {"a": 1})

    def take(channel: Any, *_: Any) -> None:
        # pika's channel without a connection of its own has a callback in between.
        if lab.kind == "incumbent":
            channel.basic_get(other, lambda *given: got.append(given[1:]), auto_ack=True)
        else:
            got.append(channel.basic_get(other, auto_ack=True))

    connector = lab.consume(take)
    peer.send(connector.queue, {})
    eventually(lambda: got)
    method, _, body = got[0]
    assert method.routing_key == other
    assert decode(body) == {"a": 1}


@scenario("register_consumer")
def a_callback_may_make_exchanges_and_publish_to_them_at_once(lab: Lab) -> None:
    peer = lab.peer()
    output = peer.declare(lab.name())
    first, second = lab.name("exchange"), lab.name("exchange")

    def make(channel: Any, *_: Any) -> None:
        channel.exchange_declare(first, "fanout")
        channel.exchange_declare(second, "fanout")
        channel.exchange_bind(second, first)
        channel.queue_bind(output, second)
        channel.basic_publish(first, "", b"hi")

    connector = lab.consume(make)
    peer.send(connector.queue, {})
    assert peer.take(output)[1] == b"hi"


@scenario("register_consumer")
def a_callback_may_say_how_much_is_sent_ahead(lab: Lab) -> None:
    taken: list[bytes] = []

    def take(channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        channel.basic_qos(prefetch_count=1)
        channel.confirm_delivery(*([lambda _: None] if lab.kind == "incumbent" else []))
        taken.append(body)

    connector = lab.consume(take)
    peer = lab.peer()
    for number in range(5):
        peer.send(connector.queue, {"number": number})
    eventually(lambda: len(taken) == 5)
    assert [decode(each)["number"] for each in taken] == [0, 1, 2, 3, 4]


# ---- overriding


@scenario("sync")
def sync_goes_through_a_publish_message_of_the_services_own(lab: Lab) -> None:
    connector = lab.connector()
    connector.publish_message = Mock()
    connector.sync(exchange="heartbeats")
    connector.publish_message.assert_called_once()
    given, named = connector.publish_message.call_args
    assert isinstance(given[0], pika.BlockingConnection)
    assert named["exchange"] == "heartbeats"
    assert named["request_data"]["service_id"] == connector.service_id


@scenario("send_message")
def send_message_goes_through_what_the_service_has_overridden(lab: Lab) -> None:
    sent: list[dict[str, Any]] = []

    class Own(lab.find("MQConnector")):  # type: ignore[misc]
        @classmethod
        def emit_mq_message(cls, connection: Any, request_data: Any, **where: Any) -> str:
            sent.append({**where, "connection": connection})
            return str(super().emit_mq_message(connection, request_data, **where))

    connector = lab.connector(Own)
    peer = lab.peer()
    queue = peer.declare(lab.name())
    connector.send_message({"a": 1}, queue=queue, expiration=5000)
    assert decode(peer.take(queue)[1])["a"] == 1
    connector.send_message({"a": 2}, exchange=lab.name("exchange"), exchange_type="fanout")
    assert [each["queue"] for each in sent] == [queue, ""]
    assert isinstance(sent[0]["connection"], pika.BlockingConnection)


@scenario("thread")
def a_threads_start_can_be_waited_for(lab: Lab) -> None:
    thread = lab.thread(lambda *_: None, cls="BlockingConsumerThread")
    assert not thread._consumer_started.is_set()
    thread.start()
    thread._consumer_started.wait(30)
    assert thread.is_consuming and thread._consumer_started.is_set()
    assert thread.channel.is_open
    thread.join(30)
    assert not thread._consumer_started.is_set()
    assert thread.channel.is_closed


@scenario("thread")
def a_thread_hears_of_its_connection(lab: Lab) -> None:
    hooks = ("on_connected", "on_channel_open", "on_close")
    thread = lab.thread(lambda *_: None)
    for name in hooks:
        setattr(thread, name, Mock(side_effect=getattr(thread, name)))
    thread.start()
    lab.consumes(thread)
    eventually(lambda: thread.on_channel_open.called)
    thread.on_connected.assert_called_once()
    thread.on_channel_open.assert_called_once()
    thread.on_close.assert_not_called()
    thread.join(30)
    thread.on_close.assert_called_once()


@scenario("thread")
def a_subclass_hears_of_its_connection(lab: Lab) -> None:
    class Own(lab.find("SelectConsumerThread", "consumers")):  # type: ignore[misc]
        heard = 0

        def on_connected(self, connection: Any) -> None:
            self.heard += 1
            super().on_connected(connection)

    thread = Own(lab.parameters(), lab.name(), lambda *_: None)
    thread.daemon = True
    lab.closing(lambda: thread.join(3))
    thread.start()
    lab.consumes(thread)
    assert thread.heard == 1


@scenario("thread")
def a_thread_hears_that_there_is_no_connection(lab: Lab) -> None:
    errors: list[Exception] = []
    thread = lab.thread(
        lambda *_: None,
        lambda _, error: errors.append(error),
        connection_params=lab.parameters(port=1),
    )
    thread.on_connection_fail = Mock(side_effect=thread.on_connection_fail)
    thread.max_connection_failed_attempts = 0
    thread.start()
    eventually(lambda: errors)
    eventually(lambda: thread.on_connection_fail.called)
    time.sleep(0.5)
    thread.on_connection_fail.assert_called_once()
    assert len(errors) == 1
