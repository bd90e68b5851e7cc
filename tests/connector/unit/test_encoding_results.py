"""What a handler returns: no dict is refused in one sentence, numbers of numpy are sent as Python's own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mq_connector.errors import PayloadError
from mq_connector.payload import Form, decode, encode
from mq_connector.payload.encoding import as_dict

from .literals import typed
from .requests import forms

# ---- what isn't a dict


async def promise() -> dict[str, Any]:
    return {}


def yields() -> Iterator[dict[str, Any]]:
    yield {}


async def both() -> Any:
    yield {}


NO_DICTS = [
    (promise, r"answer\(\) must be a dict, but is async, so it gave a coroutine"),
    (yields, r"answer\(\) must be a dict, but yields, so it gave a generator"),
    (both, r"answer\(\) must be a dict, but yields, so it gave a generator"),
    (lambda: None, r"answer\(\) must be a dict, but is None: is a return missing\?"),
    (lambda: "x", r"answer\(\) must be a dict, but is a str$"),
    (lambda: [("a", 1)], r"answer\(\) must be a dict, but is a list$"),
    (lambda: 1, r"answer\(\) must be a dict, but is an int$"),
    (lambda: dict, r"answer\(\) must be a dict, but is a type$"),
]


@pytest.mark.parametrize(
    ("make", "reason"), NO_DICTS, ids=[reason[30:60] for _, reason in NO_DICTS]
)
def test_what_is_no_dict_is_refused_in_one_plain_sentence(make: Any, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # That a coroutine was never awaited is said by us.
        for refuse in (as_dict, lambda data, name: encode(data, name=name)):
            with pytest.raises(PayloadError, match=reason):
                refuse(make(), "answer()")


def test_a_future_is_no_dict_either() -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(PayloadError, match="must be a dict, but is a Future"):
            encode(loop.create_future(), name="answer()")  # type: ignore[arg-type]
    finally:
        loop.close()


# ---- numpy


def test_numpy_is_not_imported_for_a_message_without_it() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mq_connector.payload import encode\n"
        "encode({'a': [1.5, type('Sub', (int,), {})(1)]})\n"
        "print('numpy' in sys.modules)\n"
    )
    folder = Path(sys.modules["mq_connector"].__file__ or "").parent.parent
    command = [sys.executable, "-B", "-c", script, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@forms
def test_numbers_and_texts_of_numpy_are_sent_as_pythons_own(form: Form) -> None:
    np = pytest.importorskip("numpy", reason="services that answer from models have it")
    data = {
        "float64": np.float64(1.5),
        "float32": np.float32(0.1),
        "float16": [np.float16(0.5)],
        "int64": np.int64(-7),
        "uint8": {"a": np.uint8(255)},
        "bool": np.bool_(True),
        np.str_("str"): np.str_("é"),
        "mean": np.array([1.0, 2.0]).mean(),
    }
    expected = {
        "float64": 1.5,
        "float32": float(np.float32(0.1)),
        "float16": [0.5],
        "int64": -7,
        "uint8": {"a": 255},
        "bool": True,
        "str": "é",
        "mean": 1.5,
    }
    assert typed(decode(encode(data, form))) == typed(expected)


@forms
def test_what_of_numpy_python_has_no_number_for_is_refused(form: Form) -> None:
    np = pytest.importorskip("numpy", reason="services that answer from models have it")
    for value, reason in (
        (np.float64("nan"), "is nan"),
        (np.float32("inf"), "is inf"),
        (np.array([1.0]), "is a ndarray"),
        (np.array(1.0), "is a ndarray"),
        (np.longdouble(1), "is a longdouble"),
        (np.datetime64("2026-01-01T00:00", "ns"), "is a datetime64"),
        (np.timedelta64(1, "ns"), "is a timedelta64"),
    ):
        with pytest.raises(PayloadError, match=rf"message\['a'\] {reason}, which"):
            encode({"a": value}, form)
