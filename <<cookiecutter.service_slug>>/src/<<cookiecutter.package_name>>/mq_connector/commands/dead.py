"""Lists the dead letters of a service, puts them back, writes them to a file, or removes them."""

from __future__ import annotations

import json
import re
import sys
import time
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pika

from ..connection import input_queue
from ..connection.wire.frames import OVERHEAD
from ..errors import MQError, NotConnected, PublishError, Unroutable, printable
from ..publisher import Publisher
from .broker import family, publisher, session, why_not
from .export import Export, exported
from .letters import EVERY, DeadLetter, DeadLetterQueue, Selection
from .terminal import OutputError, complain, say

if TYPE_CHECKING:
    from ..connector import MQConnector

#: Seconds that the broker has to confirm what is put back.
_CONFIRM_WITHIN = 30.0
#: Seconds between two looks of who watches, and until all letters are looked at though they are as many as before.
_LOOK_EVERY, _LOOK_AGAIN = 2.0, 30.0
#: Bytes of a content header beside its properties (AMQP 0-9-1, 4.2.6.1).
_CONTENT_HEADER = 12


class _Stays(Exception):
    """A letter can't be put back, for this reason."""


@dataclass(frozen=True)
class Task:
    """What is to be done with the letters that are meant."""

    selection: Selection = EVERY
    #: Whether each is a JSON object.
    json: bool = False
    #: A file that doesn't exist yet, for all that is in them; empty for none.
    export: str = ""
    #: Letters a second that are put back at the most; 0 for no bound. It ends when letters come meanwhile.
    rate: float = 0.0
    purge: bool = False
    #: Whether nobody is asked before they are removed.
    yes: bool = False


def show(service: MQConnector, requeue: bool, task: Task | None = None) -> int:
    """Print the dead letters of each input queue, and put them back where they died if asked for.

    A message is taken out only after the broker has confirmed that its copy is in the queue;
    cut short in between, it is in both.

    :returns: exit code: 0, or 1 where one could not be put back, may not be removed, or isn't there by its id
    :raises MQError: there is no connection, or nobody can be asked before messages are removed
    """
    task = task or Task()
    if task.purge and not task.yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise MQError(
            "--purge asks before it removes anything, and there is no terminal: add --yes"
        )
    ours = re.compile("|".join(family(each)[1] for each in service.consumers.values()))
    stayed, whole = False, True
    found: set[str | None] = set()
    with exported(task.export) as export:
        for consumer in service.consumers.values():
            if consumer.is_private:
                continue  # what its callback can't handle joins the dead letters of another queue
            with session(service) as opened, publisher(service) as back:
                dead = DeadLetterQueue(opened, consumer.queue)
                visit = _Visit(service, task, consumer.queue, ours, dead, export)
                frame_max = opened.link.amqp.params.frame_max
                stayed |= visit.go(back if requeue else None, frame_max)
                found |= visit.ids
                whole &= visit.is_whole
    missing = sorted(set(task.selection.ids) - found) if whole else ()
    for name in missing:
        complain(f"no dead letter that is meant has the message_id {name!r}")
    return int(stayed or bool(missing))


def follow(service: MQConnector, task: Task) -> int:
    """Print the dead letters of each input queue, and then those that come, until it is interrupted.

    Where the broker can't be asked it says so once, and goes on.

    :param task: of which the selection, without its limit, and the form count
    :returns: exit code: 0
    """
    queues = [each.queue for each in service.consumers.values() if not each.is_private]
    watched = [_Watched(service, queue, task) for queue in queues]
    trouble = ""
    with suppress(KeyboardInterrupt):
        while True:
            try:
                for each in watched:
                    each.look()
                trouble = ""
            except OutputError:
                raise
            except MQError as error:
                if str(error) != trouble:
                    complain(f"{error}; trying again")
                trouble = str(error)
            time.sleep(_LOOK_EVERY)
    return 0


class _Watched:
    """The dead letters of one queue, with what is known of them."""

    def __init__(self, service: MQConnector, queue: str, task: Task) -> None:
        self._service = service
        self._queue = queue
        self._task = task
        self._count = 0
        self._due = 0.0
        #: What tells those apart that were there at the last look.
        self._known: set[int] = set()

    def look(self) -> None:
        """Print those that have come. To look at all of them costs as much as there are, to count them nothing."""
        with session(self._service) as opened:
            dead = DeadLetterQueue(opened, self._queue)
            found = opened.run(input_queue.exists(dead.name))
            count = 0 if found is None else found.message_count
            if count == self._count and time.monotonic() < self._due:
                return
            there = set()
            for letter in dead:
                mark = hash((letter.message_id, letter.died_at, letter.body))
                there.add(mark)
                if mark not in self._known and self._task.selection.takes(letter):
                    _say(letter, self._queue, self._task.json)
                self._known.add(mark)  # now, as the connection may be lost before the last one
            self._known, self._count = there, count
            self._due = time.monotonic() + _LOOK_AGAIN


class _Visit:
    """One look at the dead letters of one queue.

    :param ours: matches the names of this service's queues
    :param export: where all that is in them goes, if anywhere
    """

    def __init__(
        self,
        service: MQConnector,
        task: Task,
        queue: str,
        ours: re.Pattern[str],
        dead: DeadLetterQueue,
        export: Export | None,
    ) -> None:
        self._service = service
        self._task = task
        self._queue = queue
        self._ours = ours
        self._dead = dead
        self._export = export
        #: Of the letters that were meant, where single ones are.
        self.ids: set[str | None] = set()
        #: Whether all letters were looked at.
        self.is_whole = True

    def go(self, back: Publisher | None, frame_max: int) -> bool:
        """Do what is to be done.

        :param back: puts letters back, if they are to be
        :param frame_max: largest frame in bytes of its connection
        :returns: whether a letter stays that was not to
        """
        stayed, count, found = False, 0, 0
        #: To be removed; without their bodies, as there may be many.
        doomed: list[DeadLetter] = []
        ready: int | None = None
        selection = self._task.selection
        for letter in self._dead:
            if back is not None and ready is not None and letter.behind >= ready:
                say(f"stopped: dead letters have come to {self._queue!r} since it began")
                stayed, self.is_whole = True, False
                break
            ready = letter.behind
            if not selection.takes(letter):
                continue
            found += 1
            if selection.ids:
                self.ids.add(letter.message_id)
            self._show(letter)
            if back is not None and not self._put_back(letter, back, frame_max):
                stayed = True
            else:
                count += 1
            if self._task.purge:
                doomed.append(DeadLetter(letter.delivery_tag, pika.BasicProperties(), b"", 0))
            if found == selection.limit:
                self.is_whole = False
                break
        done = "put back" if back is not None else ""
        if self._task.purge:
            stayed, done = self._purge(doomed)
        if not self._task.json:
            say(f"{_counted(count)} of {self._queue!r}{f' {done}' if done else ''}")
        return stayed

    def _show(self, letter: DeadLetter) -> None:
        _say(letter, self._queue, self._task.json)
        if self._export is not None:
            self._export.write(json.dumps(letter.export(self._queue), default=repr))

    def _put_back(self, letter: DeadLetter, back: Publisher, frame_max: int) -> bool:
        try:
            _put_back(back, _target(letter, self._queue, self._ours), letter, frame_max)
        except _Stays as reason:
            say(f"stays a dead letter: {reason}")
            return False
        except FutureTimeout:
            raise NotConnected(
                "the broker hasn't confirmed a message that was put back within "
                f"{_CONFIRM_WITHIN:g} s, so it stays a dead letter as well"
                f"{why_not(self._service)}"
            ) from None
        self._dead.remove(letter)
        if self._task.rate:
            time.sleep(1 / self._task.rate)
        return True

    def _purge(self, doomed: list[DeadLetter]) -> tuple[bool, str]:
        """:returns: whether they stay, and what was done, in words"""
        if doomed and not self._task.yes:
            question = f"Remove {_counted(len(doomed))} of {self._queue!r} for good? [y/N] "
            try:
                answer = input(question)
            except EOFError:
                answer = ""
            if answer.strip().lower() not in ("y", "yes"):
                return True, "kept"
        for letter in doomed:
            self._dead.remove(letter)
        return False, "removed"


def _counted(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


def _say(letter: DeadLetter, queue: str, as_json: bool) -> None:
    say(json.dumps(letter.fields(queue), default=repr) if as_json else str(letter))


def _target(letter: DeadLetter, default: str, ours: re.Pattern[str]) -> str:
    """Where a letter belongs. It may say so itself, but only among the queues of this service: a
    client can write its own account of a death, and ours are not its rights."""
    origin = letter.origin or default
    if not ours.fullmatch(origin):
        raise _Stays(
            f"it says that it died in queue {printable(origin)!r}, which this service doesn't consume"
        )
    return origin


def _put_back(publisher: Publisher, queue: str, letter: DeadLetter, frame_max: int) -> None:
    """:raises _Stays: for a reason that is the letter's own
    :raises concurrent.futures.TimeoutError: the broker hasn't confirmed it in time
    :raises MQError: no letter can be put back
    """
    try:
        properties = letter.revived()
        size = _size(properties)
    except Exception as error:  # pika's codecs raise whatever a value leads to
        raise _Stays(
            f"its properties can't be read: {type(error).__name__}: {printable(str(error))}"
        ) from None
    if size > frame_max:
        raise _Stays(f"its headers have {size} bytes where this connection allows {frame_max}")
    try:
        publisher.publish("", queue, letter.body, properties).result(_CONFIRM_WITHIN)
    except Unroutable:  # a subscriber's queue goes with its service
        raise _Stays(f"there is no queue {queue!r} any more") from None
    except PublishError as error:
        raise _Stays(printable(str(error))) from None


def _size(properties: pika.BasicProperties) -> int:
    """Bytes of the frame that carries properties; a larger one than allowed costs the connection."""
    return sum(map(len, properties.encode())) + _CONTENT_HEADER + OVERHEAD
