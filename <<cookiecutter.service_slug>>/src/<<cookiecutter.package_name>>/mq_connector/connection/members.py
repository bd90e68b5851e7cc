"""Who shares a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..logs import Logger
from .link import Link

_log = Logger(__name__)


class Member(Protocol):
    """Who shares a connection; hears of its fate on its loop."""

    @property
    def is_well(self) -> bool:
        """Whether it does on the link what it has joined for."""

    def on_open(self, link: Link) -> None:
        """There is a link."""

    def on_lost(self, error: BaseException) -> None:
        """The link is gone, and another is sought."""

    def on_refused(self, reason: str) -> None:
        """The broker says no, and time doesn't heal that; the connection has given up."""


class Members:
    """Those of one connection, and which of them know of its link.

    Whoever owns the connection guards with a lock who is one of them; all else is for the loop.
    """

    def __init__(self) -> None:
        self._all: list[Member] = []
        #: Those that have been told of the link.
        self.greeted: list[Member] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def add(self, member: Member) -> None:
        """One more."""
        self._all.append(member)

    def remove(self, member: Member) -> None:
        """One less; twice does no harm."""
        if member in self._all:
            self._all.remove(member)

    def take(self) -> list[Member]:
        """All of them; none is left."""
        members, self._all = self._all, []
        return members

    def forget(self, member: Member) -> None:
        """It is told nothing more of the link."""
        if member in self.greeted:
            self.greeted.remove(member)

    def greet(self, link: Link | None, member: Member) -> None:
        """Tell one of the link, unless it knows; where there is none, it is told with the others."""
        if link is None or not link.is_open or member in self.greeted:
            return
        if member in self._all:
            self.greeted.append(member)
            member.on_open(link)

    def greet_all(self, link: Link) -> None:
        """There is a link."""
        tell(list(self._all), lambda member: self.greet(link, member))

    def lost(self, error: BaseException) -> None:
        """It is gone."""
        greeted, self.greeted = self.greeted, []
        tell(greeted, lambda member: member.on_lost(error))

    def are_well_without(self, member: Member) -> bool:
        """Whether another one does on the link what it has joined for."""
        return any(each.is_well for each in self.greeted if each is not member)


def tell(members: list[Member], how: Callable[[Member], object]) -> None:
    """Tell members something; what one of them makes of it costs the others nothing."""
    for member in members:
        try:
            how(member)
        except Exception:
            _log.exception("a member of a connection failed at what it was told")
