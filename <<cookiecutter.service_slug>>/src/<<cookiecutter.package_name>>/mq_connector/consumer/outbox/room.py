"""Bounds what waits to be published."""

from __future__ import annotations

import threading

from ...errors import NotConnected

#: Messages that wait at the same time, and bytes of their bodies.
_MOST_HELD, _MOST_BYTES_HELD = 10_000, 64 * 1024 * 1024


class Room:
    """Counts the messages that wait, and makes the thread that publishes wait while there are too many.

    Its lock is held for the counting only.
    """

    def __init__(self, most: int = _MOST_HELD, most_bytes: int = _MOST_BYTES_HELD) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._count = self._bytes = 0
        self._changed = threading.Condition()

    @property
    def is_half_empty(self) -> bool:
        """Whether there is room for more, even if several threads publish at the same time."""
        return self._count < self._most // 2 and self._bytes < self._most_bytes // 2

    def take(self, size: int, timeout: float) -> None:
        """Count one more message.

        :param size: bytes
        :param timeout: seconds to wait for room
        :raises NotConnected: there is none in time
        """
        with self._changed:
            if not self._changed.wait_for(self._has_room, timeout):
                raise NotConnected(
                    f"{self._count} messages already wait for a connection, or for the queues that "
                    "they go to"
                )
            self._count += 1
            self._bytes += size

    def add(self, size: int) -> None:
        """Count a message that already waits, whether there is room or not."""
        with self._changed:
            self._count += 1
            self._bytes += size

    def give(self, size: int) -> None:
        """One message waits no longer."""
        with self._changed:
            self._count -= 1
            self._bytes -= size
            self._changed.notify()

    def _has_room(self) -> bool:
        return self._count < self._most and self._bytes < self._most_bytes
