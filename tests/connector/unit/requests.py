"""Requests in each form that a client may send them in."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from mq_connector import payload
from mq_connector.payload import Form
from mq_connector.payload.request import Request

NONE = pika.BasicProperties()
forms = pytest.mark.parametrize("form", list(Form))


def decode(data: dict[Any, Any], form: Form = Form.LITERAL, **properties: Any) -> Request:
    return Request.decode(payload.encode(data, form), pika.BasicProperties(**properties))
