"""A channel that may die: AMQP closes a channel, or the whole connection, to say no to a method.

Whatever the broker may refuse runs here, one method at a time, so that a refusal costs this channel
and never the consumer's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import ChannelClosed

from ..errors import ChannelError, MQError, NotConnected
from .broker import PATIENCE, UNANSWERED

if TYPE_CHECKING:
    from .link import Link

#: Sends one method on the channel and names the function that takes its ``…-ok``.
Operation = Callable[[pika.channel.Channel, Callable[[Any], None]], None]
#: Yields operations, is sent each one's result, and returns what its caller wants to know.
Steps = Generator[Operation, Any, Any]
#: Gets what the steps returned, or the error that ended them.
Done = Callable[[Any, "MQError | None"], None]

#: Seconds for which an unused second connection stays open.
_IDLE = 30.0


class Result:
    """What an operation comes to; looking at it waits, ignoring it costs nothing.

    Stands in for the ``Method`` frame that pika's blocking channel returns, with the same ``method``.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._value: Any = None
        self._error: MQError | None = None

    def set(self, value: Any, error: MQError | None = None) -> None:
        """The operation has ended.

        :param error: what `wait` raises, if it has failed
        """
        self._value, self._error = value, error
        self._done.set()

    def wait(self, timeout: float | None = 30.0) -> Any:
        """Wait for the broker's answer; not on the connection's own loop.

        :param timeout: seconds; None for no limit
        :raises ChannelError: the broker refused
        :raises NotConnected: the connection was lost before the answer, or the time is over
        """
        if not self._done.wait(timeout):
            raise NotConnected(f"no answer from the broker within {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value

    def wait_until_over(self, timeout: float = 30.0) -> bool:
        """Wait for the broker's answer, be it a refusal; not on the connection's own loop.

        :param timeout: seconds
        :returns: whether it has come
        """
        return self._done.wait(timeout)

    @property
    def is_set(self) -> bool:
        """Whether it has come."""
        return self._done.is_set()

    @property
    def method(self) -> Any:
        """The broker's answer, such as ``Queue.DeclareOk``; waits for it, see `wait`."""
        return self.wait().method


class Scratch:
    """Runs operations in turn, each on a channel that is opened again when the last one killed it.

    :param link: the open connection; all methods are for its loop
    :param apart: use a second connection, for methods whose refusal closes the connection (541)
    """

    def __init__(self, link: Link, apart: bool = False) -> None:
        self._link = link
        self._apart = apart
        self._second: SelectConnection | None = None
        self._drop_second: Callable[[], None] = lambda: None
        self._channel: pika.channel.Channel | None = None
        self._opening = False
        self._steps: deque[tuple[Steps, Done]] = deque()
        self._operation: Operation | None = None
        self._count = 0
        #: When its answer is given up (`time.monotonic`), and whether a timer is set for that.
        self._due = 0.0
        self._is_watched = False
        #: Stands for the second connection that is open or being opened.
        self._current: object = None
        self._busy = False
        self._timed = False
        self._closed = False

    def run(self, steps: Steps, done: Done) -> None:
        """Run operations one after the other, as soon as those before them have ended.

        :param done: gets what the steps return, or the error that ended them; called at once where the
            connection is lost
        """
        if self._closed:
            done(None, NotConnected("the connection is lost"))
            return
        self._steps.append((steps, done))
        if not self._busy:
            self._next()

    def do(self, operation: Operation, done: Done) -> None:
        """Run one operation; ``done`` as for `run`."""

        def steps() -> Steps:
            return (yield operation)

        self.run(steps(), done)

    def abandon(self) -> None:
        """The connection is lost or about to be closed, or nobody needs this any more: end all that waits."""
        self._closed = True
        self._operation = None
        while self._steps:
            _, done = self._steps.popleft()
            done(None, NotConnected("the connection was lost"))
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()  # as the connection may go on without us
        if self._second is not None and self._second.is_open:
            self._second.close()

    # ---- one operation after the other

    def _next(self) -> None:
        """Start the steps that come next; a caller that was told of an end may have added some."""
        self._busy = bool(self._steps)
        if self._busy:
            self._advance(None, None)
        elif self._second is not None and not self._timed:
            self._timed = True
            self._link.later(_IDLE, self._close_idle)

    def _advance(self, value: Any, error: MQError | None) -> None:
        """Hand a result to the steps that run and start their next operation, or end them."""
        steps, done = self._steps[0]
        try:
            self._operation = steps.throw(error) if error is not None else steps.send(value)
        except StopIteration as stop:
            self._finish(done, stop.value, None)
        except MQError as failure:
            self._finish(done, None, failure)
        else:
            self._perform()

    def _finish(self, done: Done, value: Any, error: MQError | None) -> None:
        self._steps.popleft()
        self._operation = None
        done(value, error)
        if not self._closed:
            self._next()

    def _perform(self) -> None:
        if self._channel is None:
            if not self._opening:
                self._open()
            return
        operation = self._operation
        assert operation is not None
        number = self._expect()
        try:
            operation(self._channel, lambda frame: self._on_ok(number, frame))
        except Exception as error:  # pika refuses arguments in many ways before they leave
            self._operation = None
            self._advance(None, ChannelError(400, f"{type(error).__name__}: {error}"))

    def _expect(self) -> int:
        """The broker owes an answer from now on; returns its number."""
        self._count += 1
        self._due = time.monotonic() + PATIENCE
        if not self._is_watched:
            self._watch(PATIENCE)
        return self._count

    def _watch(self, seconds: float) -> None:
        """Look after so long what has become of the operation: one timer for all, as there may be many."""
        number = self._count
        self._is_watched = True
        self._link.later(seconds, lambda: self._check_answer(number))

    def _check_answer(self, number: int) -> None:
        """An answer that never comes would keep all that waits behind it waiting, too.

        It costs this channel only, as the broker may do well by all others: a queue whose replicas are
        down owes answers for ever.
        """
        self._is_watched = False
        if self._operation is None or self._closed:
            return
        if number != self._count:
            self._watch(max(0.0, self._due - time.monotonic()))
            return
        if self._second is not None:
            self._drop_second()
            return
        self._operation = None
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()  # which leaves when the answer has come after all
        self._advance(
            None, ChannelError(UNANSWERED, f"no answer from the broker within {PATIENCE:g} s")
        )

    def _on_ok(self, number: int, frame: Any) -> None:
        if self._operation is not None and number == self._count:
            self._operation = None
            self._advance(frame, None)

    # ---- the channel

    def _open(self) -> None:
        self._opening = True
        self._expect()
        if not self._apart:
            try:
                self._link.channel(self._on_channel_open)
            except ChannelError:
                # In the next turn, for the last one may be closing just now; and the caller doesn't expect an
                # answer before it has asked.
                self._link.call(self._open_at_last)
        elif self._second is not None and self._second.is_open:
            self._second.channel(on_open_callback=self._on_channel_open)
        else:
            current = self._current = object()
            self._drop_second = self._link.sibling(
                self._on_second_open, lambda reason: self._on_second_gone(current, reason)
            )

    def _open_at_last(self) -> None:
        try:
            if self._operation is not None:
                self._link.channel(self._on_channel_open)
                return
            self._opening = False
        except ChannelError as error:
            self._opening = False
            self._operation = None
            self._advance(None, error)

    def _on_second_open(self, second: SelectConnection) -> None:
        self._second = second
        if self._closed:
            second.close()
        else:
            second.channel(on_open_callback=self._on_channel_open)

    def _on_second_gone(self, which: object, reason: str) -> None:
        if which is not self._current:
            return  # it was closed for being idle, and has a successor
        self._second = None
        self._opening = False
        self._channel = None
        if self._operation is not None:
            self._operation = None
            code, _, text = reason.partition(" ")
            known = code.isdigit()
            self._advance(
                None, ChannelError(int(code) if known else UNANSWERED, text if known else reason)
            )

    def _on_channel_open(self, channel: pika.channel.Channel) -> None:
        self._opening = False
        if self._closed:
            channel.close()
            return
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        if self._operation is not None:
            self._perform()

    def _on_channel_closed(self, channel: pika.channel.Channel, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        if not isinstance(reason, ChannelClosed):
            return  # the connection went with it, which is told elsewhere
        if self._operation is not None:
            self._operation = None
            self._advance(None, ChannelError(reason.reply_code, reason.reply_text))

    def _close_idle(self) -> None:
        self._timed = False
        second = self._second
        if second is not None and not self._steps and second.is_open:
            self._second = self._channel = self._current = None
            second.close()
