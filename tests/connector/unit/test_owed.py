"""Answers that the broker owes: whatever it is asked, silence is found out and recovered from."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from mq_connector import Client, Connection, ConsumerThread, Publisher
from mq_connector import publisher as publisher_module
from mq_connector.channels import kept
from mq_connector.connection import link as link_module
from mq_connector.connection import scratch
from mq_connector.connection.link import Owed
from mq_connector.connection.scratch import Scratch
from mq_connector.consumer import consumption
from pika import spec
from waiting import eventually

from .fake_broker import PATIENCE, BrokerEnd, Gone, Script, broker
from .fakes import FakeConnection, FakeLink
from .members import Listener, joined, on_loop, serve
from .replying import answer_all_on_channel

#: Seconds for which these tests let the broker owe an answer.
SHORTLY = 0.4


#: How a broker answers that does.
ANSWERS: dict[type, Callable[[Any], Any]] = {
    spec.Channel.Open: lambda _: spec.Channel.OpenOk(),
    spec.Confirm.Select: lambda _: spec.Confirm.SelectOk(),
    spec.Queue.Declare: lambda asked: spec.Queue.DeclareOk(asked.queue, 0, 0),
    spec.Basic.Qos: lambda _: spec.Basic.QosOk(),
    spec.Basic.Consume: lambda asked: spec.Basic.ConsumeOk(asked.consumer_tag or "ctag"),
    spec.Basic.Cancel: lambda asked: spec.Basic.CancelOk(asked.consumer_tag),
    spec.Channel.Close: lambda _: spec.Channel.CloseOk(),
    spec.Connection.Close: lambda _: spec.Connection.CloseOk(),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (link_module, scratch, kept, consumption):
        monkeypatch.setattr(module, "PATIENCE", SHORTLY)


def silent(peer: BrokerEnd) -> None:
    """Read on, and say nothing."""
    with contextlib.suppress(Gone, OSError):
        while True:
            peer.read()


def after(*answered: type) -> Script:
    """A broker that opens a connection, answers methods of these kinds, and falls silent at the first other."""

    def script(peer: BrokerEnd) -> None:
        peer.open()
        with contextlib.suppress(Gone, OSError):
            while True:
                each = peer.read()
                method = getattr(each, "method", None)
                if type(method) not in answered:
                    break
                if not getattr(method, "nowait", False):
                    peer.method(each.channel_number, ANSWERS[type(method)](method))
        silent(peer)

    return script


# ---- the way to an open connection: pika's `stack_timeout`


def silent_after_the_login(peer: BrokerEnd) -> None:
    peer.greet()
    silent(peer)


def silent_after_tuning(peer: BrokerEnd) -> None:
    peer.greet()
    peer.tune()
    silent(peer)


@pytest.mark.parametrize("script", [silent, silent_after_the_login, silent_after_tuning])
def test_a_broker_that_falls_silent_before_the_connection_is_open_is_left_for_the_next(
    script: Script,
) -> None:
    with broker(script) as mute, broker(serve) as well:
        parameters = mute.parameters()
        parameters.stack_timeout = SHORTLY
        member = Listener(Connection([parameters, well.parameters()])).join()
        assert member.wait(1) == ["open"]
        member.quit()


# ---- channels


def answer_requests(peer: BrokerEnd) -> None:
    peer.open()
    answer_all_on_channel(peer)


@pytest.mark.parametrize(
    "answered",
    [
        (),
        (spec.Channel.Open,),
        (spec.Channel.Open, spec.Confirm.Select),
        (spec.Channel.Open, spec.Confirm.Select, spec.Queue.Declare),
    ],
    ids=["channel.open", "confirm.select", "queue.declare", "basic.consume"],
)
def test_a_client_that_gets_no_answer_asks_on_another_connection(
    answered: tuple[type, ...],
) -> None:
    with (
        broker(after(*answered), answer_requests) as server,
        Client(Connection([server.parameters()])) as client,
    ):
        assert client.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"


def take_one(peer: BrokerEnd) -> None:
    peer.open()
    channel = peer.open_channel()
    peer.confirm(channel)
    peer.publish()
    peer.method(channel, spec.Basic.Ack(1, False))
    peer.farewell()


@pytest.mark.parametrize(
    "answered", [(), (spec.Channel.Open,)], ids=["channel.open", "confirm.select"]
)
def test_a_publisher_that_gets_no_answer_publishes_on_another_connection(
    answered: tuple[type, ...],
) -> None:
    with (
        broker(after(*answered), take_one) as server,
        Publisher(Connection([server.parameters()])) as publisher,
    ):
        publisher.publish("", "queue", b"x").result(PATIENCE)


@contextlib.contextmanager
def consuming(server: Any) -> Iterator[ConsumerThread]:
    consumer = ConsumerThread(Connection([server.parameters()]), "input", lambda *_: None)
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.stop(0)
        consumer.join(PATIENCE)
        assert not consumer.is_alive()


@pytest.mark.parametrize(
    "answered",
    [
        (),
        (spec.Channel.Open,),
        (spec.Channel.Open, spec.Queue.Declare),
        (spec.Channel.Open, spec.Queue.Declare, spec.Basic.Qos),
    ],
    ids=["channel.open", "queue.declare", "basic.qos", "basic.consume"],
)
def test_a_consumer_that_gets_no_answer_consumes_on_another_connection(
    answered: tuple[type, ...],
) -> None:
    with broker(after(*answered), after(*ANSWERS)) as server, consuming(server) as consumer:
        eventually(lambda: consumer.is_consuming, PATIENCE)
        assert server.count == 2


@pytest.mark.parametrize("answered", [0, 1, 2], ids=["basic.cancel", "basic.qos", "basic.consume"])
def test_a_consumer_that_makes_room_for_another_in_vain_is_replaced(answered: int) -> None:
    """`basic.qos` counts for the next consumer only, and in between nothing is consumed."""
    asked = threading.Event()

    def script(peer: BrokerEnd) -> None:
        peer.open()
        left = answered
        with contextlib.suppress(Gone, OSError):
            while True:
                each = peer.read()
                method = getattr(each, "method", None)
                if isinstance(method, spec.Basic.Cancel):
                    asked.set()
                if asked.is_set():
                    left -= 1
                    if left < 0:
                        continue
                if not getattr(method, "nowait", False):
                    peer.method(each.channel_number, ANSWERS[type(method)](method))

    with broker(script, after(*ANSWERS)) as server, consuming(server) as consumer:
        eventually(lambda: consumer.is_consuming, PATIENCE)
        supervision = consumer._supervision
        first = supervision._consumption
        assert first is not None
        on_loop(consumer.connection, first._on_too_much)
        assert asked.wait(PATIENCE)
        eventually(
            lambda: supervision._consumption is not first and consumer.is_consuming, PATIENCE
        )
        assert server.count == 2


def test_replies_that_come_back_wait_no_longer_than_that_for_the_broker_to_say_so() -> None:
    with broker(after(*ANSWERS)) as server, consuming(server) as consumer:
        eventually(lambda: consumer.is_consuming, PATIENCE)
        first = consumer._supervision._consumption
        assert first is not None
        first._amqp.basic_qos = lambda **_: None  # type: ignore[method-assign]
        on_loop(consumer.connection, lambda: first._when_answered(lambda: None))
        eventually(lambda: server.count == 2 and consumer.is_consuming, PATIENCE)


def test_who_does_well_on_a_connection_keeps_it_while_another_gets_no_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As from a queue whose replicas are down: `channel.open` is answered, what comes then isn't."""
    monkeypatch.setattr(publisher_module, "_CHANNEL_PAUSE", 0.01)
    asked = threading.Semaphore(0)

    def script(peer: BrokerEnd) -> None:
        peer.open()
        with contextlib.suppress(Gone, OSError):
            while True:
                each = peer.read()
                if isinstance(getattr(each, "method", None), spec.Channel.Open):
                    peer.method(each.channel_number, spec.Channel.OpenOk())
                elif isinstance(getattr(each, "method", None), spec.Confirm.Select):
                    asked.release()
                elif isinstance(getattr(each, "method", None), spec.Connection.Close):
                    peer.method(0, spec.Connection.CloseOk())

    with broker(script) as server, joined(server) as [member]:
        member.wait(1)
        publisher = Publisher(member.connection)
        publisher.publish("", "queue", b"x")
        for _ in range(3):
            assert asked.acquire(timeout=PATIENCE), "each time on another channel"
        publisher.close(0.1)
        assert member.events == ["open"]


@pytest.mark.parametrize("owed", ["connection", "channel"])
def test_a_second_connection_that_never_comes_to_a_channel_is_given_up(owed: str) -> None:
    def mute(peer: BrokerEnd) -> None:
        if owed == "channel":
            peer.open()
        silent(peer)

    ends: list[Any] = []
    with broker(serve, mute, after(spec.Channel.Open, spec.Queue.Declare)) as server:
        parameters = server.parameters()
        parameters.stack_timeout = SHORTLY / 2
        member = Listener(Connection([parameters])).join()
        member.wait(1)
        link = member.link
        assert link is not None

        def declare(channel: Any, done: Any) -> None:
            channel.queue_declare("q", callback=done)

        def ask() -> None:
            link.apart.do(declare, lambda *end: ends.append(end))
            link.apart.do(declare, lambda *end: ends.append(end))

        on_loop(member.connection, ask)
        eventually(lambda: len(ends) == 2, PATIENCE)
        assert member.events == ["open"]
        member.quit()
    assert getattr(ends[0][1], "code", None) == 504
    assert ends[1][1] is None


def test_the_time_of_an_operation_begins_when_its_channel_is_asked_for() -> None:
    """And not with the one before it, whose refusal has cost the channel."""
    link = FakeLink()
    ends: list[Any] = []

    def declare(channel: Any, done: Any) -> None:
        channel.queue_declare("q", callback=done)

    def end(_: Any, error: Any) -> None:
        ends.append(error)

    made = Scratch(link)  # type: ignore[arg-type]
    made.do(declare, end)
    link.amqp.open().refuse(404, "NOT_FOUND")
    made.do(declare, end)
    link.run_timers()  # that of the first
    assert len(ends) == 1
    link.amqp.open().answer()
    assert ends[1] is None


# ---- what is owed, and until when


def test_what_comes_in_time_has_no_consequence_and_one_timer_watches_all() -> None:
    loop = FakeConnection()
    missed: list[object] = []
    owed = Owed(loop.later, lambda: False)
    come = [owed.expect(partial(missed.append, number)) for number in range(100)]
    assert len(loop.timers) == 1
    for each in come:
        each()
    loop.run_timers()
    assert missed == [] and loop.timers == []


def test_what_does_not_come_is_told_once_and_what_was_asked_later_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = FakeConnection()
    missed: list[object] = []
    owed = Owed(loop.later, lambda: False)
    monkeypatch.setattr(link_module, "PATIENCE", 0.0)
    owed.expect(partial(missed.append, "first"))
    monkeypatch.setattr(link_module, "PATIENCE", 1000.0)
    come = owed.expect(partial(missed.append, "second"))
    loop.run_timers()
    assert missed == ["first"]
    [(seconds, _)] = loop.timers
    assert 900 < seconds <= 1000
    come()
    loop.run_timers()
    assert missed == ["first"]


def test_a_broker_that_an_alarm_holds_up_may_owe_answers_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, alarm = FakeConnection(), [True]
    missed: list[str] = []
    owed = Owed(loop.later, lambda: bool(alarm))
    monkeypatch.setattr(link_module, "PATIENCE", 0.0)
    owed.expect(partial(missed.append, "late"))
    for _ in range(3):
        loop.run_timers()
    assert missed == []
    alarm.clear()
    loop.run_timers()
    assert missed == ["late"]


def test_channels_that_are_given_up_again_and_again_do_not_use_up_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each keeps its number until the broker answers, also where others do well on the connection."""
    monkeypatch.setattr(link_module, "_MOST_GIVEN_UP", 4)

    def deaf(peer: BrokerEnd) -> None:
        peer.channel_max = 8
        peer.open()
        with contextlib.suppress(Gone, OSError):
            while True:
                each = peer.read()
                if isinstance(getattr(each, "method", None), spec.Channel.Open):
                    peer.method(each.channel_number, spec.Channel.OpenOk())

    with broker(deaf, after(*ANSWERS)) as server:
        other = Listener(Connection([server.parameters()])).join()
        consumer = ConsumerThread(other.connection, "input", lambda *_: None)
        consumer.start()
        try:
            eventually(lambda: consumer.is_consuming)
            assert server.count == 2
        finally:
            consumer.stop(0)
            consumer.join(PATIENCE)
            other.quit()
