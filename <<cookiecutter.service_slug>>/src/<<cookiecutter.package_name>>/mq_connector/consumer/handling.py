"""What handles the messages of one consumer, and outlasts its channels."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Limits
from ..connection import Connection
from ..connection.link import Link
from ..errors import StartError
from ..fork import Process
from .channel import Channel
from .opened import Delivery, Observer, OpenedChannel
from .outbox import Outbox
from .outbox.dead_letters import DeadLetters
from .workers import Callback, Suspicion, Workers

#: Seconds for which one message may keep all others waiting, because it might be one that kills the process.
_CAREFUL_WITHIN = 30.0


class Handling:
    """The workers, the outbox by which they publish, and the suspicion of messages that do harm.

    :param limits: how many workers and messages in hand
    :param callback: handles a message
    :param on_error: called with the error of each failed message
    :param on_pace: called when another prefetch may be better
    :param ack_on_return: acknowledge when the callback returns
    :param queue: the consumer's, if it has a dead-letter queue of its own; else empty
    :param observer: counts what becomes of messages, if that is wanted
    """

    def __init__(
        self,
        connection: Connection,
        limits: Limits,
        name: str,
        callback: Callback,
        on_error: Callable[[Exception], None],
        on_pace: Callable[[], None],
        ack_on_return: bool,
        queue: str = "",
        observer: Observer | None = None,
    ) -> None:
        self.observer = observer
        self.outbox = Outbox(connection) if observer is None else observer.outbox(connection)
        self.suspicion = Suspicion()
        self.workers = Workers(
            limits,
            name,
            callback,
            self.channel_of,
            on_error,
            self.suspicion,
            on_pace,
            ack_on_return,
            lambda seconds, look: connection.call(lambda: connection.later(seconds, look)),
        )
        self.workers.settling.dead_letter = DeadLetters(queue, self.outbox.confirmed).dead_letter
        if observer is not None:
            self.workers.observer = observer
            observer.begin(self.workers)
        self.limits = limits
        self._process = Process()

    # ---- from any thread

    def start(self) -> None:
        """Start the threads of all workers but for the first.

        :raises StartError: the system allows no more threads
        """
        try:
            self.workers.start()
        except RuntimeError as error:
            self.workers.stop()
            raise StartError(
                f"{self.limits.workers} worker threads can't be started ({error}): lower MQ_WORKERS, "
                "or raise the limit on processes"
            ) from None

    def channel_of(self, delivery: Delivery) -> Channel:
        """What the callback gets with a delivery."""
        return Channel(delivery.opened, self.outbox, self._process, delivery)

    def channel(self, opened: OpenedChannel) -> Channel:
        """The same without a delivery."""
        return Channel(opened, self.outbox, self._process)

    def prefetch(self, opened: OpenedChannel) -> int:
        """How many messages to have in hand now."""
        if self.suspicion.is_careful:
            return 1
        wanted = self.workers.pace.wanted(len(opened.retries))
        return min(wanted, self.workers.sizes.fitting)

    def is_adapted(self, opened: OpenedChannel) -> bool:
        """Whether the prefetch is near enough to the best one."""
        wanted, prefetch = self.prefetch(opened), self.workers.prefetch
        steady = wanted < 2 * prefetch and prefetch < 2 * wanted
        return wanted == prefetch or (steady and wanted not in (1, self.workers.pace.prefetch))

    def close(self) -> None:
        """At the end: close the publishers of the outbox."""
        if not self._process.forked:
            self.outbox.close()

    # ---- on the loop

    def suspect(self, opened: OpenedChannel) -> None:
        """A message in hand may have caused a loss: take one at a time from now on."""
        in_hand = opened.outstanding
        # Only where no more were taken is it known which one it was.
        alone = opened.latest if self.workers.prefetch == 1 and in_hand == 1 else None
        self.suspicion.lost(in_hand, alone)
        self.outbox.is_careful = True

    def relax_in_time(self, link: Link, opened: OpenedChannel, relaxed: Callable[[], None]) -> None:
        """End taking one message at a time when one takes very long, so that others don't wait for ever.

        :param relaxed: called when messages aren't taken one at a time any more
        """

        def check(before: Delivery | None) -> None:
            if not opened.is_open or not self.suspicion.is_careful:
                return
            latest = opened.latest
            if latest is not None and latest is before:
                self.suspicion.relax()
                relaxed()
            else:
                link.later(_CAREFUL_WITHIN, lambda: check(latest))

        if self.suspicion.is_careful:
            link.later(_CAREFUL_WITHIN, lambda: check(opened.latest))

    def relax(self) -> None:
        """Publish without confirms again, unless there still is a suspicion."""
        self.outbox.is_careful &= self.suspicion.is_careful
