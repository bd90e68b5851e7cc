"""A queue of which one consumer gets the messages at a time, and another one when that is gone.

To the broker a consumer with another prefetch is another one, so replicas hand over to each other as theirs is
found out. On the installed RabbitMQ only of quorum queues: a classic one of 3.10 crashes when its active consumer
is cancelled while messages wait, also by pika alone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mq_connector import ConsumerThread
from mq_connector.config import Limits
from waiting import eventually

from .broker import Broker
from .newer import Newer
from .peer import Peer

MESSAGES = 300


def _consumes(consumer: ConsumerThread) -> bool:
    return consumer.is_consuming


class Replicas:
    """Two consumers of a new queue, of which the first is the active one.

    :ivar handled: which messages, in the order in which they began
    """

    def __init__(self, broker: Broker | Newer, kind: str) -> None:
        self.queue = f"input.{uuid.uuid4().hex[:12]}"
        self.handled: list[int] = []
        self._peer = Peer(broker.parameters())
        arguments = {"x-single-active-consumer": True, "x-queue-type": kind}
        self._peer.declare(self.queue, durable=True, arguments=arguments)
        self.consumers = [
            ConsumerThread(broker.parameters(), self.queue, self._handle, limits=Limits())
            for _ in range(2)
        ]

    def _handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.handled.append(int(body))
        time.sleep(0.0005)

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            for each in self.consumers:
                each.start()
                eventually(partial(_consumes, each))
            for number in range(MESSAGES):
                self._peer.publish(self.queue, str(number).encode())
            yield
        finally:
            for each in self.consumers:
                each.stop(5)
            for each in self.consumers:
                each.join(60)
            self._peer.channel.queue_delete(self.queue)
            self._peer.close()


def all_are_handled_once(broker: Broker | Newer, kind: str) -> None:
    replicas = Replicas(broker, kind)
    with replicas.running():
        eventually(lambda: len(replicas.handled) >= MESSAGES)
    assert sorted(replicas.handled) == [*range(MESSAGES)]


def test_none_is_lost_or_handled_twice_by_replicas_that_may_hand_over(broker: Broker) -> None:
    all_are_handled_once(broker, "quorum")


def test_the_next_one_takes_over_where_the_active_one_stops(broker: Broker) -> None:
    replicas = Replicas(broker, "quorum")
    with replicas.running():
        eventually(lambda: len(replicas.handled) > MESSAGES // 4)
        replicas.consumers[0].stop(5)
        eventually(lambda: len(replicas.handled) >= MESSAGES)
    assert sorted(replicas.handled) == [*range(MESSAGES)]  # a stop waits for what is in hand
