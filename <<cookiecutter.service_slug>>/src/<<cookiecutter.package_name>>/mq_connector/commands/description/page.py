"""A page made of an AsyncAPI document: one file, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from .document import printed
from .schemas import PLACE, Schema

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border: 1px solid #8886; border-radius: .5rem; padding: 0 1rem 1rem; margin: 1rem 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
pre { overflow: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid #8884; }
.action { text-transform: uppercase; font-size: .75em; border: 1px solid; border-radius: .25rem; padding: .1em .4em; }
"""


def page(document: Mapping[str, Any]) -> str:
    """The page, in ASCII whatever the names are."""
    text = "\n".join(_lines(document))
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    about = document["info"]
    title = f"{escape(about['title'])} {escape(about['version'])}"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{title}</h1>"
    yield f"<p>{escape(about.get('description', ''))}</p>"
    for server in document.get("servers", {}).values():
        where = f"{server['protocol']}://{server['host']}, vhost {server['pathname']}"
        yield f"<p>Broker: <code>{escape(where)}</code></p>"
    for operation in document["operations"].values():
        yield from _operation(document, operation)
    schemas = document["components"]["schemas"]
    if schemas:
        yield "<h2>Types</h2>"
    for name, schema in schemas.items():
        yield f'<section id="type-{escape(name)}"><h3>{escape(name)}</h3>'
        yield from _schema(schema)
        yield "</section>"
    yield "<details><summary>The AsyncAPI document</summary>"
    yield f"<pre>{escape(printed(document))}</pre></details>\n</body>\n</html>"


def _operation(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    channel = _resolved(document, operation["channel"])
    yield f'<section><h2><span class="action">{escape(operation["action"])}</span> '
    yield f"<code>{escape(channel['address'])}</code></h2>"
    yield f"<p>{escape(channel['description'])}</p>"
    reply = operation.get("reply", {})
    for reference in [*operation["messages"], *reply.get("messages", [])]:
        message = _resolved(document, _resolved(document, reference))
        yield f"<h3>{escape(message['summary'])}</h3>"
        yield f"<p>{escape(message['description'])}</p>"
        yield from _schema(message.get("headers", {}), "Header")
        yield from _schema(message["payload"])
    yield "</section>"


def _resolved(document: Mapping[str, Any], reference: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = document
    for step in reference["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found  # type: ignore[no-any-return]


def _schema(schema: Schema, what: str = "Key") -> Iterator[str]:
    """A table of the keys; what has none is told in a line."""
    if "allOf" in schema:
        for each in schema["allOf"]:
            yield from _schema(each, what)
    elif schema.get("properties"):
        yield f"<table><tr><th>{what}</th><th>Type</th><th></th></tr>"
        for name, each in schema["properties"].items():
            needed = " (required)" if name in schema.get("required", ()) else ""
            default = f" Without it {each['default']!r}." if "default" in each else ""
            said = escape(f"{each.get('description', '')}{default}")
            yield f"<tr><td><code>{escape(name)}</code>{needed}</td>"
            yield f"<td>{_kind(each)}</td><td>{said}</td></tr>"
        yield "</table>"
    elif schema:
        yield f"<p>{_kind(schema)}</p>"


def _kind(schema: Schema) -> str:
    """A type in a word or two, in HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(PLACE))
        return f'<a href="#type-{name}">{name}</a>'
    if "allOf" in schema:
        return " and ".join(map(_kind, schema["allOf"]))
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(repr(each))}</code>" for each in values)
    inner = schema.get("items", schema.get("additionalProperties"))
    of = f" of {_kind(inner)}" if isinstance(inner, dict) and inner else ""
    return f"{escape(str(schema.get('type', 'anything')))}{of}"
