"""From what a handler returns or yields to the reply, or the parts of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from ..payload.encoding import as_dict
from ..payload.request import PART, Request
from .typed import reader_of, readers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Protocol

    import pika

    class Publishes(Protocol):
        """The channel of a callback."""

        def basic_publish(
            self,
            exchange: str,
            routing_key: str,
            body: bytes,
            properties: pika.BasicProperties | None = None,
        ) -> None:
            """Publish a message."""


def respond(
    channel: Publishes, request: Request, handler: Callable[[Any], Any]
) -> Awaitable[None] | None:
    """Have a handler answer a request, and publish its reply.

    :param handler: gets the request, converted to the type of its parameter if that has one
        (`mq_connector.handlers.typed`). It returns a dict; or it is async, or yields the parts of a
        streamed reply, or both
    :returns: None when everything is done; for an async handler an awaitable, which the callback has to return,
        or to await itself
    :raises RequestError: the request isn't of the handler's type, or the handler refuses it
    :raises PayloadError: the reply is no dict, or can't be encoded
    """
    function = getattr(handler, "__func__", handler)
    try:
        read = readers[function]  # one look-up for most: this is done for each message
    except KeyError:
        read = reader_of(handler)
    reply = handler(request.data if read is None else read(request))
    if type(reply) is not dict:
        return _respond_with(channel, request, reply)
    if request.reply_queue:  # a client that wants no answer names no queue
        channel.basic_publish(
            "", request.reply_queue, request.encode_reply(reply), request.reply_properties
        )
    return None


def _respond_with(channel: Publishes, request: Request, reply: Any) -> Awaitable[None] | None:
    """As `respond`, for a reply that is no plain dict."""
    kind = type(reply)
    if kind is GeneratorType:
        return _stream(channel, request, reply)
    if hasattr(kind, "__await__"):
        return _respond_later(channel, request, reply)
    if hasattr(kind, "__aiter__"):
        return _stream_later(channel, request, reply)
    if request.reply_queue:
        body = request.encode_reply(reply)
        channel.basic_publish("", request.reply_queue, body, request.reply_properties)
    return None


async def _respond_later(channel: Publishes, request: Request, reply: Awaitable[Any]) -> None:
    later = _respond_with(channel, request, await reply)  # it may be a generator that it has made
    if later is not None:
        await later


def _stream(
    channel: Publishes, request: Request, parts: Generator[Any, None, Any]
) -> Awaitable[None] | None:
    stream = _Stream(channel, request)
    try:
        for part in parts:
            if stream.add(part):
                break
        stream.end()
    except Exception as error:
        stream.fail(error)
        raise
    finally:
        parts.close()
    return None


async def _stream_later(channel: Publishes, request: Request, parts: AsyncIterator[Any]) -> None:
    stream = _Stream(channel, request)
    try:
        async for part in parts:
            if stream.add(part):
                break
        stream.end()
    except Exception as error:
        stream.fail(error)
        raise
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()


class _Stream:
    """Publishes the parts of one reply as Neon's clients take them: with ``part``, from 0 on, and ``is_final``.

    A client hands each part to who wants them, and returns the final one. So the last one that is
    yielded is the final one, and each leaves when it is known whether another one comes. A part that
    brings ``is_final`` itself leaves at once.
    """

    def __init__(self, channel: Publishes, request: Request) -> None:
        self._channel = channel
        self._request = request
        self._number = 0
        #: What was yielded last, and wants to know whether it is the final one.
        self._held: dict[Any, Any] | None = None
        self._is_over = False

    def add(self, part: Any) -> bool:
        """One more.

        :returns: whether it is the final one
        :raises PayloadError: it is no dict, or can't be encoded
        """
        self._let_go(False)
        if type(part) is not dict:
            part = as_dict(part, "what answer() yields")
        is_final = part.get("is_final")
        if is_final is None:
            self._held = part
        else:
            self._send(part, bool(is_final))
            self._is_over = bool(is_final)
        return self._is_over

    def end(self) -> None:
        """There are no more."""
        if not self._is_over:
            self._held = self._held or {}
            self._let_go(True)

    def fail(self, error: Exception) -> None:
        """The generator has raised: the error reply is the final part."""
        try:
            self._let_go(False)
        except Exception:  # it is what can't be encoded; the error says so
            self._held = None
        if not self._is_over:
            vars(error)[PART] = self._number

    def _let_go(self, is_final: bool) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._send(held, is_final)

    def _send(self, part: dict[Any, Any], is_final: bool) -> None:
        request = self._request
        if request.reply_queue:
            # The handler may number them itself.
            body = request.encode_reply({"part": self._number, **part, "is_final": is_final})
            self._channel.basic_publish("", request.reply_queue, body, request.reply_properties)
        self._number += 1
