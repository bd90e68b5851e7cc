"""The last steps of a service whose time is up: whatever still hangs or says nothing, `on_stop` is called."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from baked import IMPORTABLE
from mq_connector import Connection, ConsumerThread
from mq_connector.config import Limits
from mq_connector.connection.address import Address
from mq_connector.consumer import Channel, drain
from waiting import eventually

from .broker import PASSWORD, USER, VHOST, Broker
from .conftest import echo
from .peer import Peer

#: Time for what hangs, one after the other, would be more than the process has.
MANY = 12
#: A service with many queues, that has one second to drain, and ten more for its last steps.
PROGRAM = """
import asyncio, contextlib, sys, threading, time
sys.path[:0] = {path!r}
from mq_connector import ConsumerThread, MQConnector, connector, every
connector.DRAIN, connector._LAST_STEPS = 1.0, {many} - 2.0
MQConnector.stop.__defaults__ = (connector.DRAIN,)

def hang(*_):
    print("hangs", flush=True)
    time.sleep(600)

async def linger():
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

class Hanging(MQConnector):
    def __init__(self):
        user = {{"username": {user!r}, "password": {password!r}}}
        super().__init__({{"server": "127.0.0.1", "port": {port}, "users": {{"mine": user}}}}, "mine")
        self.vhost = {vhost!r}
        for each in range({many}):
            name = f"{queue}-{{each}}"
            consumer = ConsumerThread(self.create_mq_connection(), name, {callback})
            self.consumers[name] = consumer

    def on_stop(self):
        print("on_stop", flush=True)
{body}
sys.exit(Hanging().serve())
"""
CONTEXT = """
    @contextlib.contextmanager
    def worker_context(self):
        yield
"""
PERIODIC = "".join(
    f"""
    @every(0.01)
    async def refresh_{each}(self):
        print("hangs", flush=True)
        await linger()
"""
    for each in range(MANY)
)


@pytest.mark.parametrize(
    ("body", "callback"),
    [
        pytest.param(CONTEXT, "hang", id="handlers in contexts"),
        pytest.param(PERIODIC, "print", id="periodic"),
    ],
)
def test_what_hangs_does_not_keep_on_stop_from_being_called(
    broker: Broker, peer: Peer, queue: str, tmp_path: Path, body: str, callback: str
) -> None:
    text = PROGRAM.format(
        path=IMPORTABLE,
        user=USER,
        password=PASSWORD,
        vhost=VHOST,
        port=broker.port,
        queue=queue,
        many=MANY,
        body=body,
        callback=callback,
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", text],
            env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
            stdout=log,
            stderr=log,
        )

    def said() -> str:
        return (tmp_path / "log").read_text()

    try:
        for each in range(MANY):
            eventually(lambda: peer.has(f"{queue}-{each}"), what="its queues")  # noqa: B023
            peer.publish(f"{queue}-{each}", {"number": each})
        eventually(lambda: said().count("hangs") == MANY, what="all hang")
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert "on_stop" in said()
        assert process.returncode == (1 if callback == "hang" else 0)
    finally:
        process.kill()
        process.wait(60)
        for each in range(MANY):
            peer.channel.queue_delete(f"{queue}-{each}")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with a reply"])
def test_past_its_deadline_it_waits_for_no_broker(
    victim: Broker,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    busy: bool,
) -> None:
    monkeypatch.setattr(drain, "_CLOSE_PATIENCE", 600.0)
    began: list[float] = []

    def slow(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        began.append(time.monotonic())
        time.sleep(1.0)
        echo(channel, method, properties, body)

    connection = Connection(Address([victim.parameters()]))
    consumer = ConsumerThread(connection, queue, slow, limits=Limits(queue_type="quorum"))
    consumer.start()
    eventually(lambda: consumer.is_consuming, what="consuming")
    if busy:
        peer = Peer(victim.parameters())
        peer.publish(queue, {"number": 1})
        eventually(lambda: began, what="in hand")
    victim.freeze()
    try:
        with caplog.at_level(logging.WARNING):
            consumer.stop(3.0)
            consumer.join(120)
        assert not consumer.is_alive()
        assert "the broker hasn't answered" in caplog.text
        assert consumer.is_cut_short == busy, "there is something to be delivered again"
    finally:
        victim.thaw()
    eventually(lambda: not connection.is_open, what="closed")
