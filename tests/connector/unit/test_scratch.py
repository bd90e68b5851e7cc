"""Operations that the broker may refuse: each refusal costs one channel and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from mq_connector.connection.scratch import Operation, Result, Scratch, Steps
from mq_connector.errors import ChannelError, MQError, NotConnected
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ShortStringTooLong,
    UnsupportedAMQPFieldException,
)
from pika.spec import Queue

from .fakes import FakeAMQP, FakeLink


def declare(name: str) -> Operation:
    return lambda channel, done: channel.queue_declare(name, callback=done)


class Ends:
    """Collects how courses of operations end."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, MQError | None]] = []

    def __call__(self, value: Any, error: MQError | None) -> None:
        self.all.append((value, error))

    @property
    def errors(self) -> list[str]:
        return [f"{type(error).__name__}: {error}" for _, error in self.all if error is not None]


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def ends() -> Ends:
    return Ends()


def make(link: Any, apart: bool = False) -> Scratch:
    return Scratch(link, apart)


def test_operations_run_one_after_the_other_on_one_channel(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    channel = link.amqp.open()
    assert channel.calls == [("queue_declare", ("one",))]
    channel.answer(Queue.DeclareOk("one", 1, 0))
    assert channel.calls[1:] == [("queue_declare", ("two",))]
    channel.answer(Queue.DeclareOk("two", 2, 0))
    assert [value.method.message_count for value, _ in ends.all] == [1, 2]
    assert link.amqp.opening == 0


def test_no_channel_is_opened_before_it_is_needed(link: FakeLink) -> None:
    make(link)
    assert link.amqp.opening == 0


def test_a_course_gets_each_result_and_its_return_value_is_handed_on(
    link: FakeLink, ends: Ends
) -> None:
    def steps() -> Steps:
        first = yield declare("a")
        second = yield declare("b")
        return first.method.message_count + second.method.message_count

    make(link).run(steps(), ends)
    channel = link.amqp.open()
    channel.answer(Queue.DeclareOk("a", 40, 0))
    channel.answer(Queue.DeclareOk("b", 2, 0))
    assert ends.all == [(42, None)]


def test_a_course_without_operations_ends_at_once(link: FakeLink, ends: Ends) -> None:
    def steps() -> Steps:
        return "nothing to do"
        yield declare("never")

    make(link).run(steps(), ends)
    assert ends.all == [("nothing to do", None)]
    assert link.amqp.opening == 0


def test_a_course_may_begin_another_when_it_ends(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), lambda *_: scratch.do(declare("two"), ends))
    channel = link.amqp.open()
    channel.answer()
    channel.answer()
    assert len(ends.all) == 1
    assert [arguments for _, arguments in channel.calls] == [("one",), ("two",)]


# ---- failures


def test_a_refusal_costs_the_channel_and_the_next_operation_gets_another(
    link: FakeLink, ends: Ends
) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    link.amqp.open().refuse(406, "PRECONDITION_FAILED - inequivalent arg 'durable'")
    second = link.amqp.open()
    assert second.calls == [("queue_declare", ("two",))]
    second.answer()
    assert ends.errors == ["ChannelError: 406 PRECONDITION_FAILED - inequivalent arg 'durable'"]
    (_, error), (value, _) = ends.all
    assert isinstance(error, ChannelError)
    assert error.code == 406
    assert value is not None


def test_a_course_can_catch_a_refusal_and_go_on(link: FakeLink, ends: Ends) -> None:
    def steps() -> Steps:
        try:
            yield declare("a")
        except ChannelError:
            return (yield declare("b")).method.queue

    make(link).run(steps(), ends)
    link.amqp.open().refuse(404, "NOT_FOUND")
    link.amqp.open().answer(Queue.DeclareOk("b", 0, 0))
    assert ends.all == [("b", None)]


def test_a_channel_that_is_closed_while_idle_is_replaced(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    first = link.amqp.open()
    first.answer()
    first.refuse(541, "INTERNAL_ERROR")
    scratch.do(declare("two"), ends)
    link.amqp.open().answer()
    assert ends.errors == []
    first.lose(ChannelClosedByBroker(541, "again"))  # what an old channel says is of no interest
    scratch.do(declare("three"), ends)
    assert link.amqp.opening == 0


@pytest.mark.parametrize(
    "error", [ValueError("no"), ShortStringTooLong("no"), UnsupportedAMQPFieldException("no")]
)
def test_arguments_that_pika_refuses_end_one_operation_only(
    link: FakeLink, ends: Ends, error: Exception
) -> None:
    def invalid(channel: Any, done: Any) -> None:
        raise error

    scratch = make(link)
    scratch.do(invalid, ends)
    scratch.do(declare("valid"), ends)
    link.amqp.open().answer()
    assert [text.partition(type(error).__name__)[0] for text in ends.errors] == [
        "ChannelError: 400 "
    ]
    assert len(ends.all) == 2


def test_an_answer_that_never_comes_costs_one_operation_and_not_what_waits_behind_it(
    link: FakeLink, ends: Ends
) -> None:
    """Nor the connection, on which others do well."""
    scratch = make(link)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    first = link.amqp.open()
    link.run_timers()  # that of the channel, which has come
    link.run_timers()
    assert ends.errors == ["ChannelError: 504 no answer from the broker within 30 s"]
    assert first.closed and link.dropped == 0
    second = link.amqp.open()
    first.answer(Queue.DeclareOk("one", 1, 0))  # after all
    assert len(ends.all) == 1
    second.answer(Queue.DeclareOk("two", 2, 0))
    value, error = ends.all[1]
    assert (value.method.queue, error) == ("two", None)


def test_what_was_answered_costs_nothing_later(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    channel = link.amqp.open()
    channel.answer()
    scratch.do(declare("two"), ends)
    link.run_timers()
    assert channel.is_open and ends.errors == []
    link.run_timers()
    assert len(ends.errors) == 1


def test_a_second_connection_that_owes_an_answer_is_given_up(link: FakeLink, ends: Ends) -> None:
    """Without a word, which pika would only say behind the answer."""
    scratch = make(link, apart=True)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    second = FakeAMQP()
    link.siblings[0][0](second)
    second.open()
    link.run_timers()  # that of the channel, which has come
    link.run_timers()
    assert ends.errors == ["ChannelError: 504 given up"]
    assert len(link.siblings) == 2, "the next operation gets another one"


def test_where_all_channels_are_in_use_an_operation_is_refused_and_the_next_one_tries_again(
    link: FakeLink, ends: Ends
) -> None:
    scratch = make(link)
    link.is_full = True
    scratch.do(declare("one"), ends)
    assert ends.all == [], "nobody expects an answer before he has asked"
    link.run_calls()
    assert ends.errors == ["ChannelError: 530 all channels are in use"]
    link.is_full = False
    scratch.do(declare("two"), ends)
    link.amqp.open().answer()
    assert len(ends.all) == 2 and len(ends.errors) == 1


def test_the_last_channel_may_take_the_place_of_the_one_that_is_closing(
    link: FakeLink, ends: Ends
) -> None:
    """While its end is told, pika still counts it."""
    scratch = make(link)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    first = link.amqp.open()
    link.is_full = True
    first.refuse(404, "NOT_FOUND")
    link.is_full = False
    link.run_calls()
    link.amqp.open().answer()
    assert ends.errors == ["ChannelError: 404 NOT_FOUND"]
    assert len(ends.all) == 2


def test_whoever_is_abandoned_while_there_is_no_channel_asks_for_none(
    link: FakeLink, ends: Ends
) -> None:
    scratch = make(link)
    link.is_full = True
    scratch.do(declare("one"), ends)
    scratch.abandon()
    link.is_full = False
    link.run_calls()
    assert link.amqp.opening == 0
    assert len(ends.all) == 1


def test_the_end_of_an_idle_second_connection_does_not_touch_its_successor(
    link: FakeLink, ends: Ends
) -> None:
    scratch = make(link, apart=True)
    scratch.do(declare("one"), ends)
    first = FakeAMQP()
    link.siblings[0][0](first)
    first.open().answer()
    link.run_timers()
    scratch.do(declare("two"), ends)
    link.siblings[0][1]("200 Normal shutdown")  # the old one is gone only now
    assert ends.errors == []
    successor = FakeAMQP()
    link.siblings[1][0](successor)
    successor.open().answer()
    assert len(ends.all) == 2 and ends.errors == []


def test_when_the_connection_is_lost_all_that_wait_are_told(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    channel = link.amqp.open()
    channel.lose(ConnectionClosedByBroker(320, "CONNECTION_FORCED"))
    assert ends.all == [], "the loss is told by whoever owns the connection"
    scratch.abandon()
    scratch.do(declare("three"), ends)
    scratch.abandon()
    assert [error.split(":")[0] for error in ends.errors] == ["NotConnected"] * 3


def test_a_caller_that_tries_again_at_once_when_abandoned_is_told_again(
    link: FakeLink, ends: Ends
) -> None:
    scratch = make(link)

    def again(value: Any, error: MQError | None) -> None:
        ends(value, error)
        scratch.do(declare("again"), ends)

    scratch.do(declare("one"), again)
    scratch.abandon()
    assert [error.split(":")[0] for error in ends.errors] == ["NotConnected"] * 2


def test_an_answer_after_the_end_is_ignored(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    channel = link.amqp.open()
    scratch.abandon()
    channel.answer()
    assert len(ends.all) == 1


@pytest.mark.parametrize("answered", [True, False])
def test_whoever_is_abandoned_leaves_no_channel_behind(
    link: FakeLink, ends: Ends, answered: bool
) -> None:
    """The connection may go on: a consumer that gets another channel has another one of these, too."""
    scratch = make(link)
    scratch.do(declare("one"), ends)
    channel = link.amqp.open()
    if answered:
        channel.answer()
    scratch.abandon()
    assert channel.closed


def test_a_channel_that_opens_after_the_end_is_closed(link: FakeLink, ends: Ends) -> None:
    scratch = make(link)
    scratch.do(declare("one"), ends)
    scratch.abandon()
    assert link.amqp.open().closed


# ---- on a connection apart, for refusals that cost a connection


def test_operations_apart_share_a_second_connection(link: FakeLink, ends: Ends) -> None:
    scratch = make(link, apart=True)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    [(on_open, _)] = link.siblings
    second = FakeAMQP()
    on_open(second)
    channel = second.open()
    channel.answer()
    channel.refuse(403, "ACCESS_REFUSED")
    scratch.do(declare("three"), ends)
    second.open().answer()
    assert len(link.siblings) == 1
    assert link.amqp.opening == 0
    assert ends.errors == ["ChannelError: 403 ACCESS_REFUSED"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [("541 INTERNAL_ERROR - feature is deprecated", 541), ("link refused", 504)],
)
def test_a_second_connection_that_is_closed_refuses_one_operation(
    link: FakeLink, ends: Ends, reason: str, code: int
) -> None:
    scratch = make(link, apart=True)
    scratch.do(declare("one"), ends)
    scratch.do(declare("two"), ends)
    on_open, on_gone = link.siblings[0]
    second = FakeAMQP()
    on_open(second)
    second.open()
    on_gone(reason)
    [(_, error)] = ends.all
    assert isinstance(error, ChannelError)
    assert error.code == code
    link.siblings[1][0](FakeAMQP())


def test_a_second_connection_that_nobody_uses_is_closed_after_a_while(
    link: FakeLink, ends: Ends
) -> None:
    scratch = make(link, apart=True)
    scratch.do(declare("one"), ends)
    second = FakeAMQP()
    link.siblings[0][0](second)
    second.open().answer()
    assert [seconds for seconds, _ in link.timers] == [30, 30]
    earlier, link.timers = link.timers, []
    scratch.do(declare("two"), ends)
    for _, function in earlier:
        function()
    closed = second.closed
    assert not closed, "it is in use again"
    second.channels[0].answer()
    link.run_timers()
    assert second.closed == 1


def test_a_second_connection_is_closed_with_the_first(link: FakeLink, ends: Ends) -> None:
    scratch = make(link, apart=True)
    scratch.do(declare("one"), ends)
    on_open, _ = link.siblings[0]
    scratch.abandon()
    late = FakeAMQP()
    on_open(late)
    assert late.closed == 1
    other = make(link, apart=True)
    other.do(declare("one"), ends)
    second = FakeAMQP()
    link.siblings[1][0](second)
    other.abandon()
    assert second.closed == 1


# ---- results


def test_a_result_waits_for_the_broker_in_another_thread() -> None:
    result = Result()
    threading.Timer(0.02, lambda: result.set("value")).start()
    assert result.wait(5) == "value"
    assert result.wait(0) == "value"


def test_a_result_that_never_comes_is_reported_after_its_time() -> None:
    with pytest.raises(NotConnected, match=r"within 0\.01 s"):
        Result().wait(0.01)


def test_a_refused_result_raises_whenever_it_is_looked_at() -> None:
    result = Result()
    result.set(None, ChannelError(404, "NOT_FOUND"))
    for _ in range(2):
        with pytest.raises(ChannelError):
            _ = result.method


def test_many_operations_set_one_timer(link: FakeLink, ends: Ends) -> None:
    """A handler that declares a queue for each message would fill the loop with them."""
    scratch = make(link)
    for _ in range(100):
        scratch.do(declare("q"), ends)
    channel = link.amqp.open()
    for _ in range(100):
        channel.answer()
    assert len(ends.all) == 100
    assert len(link.timers) == 1
