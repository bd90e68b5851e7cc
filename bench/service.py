"""The generated service: rendered from the tree, with defaults, and started as its user would."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .environment import TEMPLATE

PACKAGE, SLUG, QUEUE, VHOST = "neon_echo", "neon-echo", "neon_echo_input", "/neon_echo"
CLASS = "NeonEchoService"
#: Exchange and queue of events.
EVENTS = "bench.events"
_ANSWER = '        return {"echo": request}\n'
_SLEEP = "        time.sleep({seconds})\n"
_SPIN = """\
        end = time.thread_time() + {seconds}
        while time.thread_time() < end:
            sum(range(1000))
"""
_PACE = """\
        next(_counted)
        if {seconds}:
            time.sleep({seconds})
"""
#: How many requests a replica has handled, written when it ends.
_COUNT = """

_counted = itertools.count()
atexit.register(lambda: Path(os.environ["BENCH_COUNT"]).write_text(str(next(_counted))))
"""
_ASKED = "        return respond(channel, request, self.answer)\n"
_EVENT = f'        channel.basic_publish("{EVENTS}", "asked", body)\n'
_MANY = """

_one = {name}.__init__


def _many(self: {name}, config: Mapping[str, Any] | None = None) -> None:
    _one(self, config)
    connection = self.create_mq_connection()
    for number in range(1, {count}):
        queue = f"{{INPUT_QUEUE}}.{{number}}"
        self.consumers[queue] = ConsumerThread(connection, queue, self.handle_api_input)


{name}.__init__ = _many
"""
_SOME = """

_serve = {name}._serve_metrics


def _serve_some(self: {name}) -> Any:
    served = _serve(self)
    self.consumers[[*self.consumers][{number}]].observer = None
    return served


{name}._serve_metrics = _serve_some
"""
_REST = """\
        if {seconds}:
            await asyncio.sleep({seconds})
"""
#: The name of its queue, and where it is read from instead.
_NAMED = f'\nINPUT_QUEUE = "{QUEUE}"\n'
_TOLD = '\nINPUT_QUEUE = __import__("os").environ["BENCH_QUEUE"]\n'
_WORK = {"async": _REST, "sleep": _SLEEP, "spin": _SPIN, "pace": _PACE, "event": _EVENT}
_IMPORTS = "import asyncio\nimport atexit\nimport itertools\nimport os\nimport time\nfrom pathlib import Path\n"
_SYNC, _ASYNC = "    def answer(", "    async def answer("


class RenderFailed(Exception):
    """The template could not be rendered, or is no longer as the harness knows it."""


def render(folder: Path) -> Path:
    """Render the template with defaults; returns the generated repository."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "cookiecutter.yaml"
    places = {"cookiecutters_dir": str(folder / "clones"), "replay_dir": str(folder / "replay")}
    settings.write_text(json.dumps(places), encoding="utf-8")
    shutil.rmtree(folder / SLUG, ignore_errors=True)
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--config-file", str(settings)]
    done = subprocess.run(
        [*command, "--output-dir", str(folder), str(TEMPLATE)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RenderFailed(f"cookiecutter failed: {done.stderr.strip()[-300:]}")
    return folder / SLUG


def fingerprint() -> str:
    """Changes when the template, the harness or what a peer depends on does: another run, then."""
    digest = hashlib.sha256(sys.version.encode())
    for tree in ("<<cookiecutter.service_slug>>", "hooks", "bench"):
        for file in sorted((TEMPLATE / tree).rglob("*")):
            # The baseline is what a run makes, not what makes it.
            if file.is_file() and file.suffix != ".pyc" and file.name != "baseline.json":
                digest.update(file.read_bytes())
    digest.update((TEMPLATE / "cookiecutter.json").read_bytes())
    return digest.hexdigest()[:16]


class Service:
    """A generated repository whose handler can be edited, as its README says to do."""

    def __init__(self, project: Path) -> None:
        self.project = project
        # What has been made, which others may be running from.
        self._edited: dict[str, Path] = {}

    def source(self, task: str = "echo", consumers: int = 1, is_told: bool = False) -> Path:
        """Folder to import from; another one for every way of handling a request.

        :param task: ``echo`` for the handler as generated, or ``sleep SECONDS``, ``spin SECONDS``,
            ``pace SECONDS`` (waits, and counts), ``event`` (publishes one), ``async SECONDS`` (is async, and
            sleeps), ``uncounted NUMBER`` (the metrics leave out that queue)
        :param consumers: queues that it consumes, each on a thread of its own
        :param is_told: it reads the name of its queue from ``BENCH_QUEUE``
        """
        kind, _, seconds = task.partition(" ")
        if kind == "echo" and consumers == 1 and not is_told:
            return self.project / "src"
        name = f"{task}-{consumers}{'-told' if is_told else ''}".replace(" ", "-")
        if name in self._edited:
            return self._edited[name]
        folder = self.project.parent / "edited" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.project / "src", folder)
        file = folder / PACKAGE / "service.py"
        text = file.read_text(encoding="utf-8")
        if kind == "uncounted":
            text += _SOME.format(name=CLASS, number=seconds)
        elif kind != "echo":
            before = _ASKED if kind == "event" else _ANSWER
            if text.count(before) != 1:
                raise RenderFailed(f"{file} has no line {before.strip()!r} to put work before")
            work = _WORK[kind].format(seconds=seconds or 0)
            if kind == "async":
                text = text.replace(_SYNC, _ASYNC)
            text = text.replace(before, work + before).replace(
                "import pika\n", f"{_IMPORTS}\nimport pika\n"
            )
        if kind == "pace":
            text += _COUNT
        if is_told:
            if text.count(_NAMED) != 1:
                raise RenderFailed(f"{file} has no line {_NAMED.strip()!r} to put another name in")
            text = text.replace(_NAMED, _TOLD)
        if consumers > 1:
            text += _MANY.format(name=CLASS, count=consumers)
        file.write_text(text, encoding="utf-8")
        self._edited[name] = folder
        return folder

    def compile(self, python: Path) -> None:
        """Make the bytecode, as an installation does and the image has it."""
        subprocess.run([python, "-m", "compileall", "-q", str(self.project / "src")], timeout=60)

    def versions(self) -> str:
        """Commit of the template, and whether the tree has changes on top."""
        git = ["git", "-C", str(TEMPLATE)]
        try:
            head = subprocess.run(
                [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
            )
            changes = subprocess.run(
                [*git, "status", "--porcelain", "--", str(TEMPLATE)], capture_output=True
            )
        except OSError:
            return "unknown"
        return head.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def environment(port: int) -> dict[str, str]:
    """What the service needs to know beside its own files."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
    base = {name: os.environ[name] for name in kept if name in os.environ}
    return {**base, "MQ_PORT": str(port)}
