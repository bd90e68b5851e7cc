"""JSON Schemas (draft 7, as AsyncAPI has them) of type hints."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union

Schema = dict[str, Any]

#: Where a document keeps what has a name.
PLACE = "#/components/schemas/"
_SIMPLE: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "description": "Bytes; JSON has none."},
    None: {"type": "null"},
    type(None): {"type": "null"},
}
#: What a type is wrapped in that says nothing of its values.
_WRAPPERS = ("Annotated", "Required", "NotRequired", "ReadOnly", "Final")
#: The docstring of an enumeration that has none, up to Python 3.10.
_AUTOMATIC = ("An enumeration.",)


class Schemas:
    """Makes the schemas of one document.

    :ivar named: those of classes, by their names
    """

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}

    def of(self, hint: Any) -> Schema:
        """The schema of what a hint allows; of whatever it doesn't understand, that anything goes.

        :raises Exception: whatever evaluating a class's hints raises, such as a NameError
        """
        with_name = getattr(hint, "__supertype__", None)  # of a NewType
        if with_name is not None:
            return self.of(with_name)
        try:
            if hint in _SIMPLE:
                return dict(_SIMPLE[hint])
        except TypeError:  # what can't be hashed is none of them
            return {}
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if getattr(origin, "_name", getattr(origin, "__name__", "")) in _WRAPPERS and arguments:
            return self.of(arguments[0])
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(each) for each in arguments]}
        if origin is Literal:
            return _choice(arguments)
        known = origin or hint
        if isinstance(known, type):
            return self._of_class(known, arguments)
        return {}

    def _of_class(self, found: type, arguments: tuple[Any, ...]) -> Schema:
        if issubclass(found, enum.Enum):
            return self._kept(found, lambda: _choice([each.value for each in found]))
        if hasattr(found, "model_json_schema"):  # pydantic, without loading it
            return self._kept(found, lambda: self._of_model(found))
        if dataclasses.is_dataclass(found):
            return self._kept(found, lambda: self._of_dataclass(found))
        if hasattr(found, "__required_keys__"):
            return self._kept(found, lambda: self._of_typed_dict(found))
        if issubclass(found, collections.abc.Mapping):
            values = self.of(arguments[1]) if len(arguments) == 2 else {}
            return {"type": "object", **({"additionalProperties": values} if values else {})}
        if issubclass(found, tuple) and arguments and arguments[-1] is not Ellipsis:
            count = len(arguments)
            items = [self.of(each) for each in arguments]
            return {"type": "array", "items": items, "minItems": count, "maxItems": count}
        if issubclass(found, (collections.abc.Sequence, collections.abc.Set)):
            values = self.of(arguments[0]) if arguments else {}
            return {"type": "array", **({"items": values} if values else {})}
        return {}

    def _kept(self, found: type, make: Callable[[], Schema]) -> Schema:
        """A reference to what has a name, which is made when it is first referred to."""
        name = self._names.get(found)
        if name is None:
            plain = re.sub(r"[^\w.-]", "_", found.__name__, flags=re.ASCII)
            name, count = plain, 1
            while name in self.named:
                count += 1
                name = f"{plain}_{count}"
            self._names[found] = name
            self.named[name] = {}  # it may refer to itself
            said = _said(found)
            about = {"description": said} if said else {}
            self.named[name].update({**make(), **about})
        return {"$ref": f"{PLACE}{name}"}

    def _of_dataclass(self, found: Any) -> Schema:
        hints = typing.get_type_hints(found, include_extras=True)
        properties: dict[str, Schema] = {}
        required = []
        for field in dataclasses.fields(found):
            if not field.init:
                continue
            properties[field.name] = schema = self.of(hints[field.name])
            if field.default is not dataclasses.MISSING:
                if "$ref" in schema:  # beside which draft 7 reads nothing
                    schema = {"allOf": [schema]}
                properties[field.name] = {**schema, **_default(field.default)}
            elif field.default_factory is dataclasses.MISSING:
                required.append(field.name)
        return _object(properties, required)

    def _of_typed_dict(self, found: Any) -> Schema:
        hints = typing.get_type_hints(found, include_extras=True)
        required = []
        for name, hint in hints.items():
            # Python 3.10 doesn't see these two in annotations that are texts.
            said = getattr(typing.get_origin(hint), "_name", "")
            if said != "NotRequired" and (said == "Required" or name in found.__required_keys__):
                required.append(name)
        return _object({name: self.of(hint) for name, hint in hints.items()}, required)

    def _of_model(self, found: Any) -> Schema:
        schema: Schema = found.model_json_schema(ref_template=f"{PLACE}{{model}}")
        for name, other in schema.pop("$defs", {}).items():
            self.named.setdefault(name, other)
        return schema


def _said(found: type) -> str:
    """The first line of a class's docstring, if that is about it and no text that Python puts there."""
    said = str(vars(found).get("__doc__") or "").strip().partition("\n")[0]
    automatic = said.startswith(f"{found.__name__}(") or said in _AUTOMATIC
    return "" if automatic else said


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    """The schema of a dict; an empty list of what is required isn't allowed in every draft."""
    made: Schema = {"type": "object", "properties": properties}
    return {**made, "required": sorted(required)} if required else made


def _choice(values: Any) -> Schema:
    """One of these, as far as JSON has them."""
    shown = [each.value if isinstance(each, enum.Enum) else each for each in values]
    return {"enum": shown} if all(_default(each) for each in shown) and shown else {}


def _default(value: Any) -> Schema:
    """The default of a field, if JSON has such a value."""
    if isinstance(value, enum.Enum):
        value = value.value
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {}
    return {"default": value}
