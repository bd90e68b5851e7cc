"""A decorator that makes a handler out of a function of the decoded body."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ... import payload
from ...consumer.channel import Channel
from ...errors import PayloadError
from ...logs import Logger
from ...payload.request import REPLY_PROPERTIES
from ..sending import Message
from .network_utils import b64_to_dict

_log = Logger(__name__)

#: Arguments of a callback, in pika's order.
_ARGUMENTS = ("channel", "method", "properties", "body")


def create_mq_callback(
    callback: Callable[..., Any] | None = None,
    *,
    include_callback_props: Collection[str] | None = ("body",),
    request_model: Any = None,
) -> Callable[..., Any]:
    """Decorate a function or a method so that it can be a consumer's callback.

    What a method returns, if it is a dict, is sent to the queue that the request names for replies.
    An exception reaches the consumer, which dead-letters the message and answers with an error; where
    nobody but a test has called, it is logged and the result is None.

    :param include_callback_props: which of ``channel``, ``method``, ``properties`` and ``body`` the
        function takes, as keywords; the body comes decoded
    :param request_model: a pydantic model that the body is made into
    """
    if callback is not None:
        decorate = create_mq_callback(
            include_callback_props=include_callback_props, request_model=request_model
        )
        decorated: Callable[..., Any] = decorate(callback)
        return decorated
    included = tuple(include_callback_props or ())

    def arguments_of(given: tuple[Any, ...]) -> dict[str, Any]:
        arguments = {
            name: value for name, value in zip(_ARGUMENTS, given, strict=False) if name in included
        }
        if "body" in arguments:
            arguments["body"] = _decode(arguments["body"], request_model)
        return arguments

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        if "self" in inspect.signature(function).parameters:

            @functools.wraps(function)
            def method(self: Any, *given: Any) -> Any:
                def run() -> Any:
                    arguments = arguments_of(given)
                    result = function(self, **arguments)
                    _reply(self, given, arguments.get("body"), result)
                    return result

                return _guarded(function, given, run)

            return method

        @functools.wraps(function)
        def plain(*given: Any) -> Any:
            return _guarded(function, given, lambda: function(**arguments_of(given)))

        return plain

    return decorator


def _guarded(function: Callable[..., Any], given: tuple[Any, ...], run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        if given and isinstance(given[0], Channel):
            raise  # to the consumer, which knows what to do
        _log.error("%s failed: %r", function.__name__, error)
        return None


def _decode(body: Any, model: Any) -> Any:
    if body and isinstance(body, bytes):
        body = b64_to_dict(body)
    if not isinstance(body, dict) or not body:
        raise TypeError(f"the body must be bytes or a dict with something in it, not {body!r:.40}")
    if model is None:
        return body
    try:
        return model.model_validate(obj=body)
    except ValueError as error:  # pydantic's, which needn't be installed
        raise PayloadError(f"the request isn't a {model.__name__}: {error}") from error


def _reply(connector: Any, given: tuple[Any, ...], body: Any, reply: Any) -> None:
    """Send a reply on the channel that the request came by, or elsewhere if it says so."""
    request = body.model_dump() if hasattr(body, "model_dump") else body or {}
    context = request.get("context")
    theirs = context.get("mq") if isinstance(context, Mapping) else None
    theirs = theirs if isinstance(theirs, Mapping) else {}
    queue = request.get("routing_key") or theirs.get("routing_key")
    if not (queue and reply and isinstance(reply, dict)):
        return
    # An empty id is one, too: a client that sends it waits for it.
    ids = (request.get("message_id"), request.get("messageID"), theirs.get("message_id"))
    mq = reply.setdefault("context", {}).setdefault("mq", {})
    mq.setdefault("message_id", next((each for each in ids if each is not None), None))
    if request.get("messageID") is not None:  # one chat client spells it so, and looks for it there
        reply.setdefault("messageID", request["messageID"])
    vhost = reply.pop("vhost", None)
    channel, raw = given[0], given[3]
    if not isinstance(channel, Channel) or vhost or _sends_its_own_way(connector):
        connector.send_message(request_data=reply, vhost=vhost or connector.vhost, queue=queue)
        return
    message = Message.make(reply, form=payload.form_of(raw))
    # Though the function may have closed the channel: what it returns is still to be sent.
    channel.anew.basic_publish("", queue, message.body, REPLY_PROPERTIES)


def _sends_its_own_way(connector: Any) -> bool:
    """Whether the service has other methods for sending than ours."""
    from ..connector import MQConnector  # which needn't be there before its service is

    return not isinstance(connector, MQConnector) or any(
        connector._mq_overrides(name) for name in ("send_message", "emit_mq_message")
    )
