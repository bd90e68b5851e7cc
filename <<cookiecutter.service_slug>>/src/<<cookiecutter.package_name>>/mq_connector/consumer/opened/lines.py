"""Lines of the log about one message, which name it by its id, and the observer's share in them."""

from __future__ import annotations

import logging

from ...errors import EXCERPT, MQError, PayloadError, RequestError, named, printable
from ...logs import LONGEST, Logger, text_of
from ...payload.request import request_id, trace_of
from .messages import Delivery

_log = Logger(__name__)

#: Whether lines of a level are logged; ask before making one.
is_said = _log.is_enabled
#: Bytes of a body that are decoded for its id on the loop, which may not be blocked: there are bodies whose decoding
#: takes a second.
SHORT = 64 * 1024


class Named:
    """A message by its id: for a line of the log, so nothing here is for each message.

    :param longest: bytes of a body that are decoded for it; None for any
    """

    def __init__(self, delivery: Delivery, longest: int | None = None) -> None:
        self.message_id = request_id(delivery.body, delivery.properties, longest)
        self._method = delivery.method
        self._trace = trace_of(delivery.properties)

    def __str__(self) -> str:
        where = self._method.routing_key or self._method.exchange or ""
        return f"{named(self.message_id)} of {where!r}"

    def fields(self, **more: object) -> dict[str, object]:
        """The same by name, for a line in JSON.

        :param more: of the same line
        """
        return {
            "message_id": self.message_id if self.message_id is None else self.message_id[:EXCERPT],
            "queue": self._method.routing_key,
            "exchange": self._method.exchange,
            **self._trace,
            **more,
        }


def handled(delivery: Delivery, took: float, outcome: str) -> None:
    """The callback has returned; for DEBUG.

    :param took: seconds
    :param outcome: what has become of the message so far, in words
    """
    message = Named(delivery, None if outcome.startswith("handled") else SHORT)
    about = message.fields(outcome=outcome, duration=round(took, 6))
    _log.debug("%s: %s, %.3f ms", message, outcome, took * 1000, about=about)


def retried(delivery: Delivery, pause: float, before: int | None) -> None:
    """It will be delivered again.

    :param pause: seconds until then
    :param before: how often it was delivered before, as far as that is known
    """
    if delivery.opened.observer is not None:
        delivery.opened.observer.retried()
    if is_said(logging.INFO):
        message = Named(delivery)
        about = message.fields(outcome="retried", pause=pause, deliveries_before=before)
        _log.info("%s comes again in %g s", message, pause, about=about)


def rejected(delivery: Delivery | None, tag: int, requeue: bool) -> None:
    """A callback has rejected a message, its own or another one that was delivered.

    :param delivery: the callback's own
    :param tag: of the message that is rejected
    """
    if delivery is None:
        return
    if delivery.opened.observer is not None:
        delivery.opened.observer.rejected(requeue)
    if not is_said(logging.INFO):
        return
    outcome = "requeued" if requeue else "rejected"
    where = "goes back to the queue" if requeue else "is dead-lettered"
    message = Named(delivery)
    if tag == delivery.tag:
        about = message.fields(outcome=outcome)
        _log.info("%s %s: its callback rejects it", message, where, about=about)
    else:
        about = {"outcome": outcome, "rejected_by": message.fields()["message_id"]}
        _log.info("a message %s: the callback of %s rejects it", where, message, about=about)


def late(delivery: Delivery, took: float) -> None:
    """The broker has waited too long for its callback; for the loop.

    :param took: seconds so far
    """
    message = Named(delivery, SHORT)
    _log.warning(
        "%s has been in its callback for %.1f s, longer than the broker waits: it comes again",
        message,
        took,
        about=message.fields(outcome="late", duration=round(took, 6)),
    )


def expired(delivery: Delivery, ago: float) -> str:
    """It is dead-lettered without having been handled, as the broker does with what expires in a queue.

    :param ago: seconds since it has expired
    :returns: what has become of it, in words
    """
    if is_said(logging.INFO):
        message = Named(delivery, SHORT)
        about = message.fields(outcome="expired", expired_for=round(ago, 3))
        what = "%s isn't handled: it had expired %.3f s before, if the clocks of both machines are right"
        _log.info(what, message, ago, about=about)
    return "expired, dead-lettered"


def failed(delivery: Delivery, error: Exception) -> str:
    """It is dead-lettered, if it still can be; with a traceback, unless the error is one of ours.

    :returns: what becomes of the message, in words
    """
    opened = delivery.opened
    if opened.observer is not None:
        opened.observer.failed(delivery, error)
    if opened.is_settled(delivery.tag):
        what, outcome = "had been settled when its handler failed", "failed, settled before"
    elif not opened.is_open:
        what, outcome = "failed and comes again, as its channel is gone", "failed, to come again"
    else:
        what, outcome = "is dead-lettered", "dead-lettered"
    # What couldn't be decoded may take long to be refused once more.
    message = Named(delivery, SHORT if isinstance(error, PayloadError) else None)
    _log.error(
        "%s %s: %s",
        message,
        what,
        text_of(error),
        exc_info=None if isinstance(error, MQError) else error,
        about=message.fields(outcome=outcome, exception=type(error).__name__),
    )
    return outcome


def refused(delivery: Delivery, error: RequestError) -> None:
    """Its handler has refused it, and its client is told."""
    if is_said(logging.INFO):
        message = Named(delivery)
        about = message.fields(outcome="refused", code=error.code)
        _log.info("%s is refused: %s", message, printable(str(error), LONGEST), about=about)


def forked(delivery: Delivery, error: Exception) -> None:
    """Its callback has forked, and returned in the child as well."""
    message = Named(delivery)
    what = "%s: its callback returned in a forked child too: %s"
    _log.error(what, message, text_of(error), about=message.fields(outcome="forked"))


def unanswered(delivery: Delivery) -> None:
    """While an exception is handled that kept us from answering with another one."""
    message = Named(delivery)
    about = message.fields(outcome="unanswered")
    _log.error("%s: no error reply could be sent", message, exc_info=True, about=about)
