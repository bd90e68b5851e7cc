"""What is written: it decodes to the same value, or is refused with its place and type."""

from __future__ import annotations

import array
import ast
import base64
import datetime
import decimal
import enum
import json
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mq_connector.errors import PayloadError
from mq_connector.payload import Form, decode, encode
from mq_connector.payload.encoding import LEVELS

from .literals import dicts, scalars, typed, values
from .requests import forms

JSON_FORMS = [Form.JSON, Form.JSON_BASE64]

NEON, JSON = "which Neon's format can't carry", "which JSON can't carry"


class Text(str):
    def __repr__(self) -> str:
        return "<text>"

    __str__ = __repr__


class Name(str):
    """Text that equals only itself."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = str.__hash__


class Bytes(bytes):
    def __repr__(self) -> str:
        return "<bytes>"

    def __bytes__(self) -> bytes:
        return b"other"


class Whole(int):
    def __repr__(self) -> str:
        return "<int>"

    __str__ = __repr__

    def __int__(self) -> int:
        return 0


class Real(float):
    def __repr__(self) -> str:
        return "<float>"


class Both(complex):
    def __repr__(self) -> str:
        return "<complex>"


class Members(set[Any]):
    pass


class Items(list[Any]):
    def __repr__(self) -> str:
        return "<list>"


class Colour(enum.IntEnum):
    RED = 1


class Flag(enum.IntFlag):
    A = 1
    B = 2


class Word(str, enum.Enum):
    HI = "hi"


class Plain(enum.Enum):
    RED = 1


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Bare:
    """Looks like a literal, and is none."""

    def __repr__(self) -> str:
        return "1"


Point = namedtuple("Point", "x y")
ordered = OrderedDict(a=1, b=2)


ordered.move_to_end("a")


#: What becomes a value of its base type, and what that is.
CONVERTED = [
    (Text("a"), "a"),
    (Word.HI, "hi"),
    (Whole(5), 5),
    (Colour.RED, 1),
    (Flag.A | Flag.B, 3),
    (Real(1.5), 1.5),
    (Items([1, Text("x")]), [1, "x"]),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (ordered, {"b": 2, "a": 1}),
    ({Text("k"): {Word.HI: Colour.RED}}, {"k": {"hi": 1}}),
    ([[{"deep": [Whole(1)]}]], [[{"deep": [1]}]]),
]

#: The same, where JSON has no such type.
CONVERTED_LITERAL = [
    (Bytes(b"a"), b"a"),
    (Both(1 + 2j), 1 + 2j),
    (Point(1, Text("y")), (1, "y")),
    ((Colour.RED,), (1,)),
    (Members([Colour.RED]), {1}),
    ({Colour.RED, "a"}, {1, "a"}),
    (
        {Colour.RED: 1, (Text("a"), 2): 3, Bytes(b"b"): 4, None: 5},
        {1: 1, ("a", 2): 3, b"b": 4, None: 5},
    ),
]


def ids(rows: list[Any]) -> list[str]:
    return [type(row[0]).__name__ + str(number) for number, row in enumerate(rows)]


@pytest.mark.parametrize(("value", "plain"), CONVERTED, ids=ids(CONVERTED))
@forms
def test_a_value_of_a_subclass_becomes_one_of_its_base(value: Any, plain: Any, form: Form) -> None:
    data = {"before": 1, "a": value, "behind": [value]}
    body = encode(data, form)
    assert body == encode({"before": 1, "a": plain, "behind": [plain]}, form)
    assert typed(decode(body)["a"]) == typed(plain)
    assert data["a"] is value


@pytest.mark.parametrize(("value", "plain"), CONVERTED_LITERAL, ids=ids(CONVERTED_LITERAL))
def test_the_literal_form_converts_what_it_alone_carries(value: Any, plain: Any) -> None:
    assert typed(decode(encode({"a": value}))) == typed({"a": plain})
    for form in JSON_FORMS:
        with pytest.raises(PayloadError, match=JSON):
            encode({"a": value}, form)


@pytest.mark.parametrize("data", [OrderedDict(a=1), MappingProxyType({"a": 1}), UserDict(a=1)])
@forms
def test_a_mapping_of_another_class_is_sent_as_a_dict(data: Any, form: Form) -> None:
    assert encode(data, form) == encode({"a": 1}, form)


now = datetime.datetime(2026, 1, 1)
endless: dict[str, Any] = {"a": 1}
endless["b"] = {"c": [endless]}
rounds: list[Any] = []


rounds.append((rounds,))


#: What no body carries, and what is said of it.
REFUSED = [
    ({"now": now}, rf"answer\(\)\['now'\] is a datetime, {NEON}: make it a str, int"),
    ({"a": {"b": [1, now]}}, rf"answer\(\)\['a'\]\['b'\]\[1\] is a datetime, {NEON}"),
    ({"a": decimal.Decimal("1.5")}, rf"answer\(\)\['a'\] is a Decimal, {NEON}"),
    ({"a": float("nan")}, rf"answer\(\)\['a'\] is nan, {NEON}: make it None or a str"),
    ({"a": [0.0, float("inf")]}, rf"answer\(\)\['a'\]\[1\] is inf, {NEON}"),
    ({"a": [[float("-inf")]]}, rf"answer\(\)\['a'\]\[0\]\[0\] is -inf, {NEON}"),
    ({"a": Real("nan")}, rf"answer\(\)\['a'\] is nan, {NEON}"),
    ({"a": complex("nanj")}, rf"answer\(\)\['a'\] is nanj, {NEON}"),
    ({"a": (1, complex("inf"))}, rf"answer\(\)\['a'\]\[1\] is \(inf\+0j\), {NEON}"),
    ({"a": {float("nan")}}, rf"answer\(\)\['a'\]\[nan\] is nan, {NEON}"),
    ({"a": frozenset()}, rf"answer\(\)\['a'\] is a frozenset, {NEON}"),
    ({"a": bytearray()}, rf"answer\(\)\['a'\] is a bytearray, {NEON}"),
    ({"a": memoryview(b"")}, rf"answer\(\)\['a'\] is a memoryview, {NEON}"),
    ({"a": array.array("i")}, rf"answer\(\)\['a'\] is an array, {NEON}"),
    ({"a": range(3)}, rf"answer\(\)\['a'\] is a range, {NEON}"),
    ({"a": deque()}, rf"answer\(\)\['a'\] is a deque, {NEON}"),
    ({"a": {}.keys()}, rf"answer\(\)\['a'\] is a dict_keys, {NEON}"),
    ({"a": Plain.RED}, rf"answer\(\)\['a'\] is a Plain, {NEON}"),
    ({"a": Plain}, rf"answer\(\)\['a'\] is an EnumType, {NEON}|is an EnumMeta, {NEON}"),
    ({"a": SimpleNamespace()}, rf"answer\(\)\['a'\] is a SimpleNamespace, {NEON}"),
    ({"a": Path("a")}, rf"answer\(\)\['a'\] is a PosixPath, {NEON}"),
    ({"a": MappingProxyType({})}, rf"answer\(\)\['a'\] is a mappingproxy, {NEON}"),
    ({"a": NotImplemented}, rf"answer\(\)\['a'\] is a NotImplementedType, {NEON}"),
    ({"a": ...}, rf"answer\(\)\['a'\] is an ellipsis, {NEON}"),
    ({"a": (1, {...})}, rf"answer\(\)\['a'\]\[1\]\[Ellipsis\] is an ellipsis, {NEON}"),
    ({"a": Bare()}, rf"answer\(\)\['a'\] is a Bare, {NEON}"),
    ({"a": Broken()}, rf"answer\(\)\['a'\] is a Broken, {NEON}"),
    ({Plain.RED: 1}, rf"answer\(\) key <Plain.RED: 1> is a Plain, {NEON}"),
    ({Broken(): 1}, rf"answer\(\) key a Broken is a Broken, {NEON}"),
    ({"a": {(1, now): 1}}, rf"answer\(\)\['a'\] key \(1, datetime.*\[1\] is a datetime, {NEON}"),
    ({Text("a"): now}, rf"answer\(\)\[.*\] is a datetime, {NEON}"),
    ({"x" * 1000: now}, rf"answer\(\)\['x{{39}}\] is a datetime, {NEON}"),
    (endless, r"answer\(\)\['b'\]\['c'\]\[0\] holds itself"),
    ({"a": rounds}, r"answer\(\)\['a'\]\[0\]\[0\] holds itself"),
    ({Name("a"): 1, "a": 2}, r"answer\(\) has 2 keys or members of which 1 would be lost"),
    ({"a": {Name("a"), "a"}}, r"answer\(\)\['a'\] has 2 keys or members of which 1 would be lost"),
    ({"a": 10**5000}, r"answer\(\)\['a'\] is an int of more digits than Python reads"),
    ({"a": [Whole(-(10**5000))]}, r"answer\(\)\['a'\]\[0\] is an int of more digits"),
    ({10**5000: 1}, r"answer\(\) key .* is an int of more digits"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED, ids=[reason[9:50] for _, reason in REFUSED])
def test_what_no_body_carries_is_refused_by_place_and_type(
    data: dict[Any, Any], reason: str
) -> None:
    with pytest.raises(PayloadError, match=reason) as caught:
        encode(data, name="answer()")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


UNFIT_FOR_JSON = [
    ({"a": b"x"}, r"message\['a'\] is a bytes"),
    ({"a": (1,)}, r"message\['a'\] is a tuple"),
    ({"a": Point(1, 2)}, r"message\['a'\] is a Point"),
    ({"a": {"b": [1, {2}]}}, r"message\['a'\]\['b'\]\[1\] is a set"),
    ({"a": float("nan")}, r"message\['a'\] is nan"),
    ({"a": [float("-inf")]}, r"message\['a'\]\[0\] is -inf"),
    ({"a": 1j}, r"message\['a'\] is a complex"),
    ({"a": now}, r"message\['a'\] is a datetime"),
    ({"a": ...}, r"message\['a'\] is an ellipsis"),
    ({b"a": 1}, r"message has the key b'a', a bytes"),
    ({1: 1}, r"message has the key 1, an int"),
    ({"a": {None: 1}}, r"message\['a'\] has the key None, a NoneType"),
    ({"a": [{Broken(): 1}]}, r"message\['a'\]\[0\] has the key a Broken, a Broken"),
]


@pytest.mark.parametrize(
    ("data", "reason"), UNFIT_FOR_JSON, ids=[reason[9:50] for _, reason in UNFIT_FOR_JSON]
)
@pytest.mark.parametrize("form", JSON_FORMS)
def test_what_json_cannot_carry_is_refused_by_place_and_type(
    data: dict[Any, Any], reason: str, form: Form
) -> None:
    with pytest.raises(PayloadError, match=f"{reason}, {JSON}") as caught:
        encode(data, form)
    assert str(caught.value).isprintable()


def nested(levels: int, within: Any = None) -> dict[str, Any]:
    data: Any = within if within is not None else {}
    for _ in range(levels - 1):
        data = {"a": data}
    return data  # type: ignore[no-any-return]


@forms
def test_what_is_written_is_no_deeper_than_python_reads(form: Form) -> None:
    deepest = nested(LEVELS)
    assert decode(encode(deepest, form), max_depth=LEVELS) == deepest
    assert ast.literal_eval(str(deepest)) == deepest
    encode(nested(LEVELS, []), form)
    for deep in (nested(LEVELS + 1), nested(LEVELS, [[]]), nested(100_000)):
        with pytest.raises(PayloadError, match="nested too deep"):
            encode(deep, form)


@forms
def test_an_integer_that_python_cannot_print_is_refused(form: Form) -> None:
    with pytest.raises(PayloadError, match=r"message\['a'\]\[1\] is an int of more digits"):
        encode({"a": [1, 10**5000]}, form)


@settings(max_examples=100, derandomize=True)
@given(dicts)
def test_plain_values_are_written_as_python_prints_them(data: dict[Any, Any]) -> None:
    assert encode(data) == base64.b64encode(json.dumps(str(data)).encode())


class Sub(str):
    pass


foreign = st.one_of(
    st.just(now),
    st.just(...),
    st.just(float("nan")),
    st.just(decimal.Decimal(1)),
    st.text(max_size=3).map(Text),
    st.integers().map(Whole),
    st.floats().map(Real),
    st.lists(scalars, max_size=2).map(Items),
    st.binary(max_size=3).map(Bytes),
    st.builds(Point, scalars, scalars),
    scalars,
)
mixed = st.dictionaries(
    st.text(max_size=3) | st.text(max_size=3).map(Sub) | st.integers().map(Whole),
    st.recursive(
        foreign | values,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=150, derandomize=True)
@given(mixed, st.sampled_from(Form))
def test_what_is_written_equals_what_is_read_or_it_is_refused(
    data: dict[Any, Any], form: Form
) -> None:
    try:
        body = encode(data, form)
    except PayloadError as error:
        assert str(error).isprintable()
    else:
        assert decode(body, max_depth=LEVELS) == plain(data)


def plain(value: Any) -> Any:
    """By another way than ours: through the constructors of the base types."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in dict.items(value)}
    base: Any
    for base in (list, tuple, set):
        if isinstance(value, base):
            return base(plain(each) for each in base.__iter__(value))
    if isinstance(value, (Text, Whole, Real, Bytes)):
        base = type(value).__mro__[1]
        return base.__getnewargs__(value)[0]
    return value
