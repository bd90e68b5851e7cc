"""The process's one event loop, for all that is written with ``async``.

Its thread (``mq-async``) begins when it is first needed: a service without ``async`` has none.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import FrameType, coroutine
from typing import Any, Protocol

from ..fork import Process
from ..logs import Complaints, Logger, text_of

_log = Logger(__name__)

#: Seconds for which the loop may stand still before it is said who keeps it, and between two looks.
BLOCKED, _LOOK = 1.0, 0.25
#: Where the frames of the connector's own code are from.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Job(Protocol):
    """What is to run on the loop."""

    #: Made on the thread that begins it, and run there up to `until_begun`.
    coroutine: Any
    context: contextvars.Context
    #: What it runs as, once it does.
    task: asyncio.Task[None] | None


@coroutine
def until_begun() -> Generator[None, None, None]:
    """Awaited first by a job's coroutine, and passed by its task: of one that is cancelled before its first step,
    asyncio would run nothing at all, not even what tells of its end."""
    yield


def drop(awaitable: object) -> None:
    """Close a coroutine that nobody will await; Python would warn of it.

    What else can be awaited may have a ``close`` that means something different, and is left alone.
    """
    if isinstance(awaitable, Coroutine):
        try:
            _drop_given(awaitable)
            awaitable.close()
        except BaseException as error:  # one of a class of a handler's own
            _log.warning("what nobody will await can't be closed: %s", text_of(error))


def _drop_given(awaitable: Coroutine[Any, Any, Any]) -> None:
    """Drop also what one of the connector's own, which hasn't begun, was given to await."""
    code = getattr(awaitable, "cr_code", None)
    if code is not None and code.co_filename.startswith(_OURS + os.sep):
        for given in inspect.getcoroutinelocals(awaitable).values():
            if not inspect.iscoroutine(given):
                continue
            if inspect.getcoroutinestate(given) == inspect.CORO_CREATED:
                drop(given)


class EventLoop:
    """An event loop on a thread of its own, and another thread that watches it while there is work."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = Process()
        self._coming: deque[Job] = deque()
        #: Whether `_take` is on its way already.
        self._is_woken = False
        #: Whether nobody watches, because there was nothing to do.
        self._is_unwatched = True
        self._to_watch = threading.Event()
        #: How often something was begun, for who watches.
        self._begun = 0
        self._thread = threading.Thread(target=self._run, name="mq-async", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="mq-async-watch", daemon=True).start()

    # ---- from any thread

    def begin(self, job: Job) -> None:
        """Have a job run."""
        self._coming.append(job)
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._take)
        self._note()

    def begin_here(self, job: Job) -> None:
        """The same on the loop itself."""
        job.task = job.context.run(self._loop.create_task, job.coroutine)
        self._note()

    def _note(self) -> None:
        self._begun += 1
        if self._is_unwatched:
            self._is_unwatched = False
            self._to_watch.set()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, behind what was begun before."""
        self._loop.call_soon_threadsafe(function)

    def run(self, awaitable: Awaitable[Any], timeout: float | None = None) -> Any:
        """Run something to its end, and wait for it; not on the loop itself.

        :param timeout: seconds, after which it is cancelled
        :returns: what it returns; it raises what that raises
        :raises TimeoutError: it was cancelled
        """
        return self.send(awaitable).wait(timeout)

    def send(self, awaitable: Awaitable[Any]) -> Errand:
        """Run something; what is returned can be waited for, and cancelled."""
        errand = Errand(self, awaitable)
        self.begin(errand)
        return errand

    def stop(self) -> None:
        """End the loop, in a child that was forked from it."""
        self._loop.stop()

    # ---- on the loop

    def _take(self) -> None:
        self._is_woken = False  # first: what comes from now on wakes it again
        create = self._loop.create_task
        while self._coming:
            job = self._coming.popleft()
            # Not `create_task(context=…)`, which Python 3.10 hasn't.
            job.task = job.context.run(create, job.coroutine)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        complaints = Complaints()
        while True:
            what = "a task has called the event loop's stop()"
            try:
                self._loop.run_forever()
            except (
                BaseException
            ) as error:  # SystemExit in a task that a handler has begun by itself
                what = f"a task wanted to end the event loop: {text_of(error)}"
            if self._process.forked:
                return
            # All that is async in this process is on it.
            _log.log(complaints.level(what), "%s; it goes on", what)

    # ---- the thread that watches

    def _watch(self) -> None:
        complaints = Complaints()
        while True:
            self._to_watch.wait()
            self._to_watch.clear()
            begun, is_idle = -1, False
            while not is_idle or begun != self._begun:
                begun = self._begun
                is_idle = self._look(complaints)
                time.sleep(_LOOK)
            self._is_unwatched = True
            if begun != self._begun:  # just now
                self._to_watch.set()

    def _look(self, complaints: Complaints) -> bool:
        """Find out whether the loop turns.

        :returns: whether there is nothing on it
        """
        turned = threading.Event()
        found: list[bool] = []

        def turn() -> None:
            found.append(not asyncio.all_tasks())
            turned.set()

        self._loop.call_soon_threadsafe(turn)
        since = time.monotonic()
        if not turned.wait(BLOCKED):
            what = _who(sys._current_frames().get(self._thread.ident or 0))
            _log.log(complaints.level(what), "%s", what)
            turned.wait()
            _log.info("the event loop turns again after %.1f s", time.monotonic() - since)
        return found[0]


class Errand:
    """Something that runs on the loop for a thread."""

    def __init__(self, loop: EventLoop, awaitable: Awaitable[Any]) -> None:
        self.context = contextvars.copy_context()
        self.task: asyncio.Task[None] | None = None
        self.coroutine = self._run(awaitable)
        self._loop = loop
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self.coroutine.send(None)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for its end; the result and its errors are those of `EventLoop.run`.

        :param timeout: seconds; None for no limit
        :raises TimeoutError: it has taken longer, and is cancelled
        """
        if not self._done.wait(timeout):
            self.cancel()
            raise TimeoutError(f"it has taken longer than {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._result

    def cancel(self) -> None:
        """Cancel it, from any thread; who waits for it hears a TimeoutError when it has ended."""
        self._loop.call(lambda: self.task and self.task.cancel())

    async def _run(self, awaitable: Awaitable[Any]) -> None:
        has_begun = False
        try:
            await until_begun()
            has_begun = True
            self._result = await awaitable
        except GeneratorExit:
            raise
        except Exception as error:
            self._error = error
        except BaseException as error:  # SystemExit would end the loop
            self._error = TimeoutError(f"it was cancelled: {text_of(error)}")
        finally:
            if not has_begun:
                drop(awaitable)
            self._done.set()


def _who(frame: FrameType | None) -> str:
    """Who keeps the loop, in words: the outermost function that isn't ours or Python's, and the innermost."""
    theirs = []
    while frame is not None:
        code = frame.f_code
        path = os.path.abspath(code.co_filename)
        if not path.startswith(_OURS + os.sep) and not code.co_filename.startswith("<frozen"):
            theirs.append((code, frame.f_lineno, frame.f_globals.get("__name__") or ""))
        frame = frame.f_back
    python = ("asyncio", "threading", "contextlib", "selectors", "concurrent")
    mine = [each for each in theirs if each[2].partition(".")[0] not in python]
    if not mine:
        return f"the event loop stands still for more than {BLOCKED:g} s"
    names = [f"{code.co_name}() ({code.co_filename}:{line})" for code, line, _ in mine]
    inner = f", in {names[0]}" if len(names) > 1 else ""
    return (
        f"{names[-1]} keeps the event loop for more than {BLOCKED:g} s{inner}: everything async waits "
        "meanwhile; await it, or hand it to asyncio.to_thread()"
    )


_lock = threading.Lock()
_current: EventLoop | None = None


def event_loop() -> EventLoop:
    """The process's event loop, which begins when it is first asked for."""
    global _current
    with _lock:
        _current = _current or EventLoop()
        return _current


def _forked() -> None:
    """A child has none of its parent's threads."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(after_in_child=_forked)
