"""What goes along with a request that is sent while another one is being handled."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pika

#: Header with the milliseconds since 1970 at which a message was sent, as RabbitMQ's own interceptor calls
#: it (rabbitmq.com/docs/message-interceptors); the property has only seconds.
SENT_AT = "timestamp_in_ms"


@dataclass(frozen=True)
class Origin:
    """The request that is being handled; without one, nothing is known of it.

    :ivar correlation_id: its own, or the id by which it is called
    :ivar headers: of its trace
    """

    correlation_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def mark(self, properties: pika.BasicProperties) -> None:
        """Put it into the properties of a message, with the time, so that nobody handles it too late."""
        now = time.time()
        properties.correlation_id = self.correlation_id
        properties.timestamp = int(now)
        properties.headers = {**self.headers, SENT_AT: int(now * 1000)}
