"""local.py runs a RabbitMQ of its own, survives what tests do to it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pika
import pytest
from baked import BakedProject, load
from local import free_port
from pika.exceptions import ProbableAuthenticationError
from quick_start import QuickStart
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

#: Holds a broker, says as which processes and where, and waits.
HOLDER = """
import os, sys, time
sys.path.insert(0, "rabbitmq")
from local import LocalBroker
with LocalBroker() as broker:
    print(broker.pid, os.getpgid(broker.pid), broker.data, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def local(default_project: BakedProject) -> Any:
    module = load("local", default_project / "rabbitmq" / "local.py")
    try:
        module.Installation()
    except module.NoServer as error:
        pytest.skip(str(error))
    return module


@pytest.fixture(scope="module")
def quick(local: Any) -> Any:
    class Node(QuickStart, local.LocalBroker):  # type: ignore[misc]
        """Beside the one that starts as its user's does, in the first test."""

    return Node


@pytest.fixture(scope="module")
def broker(quick: Any) -> Iterator[Any]:
    with quick() as started:
        yield started


def login(port: int, project: BakedProject) -> pika.BlockingConnection:
    user = json.loads(project.read("mq_config.json"))["users"]["neon_echo"]
    credentials = pika.PlainCredentials(user["username"], user["password"])
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", port, "/neon_echo", credentials)
    )


def command(
    project: BakedProject, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start local.py as a user does."""
    return subprocess.Popen(
        [sys.executable, "-B", "rabbitmq/local.py", *words],
        cwd=project.path,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def members(group: int) -> set[int]:
    """Processes of a process group that live; killed orphans may wait to be buried."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True)
    rows = (line.split() for line in found.stdout.splitlines())
    return {int(pid) for pid, pgid, status in rows if int(pgid) == group and status[0] != "Z"}


def count(channel: Any) -> int:
    found: int = channel.queue_declare("neon_echo_input", passive=True).method.message_count
    return found


def listens(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def assert_nothing_is_left(group: int, port: int, data: Path) -> None:
    eventually(lambda: not members(group), what="all processes are gone")
    eventually(lambda: not data.exists(), what="the data are gone")
    assert not listens(port)


def test_it_runs_inside_the_block_beside_another_and_leaves_nothing_behind(
    local: Any, broker: Any, default_project: BakedProject
) -> None:
    with local.LocalBroker(management=True) as other:
        login(other.port, default_project).close()
        group, data = os.getpgid(other.pid), other.data
        assert len(members(group)) >= 3  # with its companions
        assert data.stat().st_mode & 0o077 == 0
        assert listens(other.management_port)
        assert not listens(other.management_port, "127.0.0.2")
        other.ctl("add_vhost", "only here")
        assert "only here" in other.ctl("list_vhosts")
        assert "only here" not in broker.ctl("list_vhosts"), "they know of each other"
        with pytest.raises(local.BrokerError, match="add_vhost"):
            other.ctl("add_vhost")
    assert_nothing_is_left(group, other.port, data)
    other.stop()  # a second time is as good as none
    with pytest.raises(local.BrokerError):
        _ = other.pid


def test_neither_a_stop_nor_a_kill_costs_what_was_confirmed(
    broker: Any, default_project: BakedProject
) -> None:
    def stop_suspended() -> None:
        os.kill(broker.pid, signal.SIGSTOP)
        began = time.monotonic()
        broker.stop()
        assert time.monotonic() - began < 25  # in order, not by the kill at the end of patience

    channel = login(broker.port, default_project).channel()
    channel.queue_declare("neon_echo_input", durable=True, arguments={"x-queue-type": "quorum"})
    # The queue itself is on the disk some time after it was made, or after a stop.
    for sent, end in enumerate((stop_suspended, broker.kill)):
        end()
        assert not listens(broker.port)
        broker.start()
        channel = login(broker.port, default_project).channel()
        while count(channel) < sent:
            time.sleep(0.05)  # Until the queue has found its messages again.
        channel.confirm_delivery()
        channel.basic_publish("", "neon_echo_input", b"kept")


def test_in_a_folder_of_ones_own_the_data_stay_and_a_changed_password_holds(
    local: Any, project: BakedProject, tmp_path: Path
) -> None:
    definitions = project / "rabbitmq" / "definitions.json"
    folder = tmp_path / "with a space, an ä (and) a #"
    with local.LocalBroker(definitions=definitions, data=folder) as broker:
        login(broker.port, project).close()
        broker.ctl("add_vhost", "kept")
        (project / "mq_config.json").unlink()
        project.run("python", "rabbitmq/provision.py", "--client-user")
        with pytest.raises(ProbableAuthenticationError):
            login(broker.port, project)
    with local.LocalBroker(definitions=definitions, data=folder) as broker:
        login(broker.port, project).close()
        assert "kept" in broker.ctl("list_vhosts")
        assert "neon_api_utils" in broker.ctl("list_users")


def test_settings_that_the_version_doesnt_know_are_left_out_and_named(
    local: Any, tmp_path: Path
) -> None:
    conf = tmp_path / "rabbitmq.conf"
    known = ("log.console.level", "default_user_tags.anything", "management.rates_mode")
    unknown = ("from.the.future", "log.console.level.x")
    lines = [f"{key} = true" for key in (*known, *unknown)]
    conf.write_text("\n".join([*lines, "# a.comment = 1", "listeners.tcp.default = 1"]))
    broker = local.LocalBroker(conf=conf)
    written = [line.partition(" ")[0] for line in broker._settings()]
    assert broker.left_out == [*unknown]
    assert written[:3] == [*known]
    assert written[3:] == ["definitions.local.path", "listeners.tcp.1"]


def test_a_broker_that_doesnt_start_says_why_and_is_gone(local: Any, tmp_path: Path) -> None:
    conf = tmp_path / "rabbitmq.conf"
    conf.write_text("log.console.level = shout\n")
    broker = local.LocalBroker(conf=conf)
    with (
        pytest.raises(local.BrokerError, match=r"(?s)ended by itself.*log\.console\.level"),
        broker,
    ):
        pass
    assert not broker.data.exists()
    absent = local.LocalBroker(definitions=tmp_path / "definitions.json")
    with pytest.raises(local.BrokerError, match=r"definitions\.json is missing: run"), absent:
        pass


def test_a_port_that_somebody_takes_before_the_broker_comes_to_it_is_another_the_next_time(
    local: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        ports = iter([first])
        monkeypatch.setitem(
            local.LocalBroker.__init__.__globals__,  # the repository's own module, not the template's
            "free_port",
            lambda: next(ports, None) or free_port(),
        )
        with quick() as broker:
            assert broker.port != first
            assert listens(broker.port)
        given = quick(first)
        with pytest.raises(local.BrokerError, match="eaddrinuse"), given:
            pass


def test_it_listens_on_loopback_only_and_knows_no_guest(broker: Any) -> None:
    listed = broker.ctl("status")
    ports = {broker.port, *map(int, re.findall(r"port: (\d+)", listed))}
    assert len(ports) == 2  # AMQP, and Erlang's own
    for port in ports:
        assert listens(port)
        assert not listens(port, "127.0.0.2"), f"port {port} is open on every address"
    assert broker.ctl("list_users").split() == ["user", "tags", "neon_echo", "[]"]
    assert broker.ctl("list_vhosts").split() == ["name", "/neon_echo"]


def test_it_dies_with_the_python_that_started_it(default_project: BakedProject) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-B", "-c", HOLDER],
        cwd=default_project.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    pid, group, data = holder.stdout.readline().split()
    holder.kill()
    holder.communicate()
    eventually(lambda: not members(int(group)), what="all processes are gone")
    eventually(lambda: not Path(data).exists(), what="the data are gone")
    assert not Path("/proc", pid, "exe").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_when_it_is_ready_and_a_signal_ends_it(
    local: Any, default_project: BakedProject, number: signal.Signals
) -> None:
    port = free_port()
    running = command(default_project, "--port", str(port), env={"ERL_FLAGS": "+another"})
    assert running.stdout and running.stderr
    lines = iter(running.stdout.readline, "")
    ready = next(line for line in lines if "ready" in line)
    assert f"localhost:{port}" in ready and "Ctrl-C" in ready
    login(port, default_project).close()
    data = Path(ready.split("log: ")[1].split(")")[0]).parent
    running.send_signal(number)
    rest, errors = running.communicate(timeout=60)
    assert (running.returncode, rest, errors) == (0, "RabbitMQ is stopped\n", "")
    assert not data.exists() and not listens(port)


@pytest.mark.parametrize("character", [*"'\"`$\\"])
def test_a_folder_that_the_server_would_choke_on_is_refused(
    local: Any, tmp_path: Path, character: str
) -> None:
    with pytest.raises(local.BrokerError, match=re.escape(character)):
        local.LocalBroker(data=tmp_path / f"a{character}b")


def test_a_taken_port_is_named_before_anything_starts(default_project: BakedProject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        running = command(default_project, env={"MQ_PORT": str(port)})
        output, errors = running.communicate(timeout=30)
    assert (running.returncode, output) == (1, "")
    assert f"port {port} is taken" in errors and "MQ_PORT" in errors
    assert len(errors.splitlines()) == 1


def test_without_a_server_it_says_what_to_type(default_project: BakedProject) -> None:
    running = command(default_project, env={"PATH": "/nowhere", "MQ_PORT": str(free_port())})
    output, errors = running.communicate(timeout=30)
    assert (running.returncode, output) == (2, "")
    assert "no rabbitmq-server" in errors and len(errors.splitlines()) == 1
