"""A request as Neon's clients send it, and the reply that they will recognise as theirs."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

import pika

from .. import payload
from ..errors import EXCERPT, PayloadError, RequestError, named
from ..logs import Logger
from .addresses import DIRECT, LONGEST, is_direct, is_usual, reply_address
from .body import Form
from .encoding import as_dict
from .jsontext import excerpt

_log = Logger(__name__)

#: Properties of a reply. Neon's peers let requests and replies expire after 1000 ms.
REPLY_PROPERTIES = pika.BasicProperties(expiration="1000")

#: Characters of an exception's text that a reply or a log line repeats.
MAX_ERROR_TEXT = 2000

#: The two properties that a reply takes over, and the one that it takes over as an id.
_CARRIED = pika.BasicProperties.FLAG_CORRELATION_ID | pika.BasicProperties.FLAG_CONTENT_TYPE
_ID = pika.BasicProperties.FLAG_MESSAGE_ID
_HEADERS = pika.BasicProperties.FLAG_HEADERS
#: The headers of W3C Trace Context (level 1, 3.2 and 3.3), and what may be in them: of the second only
#: that it is printable and of a size that every system has to pass on.
_TRACEPARENT, _TRACESTATE = "traceparent", "tracestate"
_IS_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_IS_TRACESTATE = re.compile(r"[ -~]{1,512}")

#: Attribute of an exception that a streamed reply was broken off by: the number of the part that tells of it.
PART = "_mq_part"

_NOTHING: Mapping[Any, Any] = {}


class Request:
    """One decoded request.

    :ivar data: what the client asks, without the keys that address it
    :ivar message_id: the client's, as it is, or a new one where it sent none (or None)
    :ivar reply_queue: where the reply goes; None if the client wants none, or can't be given one
    :ivar reply_refusal: why what the client sent is no address for a reply; None if all is well
    """

    __slots__ = (
        "_aliased",
        "_carried",
        "_form",
        "_properties",
        "data",
        "message_id",
        "reply_queue",
        "reply_refusal",
    )

    def __init__(
        self,
        data: dict[Any, Any],
        form: Form = Form.LITERAL,
        properties: pika.BasicProperties | None = None,
    ) -> None:
        pop = data.pop
        message_id = pop("message_id", None)
        alias = pop("messageID", None)
        name = pop("routing_key", None)
        self._aliased = alias is not None
        self._carried = _CARRIED
        mq = _NOTHING
        if "context" in data:
            context = data["context"]
            if type(context) is not dict or "mq" in context:
                mq = _mq_context(data)
        if message_id is None:
            message_id = alias if alias is not None else mq.get("message_id")
        if message_id is None:
            message_id = _read(properties, "message_id")
            if message_id is None:
                message_id = uuid.uuid4().hex
            else:
                self._carried |= _ID
        self.message_id = message_id
        if mq and mq.get("routing_key") is not None:
            name = mq["routing_key"]
        if type(name) is str and len(name) <= LONGEST and is_usual(name):
            self.reply_queue: str | None = name
            self.reply_refusal: str | None = None
        else:
            self.reply_queue, self.reply_refusal = _address(name, properties)
        self.data = data
        self._form = form
        self._properties = properties

    @classmethod
    def decode(cls, body: bytes, properties: pika.BasicProperties | None = None) -> Request:
        """Decode a message body; an address that no reply can go to is logged as a warning.

        :param properties: the message's; their ``reply_to`` counts where the body names no queue,
            their ``message_id`` where it has no id
        :raises PayloadError: the body isn't a request
        """
        request = cls(payload.decode(body), payload.form_of(body), properties)
        if request.reply_refusal is not None:
            _warn(request)
        return request

    @property
    def reply_properties(self) -> pika.BasicProperties:
        """Properties for the reply: with the request's ``correlation_id`` and ``content_type``.

        Its ``message_id``, too, if that is the only id that the request has, and its `trace` as headers.
        Without any of them, they are `REPLY_PROPERTIES` themselves.
        """
        properties = self._properties
        # Those of a delivery tell what they hold before they are decoded, which takes ten times as long.
        flags = getattr(properties, "flags", _CARRIED | _HEADERS)
        headers = (trace_of(properties) or None) if flags & _HEADERS else None
        if properties is None or (headers is None and not flags & self._carried):
            return REPLY_PROPERTIES
        correlation_id = _read(properties, "correlation_id")
        content_type = _read(properties, "content_type")
        message_id = _read(properties, "message_id") if self._carried & _ID else None
        if headers is None and correlation_id is content_type is message_id is None:
            return REPLY_PROPERTIES
        return pika.BasicProperties(
            expiration=REPLY_PROPERTIES.expiration,
            correlation_id=correlation_id,
            content_type=content_type,
            message_id=message_id,
            headers=headers,
        )

    @property
    def trace(self) -> dict[str, str]:
        """The request's headers ``traceparent`` and ``tracestate`` (W3C Trace Context), for the headers of
        what its handler publishes; empty where it has none that are valid."""
        return trace_of(self._properties)

    def encode_reply(self, reply: Mapping[Any, Any], name: str = "answer()") -> bytes:
        """A reply's body: with the request's ``message_id``, in the form in which the request came.

        :param name: what errors call the reply, before the path to what is wrong with it
        :raises PayloadError: the reply is no dict, or can't be encoded
        """
        if type(reply) is not dict:
            reply = as_dict(reply, name)
        answer = {**reply, "message_id": self.message_id}
        if self._aliased:
            answer["messageID"] = self.message_id
        if "context" in answer:
            context = answer["context"]
            if isinstance(context, Mapping) and isinstance(context.get("mq"), Mapping):
                # Clients look for the id here first.
                mq = {**context["mq"], "message_id": self.message_id}
                answer["context"] = {**context, "mq": mq}
        return payload.encode(answer, self._form, name)


def error_reply(
    body: bytes, properties: pika.BasicProperties, error: BaseException
) -> tuple[str, bytes, pika.BasicProperties] | None:
    """What to tell the client whose request failed.

    :returns: queue, body and properties of the reply; None where nobody waits for one, or can be told
    """
    try:
        # Whoever decoded it first has warned of a wrong address.
        request = Request(payload.decode(body), payload.form_of(body), properties)
        code, text = 500, error_text(error)
        if isinstance(error, RequestError):
            code, text = error.code, _text(error.message)
    except PayloadError:
        request = _of_undecodable(body, properties)
        code, text = 400, _text(error)
        if request.reply_refusal is not None:
            _warn(request)
    if request.reply_queue is None:
        return None
    answer = {"success": False, "error": text, "code": code}
    if PART in vars(error):
        answer |= {"part": vars(error)[PART], "is_final": True}
    try:
        encoded = request.encode_reply(answer)
    except PayloadError:  # An id such as 1e999, which can't be sent back.
        request.message_id = None
        encoded = request.encode_reply(answer)
    return request.reply_queue, encoded, request.reply_properties


def error_text(error: BaseException) -> str:
    """An exception's type and text, not too long for a reply or a log line; never raises."""
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_ids(data: Mapping[Any, Any]) -> list[str]:
    """The ids under which a reply may belong to a request: Neon's peers put it in three places.

    The one in ``context.mq`` comes first: some services give each reply a ``message_id`` of its own.
    """
    found = (_mq_context(data).get("message_id"), data.get("message_id"), data.get("messageID"))
    ids = []
    for each in found:
        if each is not None:
            with contextlib.suppress(ValueError):  # More digits than Python prints.
                ids.append(str(each))
    return ids


def request_id(
    body: bytes, properties: pika.BasicProperties | None, longest: int | None = None
) -> str | None:
    """The id by which a request is called in the log; None where it has none, or none can be read.

    :param longest: bytes of a body that are decoded for it; larger ones have what the properties say
    """
    if longest is None or len(body) <= longest:
        with contextlib.suppress(Exception):  # The body may be anything.
            ids = message_ids(payload.decode(body))
            if ids:
                return ids[0]
    return _read(properties, "message_id") or _read(properties, "correlation_id")


def trace_of(properties: pika.BasicProperties | None) -> dict[str, str]:
    """The valid headers of W3C Trace Context in a message's properties; empty where there are none."""
    # Those of a delivery tell it without being decoded.
    if properties is None or not getattr(properties, "may_hold", bool)(b"traceparent"):
        return {}
    try:
        headers: Mapping[Any, Any] = properties.headers or _NOTHING
        parent, state = headers.get(_TRACEPARENT), headers.get(_TRACESTATE)
    except Exception:  # What a peer has sent as properties may be anything.
        return {}
    if not isinstance(parent, str) or not _IS_TRACEPARENT.fullmatch(parent):
        return {}
    if not isinstance(state, str) or not _IS_TRACESTATE.fullmatch(state):
        return {_TRACEPARENT: parent}
    return {_TRACEPARENT: parent, _TRACESTATE: state}


def _mq_context(data: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """What is in ``context.mq``, where Neon's messagebus puts id and address of a request."""
    context = data.get("context")
    # Exact types first, as what was decoded has them: to ask for a Mapping takes many times as long.
    if type(context) is not dict and not isinstance(context, Mapping):
        return _NOTHING
    mq = context.get("mq")
    if mq is None or (type(mq) is not dict and not isinstance(mq, Mapping)):
        return _NOTHING
    return mq


def _read(properties: pika.BasicProperties | None, name: str) -> str | None:
    """One of the properties that are short strings; None for what couldn't be sent back."""
    if properties is None:
        return None
    try:
        value: Any = getattr(properties, name)
        return value if isinstance(value, str) and len(value.encode()) <= 255 else None
    except Exception:  # What a peer has sent as properties may be anything.
        return None


def _address(name: Any, properties: pika.BasicProperties | None) -> tuple[str | None, str | None]:
    """Where the reply goes, and why it can't go there.

    :param name: what the body says; the properties count where it says nothing, or that direct
        reply-to is wanted, of which only they have the address
    """
    if name is None or name == DIRECT:
        in_property = _read(properties, "reply_to")
        if name is None or (in_property is not None and is_direct(in_property)):
            if not in_property:
                return None, None
            reason = reply_address(in_property, in_property=True)
            return (in_property, None) if reason is None else (None, _refusal(in_property, reason))
    if name == "":
        return None, None
    reason = reply_address(name)
    return (name, None) if reason is None else (None, _refusal(name, reason))


def _refusal(name: Any, reason: str) -> str:
    shown = f"{excerpt(name)}: " if isinstance(name, str) else ""
    return f"{shown}{reason}"


def _warn(request: Request) -> None:
    what = "%s: nobody will be answered, the reply address is wrong: %s"
    # None of more digits than Python prints.
    shown = next((each[:EXCERPT] for each in message_ids({"message_id": request.message_id})), None)
    _log.warning(what, named(shown), request.reply_refusal, about={"message_id": shown})


def _of_undecodable(body: bytes, properties: pika.BasicProperties) -> Request:
    """As much of a request as its properties and its first bytes tell."""
    message_id = _read(properties, "message_id")
    if message_id is None:
        message_id = _read(properties, "correlation_id")
    form = payload.form_of(body)
    content_type = _read(properties, "content_type")
    if form is Form.LITERAL and content_type and "json" in content_type.lower():
        # Nobody says that of a literal; what base64 there may be in it can't be read.
        form = Form.JSON
    return Request({"message_id": message_id}, form, properties)


def _text(error: object) -> str:
    try:
        text = str(error)
    except BaseException as failure:
        return f"(no text: its __str__ raises {type(failure).__name__})"
    if len(text) <= MAX_ERROR_TEXT:
        return text
    return f"{text[:MAX_ERROR_TEXT]}... ({len(text)} characters)"
