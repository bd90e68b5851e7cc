"""`run --reload`: an edit goes live without Docker, no request is lost, and what can't start changes nothing."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import brokers
import pika
import pytest
from baked import BakedProject
from mq_connector import Client, payload
from mq_connector.commands.reload.supervisor import Supervisor
from running import Service, is_running
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

#: Seconds until what takes less than one has happened, on a machine that has other things to do.
PATIENCE = 60.0
QUEUE = "neon_echo_input"


@pytest.fixture(scope="module")
def port(default_project: BakedProject) -> Iterator[int]:
    with brokers.installed(default_project) as number:
        yield number


class Reloading:
    """A service that is started anew after each edit.

    :param port: where its broker listens on this machine
    """

    def __init__(self, project: BakedProject, port: int, home: Path) -> None:
        self.project, self.port = project, port
        self.handler = project.package / "service.py"
        self.original = self.handler.read_text(encoding="utf-8")
        self.service = service = Service(project, port, home)
        self._log = service.log
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                # With bytecode, as a developer runs it.
                [sys.executable, "-m", "neon_echo", "run", "--reload"],
                cwd=project.path,
                env={**service.environment, "PYTHONDONTWRITEBYTECODE": ""},
                stderr=log,
                start_new_session=True,
            )
        self._client: Client | None = None

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def said(self, words: str, times: int = 1) -> None:
        """Wait until the log has that so many times."""
        eventually(lambda: self.log().count(words) >= times, PATIENCE, self.log)

    def answers_late(self, seconds: float) -> Callable[[], Any]:
        """Have a request in hand of a handler that takes so long; returns what waits for the reply."""
        started = self.project.path / "started"
        touch = f'__import__("pathlib").Path({str(started)!r}).touch()'
        self.edit(f'{{"answer": ({touch}, __import__("time").sleep({seconds}), "late")[2]}}')
        self.is_live("late")
        started.unlink()
        replies: list[Any] = []
        asking = threading.Thread(target=lambda: replies.append(self.ask()))
        asking.start()
        eventually(started.exists, PATIENCE)

        def reply() -> Any:
            asking.join(PATIENCE)
            [found] = replies
            return found

        return reply

    def answer(self, expression: str) -> str:
        """The text of the handler, with that as what it returns for the request."""
        old = 'return {"echo": request}'
        assert old in self.original
        return self.original.replace(old, f"return {expression}")

    def edit(self, expression: str) -> None:
        self.handler.write_text(self.answer(expression), encoding="utf-8")

    def ask(self, **request: Any) -> dict[Any, Any]:
        """Ask with a client of this process, whatever the files hold just now."""
        if self._client is None:
            self._client = self.service.client()
        return self._client.request(QUEUE, request, PATIENCE)

    def is_live(self, answer: object) -> None:
        """Wait until it gives that answer."""
        eventually(lambda: self.ask().get("answer") == answer, PATIENCE, self.log)

    def children(self) -> list[int]:
        """Processes that the supervisor has started and that are there."""
        found = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(each) for each in Path(found).read_text().split()]

    def interrupt(self) -> int:
        """Ctrl-C, as a terminal does it: to all of its processes. Returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self._client:
            self._client.close()
        if self.process.poll() is None:
            self.interrupt()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def service(project: BakedProject, port: int, tmp_path: Path) -> Iterator[Reloading]:
    started = Reloading(project, port, tmp_path / "home")
    try:
        started.said("consuming 'neon_echo_input'")
        yield started
    finally:
        started.close()


def write_all(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


class Load:
    """Sends a request each few milliseconds from a thread of its own, and takes the replies."""

    def __init__(self, parameters: pika.ConnectionParameters) -> None:
        self.sent: list[str] = []
        self.replies: list[dict[Any, Any]] = []
        self._parameters = parameters
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def missing(self) -> set[str]:
        return {*self.sent} - {reply["message_id"] for reply in self.replies}

    def has_heard(self, version: int) -> bool:
        return any(each.get("version") == version for each in self.replies[-5:])

    def finish(self) -> None:
        """Send no more, and wait until all that were sent have their replies."""
        self._enough.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        channel = connection.channel()
        replies = f"neon_echo.reply.{secrets.token_hex(16)}"
        channel.queue_declare(replies, exclusive=True)
        channel.basic_consume(
            replies,
            lambda _channel, _method, _properties, body: self.replies.append(payload.decode(body)),
            auto_ack=True,
        )
        deadline = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < deadline and (not self._enough.is_set() or self.missing()):
            if not self._enough.is_set():
                message_id = secrets.token_hex(8)
                request = {"message_id": message_id, "routing_key": replies}
                channel.basic_publish("", QUEUE, payload.encode(request))
                self.sent.append(message_id)
            connection.process_data_events(0.01)
        connection.close()


def test_no_request_is_lost_while_three_edits_go_live(service: Reloading) -> None:
    service.original = service.original.replace(
        "reply = self.answer(request.data)",
        'reply = {**self.answer(request.data), "again": method.redelivered}',
    ).replace("from typing", "import time\nfrom typing")
    load = Load(service.service.parameters())
    try:
        for version in (1, 2, 3):
            service.edit(f'{{"version": {version}, "took": time.sleep(0.005)}}')
            eventually(partial(load.has_heard, version), PATIENCE, service.log)
        eventually(lambda: len(load.sent) >= 100, PATIENCE)
    finally:
        load.finish()
    assert load.missing() == set()
    answers = Counter(reply["message_id"] for reply in load.replies)
    again = {reply["message_id"] for reply in load.replies if reply.get("again")}
    assert {each for each, count in answers.items() if count > 1} <= again
    versions = [reply.get("version", 0) for reply in load.replies]
    assert {*versions} == {0, 1, 2, 3}
    assert service.log().count("consuming 'neon_echo_input'") == 4


def test_a_request_in_hand_is_answered_by_the_version_that_took_it(service: Reloading) -> None:
    started = service.project.path / "started"
    service.edit(
        f'{{"answer": "old", "waited": ({str(started)!r} and __import__("pathlib").Path('
        f'{str(started)!r}).touch(), __import__("time").sleep(3 if request.get("wait") else 0))[1]}}'
    )
    service.is_live("old")
    started.unlink()
    replies: list[Any] = []
    asking = threading.Thread(target=lambda: replies.append(service.ask(wait=True)))
    asking.start()
    eventually(started.exists, PATIENCE)
    service.edit('{"answer": "new"}')
    service.is_live("new")
    asking.join(PATIENCE)
    assert [reply["answer"] for reply in replies] == ["old"]
    assert "unfinished" not in service.log()


BROKEN = {
    "syntax error": ("def answer(:\n", "SyntaxError"),
    "import error": ("import nothing_there\n", "No module named 'nothing_there'"),
    "not to be made": (
        "class NeonEchoService:\n    def __init__(self):\n        1 / 0\n",
        "ZeroDiv",
    ),
    "an exit": ("raise SystemExit(7)\n", "exit code 7"),
}


def test_what_cant_start_is_shown_and_the_version_before_goes_on(service: Reloading) -> None:
    service.edit('{"answer": "fine"}')
    service.is_live("fine")
    [serving] = service.children()
    for number, (text, shown) in enumerate(BROKEN.values(), 1):
        service.handler.write_text(text)
        service.said("the version before goes on", number)
        assert shown in service.log()
        assert service.ask()["answer"] == "fine"
        assert service.children() == [serving]
    shown = service.log().partition("nothing_there")[0].rpartition("Traceback")[2]
    assert len(re.findall("  File ", shown)) == 1, "where it happened, and not our own frames"
    service.edit('{"answer": "mended"}')
    service.is_live("mended")


def test_a_module_that_is_deleted_is_missed_and_found_again(service: Reloading) -> None:
    helper = service.project.package / "helper.py"
    helper.write_text('WORD = "first"\n')
    service.original = service.original.replace(
        "from typing", "from .helper import WORD\nfrom typing"
    )
    service.edit('{"answer": WORD}')
    service.is_live("first")
    helper.unlink()
    service.said("No module named 'neon_echo.helper'")
    service.said("the version before goes on")
    assert service.ask()["answer"] == "first"
    helper.write_text('WORD = "again"\n')
    service.is_live("again")


def test_an_editor_may_save_by_renaming_and_keep_time_and_size(service: Reloading) -> None:
    service.edit('{"answer": "before"}')
    service.is_live("before")
    before = service.handler.stat()
    new = service.handler.with_name("service.py~")
    new.write_text(service.answer('{"answer": "behind"}'))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(service.handler)
    service.is_live("behind")


def test_an_edit_of_the_same_second_and_size_goes_live(service: Reloading) -> None:
    """Python would take what it has compiled of the version before."""
    service.edit('{"answer": 1111}')
    os.utime(service.handler, (1.7e9, 1.7e9))
    service.is_live(1111)
    service.edit('{"answer": 2222}')
    os.utime(service.handler, (1.7e9 + 0.5, 1.7e9 + 0.5))
    service.is_live(2222)


def test_many_files_at_once_are_one_edit(service: Reloading) -> None:
    names = [f"part{number}" for number in range(60)]
    parts = {service.project.package / f"{name}.py": "VALUE = 1\n" for name in names}
    write_all(parts)
    service.said("consuming 'neon_echo_input'", 2)
    imports = "".join(f"from . import {name}\n" for name in names)
    service.original = service.original.replace(
        "from .mq_connector", f"{imports}from .mq_connector"
    )
    write_all(dict.fromkeys(parts, "VALUE = 2\n"))
    service.edit(f'{{"answer": sum(each.VALUE for each in ({", ".join(names)}))}}')
    service.is_live(120)
    # A busy machine may stop between two of them.
    assert service.log().count(" changed\n") <= 4, service.log()


def test_a_setting_is_an_edit_too(service: Reloading) -> None:
    before = service.log().count("consuming 'neon_echo_input'")
    with (service.project / ".env").open("a", encoding="utf-8") as file:
        file.write("\nLOG_LEVEL=DEBUG\n")
    service.said("consuming 'neon_echo_input'", before + 1)
    assert ".env changed" in service.log()


def test_a_setting_that_cant_be_leaves_the_version_before_where_it_is(service: Reloading) -> None:
    settings = service.project / ".env"
    before = settings.read_text(encoding="utf-8")
    [serving] = service.children()
    for number, line in enumerate(("MQ_WORKERS=two", "MQ_METRICS_PORT=0", "MQ_TRACING=loud"), 1):
        settings.write_text(f"{before}\n{line}\n", encoding="utf-8")
        service.said("the version before goes on", number)
        assert f"{line.partition('=')[0]} is " in service.log()
        assert service.children() == [serving]


def test_ctrl_c_ends_all_when_the_request_in_hand_is_answered(service: Reloading) -> None:
    late = service.answers_late(1.5)
    [serving] = service.children()
    # A terminal tells both. However late the one that passes it on, it is one Ctrl-C.
    os.kill(serving, signal.SIGINT)
    time.sleep(0.4)
    os.kill(service.process.pid, signal.SIGINT)
    assert service.process.wait(PATIENCE) == 0
    assert late()["answer"] == "late"
    assert not is_running(serving)
    assert "ending at once" not in service.log()


def test_ctrl_c_while_a_version_makes_way_for_the_next_lets_it_finish(service: Reloading) -> None:
    """It drains already, and has heard of that by another signal: its terminal's is the first Ctrl-C all the same."""
    late = service.answers_late(3)
    before = service.log().count("finishing what is in hand")
    service.edit('{"answer": "next"}')
    service.said("finishing what is in hand", before + 1)
    time.sleep(0.4)
    assert service.interrupt() == 0
    assert late()["answer"] == "late"
    assert "ending at once" not in service.log()


def test_a_second_ctrl_c_ends_at_once(service: Reloading) -> None:
    started = service.project.path / "started"
    touch = f'__import__("pathlib").Path({str(started)!r}).touch()'
    service.edit(f'{{"answer": ({touch}, __import__("time").sleep(20), "late")[2]}}')
    service.said("consuming 'neon_echo_input'", 2)
    sent = {"routing_key": "neon_echo.reply.nobody", "message_id": "x"}
    with service.service.channel() as channel:
        channel.basic_publish("", QUEUE, payload.encode(sent))
    eventually(started.exists, PATIENCE)
    os.killpg(service.process.pid, signal.SIGINT)
    service.said("finishing what is in hand", 2)
    time.sleep(0.4)
    assert service.interrupt() != 0
    assert "ending at once" in service.log()


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """`timeout` and `make` signal a process and its group; the second word is told when the first is long heard."""

    class Version:
        is_ready, is_stopping, stops, looks = True, False, 0, 0

        def fileno(self) -> int:
            return -1

        @property
        def exit_code(self) -> int | None:
            return 0 if self.looks > 6 else None

        def listen(self) -> None:
            self.looks += self.is_stopping
            if self.looks == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        def go(self) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)

        def stop(self) -> None:
            self.is_stopping, self.stops = True, self.stops + 1

        def kill(self) -> None:
            pass

    version: Any = Version()
    sources: Any = SimpleNamespace(changed=list)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert Supervisor(sources, lambda: version).run() == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert version.stops == 2, "one for the two, one for the later one"


def test_a_signal_to_the_supervisor_alone_is_passed_on(service: Reloading) -> None:
    [serving] = service.children()
    service.process.terminate()
    assert service.process.wait(PATIENCE) == 0
    assert not is_running(serving)
    assert "finishing what is in hand" in service.log()


def test_a_supervisor_that_is_killed_leaves_nothing_running(service: Reloading) -> None:
    [serving] = service.children()
    service.process.kill()
    service.process.wait(PATIENCE)
    eventually(lambda: not is_running(serving), PATIENCE, service.log)
    assert "finishing what is in hand" in service.log()


def test_a_service_that_ends_by_itself_is_started_by_the_next_edit(service: Reloading) -> None:
    [serving] = service.children()
    os.kill(serving, signal.SIGKILL)
    service.said("the service has ended with -9")
    service.edit('{"answer": "back"}')
    service.is_live("back")


def test_a_service_that_is_broken_from_the_start_waits_to_be_mended(
    project: BakedProject, port: int, tmp_path: Path
) -> None:
    handler = project.package / "service.py"
    text = handler.read_text(encoding="utf-8")
    handler.write_text("def answer(:\n")
    started = Reloading(project, port, tmp_path / "home")
    try:
        started.said("no version is running")
        handler.write_text(text, encoding="utf-8")
        started.said("consuming 'neon_echo_input'")
        assert started.interrupt() == 0
    finally:
        started.close()
