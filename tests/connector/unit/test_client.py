"""The asking side: every request ends with its reply or with an error that says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mq_connector import client as client_module
from mq_connector import payload
from mq_connector.channels.pending import Pending
from mq_connector.client import Client
from mq_connector.connection import Connection
from mq_connector.connection import loop as loop_module
from mq_connector.connection.address import Address
from mq_connector.errors import (
    ConfigurationError,
    MQError,
    NotConnected,
    PublishError,
    RequestTimeout,
    StartError,
)
from pika import spec

from . import wire
from .fake_broker import PATIENCE, BrokerEnd, broker
from .fakes import be_a_child
from .members import Listener, on_loop


def ready(peer: BrokerEnd) -> tuple[int, Any]:
    """Everything up to the client's consumer; returns its channel and how it declared its queue."""
    peer.open()
    return ready_channel(peer)


def ready_channel(peer: BrokerEnd) -> tuple[int, Any]:
    """The same on a connection that is open."""
    channel = peer.open_channel()
    peer.confirm(channel)
    declared = peer.expect(spec.Queue.Declare)
    peer.method(channel, spec.Queue.DeclareOk(declared.queue, 0, 0))
    peer.consumer_tag = peer.expect(spec.Basic.Consume).consumer_tag
    peer.method(channel, spec.Basic.ConsumeOk(peer.consumer_tag))
    return channel, declared


def reply(peer: BrokerEnd, channel: int, data: dict[str, Any]) -> None:
    peer.send(*wire.delivery(channel, 1, payload.encode(data), consumer_tag=peer.consumer_tag))


def ack(peer: BrokerEnd, channel: int, tag: int, multiple: bool = False) -> None:
    peer.method(channel, spec.Basic.Ack(tag, multiple))


def requested(peer: BrokerEnd) -> tuple[str, dict[Any, Any], Any]:
    method, properties, body = peer.publish()
    assert method.mandatory
    assert method.exchange == ""
    return method.routing_key, payload.decode(body), properties


def answer_all(peer: BrokerEnd, count: int = 1) -> None:
    """A service that echoes."""
    peer.open()
    answer_all_on_channel(peer, count)


def answer_all_on_channel(peer: BrokerEnd, count: int = 1) -> None:
    channel, _ = ready_channel(peer)
    for tag in range(1, count + 1):
        _, data, _ = requested(peer)
        ack(peer, channel, tag)
        reply(peer, channel, {"message_id": data["message_id"], "echo": data.get("text")})
    peer.farewell()


Ask = Callable[..., Client]


@pytest.fixture
def client() -> Iterator[Ask]:
    made: list[Client] = []

    def make(server: Any, **options: Any) -> Client:
        made.append(Client(Connection([server.parameters()]), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_request_gets_its_reply(client: Ask) -> None:
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, declared = ready(peer)
        seen.append(declared)
        seen.append(requested(peer))
        reply(peer, channel, {"message_id": seen[1][1]["message_id"], "answer": 42})
        deleted = peer.expect(spec.Queue.Delete)
        seen.append(deleted.queue)
        peer.method(channel, spec.Queue.DeleteOk(0))
        peer.farewell()

    with broker(script) as server, client(server, reply_queue="my.replies") as asking:
        answer = asking.request("input", {"text": "hi"}, timeout=5)
    declared, (queue, data, properties), deleted = seen
    assert answer["answer"] == 42
    assert (declared.queue, declared.exclusive) == ("my.replies", True)
    assert queue == "input"
    assert (data["text"], data["routing_key"]) == ("hi", "my.replies")
    assert properties.message_id == data["message_id"]
    assert 0 < int(properties.expiration) <= 5000
    assert deleted == "my.replies", "no reply queue is left behind"


def test_replies_reach_the_thread_that_waits_for_them(client: Ask) -> None:
    count = 20

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        waiting = [requested(peer)[1] for _ in range(count)]
        ack(peer, channel, count, multiple=True)
        for data in reversed(waiting):
            reply(peer, channel, {"message_id": data["message_id"], "echo": data["text"]})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        answers: dict[int, Any] = {}

        def ask(number: int) -> None:
            answers[number] = asking.request("input", {"text": number})["echo"]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        asking.close()
    assert answers == {number: number for number in range(count)}


def test_a_request_leaves_once_when_the_channel_opens_between_its_entry_and_its_turn(
    client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = threading.Event()

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        message_id = requested(peer)[1]["message_id"]
        sent.set()
        # Neither the first of a second `basic.publish` nor anything else may come before the reply.
        peer.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.read()
        peer.sock.settimeout(PATIENCE)
        reply(peer, channel, {"message_id": message_id})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        call, caller = asking.connection.call, threading.current_thread()
        calls: list[int] = []

        def late(function: Callable[[], object]) -> None:
            if threading.current_thread() is caller:
                calls.append(1)
                if len(calls) == 2:  # the first is that of joining
                    assert sent.wait(PATIENCE)
            call(function)

        monkeypatch.setattr(asking.connection, "call", late)
        asking.request("input", {})
        monkeypatch.undo()
        assert len(calls) == 2
        asking.close()


def test_it_shares_a_connection_and_closes_nobody_else_s(client: Ask) -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        answer_all_on_channel(peer)

    with broker(script) as server:
        asking = client(server)
        neighbour = Listener(asking.connection).join()
        neighbour.wait(1)
        assert asking.request("input", {"text": "hi"})["echo"] == "hi"
        began = time.monotonic()
        asking.close()
        assert time.monotonic() - began < 2
        assert asking.connection.is_open and neighbour.events == ["open"]
        neighbour.quit()
        assert server.count == 1


def test_the_request_is_not_changed_and_its_own_id_is_kept(client: Ask) -> None:
    with broker(answer_all) as server:
        asking = client(server)
        data = {"message_id": "mine", "text": "hi"}
        assert asking.request("input", data)["message_id"] == "mine"
        assert data == {"message_id": "mine", "text": "hi"}
        asking.close()


@pytest.mark.parametrize("known", ["", 0, False, ("a", 1)])
def test_an_id_of_the_caller_s_own_stays_as_it_is(client: Ask, known: object) -> None:
    """Only None is none; and an empty one isn't that of a reply which has none."""
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        _, data, _ = requested(peer)
        seen.append(data["message_id"])
        peer.send(*wire.delivery(channel, 1, b"no payload", consumer_tag=peer.consumer_tag))
        reply(peer, channel, {"n": 1})
        reply(peer, channel, {"message_id": data["message_id"], "n": 2})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        assert asking.request("input", {"message_id": known}, timeout=5)["n"] == 2
        assert seen == [known]
        assert type(seen[0]) is type(known)
        asking.close()


def test_a_request_with_no_id_gets_one(client: Ask) -> None:
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        for tag in range(1, 4):
            _, data, _ = requested(peer)
            seen.append(data["message_id"])
            ack(peer, channel, tag)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        asking.send("input", {"message_id": None})
        asking.send("input", {})
        asking.send("input", {"message_id": None, "context": {"mq": {"message_id": ""}}})
        asking.close()
    assert [len(each) for each in seen] == [32, 32, 0]


def test_a_message_without_a_reply_is_done_when_the_broker_has_taken_it(client: Ask) -> None:
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        seen.append(requested(peer)[1])
        time.sleep(0.05)
        seen.append("taken")
        ack(peer, channel, 1)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        asking.send("input", {"text": "hi"})
        assert seen[1:] == ["taken"]
        assert "routing_key" not in seen[0]
        asking.close()


def test_parts_and_strangers_are_passed_over_until_the_final_reply(client: Ask) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        message_id = requested(peer)[1]["message_id"]
        peer.send(*wire.delivery(channel, 1, b"no payload", consumer_tag=peer.consumer_tag))
        reply(peer, channel, {"message_id": "another's", "n": 1})
        reply(peer, channel, {"n": 2})
        reply(peer, channel, {"message_id": message_id, "n": 3, "is_final": False})
        reply(peer, channel, {"message_id": message_id, "n": 4, "is_final": True})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        assert asking.request("input", {})["n"] == 4
        asking.close()


# ---- failures


def test_a_request_that_was_on_its_way_is_sent_again_after_a_loss(client: Ask) -> None:
    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    with broker(lose, answer_all) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"})["echo"] == "hi"
        asking.close()


def test_a_cancelled_consumer_is_replaced_on_another_channel(client: Ask) -> None:
    def cancel(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.method(channel, spec.Basic.Cancel(peer.consumer_tag, True))
        peer.expect(spec.Channel.Close)
        peer.method(channel, spec.Channel.CloseOk())
        answer_all_on_channel(peer)

    with broker(cancel) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"})["echo"] == "hi"
        asking.close()
        assert server.count == 1


@pytest.mark.parametrize("known", [None, ""])
def test_a_queue_that_does_not_exist_is_reported_at_once(client: Ask, known: object) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        queue, data, properties = requested(peer)
        body = payload.encode(data)
        returned = spec.Basic.Return(312, "NO_ROUTE", "", queue)
        peer.send(wire.method(channel, returned), *wire.content(channel, body, properties))
        ack(peer, channel, 1)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        with pytest.raises(PublishError, match=r"vhost '/echo' has no queue 'missing'"):
            asking.request("missing", {"message_id": known})
        asking.close()


def test_a_message_that_the_broker_refuses_is_reported(client: Ask) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.method(channel, spec.Basic.Nack(1, False, False))
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        with pytest.raises(PublishError, match=r"basic\.nack"):
            asking.request("full", {})
        asking.close()


@pytest.mark.parametrize("wants_reply", [True, False])
def test_without_an_answer_in_time_the_request_fails(client: Ask, wants_reply: bool) -> None:
    def script(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        method = asking.request if wants_reply else asking.send
        what = "reply from" if wants_reply else "confirmation of a message to"
        with pytest.raises(RequestTimeout, match=rf"^no {what} 'input' within 0\.3 s$"):
            method("input", {}, timeout=0.3)
        asking.close()


def test_a_time_out_says_what_is_wrong_with_the_connection(client: Ask) -> None:
    with broker(answer_all) as server:
        pass
    with pytest.raises(
        RequestTimeout, match=r"within 0\.3 s: no connection to .*: connection refused"
    ):
        client(server).request("input", {}, timeout=0.3)


def test_a_late_reply_disturbs_nobody(client: Ask) -> None:
    asked = threading.Event()

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        first = requested(peer)[1]
        second = requested(peer)[1]
        reply(peer, channel, {"message_id": first["message_id"], "n": 1})
        reply(peer, channel, {"message_id": second["message_id"], "n": 2})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        with pytest.raises(RequestTimeout):
            asking.request("input", {}, timeout=0.2)
        asked.set()
        assert asking.request("input", {})["n"] == 2
        asking.close()


def refused_login(peer: BrokerEnd) -> None:
    peer.greet()
    peer.close(403, "ACCESS_REFUSED")


def refused_queue(peer: BrokerEnd) -> None:
    peer.open()
    channel = peer.open_channel()
    peer.confirm(channel)
    peer.expect(spec.Queue.Declare)
    peer.close_channel(channel, 405, "RESOURCE_LOCKED - cannot obtain exclusive access")
    peer.farewell()


@pytest.mark.parametrize(
    ("script", "words"), [(refused_login, "refuses user"), (refused_queue, "405 RESOURCE_LOCKED")]
)
def test_a_broker_that_says_no_ends_this_request_and_those_after_it(
    client: Ask, script: Callable[[BrokerEnd], None], words: str
) -> None:
    with broker(script) as server:
        asking = client(server)
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StartError, match=words):
                asking.request("input", {}, timeout=PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2
        asking.close()


def locked_queue(peer: BrokerEnd) -> None:
    """As `refused_queue`, to a client that then drops the connection."""
    peer.open()
    channel = peer.open_channel()
    peer.confirm(channel)
    peer.expect(spec.Queue.Declare)
    peer.close_channel(channel, 405, "RESOURCE_LOCKED - cannot obtain exclusive access")


@pytest.mark.parametrize("no", [refused_login, locked_queue])
def test_a_no_after_a_yes_is_taken_for_a_passing_one(
    client: Ask, no: Callable[[BrokerEnd], None]
) -> None:
    """A broker that is starting refuses logins; one that hasn't noticed a loss, our own queue."""

    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    with broker(lose, no, no, answer_all) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()


def test_a_time_out_says_that_the_reply_queue_is_locked(client: Ask) -> None:
    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    with broker(lose, locked_queue, BrokerEnd.farewell) as server:
        asking = client(server)
        with pytest.raises(
            RequestTimeout, match=r"within 2 s: reply queue .*: 405 RESOURCE_LOCKED"
        ):
            asking.request("input", {}, timeout=2)
        asking.close()


def test_a_locked_queue_is_not_taken_for_a_denied_one(client: Ask) -> None:
    """Exclusive, it would be out of the services' reach, which declare it as well."""
    declared: list[bool] = []

    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    def accept(peer: BrokerEnd) -> None:
        channel, method = ready(peer)
        declared.append(method.exclusive)
        reply(peer, channel, {"message_id": requested(peer)[1]["message_id"]})
        peer.farewell()

    with broker(lose, locked_queue, accept) as server:
        asking = client(server, exclusive=False)
        asking.request("input", {}, timeout=PATIENCE)
        asking.close()
    assert declared == [False]


def test_a_request_that_comes_while_a_channel_is_closed_waits_for_the_next_one(
    client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_CHANNEL_PAUSE", 0.3)

    def close(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.close_channel(channel, 406, "PRECONDITION_FAILED")
        answer_all_on_channel(peer)

    with broker(close) as server:
        asking = client(server)
        with pytest.raises(PublishError, match="406"):
            asking.request("input", {}, PATIENCE)
        assert not asking.is_well
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        assert asking.is_well
        asking.close()
        assert server.count == 1


def test_where_all_channels_are_in_use_the_request_is_refused_in_words(client: Ask) -> None:
    def few(peer: BrokerEnd) -> None:
        peer.channel_max = 1
        peer.open()
        peer.open_channel()
        peer.farewell()

    with broker(few) as server:
        asking = client(server)
        neighbour = Listener(asking.connection).join()
        neighbour.wait(1)
        link = neighbour.link
        assert link is not None
        on_loop(asking.connection, lambda: link.channel(lambda _: None))
        with pytest.raises(StartError, match="530 the broker allows 1 channels"):
            asking.request("input", {}, PATIENCE)
        assert neighbour.events == ["open"], "its neighbours go on"
        asking.close()
        neighbour.quit()


def test_a_message_that_amqp_can_t_hold_fails_alone_and_takes_nobody_s_confirm(
    client: Ask,
) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        for tag in (1, 2):
            requested(peer)
            ack(peer, channel, tag)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        asking.send("input", {"n": 1}, timeout=PATIENCE)
        for queue, message_id in (("q" * 256, "short"), ("input", "m" * 256)):
            with pytest.raises(PublishError, match="not sent"):
                asking.send(queue, {"message_id": message_id}, timeout=PATIENCE)
        asking.send("input", {"n": 2}, timeout=PATIENCE)
        asking.close()


def test_a_message_that_costs_the_channel_is_reported_and_not_sent_again(client: Ask) -> None:
    def refuse(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.close_channel(channel, 406, "PRECONDITION_FAILED - message size is larger than max")
        answer_all_on_channel(peer)

    with broker(refuse) as server:
        asking = client(server)
        with pytest.raises(PublishError, match="406 PRECONDITION_FAILED"):
            asking.request("input", {"text": "large"}, timeout=PATIENCE)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()


def test_a_forked_child_is_sent_away_before_a_lock_that_its_parent_may_hold(
    client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_child() -> None:
        try:
            asking.request("input", {}, timeout=1)
        except NotConnected as error:
            said.append(str(error))
        asking.close()
        said.append("closed")

    said: list[str] = []
    with broker(lambda peer: answer_all(peer, 2)) as server:
        asking = client(server)
        asking.request("input", {})
        with monkeypatch.context() as child, asking._requests._lock:
            be_a_child(child)
            thread = threading.Thread(target=in_child)
            thread.start()
            thread.join(1.0)
            assert [words[:23] for words in said] == ["this process was forked", "closed"]
        assert asking.request("input", {"text": "parent"})["echo"] == "parent"
        asking.close()


def test_where_transient_queues_are_denied_the_reply_queue_becomes_exclusive(client: Ask) -> None:
    def deny(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        peer.confirm(channel)
        assert not peer.expect(spec.Queue.Declare).exclusive
        peer.close(541, "INTERNAL_ERROR - feature is deprecated")

    def accept(peer: BrokerEnd) -> None:
        channel, declared = ready(peer)
        assert declared.exclusive
        reply(peer, channel, {"message_id": requested(peer)[1]["message_id"]})
        peer.farewell()

    with broker(deny, accept) as server:
        asking = client(server, exclusive=False)
        asking.request("input", {})
        asking.close()


def test_a_loss_while_the_reply_queue_is_declared_leaves_it_open_to_services(client: Ask) -> None:
    """Only the broker's word says that it is denied."""
    declared: list[bool] = []

    def lose(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        peer.confirm(channel)
        peer.expect(spec.Queue.Declare)

    def accept(peer: BrokerEnd) -> None:
        channel, method = ready(peer)
        declared.append(method.exclusive)
        reply(peer, channel, {"message_id": requested(peer)[1]["message_id"]})
        peer.farewell()

    with broker(lose, accept) as server:
        asking = client(server, exclusive=False)
        asking.request("input", {}, timeout=PATIENCE)
        asking.close()
    assert declared == [False]


def test_a_loop_that_fails_costs_no_request(client: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)

    def fail() -> None:
        raise OSError("too many open files")

    def hold(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)
        asking.connection.call(lambda: asking.connection.later(0, fail))
        peer.farewell()

    with broker(hold, answer_all) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()


def test_closing_after_a_refusal_takes_no_time(client: Ask) -> None:
    for script in (refused_login, refused_queue):
        with broker(script) as server:
            asking = client(server)
            with pytest.raises(StartError):
                asking.request("input", {}, timeout=PATIENCE)
            began = time.monotonic()
            asking.close()
            assert time.monotonic() - began < 2


def test_a_shared_reply_queue_that_others_still_use_is_left_to_them_at_once(client: Ask) -> None:
    """The broker says so by closing the channel; nobody may consume it once more for that."""
    said: list[type] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        message_id = requested(peer)[1]["message_id"]
        ack(peer, channel, 1)
        reply(peer, channel, {"message_id": message_id})
        peer.expect(spec.Basic.Ack)
        peer.expect(spec.Basic.Cancel)
        peer.method(channel, spec.Basic.CancelOk(peer.consumer_tag))
        deleted = peer.expect(spec.Queue.Delete)
        assert deleted.if_unused and deleted.if_empty
        peer.close_channel(channel, 406, "PRECONDITION_FAILED - queue 'replies' in use")
        said.append(type(peer.read().method))
        peer.method(0, spec.Connection.CloseOk())

    with broker(script) as server:
        asking = client(server, reply_queue="replies", exclusive=False, shared=True)
        asking.request("input", {}, timeout=PATIENCE)
        began = time.monotonic()
        asking.close()
        assert time.monotonic() - began < 2
    assert said == [spec.Connection.Close]


def test_a_request_after_close_is_refused_at_once(client: Ask) -> None:
    with broker(answer_all) as server:
        asking = client(server)
        asking.request("input", {}, timeout=PATIENCE)
        asking.close()
        began = time.monotonic()
        for method in (asking.request, asking.send):
            with pytest.raises(NotConnected, match="the client is closed"):
                method("input", {}, timeout=PATIENCE)
        assert time.monotonic() - began < 1
        assert server.count == 1, "nothing is opened again for it"


def test_a_client_that_is_closed_before_its_first_request_opens_nothing() -> None:
    asking = Client(Connection([]))
    asking.close()
    with pytest.raises(NotConnected, match="the client is closed"):
        asking.request("input", {})
    assert asking.connection._loop is None


def test_closing_ends_the_requests_that_wait(client: Ask) -> None:
    waiting = threading.Event()

    def script(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)
        waiting.set()
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        errors: list[MQError] = []

        def ask() -> None:
            try:
                asking.request("input", {}, timeout=PATIENCE)
            except MQError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert waiting.wait(PATIENCE)
        asking.close()
        thread.join(PATIENCE)
        assert [type(error) for error in errors] == [NotConnected]


def test_a_configuration_that_lacks_something_is_told_to_who_asks() -> None:
    def parameters() -> Any:
        raise ConfigurationError("no user")

    with Client(Connection(Address(parameters))) as asking:
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                asking.request("input", {})
        assert not asking._requests.ids(), "nothing is kept of them"


def test_a_client_that_was_never_used_closes_without_ado() -> None:
    asking = Client(Connection([]))
    asking.close()
    asking.close()


@pytest.mark.parametrize("timeout", [1e8, 1e300, float("inf")])
def test_a_request_for_which_is_waited_very_long_expires_as_late_as_amqp_has_it(
    timeout: float,
) -> None:
    """Beyond some number the broker closes the channel (406), and what else is under way there fails with it."""
    request = Pending("id", b"", "input", timeout, None)
    assert request.properties.expiration == str(2**32 - 1)
