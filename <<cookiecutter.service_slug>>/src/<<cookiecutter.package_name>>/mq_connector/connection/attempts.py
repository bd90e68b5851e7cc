"""Counts attempts: how long to wait before the next one, and whether a refusal is final."""

from __future__ import annotations

import os
import time

from ..errors import MQError, StartError
from ..logs import Complaints, Logger

_log = Logger(__name__)

#: Seconds of the first pause, after all that can be tried was tried once, and of the longest: short
#: enough for a service to consume again within a second of the broker's coming back.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.8
#: The same for links that open and are lost again before they were of use, which would go on without end.
_FIRST_REST, _LONGEST_REST = 0.025, 2.5
#: Seconds after which a link has proved useful by its age.
_AGE_OF_PROOF = 10.0


class Attempts:
    """Attempts in a row at one thing.

    A refusal by the broker is final before the first success. Afterwards it is taken for an accident, such as a
    broker that is being set up again.
    """

    def __init__(self) -> None:
        #: How many in a row have failed.
        self.failed = 0
        self.ever_succeeded = False

    def succeeded(self) -> None:
        """An attempt was of use: the next failure begins with the shortest pause again."""
        self.ever_succeeded = True
        self.failed = 0

    def is_final(self, error: MQError) -> bool:
        """Whether to give up."""
        return isinstance(error, StartError) and not self.ever_succeeded

    @property
    def pause(self) -> float:
        """Seconds until the next attempt."""
        return _grown(_FIRST_PAUSE, _LONGEST_PAUSE, self.failed)


class LinkAttempts(Attempts):
    """Attempts at a link, over all hosts in turn, and what became of the links that opened."""

    def __init__(self) -> None:
        super().__init__()
        #: Counts the turns of the hosts: the one that was lost or didn't answer is tried again last.
        self.turn = 0
        #: Links in a row that were lost before they were of use.
        self.useless = 0
        #: Links that have opened so far.
        self.links = 0
        self._opened_at = 0.0
        self._complaints = Complaints()

    def opened(self) -> None:
        """A link has opened, which doesn't prove yet that it is of use."""
        self.links += 1
        self._opened_at = time.monotonic()

    def missed(self) -> None:
        """An attempt has failed: no link has opened."""
        self.failed += 1
        self.turn += 1

    def succeeded(self) -> None:
        """The link was of use."""
        super().succeeded()
        self.useless = 0

    def lost(self, by_accident: bool) -> None:
        """An open link was lost.

        :param by_accident: whether it wasn't closed by us
        """
        if time.monotonic() - self._opened_at >= _AGE_OF_PROOF:
            self.failed = self.useless = 0
        if by_accident:
            self.failed += 1
            self.turn += 1
            self.useless += 1

    def pause_with(self, hosts: int) -> float:
        """Seconds until the next attempt, drawn at random so that services don't all come back at once.

        :param hosts: how many are tried in turn
        """
        if self.failed % hosts:
            return 0.0  # the next host may be up
        pause = _grown(_FIRST_PAUSE, _LONGEST_PAUSE, self.failed // hosts)
        rest = _grown(_FIRST_REST, _LONGEST_REST, self.useless)
        return max(pause, rest) * (0.5 + os.urandom(1)[0] / 512)

    def complain(self, what: str, remedy: str) -> None:
        """Log what is wrong; the same again and again only now and then."""
        _log.log(self._complaints.level(what), "%s; %s", what, remedy)


def _grown(first: float, longest: float, times: int) -> float:
    """A pause that doubles each time, up to a bound."""
    return min(longest, first * 2.0 ** min(times, 10))
