"""Who asks and publishes, and how it names whom."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ..config.settings import Settings
from ..connection import Connection

#: Names, or pairs of a name and what it needs beside it.
Named = Sequence["str | tuple[str, str]"]


class Service(Protocol):
    """Who asks and publishes."""

    service_name: str

    @property
    def vhost(self) -> str:
        """Its own."""

    @property
    def publishes(self) -> Named:
        """See `mq_connector.calling.words.Calling`."""

    @property
    def calls(self) -> Named:
        """See `mq_connector.calling.words.Calling`."""

    @property
    def consumers(self) -> Mapping[str, Any]:
        """What it consumes."""

    def settings(self) -> Settings:
        """Hosts and credentials."""

    def _mq_connection(self, vhost: str) -> Connection:
        """The one that it has to a vhost."""

    def _mq_is_on_loop(self) -> bool:
        """Whether we are on the thread of one of its connections."""


#: Those of this process, by their `id`: one may not be hashable.
_alive: WeakValueDictionary[int, Service] = WeakValueDictionary()


def enlist(service: Service) -> None:
    """There is one more in this process."""
    _alive[id(service)] = service


def only_one() -> Service | None:
    """The service of this process, if there is exactly one."""
    found = list(_alive.values())
    return found[0] if len(found) == 1 else None


def reply_queue(service: Service) -> str:
    """A new name for a queue at which a service waits for replies, of those that its rights are for."""
    return f"{service.service_name}.reply.{uuid.uuid4().hex[:16]}"


def pairs(named: Named, default: str) -> dict[str, str]:
    """What each name has beside it.

    :param default: what a name alone means
    """
    if not isinstance(named, (tuple, list)):
        return {}  # a service may call something else so
    found = (
        (each, default) if isinstance(each, str) else (each[0], each[1]) for each in named if each
    )
    return dict(found)
