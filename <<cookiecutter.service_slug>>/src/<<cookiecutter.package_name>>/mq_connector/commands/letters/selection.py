"""Which dead letters are meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from .letter import DeadLetter

_AGO = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Selection:
    """What a letter has to have; the default takes all."""

    #: Any of these ids; empty for any at all.
    ids: tuple[str, ...] = ()
    #: The broker's reason, or the type of the exception; empty for any.
    reason: str = ""
    #: When it died at the earliest.
    since: datetime | None = None
    #: How many letters of a queue at the most.
    limit: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant, but for the limit."""
        if self.ids and letter.message_id not in self.ids:
            return False
        kind = letter.exception.partition(":")[0]
        if self.reason and self.reason not in (letter.reason, kind):
            return False
        died_at = letter.died_at
        return self.since is None or (died_at is not None and died_at >= self.since)


EVERY = Selection()


def moment(text: str) -> datetime:
    """A time: ``90s``, ``30m``, ``2h`` or ``7d`` ago, or as ISO 8601 writes it (without a zone: this machine's).

    :raises ValueError: it is neither
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither a time ago, such as 30m, 2h or 7d, nor one such as 2026-01-31T12:00"
        ) from None
