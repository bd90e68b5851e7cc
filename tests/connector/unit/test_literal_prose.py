"""Literals with much text, in which words of JSON aren't searched for: held against `ast.literal_eval`, too."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mq_connector.errors import PayloadError
from mq_connector.payload import MAX_DEPTH, literal

from .literals import REFUSED, dicts, expected, fragments, read, same_as_the_standard_library

#: A key with so much text that most of what it stands in is text.
PROSE = "'prose': '" + "much (of it true, nothing null) " * 60 + "'"


def around(items: str, behind: str = "") -> str:
    return f"{{{items}, {PROSE}{behind}}}"


@settings(max_examples=150, derandomize=True)
@given(dicts, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), fragments), max_size=3))
def test_a_damaged_dict_beside_prose_reads_as_the_standard_library_reads_it(
    data: dict[Any, Any], damage: list[tuple[int, int, str]]
) -> None:
    items = str(data)[1:-1]
    for position, gone, new in damage:
        position %= len(items) + 1
        items = items[:position] + new + items[position + gone :]
    if "\\\n" not in items and "\\\r" not in items:
        same_as_the_standard_library(around(items))


@pytest.mark.parametrize("word", ["true", "false", "null", "True", "None", "1", "'true'"])
def test_a_word_beside_prose_means_what_it_means_to_python(word: str) -> None:
    """Wherever it stands, also where something with the same key hides it."""
    places = [
        "'a': {}",
        "'a': [{}]",
        "'a': [1, [{}]]",
        "'a': ({},)",
        "'a': ('b', {})",
        "'a': {{'b': {}}}",
        "'a': {{'b': {}, 'b': 1}}",
        "'a': [{{'b': {}, 'b': 'c'}}, 'd']",
        "'prose': {}",
        "'a': {}, 'a': 1",
        "'a': [{}, 'a'], 'a': 1",
        f"'a': [{'2, ' * 20}{{}}]",
        f"'a': [{'2.5, ' * 20}'b', {{}}]",
        f"'a': ({'2, ' * 20}[{{}}])",
    ]
    for place, behind in itertools.product(places, ["", ", 'a': 'b'", ", 'b': (2, 'c')"]):
        text = around(place.format(word), behind)
        result = expected(text)
        assert read(literal.parse, text) == result, text
        assert (result == REFUSED) is (word in ("true", "false", "null")), text


@pytest.mark.parametrize("behind", ["", ", 'a': 1"])
def test_prose_has_no_more_levels_than_anything_else(behind: str) -> None:
    """Also where something with the same key hides them."""
    for before, after in (("[", "]"), ("{'b': ", "}"), ("(", ",)")):
        levels = MAX_DEPTH - 1
        fits = f"'a': {before * levels}1{after * levels}"
        assert read(literal.parse, around(fits, behind)) == expected(around(fits, behind))
        levels += 1
        with pytest.raises(PayloadError, match="deeper"):
            literal.parse(around(f"'a': {before * levels}1{after * levels}", behind), MAX_DEPTH)


def test_usual_prose_needs_neither_a_search_nor_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What these tests are about is what they run through."""

    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(literal, "_translate_words", never)
    monkeypatch.setattr("mq_connector.payload.literal_parser.parse", never)
    text = around("'a': [1, 2.5, ('b', {'c': 'd'}), [], {}]")
    assert read(literal.parse, text) == expected(text)
