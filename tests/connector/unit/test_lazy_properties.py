"""A delivery's properties, which are decoded when they are asked for, equal those of pika."""

from __future__ import annotations

import copy
import threading

import pika
import pytest
from hypothesis import given
from mq_connector.connection.wire.deliveries import Properties

from .reading import Message, messages


@given(messages)
def test_lazy_properties_equal_those_of_pika(message: Message) -> None:
    raw = b"".join(message.properties.encode())
    assert Properties(raw) == message.properties
    assert message.properties == Properties(raw)
    assert Properties(raw) == Properties(raw)
    assert Properties(raw).reply_to == message.properties.reply_to
    assert b"".join(Properties(raw).encode()) == raw
    assert repr(Properties(raw)) == repr(message.properties)
    assert copy.deepcopy(Properties(raw)) == message.properties
    assert copy.copy(Properties(raw)) == message.properties
    assert isinstance(Properties(raw), pika.BasicProperties)


def test_properties_tell_which_they_are_before_they_are_decoded() -> None:
    raw = b"".join(pika.BasicProperties(reply_to="q", correlation_id="c").encode())
    properties = Properties(raw)
    assert properties.flags == properties.FLAG_REPLY_TO | properties.FLAG_CORRELATION_ID
    assert "correlation_id" not in vars(properties)
    properties.content_type = "text/plain"
    assert properties.correlation_id == "c"
    assert properties.flags & properties.FLAG_CONTENT_TYPE, "they may have been set since"
    assert Properties(b"").flags & Properties.FLAG_REPLY_TO, (
        "what is broken is found by decoding it"
    )


def test_lazy_properties_differ_where_those_of_pika_do() -> None:
    raw = b"".join(pika.BasicProperties(expiration="1000").encode())
    assert Properties(raw) != pika.BasicProperties(expiration="1001")
    assert Properties(raw) != pika.BasicProperties()
    assert Properties(raw) != "1000"


def test_lazy_properties_have_no_more_attributes_than_those_of_pika() -> None:
    raw = b"".join(pika.BasicProperties().encode())
    properties = Properties(raw)
    with pytest.raises(AttributeError, match="colour"):
        _ = properties.colour
    assert vars(properties) == vars(pika.BasicProperties())
    assert not hasattr(properties, "colour")


def test_an_attribute_can_be_set_before_any_was_read() -> None:
    properties = Properties(b"".join(pika.BasicProperties(reply_to="q", expiration="1").encode()))
    properties.expiration = "5"
    assert (properties.reply_to, properties.expiration) == ("q", "5")


def test_lazy_properties_may_be_read_first_by_several_threads_at_once() -> None:
    raw = b"".join(pika.BasicProperties(headers={"a": 1}, reply_to="q").encode())
    wrong: list[object] = []
    for _ in range(300):
        properties = Properties(raw)
        ready = threading.Barrier(4)

        def read(properties: Properties = properties, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                if properties.reply_to != "q" or properties.headers != {"a": 1}:
                    wrong.append(vars(properties))
            except AttributeError as error:
                wrong.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
