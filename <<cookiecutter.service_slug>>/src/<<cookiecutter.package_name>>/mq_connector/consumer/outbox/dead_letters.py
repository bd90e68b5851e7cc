"""Dead letters that say why: a copy of the failed message, with the reason in its headers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timezone
from typing import Any

import pika

from ...errors import Culprit, PublishError, printable, provisioned
from ...logs import Logger, text_of
from ..opened import Delivery, Message
from ..opened.lines import Named
from ..opened.messages import deliveries_before

_log = Logger(__name__)

#: What a service's dead-letter queue is called, behind the name of its input queue.
DEAD = ".dead"
#: Names of the headers: what was raised, by which version of the service, when (ISO 8601, UTC), at which
#: delivery, and where the message was published to.
TYPE, TEXT, VERSION = "x-exception-type", "x-exception-message", "x-service-version"
DIED_AT, DELIVERIES = "x-died-at", "x-deliveries"
EXCHANGE, ROUTING_KEY = "x-original-exchange", "x-original-routing-key"
#: Characters of the exception's type and of the version, and of its text, that are kept.
_NAME, _TEXT = 200, 2000
#: What tells of a death, and would be wrong in a message that lives again: the broker's headers and ours.
_ADDED_AT_DEATH = (
    *("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count"),
    *(TYPE, TEXT, VERSION, DIED_AT, DELIVERIES, EXCHANGE, ROUTING_KEY),
)
#: Headers that would have the broker put a copy into each queue that they name.
_COPIES = ("CC", "BCC")


class DeadLetters:
    """Dead-letters the failed messages of one consumer.

    RabbitMQ dead-letters a rejected message with the headers that it was published with, so the reason can
    only travel with a copy. The copy goes to the dead-letter queue by the default exchange, to which every
    service may publish, and the message is acknowledged when the broker has confirmed the copy. If the broker
    refuses it, as where there is no such queue, the message is rejected as it is.

    :param queue: the consumer's; empty where its dead letters have no queue of their own
    :param publish: publishes with a confirm
    """

    def __init__(self, queue: str, publish: Callable[[Message], Future[None]]) -> None:
        self._queue = queue
        self._publish = publish
        #: Whether the last copy that the broker has heard of was refused, and it was said.
        self._is_refused = False

    def dead_letter(self, delivery: Delivery, error: Exception) -> None:
        """Dead-letter a message.

        :param error: why
        """
        opened, tag = delivery.opened, delivery.tag
        if not opened.is_open or opened.is_settled(tag):
            return  # it is delivered again, or its callback has settled it
        # A copy of what has cost the connection might cost it, too.
        if not self._queue or isinstance(error, Culprit):
            opened.reject(tag, requeue=False)
            return

        def done(confirmed: Future[None]) -> None:
            refusal = confirmed.exception()
            if refusal is None:
                self._is_refused = False
                opened.ack(tag)
            else:
                self._reject(delivery, refusal)

        try:
            properties = _with_reason(delivery, error)
            copy = Message("", f"{self._queue}{DEAD}", delivery.body, properties, True)
            confirmed = self._publish(copy)
        except Exception as refusal:  # pika's codecs raise whatever a peer's properties lead to
            self._reject(delivery, refusal)
        else:
            confirmed.add_done_callback(done)

    def _reject(self, delivery: Delivery, refusal: BaseException) -> None:
        message = Named(delivery, 0)
        _log.debug("%s is dead-lettered without the reason: %s", message, text_of(refusal))
        # Nobody but the broker knows whether a policy takes it then: a queue that was deleted is news.
        if isinstance(refusal, PublishError) and not self._is_refused:
            self._is_refused = True
            _log.warning(
                "%r takes no dead letters (%s): what fails goes where the broker's policies for %r send it, "
                "and is lost where they don't; %s",
                f"{self._queue}{DEAD}",
                text_of(refusal),
                self._queue,
                provisioned("makes queue and policy"),
            )
        delivery.opened.reject(delivery.tag, requeue=False)


def to_publish_again(properties: pika.BasicProperties) -> pika.BasicProperties:
    """Properties to publish a dead letter with: without what was added since it died, and what only its publisher could
    ask for: copies to other queues, and its own name (``user_id``), which the broker takes from nobody else.

    :raises Exception: whatever pika's decoders raise for values that they can't hold
    """
    values: dict[str, Any] = {
        name: getattr(properties, name)
        for name in vars(pika.BasicProperties())
        if name not in ("headers", "user_id")
    }
    headers = {
        key: value
        for key, value in (properties.headers or {}).items()
        if not (isinstance(key, str) and (key.startswith(_ADDED_AT_DEATH) or key in _COPIES))
    }
    return pika.BasicProperties(**values, headers=headers or None)


def _with_reason(delivery: Delivery, error: Exception) -> pika.BasicProperties:
    properties = to_publish_again(delivery.properties)
    properties.expiration = None  # as the broker does: a dead letter stays
    before = deliveries_before(delivery)
    if before is None:  # a classic queue only tells the first from others
        before = 1 if delivery.method.redelivered else 0
    name = type(error).__name__
    properties.headers = {
        **(properties.headers or {}),
        TYPE: printable(name, _NAME),
        TEXT: printable(text_of(error).removeprefix(name).removeprefix(": "), _TEXT),
        DIED_AT: datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        DELIVERIES: before + 1,
        EXCHANGE: delivery.method.exchange or "",
        ROUTING_KEY: delivery.method.routing_key or "",
    }
    version = service_version()
    if version:
        properties.headers[VERSION] = printable(version, _NAME)
    return properties


def service_version() -> str:
    """The service's, as the package that this connector is vendored into has it; empty where it hasn't."""
    package = sys.modules.get(__name__.rpartition(".mq_connector.")[0])
    version = getattr(package, "__version__", "")
    return version if isinstance(version, str) else ""
