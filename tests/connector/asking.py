"""What a handler may ask and publish, as a table: run against the harness and against a real broker alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mq_connector import MQConnector, Request, respond

Dict = dict[Any, Any]
Answer = Callable[[Dict], Mapping[Any, Any]]


class Asking(MQConnector):
    """As a generated service is; `answer` is what differs."""

    answer: Callable[[Any], Any]

    def __init__(self, config: Mapping[str, Any] | None = None, service_name: str = "") -> None:
        super().__init__(config or {}, service_name)
        #: Queue and exchange of others.
        self.other, self.events = "other", "events"

    def handle_api_input(self, channel: Any, _: Any, properties: Any, body: bytes) -> Any:
        return respond(channel, Request.decode(body, properties), self.answer)


class Asks(Asking):
    def answer(self, request: Dict) -> Dict:
        return {"told": self.ask(self.other, {"n": request["n"]})["n"]}


class AsksAsync(Asking):
    async def answer(self, request: Dict) -> Dict:
        return {"told": (await self.ask_async(self.other, {"n": request["n"]}))["n"]}


class AsksManyAsync(Asking):
    async def answer(self, request: Dict) -> Dict:
        asked = (self.ask_async(self.other, {"n": n}) for n in range(5))
        return {"told": [each["n"] for each in await asyncio.gather(*asked)]}


class AsksOnTheLoop(Asking):
    async def answer(self, request: Dict) -> Dict:
        return self.ask(self.other, {})


class AsksNobody(Asking):
    def answer(self, request: Dict) -> Dict:
        return self.ask("nobodys", {}, timeout=60)


class AsksNobodyAsync(Asking):
    async def answer(self, request: Dict) -> Dict:
        return await self.ask_async("nobodys", {}, timeout=60)


class AsksWhatCannotBeSent(Asking):
    def answer(self, request: Dict) -> Dict:
        return self.ask(self.other, {"n": object()})


class PassesOn(Asking):
    """Its own id stands in the reply, not that of the other's."""

    def answer(self, request: Dict) -> Dict:
        return self.ask(self.other, request)


class Publishes(Asking):
    def answer(self, request: Dict) -> Dict:
        self.publish(self.events, "", {"n": request["n"]})
        return {}


class PublishesAsync(Asking):
    async def answer(self, request: Dict) -> Dict:
        await self.publish_async(self.events, "", {"n": request["n"]})
        return {}


class PublishesWhatCannotBeSent(Asking):
    def answer(self, request: Dict) -> Dict:
        self.publish(self.events, "", {"n": object()})
        return {}


@dataclass(frozen=True)
class Scenario:
    """One handler, and what comes of one request to it."""

    service: type[Asking]
    #: Without ids; where the reply is an error, what it begins with.
    reply: Dict | str
    #: What the other has been asked, in any order, and the events that were published; without ids.
    asked: tuple[Dict, ...] = ()
    events: tuple[Dict, ...] = ()
    other: Answer = field(default=lambda request: {"n": request["n"]})

    @property
    def name(self) -> str:
        return self.service.__name__


REQUEST = {"n": 7}
SCENARIOS = (
    Scenario(Asks, {"told": 7}, asked=({"n": 7},)),
    Scenario(AsksAsync, {"told": 7}, asked=({"n": 7},)),
    Scenario(AsksManyAsync, {"told": [0, 1, 2, 3, 4]}, asked=tuple({"n": n} for n in range(5))),
    Scenario(AsksOnTheLoop, "WouldWait: "),
    Scenario(AsksNobody, "Unroutable: "),
    Scenario(AsksNobodyAsync, "Unroutable: "),
    Scenario(AsksWhatCannotBeSent, "PayloadError: "),
    Scenario(PassesOn, {"n": 7}, asked=({"n": 7},)),
    Scenario(
        PassesOn,
        {"success": False, "error": "no", "code": 404},
        asked=({"n": 7},),
        other=lambda request: {"success": False, "error": "no", "code": 404},
    ),
    Scenario(Publishes, {}, events=({"n": 7},)),
    Scenario(PublishesAsync, {}, events=({"n": 7},)),
    Scenario(PublishesWhatCannotBeSent, "PayloadError: "),
)


def without_id(message: Dict) -> Dict:
    """As the table has it."""
    return {
        key: value for key, value in message.items() if key not in ("message_id", "routing_key")
    }
