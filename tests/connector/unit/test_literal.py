"""Reading literals, held against `ast.literal_eval` on everything that we could think of."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mq_connector.payload import MAX_DEPTH, literal, literal_parser

from .literals import (
    REFUSED,
    Parse,
    both,
    dicts,
    expected,
    fragments,
    has_lone_surrogate,
    is_refused_on_purpose,
    read,
    same_as_the_standard_library,
    typed,
)


@settings(max_examples=120, derandomize=True)
@given(dicts)
def test_a_printed_dict_reads_as_the_standard_library_reads_it(data: dict[Any, Any]) -> None:
    same_as_the_standard_library(str(data))


@settings(max_examples=150, derandomize=True)
@given(dicts, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), fragments), max_size=4))
def test_a_damaged_dict_reads_as_the_standard_library_reads_it(
    data: dict[Any, Any], damage: list[tuple[int, int, str]]
) -> None:
    text = str(data)
    for position, gone, new in damage:
        position %= len(text) + 1
        text = text[:position] + new + text[position + gone :]
    if not is_refused_on_purpose(text):
        same_as_the_standard_library(text)


@settings(max_examples=300, derandomize=True)
@given(
    st.sampled_from(["{", "{'a':", "{'a': (", "{1: [", "({", "{'a': '", '{"a": "']),
    st.lists(fragments, max_size=7).map("".join),
    st.sampled_from(["}", ")}", "]}", "})", "'}", '"}', ""]),
)
@example("{'a':", "(set)()", "}")
@example("{", "- 'a': 'b', 'c': 1", "}")
@example("{'a':", " [1), 'b': (2]", "}")
@example("{'a':", " [1), '\\x00)': 0", "}")
def test_pieces_of_source_read_as_the_standard_library_reads_them(
    before: str, middle: str, behind: str
) -> None:
    text = before + middle + behind
    if not is_refused_on_purpose(text):
        same_as_the_standard_library(text)


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [
        (["(", ")", "[", "]", "{", "}", ",", "1", "'a':"], 4),
        (["-", "+", "1", "2j", "(", ")", ",", "'a'", "True"], 4),
        (["'", '"', "\\", "a", "b", ","], 5),
        (["set", "(", ")", ",", "'a'", "b'c'", "#\n", "\\\n"], 4),
    ],
    ids=["brackets", "arithmetic", "quotes", "words"],
)
def test_all_short_texts_read_as_the_standard_library_reads_them(
    alphabet: list[str], length: int
) -> None:
    for count in range(length + 1):
        for pieces in itertools.product(alphabet, repeat=count):
            text = "{'k':" + "".join(pieces) + "}"
            result = expected(text)
            assert read(literal.parse, text) == result, text
            assert read(literal_parser.parse, text) == result, text


def test_blank_lines_around_a_dict_count_as_they_do_for_the_standard_library() -> None:
    for count in range(5):
        for pieces in itertools.product([" ", "\t", "\f", "\n", "#", "\r"], repeat=count):
            margin = "".join(pieces)
            for text in (margin + "{}", "{}" + margin, margin + "({})"):
                assert read(literal.parse, text) == expected(text), repr(text)


#: Each the value of the only key.
READABLE = [
    ("'it\\'s \"so\"'", 'it\'s "so"'),
    ('"it\'s"', "it's"),
    ("'{\"a\": [1, null]}'", '{"a": [1, null]}'),
    ("'a\\nb\\tc\\\\d'", "a\nb\tc\\d"),
    ("'\\x00\\x7f\\xa0\\u200b\\U0001f600'", "\x00\x7f\xa0\u200b\U0001f600"),
    ("'\\ud83d\\ude00'", "\ud83d\ude00"),  # Two halves, which JSON would join.
    ("'\\uD83D\\uDE00'", "\ud83d\ude00"),
    ("'\\/'", "\\/"),  # No escape in Python, but one in JSON.
    ("'\\\\/'", "\\/"),
    ("'\\\\u0041'", "\\u0041"),
    ("'\\\\'", "\\"),
    ("'\\a\\b\\f\\v\\101\\1\\q'", "\a\b\f\vA\1\\q"),
    ("'\\400'", "\u0100"),
    ("'\\N{DIGIT ONE}\\N{latin small letter a}'", "1a"),
    ("'a\\\nb'", "ab"),
    ("'''a\n'b'''", "a\n'b"),
    ("'''a\r\nb\rc'''", "a\nb\nc"),
    ("'a\\\r\nb'", "ab"),
    ("'a' \"b\"\n'c' # d\n'e'", "abce"),
    ("u'a' r'\\n'", "a\\n"),
    ("'😀 é 漢 \u2028 \x85 \x7f \t'", "😀 é 漢 \u2028 \x85 \x7f \t"),
    ("'True None null: None, NaN'", "True None null: None, NaN"),
    ("[True, False, None, ...]", [True, False, None, ...]),
    ("b'\\x00\\xffa\\n\\'\\\"\\400\\q\\u0041'", b"\x00\xffa\n'\"\x00\\q\\u0041"),
    ("B'a' rB'\\x00' bR'b'", b"a\\x00b"),
    ("[0, -0, 00, +1, -1, - 1, 1_000, 0x_fF, 0o17, 0B1]", [0, 0, 0, 1, -1, -1, 1000, 255, 15, 1]),
    ("[0.0, -0.0, 1., .5, 1e3, 1E+3, 1_0.0_1, 00.5]", [0.0, -0.0, 1.0, 0.5, 1e3, 1e3, 10.01, 0.5]),
    ("[1e999, -1e999]", [float("inf"), float("-inf")]),
    (
        "[1j, 010j, -1j, 1+2j, -1-2j, (1+2j), (-1)+(2j)]",
        [1j, 10j, -1j, 1 + 2j, -1 - 2j, 1 + 2j, -1 + 2j],
    ),
    ("123456789012345678901234567890", 123456789012345678901234567890),
    ("()", ()),
    ("(1)", 1),
    ("(1,)", (1,)),
    ("((1, (2,)), [(3, 4)],)", ((1, (2,)), [(3, 4)])),
    ("('(', ',)', ')')", ("(", ",)", ")")),
    ("('\\x00(', 1)", ("\0(", 1)),
    ("{'\\x00(': [1, 2], '\\x00)': 0}", {"\0(": [1, 2], "\0)": 0}),
    ("{1, 'a', (2,), b'c'}", {1, "a", (2,), b"c"}),
    ("set()", set()),
    ("[set ( ), (set)()]", [set(), set()]),
    ("{1: 'a', True: 'b', 1.0: 'c'}", {1: "c"}),
    ("{(1, 'a'): {b'k': None}}", {(1, "a"): {b"k": None}}),
    ("[1,\n 2, # three\n \t\f 3, \\\n]", [1, 2, 3]),
    ("{'a': 'b', 'a': 'c'}", {"a": "c"}),
    ("{'a': 'b' 'c', 'd': 'e'}", {"a": "bc", "d": "e"}),
]


@both
@pytest.mark.parametrize(("source", "value"), READABLE, ids=[source for source, _ in READABLE])
def test_what_python_prints_or_people_write_is_read(
    parse: Parse, source: str, value: object
) -> None:
    text = "{'key': " + source + "}"
    result = parse(text, MAX_DEPTH)
    assert typed(result) == typed({"key": value})
    assert typed(result) == expected(text)


UNREADABLE = [
    "",
    "{",
    "}",
    "{}}",
    "{} {}",
    "{},",
    "[]",
    "'a'",
    "1",
    "set()",
    "({}, {})",
    "{'a'}",
    "{'a': true}",
    "{'a': null}",
    "{'a': [false]}",
    "{'a': NaN}",
    "{'a': Infinity}",
    "{'a': -Infinity}",
    "{'a': nan}",
    "{'a': inf}",
    "{'a': 'b}",
    '{"a": "b}',
    "{'a': 'b\n'}",
    "{'a': 'b\r'}",
    "{'a': 'b\\\\\n'}",
    "{'a': '\0'}",
    "{'a': 1} # \0",
    "{'a': '\\x4'}",
    "{'a': '\\u12'}",
    "{'a': '\\U00110000'}",
    "{'a': '\\N{NO SUCH NAME}'}",
    "{'a': '\\N{KEYCAP DIGIT ONE}'}",
    "{'a': '\\N'}",
    "{'a': b'é'}",
    "{'a': b'\\x'}",
    "{'a': 'b' b'c'}",
    "{'a': ('b') 'c'}",
    "{'a': ub'c'}",
    "{'a': f'c'}",
    "{'a': bb'c'}",
    "{'a': 007}",
    "{'a': 1__0}",
    "{'a': 1_}",
    "{'a': 0b12}",
    "{'a': 0x}",
    "{'a': 1if 1else 1}",
    "{'a': 1é}",
    "{'a': 1 2}",
    "{'a': 1 + 2}",
    "{'a': 1j + 2j}",
    "{'a': 1 + 2j + 3j}",
    "{'a': 1 + -2j}",
    "{'a': 1 + (1 + 2j)}",
    "{'a': -(1 + 2j)}",
    "{'a': --1}",
    "{'a': ~1}",
    "{'a': not 1}",
    "{'a': -True}",
    "{'a': -'b'}",
    "{-'a': 'b', 'c': 1}",
    "{'a': -(-1)}",
    "{'a': 1**2}",
    "{'a': 10**9}",
    "{'a': 'b' * 10}",
    "{'a': 'b' % 1}",
    "{'a': 1" + "0" * 400 + " + 1j}",
    "{'a': " + "9" * 5000 + "}",
    "{'a': (" + "9" * 5000 + ",)}",
    "{'a': set}",
    "{'a': set(1)}",
    "{'a': set()()}",
    "{'a': set([])}",
    "{'a': frozenset()}",
    "{'a': dict()}",
    "{'a': [b for b in ()]}",
    "{'a': lambda: 1}",
    "{'a': 1 if 1 else 2}",
    "{'a': ().__class__}",
    "{'a': {}['b']}",
    "{'a': *[1]}",
    "{**{}}",
    "{'a': [*()]}",
    "{'a': (,)}",
    "{'a': [,]}",
    "{'a': [1,,]}",
    "{,}",
    "{'a'}",
    "{'a':}",
    "{'a': 1, 'b'}",
    "{'a', 'b': 1}",
    "{'a': {'b', 'c', 'd': 1}}",
    "{'a': 1, 'b', 'c'}",
    "{'a': [1, 'b': 'c']}",
    "{'a': (1, 'b': 'c')}",
    "{'a': {1, 'b': 'c'}}",
    "{'a': 1: 2}",
    "{'a' 1}",
    "{: 1}",
    "{'a': [1)}",
    "{'a': (1]}",
    "{'a': (1}",
    "{'a': [1), 'b': (2]}",
    "{'a': (1], 'b': [2)}",
    "{'a': {'b': 1)}",
    "{'a': 1)",
    "({'a': 1}",
    "{[]: 1}",
    "{{}: 1}",
    "{'a': {[]}}",
    "{'a': {{}}}",
    "{'a': 1; }",
    "{'a' = 1}",
    "{'a': . . .}",
    "{'a': \\ 1}",
    "{'a': \ud800}",
    "{'a': '\ud800'}",
    "\ufeff{}",
    "\n {}",
    "{}\n ",
    "{'a':\xa01}",
    "{'a':\v1}",
    "{'a': 1}\0",
    "{'a': x}",
    "{'a': __debug__}",
    "{'a': (yield)}",
    "{'a': (b := 1)}",
    "{'a': `1`}",
    "{'a': $}",
    "{'a': 'b'} or 1",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_no_literal_of_a_dict_is_refused(text: str) -> None:
    assert expected(text) == REFUSED
    assert read(literal.parse, text) == REFUSED
    if not has_lone_surrogate(text):
        assert read(literal_parser.parse, text) == REFUSED


@both
@pytest.mark.parametrize("text", ["\\\n{}", "{}\\\n ", "{'a': \uff53\uff45\uff54()}"])
def test_what_only_the_standard_library_takes_is_refused_on_purpose(
    parse: Parse, text: str
) -> None:
    assert expected(text) != REFUSED
    assert read(parse, text) == REFUSED


@both
def test_an_odd_escape_warns_nobody(parse: Parse) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse("{'a': '\\d\\/\\777', b'b': b'\\d\\777'}", MAX_DEPTH) == {
            "a": "\\d\\/\u01ff",
            b"b": b"\\d\xff",
        }
