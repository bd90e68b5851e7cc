"""What a callback's channel does on another channel: whatever the broker may refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
from pika.exchange_type import ExchangeType
from pika.spec import Basic

from ...connection import Connection
from ...connection.scratch import Operation, Result, Scratch
from ...errors import NotConnected, NotInCallback
from ...logs import Logger
from ..opened import OpenedChannel
from ..outbox.hurried import Hurried
from .instead import GET_UNSETTLED

if TYPE_CHECKING:
    from ..outbox import Outbox

_log = Logger(__name__)

Arguments = dict[str, Any]
#: Gets the broker's answer, as with pika's asynchronous channel.
Callback = Callable[[Any], object]
#: What `Apart.basic_get` returns: method, properties and body, or thrice None.
Got = tuple["Basic.GetOk | None", "pika.BasicProperties | None", "bytes | None"]


class Apart:
    """Those of pika's methods that run on another channel, so that a refusal can't close the consumer's.

    They return before the broker has answered, except `basic_get`, and where a `callback` is given: it is
    called before they return. What the callback does afterwards finds their work done nevertheless, as on one
    channel, see `_catch_up`.
    """

    __slots__ = ("_asked", "_opened", "_outbox")

    #: What was asked for last, and where it is done; unset until something is.
    _asked: tuple[Scratch, Result]

    _opened: OpenedChannel
    _outbox: Outbox | Hurried

    @property
    def connection(self) -> Connection:
        """The connection that the message came by."""
        return self._outbox.connection

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Declare a queue; reading the result's ``method.queue`` waits for the broker, ignoring it doesn't."""

        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            if set(queue) & {"\r", "\n"}:
                # The broker takes them out, so pika would wait for ever for an answer with this name.
                raise ValueError("a name can't hold a line break")
            channel.queue_declare(queue, passive, durable, exclusive, auto_delete, arguments, done)

        transient = not (passive or durable or exclusive)
        what = f"declaring queue {queue!r}"
        scratch = self._opened.scratch_for_transient if transient else None
        return self._try(operation, what, callback, scratch)

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: Arguments | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Bind a queue to an exchange."""
        return self._try(
            lambda channel, done: channel.queue_bind(queue, exchange, routing_key, arguments, done),
            f"binding queue {queue!r} to exchange {exchange!r}",
            callback,
        )

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str | None = None,
        arguments: Arguments | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Undo `queue_bind`."""
        return self._try(
            lambda channel, done: channel.queue_unbind(
                queue, exchange, routing_key, arguments, done
            ),
            f"unbinding queue {queue!r} from exchange {exchange!r}",
            callback,
        )

    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,
        if_empty: bool = False,
        callback: Callback | None = None,
    ) -> Result:
        """Delete a queue."""
        return self._try(
            lambda channel, done: channel.queue_delete(queue, if_unused, if_empty, done),
            f"deleting queue {queue!r}",
            callback,
        )

    def queue_purge(self, queue: str, callback: Callback | None = None) -> Result:
        """Drop the messages that are ready in a queue."""
        return self._try(
            lambda channel, done: channel.queue_purge(queue, done),
            f"purging queue {queue!r}",
            callback,
        )

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: ExchangeType | str = ExchangeType.direct,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Declare an exchange."""
        return self._try(
            lambda channel, done: channel.exchange_declare(
                exchange, exchange_type, passive, durable, auto_delete, internal, arguments, done
            ),
            f"declaring exchange {exchange!r}",
            callback,
        )

    def exchange_delete(
        self,
        exchange: str | None = None,
        if_unused: bool = False,
        callback: Callback | None = None,
    ) -> Result:
        """Delete an exchange."""
        return self._try(
            lambda channel, done: channel.exchange_delete(exchange, if_unused, done),
            f"deleting exchange {exchange!r}",
            callback,
        )

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Bind an exchange to another one."""
        return self._try(
            lambda channel, done: channel.exchange_bind(
                destination, source, routing_key, arguments, done
            ),
            f"binding exchange {destination!r} to exchange {source!r}",
            callback,
        )

    def exchange_unbind(
        self,
        destination: str | None = None,
        source: str | None = None,
        routing_key: str = "",
        arguments: Arguments | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Undo `exchange_bind`."""
        return self._try(
            lambda channel, done: channel.exchange_unbind(
                destination, source, routing_key, arguments, done
            ),
            f"unbinding exchange {destination!r} from exchange {source!r}",
            callback,
        )

    def basic_get(
        self,
        queue: str,
        *given: Any,
        auto_ack: bool = False,
        callback: Callable[..., object] | None = None,
    ) -> Got:
        """Take the next message of a queue; waits for the broker.

        :param given: `auto_ack`, or `callback` and `auto_ack`, as pika's two kinds of channels have them
        :param auto_ack: has to be true, as the message comes by another channel than that on which the callback
            settles; it is acknowledged by being delivered
        :param callback: called with channel, method, properties and body, where there is a message
        :returns: method, properties and body, or thrice None where the queue is empty
        :raises NotInCallback: `auto_ack` is false
        :raises ChannelError: the broker refused
        :raises NotConnected: the connection was lost before the answer
        """
        for each in given:
            if callable(each):
                callback = each
            else:
                auto_ack = each
        if not auto_ack:
            raise NotInCallback(*GET_UNSETTLED)
        got: Got = self._try(partial(_get, queue), f"getting from queue {queue!r}").wait()
        if callback is not None and got[0] is not None:
            callback(self, *got)
        return got

    def _try(
        self,
        operation: Operation,
        what: str,
        callback: Callback | None = None,
        scratch: Scratch | None = None,
    ) -> Result:
        result = Result()
        opened = self._opened
        scratch = scratch or opened.scratch
        self._catch_up(scratch)
        complaints = self._outbox.complaints

        def done(value: Any, error: Any) -> None:
            if error is not None:
                _log.log(complaints.level(f"{what}: {error}"), "%s: %s", what, error)
            result.set(value, error)

        if opened.is_open:
            self._asked = scratch, result
            self.connection.call(lambda: scratch.do(operation, done))
        else:
            result.set(None, NotConnected(f"{what}: the connection was lost"))
        if callback is not None:
            callback(result.wait())
        return result

    def _catch_up(self, but: Scratch | None = None) -> None:
        """Wait until the last of these operations is done, as the broker keeps no order between channels.

        :param but: what is done there keeps its order by itself
        """
        where, result = getattr(self, "_asked", (but, None))
        if where is but or result is None or self.connection.is_own_thread:
            return
        if but is None and isinstance(self._outbox, Hurried):
            self._outbox.wait_for(result)
        else:
            result.wait_until_over()


def _get(queue: str, channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
    """An operation; pika tells of an empty queue elsewhere than of a message."""

    def got(_: Any, *message: Any) -> None:
        channel.callbacks.remove(channel.channel_number, Basic.GetEmpty, empty)
        done(message)

    def empty(_: Any) -> None:
        done((None, None, None))

    channel.add_callback(empty, [Basic.GetEmpty])
    channel.basic_get(queue, got, auto_ack=True)
