"""Whether a running service truly consumes: asked over a local socket, answered by the broker.

Nothing is polled while nobody asks. The asking side needs neither pika nor the service's own code,
because a container runs it every few seconds.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import ConfigurationError

#: Seconds within which the broker must have answered.
ANSWER_WITHIN = 1.5
#: What is answered where all is well.
CONSUMING = "consuming"
#: What stands between that and what is to be said to it.
_BUT = "; "
#: Of Python on Windows, which has no such sockets.
_NO_SOCKETS = (
    "the service and its health check need Unix's local sockets: run them in the container "
    "(docker compose up) or in WSL"
)
#: Bytes that a socket's path may have: 107 on Linux (unix(7)), on macOS and the BSDs fewer.
_LONGEST = 103
#: Bytes of a socket's name in its folder: a slash, the number of its process, and the ending.
_FILE = len("/4194304.sock")
#: Where who has logged in has a runtime folder, called by the user's number.
_LOGINS = "/run/user"
#: Where all may put files.
_TEMPORARY = "/tmp"
#: How often the folder is made anew while others take it away.
_ATTEMPTS = 10


def folder(service_name: str) -> Path:
    """Where the services of this name, user and installation keep their sockets, one a process.

    In the user's runtime folder, or the one for temporary files; where its name is too long for a
    socket below it, in ``/tmp``.
    """
    name = _name(service_name)
    for base in (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR")):
        if base and len(os.fsencode(Path(base, name))) + _FILE <= _LONGEST:
            return Path(base, name)
    return Path(_TEMPORARY, name)


def _name(service_name: str) -> str:
    # Another copy of the repository is another service, though it may have the same name; by whatever
    # path it is reached.
    here = os.path.realpath(__file__)
    whose = zlib.crc32(os.fsencode(f"{os.getuid()} {service_name} {here}"))
    return f"mq-{whose:08x}"


def _folders(service_name: str) -> list[Path]:
    """Where such services may be, the usual folder first.

    A service that systemd or cron starts has no runtime folder, and who logs in to ask it has one; or the other
    way round. A folder that somebody has chosen is the only one.
    """
    usual, name = folder(service_name), _name(service_name)
    login = f"{_LOGINS}/{os.getuid()}"
    if os.environ.get("XDG_RUNTIME_DIR", login) != login:
        return [usual]
    return list(dict.fromkeys([usual, Path(login, name), Path(_TEMPORARY, name)]))


def _is_ours(path: Path) -> bool:
    """In a folder that anybody may write to, somebody else could have been there first."""
    found = path.lstat()
    private = not stat.S_IMODE(found.st_mode) & 0o022
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and private


def _may_be_asked(path: Path) -> bool:
    """The same of a folder that may well not be there."""
    try:
        return _is_ours(path)
    except OSError:
        return False


def _sockets(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.sock"))


class HealthServer:
    """Answers `check` for this process.

    :param look: starts to find out, and calls its argument with a reason, empty if all is well
    :param busy: says why a request may wait though all is well; empty if none has to
    :raises ConfigurationError: there can be no socket where `folder` says
    """

    def __init__(
        self,
        service_name: str,
        look: Callable[[Callable[[str], None]], None],
        busy: Callable[[], str] = str,
    ) -> None:
        self._look = look
        self._busy = busy
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigurationError(_NO_SOCKETS)
        self._path = folder(service_name) / f"{os.getpid()}.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._appear()
        except OSError as error:
            self._socket.close()
            raise ConfigurationError(
                f"{self._path}: the health check's socket can't be made ({error}); "
                "set XDG_RUNTIME_DIR to a folder that can be written"
            ) from None
        threading.Thread(target=self._serve, name="mq-health", daemon=True).start()

    def _appear(self) -> None:
        """Have the socket in its folder, which a process that ends may just be taking away.

        It gets its name when it can be asked: one that refuses is taken for a dead process's, and removed.
        """
        unnamed = self._path.with_suffix(".new")
        for attempt in range(_ATTEMPTS, 0, -1):
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not _is_ours(self._path.parent):
                    raise PermissionError("the folder is another user's, or others may write to it")
                unnamed.unlink(missing_ok=True)
                self._socket.bind(str(unnamed))
                break
            except FileNotFoundError:
                if attempt == 1:
                    raise
        self._socket.listen(8)
        unnamed.rename(self._path)

    def close(self) -> None:
        """Take the socket away, and the folder after the last one in it."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # others are in it, or it has gone
            self._path.parent.rmdir()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # merely closed, it wouldn't end `accept`
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return  # closed
                time.sleep(0.1)  # no file left, say: that passes
                continue
            with connection:
                connection.settimeout(ANSWER_WITHIN)
                try:
                    connection.sendall(answer(self._look, self._busy).encode())
                except OSError:
                    continue  # whoever asked has gone


def answer(look: Callable[[Callable[[str], None]], None], busy: Callable[[], str] = str) -> str:
    """Find out, and wait for it.

    :param look: starts to, and calls its argument with a reason, empty if all is well
    :param busy: see `HealthServer`
    :returns: `CONSUMING`, also with what may be said to it, or why not
    """
    answered = threading.Event()
    answers: list[str] = []

    def done(reason: str) -> None:
        answers.append(reason)
        answered.set()

    try:
        look(done)
        if not answered.wait(ANSWER_WITHIN):
            return f"the broker hasn't answered within {ANSWER_WITHIN} s"
        return answers[0] or CONSUMING + (f"{_BUT}{said}" if (said := busy()) else "")
    except Exception as error:  # this thread must be there for the next question
        return f"the service can't tell: {type(error).__name__}: {error}"


def check(service_name: str) -> tuple[bool, str]:
    """Ask every running service of this name.

    :returns: whether there is one and all of them consume; and what to tell a person
    """
    if not hasattr(socket, "AF_UNIX"):
        return False, _NO_SOCKETS
    reasons, notes = [], []
    running = 0
    usual, *others = _folders(service_name)
    with suppress(FileNotFoundError):  # or it goes just now
        if not _is_ours(usual):
            return False, f"{usual}: the folder is another user's, or others may write to it"
    for path in (
        path for each in (usual, *filter(_may_be_asked, others)) for path in _sockets(each)
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_WITHIN + 0.5)
            try:
                connection.connect(str(path))
                said = connection.recv(1024)
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)  # left by a process that was killed
                continue
            except OSError as error:
                said = f"no answer ({error})".encode()
        running += 1
        text = said.decode(errors="replace")
        state, _, note = text.partition(_BUT)
        if state != CONSUMING:
            reasons.append(f"process {path.stem}: {text or 'no answer'}")
        elif note:
            notes.append(f"process {path.stem}: {note}")
    if not running:
        return False, f"no {service_name} is running here"
    return not reasons, "; ".join(reasons) or _BUT.join([CONSUMING, *notes])
