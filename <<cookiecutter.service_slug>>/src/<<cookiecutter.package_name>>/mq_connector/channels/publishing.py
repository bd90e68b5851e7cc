"""A message of a publisher's, from `Publisher.publish` to the broker's answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from ..logs import text_of


class _Confirmed(Future[None]):
    """Its callbacks, which run on the loop, may raise what they will: the standard library logs no more than each
    `Exception`."""

    def add_done_callback(self, fn: Callable[[Future[None]], object]) -> None:
        def call(done: Future[None]) -> None:
            try:
                fn(done)
            except Exception:
                raise
            except BaseException as error:
                if threading.current_thread() is threading.main_thread():
                    raise
                raise RuntimeError(f"{text_of(error)} ends no thread of the connector's") from error

        super().add_done_callback(call)


class Publishing:
    """A message, and the future that is done when the broker has taken or refused it."""

    __slots__ = ("body", "confirmed", "encoded", "exchange", "mandatory", "returned", "routing_key")

    def __init__(self, exchange: str, routing_key: str, body: bytes, mandatory: bool) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        #: The properties, as they go over the wire.
        self.encoded = b""
        self.mandatory = mandatory
        self.confirmed: Future[None] = _Confirmed()
        # What may be under way can't be taken back: this makes `Future.cancel` say so.
        self.confirmed.set_running_or_notify_cancel()
        #: Why the broker has sent it back, in its words; the confirm comes after that.
        self.returned: str | None = None

    @property
    def key(self) -> tuple[str, str, bytes]:
        """What can be seen of it when it comes back."""
        return self.exchange, self.routing_key, self.body

    def is_named_in(self, refusal: str) -> bool:
        """Whether the broker's words mean everything that goes to this message's exchange."""
        exchange = f"exchange '{self.exchange or 'amq.default'}' in vhost"
        return any(f"{words} {exchange}" in refusal for words in ("no", "access to", "internal"))
