"""What a service gets by moving to the drop-in names, and the incumbent hasn't got at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from baked import CONNECTOR, outside
from connector.functional.broker import PASSWORD
from waiting import eventually

from .lab import SERVICE, Lab

pytestmark = pytest.mark.broker


def test_a_connector_starts_by_itself_when_the_broker_comes(lab: Lab) -> None:
    proxy = lab.proxy()
    connector = lab.connector(config=lab.config(proxy.port))
    connector.register_consumer("it", connector.vhost, lab.name(), lambda *_: None)
    connector.run(run_sync=False, mq_timeout=0.2, daemonize_consumers=True)
    assert not connector.started
    proxy.up()
    eventually(lambda: connector.started and connector.check_health())


def test_a_connector_that_is_stopped_runs_again(lab: Lab) -> None:
    connector = lab.consume(lambda *_: None)
    connector.stop()
    assert not connector.started
    lab.run(connector)
    assert connector.started and connector.check_health()


def test_a_service_can_be_served_as_a_process(lab: Lab) -> None:
    connector = lab.connector()
    connector.register_consumer("it", connector.vhost, lab.name(), lambda *_: None)
    own = os.getpid()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def end() -> None:
        eventually(connector.check_health)
        os.kill(own, signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    try:
        assert connector.serve() == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_hook_that_fails_does_no_harm(lab: Lab) -> None:
    got: list[bytes] = []
    thread = lab.thread(lambda *given: got.append(given[3]))
    thread.on_connected = Mock(side_effect=ValueError("not this"))
    thread.start()
    eventually(lambda: thread.is_consuming)
    lab.peer().send(thread.queue, {"a": 1})
    eventually(lambda: got)
    thread.on_connected.assert_called_once()


def test_a_permission_to_declare_is_not_needed_to_send(lab: Lab, broker: Any) -> None:
    lab.peer().declare("elsewhere")
    config = {**lab.config(), "users": {SERVICE: {"user": "limited", "password": PASSWORD}}}
    connector = lab.connector(config=config)
    connector.send_message({"a": 1}, queue="elsewhere")
    lab.peer().take("elsewhere")


def test_a_message_that_nobody_can_take_is_reported(lab: Lab) -> None:
    from mq_connector.errors import PublishError

    config = {**lab.config(), "users": {SERVICE: {"user": "limited", "password": PASSWORD}}}
    connector = lab.connector(config=config)
    began = time.monotonic()
    with pytest.raises(PublishError, match="NO_ROUTE"):
        connector.send_message({"a": 1}, queue="nowhere at all", expiration=300)
    assert time.monotonic() - began < 30


def test_a_subscribers_queue_does_not_outlive_its_service_for_long(lab: Lab) -> None:
    connector = lab.connector()
    connector.register_subscriber("it", connector.vhost, lambda *_: None, exchange="fans")
    lab.run(connector)
    from pika.exceptions import ChannelClosedByBroker

    with pytest.raises(ChannelClosedByBroker, match="x-expires"):
        lab.peer().declare(connector.consumers["it"].queue, durable=True)


@pytest.mark.parametrize("missing", ["pydantic", "yaml"])
def test_optional_packages_are_optional(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text("raise ImportError('not here')")
    modules = [
        str(path.relative_to(CONNECTOR.parent).with_suffix("")).replace("/", ".")
        for path in (CONNECTOR / "compat").rglob("*.py")
        if path.name != "__init__.py"
    ]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(CONNECTOR.parent)!r}]; import "
    subprocess.run([sys.executable, "-B", "-c", code + ", ".join(modules)], check=True)


def test_a_yaml_file_that_cannot_be_read_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('not here')")
    path = tmp_path / ".config" / "neon" / "diana.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("MQ: {users: {weather: {user: a, password: b}}}")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(CONNECTOR.parent)!r}]\n"
        "from mq_connector.config import load\n"
        "try: load('weather')\n"
        "except Exception as error: print(error)"
    )
    command = [sys.executable, "-B", "-c", code]
    environment = {**outside(), "HOME": str(tmp_path)}
    environment.pop("XDG_CONFIG_HOME", None)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert str(path) in done.stdout and "PyYAML" in done.stdout, done.stdout + done.stderr
