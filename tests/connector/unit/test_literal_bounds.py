"""Bounds of literals: depth, time, odd keys and tokens."""

from __future__ import annotations

import time

import pytest
from mq_connector.errors import PayloadError
from mq_connector.payload import MAX_DEPTH, jsontext, literal, literal_parser
from mq_connector.payload.jsontext import MAX_TOKENS
from mq_connector.payload.odd_keys import MAX_ODD_KEYS

from .literals import (
    Parse,
    along_the_probe_sequence,
    both,
    expected,
    read,
    same_as_the_standard_library,
    typed,
)


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
