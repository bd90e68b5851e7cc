"""What a handler may be, as a table: run against the harness and against a real broker alike."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from mq_connector import MQConnector, Request, RequestError, RetryMessage, respond
from pydantic import BaseModel, Field

Dict = dict[Any, Any]


class Shape(MQConnector):
    """As a generated service is; `answer` is what differs."""

    answer: Callable[[Any], Any]

    def __init__(self) -> None:
        super().__init__(config={})
        self.log: list[str] = []

    def handle_api_input(self, channel: Any, _: Any, properties: Any, body: bytes) -> Any:
        request = Request.decode(body, properties)
        return respond(channel, request, self.answer)


class Plain(Shape):
    def answer(self, request: Dict) -> Dict:
        return {"echo": request}


class Async(Shape):
    async def answer(self, request: Dict) -> Dict:
        await asyncio.sleep(0.01)
        return {"echo": request}


class AsyncFailing(Shape):
    async def answer(self, request: Dict) -> Dict:
        await asyncio.sleep(0)
        raise ValueError("no tea")


class AsyncCancelled(Shape):
    async def answer(self, request: Dict) -> Dict:
        raise asyncio.CancelledError


class AsyncNothing(Shape):
    async def answer(self, request: Dict) -> Any:
        return None


class AsyncAll(Shape):
    """The whole callback is async, and publishes by itself."""

    async def handle_api_input(self, channel: Any, _: Any, properties: Any, body: bytes) -> None:
        request = Request.decode(body, properties)
        await asyncio.sleep(0)
        for number in range(3):
            reply = request.encode_reply({"n": number})
            channel.basic_publish("", request.reply_queue, reply, request.reply_properties)


class Stream(Shape):
    def answer(self, request: Dict) -> Iterator[Dict]:
        for number in range(3):
            yield {"n": number}


class AsyncStream(Shape):
    async def answer(self, request: Dict) -> AsyncIterator[Dict]:
        yield {"n": 0, "is_final": False}
        await asyncio.sleep(0.01)
        yield {"n": 1}


class Unended(Shape):
    """Says of its last part that it isn't the final one."""

    def answer(self, request: Dict) -> Iterator[Dict]:
        yield {"n": 0, "is_final": False}


class EndedEarly(Shape):
    def answer(self, request: Dict) -> Iterator[Dict]:
        yield {"n": 0, "is_final": True}
        raise AssertionError("nobody asks for more")


class EmptyStream(Shape):
    def answer(self, request: Dict) -> Iterator[Dict]:
        yield from ()


class BrokenStream(Shape):
    def answer(self, request: Dict) -> Iterator[Dict]:
        yield {"n": 0}
        raise ValueError("half-way")


class AsyncBrokenStream(Shape):
    async def answer(self, request: Dict) -> AsyncIterator[Dict]:
        yield {"n": 0}
        raise ValueError("half-way")


class StreamOfWhatCannotBeSent(Shape):
    def answer(self, request: Dict) -> Iterator[Any]:
        yield {"n": 0}
        yield {"n": object()}


class YieldingCallback(Shape):
    def handle_api_input(self, channel: Any, _: Any, properties: Any, body: bytes) -> Any:
        yield {"n": 0}


@dataclass
class Place:
    name: str
    country: str | None = None


@dataclass
class Weather:
    city: Place
    days: int = 1
    unit: Literal["C", "F"] = "C"
    tags: list[str] = field(default_factory=list)


class Score(TypedDict, total=False):
    points: float


class Typed(Shape):
    def answer(self, request: Weather) -> Dict:
        place = request.city
        return {"is": [place.name, place.country, request.days, request.unit, request.tags]}


class AsyncTyped(Shape):
    async def answer(self, request: Score) -> Dict:
        return {"points": request.get("points")}


class Model(BaseModel, extra="forbid"):
    city: str = Field(min_length=2)
    day: int = Field(0, alias="on")


class Pydantic(Shape):
    def answer(self, request: Model) -> Dict:
        return {"city": request.city, "day": request.day}


class Refusing(Shape):
    def answer(self, request: Dict) -> Dict:
        raise RequestError(404, "no such city")


class AsyncRefusing(Shape):
    async def answer(self, request: Dict) -> Dict:
        raise RequestError(409, "it is there already")


class Retrying(Shape):
    times = 0

    def answer(self, request: Dict) -> Dict:
        self.times += 1
        if self.times == 1:
            raise RetryMessage(0.01)
        return {"times": self.times}


class AsyncRetrying(Shape):
    times = 0

    async def answer(self, request: Dict) -> Dict:
        self.times += 1
        if self.times == 1:
            raise RetryMessage(0.01)
        return {"times": self.times}


_connection: contextvars.ContextVar[str] = contextvars.ContextVar("_connection")


class Living(Shape):
    def on_start(self) -> None:
        self.log.append("start")

    @contextmanager
    def worker_context(self) -> Iterator[None]:
        _connection.set("open")
        self.log.append("enter")
        yield
        self.log.append("leave")

    def answer(self, request: Dict) -> Dict:
        return {"so far": list(self.log), "connection": _connection.get()}

    def on_stop(self) -> None:
        self.log.append("stop")


class AsyncLiving(Shape):
    async def on_start(self) -> None:
        await asyncio.sleep(0)
        self.log.append("start")

    @asynccontextmanager
    async def worker_context(self) -> AsyncIterator[None]:
        self.log.append("enter")
        yield
        self.log.append("leave")

    async def answer(self, request: Dict) -> Dict:
        return {"so far": list(self.log)}

    async def on_stop(self) -> None:
        self.log.append("stop")


@dataclass(frozen=True)
class Scenario:
    """A service, what it is asked, and what comes of it."""

    service: type[Shape]
    #: All replies, but for their ids.
    replies: list[Dict]
    request: Dict = field(default_factory=lambda: {"text": "hi"})
    is_dead: bool = False
    rejected: str = "acknowledge"
    #: What the service has noted when it has ended.
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.service.__name__} {self.request} {self.rejected}"


def _error(text: str, code: int = 500, **more: Any) -> Dict:
    return {"success": False, "error": text, "code": code, **more}


ECHO = {"echo": {"text": "hi"}}
BROKEN = [
    {"n": 0, "part": 0, "is_final": False},
    _error("ValueError: half-way", part=1, is_final=True),
]
NOT_TYPED = {"city": {"country": 3}, "days": "two", "unit": "K", "tags": ["a", 1]}
PROBLEMS = (
    "city.name is missing; city.country must be str or None, it is 3; days must be int, it is 'two'; "
    "unit must be 'C' or 'F', it is 'K'; tags[1] must be str, it is 1"
)

SCENARIOS = [
    Scenario(Plain, [ECHO]),
    Scenario(Async, [ECHO]),
    Scenario(AsyncFailing, [_error("ValueError: no tea")], is_dead=True),
    Scenario(
        AsyncCancelled,
        [_error("RuntimeError: the handler raised CancelledError, which ends this request alone")],
        is_dead=True,
    ),
    Scenario(
        AsyncNothing,
        [_error("PayloadError: answer() must be a dict, but is None: is a return missing?")],
        is_dead=True,
    ),
    Scenario(AsyncAll, [{"n": 0}, {"n": 1}, {"n": 2}]),
    Scenario(Stream, [{"n": n, "part": n, "is_final": n == 2} for n in range(3)]),
    Scenario(AsyncStream, [{"n": n, "part": n, "is_final": n == 1} for n in range(2)]),
    Scenario(Unended, [{"n": 0, "part": 0, "is_final": False}, {"part": 1, "is_final": True}]),
    Scenario(EndedEarly, [{"n": 0, "part": 0, "is_final": True}]),
    Scenario(EmptyStream, [{"part": 0, "is_final": True}]),
    Scenario(BrokenStream, BROKEN, is_dead=True),
    Scenario(AsyncBrokenStream, BROKEN, is_dead=True),
    Scenario(
        StreamOfWhatCannotBeSent,
        [
            {"n": 0, "part": 0, "is_final": False},
            _error(
                "PayloadError: answer()['n'] is an object, which Neon's format can't carry: make it a "
                "str, int, float, list or dict",
                part=1,
                is_final=True,
            ),
        ],
        is_dead=True,
    ),
    Scenario(
        YieldingCallback,
        [
            _error(
                "TypeError: the callback yields, so nobody would run it: let answer() yield, and the "
                "callback return respond(channel, request, self.answer)"
            )
        ],
        is_dead=True,
    ),
    Scenario(
        Typed,
        [{"is": ["Bonn", None, 2, "F", ["a"]]}],
        {"city": {"name": "Bonn"}, "days": 2, "unit": "F", "tags": ["a"], "context": {}, "x": 1},
    ),
    Scenario(Typed, [_error(PROBLEMS, 400)], NOT_TYPED),
    Scenario(Typed, [_error(PROBLEMS, 400)], NOT_TYPED, is_dead=True, rejected="dead"),
    Scenario(AsyncTyped, [{"points": 3.0}], {"points": 3}),
    Scenario(AsyncTyped, [{"points": None}], {}),
    Scenario(AsyncTyped, [_error("points must be float, it is 'many'", 400)], {"points": "many"}),
    Scenario(
        Pydantic, [{"city": "Bonn", "day": 2}], {"city": "Bonn", "on": 2, "context": {"a": 1}}
    ),
    Scenario(
        Pydantic,
        [
            _error(
                "city: String should have at least 2 characters; more: Extra inputs are not permitted",
                400,
            )
        ],
        {"city": "B", "more": 1},
    ),
    Scenario(Refusing, [_error("no such city", 404)]),
    Scenario(Refusing, [_error("no such city", 404)], is_dead=True, rejected="dead"),
    Scenario(AsyncRefusing, [_error("it is there already", 409)]),
    Scenario(Retrying, [{"times": 2}]),
    Scenario(AsyncRetrying, [{"times": 2}]),
    Scenario(
        Living,
        [{"so far": ["start", "enter"], "connection": "open"}],
        log=["start", "enter", "leave", "stop"],
    ),
    Scenario(
        AsyncLiving, [{"so far": ["start", "enter"]}], log=["start", "enter", "leave", "stop"]
    ),
]
