"""What a document tells of a service beside its queues: what it hears, publishes to, and whom it calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mq_connector import ConsumerThread, MQConnector
from mq_connector.commands.description import document, page


class Service(MQConnector):
    publishes: ClassVar[Sequence[str | tuple[str, str]]] = ("news", ("weather", "topic"))
    calls: ClassVar[Sequence[str | tuple[str, str]]] = ("other", ("third", "/elsewhere"))

    def __init__(self) -> None:
        super().__init__({"users": {"a": {"username": "a", "password": "p"}}}, "a")
        self.vhost = "/a"
        connection = self.create_mq_connection()
        self.consumers = {
            "all": ConsumerThread(connection, callback_func=self.handle, exchange="news"),
            "some": ConsumerThread(
                connection, "kept", self.handle, exchange="weather", routing_keys=["a.*", "#.b"]
            ),
            "more": ConsumerThread(connection, callback_func=self.handle, exchange="news"),
        }

    def handle(self, _channel: Any, _method: Any, _properties: Any, _body: bytes) -> None:
        """Heard."""


def operations(action: str) -> dict[str, str]:
    """The channel of each operation."""
    found = document(Service())["operations"]
    return {
        key: each["channel"]["$ref"].removeprefix("#/channels/")
        for key, each in found.items()
        if each["action"] == action
    }


def test_what_it_hears_is_received_from_exchanges() -> None:
    made = document(Service())
    assert operations("receive") == {
        "news.heard.receive": "news",
        "news.heard_.receive": "news",
        "weather.heard.receive": "weather",
        "kept.receive": "kept",
    }
    binding = made["channels"]["weather"]["bindings"]["amqp"]
    assert binding["exchange"] == {"name": "weather", "type": "topic", "vhost": "/a"}
    assert "`a.*`, `#.b`" in made["operations"]["weather.heard.receive"]["description"]


def test_what_it_publishes_and_asks_is_sent() -> None:
    assert operations("send") == {
        "kept.dead.send": "kept.dead",
        "news.send": "news",
        "weather.send": "weather",
        "other.send": "other",
        "third.send": "third",
    }
    channels = document(Service())["channels"]
    vhosts = [channels[key]["bindings"]["amqp"]["queue"]["vhost"] for key in ("other", "third")]
    assert vhosts == ["/a", "/elsewhere"]
    assert {*channels["own_replies"]["messages"]} == {"other.told", "third.told"}


def test_a_queue_of_one_process_s_own_is_not_told() -> None:
    addresses = [each["address"] for each in document(Service())["channels"].values()]
    assert not [each for each in addresses if each and each.startswith("subscriber_")]


def test_the_page_tells_all_of_it() -> None:
    text = page(document(Service()))
    for name in ("news", "weather", "kept", "kept.dead", "other", "third"):
        assert f"<code>{name}</code>" in text
