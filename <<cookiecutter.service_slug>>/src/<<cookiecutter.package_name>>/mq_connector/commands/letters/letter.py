"""A message of a dead-letter queue, and what it says of its death."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pika

from ... import payload
from ...consumer.outbox import dead_letters
from ...errors import printable
from ...payload.request import request_id

#: Characters of a body, of a reason and of an exception in a line, that are shown.
_EXCERPT, _REASON, _EXCEPTION = 100, 40, 200
#: Names of the properties that an export holds.
_PROPERTIES = tuple(vars(pika.BasicProperties()))


@dataclass(frozen=True)
class DeadLetter:
    """A message of the dead-letter queue. Anybody may have put it there, with anything in it."""

    delivery_tag: int
    properties: pika.BasicProperties
    body: bytes
    #: How many others were ready when it was taken.
    behind: int

    @property
    def headers(self) -> Mapping[Any, Any]:
        """Its headers; empty where they can't be read."""
        try:
            headers: Mapping[Any, Any] = self.properties.headers or {}
        except Exception:  # pika's decoders raise whatever a value leads to
            return {}
        return headers

    @property
    def death(self) -> Mapping[Any, Any]:
        """The latest entry of the header ``x-death``, as RabbitMQ writes it; empty where there is none."""
        deaths = self.headers.get("x-death")
        latest = deaths[0] if isinstance(deaths, list) and deaths else None
        return latest if isinstance(latest, Mapping) else {}

    @property
    def origin(self) -> str | None:
        """The queue that it died in, as it says; None where it doesn't."""
        name = self.death.get("queue")
        return name if isinstance(name, str) and name else None

    @property
    def message_id(self) -> str | None:
        """The request's id; None where it has none that can be read."""
        return request_id(self.body, self.properties)

    @property
    def died_at(self) -> datetime | None:
        """When, with its zone; None where it doesn't say."""
        time: Any = self.death.get("time")
        if not self.death:
            try:
                time = datetime.fromisoformat(self._own(dead_letters.DIED_AT))
            except ValueError:
                return None
        if not isinstance(time, datetime):
            return None
        return time if time.tzinfo else time.replace(tzinfo=timezone.utc)

    @property
    def reason(self) -> str:
        """Why, in the broker's words: ``rejected``, ``expired``, ``maxlen``, ``delivery_limit``."""
        reason = self.death.get("reason")
        if not self.death and self.exception:
            return "rejected"
        return reason if isinstance(reason, str) and reason else "unknown"

    @property
    def exception(self) -> str:
        """Type and text of what its handler has raised; empty where that isn't known.

        What the broker has dead-lettered itself carries none: one that it seems to have is its client's.
        """
        name, text = self._own(dead_letters.TYPE), self._own(dead_letters.TEXT)
        return f"{name}: {text}" if name and text else name

    def _own(self, header: str) -> str:
        """A header of the connector's; empty where it isn't there."""
        value = "" if self.death else self.headers.get(header)
        return value if isinstance(value, str) else ""

    def __str__(self) -> str:
        time, name = self.died_at, self.message_id
        return "  ".join(
            (
                f"{time:%Y-%m-%d %H:%M:%S%z}" if time else "at some time",
                _age(time),
                "without id" if name is None else repr(name[:_REASON]),
                printable(self.reason, _REASON),
                *([printable(self.exception, _EXCEPTION)] if self.exception else []),
                self._excerpt(),
            )
        )

    def _excerpt(self) -> str:
        try:
            text = repr(payload.decode(self.body))
        except Exception:  # no payload, or one that Python can't write, such as a number too long
            text = repr(self.body[:_EXCERPT])
        return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}… ({len(self.body)} bytes)"

    def fields(self, queue: str) -> dict[str, object]:
        """The same by name, for a line in JSON.

        :param queue: whose dead letter it is
        """
        time = self.died_at
        deliveries = None if self.death else self.headers.get(dead_letters.DELIVERIES)
        return {
            "id": self.message_id,
            "queue": self.origin or queue,
            "died_at": time.isoformat() if time else None,
            "age": round((_now() - time).total_seconds(), 3) if time else None,
            "reason": self.reason,
            "exception": self.exception or None,
            "version": self._own(dead_letters.VERSION) or None,
            "deliveries": deliveries if isinstance(deliveries, int) else None,
            "body": self._excerpt(),
        }

    def export(self, queue: str) -> dict[str, object]:
        """All of it: its body in base64, and its properties, those that JSON lacks as Python writes them."""
        try:
            properties = {name: getattr(self.properties, name) for name in _PROPERTIES}
        except Exception:  # pika's decoders raise whatever a value leads to
            properties = {}
        kept = {name: value for name, value in properties.items() if value is not None}
        body = base64.b64encode(self.body).decode()
        return {**self.fields(queue), "properties": kept, "body": body}

    def revived(self) -> pika.BasicProperties:
        """Its properties as they were before it died, see `dead_letters.to_publish_again`."""
        return dead_letters.to_publish_again(self.properties)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _age(time: datetime | None) -> str:
    """How long ago, for a person."""
    if time is None:
        return "of unknown age"
    age = _now() - time
    for unit, name in (
        (timedelta(days=1), "d"),
        (timedelta(hours=1), "h"),
        (timedelta(minutes=1), "min"),
    ):
        if age >= unit:
            return f"{age // unit} {name}"
    return "<1 min"
