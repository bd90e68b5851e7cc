"""Python's programs without Python's start: forked from a process that has imported what they import.

Hooks, provision.py and cookiecutter's command take a tenth of a second and more each for imports and for
compiling what doesn't change from test to test. Here the process that tests need is a copy of one that has
done both: with the words, the folder, the variables and the standard streams that it was to have. What
only a start by itself can show is not asked of it: with other variables of Python's own, or another
locale, a program starts as it always does.
"""

from __future__ import annotations

import _imp
import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

#: What hooks and provision.py import.
_IMPORTED = (
    *("argparse", "ast", "base64", "datetime", "hashlib", "hmac", "io", "re", "reprlib", "secrets"),
    *("shlex", "shutil", "stat", "textwrap", "time", "urllib.parse", "warnings"),
)
#: Variables that are looked at by what happens once, at the start or in an import.
_ONCE = ("COOKIECUTTER_", "HOME", "LANG", "LC_", "PYTHON")


def run(
    words: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    umask: int = -1,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` does it with a text of all that is printed; for the tests' Python.

    :param words: behind the interpreter's name
    :param timeout: seconds
    """
    environment = dict(os.environ if env is None else env)
    typed = [os.fspath(word) for word in words]
    if not _fits(environment):
        return subprocess.run(
            [sys.executable, *typed],
            cwd=cwd,
            env=environment,
            umask=umask,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), out.fileno(), err.fileno()]
            code = call(typed, streams, os.fspath(cwd), environment, umask, timeout)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess([sys.executable, *typed], code, *said)


def _fits(environment: Mapping[str, str]) -> bool:
    """Whether a copy is as what would start with these variables."""
    here, there = (
        {name: text for name, text in each.items() if name.startswith(_ONCE)}
        for each in (environment, _variables)
    )
    return here == there


def call(
    words: Sequence[str],
    streams: Sequence[int],
    cwd: str,
    environment: Mapping[str, str],
    umask: int = -1,
    timeout: float = 60.0,
) -> int:
    """Run a program with these standard streams; returns its exit code, or minus a signal's number.

    :param timeout: seconds
    :raises subprocess.TimeoutExpired: it has been killed
    """
    text = json.dumps([list(words), cwd, dict(environment), umask]).encode()
    with _turn:
        here = _server()
        socket.send_fds(here, [len(text).to_bytes(8, "big")], streams)
        here.sendall(text)
        pid = int.from_bytes(_read(here, 8), "big")
        try:
            here.settimeout(timeout)
            status = _read(here, 8)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            here.settimeout(None)
            _read(here, 8)
            raise subprocess.TimeoutExpired(words, timeout) from None
    return os.waitstatus_to_exitcode(int.from_bytes(status, "big"))


def hook(command: Sequence[str], *, shell: bool, cwd: str) -> Any:
    """What cookiecutter runs a hook with, in place of subprocess.Popen."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    here = os.path.abspath(cwd)
    if _is_copy:
        code = _copy_again(command[1:], here)
    elif _fits(os.environ):
        code = call(command[1:], (0, 1, 2), here, os.environ)
    else:
        return subprocess.Popen(command, shell=shell, cwd=cwd)
    return SimpleNamespace(wait=lambda: code)


#: To be put in place of `subprocess` in `cookiecutter.hooks`.
HOOKS = SimpleNamespace(Popen=hook)
#: With which the process that gets copied starts.
_variables = dict(os.environ)
#: One program at a time.
_turn = threading.Lock()
#: Whether this is a copy, which has no other threads and can be copied itself.
_is_copy = False


@functools.cache
def _server() -> socket.socket:
    """The connection to the process that gets copied, which ends when this one does."""
    here, there = socket.socketpair()
    with there:
        process = subprocess.Popen(
            [sys.executable, "-B", __file__, str(there.fileno())],
            env=_variables,
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
        )
    atexit.register(process.wait)
    atexit.register(here.close)
    return here


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := connection.recv(size - len(found))):
            raise EOFError("the process that is copied has gone")
        found += more
    return found


# ---- the process that gets copied

#: Bytecode by its source.
_known: dict[bytes, CodeType] = {}


def _serve(connection: socket.socket) -> None:
    """Copy this process for each program that is asked for."""
    global _is_copy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides what it ends
    for name in _IMPORTED:
        importlib.import_module(name)
    _compile_once()
    with contextlib.suppress(EOFError):
        while True:
            size, streams, _, _ = socket.recv_fds(connection, 8, 3)
            if not size:
                return
            words, cwd, environment, umask = json.loads(
                _read(connection, int.from_bytes(size, "big"))
            )
            _prepare(words, cwd)
            pid = os.fork()
            if not pid:
                _is_copy = True
                connection.close()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                os.environ.clear()
                os.environ.update(environment)
                tempfile.tempdir = None
                if umask >= 0:
                    os.umask(umask)
                _be(words, cwd)
            for stream in streams:
                os.close(stream)
            connection.sendall(pid.to_bytes(8, "big"))
            connection.sendall(os.waitpid(pid, 0)[1].to_bytes(8, "big"))


def _copy_again(words: Sequence[str], cwd: str) -> int:
    """Run a hook of a cookiecutter that is a copy itself."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not (pid := os.fork()):
        _be(words, os.path.abspath(cwd))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _be(words: Sequence[str], cwd: str) -> None:
    """Become a program, to its end."""
    code = 1
    try:
        os.chdir(cwd)
        sys.dont_write_bytecode = words[0] == "-B" or bool(
            os.environ.get("PYTHONDONTWRITEBYTECODE")
        )
        words = words[1:] if words[0] == "-B" else words
        for number, (name, mode) in enumerate(
            (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))
        ):
            as_ever = getattr(sys, f"__{name}__")
            at_once = as_ever.write_through and mode == "wb"
            stream = io.TextIOWrapper(
                open(number, mode, buffering=0 if at_once else -1, closefd=False),  # noqa: SIM115
                encoding=as_ever.encoding,
                errors=as_ever.errors,
                line_buffering=name == "stderr",
                write_through=at_once,
            )
            setattr(sys, name, stream)
        code = _ended(functools.partial(_program, words))
        code = max(_ended(getattr(threading, "_shutdown")), code)  # noqa: B009
        atexit._run_exitfuncs()
        sys.stderr.flush()
        try:
            sys.stdout.flush()
        except OSError:
            code = 120
    finally:
        os._exit(code)


def _program(words: Sequence[str]) -> None:
    if words[0] == "-m":
        sys.path[0], sys.argv = os.getcwd(), [*words[1:]]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.realpath(words[0])), [*words]
        runpy.run_path(words[0], run_name="__main__")


def _ended(program: Callable[[], object]) -> int:
    """The exit code of what has ended in this way."""
    try:
        program()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _prepare(words: Sequence[str], cwd: str) -> None:
    """Compile, for all copies to come, what this one will import or render."""
    for file in Path(cwd, "rabbitmq").glob("*.py"):
        source = file.read_bytes()
        if source not in _known:
            with contextlib.suppress(SyntaxError, ValueError):
                _known[source] = compile(source, file, "exec", dont_inherit=True)
    if "cookiecutter" in words[:3]:
        _render_once()
    gc.freeze()


def _compile_once() -> None:
    compiles = SourceFileLoader.source_to_code

    def compile_once(self: SourceFileLoader, data: Any, path: Any, **options: Any) -> CodeType:
        found = _known.get(data) if isinstance(data, bytes) else None
        if found is None:
            return compiles(self, data, path, **options)
        _imp._fix_co_filename(found, os.fspath(path))  # type: ignore[attr-defined]
        return found

    SourceFileLoader.source_to_code = compile_once  # type: ignore[assignment,method-assign]


@functools.cache
def _render_once() -> None:
    """Import cookiecutter, and have Jinja compile the template."""
    import baked
    import cookiecutter.cli
    from cookiecutter import hooks

    contextlib.ExitStack().enter_context(baked.compiled_once())
    with tempfile.TemporaryDirectory() as folder:
        cookiecutter.cli.cookiecutter(
            str(baked.TEMPLATE),
            no_input=True,
            accept_hooks=False,
            output_dir=f"{folder}/out",
            config_file=str(baked.settings(Path(folder, "settings"))),
        )
    hooks.subprocess = HOOKS


if __name__ == "__main__":
    sys.modules["forks"] = sys.modules[__name__]
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _serve(asked)
