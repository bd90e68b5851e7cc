"""A message of a publisher's, from `Publisher.publish` to the broker's answer."""

from __future__ import annotations

from concurrent.futures import Future


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
        self.confirmed: Future[None] = Future()
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
