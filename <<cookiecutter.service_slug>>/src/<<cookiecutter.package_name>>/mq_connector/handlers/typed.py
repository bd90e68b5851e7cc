"""Requests with a type: what a handler's first parameter says that it wants, held against what came.

A dataclass or a TypedDict, with what the standard library has of types in it, or a pydantic model where the
service has pydantic. Without a type (or with ``dict``) a handler gets the request as it is, at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import unwrap
from typing import TYPE_CHECKING, Any, get_type_hints

from ..errors import ConfigurationError, RequestError
from ..payload.request import Request

if TYPE_CHECKING:
    from .checks import Check

#: Makes what a handler gets; None where it gets the request's own dict.
Reader = Callable[[Request], Any] | None

#: Keys of Neon's envelope: left out unless the type names them.
_ENVELOPE = ("message_id", "messageID", "routing_key", "context")
#: Handlers that are remembered; more only if they are made anew again and again.
_MOST = 1000

#: By function, what `reader_of` has found.
readers: dict[Any, Reader] = {}


def reader_of(handler: Callable[..., Any]) -> Reader:
    """How a request becomes what a handler gets.

    :raises ConfigurationError: its hints can't be read, in a line that names what is wrong
    """
    function = getattr(handler, "__func__", handler)
    try:
        return readers[function]
    except KeyError:
        read = _reader_of(function, is_method=function is not handler)
    if len(readers) >= _MOST:
        readers.clear()
    readers[function] = read
    return read


def request_type(function: Callable[..., Any], is_method: bool = True) -> Any:
    """What a handler's first parameter is annotated with; None where it is with nothing, or a plain dict.

    :param is_method: whether there is a `self` before it
    :raises ConfigurationError: the annotation can't be read
    """
    function = unwrap(function)
    annotations = _annotations(function)
    code = getattr(function, "__code__", None)
    if not annotations or code is None or code.co_argcount <= is_method:
        return None
    name = getattr(function, "__qualname__", repr(function))
    parameter = code.co_varnames[is_method]
    try:
        # Only that one: what it returns may have a type that is there for type checkers alone.
        annotation = annotations.get(parameter)
        if isinstance(annotation, str):
            alone = {parameter: annotation}
            holder = type("_", (), {"__annotations__": alone})
            namespace = getattr(function, "__globals__", {})
            hints = get_type_hints(holder, namespace, include_extras=True)
            annotation = hints[parameter]
    except Exception as error:
        raise ConfigurationError(
            f"the type of {name}()'s request can't be read ({error}): import it where the handler is, "
            "not for type checkers alone"
        ) from None
    origin = getattr(annotation, "__origin__", annotation)
    return None if origin in (None, Any, object, dict, Mapping) else annotation


def _annotations(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return getattr(function, "__annotations__", None) or {}
    except NameError:  # Python 3.14 evaluates all of them when they are first looked at
        library: Any = import_module("annotationlib")
        found = library.get_annotations(function, format=library.Format.FORWARDREF)
        return found  # type: ignore[no-any-return]


def _reader_of(function: Callable[..., Any], is_method: bool) -> Reader:
    wanted = request_type(function, is_method)
    if wanted is None:
        return None
    # Now, as who has no types does without.
    from .checks import Unreadable, check_of, names_of

    name = getattr(function, "__qualname__", repr(function))
    try:
        check = check_of(wanted)
        named = names_of(wanted)
    except Unreadable as error:
        raise ConfigurationError(f"the type of {name}()'s request: {error}") from None
    return _reader(check, named)


def _reader(check: Check, named: frozenset[str]) -> Callable[[Request], Any]:
    left_out = [key for key in _ENVELOPE if key not in named]
    wants_id, wants_queue = "message_id" in named, "routing_key" in named

    def read(request: Request) -> Any:
        data = request.data
        if wants_id or wants_queue or not data.keys().isdisjoint(left_out):
            data = {key: value for key, value in data.items() if key not in left_out}
            if wants_id:
                data["message_id"] = request.message_id
            if wants_queue:
                data["routing_key"] = request.reply_queue
        problems: list[str] = []
        value = check(data, "", problems)
        if problems:
            raise RequestError(400, "; ".join(problems))
        return value

    return read
