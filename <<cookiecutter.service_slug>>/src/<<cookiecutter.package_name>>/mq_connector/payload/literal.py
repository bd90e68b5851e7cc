"""The literal of a Python dict, read from text without ever calling a compiler.

Results and their types are those of `ast.literal_eval`, and where that fails, so does this. Two
things that no `str()` of a dict can contain are refused on purpose: a line continued by a backslash
outside all brackets, and `set` spelt in letters that Python would fold to it, such as full-width
ones.

`parse` first tries to say the same in JSON, for the C scanner: that takes a fraction of the
compiler's time, and is enough for nearly all messages. Each step of the translation keeps the
meaning or leaves something that isn't JSON; in the latter case the tokenizer of `literal_parser`
decides, alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import PayloadError
from . import jsontext

#: Parentheses in a text that are translated: each grows to the tenfold in size, so a body full of
#: them mustn't be.
_MAX_MARKED = 10_000

#: Words, or double quotation marks, that are replaced one by one: each costs a hundred bytes on the
#: way, so of more of them the tokenizer takes care, which holds none.
_MAX_REPLACED = 50_000

#: Keys that stand for parentheses. No other key begins with a NUL where they are used.
_OPENED, _CLOSED = "\0(", "\0)"

#: Characters beyond which a text is long; and quotation marks and commas that prose may have in half as many.
_LONG, _FEW_MARKS = 512, 16

#: Of what a list may have much. In a longer one the types are collected first, which is quicker for
#: many and slower for few.
_NUMBERS = frozenset((int, float))
_FEW_ITEMS = 12

#: Stands for a text that could become JSON of another meaning.
_NO_JSON = ""


def parse(text: str, max_depth: int) -> dict[Any, Any]:
    """The dict that a Python literal describes.

    :param text: the literal; comments and line breaks are allowed where Python allows them
    :param max_depth: levels of brackets of any kind allowed
    :returns: a dict of str, bytes, int, float, complex, bool, None, Ellipsis, and tuples, lists,
        dicts, sets of them
    :raises PayloadError: not the literal of a dict, too deep, an integer with more digits than
        Python converts, more than `jsontext.MAX_TOKENS`, or more odd keys than
        `odd_keys.MAX_ODD_KEYS`
    """
    if not text.isascii():
        _refuse_surrogates(text)
    simple = "\\" not in text and '"' not in text
    json_text = text.replace("'", '"') if simple else _requote(text)
    # From here on all quotation marks are double, and none of them is inside a string.
    scan = jsontext.scan
    if "(" in json_text:
        json_text = _mark_tuples(json_text)
        scan = _scan_tuples
    strings = None
    if len(json_text) > _LONG and _is_prose(json_text):
        strings = json_text.count('"') // 2
    else:
        json_text = _translate_words(json_text)
    # Each level of dicts has a key, so few strings can't be too deep.
    few = strings is not None and strings <= max_depth and "[" not in json_text
    if (few and len(json_text) <= jsontext.MAX_TOKENS) or not jsontext.excess(json_text, max_depth):
        try:
            value, end = scan(json_text, 0)
            if (
                end == len(json_text)
                and type(value) is dict
                and (strings is None or len(value) + _count_strings(value.values()) == strings)
            ):
                return value
        except (ValueError, StopIteration, RecursionError):
            pass
    del json_text  # The tokenizer needs the room.
    # Its patterns take 10 ms to compile, and most services never need them.
    from .literal_parser import parse as parse_tokens

    return parse_tokens(text, max_depth)


def _refuse_surrogates(text: str) -> None:
    """Refuse lone surrogates as such (not as escapes), for Python does, and JSON doesn't."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PayloadError(
            f"message has half a surrogate pair at character {error.start}"
        ) from None


def _requote(text: str) -> str:
    """Translate the strings of a literal to those of JSON, or to something that isn't JSON.

    What the translation doesn't understand makes it fail, for it stays in the text or leaves two
    strings side by side: sets, keys other than strings, prefixed, adjacent or triple-quoted
    strings, comments, continued lines, trailing commas, numbers with underscores or a base, unknown
    escapes, raw control characters. Parentheses and words stay as they are.

    :returns: text in which all quotation marks are double, and none of them is inside a string
    """
    if "\\" in text:
        # In this order: pairs first, so that each backslash left begins an escape; then escapes
        # that JSON hasn't.
        text = text.replace("\\\\", "\\u005c").replace("\\x", "\\u00")
        text = text.replace("\\'", "\\u0027").replace('\\"', "\\u0022")
        # JSON has an escape for the slash, and joins two escaped halves of a surrogate pair: Python
        # does neither.
        if "\\/" in text or "\\ud" in text or "\\uD" in text:
            return _NO_JSON
    return _requote_all(text) if '"' in text else text.replace("'", '"')


def _translate_words(text: str) -> str:
    """Replace the words of Python outside strings by those of JSON.

    Those of JSON mean nothing in Python, so they go first, and become an error.
    """
    # The search for one letter is nearly free.
    if "t" in text and "true" in text:
        text = _replace_outside(text, "true", "?")
    if "f" in text and "false" in text:
        text = _replace_outside(text, "false", "?")
    if "n" in text and "null" in text:
        text = _replace_outside(text, "null", "?")
    if "T" in text and "True" in text:
        text = _replace_outside(text, "True", "true")
    if "F" in text and "False" in text:
        text = _replace_outside(text, "False", "false")
    if "N" in text and "None" in text:
        text = _replace_outside(text, "None", "null")
    return text


def _is_prose(text: str) -> bool:
    """Guess whether most of a text is in few strings, and no word of Python in it.

    To search such a text for words of JSON takes as long as all the rest, and they are nowhere in it. It is
    quicker to see that none has come out.
    """
    half = len(text) // 2
    middle = text[half : half + _LONG // 2]
    return not (
        middle.count('"') + middle.count(",") > _FEW_MARKS
        or ("T" in text and "True" in text)
        or ("F" in text and "False" in text)
        or ("N" in text and "None" in text)
    )


def _count_strings(items: Iterable[Any]) -> int:
    """How many strings are in what was read, keys included: as many as in the text, or one key was there
    twice, and what it had first is lost. It might have been a word.

    :raises ValueError: one of the items is a word of JSON, which means nothing in Python
    """
    found = 0
    for item in items:
        kind = type(item)
        if kind is str:
            found += 1
        elif kind is dict:
            if item:
                found += len(item) + _count_strings(item.values())
        elif kind is list or kind is tuple:
            if kind is tuple:
                found += 2  # its marks
            if len(item) <= _FEW_ITEMS or not {*map(type, item)} <= _NUMBERS:
                found += _count_strings(item)
        elif kind not in _NUMBERS:
            raise ValueError(item)
    return found


def _replace_outside(text: str, word: str, new: str) -> str:
    """Replace a word outside strings: where the quotation marks before it are even in number."""
    if text.count(word) > _MAX_REPLACED:
        return _NO_JSON
    pieces = text.split(word)
    marks = 0
    for index in range(len(pieces) - 1):
        marks += pieces[index].count('"')
        pieces[index] += word if marks % 2 else new
    return "".join(pieces)


def _requote_all(text: str) -> str:
    """Put double quotation marks around all strings, and escapes for those inside strings.

    `start` is never inside a string. So a double mark behind an odd number of single ones is inside
    the string that the last of them began, and behind an even number it begins a string itself.
    """
    if text.count('"') > _MAX_REPLACED:
        return _NO_JSON
    result = []
    start = 0
    while (mark := text.find('"', start)) >= 0:
        inside = text.count("'", start, mark) % 2 == 1
        end = text.find("'", mark) if inside else text.find('"', mark + 1)
        if end < 0:
            return _NO_JSON  # The string never ends.
        if inside:
            result.append(text[start:end].replace('"', "\\u0022").replace("'", '"'))
            result.append('"')
        else:
            result.append(text[start:mark].replace("'", '"'))
            result.append(text[mark : end + 1])
        start = end + 1
    result.append(text[start:].replace("'", '"'))
    return "".join(result)


def _mark_tuples(text: str) -> str:
    """Turn parentheses outside strings into an object that tells `_tuple_or_dict` of them."""
    if text.count("(") + text.count(")") > _MAX_MARKED:
        return _NO_JSON
    if "\\u0000" in text:
        return _NO_JSON  # A key of the message could look like a mark of ours.
    text = _replace_outside(text, ",)", '],"\\u0000)":1}')
    text = _replace_outside(text, ")", '],"\\u0000)":0}')
    return _replace_outside(text, "(", '{"\\u0000(":[')


def _tuple_or_dict(value: dict[str, Any]) -> Any:
    """Turn the object that stands for parentheses into a tuple; leave others alone.

    Both marks in one object, and nothing else, mean that the brackets between them were balanced.
    """
    if _OPENED not in value and _CLOSED not in value:
        return value
    if value.keys() != {_OPENED, _CLOSED}:
        raise ValueError("a parenthesis without its counterpart")
    items, comma = value[_OPENED], value[_CLOSED]
    if len(items) == (0 if comma else 1):
        raise ValueError("parentheses that make no tuple")
    return tuple(items)


_scan_tuples = jsontext.scanner(_tuple_or_dict)
