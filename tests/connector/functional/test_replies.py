"""Replies to queues that aren't there yet, or no longer: Neon's clients are slower than we are."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from baked import incumbent_python
from incumbent import INCUMBENT, GaveNothing, tried
from mq_connector.consumer import Channel
from mq_connector.payload.request import REPLY_PROPERTIES
from pika.exceptions import ChannelClosedByBroker
from waiting import eventually

from .broker import LIMITED, PASSWORD, USER, VHOST, Broker
from .conftest import Consume, echo
from .peer import Peer


@pytest.mark.parametrize("milliseconds", [5, 50, 300])
def test_a_reply_waits_for_the_queue_that_its_client_declares_late(
    peer: Peer, queue: str, consume: Consume, milliseconds: int
) -> None:
    consume(echo)
    replies = uuid.uuid4().hex
    peer.request(queue, replies, message_id="late")
    time.sleep(milliseconds / 1000)
    began = time.monotonic()
    peer.declare(replies)
    assert peer.reply(replies)["message_id"] == "late"
    assert time.monotonic() - began < 30
    peer.channel.queue_delete(replies)


def test_a_reply_comes_once_though_it_was_sent_again(
    peer: Peer, queue: str, consume: Consume
) -> None:
    consume(echo)
    reply_queues = [uuid.uuid4().hex for _ in range(20)]
    for name in reply_queues:
        peer.request(queue, name)
    time.sleep(0.1)
    came: Counter[str] = Counter()
    for name in reply_queues:
        peer.declare(name)
        # As they come: a second later they have expired.
        peer.channel.basic_consume(name, lambda *_, name=name: came.update([name]), auto_ack=True)
    connection = peer.channel.connection

    def all_are_there() -> bool:
        connection.process_data_events(0.01)
        return len(came) == len(reply_queues)

    eventually(all_are_there)
    connection.process_data_events(0.3)
    assert came == Counter(reply_queues)
    for name in reply_queues:
        peer.channel.queue_delete(name)


def test_the_parts_of_a_reply_keep_their_order_though_they_were_sent_again(
    peer: Peer, queue: str, consume: Consume
) -> None:
    replies = uuid.uuid4().hex

    published = threading.Event()

    def handle(channel: Channel, *_: Any) -> None:
        for number in range(20):
            channel.basic_publish("", replies, b"%d" % number, REPLY_PROPERTIES)
        published.set()

    consume(handle)
    peer.publish(queue, b"x")
    assert published.wait(60)
    time.sleep(0.1)  # for all of them to be returned
    peer.declare(replies)
    assert [int(peer.take(replies)[1]) for _ in range(20)] == list(range(20))
    peer.channel.queue_delete(replies)


def test_a_reply_without_permission_to_declare_still_arrives(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    consume(echo, at=broker.parameters(user=LIMITED))
    replies = uuid.uuid4().hex
    peer.request(queue, replies)
    time.sleep(0.05)
    peer.declare(replies, exclusive=True)
    assert "echo" in peer.reply(replies)


def test_a_reply_queue_that_its_client_may_not_make_is_in_the_log(
    broker: Broker, peer: Peer, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture
) -> None:
    """As the public client does it: it asks although its reply queue was refused, and waits."""
    consume(echo)
    client = Peer(broker.parameters(user=LIMITED))
    for _ in range(3):
        with pytest.raises(ChannelClosedByBroker, match="403"):
            client.declare("neon_chat_api_error")
        client.request(queue, "neon_chat_api_error")
        eventually(lambda: "neon_chat_api_error" in caplog.text)
    client.close()
    lines = [
        each.getMessage() for each in caplog.records if "neon_chat_api_error" in each.getMessage()
    ]
    assert lines[0] == (
        "reply queue 'neon_chat_api_error' doesn't exist: its client has gone, or may not make it "
        "(403, in the client's own log); its replies are dropped"
    )
    assert len(lines) == 1, "once is enough while it is being waited for"


def test_a_reply_queue_that_we_may_not_make_is_in_the_log_with_the_broker_s_words(
    broker: Broker, peer: Peer, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(channel: Channel, *_: Any) -> None:
        channel.basic_publish("", "neon_chat_api_error", b"lasts")

    consume(answer, at=broker.parameters(user=LIMITED))
    for _ in range(3):
        peer.publish(queue, b"x")
        eventually(lambda: "neon_chat_api_error" in caplog.text)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("mq_connector")]
    lines = [each for each in ours if "neon_chat_api_error" in each]
    assert len(lines) == 1
    assert lines[0].startswith("reply queue 'neon_chat_api_error' doesn't exist: ")
    # RabbitMQ 4 says which access, 3.10 doesn't.
    assert re.search(r"403 ACCESS_REFUSED - (\w+ )?access to queue 'neon_chat_api_error'", lines[0])
    peer.declare("neon_chat_api_error")
    assert [peer.take("neon_chat_api_error")[1] for _ in range(3)] == [b"lasts"] * 3
    peer.channel.queue_delete("neon_chat_api_error")


def test_a_handler_that_declares_what_it_may_not_is_in_the_log(
    broker: Broker, peer: Peer, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(channel: Channel, *_: Any) -> None:
        channel.queue_declare(queue="neon_chat_api_error").wait_until_over()

    consume(plain, at=broker.parameters(user=LIMITED))
    for _ in range(20):
        peer.publish(queue, b"x")

    def lines() -> list[str]:
        return [
            each.message
            for each in caplog.records
            if "neon_chat_api_error" in each.message
            and each.levelno == logging.WARNING
            and not each.name.startswith("pika.")  # which other tests keep quiet, as a service does
        ]

    eventually(lambda: peer.count(queue)[0] == 0 and len(lines()) >= 5)
    time.sleep(0.2)
    assert len(lines()) == 5, "and not each time"
    assert lines()[0].startswith("declaring queue 'neon_chat_api_error': 403 ACCESS_REFUSED")


def test_a_client_that_has_gone_gets_no_queue_left_behind(
    peer: Peer, queue: str, consume: Consume
) -> None:
    consumer = consume(echo)
    replies = uuid.uuid4().hex
    peer.request(queue, replies)
    assert peer.ask(queue, text="another")["echo"] == {"text": "another"}
    time.sleep(1.3)  # replies expire after a second
    assert not peer.has(replies)
    # Nor does the late reply turn up when somebody uses the name again.
    peer.declare(replies)
    time.sleep(0.2)
    peer.rests_at(replies, 0)
    assert consumer.is_consuming
    peer.channel.queue_delete(replies)


def test_a_reply_that_never_expires_gets_its_queue_declared(
    peer: Peer, queue: str, consume: Consume
) -> None:
    output = f"output.{uuid.uuid4().hex}"
    consume(lambda channel, _m, _p, body: channel.basic_publish("", output, body))
    peer.publish(queue, b"keep me")
    eventually(lambda: peer.has(output))
    assert peer.take(output)[1] == b"keep me"
    peer.channel.queue_delete(output)


def test_a_stop_waits_for_a_reply_that_is_still_on_its_way(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """The request is acknowledged already; dropping its reply now would lose it."""
    consumer = consume(echo)
    replies = uuid.uuid4().hex
    peer.request(queue, replies)
    time.sleep(0.05)
    consumer.stop(5)
    time.sleep(0.1)
    peer.declare(replies)
    assert "echo" in peer.reply(replies)
    consumer.join(60)
    assert not consumer.is_alive()
    peer.channel.queue_delete(replies)


def test_the_last_reply_before_a_stop_waits_for_its_queue_too(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """Its return may be under way while nothing else is left to do."""

    def handle(channel: Channel, *rest: Any) -> None:
        consumers[-1].stop(5)
        time.sleep(0.02)
        echo(channel, *rest)

    consumers = []
    reply_queues = []
    for number in range(4):
        consumers.append(consume(handle, queue=f"{queue}{number}"))
        reply_queues.append(peer.request(f"{queue}{number}", uuid.uuid4().hex))
        time.sleep(0.05)
    for name in reply_queues:
        peer.declare(name)
    for name in reply_queues:
        assert "echo" in peer.reply(name)
        peer.channel.queue_delete(name)


def test_the_public_client_gets_twenty_of_twenty_answers(
    broker: Broker, peer: Peer, queue: str, consume: Consume, tmp_path: Path
) -> None:
    consume(echo)
    user = {"user": USER, "password": PASSWORD}
    config = {"MQ": {"server": "127.0.0.1", "port": broker.port, "users": {"mq_handler": user}}}
    (tmp_path / "mycroft").mkdir()
    (tmp_path / "mycroft" / "mycroft.conf").write_text(json.dumps(config), encoding="utf-8")

    def once(seconds: float) -> Any:
        done = subprocess.run(
            [
                incumbent_python(),
                Path(__file__).with_name("neon_client.py"),
                VHOST,
                queue,
                "20",
                "20",
            ],
            env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode:
            raise GaveNothing(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    replies = tried(INCUMBENT, once)
    assert [reply.get("echo") for reply in replies] == [{"number": n} for n in range(20)]
