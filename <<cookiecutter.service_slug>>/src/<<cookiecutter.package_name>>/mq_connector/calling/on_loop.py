"""The same on an event loop, which goes on with others meanwhile; imports asyncio, and so is imported late."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import NotConnected, PublishError
from .asking import Asking
from .message import Publication
from .publishing import Publishing

#: Seconds between two looks for room among the messages without a confirm.
_LOOK = 0.01


async def ask(
    asking: Asking,
    queue: str,
    request: Mapping[Any, Any],
    vhost: str | None,
    timeout: float | None,
) -> dict[Any, Any]:
    """As `mq_connector.calling.words.Calling.ask_async`."""
    ended, end = _event()
    asked = asking.begin(queue, request, vhost, timeout, end)
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), asked.pending.timeout)
    except asyncio.CancelledError:
        asked.client.forget(asked.pending)
        raise
    return asking.end(asked)


async def publish(publishing: Publishing, message: Publication, timeout: float) -> None:
    """As `mq_connector.calling.words.Calling.publish_async`."""
    deadline = time.monotonic() + timeout
    try:
        await _confirmed(publishing, message, deadline, timeout)
    except PublishError as error:
        await asyncio.to_thread(publishing.make, message.exchange, error)
        await _confirmed(publishing, message, deadline, timeout)


async def _confirmed(
    publishing: Publishing, message: Publication, deadline: float, timeout: float
) -> None:
    while True:
        try:
            sent = publishing.send(message, 0.0)
            break
        except NotConnected:
            if not publishing.is_full or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_LOOK)
    ended, end = _event()
    sent.add_done_callback(lambda _: end())
    try:
        await asyncio.wait_for(ended.wait(), max(0.0, deadline - time.monotonic()))
        sent.result()
    except asyncio.TimeoutError:
        raise publishing.unconfirmed(timeout) from None
    finally:
        del sent  # with its error, whose traceback has this frame


def _event() -> tuple[asyncio.Event, Callable[[], None]]:
    """:returns: an event of this event loop, and what sets it from any thread"""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits
            loop.call_soon_threadsafe(event.set)

    return event, end
