"""Tokens of a Python literal, parsed in linear time, with a stack of its own in place of recursion.

It knows the grammar that `ast.literal_eval` accepts, and nothing else: names other than `True`,
`False`, `None` and `set()`, operators, calls and attributes are errors like any other. The rules
are those of the Python Language Reference, chapters "Lexical analysis" and "Expressions".
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import PayloadError
from .jsontext import MAX_TOKENS, TOO_MANY, excerpt, too_deep
from .literal_string import string_at
from .odd_keys import refuse_attacks

#: One token, with the blank space before it. The number of the group that matched tells its kind.
#: Only single characters are repeated: each round of a repeated group would cost 100 bytes of
#: memory.
_TOKEN = re.compile(
    r"""[ \t\f\n]*(?:
      '(?!'')([^'\\\n]*)'
    | "(?!"")([^"\\\n]*)"
    | ([bBrRuU]{0,2}['"])
    | ([,:])
    | ([\[({])
    | ([\])}])
    | (0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*)(?![\w.])
    | ((?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?[jJ]?)
    | ([^\W\d]\w*|\.\.\.)
    | ([+-])
    | (\#[^\n]*|\\\n)
    )""",
    re.VERBOSE,
)
_PLAIN, _PLAIN_DOUBLE, _STRING, _SEPARATOR, _OPEN, _CLOSE, _INT, _FLOAT, _NAME, _SIGN, _SKIP = (
    range(1, 12)
)

#: Most of what there is to read, taken in one step: a key that is a plain string, and, if it is one
#: too and nothing but a comma or the end follows, its value.
_PAIR = re.compile(r"""[ \t\f\n]*'([^'\\\n]*)'[ ]?:(?:[ ]?'([^'\\\n]*)'(?:,|(?=\})))?""")

#: A line without code. Its indentation means nothing to Python.
_BLANK_LINE = re.compile(r"[ \t\f]*(?:#[^\n]*)?\n")

#: A form feed takes an indentation back.
_NO_INDENT = re.compile(r"(?:[ \t\f]*\f)?")

_NAMES = {"True": True, "False": False, "None": None, "...": ...}

_CLOSING = {"(": ")", "[": "]", "{": "}", "set(": ")"}

# A value is wanted, or one was just read, and how it was written decides what may follow: a number
# may get a sign, a signed number may begin a complex one, text may go on in the next token, the
# name `set` needs its parentheses.
_WANTED, _DONE, _NUMBER, _SIGNED, _TEXT, _SET = range(6)


def parse(text: str, max_depth: int) -> dict[Any, Any]:
    """The dict that a Python literal describes.

    :param text: the literal, without half surrogate pairs
    :param max_depth: levels of brackets of any kind allowed
    :raises PayloadError: not the literal of a dict, too deep, an integer with more digits than
        Python converts, more than `MAX_TOKENS`, or keys that `odd_keys` refuses
    """
    if "\0" in text:
        raise _error(text, text.index("\0"))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    value, end = _read(text, _beginning(text), max_depth)
    _check_end(text, end)
    if type(value) is not dict:
        raise PayloadError(f"message holds a {type(value).__name__} where a dict is expected")
    return value


def _error(text: str, position: int) -> PayloadError:
    return PayloadError(
        f"message is not the literal of a dict: at character {position} of {len(text)} "
        f"stands {excerpt(text[position : position + 1000].lstrip())}"
    )


def _beginning(text: str) -> int:
    """Where the literal begins: behind blank lines, and not indented."""
    if text.startswith("{"):
        return 0
    start = len(text) - len(text.lstrip(" \t"))
    while line := _BLANK_LINE.match(text, start):
        start = line.end()
    if indent := _NO_INDENT.match(text, start):
        start = indent.end()
    if text[start : start + 1] not in ("{", "("):
        raise _error(text, start)
    return start


def _check_end(text: str, end: int) -> None:
    """Refuse anything but blank lines behind the literal.

    To Python, an indentation that ends the text isn't blank, unless a form feed takes it back.
    """
    if end == len(text):
        return
    start = end
    while line := _BLANK_LINE.match(text, start):
        start = line.end()
    rest = text[start:]
    code = rest.lstrip(" \t\f")
    if code[:1] != "#" and (code or (start > end and rest[-1:] not in ("", "\f"))):
        raise _error(text, start)


class _Brackets:
    """A pair of brackets, and what was read of it so far."""

    __slots__ = ("items", "left", "opening", "separator", "sign")

    def __init__(self, opening: str) -> None:
        self.opening = opening
        self.items: list[Any] = []
        self.separator = ""  # The first one tells a dict from a set, a tuple from parentheses.
        self.sign = ""
        self.left: Any = None  # The number before the sign, if there is one.

    def signed(self, value: Any, state: int) -> tuple[Any, int]:
        """Apply the sign to the number behind it: as its own, or as the one inside a complex."""
        sign, left = self.sign, self.left
        self.sign, self.left = "", None
        if state != _NUMBER:
            raise ValueError("a sign before something that isn't a number")
        if left is None:
            return (-value if sign == "-" else +value), _SIGNED
        if type(value) is not complex or type(left) is complex:
            raise ValueError("a calculation")
        return (left - value if sign == "-" else left + value), _DONE

    def add(self, value: Any, separator: str) -> None:
        """Take a value, and what follows it: a comma, a colon, or nothing."""
        if separator == ":":
            legal = self.opening == "{" and self.separator != "," and len(self.items) % 2 == 0
        else:
            legal = self.opening != "set(" and (self.separator != ":" or len(self.items) % 2 == 1)
        if not legal:
            raise ValueError("a separator where none can be")
        self.items.append(value)
        self.separator = self.separator or separator

    def add_pairs(self, text: str, position: int) -> int:
        """Take the plain keys and values at `position`, where a key may be; the position behind."""
        while len(self.items) <= MAX_TOKENS and (pair := _PAIR.match(text, position)):
            position = pair.end()
            self.separator = ":"
            if pair.lastindex == 1:
                self.items.append(pair[1])
                break
            self.items += pair.groups()
        return position

    def close(self) -> Any:
        """The value of the whole, once the last item is in."""
        items = self.items
        if self.opening == "[":
            return items
        if self.opening == "(":
            return tuple(items)
        if self.opening == "set(" or (items and self.separator != ":"):
            refuse_attacks(items)
            return set(items)
        refuse_attacks(items[::2])
        return dict(zip(items[::2], items[1::2], strict=True))


def _number(content: str, kind: int) -> int | float | complex:
    if kind == _INT:
        return int(content, 0)
    if content[-1] in "jJ":
        return complex(0.0, float(content[:-1]))
    return float(content)


def _joined(text: str, end: int, first: str | bytes) -> tuple[Any, int]:
    """A string with those beside it, which Python takes for one; the position behind the last."""
    pieces: list[Any] = [first]
    while token := _TOKEN.match(text, end):
        kind = token.lastindex or 0
        if len(pieces) > MAX_TOKENS:
            raise PayloadError(f"message {TOO_MANY}")
        if kind == _STRING:
            piece, end = string_at(text, token.start(kind))
            pieces.append(piece)
            continue
        if kind < _STRING:
            pieces.append(token[kind])
        elif kind != _SKIP:
            break
        end = token.end()
    return type(first)().join(pieces), end


def _read(text: str, end: int, max_depth: int) -> tuple[Any, int]:
    """The value of the brackets that begin at `end`, and the position behind them.

    A round of the loop takes one token: it goes on at once while no value is complete, and breaks
    out if the token is illegal where it stands.
    """
    outer: list[_Brackets] = []
    inner = _Brackets("")
    value: Any = None
    state = _WANTED
    start = end
    tokens = 0  # Commas, colons and opening brackets, as in `jsontext.excess`.
    try:
        while token := _TOKEN.match(text, end):
            if tokens > MAX_TOKENS:
                raise PayloadError(f"message {TOO_MANY}")
            kind = token.lastindex or 0
            content: Any = token[kind]
            start, end = end, token.end()
            if kind == _OPEN and (state == _WANTED or (state == _SET and content == "(")):
                if len(outer) == max_depth:
                    raise PayloadError(f"message {too_deep(max_depth)}")
                outer.append(inner)
                inner = _Brackets(content if state == _WANTED else "set(")
                state = _WANTED
                tokens += 1
                if content == "{":
                    end = inner.add_pairs(text, end)
                    tokens += len(inner.items)
                continue
            if state == _WANTED:
                if kind < _STRING:
                    value, state = content, _TEXT
                elif kind == _STRING:
                    value, end = string_at(text, token.start(kind))
                    state = _TEXT
                elif kind in (_INT, _FLOAT):
                    value, state = _number(content, kind), _NUMBER
                elif kind == _CLOSE and content == _CLOSING.get(inner.opening) and not inner.sign:
                    value, state = inner.close(), _DONE
                    inner = outer.pop()
                elif kind == _NAME and content == "set":
                    value, state = None, _SET
                elif kind == _NAME:
                    value, state = _NAMES[content], _DONE
                elif kind == _SIGN and not inner.sign:
                    inner.sign = content
                    continue
                elif kind == _SKIP:
                    continue
                else:
                    break
            elif kind == _SEPARATOR and state != _SET:
                inner.add(value, content)
                state = _WANTED
                tokens += 1
                if content == "," and inner.separator == ":":
                    known = len(inner.items)
                    end = inner.add_pairs(text, end)
                    tokens += len(inner.items) - known
                continue
            elif kind == _CLOSE and content == _CLOSING.get(inner.opening):
                if inner.opening == "(" and not inner.separator:
                    # Parentheses around one value change nothing, but end a string.
                    state = _DONE if state == _TEXT else state
                elif state == _SET:
                    break
                else:
                    inner.add(value, "")
                    value, state = inner.close(), _DONE
                inner = outer.pop()
            elif kind <= _STRING and state == _TEXT:
                value, end = _joined(text, start, value)
                state = _DONE
            elif kind == _SIGN and state in (_NUMBER, _SIGNED):
                inner.left, inner.sign, state = value, content, _WANTED
                continue
            elif kind == _SKIP:
                continue
            else:
                break
            if not outer:
                return value, end
            if inner.sign:
                value, state = inner.signed(value, state)
        else:
            start = end
    except PayloadError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError):
        pass
    raise _error(text, start)
