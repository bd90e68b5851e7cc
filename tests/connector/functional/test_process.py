"""The generated service as a process: signals, exit codes, health and doctor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bytecode
import pytest
from baked import BakedProject
from mq_connector import payload
from mq_connector.connector import DRAIN
from running import can_be_asked
from waiting import eventually

from .broker import LIMITED, PASSWORD, SERVICE, SERVICE_QUEUE, VHOST, Broker
from .conftest import Record
from .peer import Peer

QUEUE = SERVICE_QUEUE

pytestmark = pytest.mark.timeout(300)


class Service:
    """`python -m neon_echo` of a project, with its own configuration and its own runtime folder."""

    def __init__(self, project: BakedProject, folder: Path, port: int, password: str) -> None:
        bytecode.lend(project.package)
        user = {"username": SERVICE, "password": password}
        config = {"server": "127.0.0.1", "port": port, "users": {SERVICE: user}}
        self.config = folder / "config.json"
        self.config.write_text(json.dumps(config), encoding="utf-8")
        self.log = folder / "service.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MQ_")}
        self._environment = {
            **kept,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PYTHONPATH": str(project.path / "src"),
            "NEON_MQ_CONFIG_PATH": str(self.config),
        }
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, healthy: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """Start the service, and wait until it is healthy."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", SERVICE],
                cwd=self._folder,
                env={**self._environment, **environment},
                stdout=log,
                stderr=log,
            )
        self._running.append(process)
        if healthy:
            eventually(lambda: can_be_asked(process, self._folder), what="a health check")
            eventually(lambda: self.is_healthy() or process.poll() is not None, what="healthy")
            assert process.poll() is None, self.said
        return process

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another of the service's commands."""
        return self.run("-m", SERVICE, *words)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the service's surroundings."""
        return subprocess.run(
            [sys.executable, "-B", *words],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a line of a shell, in which `service` is the service's command."""
        command = f"{sys.executable} -B -m {SERVICE}"
        return subprocess.run(
            ["bash", "-c", script.replace("service ", f"{command} ")],
            cwd=self._folder,
            env={**self._environment, "PYTHONUNBUFFERED": "", **environment},
            capture_output=True,
            encoding=environment.get("PYTHONIOENCODING", "utf-8"),
            timeout=90,
        )

    def is_healthy(self) -> bool:
        return self.command("health").returncode == 0

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait(60)


Make = Callable[..., Service]


@pytest.fixture
def make(project: BakedProject, tmp_path: Path, broker: Broker) -> Iterator[Make]:
    """A service whose handler sleeps for as long as the request asks it to."""
    made: list[Service] = []
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    answer = 'return {"echo": request}'
    assert answer in text
    slow = f'import time; time.sleep(request.get("sleep", 0)); {answer}'
    file.write_text(text.replace(answer, slow), encoding="utf-8")

    def make(port: int | None = None, password: str = PASSWORD) -> Service:
        folder = tmp_path / f"run-{len(made)}"
        folder.mkdir()
        made.append(Service(project, folder, port or broker.port, password))
        return made[-1]

    yield make
    for service in made:
        service.end()


def busy(
    service: Service, asking: Peer, seconds: float, text: str
) -> tuple[subprocess.Popen[bytes], str]:
    """Start it and give it a request that takes so long; returns its process and the reply queue."""
    process = service.start()
    replies = asking.request(QUEUE, sleep=seconds, text=text)
    eventually(lambda: asking.count(QUEUE)[0] == 0, what="the request is in hand")
    time.sleep(0.1)
    return process, replies


def test_it_answers_is_healthy_and_ends_with_0_on_sigterm(make: Make, asking: Peer) -> None:
    service = make()
    assert not service.is_healthy()
    process = service.start()
    assert asking.ask(QUEUE, text="hi")["echo"] == {"text": "hi"}
    done = service.command("request", '{"text": "hi"}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["echo"] == {"text": "hi"}
    doctor = service.command("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "FAIL" not in doctor.stdout
    process.terminate()
    assert process.wait(60) == 0, service.said
    health = service.command("health")
    assert health.returncode == 1 and "no neon_echo is running" in health.stderr
    assert PASSWORD not in service.said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_requests_and_letters_are_shown_on_any_terminal(
    make: Make, asking: Peer, encoding: str
) -> None:
    service = make()
    service.start()
    settings = {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    for text in ('{"text": "ü 日本 😀"}', r"""$'{"text": "\xff half: \\ud83d"}'"""):
        quoted = text if text.startswith("$") else f"'{text}'"
        done = service.shell(f"service request {quoted}", **settings)
        assert (done.returncode, done.stderr) == (0, "")
        echo = json.loads(done.stdout)["echo"]["text"]
        assert echo in ("ü 日本 😀", "\udcff half: \ud83d")
        assert done.stdout.isascii() or encoding != "ascii"
    service.end()
    asking.publish(f"{QUEUE}.dead", {"text": "ü 日本 😀 \ud83d"})
    done = service.shell("service dead", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_a_command_whose_output_goes_nowhere_says_so_in_one_line_at_most(
    make: Make, asking: Peer
) -> None:
    service = make()
    service.start()
    for number in range(300):
        asking.publish(f"{QUEUE}.dead", {"number": number})
    gone = service.shell("service dead | head -1; echo ${PIPESTATUS[0]}")
    assert gone.stderr == ""
    assert [len(gone.stdout.splitlines()), gone.stdout.splitlines()[-1]] == [2, "1"]
    for words in ("dead", "doctor", "health", "request '{}'", "--help"):
        full = service.shell(f"service {words} > /dev/full")
        told = f"{SERVICE}: can't write to the standard output: No space left on device\n"
        assert (full.returncode, full.stderr) == (1, told), words
    asking.rests_at(f"{QUEUE}.dead", 300)
    asking.channel.queue_purge(f"{QUEUE}.dead")


def test_a_reply_that_is_an_error_is_printed_and_ends_with_1(make: Make, asking: Peer) -> None:
    service = make()
    service.start()
    done = service.command("request", '{"sleep": "soundly"}')
    assert done.returncode == 1 and done.stderr == ""
    reply = json.loads(done.stdout)
    assert (reply["success"], reply["code"]) == (False, 500)
    asking.channel.queue_purge(f"{QUEUE}.dead")


def test_a_number_that_json_has_not_is_refused_before_it_is_sent(make: Make, asking: Peer) -> None:
    if asking.has(QUEUE):
        asking.channel.queue_delete(QUEUE)
    done = make().command("request", '{"x": 1e999}')
    assert done.returncode == 1
    assert done.stderr == (
        f"{SERVICE}: the request isn't valid JSON: 1e999 is too large for a number\n"
    )


def test_health_finds_the_service_through_a_link(
    make: Make, project: BakedProject, asking: Peer, tmp_path: Path
) -> None:
    service = make()
    service.start()
    link = tmp_path / "link"
    link.symlink_to(project.path)
    assert service.shell("service health", PYTHONPATH=str(link / "src")).returncode == 0


def test_sigterm_in_the_middle_of_a_request_finishes_it(
    make: Make, asking: Peer, record: Record
) -> None:
    service = make()
    process, replies = busy(service, asking, 4, "last")
    process.terminate()
    began = time.monotonic()
    eventually(lambda: not service.is_healthy(), what="not healthy, as it takes nothing more")
    assert process.poll() is None, "it has ended before its request"
    assert asking.reply(replies)["echo"]["text"] == "last"
    assert process.wait(60) == 0, service.said
    ended = time.monotonic() - began
    record("end: SIGTERM in the middle of a request", bound=8.0, recovery=round(ended, 3))
    asking.rests_at(QUEUE, 0, consumers=0)


def test_a_request_behind_a_handler_that_takes_its_time_says_why_it_waits(
    make: Make, asking: Peer
) -> None:
    service = make()
    process, _ = busy(service, asking, 120, "slow")
    words = f"every worker of {QUEUE!r} has been in its handler for "
    eventually(lambda: words in service.command("health").stdout)
    assert service.is_healthy()
    assert words in service.command("doctor").stdout
    done = service.command("request", "{}", "--timeout", "1")
    assert done.returncode == 1 and words in done.stderr
    process.kill()


def test_a_second_sigterm_ends_it_at_once_and_loses_nothing(
    make: Make, asking: Peer, record: Record
) -> None:
    service = make()
    process, replies = busy(service, asking, 20, "again")
    process.terminate()
    time.sleep(0.3)
    began = time.monotonic()
    process.terminate()
    assert process.wait(60) == 1, service.said
    ended = time.monotonic() - began
    assert ended < DRAIN / 2
    record("end: a second SIGTERM", bound=3.0, recovery=round(ended, 3))
    asking.rests_at(QUEUE, 1, consumers=0)
    assert payload.decode(asking.take(QUEUE)[1])["routing_key"] == replies


#: The generated service, sent SIGTERM while its main thread holds the lock that stopping needs.
INTERRUPTED = """
import os, signal, sys, time
from neon_echo.service import NeonEchoService

service = NeonEchoService()
[consumer] = service.consumers.values()
wait = service._ended.wait

def interrupted(seconds):
    while not consumer.is_consuming:
        time.sleep(0.01)
    with consumer._supervision.stopping._cond:  # as `Event.set` has it for a moment
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    return wait()

service._ended.wait = interrupted
sys.exit(service.serve())
"""


def test_a_signal_that_interrupts_a_lock_s_holder_still_ends_it(make: Make, asking: Peer) -> None:
    done = make().run("-c", INTERRUPTED)
    assert done.returncode == 0, done.stderr
    asking.rests_at(QUEUE, 0, consumers=0)


@pytest.mark.slow
def test_past_its_deadline_it_ends_with_1_and_loses_nothing(
    make: Make, asking: Peer, record: Record
) -> None:
    service = make()
    process, replies = busy(service, asking, 60, "too long")
    began = time.monotonic()
    process.terminate()
    assert process.wait(DRAIN + 30) == 1, service.said
    ended = time.monotonic() - began
    assert ended > DRAIN - 1
    assert "unfinished messages: 1;" in service.said
    record(f"end: SIGTERM, {DRAIN:g} s are not enough", bound=DRAIN + 5, recovery=round(ended, 3))
    asking.rests_at(QUEUE, 1, consumers=0)
    assert payload.decode(asking.take(QUEUE)[1])["routing_key"] == replies


def test_ctrl_c_is_like_sigterm(make: Make, asking: Peer) -> None:
    service = make()
    process = service.start()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, service.said
    assert "Traceback" not in service.said


def test_a_signal_that_comes_while_it_is_stopped_ends_it(make: Make) -> None:
    """As by Ctrl-Z and `kill %1`: of a process that goes on any thread may take the signal."""
    service = make()
    for _ in range(4):
        process = service.start()
        process.send_signal(signal.SIGSTOP)
        eventually(partial(_is_stopped, process.pid), what="it stops")
        process.terminate()
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0, service.said


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_what_a_killed_service_had_in_hand_is_answered_by_the_next(
    make: Make, asking: Peer, record: Record
) -> None:
    first, second = make(), make()
    process, replies = busy(first, asking, 1, "whoever")
    process.kill()
    process.wait(60)
    assert not first.is_healthy()
    began = time.monotonic()
    second.start(healthy=False)
    assert asking.reply(replies)["echo"]["text"] == "whoever"
    answered = time.monotonic() - began - 1
    record("service: SIGKILL, start", bound=10.0, recovery=round(answered, 3))


def unable(
    service: Service,
    process: subprocess.Popen[bytes],
    record: Record | None = None,
    name: str = "",
) -> str:
    """Assert that the service ends with one clear line, unhealthy all the time; returns the line.

    :param record: takes how long that took, under this name
    """
    began = time.monotonic()
    while process.poll() is None:
        assert time.monotonic() - began < 60, f"still trying: {service.said}"
        assert not service.is_healthy()
    assert process.returncode == 1
    assert "Traceback" not in service.said
    lines = [line for line in service.said.splitlines() if line.strip()]
    assert len(lines) == 1, service.said
    if record is not None:
        record(f"start: {name}", bound=5.0, recovery=round(time.monotonic() - began, 3))
    return lines[0]


def test_a_wrong_password_ends_it_with_one_line(make: Make, record: Record) -> None:
    service = make(password="wrong secret")
    line = unable(service, service.start(healthy=False), record, "wrong password")
    assert "refuses user 'neon_echo'" in line and "wrong secret" not in line
    doctor = service.command("doctor")
    assert doctor.returncode == 1
    assert "refuses user 'neon_echo'" in doctor.stdout and "wrong secret" not in doctor.stdout


def test_a_configuration_that_is_no_json_ends_it_with_one_line(make: Make) -> None:
    service = make()
    service.config.write_text("{", encoding="utf-8")
    line = unable(service, service.start(healthy=False))
    assert str(service.config) in line and "JSON" in line


def test_settings_out_of_range_end_it_with_one_line(make: Make) -> None:
    service = make()
    line = unable(service, service.start(healthy=False, MQ_WORKERS="many"))
    assert "MQ_WORKERS" in line and "many" in line


def test_an_unknown_vhost_ends_it_with_one_line(
    make: Make, project: BakedProject, record: Record
) -> None:
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"/neon_echo"', '"/nowhere"'), encoding="utf-8")
    service = make()
    line = unable(service, service.start(healthy=False), record, "unknown vhost")
    assert "'/nowhere'" in line


def test_a_queue_that_it_may_not_have_ends_it_with_one_line(
    make: Make, project: BakedProject, record: Record
) -> None:
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    vhost, user = text.replace('"/neon_echo"', f'"{VHOST}"'), '"neon_echo"'
    assert user in vhost
    file.write_text(vhost.replace(f"SERVICE_NAME = {user}", f'SERVICE_NAME = "{LIMITED}"'))
    service = make()
    config = json.loads(service.config.read_text(encoding="utf-8"))
    config["users"] = {LIMITED: {"username": LIMITED, "password": PASSWORD}}
    service.config.write_text(json.dumps(config), encoding="utf-8")
    line = unable(service, service.start(healthy=False), record, "queue forbidden (403)")
    assert "no permission for queue 'neon_echo_input'" in line


def test_without_a_broker_it_waits_unhealthy_and_still_ends_in_order(make: Make) -> None:
    service = make(port=1)
    process = service.start(healthy=False)
    eventually(lambda: "trying again" in service.said)
    assert not service.is_healthy()
    process.terminate()
    assert process.wait(60) == 0, service.said


def test_health_follows_the_broker_through_a_freeze(
    make: Make, victim: Broker, record: Record
) -> None:
    service = make(port=victim.port)
    service.start()
    victim.freeze()
    began = time.monotonic()
    try:
        eventually(lambda: not service.is_healthy())
        unhealthy = time.monotonic() - began
    finally:
        victim.thaw()
    over = time.monotonic()
    eventually(service.is_healthy)
    healthy = time.monotonic() - over
    record(
        "broker: SIGSTOP, as `health` sees it",
        bound=2.0,
        health_false=round(unhealthy, 3),
        health_true=round(healthy, 3),
    )
    assert unhealthy <= 2.0
    assert healthy <= 2.0


def test_a_request_without_the_service_says_so(make: Make, asking: Peer) -> None:
    if asking.has(QUEUE):
        asking.channel.queue_delete(QUEUE)
    done = make().command("request", "{}", "--timeout", "2")
    assert done.returncode == 1
    assert QUEUE in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.alone
def test_start_to_consuming_takes_a_fraction_of_a_second(
    make: Make, asking: Peer, record: Record
) -> None:
    service = make()
    asking.declare(QUEUE) if not asking.has(QUEUE) else None
    took: list[Any] = []
    for _ in range(3):
        began = time.monotonic()
        process = service.start(healthy=False)
        eventually(lambda: asking.count(QUEUE)[1] == 1, every=0.002)
        took.append(time.monotonic() - began)
        process.terminate()
        assert process.wait(60) == 0
        eventually(lambda: asking.count(QUEUE)[1] == 0)
    record("process start to consuming", bound=1.0, recovery=round(min(took), 3))
    assert min(took) < 1.0
