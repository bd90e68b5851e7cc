"""Stands in the place of a channel, and writes down what it is asked for.

Its methods have the names, parameters and errors of those that they stand for.
"""

from __future__ import annotations

from typing import Any

import pika
from pika.exceptions import ChannelWrongStateError
from pika.spec import Queue

from ..connection.scratch import Result
from ..connection.wire.frames import octets
from ..consumer.channel.apart import Got
from ..consumer.channel.instead import CONFIRMS, GET_UNSETTLED, refuse_the_rest
from ..errors import NotInCallback
from .outcome import Outcome, Publish


class RecordingOpened:
    """Has those methods of `mq_connector.consumer.opened.OpenedChannel` that settle what comes back."""

    observer = None
    is_open = True

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def ack(self, tag: int, multiple: bool = False) -> None:
        self._outcome.settle("ack")

    def reject(self, tag: int, requeue: bool) -> None:
        self._outcome.settle("requeue" if requeue else "dead-letter")

    def reject_later(self, tag: int, seconds: float) -> None:
        self._outcome.settle("requeue")

    def is_settled(self, tag: int) -> bool:
        return bool(self._outcome.settled)


class RecordingChannel:
    """Has the methods of `mq_connector.consumer.channel.Channel` and writes down what they are asked for."""

    CLOSED, OPENING, OPEN, CLOSING = range(4)
    is_opening, is_closing, flow_active = False, False, True
    channel_number = 1
    consumer_tags = ("harness",)
    connection = None

    def __init__(self, outcome: Outcome) -> None:
        self._recorded = outcome
        self.is_open = True

    @property
    def is_closed(self) -> bool:
        return not self.is_open

    @property
    def _outcome(self) -> Outcome:
        """Where everything is written down, unless the handler has closed the channel."""
        if not self.is_open:
            raise ChannelWrongStateError("Channel is closed: the callback has called its close()")
        return self._recorded

    def close(self, *_: Any, **__: Any) -> None:
        self.is_open = False

    @property
    def anew(self) -> RecordingChannel:
        return RecordingChannel(self._recorded)

    def leave(self, _: Any) -> None:
        pass

    def go_on_aside(self, _: Any) -> None:
        pass

    def basic_qos(self, *_: Any, **__: Any) -> None:
        assert self._outcome

    def confirm_delivery(self, *callbacks: Any) -> None:
        if callbacks:
            raise NotInCallback(*CONFIRMS)

    def basic_get(self, queue: str, *given: Any, auto_ack: bool = False, **_: Any) -> Got:
        """Nothing: every queue is empty.

        :raises NotInCallback: without `auto_ack`
        """
        if not auto_ack and True not in given:
            raise NotInCallback(*GET_UNSETTLED)
        return None, None, None

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: pika.BasicProperties | None = None,
        mandatory: bool = False,
    ) -> None:
        raw = body.encode() if isinstance(body, str) else octets(body)
        self._outcome.published.append(Publish(exchange, routing_key, raw, properties))

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        self._outcome.settle("ack")

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        self._outcome.settle("requeue" if requeue else "dead-letter")

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        self.basic_reject(delivery_tag, requeue)

    def queue_declare(self, queue: str, *_: Any, callback: Any = None, **__: Any) -> Result:
        self._outcome.declared.append(queue)
        return self._ok(callback, Queue.DeclareOk(queue, message_count=0, consumer_count=0))

    def exchange_declare(self, exchange: str, *_: Any, callback: Any = None, **__: Any) -> Result:
        self._outcome.declared.append(exchange)
        return self._ok(callback)

    def queue_bind(self, *_: Any, callback: Any = None, **__: Any) -> Result:
        return self._ok(callback)

    queue_unbind = queue_delete = queue_purge = queue_bind
    exchange_bind = exchange_unbind = exchange_delete = queue_bind

    def _ok(self, callback: Any, method: Any = None) -> Result:
        assert self._outcome
        result = Result()
        result.set(pika.frame.Method(1, method))
        if callback is not None:
            callback(result.wait())
        return result


refuse_the_rest(RecordingChannel)
