"""The generated service as a process: signals, exit codes, health and doctor."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from baked import BakedProject
from mq_connector import payload
from mq_connector.connector import DRAIN
from waiting import eventually

from .broker import PASSWORD, SERVICE, Broker
from .conftest import Record
from .peer import Peer
from .process import QUEUE, Make, Service, make
from .proxy import Proxy

__all__ = ["make"]


pytestmark = pytest.mark.timeout(300)


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


@pytest.mark.slow
def test_a_broker_that_has_not_heard_of_all_by_the_deadline_is_an_end_with_1(
    make: Make, asking: Peer, broker: Broker
) -> None:
    """All is finished and sent, but into a link that takes nothing any more: it is handled once more."""
    with Proxy(broker.port) as proxy:
        service = make(proxy.port)
        process, _ = busy(service, asking, 1, "in time")
        proxy.halt()
        process.terminate()
        assert process.wait(DRAIN + 30) == 1, service.said
        assert "the broker hasn't answered" in service.said
        proxy.bury()
        asking.rests_at(QUEUE, 1, consumers=0)


def test_ctrl_c_is_like_sigterm(make: Make, asking: Peer) -> None:
    service = make()
    process = service.start()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, service.said
    assert "Traceback" not in service.said


# It would first finish what the last service had in hand.
@pytest.mark.usefixtures("asking")
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
