"""What happens on one opened channel: the queue is made ready, consumed, drained; the channel is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
from pika.exceptions import ChannelClosed

from ..connection.broker import UNANSWERED, describe, is_late, is_refused_publish
from ..connection.link import Link
from ..errors import ChannelError, MQError
from ..logs import Logger
from .drain import Drain
from .handling import Handling
from .opened import OpenedChannel
from .opened.replacement import Replacement
from .owner import Owner

_log = Logger(__name__)

#: Seconds from an open channel to an active consumer, before the broker is taken to be stuck.
PATIENCE = 10.0


class Consumption:
    """Consumes a queue on a channel that has just been opened; used on the loop of its link only.

    :param amqp: pika's channel
    """

    def __init__(
        self,
        owner: Owner,
        link: Link,
        amqp: pika.channel.Channel,
        handling: Handling,
    ) -> None:
        self.opened = OpenedChannel(link, amqp, handling.workers.inbox, handling.workers.sizes)
        self.opened.bulk.on_too_much = self._on_too_much
        if handling.observer is not None:
            handling.observer.on_opened(self.opened)
        #: Messages that were in hand when a drain ran out of time; they are delivered again.
        self.unfinished = 0
        #: Whether there were any, or the broker may not have heard that they are finished.
        self.is_cut_short = False
        self._owner = owner
        self._link = link
        self._amqp = amqp
        self._handling = handling
        self._workers, self._outbox = handling.workers, handling.outbox
        self._consumer_tag: str | None = None
        #: Tag of the last delivery before the consumer was made.
        self._began_at = 0
        #: While the consumer is being replaced by one with another prefetch.
        self._replacement: Replacement | None = None
        #: From the call to stop on.
        self._drain: Drain | None = None
        self._preparations = 0
        self._over = False
        amqp.add_on_close_callback(self._on_closed)
        amqp.add_on_cancel_callback(self._on_cancelled)
        amqp.add_on_return_callback(handling.outbox.on_return)
        self._prepare()

    @property
    def is_consuming(self) -> bool:
        """Whether the broker has an active consumer of ours, or is just replacing it; for any thread."""
        return (self._consumer_tag or self._replacement) is not None and self.opened.is_open

    # ---- from an open channel to an active consumer

    def _prepare(self) -> None:
        """Get the queue ready, then consume it."""

        def ready(_: Any, error: MQError | None) -> None:
            if self._over or self._drain is not None:
                return  # closed meanwhile, or what is in hand is being drained
            if error is not None:
                self._owner.on_failed(self, error)
            else:
                self._consume()

        self._preparations += 1
        number = self._preparations
        self._link.later(
            PATIENCE,
            lambda: self._check_progress(number == self._preparations and not self.is_consuming),
        )
        self._owner.ready_queue(self.opened, ready)

    def _consume(self) -> None:
        self._put_back_excess()
        prefetch = self._handling.prefetch(self.opened)
        self._workers.prefetch = prefetch
        self.opened.bulk.begin(prefetch)
        self.opened.collected.burst = max(1, prefetch // 2)
        self._amqp.basic_qos(prefetch_count=prefetch)
        self._amqp.basic_consume(
            self._owner.queue,
            lambda _, method, properties, body: self.opened.deliver(method, properties, body),
            callback=self._on_consuming,
        )

    def adapt(self) -> None:
        """Set the prefetch that is best now.

        ``basic.qos`` counts only for consumers that are made after it (RabbitMQ's documentation of consumer
        prefetch), so the consumer is replaced by a new one.
        """
        tag = self._consumer_tag
        if tag is None or self._replacement or self._drain or not self.opened.is_open:
            return
        if not self._handling.is_adapted(self.opened):
            self._replacement = self._replacement_of(tag)
            self._replacement.begin()

    def _replacement_of(self, tag: str) -> Replacement:
        replacement = Replacement(
            self._link,
            self._amqp,
            self.opened,
            tag,
            self._workers.prefetch,
            self._began_at,
            self._on_replacement,
        )
        self._link.owed.expect(lambda: self._check_progress(replacement is self._replacement))
        return replacement

    def _on_too_much(self) -> None:
        """More bytes have come than may be in hand: take no more, and replace the consumer by one that gets fewer
        messages."""
        if self._drain is None and self._consumer_tag is not None:
            self._replacement = self._replacement or self._replacement_of(self._consumer_tag)
            self._replacement.hurry()

    def _put_back_excess(self) -> None:
        # Now that there is no consumer to get them at once.
        excess = self.opened.bulk.take_excess()
        for tag in excess:
            self.opened.nack(tag, requeue=True)
        if excess:
            words = "%d large messages go back to %r until there is room for them"
            _log.info(words, len(excess), self._owner.queue)

    def _on_replacement(self, cancelled: bool) -> None:
        """The replacement has cancelled the consumer, so that the next can be made, or leaves it as it is."""
        if not cancelled:
            self._replacement = None
            return
        self._consumer_tag = None
        self._began_at = self.opened.last_tag
        if self._over:
            return
        if self._drain is not None:
            self._replacement = None
            self._end_of_deliveries(self._drain)
        else:
            self._consume()

    def _call_off_replacement(self) -> bool:
        """Keep the present consumer.

        :returns: False where it is too late for that
        """
        if self._replacement is not None:
            if not self._replacement.call_off():
                return False
            self._replacement = None
        return True

    def _check_progress(self, owes: bool) -> None:
        """Give up if the broker owes an answer: it may answer heartbeats only, as for a queue without a leader."""
        if owes and not self._over and self._drain is None:
            words = f"the broker doesn't let us consume {self._owner.queue!r} within {PATIENCE:g} s"
            self._owner.on_failed(self, ChannelError(UNANSWERED, words))

    def _on_consuming(self, frame: Any) -> None:
        if self._over:
            return  # pika closes the channel now that the broker has answered
        self._consumer_tag = frame.method.consumer_tag
        replaced, self._replacement = self._replacement is not None, None
        if self._drain is not None:
            # It was asked for while the broker was making this consumer.
            self._begin_drain(self._drain)
            return
        if replaced:
            self.adapt()  # what was best may have changed meanwhile
            return
        self._handling.relax_in_time(self._link, self.opened, self.adapt)
        self._outbox.on_channel(self.opened, self._when_answered)
        self._owner.on_change(self)

    # ---- failures

    def _on_cancelled(self, frame: Any) -> None:
        """The broker has cancelled the consumer: its queue was deleted or failed over, or (since 4.3)
        a message wasn't settled in time.

        In the last case each late message brings another cancel, but the broker keeps the consumer and
        revives it with the late ack. And what waits for a worker is late, too, or soon will be.
        """
        tag = frame.method.consumer_tag
        if tag != self._consumer_tag or self._over:
            return
        if not self._call_off_replacement():
            return  # the next consumer tells whether there is a queue
        self._owner.complain(
            f"the broker cancelled the consumer of {self._owner.queue!r}; consuming again"
        )
        self._consumer_tag = None
        self._owner.on_change(self)
        if self._drain is not None:
            return
        if self._link.broker.cancels_late:
            # In this order, as a worker that takes over would begin what still waits here.
            self._workers.hand_back()
            self._workers.replace_late(self.opened)
        self.opened.cancel(tag)
        self._prepare()

    def _on_closed(self, _amqp: pika.channel.Channel, reason: BaseException) -> None:
        if self._over or not isinstance(reason, ChannelClosed):
            return  # the connection was lost or closed, for which there is `Supervision.on_lost`
        if self._drain is not None:
            self.close()  # whatever the drain was waiting for won't come
            return
        self._owner.complain(
            f"the broker closed the channel of {self._owner.queue!r}: {describe(reason)}"
        )
        if is_late(reason):
            self._workers.replace_late(self.opened)
        elif is_refused_publish(reason):
            self.suspect()
        self.abandon()
        self._owner.on_failed(self, ChannelError(reason.reply_code, reason.reply_text))

    def suspect(self) -> None:
        """One of the messages in hand may be why the channel was closed."""
        self._handling.suspect(self.opened)

    def abandon(self) -> None:
        """The channel is gone, or of no use: its deliveries are the broker's again."""
        if self._over:
            return
        self._end()
        if self._amqp.is_open:
            self._amqp.close()
        self._owner.on_change(self)

    def _end(self) -> None:
        self._over = True
        self._consumer_tag = None
        self.opened.end()
        self._outbox.on_lost()

    # ---- the end

    def stop(self, deadline: float) -> None:
        """Take no more messages, finish those in hand, close.

        :param deadline: when to close in any case (`time.monotonic`); an earlier one counts
        """
        if self._drain is not None:
            self._drain.end_by(deadline)
            return
        queue, answered = self._owner.queue, self._when_answered
        self._drain = Drain(self._link, self.opened, self._handling, queue, answered, self.close)
        self._drain.end_by(deadline)
        self._begin_drain(self._drain)

    def _begin_drain(self, drain: Drain) -> None:
        if not self._call_off_replacement():
            return  # when the replacement ends, the drain begins
        if self._consumer_tag is not None and self._amqp.is_open:
            self._amqp.basic_cancel(
                self._consumer_tag, callback=lambda _: self._end_of_deliveries(drain)
            )
        elif self._amqp.is_open and self.opened.outstanding:
            # The broker has just cancelled the consumer, but its messages are still to be finished.
            self._end_of_deliveries(drain)
        else:
            self.close()

    def _end_of_deliveries(self, drain: Drain) -> None:
        self._consumer_tag = None
        self._owner.on_change(self)
        self._put_back_excess()
        drain.begin()

    def close(self) -> None:
        """Send what was collected and close the channel."""
        if self._over:
            return
        self.opened.release()
        # Here, because the deadline's own timer may be the first to end a drain.
        self.unfinished = self.opened.outstanding
        self.is_cut_short = bool(self.unfinished or (self._drain and self._drain.is_unheard))
        if self.unfinished:
            _log.warning("unfinished messages: %d; the broker delivers them again", self.unfinished)
        self._end()
        self._owner.on_change(self)
        if self._amqp.is_open:
            self._amqp.add_on_close_callback(lambda *_: self._owner.on_ended(self))
            self._amqp.close()
            patience = 0.0 if self._drain is None else self._drain.patience
            self._link.later(patience, lambda: self._owner.on_ended(self))
        else:
            self._owner.on_ended(self)

    # ---- for the outbox and the drain

    def _when_answered(self, answered: Callable[[], None]) -> None:
        """Call back when the broker has dealt with all that was sent on the channel so far.

        It works through a channel in order, so the answer to any method stands behind all returns.
        """
        self.opened.flush()
        if self._amqp.is_open:
            come = self._link.owed.expect(lambda: self._check_progress(True))

            def answer(_: Any) -> None:
                come()
                answered()

            self._amqp.basic_qos(prefetch_count=self._workers.prefetch, callback=answer)
