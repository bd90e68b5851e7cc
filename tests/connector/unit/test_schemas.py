"""JSON Schemas of type hints, and what a document tells of a handler and its queue."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, TypedDict

import pika
import pydantic
import pytest
from mq_connector import ConsumerThread, MQConnector
from mq_connector.commands.description import document
from mq_connector.commands.description.schemas import Schemas
from typing_extensions import NotRequired

Celsius = NewType("Celsius", float)


class Kind(enum.Enum):
    FIRST = "a"
    SECOND = 2


@dataclass
class Tree:
    """A thing with branches."""

    name: str
    kind: Kind = Kind.FIRST
    branches: list[Tree] = field(default_factory=list)
    made: object = object()
    count: int = field(default=0, init=False)


class Answer(TypedDict):
    text: str
    more: NotRequired[int]


class Leaf(pydantic.BaseModel):
    size: int = pydantic.Field(gt=0)


class Model(pydantic.BaseModel):
    leaves: list[Leaf]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (Any, {}),
        (object, {}),
        ("a text", {}),
        (Celsius, {"type": "number"}),
        (Annotated[int, "degrees"], {"type": "integer"}),
        (bool | None, {"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Literal["a", 2, Kind.SECOND], {"enum": ["a", 2, 2]}),
        (Literal[b"a"], {}),
        (dict, {"type": "object"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (list, {"type": "array"}),
        (Sequence[float], {"type": "array", "items": {"type": "number"}}),
        (frozenset[str], {"type": "array", "items": {"type": "string"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "items": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
    ],
    ids=str,
)
def test_a_hint_has_a_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert Schemas().of(hint) == schema


def test_a_dataclass_is_kept_by_its_name_and_may_hold_itself() -> None:
    schemas = Schemas()
    assert schemas.of(Tree) == schemas.of(Tree) == {"$ref": "#/components/schemas/Tree"}
    assert schemas.named["Tree"] == {
        "type": "object",
        "description": "A thing with branches.",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "kind": {"allOf": [{"$ref": "#/components/schemas/Kind"}], "default": "a"},
            "branches": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}},
            "made": {},
        },
    }
    assert schemas.named["Kind"] == {"enum": ["a", 2]}


def test_a_typed_dict_says_which_keys_there_must_be() -> None:
    schemas = Schemas()
    schemas.of(Answer)
    assert schemas.named["Answer"] == {
        "type": "object",
        "required": ["text"],
        "properties": {"text": {"type": "string"}, "more": {"type": "integer"}},
    }


def test_a_model_of_pydantic_says_it_itself() -> None:
    schemas = Schemas()
    schemas.of(Model)
    assert schemas.named["Model"]["properties"]["leaves"]["items"] == {
        "$ref": "#/components/schemas/Leaf"
    }
    assert schemas.named["Leaf"]["properties"]["size"]["exclusiveMinimum"] == 0


def test_two_classes_of_one_name_are_told_apart() -> None:
    @dataclass
    class Tree:
        size: int

    schemas = Schemas()
    first, other = schemas.of(globals()["Tree"]), schemas.of(Tree)
    assert first != other
    assert len({*schemas.named}) == 3


class Service(MQConnector):
    def __init__(self, *queues: str) -> None:
        super().__init__({"users": {"a": {"username": "a", "password": "p"}}}, "a")
        self.vhost = "/a"
        self.consumers = {
            queue: ConsumerThread(self.create_mq_connection(), queue, self.handle_api_input)
            for queue in queues
        }

    def answer(self, request: Tree) -> Iterator[Answer]:
        yield {"text": request.name}

    def handle_api_input(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.answer(body)  # type: ignore[arg-type]


class Streaming(Service):
    async def answer(self, request: Tree) -> AsyncIterator[Answer]:  # type: ignore[override]
        yield {"text": request.name}


class Plain(Service):
    def handle_api_input(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        """Doesn't leave the answer to anybody."""


@pytest.mark.parametrize("kind", [Service, Streaming])
def test_what_is_answered_in_parts_is_told_part_by_part(kind: type[Service]) -> None:
    messages = document(kind("in"))["components"]["messages"]
    assert messages["in.request"]["payload"]["allOf"][1] == {"$ref": "#/components/schemas/Tree"}
    assert messages["in.reply"]["payload"]["allOf"][1]["allOf"] == [
        {"$ref": "#/components/schemas/Answer"}
    ]


class Second(Service):
    def answer_other(self, request: Answer) -> dict[str, int]:
        return {"size": len(request["text"])}

    def handle_other(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.answer_other(body)  # type: ignore[arg-type]


def test_another_consumer_has_the_types_of_its_own_answer() -> None:
    service = Second("in")
    service.consumers["other"] = ConsumerThread(
        service.create_mq_connection(), "other", service.handle_other
    )
    messages = document(service)["components"]["messages"]
    asked = {
        key: messages[key]["payload"]["allOf"][1]["$ref"] for key in ("in.request", "other.request")
    }
    assert asked == {
        "in.request": "#/components/schemas/Tree",
        "other.request": "#/components/schemas/Answer",
    }


def test_a_callback_that_reads_the_body_itself_says_nothing_of_it() -> None:
    made = document(Plain("in"))
    assert made["components"]["schemas"] == {}
    assert made["components"]["messages"]["in.request"]["payload"]["allOf"][1] == {"type": "object"}


def test_each_queue_has_a_channel_of_its_own() -> None:
    channels = document(Service("a b", "a_b", "replies"))["channels"]
    addresses = {key: channel["address"] for key, channel in channels.items()}
    assert addresses == {
        "a_b": "a b",
        "a_b.dead": "a b.dead",
        "a_b_2": "a_b",
        "a_b.dead_2": "a_b.dead",
        "replies_2": "replies",
        "replies.dead": "replies.dead",
        "replies": None,
    }


@pytest.mark.parametrize(
    ("tls", "protocol"), [(False, "amqp"), (True, "amqps")], ids=["plain", "tls"]
)
def test_the_servers_are_those_of_the_configuration(
    tls: bool, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQ_SERVER", "one,[::1]:7")
    monkeypatch.setenv("MQ_TLS", str(tls).lower())
    monkeypatch.setenv("MQ_PORT", "5")
    servers = document(Service("in"))["servers"].values()
    assert [each["host"] for each in servers] == ["one:5", "[::1]:7"]
    assert {each["protocol"] for each in servers} == {protocol}
    assert {each["pathname"] for each in servers} == {"/a"}


def test_a_consumer_with_a_connection_of_its_own_has_its_vhost() -> None:
    service = Service()
    parameters = pika.ConnectionParameters("localhost", virtual_host="/other")
    service.consumers["in"] = ConsumerThread(parameters, "in", service.handle_api_input)
    binding = document(service)["channels"]["in"]["bindings"]["amqp"]
    assert binding["queue"]["vhost"] == "/other"
