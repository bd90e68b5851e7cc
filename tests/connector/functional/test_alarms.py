"""An alarm of memory or disk: the broker reads nothing more from who publishes, and whoever waits learns why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from mq_connector import Client, MQConnector, Publisher
from mq_connector.connection import Connection
from mq_connector.consumer.opened import Message
from mq_connector.errors import NotConnected, RequestTimeout
from waiting import eventually

from .broker import Broker
from .conftest import Consume, echo
from .peer import Peer

_TOLD = "the broker takes no messages: low on memory (resource alarm)"


@pytest.fixture
def alarm(victim: Broker) -> Iterator[Callable[[bool], None]]:
    """Raise the alarm of the broker's memory, or end it."""

    def switch(on: bool) -> None:
        victim.ctl("set_vm_memory_high_watermark", "0.0001" if on else "0.9")

    yield switch
    switch(False)


def looked(service: MQConnector) -> str:
    """What the health check is told, empty if all is well."""
    said: list[str] = []
    answered = threading.Event()

    def done(reason: str) -> None:
        said.append(reason)
        answered.set()

    service.look(done)
    answered.wait(60)
    return said[0] if said else "no answer"


def test_a_consumer_and_its_health_check_name_the_alarm(
    victim: Broker,
    queue: str,
    consume: Consume,
    alarm: Callable[[bool], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    consumer = consume(echo, at=victim.parameters())
    service = MQConnector(config={}, service_name="functional")
    service.consumers = {queue: consumer}
    peer = Peer(victim.parameters())
    for _ in range(5):
        peer.publish(queue, b'{"text": "hi", "routing_key": "input.nobody"}')
    eventually(lambda: looked(service) == "", what="all is well before")
    alarm(True)
    handling = consumer._supervision._handling
    assert handling is not None
    consumer.connection.call(
        lambda: handling.outbox.send_again(Message("", "input.nobody", b"x"))
    )  # What a handler would publish; no request comes in while the alarm is in force.
    eventually(lambda: consumer.connection.last_error == _TOLD, what="the connection's own word")
    assert looked(service) == f"not consuming {queue!r}: {_TOLD}"
    assert f"{_TOLD}; what is sent waits" in caplog.messages
    alarm(False)
    eventually(lambda: looked(service) == "", what="all is well again")
    assert consumer.connection.last_error == ""
    assert "the broker takes messages again" in caplog.messages
    peer.close()


def test_who_asks_and_who_publishes_is_told_of_the_alarm(
    victim: Broker, queue: str, alarm: Callable[[bool], None]
) -> None:
    client = Client(Connection([victim.parameters()]), f"{queue}.reply")
    publisher = Publisher(Connection([victim.parameters()]), window=1)
    publisher.publish("", queue, b"x", mandatory=False).result(60)
    alarm(True)
    with pytest.raises(RequestTimeout) as asked:
        client.request(queue, {"text": "hi"}, 3)
    assert str(asked.value) == f"no reply from {queue!r} within 3 s: {_TOLD}"
    held = publisher.publish("", queue, b"x", mandatory=False)
    with pytest.raises(NotConnected, match=r": the broker takes no messages: low on memory"):
        publisher.publish("", queue, b"x", timeout=2)
    alarm(False)
    held.result(60)
    publisher.close()
    client.close()
