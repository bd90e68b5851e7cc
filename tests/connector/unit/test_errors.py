"""Text from outside, in messages and log lines; and an extra that is missing."""

from __future__ import annotations

import importlib
from decimal import Decimal

import pytest
from mq_connector.errors import EXCERPT, ConfigurationError, RetryMessage, needing, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("as it is: ünï 日本 ~", "as it is: ünï 日本 ~"),
        ("\x1b[2J\x9b2J\x07", r"\x1b[2J\x9b2J\x07"),
        ("one\r\ntwo\tthree\u2028four", r"one\r\ntwo\tthree\u2028four"),
        ("\u202eright to left, \u200bwithout width", r"\u202eright to left, \u200bwithout width"),
        ("half a \ud83d pair", r"half a \ud83d pair"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()  # which half a pair could not be


def test_a_long_text_is_cut_before_it_is_looked_at() -> None:
    assert printable("x" * EXCERPT) == "x" * EXCERPT
    assert printable("\x00" * 10_000_000) == r"\x00" * EXCERPT + "…"
    assert printable("abcdef", 3) == "abc…"


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("there_is_no_such_extra.part", ConfigurationError),
        ("there_is_something_else_missing", ModuleNotFoundError),
    ],
)
def test_only_a_missing_extra_is_said_to_be_missing(module: str, kind: type[Exception]) -> None:
    """What else can't be imported is a fault, and not to be taken for that."""
    with pytest.raises(kind), needing("there_is_no_such_extra", "install it"):
        importlib.import_module(module)


def test_the_delay_of_a_retry_may_be_any_number() -> None:
    """The loop adds it to its own time, which is a float."""
    assert type(RetryMessage(Decimal("0.5")).delay) is float  # type: ignore[arg-type]
