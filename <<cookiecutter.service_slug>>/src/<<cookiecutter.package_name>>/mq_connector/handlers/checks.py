"""From a type to a function that holds a decoded value against it, and makes a value of that type."""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin, is_typeddict

from ..errors import printable

#: Gets a value, where it stands, and a list for what is wrong; returns the value as its type has it.
Check = Callable[[Any, str, list[str]], Any]

#: Problems of one request that are told.
MOST_PROBLEMS = 5
#: Characters of a value that an error repeats.
_SHOWN = 40
_NONE = type(None)
#: Python 3.10 has neither; there, something stands for each that is no type's origin.
_REQUIRED = [getattr(typing, name, object()) for name in ("Required", "NotRequired")]


class Unreadable(Exception):
    """A type that no request can be held against."""


def check_of(wanted: Any, known: dict[Any, Check] | None = None) -> Check:
    """How values are held against a type.

    :param known: checks that are being made, as a type may hold itself
    :raises Unreadable: with a sentence that names the type
    """
    known = {} if known is None else known
    try:
        if wanted in known:
            return lambda value, path, problems: known[wanted](value, path, problems)
    except TypeError:  # it can't be a key
        pass
    origin = get_origin(wanted)
    if origin in _REQUIRED or origin is typing.Annotated:
        return check_of(get_args(wanted)[0], known)
    if hasattr(wanted, "__supertype__"):  # NewType
        return check_of(wanted.__supertype__, known)
    if wanted in (Any, object):
        return lambda value, path, problems: value
    if wanted is None or wanted is _NONE:
        return partial(_plain, _NONE)
    if origin is Literal:
        return partial(_literal, get_args(wanted))
    if origin is Union or isinstance(wanted, types.UnionType):
        return _union(wanted, known)
    if is_typeddict(wanted) or dataclasses.is_dataclass(wanted):
        known[wanted] = check = _fields(wanted, known)
        return check
    if hasattr(wanted, "model_validate") and hasattr(wanted, "model_fields"):
        return partial(_pydantic, wanted)
    return _built_in(wanted, origin or wanted, known)


def names_of(wanted: Any) -> frozenset[str]:
    """The keys that a type names."""
    if dataclasses.is_dataclass(wanted):
        return frozenset(each.name for each in dataclasses.fields(wanted))
    fields = getattr(wanted, "model_fields", None)
    if isinstance(fields, Mapping):
        aliases = (getattr(each, "alias", None) for each in fields.values())
        return frozenset([*fields, *(each for each in aliases if each)])
    return frozenset(getattr(wanted, "__annotations__", ()))


def name_of(wanted: Any) -> str:
    """A type, as an error calls it."""
    if wanted in (None, _NONE):
        return "None"
    arguments = get_args(wanted)
    if get_origin(wanted) is Literal:
        return " or ".join(map(repr, arguments))
    if arguments and (get_origin(wanted) is Union or isinstance(wanted, types.UnionType)):
        return " or ".join(name_of(each) for each in arguments)
    return getattr(get_origin(wanted) or wanted, "__name__", str(wanted))


def _built_in(wanted: Any, origin: Any, known: dict[Any, Check]) -> Check:
    arguments = get_args(wanted)
    if origin in (str, bytes, bool, int, float):
        return partial(_plain, origin)
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return partial(_enum, origin)
    if origin in (list, set, frozenset, Sequence):
        item = check_of(arguments[0], known) if arguments else None
        return partial(_items, list if origin is Sequence else origin, item)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return partial(_items, tuple, check_of(arguments[0], known))
        return partial(_tuple, [check_of(each, known) for each in arguments])
    if origin in (dict, Mapping):
        key, value = arguments or (Any, Any)
        return partial(_dict, check_of(key, known), check_of(value, known))
    raise Unreadable(
        f"{name_of(wanted)} is nothing that a request can be held against; a dataclass, a TypedDict, a "
        "pydantic model, and in them str, bytes, bool, int, float, None, Literal, enums, lists, sets, "
        "tuples and dicts are"
    )


def _is_wrong(value: Any, path: str, problems: list[str], expected: str) -> None:
    if len(problems) < MOST_PROBLEMS:
        problems.append(f"{path or 'the request'} must be {expected}, it is {_shown(value)}")


def _shown(value: Any) -> str:
    kind = type(value)
    if kind in (str, bytes):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
    if kind in (bool, float, _NONE) or (kind is int and abs(value) < 10**_SHOWN):
        return repr(value)
    return f"a {kind.__name__}"


def _plain(kind: type, value: Any, path: str, problems: list[str]) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    _is_wrong(value, path, problems, name_of(kind))
    return value


def _literal(options: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    # By type as well, as True == 1.
    for each in options:
        wanted = each.value if isinstance(each, enum.Enum) else each
        if type(wanted) is type(value) and wanted == value:
            return each
    shown = " or ".join(repr(getattr(each, "value", each)) for each in options)
    _is_wrong(value, path, problems, shown)
    return value


def _enum(kind: type[enum.Enum], value: Any, path: str, problems: list[str]) -> Any:
    for each in kind:
        if type(each.value) is type(value) and each.value == value:
            return each
    _is_wrong(value, path, problems, " or ".join(repr(each.value) for each in kind))
    return value


def _union(wanted: Any, known: dict[Any, Check]) -> Check:
    options = get_args(wanted)
    checks = [check_of(each, known) for each in options if each is not _NONE]
    may_be_none = _NONE in options

    def check(value: Any, path: str, problems: list[str]) -> Any:
        if value is None and may_be_none:
            return None
        if len(checks) == 1 and not isinstance(value, (str, bytes, int, float, _NONE)):
            return checks[0](value, path, problems)  # it can say what is wrong within
        for each in checks:
            found: list[str] = []
            made = each(value, path, found)
            if not found:
                return made
        _is_wrong(value, path, problems, name_of(wanted))
        return value

    return check


def _items(kind: Any, item: Check | None, value: Any, path: str, problems: list[str]) -> Any:
    # JSON has lists only, so each of them may stand for another.
    if not isinstance(value, (list, tuple, set, frozenset)):
        _is_wrong(value, path, problems, f"a {kind.__name__}")
        return value
    if item is None:
        return kind(value)
    made, before = [], len(problems)
    for number, each in enumerate(value):
        made.append(item(each, f"{path}[{number}]", problems))
        if len(problems) >= MOST_PROBLEMS:
            break
    if len(problems) > before:
        return value
    try:
        return made if kind is list else kind(made)
    except TypeError:  # a set of what can't be in one
        _is_wrong(value, path, problems, f"a {kind.__name__} of plain values")
        return value


def _tuple(checks: list[Check], value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != len(checks):
        _is_wrong(value, path, problems, f"{len(checks)} values")
        return value
    pairs = enumerate(zip(checks, value, strict=True))
    return tuple(check(each, f"{path}[{number}]", problems) for number, (check, each) in pairs)


def _dict(key: Check, item: Check, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        _is_wrong(value, path, problems, "a dict")
        return value
    made = {}
    for name, each in value.items():
        where = f"{path}[{_shown(name)}]"
        found = key(name, f"the key {where}", problems)
        made[found] = item(each, where, problems)
        if len(problems) >= MOST_PROBLEMS:
            break
    return made


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    check: Check
    is_required: bool


def _fields(wanted: Any, known: dict[Any, Check]) -> Check:
    """Of a dataclass or a TypedDict."""
    name = name_of(wanted)
    fields: list[_Field] = []
    known[wanted] = partial(_object, wanted, name, fields)
    try:
        hints = typing.get_type_hints(wanted, include_extras=True)
    except Exception as error:
        raise Unreadable(f"the hints of {name} can't be read ({error})") from None
    required = _required(wanted, hints)
    for key, hint in hints.items():
        if key not in required:
            continue
        try:
            fields.append(_Field(key, check_of(hint, known), required[key]))
        except Unreadable as error:
            raise Unreadable(f"{name}.{key}: {error}") from None
    return known[wanted]


def _required(wanted: Any, hints: dict[str, Any]) -> dict[str, bool]:
    """By the keys that are read from a request, whether they must be there."""
    if dataclasses.is_dataclass(wanted):
        missing = dataclasses.MISSING
        return {
            each.name: each.default is missing and each.default_factory is missing
            for each in dataclasses.fields(wanted)
            if each.init
        }
    required, not_required = _REQUIRED
    found = {}
    for key, hint in hints.items():
        origin = get_origin(hint)
        said = origin is not None and origin in (required, not_required)
        found[key] = origin is required if said else key in wanted.__required_keys__
    return found


def _object(
    wanted: Any, name: str, fields: list[_Field], value: Any, path: str, problems: list[str]
) -> Any:
    if not isinstance(value, dict):
        _is_wrong(value, path, problems, f"a dict ({name})")
        return value
    before = len(problems)
    made = {}
    for field in fields:
        where = f"{path}.{field.name}" if path else field.name
        if field.name in value:
            made[field.name] = field.check(value[field.name], where, problems)
        elif field.is_required and len(problems) < MOST_PROBLEMS:
            problems.append(f"{where} is missing")
    if len(problems) > before:
        return value
    try:
        return wanted(**made)
    except ValueError as error:  # what a dataclass looks at in its __post_init__
        problems.append(f"{path or 'the request'}: {printable(str(error))}")
        return value


def _pydantic(model: Any, value: Any, path: str, problems: list[str]) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as error:
        if not isinstance(error, sys.modules["pydantic"].ValidationError):
            raise
        for each in error.errors(include_url=False, include_context=False)[:MOST_PROBLEMS]:
            where = ".".join([*([path] if path else []), *map(str, each["loc"])])
            problems.append(f"{where or 'the request'}: {printable(each['msg'])}")
        return value
