"""What becomes of a message once its callback is done with it, and what its client is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...config import Limits
from ...errors import RequestError, RetryMessage
from ...fork import Process
from ...logs import text_of
from ...payload.request import error_reply
from ..channel import Channel
from ..opened import Confirms, Delivery, lines
from ..opened.messages import deliveries_before

#: Longest pause before a message's next delivery, in seconds.
_LONGEST_RETRY = 60.0
#: Seconds until a message is delivered again that nobody can settle, as its callback has closed its channel.
_CLOSED_PAUSE = 1.0
#: Deliveries after which a message isn't put back once more.
_MOST_RETRIES = 20


class Settling:
    """Acknowledges, dead-letters or puts back messages, and sends error replies.

    :param limits: whether a request that its handler refuses is kept as a dead letter
    :param channel_of: makes the channel for a reply
    :param on_error: told of what a callback raised, after the message was dead-lettered; may not raise
    :param on_pace: called when another prefetch may be better
    :param ack_on_return: acknowledge what a callback has left unsettled when it returns
    :param later: calls a function on a thread on which it may take long
    """

    def __init__(
        self,
        limits: Limits,
        channel_of: Callable[[Delivery], Channel],
        on_error: Callable[[Exception], None],
        on_pace: Callable[[], None],
        ack_on_return: bool,
        later: Callable[[Callable[[], object]], None],
    ) -> None:
        self._keeps_rejected = limits.rejected == "dead"
        self._channel_of = channel_of
        self._on_error = on_error
        self._on_pace = on_pace
        self._ack_on_return = ack_on_return
        self._later = later
        self._process = Process()
        #: Dead-letters a message that has failed.
        self.dead_letter: Callable[[Delivery, Exception], object] = _reject
        #: Told of a request that its handler has refused; for tests.
        self.on_refused: Callable[[Exception], object] = lambda _: None

    def confirmed(self, delivery: Delivery, confirms: Confirms) -> None:
        """Settle a message when all is confirmed that its callback has published.

        If the broker refuses any of it, the message has failed.
        """

        def confirmed() -> None:
            if self._ack_on_return:
                delivery.opened.ack(delivery.tag)

        confirms.then(confirmed, lambda error: self._later(partial(self.failed, delivery, error)))

    def on_close(self, delivery: Delivery) -> None:
        """The callback has closed its channel: deliver the message again, as AMQP has it for a closed channel."""
        if delivery.opened.is_open and not delivery.opened.is_settled(delivery.tag):
            self._retry(delivery, RetryMessage(_CLOSED_PAUSE))

    def raised(self, delivery: Delivery, error: Exception) -> str:
        """A callback has raised.

        :returns: what has become of the message, in words; as `failed` does
        """
        try:
            if isinstance(error, RetryMessage):
                return self._retry(delivery, error)
            if isinstance(error, RequestError) and not self._keeps_rejected:
                return self._refused(delivery, error)
        except Exception as failure:  # a class of the handler's own may lack what ours has
            failure.__cause__ = error
            error = failure
        return self.failed(delivery, error)

    def _retry(self, delivery: Delivery, error: RetryMessage) -> str:
        """Hand the message back after a pause, in a way that the broker counts."""
        count = deliveries_before(delivery)
        # A queue that doesn't count would never have enough.
        if delivery.method.redelivered if count is None else count >= _MOST_RETRIES:
            return self.failed(delivery, error)
        pause = min(error.delay * 2 ** min(count or 0, 16), _LONGEST_RETRY)
        delivery.opened.reject_later(delivery.tag, pause)
        lines.retried(delivery, pause, count)
        self._on_pace()
        return "to come again"

    def _refused(self, delivery: Delivery, error: RequestError) -> str:
        """The client's mistake: tell it so, and acknowledge the message."""
        if self._process.forked:
            lines.forked(delivery, error)
            return ""
        error.code, error.message  # noqa: B018 - what the client is told: better none of it than half
        lines.refused(delivery, error)
        self.on_refused(error)
        self._tell_client(delivery, error)
        confirms = delivery.confirms
        if confirms is not None:
            self.confirmed(delivery, confirms)
        else:
            delivery.opened.ack(delivery.tag)
        return "refused"

    def failed(self, delivery: Delivery, error: Exception) -> str:
        """Dead-letter the message, send its client an error reply, call `on_error`."""
        if self._process.forked:
            lines.forked(delivery, error)
            return ""
        outcome = lines.failed(delivery, error)
        delivery.confirms = None  # what was published before is of no importance any more
        self._tell_client(delivery, error)
        self.dead_letter(delivery, error)
        self._on_error(error)
        return outcome

    def _tell_client(self, delivery: Delivery, error: Exception) -> None:
        try:
            reply = error_reply(delivery.body, delivery.properties, error)
            if reply is not None and not delivery.opened.is_settled(delivery.tag):
                self._channel_of(delivery).basic_publish("", *reply)
        except Exception:  # no reply is worth losing the message for
            lines.unanswered(delivery)


def ended_by(raised: BaseException) -> RuntimeError:
    """The error of a message whose handler was ended by something that is no `Exception`: `sys.exit`, a cancellation.

    :param raised: its traceback says where that was
    """
    error = RuntimeError(f"the handler raised {text_of(raised)}, which ends this request alone")
    error.__cause__ = raised
    return error


def _reject(delivery: Delivery, _: Exception) -> None:
    delivery.opened.reject(delivery.tag, requeue=False)
