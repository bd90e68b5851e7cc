"""One version of a service: the process that has imported it, and later serves.

The two are linked by a pair of sockets. The process says on it that it is ready, and waits there for its
turn; when the link is closed, for whatever reason, it finishes what it has in hand and ends.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from ...connector import DRAIN

#: What the process says when the service has been imported and made, and what it is told when it shall serve.
READY, GO = b"r", b"g"
#: Seconds that a version gets to drain; it ends itself after two less.
_DRAINED_WITHIN = DRAIN + 4.0
#: Seconds that one gets to end that has never served.
_DISCARDED_WITHIN = 2.0


def command() -> list[str]:
    """How this process was started, without the service's own words: other options of Python's hold on."""
    words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    return [sys.executable, *words]


class Version:
    """Starts a process that imports the service; for the main thread.

    :param words: what runs the service's command line
    """

    def __init__(self, words: list[str]) -> None:
        #: Whether it has been imported, and waits for its turn or has had it.
        self.is_ready = False
        self.is_stopping = False
        self._deadline = 0.0
        self._link, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            # A terminal's Ctrl-C reaches it as well: until it serves, that is for us, who will end it.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self._process = subprocess.Popen(
                    [*words, "run", "--standby", str(number)], pass_fds=[number]
                )
            finally:
                signal.signal(signal.SIGINT, before)
        self._link.setblocking(False)

    def fileno(self) -> int:
        """For `select`; -1 when there is nothing to be heard any more."""
        return self._link.fileno()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def listen(self) -> None:
        """Take in what it has said."""
        try:
            said = self._link.recv(1) if self._link.fileno() >= 0 else b""
        except BlockingIOError:
            pass
        except OSError:  # it has ended without having heard what it was told
            self._link.close()
        else:
            if said:
                self.is_ready = True
            else:
                self._link.close()  # it has ended, or soon will have
        if self.is_stopping and time.monotonic() > self._deadline:
            self._process.kill()

    def go(self) -> None:
        """Let it serve."""
        with suppress(OSError):  # it has ended
            self._link.sendall(GO)

    def stop(self) -> None:
        """Ask it to finish what it has in hand; a second time, to end at once."""
        if self.is_stopping:
            self._process.send_signal(signal.SIGTERM)
            return
        self.is_stopping = True
        self._deadline = time.monotonic() + _DRAINED_WITHIN
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def discard(self) -> None:
        """End a process that has never served, and wait for that."""
        self._process.terminate()
        try:
            self._process.wait(_DISCARDED_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
        self._link.close()

    def kill(self) -> None:
        """Kill the process, if it runs."""
        self._link.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
