"""Reading literals, held against `ast.literal_eval` on everything that we could think of."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mq_connector.errors import PayloadError
from mq_connector.payload import MAX_DEPTH, jsontext, literal, literal_parser
from mq_connector.payload.jsontext import MAX_TOKENS
from mq_connector.payload.odd_keys import MAX_ODD_KEYS

from .literals import (
    REFUSED,
    along_the_probe_sequence,
    dicts,
    expected,
    fragments,
    is_refused_on_purpose,
    typed,
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


@both
@pytest.mark.parametrize(
    ("opening", "closing"),
    [("[", "]"), ("{'a': ", "}"), ("(", ",)"), ("{1: [", "]}"), ("(", ")"), ("[(1, ", ")]")],
)
def test_nesting_ends_where_it_is_told_to(parse: Parse, opening: str, closing: str) -> None:
    levels = opening.count("[") + opening.count("{") + opening.count("(")
    allowed = (20 - 1) // levels
    text = "{'a': " + opening * allowed + "1" + closing * allowed + "}"
    assert typed(parse(text, allowed * levels + 1)) == expected(text)
    with pytest.raises(PayloadError, match=f"deeper than {allowed * levels} levels"):
        parse(text, allowed * levels)


@both
@pytest.mark.parametrize("piece", ["[", "{'a':", "(", "((", "[{0:", "- (", "set(", "{'a':["])
def test_ten_thousand_levels_are_refused(parse: Parse, piece: str) -> None:
    with pytest.raises(PayloadError, match="deeper than 100 levels"):
        parse("{'a': " + piece * 10_000, MAX_DEPTH)


@both
def test_brackets_in_strings_are_not_nesting(parse: Parse) -> None:
    text = str({"a": "[{(" * 1000, "b": ["'[\"", ("[{(" * 1000,)], "c": "\\'[" * 1000})
    assert typed(parse(text, 3)) == expected(text)


def test_many_brackets_side_by_side_are_not_nesting() -> None:
    text = str({"a": [[{"b": "["}] for _ in range(500)], "c": [(1, (2,)) for _ in range(500)]})
    assert typed(literal.parse(text, 5)) == expected(text)


#: What gets long, with something around it: head, piece, tail.
LONG = {
    "strings": ("{'a': [", "'ab', ", "]}"),
    "keys": ("{", "'key': 'value', ", "}"),
    "numbered keys": ("{", "1: 2, ", "}"),
    "one string": ("{'a': '", "word ", "'}"),
    "a string never ended": ("{'a': '", "word ", ""),
    "escapes": ("{'a': ('", "\\n", "',)}"),
    "escaped marks": ("{'a': '", "\\'", "'}"),
    "odd backslashes": ("{'a': ('", "\\\\", "\\',)}"),
    "marks of both kinds": ("{'a': [", "\"it's\", '\"', ", "]}"),
    "marks that never match": ("{'a': ", "\"'", "}"),
    "triple marks": ("{'a': '''", "''a", "'''}"),
    "triple marks never ended": ("{'a': ", "'''", "'}"),
    "adjacent strings": ("{'a': ", "'ab' ", "}"),
    "adjacent bytes": ("{'a': ", "b'ab' ", "}"),
    "words": ("{'a': [", "None, True, 'None', ", "]}"),
    "words of JSON": ("{'a': [", "null, 'true', ", "]}"),
    "tuples": ("{'a': [", "(1,), (), ", "]}"),
    "unmatched parentheses": ("{'a': [", ",) (", "]}"),
    "sets": ("{'a': [", "{1}, set(), ", "]}"),
    "blank space": ("{", " ", "}"),
    "blank space behind": ("{}", " ", "x"),
    "blank lines before": ("", " \n", "x{}"),
    "blank lines behind": ("{}", "\n \f", "x"),
    "comments": ("{", "# \n", "}"),
    "continued lines": ("{", "\\\n", "}"),
    "an indentation": ("\n", " \f", "x{}"),
    "digits": ("{'a': ", "1", "}"),
    "digits and a letter": ("{'a': ", "1", "x}"),
    "digits of a fraction": ("{'a': 1.", "1", "x}"),
    "digits of an exponent": ("{'a': 1e", "1", "x}"),
    "underscores": ("{'a': ", "1_", "}"),
    "signs": ("{'a': ", "- ", "1}"),
    "sums": ("{'a': ", "1+", "1}"),
    "a name": ("{'a': ", "x", "}"),
    "prefixes": ("{'a': ", "b", "'}"),
    "names of characters": ("{'a': '", "\\N{", "'}"),
    "levels": ("{'a': ", "[", ""),
    "shallow brackets": ("{'a': [", "[], {}, ", "]}"),
}


def seconds(parse: Parse, text: str) -> float:
    """CPU time to read or refuse a text, the better of two."""
    results = []
    for _ in range(2):
        start = time.process_time()
        read(parse, text)
        results.append(time.process_time() - start)
    return min(results)


@both
@pytest.mark.parametrize("head, piece, tail", LONG.values(), ids=LONG)
def test_time_grows_with_size_and_not_with_its_square(
    parse: Parse, head: str, piece: str, tail: str
) -> None:
    small, large = (head + piece * (size // len(piece)) + tail for size in (3_000, 30_000))
    # What takes less than a millisecond is too short to measure.
    assert seconds(parse, large) < 30 * max(seconds(parse, small), 0.001)


#: Integers that all have the hash 0, however many.
_COLLIDING = 2**61 - 1


#: Keys of a dict, members of a set, and keys that take long to compare.
KEYS = {"dict": "{}: 0, ", "set": "{}, ", "tuples": f"({'0, ' * 100}{{}}): 0, "}


@both
@pytest.mark.parametrize("form", KEYS.values(), ids=KEYS)
def test_keys_that_were_chosen_to_collide_are_refused_before_they_cost_time(
    parse: Parse, form: str
) -> None:
    keys = "".join(form.format(number * _COLLIDING) for number in range(900))
    text = f"{{'a': {{{keys}}}}}"
    began = time.process_time()
    with pytest.raises(PayloadError, match="attacker"):
        parse(text, MAX_DEPTH)
    assert time.process_time() - began < 2


@pytest.mark.slow
@both
@pytest.mark.parametrize("form", ["{}: 0, ", "{}, "], ids=["dict", "set"])
def test_keys_along_the_way_that_a_table_searches_are_refused_before_they_cost_time(
    parse: Parse, form: str
) -> None:
    """Not two of them have one hash; a dict of them took two seconds, the guard as long again."""
    keys = "".join(form.format(key) for key in along_the_probe_sequence(16, 21_000))
    text = f"{{'a': {{{keys}}}}}"
    began = time.process_time()
    with pytest.raises(PayloadError, match=f"where {MAX_ODD_KEYS} are allowed"):
        parse(text, MAX_DEPTH)
    assert time.process_time() - began < 1


@both
def test_the_most_keys_along_that_way_that_are_allowed_cost_no_time(parse: Parse) -> None:
    keys = along_the_probe_sequence(11, 600)[:MAX_ODD_KEYS]
    assert len(keys) == MAX_ODD_KEYS
    text = f"{{'a': {{{', '.join(map(str, keys))}}}, 'b': {dict.fromkeys(keys)}}}"
    began = time.process_time()
    assert typed(parse(text, MAX_DEPTH)) == expected(text)
    assert time.process_time() - began < 1


@both
@pytest.mark.parametrize("form", ["{}: 0", "{}"], ids=["dict", "set"])
def test_odd_keys_are_counted_and_those_of_text_and_bytes_are_not(parse: Parse, form: str) -> None:
    usual = [repr(f"k{n}") for n in range(2000)] + [repr(b"%d" % n) for n in range(2000)]
    odd = [str(n) if n % 2 else f"({n}, 'a')" for n in range(MAX_ODD_KEYS)]
    text = f"{{'a': {{{', '.join(form.format(key) for key in usual + odd)}}}}}"
    assert typed(parse(text, MAX_DEPTH)) == expected(text)
    with pytest.raises(PayloadError, match=f"{MAX_ODD_KEYS + 1} keys that are neither"):
        parse(text.replace("{'k0'", f"{{{form.format(-2)}, 'k0'"), MAX_DEPTH)


#: What makes tokens, and how many.
TOKENS = {
    "numbers": ("0,", 1),
    "lists": ("[],", 2),
    "dicts": ("{'':0},", 3),
    "plain pairs": ("{'a':'b','c':'d'},", 6),  # Two for each, the last one's comma included.
    "sets": ("{0},", 2),
    "tuples": ("(0,),", 3),
    "strings": ("'ab',", 1),
}


def has_a_largest_number(parse: Parse, piece: str, tokens: int, limit: int) -> None:
    allowed = (limit - 3) // tokens  # A brace, a colon and a bracket are around them.
    text = f"{{'a': [{piece * allowed}]}}"
    assert len(parse(text, MAX_DEPTH)["a"]) == allowed
    with pytest.raises(PayloadError, match=f"more than {MAX_TOKENS} commas"):
        parse(f"{{'a': [{piece * (allowed + 1)}]}}", MAX_DEPTH)


@both
@pytest.mark.parametrize(("piece", "tokens"), TOKENS.values(), ids=TOKENS)
def test_each_kind_of_tokens_is_counted(
    parse: Parse, piece: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a bound that is sooner reached than the real one."""
    limit = 5_000
    for module in (jsontext, literal_parser):
        monkeypatch.setattr(module, "MAX_TOKENS", limit)
    has_a_largest_number(parse, piece, tokens, limit)


@pytest.mark.slow  # as large as a body may be
@both
def test_a_body_has_a_largest_number_of_tokens(parse: Parse) -> None:
    has_a_largest_number(parse, *TOKENS["plain pairs"], MAX_TOKENS)


@pytest.mark.slow
@both
def test_many_pairs_and_many_adjacent_strings_are_tokens_too(parse: Parse) -> None:
    pairs = "".join(f"'{number:x}':'a'," for number in range(MAX_TOKENS // 2))
    strings = "'a' " * (MAX_TOKENS + 2)
    for text in (
        f"{{{pairs}}}",
        f"{{'a': {strings}}}",
        f"{{'a': b'' {strings.replace(' ', ' b')}''}}",
    ):
        with pytest.raises(PayloadError, match="commas"):
            parse(text, MAX_DEPTH)


@both
def test_what_is_in_strings_is_no_token(parse: Parse) -> None:
    text = str({"a": ",:[{" * MAX_TOKENS, "b": 'it\'s, "so", \\ ' * 20_000, "c": [1, (2,)] * 4000})
    assert parse(text, MAX_DEPTH)["a"].endswith("[{")
    assert typed(parse(text, MAX_DEPTH)) == expected(text)


@both
def test_keys_that_collide_by_chance_or_repeat_are_read(parse: Parse) -> None:
    some = ", ".join(f"{number * _COLLIDING}: {number}" for number in range(100))
    repeated = ", ".join(f"{number * _COLLIDING}: {number}" for number in range(3)) + ", 7: 8" * 500
    many = ", ".join(f"{number}: {number}" for number in range(MAX_ODD_KEYS))
    for text in (f"{{{some}}}", f"{{{repeated}}}", f"{{{many}}}", f"{{0: 1{', 0: 2' * 500}}}"):
        same_as_the_standard_library(text)
        assert parse(text, MAX_DEPTH)
