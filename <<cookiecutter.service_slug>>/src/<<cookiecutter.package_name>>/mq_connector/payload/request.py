"""A request as Neon's clients send it, and the reply that they will recognise as theirs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pika

from .. import payload
from ..errors import PayloadError
from .body import Form

#: Properties of a reply. Neon's peers let requests and replies expire after 1000 ms.
REPLY_PROPERTIES = pika.BasicProperties(expiration="1000")


class Request:
    """One decoded request.

    :ivar data: what the client asks, without the keys that address it
    :ivar message_id: the client's, or a new one where it sent none
    :ivar reply_queue: where the reply goes; None if the client wants none
    """

    __slots__ = ("_aliased", "_form", "data", "message_id", "reply_queue")

    def __init__(
        self,
        data: dict[Any, Any],
        form: Form = Form.LITERAL,
        properties: pika.BasicProperties | None = None,
    ) -> None:
        alias = data.pop("messageID", None)
        self._aliased = alias is not None
        self.message_id = (
            data.pop("message_id", None) or alias or _id_in_context(data) or uuid.uuid4().hex
        )
        reply_queue = data.pop("routing_key", None)
        if reply_queue is None and properties is not None:
            reply_queue = properties.reply_to
        self.reply_queue: str | None = reply_queue
        self.data = data
        self._form = form

    @classmethod
    def decode(cls, body: bytes, properties: pika.BasicProperties | None = None) -> Request:
        """Decode a message body.

        :param properties: the message's; their ``reply_to`` counts where the body names no queue
        :raises PayloadError: the body isn't a request
        """
        return cls(payload.decode(body), payload.form_of(body), properties)

    def encode_reply(self, reply: Mapping[Any, Any]) -> bytes:
        """A reply's body: with the request's ``message_id``, in the form in which the request came.

        :raises PayloadError: the reply can't be encoded
        """
        answer = {**reply, "message_id": self.message_id}
        if self._aliased:
            answer["messageID"] = self.message_id
        context = answer.get("context")
        if isinstance(context, Mapping) and isinstance(context.get("mq"), Mapping):
            # Clients look for the id here first.
            answer["context"] = {**context, "mq": {**context["mq"], "message_id": self.message_id}}
        return payload.encode(answer, self._form)


def error_reply(
    body: bytes, properties: pika.BasicProperties, error: BaseException
) -> tuple[str, bytes] | None:
    """What to tell the client whose request failed.

    :returns: queue and body of the reply; None where nobody waits for one
    """
    code = 500
    try:
        request = Request.decode(body, properties)
    except PayloadError:
        code = 400
        request = Request(
            {"message_id": properties.message_id or properties.correlation_id},
            payload.form_of(body),
            properties,
        )
    if not isinstance(request.reply_queue, str) or not request.reply_queue:
        return None
    text = str(error) if code == 400 else f"{type(error).__name__}: {error}"
    return request.reply_queue, request.encode_reply(
        {"success": False, "error": text, "code": code}
    )


def message_ids(data: Mapping[Any, Any]) -> list[str]:
    """The ids under which a reply may belong to a request: Neon's peers put it in three places.

    The one in ``context.mq`` comes first: some services give each reply a ``message_id`` of its own.
    """
    ids = (_id_in_context(data), data.get("message_id"), data.get("messageID"))
    return [str(each) for each in ids if each]


def _id_in_context(data: Mapping[Any, Any]) -> Any:
    context = data.get("context")
    mq = context.get("mq") if isinstance(context, Mapping) else None
    return mq.get("message_id") if isinstance(mq, Mapping) else None
