"""Python literals for tests: strategies that make them, and what the standard library reads."""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from mq_connector.errors import PayloadError
from mq_connector.payload import MAX_DEPTH, literal, literal_parser

#: What `ast.literal_eval` says of a text that isn't the literal of a dict.
REFUSED = "refused"


def typed(value: Any) -> Any:
    """A value with all its types, so that 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if isinstance(value, dict):
        return "dict", [(typed(key), typed(each)) for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [typed(each) for each in value]
    if isinstance(value, set):
        return "set", sorted((typed(each) for each in value), key=repr)
    return type(value).__name__, repr(value)


@functools.cache
def along_the_probe_sequence(bits: int, count: int) -> list[int]:
    """Integers that make a dict of them slow: `count` fill the way on which CPython looks for a free
    place in a table of 2**bits, slot = 5 * slot + 1 + perturb, and up to as many begin that way.

    No two of them have one hash, and Python doesn't salt those of integers.
    """
    size = 1 << bits
    way, slot = [], 0
    for _ in range(size):
        way.append(slot)
        slot = (5 * slot + 1) % size
    place = {slot: number for number, slot in enumerate(way)}
    found: list[int] = []
    for number in range(size, 64 * size):
        perturb, slot = number, number % size
        while perturb and place[slot] < count:
            perturb >>= 5
            slot = (5 * slot + 1 + perturb) % size
        if not perturb and place[slot] < count // 2:
            found.append(number)
            if len(found) == count:
                break
    return way[:count] + found


def is_refused_on_purpose(text: str) -> bool:
    """Whether a backslash continues a line outside all brackets, which only Python understands."""
    return bool(re.match(r"[^({]*\\[\r\n]", text) or re.search(r"\\[\r\n][^)}]*$", text))


def expected(text: str) -> Any:
    """What the standard library makes of a text: typed, or REFUSED."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except Exception:
        return REFUSED
    return typed(value) if type(value) is dict else REFUSED


#: Text with much that needs care: quotation marks, backslashes, escapes, words, brackets.
_tricky = st.lists(
    st.sampled_from(
        [
            *"ab'\"\\/\n\r\t\x00\x07\x7f\x80é漢😀\u200b\u2028��\U000e0001(){}[],:# ux",
            "None",
            "True",
            "null",
            "true",
            "x41",
            "u0041",
            "N{DIGIT ONE}",
            ": None",
            "'''",
            ",)",
        ]
    ),
    max_size=8,
).map("".join)

texts = _tricky | st.text(st.characters(), max_size=20)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=8)
)

_keys = scalars | st.tuples(scalars, scalars)

values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(_keys, max_size=4)
        | st.dictionaries(_keys, inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)

dicts = st.dictionaries(texts, values, max_size=5) | st.dictionaries(_keys, values, max_size=5)

#: Pieces of source code, of this language and of others.
fragments = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ":",
        "'",
        '"',
        "'''",
        '"""',
        "\\",
        "#",
        "\\\\",
        "\\'",
        '\\"',
        "\\n",
        "\\/",
        "\\a",
        "\\0",
        "\\777",
        "\\x41",
        "\\x4",
        "\\u0041",
        "\\ud83d",
        "\\ude00",
        "\\U0001f600",
        "\\U00110000",
        "\\N{DIGIT\\",
        "ONE}",
        "\\N{BELL}",
        "True",
        "False",
        "None",
        "true",
        "false",
        "null",
        "NaN",
        "nan",
        "inf",
        "Infinity",
        "-Infinity",
        "set",
        "set()",
        "...",
        "0",
        "1",
        "-0",
        "00",
        "007",
        "1_000",
        "1__0",
        "1_",
        "0x1F",
        "0b12",
        "0o17",
        "1j",
        "2.5",
        ".5",
        "5.",
        "1e5",
        "1e400",
        "1E-3",
        "0777j",
        "+",
        "-",
        "*",
        "**",
        "~",
        "not",
        "lambda",
        "if",
        "for",
        "b'",
        "r'",
        "u'",
        "rb'",
        "BR'",
        "ub'",
        "f'",
        "t'",
        "'a'",
        "b'c'",
        "'k':'v',",
        "{}",
        "[]",
        "()",
        "{1}",
        "(1)",
        "(1,)",
        "-1",
        "+1j",
        "1+2j",
        "'it\"s'",
        "a",
        "é",
        "漢",
        "😀",
        "''",
        '""',
        " ",
        "\t",
        "\x0c",
        "\n",
        "\r",
        "\r\n",
        "\x00",
        "\x01",
        "\x0b",
        "\xa0",
        "\u2028",
        "�",
        "\ufeff",
        "\\\n",
        "#\n",
        "__import__('os')",
        "9" * 5000,
        "\\N{KEYCAP DIGIT ONE}",
        "'a' 'b'",
    ]
)


Parse = Callable[[str, int], "dict[Any, Any]"]

#: As messages are read, and the tokenizer alone, which otherwise sees only what isn't like JSON.
PARSERS = [
    pytest.param(literal.parse, id="literal"),
    pytest.param(literal_parser.parse, id="tokenizer"),
]
both = pytest.mark.parametrize("parse", PARSERS)


def read(parse: Parse, text: str) -> Any:
    """What we make of a text: typed, or REFUSED, with an error on one short line."""
    try:
        return typed(parse(text, MAX_DEPTH))
    except PayloadError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 200
        return REFUSED


def has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def same_as_the_standard_library(text: str) -> None:
    result = expected(text)
    assert read(literal.parse, text) == result
    if not has_lone_surrogate(text):
        assert read(literal_parser.parse, text) == result
