"""What can be known of a handler before it is called."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isasyncgenfunction, iscoroutinefunction
from types import FunctionType
from typing import Any


def is_async(callback: Callable[..., Any]) -> bool:
    """Whether a callback does no more than begin tasks, as far as its text tells.

    It does if it is async, or a method that names of its class nothing but what is async, as ``return
    respond(channel, request, self.answer)`` does. So one thread is enough for it; where the text doesn't
    tell, there are as many threads as workers, which is right for any callback.
    """
    if _is_async(callback):
        return True
    owner = getattr(callback, "__self__", None)
    code = getattr(callback, "__code__", None)
    if owner is None or code is None:
        return False
    found = (getattr(type(owner), name, None) for name in code.co_names)
    named = [each for each in found if isinstance(each, FunctionType)]
    return bool(named) and all(_is_async(each) for each in named)


def _is_async(function: Any) -> bool:
    return iscoroutinefunction(function) or isasyncgenfunction(function)
