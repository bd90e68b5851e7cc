"""Dicts as bodies: what is written decodes to the same value, or is refused with its place and type.

Most values are exactly of the types that a body can carry; that is found out in a fraction of the
time that writing takes. For the others there is one rule, for all forms:

- a subclass of str, bytes, int, float, complex, list, tuple, set or dict becomes its base type (an
  IntEnum an int, a namedtuple a tuple, a defaultdict a dict);
- a number, bool or text of numpy becomes what its ``item()`` gives, if that is one of Python's own;
- everything else is refused, as are nan, infinities, and what holds itself; an Ellipsis, too, which
  Python prints in a way that it doesn't read. JSON carries neither bytes, complex numbers, tuples and
  sets, nor keys other than text.
"""

from __future__ import annotations

import json
import sys
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from math import isfinite
from types import AsyncGeneratorType, CoroutineType, GeneratorType, NoneType
from typing import Any, NoReturn

from ..errors import PayloadError
from .body import Form

#: Levels of brackets that are written: Python's own parser, with which Neon's programs read, gives up
#: beyond.
LEVELS = 200

#: Characters of a key, and of the path to a value, that an error repeats.
_KEY, _PATH = 40, 100

_LITERAL = Form.LITERAL

#: With str, what any form carries as it is.
_SCALARS = frozenset((int, bool, NoneType))
_FLAT = _SCALARS | {str}
_FLOATS = frozenset((float,))
#: Items from which on their types are collected first, which is quicker for many and slower for few.
_MANY_ITEMS = 12

#: How a value of a subclass becomes one of the base, whatever the subclass has overridden.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (complex, complex.__pos__),
)

#: Bits beyond which an int may have more than the 4300 digits that Python reads and writes.
_MANY_BITS = 14_000


def encode(data: Mapping[Any, Any], form: Form = Form.LITERAL, name: str = "message") -> bytes:
    """The body for a dict. In the literal form it is, byte for byte, what Neon's own connector sends.

    :param name: what errors call the dict, before the path to what is wrong with it
    :raises PayloadError: what a reader would get isn't what is in `data`, see this module's rule;
        more than `LEVELS` levels; an integer with more digits than Python converts
    """
    if type(data) is not dict:
        data = as_dict(data, name)
    try:
        wide = form is _LITERAL
        if not _is_plain_dict(data, wide, 1):
            data = _plain(data, name, "", wide, ())
        if wide:
            text = str(data)
            if '"' in text or "\\" in text or not text.isascii():
                text = encode_basestring_ascii(text)
            else:
                text = f'"{text}"'  # Nothing in it to be escaped; this is much quicker.
            return b2a_base64(text.encode(), newline=False)
        body = json.dumps(data).encode()
    except PayloadError:
        raise
    except ValueError as error:
        _plain(data, name, "", wide, ())  # Knows the place of an int that is too long.
        raise PayloadError(f"{name} can't be encoded: {str(error)[:100]}") from None
    return b2a_base64(body, newline=False) if form is Form.JSON_BASE64 else body


def as_dict(data: Any, name: str) -> dict[Any, Any]:
    """A dict of what should be one.

    :param name: what errors call it
    :raises PayloadError: it is no mapping; the error says in plain words what it is
    """
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, CoroutineType):
        data.close()  # Else Python warns that nobody awaited it.
        what = "is async, so it gave a coroutine: respond(channel, request, self.answer) awaits it"
    elif isinstance(data, (GeneratorType, AsyncGeneratorType)):
        what = (
            "yields, so it gave a generator: respond(channel, request, self.answer) sends its parts"
        )
    elif data is None:
        what = "is None: is a return missing?"
    else:
        what = f"is {_a(type(data))}"
    raise PayloadError(f"{name} must be a dict, but {what}")


# ---- what is carried as it is


# All replies come through here, so the commonest types are looked at first, a float is asked for its
# difference to itself, which is nan for nan and the infinities (`isfinite` takes twice the time), and no
# call is made for what is empty.


def _is_plain_dict(data: dict[Any, Any], wide: bool, level: int) -> bool:
    """Whether a reader gets just this.

    :param wide: in the literal form, which carries more than JSON
    :param level: 1 for the outermost brackets
    """
    for key, item in data.items():
        if type(key) is not str and not (wide and _is_plain((key,), wide, level)):
            return False
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            if level == LEVELS or (item and not _is_plain_dict(item, wide, level + 1)):
                return False
        elif kind in _SCALARS:
            continue
        elif kind is float:
            if item - item:
                return False
        elif kind is list:
            if level == LEVELS or (item and not _is_plain(item, wide, level + 1)):
                return False
        elif not wide or not _is_plain((item,), wide, level):
            return False
    return True


def _is_plain(items: Any, wide: bool, level: int) -> bool:
    """As `_is_plain_dict`, of the items of something else, whose own type is known to be plain."""
    if len(items) > _MANY_ITEMS:
        kinds = {*map(type, items)}
        if kinds <= _FLAT:
            return True
        if kinds == _FLOATS and isfinite(sum(items)):
            return (
                True  # Otherwise one of them isn't finite, or all are and their sum is too large.
            )
    for item in items:
        kind = type(item)
        if kind is str or kind in _SCALARS:
            continue
        if kind is float:
            if item - item:
                return False
        elif kind is dict:
            if level == LEVELS or (item and not _is_plain_dict(item, wide, level + 1)):
                return False
        elif kind is list or (wide and (kind is tuple or kind is set)):
            if level == LEVELS or (item and not _is_plain(item, wide, level + 1)):
                return False
        elif not wide or not (
            kind is bytes or (kind is complex and isfinite(item.real) and isfinite(item.imag))
        ):
            return False
    return True


# ---- what isn't


def _plain(value: Any, name: str, path: str, wide: bool, outer: tuple[int, ...]) -> Any:
    """A copy of `value` that has plain types only.

    :param path: from the whole, such as ``['users'][2]``
    :param outer: identities of what `value` is in
    :raises PayloadError: there is none
    """
    value = _of_numpy(value)
    if value is None or value is True or value is False:
        return value
    for base, convert in _BASES:
        if isinstance(value, base):
            if not wide and (base is bytes or base is complex):
                _refuse(value, name, path, wide)
            result = convert(value)
            if base is int and result.bit_length() > _MANY_BITS:
                _refuse_digits(result, name, path)
            if base is float and not isfinite(result):
                _refuse(value, name, path, wide, repr(result))
            if base is complex and not (isfinite(result.real) and isfinite(result.imag)):
                _refuse(value, name, path, wide, repr(result))
            return result
    if not isinstance(value, (dict, list, tuple, set) if wide else (dict, list)):
        _refuse(value, name, path, wide)
    if id(value) in outer:
        raise PayloadError(f"{name}{_short(path)} holds itself, which no body can carry")
    if len(outer) == LEVELS:
        raise PayloadError(f"{name} is nested too deep: {LEVELS} levels are what Python reads")
    outer = (*outer, id(value))
    if isinstance(value, dict):
        return _plain_dict(value, name, path, wide, outer)
    if isinstance(value, set):
        members = {_plain(each, name, f"{path}[{_shown(each)}]", wide, outer) for each in value}
        _refuse_merged(value, members, name, path)
        return members
    items = [_plain(each, name, f"{path}[{i}]", wide, outer) for i, each in enumerate(value)]
    return items if isinstance(value, list) else tuple(items)


def _plain_dict(
    data: dict[Any, Any], name: str, path: str, wide: bool, outer: tuple[int, ...]
) -> dict[Any, Any]:
    result = {}
    for key, item in data.items():
        if isinstance(key, str):
            plain_key = str.__str__(key)
        elif wide:
            plain_key = _plain(key, name, f"{path} key {_shown(key)}", wide, outer)
        else:
            raise PayloadError(
                f"{name}{_short(path)} has the key {_shown(key)}, {_a(type(key))}, "
                "which JSON can't carry: make it a str"
            )
        where = f"{path}[{_shown(key)}]"
        result[plain_key] = _plain(item, name, where, wide, outer)
    _refuse_merged(data, result, name, path)
    return result


def _of_numpy(value: Any) -> Any:
    """Python's own number or text for one of numpy's; anything else as it is.

    A date becomes no number, which its ``item()`` can be; a long double isn't one of Python's.
    """
    numpy = sys.modules.get("numpy")  # Whoever holds such a value has imported it.
    if numpy is None or not isinstance(value, (numpy.number, numpy.bool_, numpy.character)):
        return value
    return value if isinstance(value, numpy.timedelta64) else value.item()


def _refuse(value: Any, name: str, path: str, wide: bool, what: str = "") -> NoReturn:
    what = what or _a(type(value))
    format_ = "Neon's format" if wide else "JSON"
    advice = "a str, int, float, list or dict" if not isinstance(value, float) else "None or a str"
    raise PayloadError(
        f"{name}{_short(path)} is {what}, which {format_} can't carry: make it {advice}"
    )


def _refuse_digits(value: int, name: str, path: str) -> None:
    try:
        str(value)
    except ValueError:
        raise PayloadError(
            f"{name}{_short(path)} is an int of more digits than Python reads and writes "
            f"({sys.get_int_max_str_digits()}): make it a str"
        ) from None


def _refuse_merged(before: Any, after: Any, name: str, path: str) -> None:
    """Refuse keys that differ by their subclass alone."""
    if len(before) != len(after):
        raise PayloadError(
            f"{name}{_short(path)} has {len(before)} keys or members of which "
            f"{len(before) - len(after)} would be lost: as plain values they are equal to others"
        )


def _a(kind: type) -> str:
    """A type's name with its article."""
    return f"{'an' if kind.__name__[:1] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def _shown(key: Any) -> str:
    try:
        return ascii(key)[:_KEY]
    except Exception:
        return _a(type(key))  # Its own repr has failed.


def _short(path: str) -> str:
    return path if len(path) <= _PATH else f"{path[: _PATH - 40]}...{path[-40:]}"
