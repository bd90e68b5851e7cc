"""Requests with a type: what is read into it, and what is said of what isn't of it."""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict, Union

import pydantic
import pytest
from mq_connector import Request, RequestError
from mq_connector.errors import ConfigurationError
from mq_connector.handlers import typed
from mq_connector.handlers.typed import reader_of

City = NewType("City", str)


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Other:
    size: int


class Partly(TypedDict, total=False):
    a: int


class Whole(Partly):
    b: str


@dataclass
class All:
    text: str = ""
    raw: bytes = b""
    truth: bool = False
    number: int = 0
    real: float = 0.0
    nothing: None = None
    maybe: Optional[int] = None  # noqa: UP045  # as older code has it
    either: Union[int, str] = 0  # noqa: UP007
    new: int | list[int] = 0
    choice: Literal["a", 1, True] = "a"
    one: Literal[1] = 1
    color: Color = Color.RED
    one_color: Literal[Color.BLUE] = Color.BLUE
    items: list[int] = field(default_factory=list)
    any_items: list = field(default_factory=list)  # type: ignore[type-arg]
    pair: tuple[int, str] = (0, "")
    many: tuple[int, ...] = ()
    some: set[int] = field(default_factory=set)
    table: dict[str, list[int]] = field(default_factory=dict)
    mapping: Mapping[str, int] = field(default_factory=dict)
    tree: Tree | None = None
    one_of: Tree | Other | None = None
    whole: Whole | None = None
    city: City = City("")
    annotated: Annotated[int, "metres"] = 0
    anything: Any = None


def handle(request: All) -> Any: ...


def taking(kind: Any) -> Any:
    """A handler of requests of a type that is defined within a function, where its name isn't known."""

    def handler(request): ...  # type: ignore[no-untyped-def]

    handler.__annotations__["request"] = kind
    return handler


def read(handler: Any, **data: Any) -> Any:
    reader = reader_of(handler)
    assert reader is not None
    return reader(Request({"message_id": "m", "routing_key": "q", **data}))


@pytest.mark.parametrize(
    ("name", "given", "seen"),
    [
        ("text", "a", "a"),
        ("raw", b"a", b"a"),
        ("truth", True, True),
        ("real", 1, 1.0),
        ("nothing", None, None),
        ("maybe", None, None),
        ("maybe", 3, 3),
        ("either", "x", "x"),
        ("new", [1], [1]),
        ("choice", True, True),
        ("color", "red", Color.RED),
        ("color", 2, Color.BLUE),
        ("items", (1, 2), [1, 2]),
        ("any_items", [1, "a"], [1, "a"]),
        ("pair", [1, "a"], (1, "a")),
        ("many", [1, 2], (1, 2)),
        ("some", [1, 1], {1}),
        ("table", {"a": [1]}, {"a": [1]}),
        ("mapping", {"a": 1}, {"a": 1}),
        (
            "tree",
            {"name": "a", "children": [{"name": "b", "x": 1}]},
            Tree("a", [Tree("b")]),
        ),
        ("one_of", {"size": 1}, Other(1)),
        ("whole", {"b": "x", "c": 1}, {"b": "x"}),
        ("city", "Bonn", "Bonn"),
        ("annotated", 3, 3),
        ("anything", {"a": object}, {"a": object}),
    ],
)
def test_what_is_of_its_type_is_read_into_it(name: str, given: Any, seen: Any) -> None:
    found = getattr(read(handle, **{name: given}), name)
    assert found == seen
    assert type(found) is type(seen)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("text", 3, "text must be str, it is 3"),
        ("text", None, "text must be str, it is None"),
        ("text", "a" * 9, None),
        ("number", True, "number must be int, it is True"),
        ("number", 1.0, "number must be int, it is 1.0"),
        ("number", "1", "number must be int, it is '1'"),
        ("number", "x" * 99, f"number must be int, it is {'x' * 40!r}…"),
        ("number", "\n\x1b[31m", r"number must be int, it is '\n\x1b[31m'"),
        ("real", 10**400, "real must be float, it is a int"),
        ("truth", 1, "truth must be bool, it is 1"),
        ("maybe", "x", "maybe must be int or None, it is 'x'"),
        ("either", [], "either must be int or str, it is a list"),
        ("choice", 2, "choice must be 'a' or 1 or True, it is 2"),
        ("one", True, "one must be 1, it is True"),
        ("color", "green", "color must be 'red' or 2, it is 'green'"),
        ("one_color", 2.0, "one_color must be 2, it is 2.0"),
        ("items", [1, "a"], "items[1] must be int, it is 'a'"),
        ("items", {"a": 1}, "items must be a list, it is a dict"),
        ("pair", [1], "pair must be 2 values, it is a list"),
        ("pair", [1, 2], "pair[1] must be str, it is 2"),
        ("some", [[1]], "some[0] must be int, it is a list"),
        ("table", {"a": ["b"]}, "table['a'][0] must be int, it is 'b'"),
        ("table", {1: []}, "the key table[1] must be str, it is 1"),
        ("table", [], "table must be a dict, it is a list"),
        (
            "tree",
            {"name": "a", "children": [{"name": 1}]},
            "tree.children[0].name must be str, it is 1",
        ),
        ("tree", [], "tree must be a dict (Tree), it is a list"),
        ("one_of", {"x": 1}, "one_of must be Tree or Other or None, it is a dict"),
        ("whole", {"a": 1}, "whole.b is missing"),
    ],
)
def test_what_is_not_of_its_type_is_refused_with_the_field_s_name(
    name: str, given: Any, said: str | None
) -> None:
    if said is None:
        read(handle, **{name: given})
        return
    with pytest.raises(RequestError) as refused:
        read(handle, **{name: given})
    assert refused.value.code == 400
    assert refused.value.message == said


def test_of_many_problems_the_first_few_are_told() -> None:
    with pytest.raises(RequestError) as refused:
        read(handle, items=["x"] * 100_000, table={str(n): n for n in range(100_000)})
    assert refused.value.message.count("must be") == 5


def test_a_dataclass_may_look_at_its_values_itself() -> None:
    @dataclass
    class Range:
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is more than high")

    handler = taking(Range)

    assert read(handler, low=1, high=2) == Range(1, 2)
    with pytest.raises(RequestError, match="400 the request: low is more than high"):
        read(handler, low=3, high=2)


def test_the_envelope_is_left_out_unless_the_type_names_it() -> None:
    class Strict(pydantic.BaseModel, extra="forbid"):
        text: str

    class Addressed(Strict):
        message_id: str
        routing_key: str | None
        context: Any

    plain = taking(Strict)

    addressed = taking(Addressed)

    assert read(plain, text="hi", context={}) == Strict(text="hi")
    found = read(addressed, text="hi", context={"a": 1})
    assert (found.message_id, found.routing_key, found.context) == ("m", "q", {"a": 1})


def test_a_pydantic_error_of_the_model_s_own_is_one_of_the_request() -> None:
    class Checked(pydantic.BaseModel):
        a: int

        @pydantic.model_validator(mode="after")
        def look(self) -> Checked:
            raise ValueError("not\nthis")

    handler = taking(Checked)

    with pytest.raises(RequestError, match=r"400 the request: Value error, not\\nthis"):
        read(handler, a=1)


class Inner(pydantic.BaseModel):
    a: int


@dataclass
class Outer:
    inner: Inner


def test_pydantic_stands_within_a_dataclass_too() -> None:
    handler = taking(Outer)
    assert read(handler, inner={"a": 1}) == Outer(Inner(a=1))
    with pytest.raises(RequestError, match=r"400 inner\.a: Input should be a valid integer"):
        read(handler, inner={"a": "x"})


def untyped(request): ...  # type: ignore[no-untyped-def]


def plain_dict(request: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]


def any_mapping(request: Mapping[str, Any]) -> Any: ...


def anything(request: Any) -> Any: ...


def only_returns(request) -> dict: ...  # type: ignore[no-untyped-def, type-arg, empty-body]


def returns_what_nobody_can_read(request: dict[str, Any]) -> Nowhere: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    "handler",
    [untyped, plain_dict, any_mapping, anything, only_returns, returns_what_nobody_can_read],
)
def test_without_a_type_of_its_own_a_handler_gets_the_dict(handler: Any) -> None:
    assert reader_of(handler) is None
    assert reader_of(lambda request: request) is None
    assert reader_of(print) is None


def test_a_decorator_hides_no_type() -> None:
    @functools.wraps(handle)
    def wrapper(*arguments: Any) -> Any: ...

    assert read(wrapper, number=3).number == 3


def test_python_3_14_evaluates_what_a_hint_says_when_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All hints at once, so one that is there for type checkers alone would hide the other."""

    class Late:
        def __init__(self) -> None:
            self.__code__ = handle.__code__

        @property
        def __annotations__(self) -> Any:  # type: ignore[override]
            raise NameError("name 'Nowhere' is not defined")

        def __call__(self, request: Any) -> Any: ...

    library = SimpleNamespace(
        Format=SimpleNamespace(FORWARDREF=3),
        get_annotations=lambda _, format: {"request": Outer, "return": "Nowhere"},
    )
    monkeypatch.setitem(sys.modules, "annotationlib", library)
    assert read(Late(), inner={"a": 1}) == Outer(Inner(a=1))


def unknown(request: Nowhere) -> Any: ...  # type: ignore[name-defined]  # noqa: F821


@dataclass
class WithUnknown:
    a: Nowhere  # type: ignore[name-defined]  # noqa: F821


def with_unknown(request: WithUnknown) -> Any: ...


def with_unsuitable(request: list[complex]) -> Any: ...


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (unknown, r"unknown\(\)'s request can't be read \(name 'Nowhere' is not defined\)"),
        (with_unknown, r"the hints of WithUnknown can't be read \(name 'Nowhere'"),
        (with_unsuitable, "complex is nothing that a request can be held against"),
    ],
)
def test_a_type_that_cannot_be_read_is_told_in_one_line(handler: Any, said: str) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=said) as told:
            reader_of(handler)
        assert "\n" not in str(told.value)


def test_a_field_that_nothing_can_be_held_against_is_named() -> None:
    @dataclass
    class Holder:
        number: complex

    handler = taking(Holder)

    with pytest.raises(ConfigurationError, match=r"Holder\.number: complex is nothing"):
        reader_of(handler)


def test_handlers_that_are_made_anew_for_each_message_are_not_kept_for_ever() -> None:
    for _ in range(2 * typed._MOST):
        reader_of(lambda request: request)
    assert len(typed.readers) <= typed._MOST


@pytest.mark.parametrize("code", [99, 600, "400", True, 4.0])
def test_a_code_has_to_be_one(code: Any) -> None:
    with pytest.raises(ValueError, match="from 100 to 599"):
        RequestError(code, "no")
