"""The members of a connection: consumers, clients and publishers that share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..logs import Logger
from .link import Link

_log = Logger(__name__)


class Member(Protocol):
    """One that shares a connection; its methods are called on the connection's loop."""

    @property
    def is_well(self) -> bool:
        """Whether it can do on the link what it has joined for."""

    def on_open(self, link: Link) -> None:
        """The connection is open."""

    def on_lost(self, error: BaseException) -> None:
        """The connection is lost; another attempt follows."""

    def on_refused(self, reason: str) -> None:
        """The broker refuses us for good, and the connection has given up."""


class Members:
    """The members of one connection, and which of them were told of its link.

    The connection guards with a lock who is a member; everything else is for the loop.
    """

    def __init__(self) -> None:
        self._all: list[Member] = []
        #: Those that have been told of the link.
        self.greeted: list[Member] = []

    def __len__(self) -> int:
        """The number of members."""
        return len(self._all)

    def add(self, member: Member) -> None:
        """Add a member."""
        self._all.append(member)

    def remove(self, member: Member) -> None:
        """Remove a member; a second time it does nothing."""
        if member in self._all:
            self._all.remove(member)

    def take(self) -> list[Member]:
        """Remove and return all members."""
        members, self._all = self._all, []
        return members

    def forget(self, member: Member) -> None:
        """Note that a member has left, so that it is told nothing more of the link."""
        if member in self.greeted:
            self.greeted.remove(member)

    def greet(self, link: Link | None, member: Member) -> None:
        """Tell a member of the open link, unless it was told; without one it is told later, with the others."""
        if link is None or not link.is_open or member in self.greeted:
            return
        if member in self._all:
            self.greeted.append(member)
            member.on_open(link)

    def greet_all(self, link: Link) -> None:
        """Tell all members of the open link."""
        tell(list(self._all), lambda member: self.greet(link, member))

    def lost(self, error: BaseException) -> None:
        """Tell those that know of the link that it is lost."""
        greeted, self.greeted = self.greeted, []
        tell(greeted, lambda member: member.on_lost(error))

    def are_well_without(self, member: Member) -> bool:
        """Whether another member can do on the link what it has joined for."""
        return any(each.is_well for each in self.greeted if each is not member)


def tell(members: list[Member], how: Callable[[Member], object]) -> None:
    """Tell members something; if one of them raises, the others are told all the same."""
    for member in members:
        try:
            how(member)
        except Exception:
            _log.exception("a member of a connection failed at what it was told")
