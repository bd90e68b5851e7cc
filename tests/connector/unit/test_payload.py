"""Bodies of messages: what peers send is understood, what we send they understand, nothing runs."""

from __future__ import annotations

import ast
import base64
import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mq_connector import payload
from mq_connector.errors import PayloadError
from mq_connector.payload import MAX_DEPTH, MAX_SIZE, Form, decode, encode, form_of, jsontext

from .literals import REFUSED, dicts, expected, fragments, is_refused_on_purpose, typed

#: Dicts as text, and their bodies as `neon_mq_connector.utils.network_utils.dict_to_b64` of
#: neon-mq-connector 0.10.0 made them.
VECTORS = json.loads((Path(__file__).parent / "payload_vectors.json").read_text("utf-8"))

CONNECTOR = Path(payload.__file__).parent.parent


def body_of(text: str) -> bytes:
    """A literal, or any text, in the form that peers use."""
    return base64.b64encode(json.dumps(text).encode())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["literal"][:30])
def test_the_incumbents_bodies_are_read_and_made_byte_for_byte(vector: dict[str, str]) -> None:
    data = ast.literal_eval(vector["literal"])
    body = vector["body"].encode()
    assert typed(decode(body)) == typed(data)
    assert form_of(body) is Form.LITERAL
    assert encode(data) == body


@settings(max_examples=150, derandomize=True)
@given(dicts)
def test_what_is_encoded_is_decoded_with_its_types(data: dict[Any, Any]) -> None:
    body = encode(data)
    assert body == body_of(str(data))
    # Some numbers change in print, such as the complex -1j, whose sign then covers the zero, too.
    assert typed(decode(body)) == expected(str(data))


def test_a_mapping_of_another_class_is_sent_as_a_dict() -> None:
    for data in (OrderedDict(a=1), MappingProxyType({"a": 1})):
        for form in Form:
            assert encode(data, form) == encode({"a": 1}, form)


def test_json_is_read_with_and_without_base64() -> None:
    data = {"a": [1, -2.5, True, None, {"b": 'it\'s "é" \U0001f600'}], "": {}}
    for dumped in (
        json.dumps(data),
        json.dumps(data, ensure_ascii=False),
        json.dumps(data, indent=2),
    ):
        assert typed(decode(dumped.encode())) == typed(data)
        assert typed(decode(b" \r\n\t" + dumped.encode() + b"\n")) == typed(data)
        assert typed(decode(base64.b64encode(dumped.encode()))) == typed(data)
        for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            assert typed(decode(dumped.encode(name, "surrogatepass"))) == typed(data)
            raw = dumped.encode(name, "surrogatepass")
            assert typed(decode(base64.b64encode(raw))) == typed(data)


@pytest.mark.parametrize("form", [Form.JSON, Form.JSON_BASE64])
def test_json_goes_out_as_it_came_in(form: Form) -> None:
    data = {"a": [1, -2.5, True, None, {"b": "é"}], "": {}, "half": "\ud800"}
    body = encode(data, form)
    dumped = json.dumps(data).encode()
    assert body == (dumped if form is Form.JSON else base64.b64encode(dumped))
    assert form_of(body) is form
    assert typed(decode(body)) == typed(data)


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (body_of("{'a': 1}"), Form.LITERAL),
        (body_of("{}"), Form.LITERAL),
        (body_of("\n{}"), Form.LITERAL),
        (b"\n" + body_of("{}"), Form.LITERAL),
        (base64.b64encode(b' "{}"'), Form.LITERAL),
        (base64.b64encode(b"{}"), Form.JSON_BASE64),
        (base64.b64encode(b'{"a": 1}'), Form.JSON_BASE64),
        (base64.b64encode(b'\n\n  {"a": 1}'), Form.JSON_BASE64),
        (b" " + base64.b64encode(b'{"a": "' + b"x" * 100 + b'"}'), Form.JSON_BASE64),
        (b"{}", Form.JSON),
        (b' \n{"a": 1}', Form.JSON),
        (b"", Form.LITERAL),
        (b"?", Form.LITERAL),
        (b"\xff\xfe\0", Form.LITERAL),
        (b"[1]", Form.JSON),
        (b' "text"', Form.JSON),
        (base64.b64encode(b"[1]"), Form.JSON_BASE64),
        (b'\xef\xbb\xbf{"a": 1}', Form.JSON),
        (b'\xef\xbb\xbf {"a": \xff', Form.JSON),
        ('{"a": 1}'.encode("utf-16"), Form.JSON),
        ('{"a": 1}'.encode("utf-16-be"), Form.JSON),
        ('{"a": 1}'.encode("utf-32"), Form.JSON),
        (base64.b64encode(b'\xef\xbb\xbf{"a": 1}'), Form.JSON_BASE64),
        (b'{"a": \xff\xfe', Form.JSON),
        (b"\xef\xbb\xbf" + body_of("{}"), Form.LITERAL),
        (b"\xef", Form.LITERAL),
        (b"\0\0\0", Form.LITERAL),
    ],
)
def test_the_form_is_seen_from_the_first_bytes(body: bytes, form: Form) -> None:
    assert form_of(body) is form


@settings(max_examples=150, derandomize=True)
@given(st.binary(max_size=80))
def test_any_bytes_have_a_form(body: bytes) -> None:
    assert form_of(body) in Form


def test_outer_layers_are_taken_as_the_standard_library_takes_them() -> None:
    text = "{'a': 'é\U0001f600'}"
    body = body_of(text)
    variants = [
        base64.encodebytes(json.dumps(text * 1).encode()),  # Lines of 76 characters.
        b"\n" + body + b"\n",
        base64.b64encode(json.dumps(text, ensure_ascii=False).encode()),
        base64.b64encode(f" \t\r\n{json.dumps(text)} \n".encode()),
        *(
            base64.b64encode(json.dumps(text).encode(name))
            for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32")
        ),
    ]
    for variant in variants:
        assert ast.literal_eval(json.loads(base64.b64decode(variant))) == decode(variant)


def read(body: bytes) -> Any:
    """What we make of a body: typed, or REFUSED, with an error on one short line."""
    try:
        return typed(decode(body))
    except PayloadError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 200
        return REFUSED


@settings(max_examples=300, derandomize=True)
@given(
    st.binary(max_size=60)
    | st.binary(max_size=60).map(base64.b64encode)
    | st.lists(fragments, max_size=6).map("".join).map(body_of)
    | st.lists(fragments, max_size=6).map(
        lambda pieces: b"{" + "".join(pieces).encode("utf-8", "replace")
    )
    | st.lists(fragments, max_size=6).map(
        lambda pieces: base64.b64encode(json.dumps(pieces).encode())
    )
)
def test_whatever_comes_in_is_a_dict_or_refused(body: bytes) -> None:
    result = read(body)
    assert result == REFUSED or result[0] == "dict"
    try:
        text = json.loads(base64.b64decode(body))
    except ValueError:
        return
    if not isinstance(text, str) or is_refused_on_purpose(text):
        return
    if form_of(body) is Form.LITERAL:
        assert result == expected(text)


def hostile_bodies(sentinel: Path) -> dict[str, bytes]:
    code = f"__import__('os').system('touch {sentinel}')"
    marker = "x" * 1000
    return {
        "nothing": b"",
        "no base64": marker.encode() + b"?",
        "one character": b"A",
        "no text": base64.b64encode(b"\xff\xfe\xfd" + marker.encode()),
        "no JSON": base64.b64encode(marker.encode()),
        "half a JSON string": base64.b64encode(b'"{' + marker.encode()),
        "a raw line break in the JSON string": base64.b64encode(b"\"{'a':\n1}\""),
        "behind the JSON string": base64.b64encode(b'"{}" ' + marker.encode()),
        "a JSON list": base64.b64encode(b"[{}]"),
        "a JSON number": base64.b64encode(b"1"),
        "a JSON string in a JSON string": body_of(json.dumps("{}")),
        "broken JSON": b'{"a": ' + marker.encode(),
        "a comma too many": b'{"a": 1,}',
        "behind the JSON": b"{} {}",
        "NaN": b'{"a": NaN}',
        "Infinity": base64.b64encode(b'{"a": -Infinity}'),
        "a number of 5000 digits in JSON": b'{"a": ' + b"9" * 5000 + b"}",
        "a NUL in JSON": b'{"a": "\0"}',
        "Python without JSON": b"{'a': 1}",
        "Python without a JSON string": base64.b64encode(b"{'a': 1}"),
        "deep JSON": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "deep JSON lists": base64.b64encode(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        "deep lists outside a dict": base64.b64encode(b"[" * 10_000 + b"]" * 10_000),
        "a deep literal": body_of("{'a':" * 10_000 + "1" + "}" * 10_000),
        "deep tuples": body_of("{'a':" + "(" * 10_000 + ")" * 10_000 + "}"),
        "many signs": body_of("{'a':" + "-" * 10_000 + "1}"),
        "many nots": body_of("{'a':" + "not " * 10_000 + "1}"),
        "many powers": body_of("{'a':" + "9**" * 10_000 + "9}"),
        "a call": body_of(f"{{'a': {code}}}"),
        "a call as key": body_of(f"{{{code}: 1}}"),
        "a call alone": body_of(code),
        "a call in an f-string": body_of(f'{{"a": f"{{{code}}}"}}'),
        "a call in a comprehension": body_of(f"{{'a': [{code} for b in (1,)]}}"),
        "a call behind": body_of(f"{{}} or {code}"),
        "a statement": body_of(f"{{}}\n{code}"),
        "a lambda": body_of(f"{{'a': (lambda: {code})()}}"),
        "a number of 5000 digits": body_of("{'a': " + "9" * 5000 + "}"),
        "a lone surrogate": body_of("{'a': '\ud800'}"),
        "a lone surrogate in UTF-8": base64.b64encode(b"\"{'a': '\xed\xa0\x80'}\""),
        "a NUL": body_of("{'a': '\0'}"),
        "no hash": body_of("{[]: 1}"),
        "a word": body_of("{'a': " + marker + "}"),
        "a string that never ends": body_of("{'a': '" + marker),
        "not a dict": body_of("['" + marker + "']"),
    }


@pytest.mark.parametrize("name", hostile_bodies(Path("unused")))
def test_a_hostile_body_is_refused_in_few_words_and_never_run(name: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    body = hostile_bodies(sentinel)[name]
    with pytest.raises(PayloadError) as caught:
        decode(body)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 200
    assert "x" * 61 not in message
    assert not sentinel.exists()


def test_the_hostile_call_would_leave_its_trace(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    text = json.loads(base64.b64decode(hostile_bodies(sentinel)["a call"]))
    eval(text)  # As the incumbents decode.
    assert sentinel.exists()


def test_a_body_has_a_largest_size() -> None:
    body = encode({"a": "x" * 100})
    assert decode(body, max_size=len(body)) == {"a": "x" * 100}
    with pytest.raises(PayloadError, match=f"{len(body)} bytes where {len(body) - 1} are allowed"):
        decode(body, max_size=len(body) - 1)
    with pytest.raises(PayloadError, match="send it in parts"):
        decode(b"x" * (MAX_SIZE + 1))


def test_the_largest_body_is_read() -> None:
    body = encode({"a": "x" * (MAX_SIZE * 3 // 4 - 100)})
    assert MAX_SIZE - 200 < len(body) <= MAX_SIZE
    assert decode(body)["a"].endswith("xxx")


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels - 1):
        data = {"a": data}
    return data


@pytest.mark.parametrize("form", Form)
def test_a_body_has_a_largest_depth(form: Form) -> None:
    assert decode(encode(nested(MAX_DEPTH), form)) == nested(MAX_DEPTH)
    with pytest.raises(PayloadError, match=f"deeper than {MAX_DEPTH} levels"):
        decode(encode(nested(MAX_DEPTH + 1), form))
    assert decode(encode(nested(120), form), max_depth=120) == nested(120)


def depth_of(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((depth_of(each) for each in inner), default=0)


@settings(max_examples=150, derandomize=True)
@given(
    st.recursive(
        st.text('[]{}",:\\a', max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_depth_is_known_before_json_is_read(value: Any) -> None:
    text = json.dumps(value)
    depth = depth_of(value)
    assert jsontext.excess(text, depth) is None
    assert depth == 0 or "deeper" in (jsontext.excess(text, depth - 1) or "")


@pytest.mark.parametrize("levels", [1, 2, 10, MAX_DEPTH, 1000])
@pytest.mark.parametrize(("opens", "closes"), [('{"":', "}"), ("[", "]"), ('{"":[', "]}")])
def test_brackets_without_anything_else_are_levels(levels: int, opens: str, closes: str) -> None:
    """Nothing is shorter for its depth; also where the end is missing, which the scanner sees too late."""
    deep = levels * len(closes)
    for text in (opens * levels, opens * levels + "0" + closes * levels):
        assert jsontext.excess(text, deep) is None
        assert "deeper" in (jsontext.excess(text, deep - 1) or "")


def test_depth_and_tokens_are_counted_across_all_of_a_long_text() -> None:
    inside = '\\\\ \\" [{,: ' * 30_000
    for head in ("", " ", "  ", "   "):  # Whatever is cut where a step ends.
        text = f'{head}{{"a": ["{inside}", [[["{inside}"]]], "{inside}"]}}'
        assert jsontext.excess(text, 5) is None
        assert "deeper" in (jsontext.excess(text, 4) or "")
        assert jsontext.excess(f'["{inside}"{",0" * (jsontext.MAX_TOKENS - 1)}]', 5) is None
        assert "commas" in (jsontext.excess(f'["{inside}"{",0" * jsontext.MAX_TOKENS}]', 5) or "")


@pytest.mark.parametrize("piece", ["0,", "[],", '{"":0},'])
def test_json_has_a_largest_number_of_tokens_too(piece: str) -> None:
    text = f'{{"a": [{piece * jsontext.MAX_TOKENS}0]}}'
    for body in (text.encode(), base64.b64encode(text.encode())):
        with pytest.raises(PayloadError, match=f"more than {jsontext.MAX_TOKENS} commas"):
            decode(body)


def test_common_messages_need_neither_compiler_nor_tokenizer() -> None:
    """The short way, through JSON, is what makes decoding fast; `ast` would cost memory, too."""
    context: dict[str, Any] = {
        "source": "mq_api",
        "final": False,
        "session": None,
        "scores": [1, 2.5],
    }
    common: list[dict[str, Any]] = [
        {
            "text": "what's up",
            "lang": "it's",
            "user": "o'x",
            "message_id": "c0ffee",
            "context": context,
        },
        {"text": 'say "hi"', "data": '{"a": null, "b": true}', "empty": {}, "list": []},
        {"text": 'say "what\'s up"\n\tC:\\temp\xa0', "history": [("user", "(hi)"), ("llm", "")]},
        {"text": "Grüße 漢字 😀 None, True", "negative": -1, "large": 10**30, "small": -1e-9},
    ]
    bodies = [encode(data) for data in common] + [encode(context, Form.JSON), b"{}"]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mq_connector.payload import decode\n"
        "for body in sys.argv[2:]: decode(body.encode())\n"
        "print(*({'ast', 'mq_connector.payload.literal_parser'} & set(sys.modules)))\n"
        "decode(b'Int9Ig==')\n"
        "print('ast' in sys.modules)\n"
    )
    script = script.replace("decode(b'Int9Ig==')", f"decode({encode({b'a': 1})!r})")
    result = subprocess.run(
        [
            sys.executable,
            "-B",
            "-S",
            "-c",
            script,
            str(CONNECTOR.parent),
            *map(os.fsdecode, bodies),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == ["", "False"]
