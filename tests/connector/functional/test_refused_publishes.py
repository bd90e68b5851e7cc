"""The broker's no to a publish is the failure of the delivery whose handler published, and of nothing else.

Each kind of refusal closes a channel (404, 403, 406) without saying which message it was, or would, if
it were sent. One request in 150 provokes it while the others are in hand.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector import Channel, Request, payload

from .conftest import Consume, echo
from .peer import Peer

#: Requests of each test, and which of them is the bad one.
COUNT, BAD = 150, 77

Provoke = Callable[[Channel], object]


def missing_exchange(channel: Channel) -> None:
    """404."""
    channel.basic_publish("nosuch", "k", b"x")


def forbidden_exchange(channel: Channel) -> None:
    """403."""
    channel.basic_publish("amq.rabbitmq.trace", "k", b"x")  # internal


def number_that_is_none(channel: Channel) -> None:
    """406, if it were sent."""
    channel.basic_publish("amq.direct", "k", b"x", pika.BasicProperties(expiration="soon"))


def reply_that_expires_never(channel: Channel) -> None:
    """The same on the way that replies go."""
    channel.basic_publish("", "nosuch", b"x", pika.BasicProperties(expiration="-1"))


def foreign_user(channel: Channel) -> None:
    """406, if it were sent."""
    channel.basic_publish("", "nosuch", b"x", pika.BasicProperties(user_id="somebody"))


def long_headers(channel: Channel) -> None:
    """501 and the connection, if it were sent."""
    headers = {"long": "x" * 200_000}
    channel.basic_publish("", "nosuch", b"x", pika.BasicProperties(headers=headers))


def long_name(channel: Channel) -> None:
    """AMQP has no room for it."""
    channel.basic_publish("", "x" * 256, b"x")


def no_list_of_keys(channel: Channel) -> None:
    """406, if it were sent."""
    channel.basic_publish("", "nosuch", b"x", pika.BasicProperties(headers={"CC": "q"}))


def pseudo_queue(channel: Channel) -> None:
    """406, if it were sent."""
    reply_to = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    channel.basic_publish("", "nosuch", b"x", reply_to)


KINDS: dict[str, tuple[Provoke, str]] = {
    "no such exchange": (missing_exchange, "nosuch"),
    "no permission": (forbidden_exchange, "amq.rabbitmq.trace"),
    "expiration": (number_that_is_none, "expiration"),
    "expiration of a reply": (reply_that_expires_never, "expiration"),
    "user": (foreign_user, "user_id"),
    "headers": (long_headers, "properties"),
    "name": (long_name, "255"),
    "CC": (no_list_of_keys, "CC"),
    "reply-to": (pseudo_queue, "reply_to"),
}


class Blast:
    """150 requests, one of them bad, to a handler that publishes what the broker refuses."""

    def __init__(self, peer: Peer, queue: str) -> None:
        self.peer = peer
        self.queue = queue
        self.dead = peer.declare_dead(queue)
        self.replies = peer.declare(f"input.{queue}.replies", exclusive=True)
        self.handled: Counter[int] = Counter()
        self.redelivered = 0

    def handler(self, provoke: Provoke) -> Callable[..., None]:
        """Answers; for the bad request after it has provoked the refusal."""

        def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
            number = Request.decode(body, properties).data["number"]
            self.handled[number] += 1
            self.redelivered += bool(method.redelivered)
            if number == BAD:
                provoke(channel)
            echo(channel, method, properties, body)

        return handle

    def send(self) -> None:
        """Send all requests."""
        for number in range(COUNT):
            request = {"number": number, "message_id": str(number), "routing_key": self.replies}
            self.peer.publish(self.queue, payload.encode(request))

    def outcome(self) -> tuple[Counter[str], str]:
        """How often each was answered, and the error of the bad one; waits until all is quiet."""
        answers: Counter[str] = Counter()
        error = ""
        quiet_since = time.monotonic()
        # Pushed, as replies expire while they wait to be asked for.
        channel = self.peer.channel
        for method, _, body in channel.consume(
            self.replies, auto_ack=True, inactivity_timeout=0.05
        ):
            if method is None or body is None:
                if time.monotonic() - quiet_since > (1.0 if answers.total() >= COUNT else 10.0):
                    break
                continue
            quiet_since = time.monotonic()
            reply = payload.decode(body)
            answers[reply["message_id"]] += 1
            if not reply.get("success", True):
                assert reply["message_id"] == str(BAD)
                error = reply["error"]
        channel.cancel()
        return answers, error


def costs_one(blast: Blast, provoke: Provoke, words: str, consume: Consume, **where: Any) -> None:
    """Run it, and count."""
    blast.send()
    consumer = consume(blast.handler(provoke), **where)
    answers, error = blast.outcome()
    assert answers == Counter(str(number) for number in range(COUNT)), "each is answered once"
    assert words in error, error
    assert blast.peer.count(blast.dead)[0] == 1
    assert blast.redelivered == 0
    assert set(blast.handled.values()) == {1}
    assert consumer.is_consuming


@pytest.mark.parametrize("queue_type", ["quorum", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_publish_costs_its_own_message(
    peer: Peer, queue: str, consume: Consume, kind: str, queue_type: str
) -> None:
    provoke, words = KINDS[kind]
    options: Any = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    peer.declare(queue, **(options if queue_type == "quorum" else {}))
    costs_one(Blast(peer, queue), provoke, words, consume, queue_type=queue_type)
