"""The client's side, handlers made by the decorator, and one implementation with the other."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pika
from waiting import eventually

from .checklist import scenario
from .lab import CLIENT, Lab, decode, encode
from .scenarios_sending import SHAPES


class Responder:
    """A service of plain pika that declares the queue that it answers to, as the incumbents do, where
    the broker lets it."""

    def __init__(self, lab: Lab, answer: Any) -> None:
        self.queue = lab.name("responder")
        self.requests: list[dict[Any, Any]] = []
        self._answer = answer
        self._connection = pika.BlockingConnection(lab.parameters())
        self._channel = self._connection.channel()
        self._denied = lab.denies
        self._channel.queue_declare(self.queue, durable=lab.denies)
        self._channel.basic_consume(self.queue, self._on_request, auto_ack=True)
        threading.Thread(target=self._work, daemon=True).start()
        lab.closing(lambda: self._connection.add_callback_threadsafe(self._connection.close))

    def _work(self) -> None:
        self._channel.start_consuming()

    def _on_request(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        request = decode(body)
        self.requests.append(request)
        for reply in self._answer(request):
            if not self._denied:
                self._channel.queue_declare(request["routing_key"])
            properties = pika.BasicProperties(expiration="1000")
            self._channel.basic_publish("", request["routing_key"], encode(reply), properties)


def _echo(request: dict[Any, Any]) -> list[dict[Any, Any]]:
    return [{"message_id": request["message_id"], "echo": request.get("text")}]


def _ask(lab: Lab, queue: str, data: Any = None, **options: Any) -> Any:
    lab.configure()
    options.setdefault("timeout", 30)
    send = lab.find("send_mq_request", "utils.client_utils")
    return send(lab.vhost, {"text": "hi"} if data is None else data, queue, **options)


# ---- send_mq_request


@scenario("client")
def a_request_gets_its_reply(lab: Lab) -> None:
    responder = Responder(lab, _echo)
    reply = _ask(lab, responder.queue)
    assert reply["echo"] == "hi"
    assert responder.requests[0]["message_id"] == reply["message_id"]
    assert responder.requests[0]["routing_key"]


@scenario("client")
def a_request_names_the_reply_queue_it_was_given(lab: Lab) -> None:
    responder = Responder(lab, _echo)
    name = lab.name("replies")
    assert _ask(lab, responder.queue, response_queue=name)["echo"] == "hi"
    assert responder.requests[0]["routing_key"] == name


@scenario("client")
def a_reply_is_known_by_its_context(lab: Lab) -> None:
    responder = Responder(
        lab,
        lambda request: [
            {"message_id": "its own", "context": {"mq": {"message_id": request["message_id"]}}}
        ],
    )
    assert _ask(lab, responder.queue)["message_id"] == "its own"


@scenario("client", incumbent_fails="0.10.0 takes the first part of a streamed reply for all of it")
def a_streamed_reply_is_waited_for(lab: Lab) -> None:
    responder = Responder(
        lab,
        lambda request: [
            {"message_id": request["message_id"], "part": part, "is_final": part == 2}
            for part in range(3)
        ],
    )
    assert _ask(lab, responder.queue)["part"] == 2


@scenario("client")
def a_vhost_that_is_refused_is_a_value_error(lab: Lab) -> None:
    lab.configure()
    try:
        lab.find("send_mq_request", "utils.client_utils")("/nowhere", {"a": 1}, "q", timeout=3)
    except ValueError:
        return
    raise AssertionError("no error")


@scenario("client")
def nobody_answers_in_time(lab: Lab) -> None:
    responder = Responder(lab, lambda request: [])
    began = time.monotonic()
    assert _ask(lab, responder.queue, timeout=1) == {}
    assert time.monotonic() - began < 30


@scenario("client")
def no_answer_is_waited_for_where_none_is_expected(lab: Lab) -> None:
    responder = Responder(lab, lambda request: [])
    began = time.monotonic()
    assert _ask(lab, responder.queue, timeout=60, expect_response=False) == {}
    assert time.monotonic() - began < 30
    eventually(lambda: responder.requests)
    assert responder.requests[0]["text"] == "hi"
    assert "routing_key" not in responder.requests[0]


@scenario("client")
def eight_clients_ask_at_once(lab: Lab) -> None:
    responder = Responder(lab, _echo)
    lab.configure()
    replies: dict[str, Any] = {}

    def ask(text: str) -> None:
        replies[text] = _ask(lab, responder.queue, {"text": text}, timeout=40)

    threads = [threading.Thread(target=ask, args=(f"client {n}",), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(replies) == [f"client {n}" for n in range(8)]
    assert all(reply["echo"] == text for text, reply in replies.items())


@scenario(
    "client",
    transient=True,
    by_chance=True,
    incumbent_fails="others' replies are put back at once, and the queue is deleted under them",
)
def clients_may_share_a_reply_queue(lab: Lab) -> None:
    def later(request: dict[Any, Any]) -> list[dict[Any, Any]]:
        time.sleep(0.1)
        return _echo(request)

    responder = Responder(lab, later)
    name = lab.name("replies")
    replies: dict[str, Any] = {}

    def ask(text: str) -> None:
        # The incumbent's wait in vain.
        options = {"response_queue": name, "timeout": 6 if lab.kind == "incumbent" else 30}
        replies[text] = _ask(lab, responder.queue, {"text": text}, **options)

    threads = [threading.Thread(target=ask, args=(f"client {n}",), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {text: reply.get("echo") for text, reply in replies.items()} == {
        f"client {n}": f"client {n}" for n in range(4)
    }


@scenario("client")
def the_reply_queue_goes_after_the_reply(lab: Lab) -> None:
    responder = Responder(lab, _echo)
    _ask(lab, responder.queue)
    peer = lab.peer()
    eventually(lambda: not peer.exists(responder.requests[0]["routing_key"]))


@scenario("client", incumbent_fails="a client that times out leaves its reply queue behind")
def the_reply_queue_goes_after_a_timeout(lab: Lab) -> None:
    responder = Responder(lab, lambda request: [])
    assert _ask(lab, responder.queue, timeout=1) == {}
    peer = lab.peer()
    time.sleep(0.3)
    assert not peer.exists(responder.requests[0]["routing_key"])


@scenario("client", transient=True)
def a_handler_holds_an_open_connection(lab: Lab) -> None:
    cls = lab.find("NeonMQHandler", "utils.client_utils")
    handler = cls(lab.config(), CLIENT, lab.vhost)
    assert isinstance(handler.connection, pika.BlockingConnection)
    assert handler.connection.is_open
    assert handler.vhost == lab.vhost
    queue = lab.name()
    handler.emit_mq_message(handler.connection, {"a": 1}, queue=queue, expiration=5000)
    assert decode(lab.peer().take(queue)[1])["a"] == 1
    handler.shutdown()
    assert handler.connection.is_closed


# ---- create_mq_callback


def _service(lab: Lab, function: Any, **options: Any) -> Any:
    """A running connector whose consumer is a decorated method."""
    decorate = lab.find("create_mq_callback", "utils.rabbit_utils")
    cls = type("Service", (lab.find("MQConnector"),), {"handle": decorate(**options)(function)})
    connector = lab.connector(cls)
    connector.queue = lab.name()
    connector.register_consumer("it", connector.vhost, connector.queue, connector.handle)
    return lab.run(connector)


@scenario("callback")
def a_method_gets_the_body_and_its_result_is_the_reply(lab: Lab) -> None:
    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        return {"answer": body["question"] * 2}

    service = _service(lab, handle)
    reply = lab.peer().ask(service.queue, question=21, message_id="mine")
    assert reply["answer"] == 42
    assert reply["context"]["mq"]["message_id"] == "mine"
    assert reply["message_id"] == "mine"


@scenario(
    "callback",
    incumbent_fails="a client that spells the id `messageID` doesn't find it in its reply",
)
def the_other_spelling_of_the_id_comes_back(lab: Lab) -> None:
    service = _service(lab, lambda self, body: {"answer": 1})
    peer = lab.peer()
    replies = peer.declare(lab.name("replies"))
    peer.send(service.queue, {"text": "hi", "messageID": "mine", "routing_key": replies})
    assert decode(peer.take(replies)[1])["messageID"] == "mine"


@scenario(
    "callback", incumbent_fails="it declares the queue it answers to: 405 where that is exclusive"
)
def an_exclusive_reply_queue_gets_its_reply(lab: Lab) -> None:
    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        return {"answer": 1}

    service = _service(lab, handle)
    assert lab.peer().ask(service.queue, exclusive=True)["answer"] == 1


@scenario("callback")
def no_reply_queue_means_no_reply(lab: Lab) -> None:
    bodies: list[Any] = []

    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        bodies.append(body)
        return {"answer": 1}

    service = _service(lab, handle)
    peer = lab.peer()
    peer.send(service.queue, {"message_id": "1"})
    peer.send(service.queue, {"message_id": "2"})
    eventually(lambda: len(bodies) == 2)
    assert service.consumers["it"].is_consuming


@scenario("callback")
def arguments_can_be_chosen(lab: Lab) -> None:
    given: list[Any] = []

    def handle(self: Any, channel: Any, method: Any, properties: Any, body: Any) -> None:
        given.append((channel, method, properties, body))

    service = _service(
        lab, handle, include_callback_props=("channel", "method", "properties", "body")
    )
    lab.peer().send(service.queue, {"a": 1})
    channel, method, properties, body = eventually(lambda: given)[0]
    assert channel.is_open
    assert method.delivery_tag == 1
    assert properties is not None
    assert body == {"a": 1}


@scenario("callback", wire=False)
def a_function_is_decorated_with_or_without_brackets(lab: Lab) -> None:
    decorate = lab.find("create_mq_callback", "utils.rabbit_utils")

    @decorate  # type: ignore[untyped-decorator]
    def plain(body: Any) -> Any:
        return body

    @decorate(include_callback_props=("method",))  # type: ignore[untyped-decorator]
    def other(method: Any) -> Any:
        return method

    assert plain("c", "m", "p", encode({"a": 1})) == {"a": 1}
    assert plain("c", "m", "p", {"a": 1}) == {"a": 1}
    assert other("c", "m", "p", b"") == "m"
    assert plain.__name__ == "plain"


@scenario("callback", wire=False)
def a_request_can_be_a_model(lab: Lab) -> None:
    from pydantic import BaseModel

    class Question(BaseModel):
        text: str
        message_id: str = ""

    decorate = lab.find("create_mq_callback", "utils.rabbit_utils")

    @decorate(request_model=Question)  # type: ignore[untyped-decorator]
    def handle(body: Any) -> Any:
        return body

    assert handle("c", "m", "p", encode({"text": "hi"})) == Question(text="hi")
    assert handle("c", "m", "p", encode({"no text": "hi"})) is None


@scenario("callback")
def a_model_is_answered(lab: Lab) -> None:
    from pydantic import BaseModel

    class Question(BaseModel):
        text: str
        message_id: str
        routing_key: str

    def handle(self: Any, body: Any) -> Any:
        return {"answer": body.text}

    service = _service(lab, handle, request_model=Question)
    assert lab.peer().ask(service.queue, text="hi")["answer"] == "hi"


@scenario("callback", wire=False)
def a_failure_called_by_hand_gives_nothing(lab: Lab) -> None:
    decorate = lab.find("create_mq_callback", "utils.rabbit_utils")

    @decorate  # type: ignore[untyped-decorator]
    def fail(body: Any) -> Any:
        raise ValueError

    assert fail("c", "m", "p", encode({"a": 1})) is None
    assert fail("c", "m", "p", b"no body at all") is None
    assert fail("c", "m", "p", None) is None


@scenario("callback", incumbent_fails="a failure is only logged: who waits isn't told")
def who_waits_is_told_of_a_failure(lab: Lab) -> None:
    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        raise ValueError("not today")

    service = _service(lab, handle)
    reply = lab.peer().ask(service.queue)
    assert reply["success"] is False
    assert "not today" in reply["error"]


@scenario("callback")
def a_sender_of_the_services_own_is_used(lab: Lab) -> None:
    sent: list[Any] = []

    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        return {"answer": 1}

    decorate = lab.find("create_mq_callback", "utils.rabbit_utils")

    class Own(lab.find("MQConnector")):  # type: ignore[misc]
        handled = decorate()(handle)

        def send_message(self, **what: Any) -> None:  # type: ignore[override,unused-ignore]
            sent.append(what)

    own = lab.connector(Own)
    own.handled("c", "m", "p", encode({"routing_key": "there", "message_id": "1"}))
    assert sent[0]["queue"] == "there"
    assert sent[0]["request_data"]["answer"] == 1
    assert sent[0]["request_data"]["context"]["mq"]["message_id"] == "1"


# ---- across


@scenario("across", transient=True)
def its_service_answers_the_others_client(lab: Lab) -> None:
    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        return {"echo": body["data"]}

    service = _service(lab, handle)
    replies = lab.client_of(lab.other, service.queue, [{"data": shape} for shape in SHAPES])
    assert [reply.get("echo") for reply in replies] == SHAPES


@scenario("across", transient=True)
def its_client_is_answered_by_the_others_service(lab: Lab) -> None:
    queue = lab.name()
    with lab.service_of(lab.other, queue):
        for shape in SHAPES:
            assert _ask(lab, queue, {"data": shape})["echo"] == shape


@scenario("across", transient=True)
def named_reply_queues_work_across(lab: Lab) -> None:
    def handle(self: Any, body: dict[Any, Any]) -> dict[Any, Any]:
        return {"echo": body["data"]}

    service = _service(lab, handle)
    name = lab.name("replies")
    replies = lab.client_of(lab.other, service.queue, [{"data": 1}], response_queue=name)
    assert replies[0]["echo"] == 1


@scenario("across", transient=True)
def its_subscribers_hear_the_others_messages(lab: Lab) -> None:
    exchange = lab.name("exchange")
    bodies: list[Any] = []
    connector = lab.connector()
    read = lab.find("b64_to_dict", "utils.network_utils")
    take = lambda *given: bodies.append(read(given[3]))  # noqa: E731
    connector.register_subscriber("it", connector.vhost, take, exchange=exchange)
    lab.run(connector)
    messages = [{"data": shape} for shape in SHAPES]
    lab.send_with(lab.other, messages, exchange=exchange, exchange_type="fanout")
    # More than these, where the other one had to try again.
    eventually(lambda: len(bodies) >= len(SHAPES))
    assert [body["data"] for body in bodies[-len(SHAPES) :]] == SHAPES


@scenario("across", transient=True)
def its_messages_reach_the_others_consumers(lab: Lab) -> None:
    queue, sender = lab.name(), lab.connector()
    with lab.service_of(lab.other, queue) as heard:
        ids = [sender.send_message({"data": shape}, queue=queue) for shape in SHAPES]
        bodies = [heard() for _ in SHAPES]
    assert [body["data"] for body in bodies] == SHAPES
    assert [body["message_id"] for body in bodies] == ids


@scenario("across")
def its_clients_ids_are_unique(lab: Lab) -> None:
    responder = Responder(lab, _echo)
    for _ in range(3):
        _ask(lab, responder.queue)
    ids = {uuid.UUID(hex=request["message_id"]) for request in responder.requests}
    assert len(ids) == 3
