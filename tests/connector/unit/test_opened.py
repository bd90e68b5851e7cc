"""One opened channel: what it sends, when and in which order, and what it no longer does when it is gone."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import pika
import pytest
from mq_connector.consumer.opened import Confirms, Message, OpenedChannel, Sizes
from mq_connector.errors import NotConnected
from pika.spec import Basic

from .fakes import FakeLink, be_a_child

REPLY = Message("", "reply", b"")


class Setup:
    """A channel on a connection that the test plays the broker of."""

    def __init__(self, burst: int = 4) -> None:
        self.link = FakeLink()
        self.transport = self.link.transport
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        link: Any = self.link
        amqp: Any = pika.frame.Method(5, None)  # has a channel_number
        self.opened = OpenedChannel(link, amqp, self.inbox, Sizes(1))
        self.opened.collected.burst = burst

    def deliver(self, count: int) -> None:
        for tag in range(1, count + 1):
            method = Basic.Deliver("ctag", tag, False, "", "input")
            self.opened.deliver(method, pika.BasicProperties(), b"")

    def publish(self, message: Message = REPLY) -> bool:
        return self.opened.send(self.opened.encode(message))

    def busy(self) -> None:
        """There are deliveries that no worker has taken."""
        self.inbox.put(None)

    def idle(self) -> None:
        while not self.inbox.empty():
            self.inbox.get()

    def settled(self) -> list[tuple[str, int | None]]:
        """Names and tags of all that was settled, as it was sent."""
        methods = [
            getattr(each, "method", None) for burst in self.transport.bursts for each in burst
        ]
        kinds = (Basic.Ack, Basic.Nack, Basic.Reject)
        return [(each.NAME, each.delivery_tag) for each in methods if isinstance(each, kinds)]


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_a_message_knows_when_its_bytes_came(setup: Setup) -> None:
    for came in (3.0, 4.5):
        setup.transport.reader.now = came
        setup.deliver(1)
        assert setup.inbox.get().arrived == came


# ---- publishing


def test_a_publish_leaves_at_once_while_nothing_else_waits(setup: Setup) -> None:
    assert setup.publish(Message("logs", "key", b"text", pika.BasicProperties(expiration="1000")))
    [[method, header, body]] = setup.transport.bursts
    assert (method.channel_number, method.method.exchange, method.method.routing_key) == (
        5,
        "logs",
        "key",
    )
    assert not method.method.mandatory
    assert header.properties.expiration == "1000"
    assert body.fragment == b"text"


def test_what_is_mandatory_is_sent_as_such(setup: Setup) -> None:
    setup.publish(Message("", "reply", b"", None, True))
    assert setup.transport.bursts[0][0].method.mandatory


def test_a_reply_leaves_before_its_ack(setup: Setup) -> None:
    setup.deliver(2)
    setup.publish()
    setup.opened.ack(1)
    assert setup.transport.bursts == []
    setup.idle()
    setup.opened.ack(2)
    assert setup.transport.methods == [["Basic.Publish", "Basic.Ack"]]


def test_while_deliveries_wait_a_burst_is_collected_until_it_is_worth_sending(setup: Setup) -> None:
    setup.deliver(3)
    setup.publish()
    setup.opened.ack(1)
    setup.publish()
    assert setup.transport.bursts == []
    setup.opened.ack(2)
    assert setup.transport.methods == [["Basic.Publish", "Basic.Publish", "Basic.Ack"]]
    ack = setup.transport.bursts[0][-1].method
    assert (ack.delivery_tag, ack.multiple) == (2, True)


def test_what_was_collected_leaves_after_five_milliseconds(setup: Setup) -> None:
    setup.busy()
    setup.publish()
    setup.publish()
    assert len(setup.link.calls) == 1, "one wake-up for a burst"
    setup.link.run_calls()
    assert [seconds for seconds, _ in setup.link.timers] == [0.005]
    setup.link.run_timers()
    assert setup.transport.methods == [["Basic.Publish", "Basic.Publish"]]


def test_without_anything_to_send_the_timer_is_not_set_again(setup: Setup) -> None:
    setup.busy()
    setup.publish()
    setup.link.run_calls()
    setup.link.run_timers()
    setup.link.run_timers()
    assert setup.link.timers == []
    setup.publish()
    assert len(setup.link.calls) == 1, "the next one sets it"


def test_a_name_that_is_too_long_is_its_publisher_s_to_hear_of(setup: Setup) -> None:
    with pytest.raises(ValueError, match="routing key"):
        setup.publish(Message("", "q" * 256, b""))
    assert setup.transport.bursts == []


# ---- settling


def test_deliveries_reach_the_inbox_with_the_channel_they_came_on(setup: Setup) -> None:
    setup.deliver(1)
    delivery = setup.inbox.get()
    assert delivery.opened is setup.opened
    assert (delivery.tag, delivery.properties, delivery.body) == (1, pika.BasicProperties(), b"")
    assert setup.opened.latest is delivery
    assert setup.opened.outstanding == 1
    assert not setup.opened.is_settled(1)


def test_a_rejection_leaves_at_once_behind_the_publishes_and_before_the_acks(setup: Setup) -> None:
    setup.deliver(3)
    setup.publish()
    setup.opened.ack(1)
    setup.opened.ack(3)
    setup.opened.reject(2, requeue=False)
    assert setup.transport.methods == [["Basic.Publish", "Basic.Reject", "Basic.Ack"]]
    *_, reject, ack = setup.transport.bursts[0]
    assert (reject.method.delivery_tag, reject.method.requeue) == (2, False)
    assert (ack.method.delivery_tag, ack.method.multiple) == (3, True)


def test_settling_twice_sends_one_frame(setup: Setup) -> None:
    setup.deliver(1)
    setup.idle()
    setup.opened.ack(1)
    setup.opened.ack(1)
    setup.opened.nack(1, requeue=True)
    setup.opened.reject(1, requeue=True)
    assert setup.transport.methods == [["Basic.Ack"]]
    assert setup.opened.is_settled(1)


def test_what_is_to_come_again_later_stays_in_hand_until_then(setup: Setup) -> None:
    setup.deliver(2)
    setup.opened.reject_later(1, 7.5)
    setup.opened.ack(2)
    assert (setup.opened.outstanding, len(setup.opened.retries)) == (1, 1)
    setup.link.run_calls()
    [(seconds, retry)] = [each for each in setup.link.timers if each[0] == 7.5]
    assert seconds == 7.5
    assert ("Basic.Reject", 1) not in setup.settled()
    retry()
    retry()
    assert setup.settled().count(("Basic.Reject", 1)) == 1
    assert (setup.opened.outstanding, len(setup.opened.retries)) == (0, 0)


def test_at_the_end_what_was_to_come_again_later_goes_back_at_once(setup: Setup) -> None:
    setup.deliver(3)
    setup.opened.reject_later(1, 60)
    setup.opened.reject_later(3, 60)
    setup.opened.retries.put_back()
    assert sorted(setup.settled()) == [("Basic.Reject", 1), ("Basic.Reject", 3)]
    assert setup.opened.outstanding == 1
    setup.link.run_calls()
    setup.link.run_timers()
    assert len(setup.settled()) == 2, "the timers have nothing left to do"


def test_what_is_settled_already_does_not_come_again(setup: Setup) -> None:
    setup.deliver(1)
    setup.idle()
    setup.opened.ack(1)
    setup.opened.reject_later(1, 1)
    assert len(setup.opened.retries) == 0
    assert setup.link.calls == []


def test_a_consumer_is_cancelled_behind_what_was_collected(setup: Setup) -> None:
    setup.deliver(1)
    setup.publish()
    setup.opened.ack(1)
    setup.opened.cancel("ctag")
    names = [name for burst in setup.transport.methods for name in burst]
    assert names == ["Basic.Publish", "Basic.Ack", "Basic.Cancel"]


# ---- while the consumer is exchanged for another


def test_while_it_is_held_publishes_leave_and_the_broker_is_told_of_nothing_settled(
    setup: Setup,
) -> None:
    setup.deliver(3)
    setup.idle()
    setup.opened.hold()
    setup.publish()
    setup.opened.ack(1)
    setup.opened.reject(2, requeue=False)
    setup.opened.flush()
    assert setup.transport.methods == [["Basic.Publish"]]
    assert setup.opened.outstanding == 1
    setup.opened.release()
    assert setup.transport.methods[1:] == [["Basic.Reject", "Basic.Ack"]]
    setup.opened.ack(3)
    assert setup.settled()[-1] == ("Basic.Ack", 3), "at once again"


# ---- failures: the channel is gone


def test_a_publish_on_a_channel_that_is_gone_says_so(setup: Setup) -> None:
    setup.opened.closing()
    assert not setup.publish()
    assert setup.transport.bursts == []


def test_nothing_is_settled_on_a_channel_that_is_gone(setup: Setup) -> None:
    """A tag means another message on the next channel."""
    setup.deliver(4)
    setup.opened.ack(1)
    setup.opened.reject_later(4, 1)
    setup.link.run_calls()
    setup.opened.end()
    setup.opened.ack(2)
    setup.opened.reject(3, requeue=True)
    setup.opened.nack(3, requeue=True)
    setup.opened.retries.put_back()
    setup.opened.cancel("ctag")
    setup.opened.flush()
    setup.link.run_timers()
    assert setup.transport.bursts == []
    assert setup.transport.attached == {}


def test_the_timer_of_a_channel_that_is_gone_stops(setup: Setup) -> None:
    setup.busy()
    setup.publish()
    setup.link.run_calls()
    setup.opened.end()
    setup.link.run_timers()
    assert setup.link.timers == []


def test_who_waits_for_room_goes_on_when_the_channel_is_gone(setup: Setup) -> None:
    looks: list[int] = []

    def no_room() -> bool:
        looks.append(1)
        if len(looks) == 3:
            setup.opened.closing()
        return False

    setup.transport.room = no_room
    setup.opened.wait_for_room()
    assert len(looks) == 3


def test_a_forked_child_settles_nothing_and_waits_for_no_lock(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.deliver(1)
    with setup.opened._lock:  # as a fork may have left it
        be_a_child(monkeypatch)
        with pytest.raises(NotConnected, match="forked"):
            setup.opened.ack(1)
        with pytest.raises(NotConnected, match="forked"):
            setup.opened.reject(1, requeue=True)
        with pytest.raises(NotConnected, match="forked"):
            setup.opened.nack(1, requeue=True)
    assert setup.transport.bursts == []


# ---- what has to wait for a confirm


class Confirming:
    """Confirms with a loop, and what came of what waited."""

    def __init__(self) -> None:
        self.link = FakeLink()
        self.confirms = Confirms(self.link.call)
        self.came: list[str] = []

    def then(self, name: str) -> None:
        self.confirms.then(
            lambda: self.came.append(name), lambda error: self.came.append(f"{name}: {error}")
        )
        self.link.run_calls()

    def outcome(self, error: Exception | None = None) -> None:
        self.confirms.outcome(error)
        self.link.run_calls()


def test_what_waits_for_confirms_has_its_turn_in_order_after_the_last() -> None:
    one = Confirming()
    one.confirms.expect()
    one.confirms.expect()
    one.then("first")
    one.then("second")
    one.outcome()
    assert one.came == []
    one.outcome()
    assert one.came == ["first", "second"]
    one.then("third")
    assert one.came == ["first", "second", "third"], "nothing is to be waited for any more"


def test_one_refusal_is_known_at_once_and_to_all_that_wait() -> None:
    one = Confirming()
    one.confirms.expect()
    one.confirms.expect()
    one.then("first")
    one.outcome(ValueError("no"))
    assert one.came == ["first: no"]
    one.then("second")
    one.outcome()
    one.then("third")
    assert one.came == ["first: no", "second: no", "third: no"]


def test_what_waits_may_look_at_the_confirms_it_has_waited_for() -> None:
    """It is called while no lock is held."""
    one = Confirming()
    one.confirms.then(lambda: one.then("inner"), lambda _: None)
    one.link.run_calls()
    assert one.came == ["inner"]


def test_a_forked_child_waits_for_no_lock_to_have_a_message_delivered_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.deliver(1)
    setup.opened._lock.acquire()  # by a thread of the parent, which the child hasn't
    be_a_child(monkeypatch)
    ended = threading.Event()

    def retry() -> None:
        with pytest.raises(NotConnected):
            setup.opened.reject_later(1, 1.0)
        ended.set()

    threading.Thread(target=retry, daemon=True).start()
    try:
        assert ended.wait(5)
    finally:
        setup.opened._lock.release()
