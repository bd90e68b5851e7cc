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
    json_text = _as_json(text)
    scan = jsontext.scan
    if "(" in json_text:
        json_text = _mark_tuples(json_text)
        scan = _scan_tuples
    if not jsontext.excess(json_text, max_depth):
        try:
            value, end = scan(json_text, 0)
        except (ValueError, StopIteration, RecursionError):
            pass
        else:
            if end == len(json_text) and type(value) is dict:
                return value
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


def _as_json(text: str) -> str:
    """Translate a literal to JSON, or to something that isn't JSON; parentheses stay as they are.

    What the translation doesn't understand makes it fail, for it stays in the text or leaves two
    strings side by side: sets, keys other than strings, prefixed, adjacent or triple-quoted
    strings, comments, continued lines, trailing commas, numbers with underscores or a base, unknown
    escapes, raw control characters.
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
    text = _requoted(text) if '"' in text else text.replace("'", '"')
    # From here on all quotation marks are double, and none of them is inside a string. Words of Python
    # become those of JSON. Those of JSON mean nothing in Python, so they go first, and become an error.
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


def _requoted(text: str) -> str:
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
