"""A broker that is lent again is as one that has just started."""

from __future__ import annotations

import json

import brokers
import pika
import pytest
from baked import BakedProject
from conftest import Bake
from pika.exceptions import ProbableAuthenticationError

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

QUEUE = "neon_echo_input"


def where(project: BakedProject, port: int) -> pika.ConnectionParameters:
    user = json.loads(project.read("mq_config.json"))["users"]["neon_echo"]
    login = pika.PlainCredentials(user["username"], user["password"])
    return pika.ConnectionParameters("127.0.0.1", port, "/neon_echo", login)


@pytest.mark.parametrize(
    "place", ["installed", pytest.param(brokers.IMAGES[1], marks=brokers.marks(brokers.IMAGES[1]))]
)
def test_the_next_finds_nothing_of_the_last_and_all_of_its_own(
    default_project: BakedProject, bake: Bake, place: str
) -> None:
    with (
        brokers.at(place, default_project) as port,
        pika.BlockingConnection(where(default_project, port)) as connection,
    ):
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        channel.basic_publish("", QUEUE, b"left behind")
    other = bake()
    with brokers.at(place, other) as again:
        assert again == port, "the same broker"
        with pytest.raises(ProbableAuthenticationError):
            pika.BlockingConnection(where(default_project, again))
        with pika.BlockingConnection(where(other, again)) as connection:
            asked = connection.channel().queue_declare(QUEUE, durable=True)
        assert asked.method.message_count == 0


def test_who_has_one_shares_it_with_nobody(default_project: BakedProject) -> None:
    with (
        brokers.installed(default_project) as one,
        brokers.installed(default_project) as another,
    ):
        assert one != another
