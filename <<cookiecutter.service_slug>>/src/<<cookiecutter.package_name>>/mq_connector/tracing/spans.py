"""Spans as OpenTelemetry's conventions for RabbitMQ have them, and their place in a message's headers.

https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/ says which attributes there are;
https://www.w3.org/TR/trace-context/ what the headers are.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..errors import EXCERPT, printable
from ..logs import Complaints, Logger, text_of

_log = Logger(__name__)

#: The kind of an operation, beside its name.
SEND, PROCESS = "send", "process"
#: What has become of a message, where it was not plainly handled; the conventions have no word for it.
OUTCOME = "mq.outcome"
_MESSAGE_ID = "messaging.message.id"

#: Values of attributes.
Attributes = dict[str, "str | int"]

_w3c = TraceContextTextMapPropagator()

# Guards what was complained of, which is said from any thread.
_lock = threading.Lock()
_complaints = Complaints()


def is_provided() -> bool:
    """Whether somebody has set a provider of tracers in this process, so that spans come to anything."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def tracer() -> Tracer:
    """The tracer of this connector."""
    return trace.get_tracer(__name__.partition(".tracing")[0].rpartition(".")[2])


def context_in(headers: Mapping[str, str]) -> Context:
    """The context of whoever has sent a message with these headers; an empty one where they name none."""
    return _w3c.extract(headers, Context())


def headers_for(context: Context | None = None) -> dict[str, str]:
    """Headers that name the span of a context, by default of the current one; empty where there is none."""
    headers: dict[str, str] = {}
    _w3c.inject(headers, context)
    return headers


def attributes(operation: str, kind: str, exchange: str, *names: str) -> Attributes:
    """What each span of messaging has.

    :param operation: in AMQP's word, or ours
    :param kind: `SEND` or `PROCESS`
    :param names: the routing key and, for who consumes, the queue; empty ones count for nothing
    """
    parts = [exchange, *dict.fromkeys(names)]
    found: Attributes = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": ":".join(filter(None, parts)) or "amq.default",
    }
    if names[0]:
        found["messaging.rabbitmq.destination.routing_key"] = names[0]
    return found


def identify(found: Attributes, message_id: object, conversation_id: object) -> None:
    """Add by which ids a message is called, as far as it has any: they may be anything."""
    for key, value in (
        (_MESSAGE_ID, message_id),
        ("messaging.message.conversation_id", conversation_id),
    ):
        if isinstance(value, str) and value:
            found[key] = printable(value, EXCERPT)


def none(error: Exception) -> Span:
    """Stands for a span that could not be made: no message is worth less for what a sampler or a processor raises.

    :param error: why; it is logged
    """
    what = text_of(error)
    with _lock:
        level = _complaints.level(what)
    _log.log(level, "a span isn't as it should be: %s", what, exc_info=error)
    return trace.INVALID_SPAN


def fail(span: Span, error: BaseException) -> None:
    """Say that the operation of a span has failed, and by what."""
    kind = type(error)
    name = kind.__qualname__
    full = name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"
    try:
        # Not `record_exception`: an error may raise as its text is asked for, and what UTF-8 can't carry would
        # keep all that is exported together with it from leaving.
        lines = "".join(traceback.format_exception(error))
        event = {
            "exception.type": full,
            "exception.message": text_of(error).removeprefix(f"{kind.__name__}: "),
            "exception.stacktrace": lines.encode(errors="backslashreplace").decode(),
        }
        span.add_event("exception", event)
        span.set_status(Status(StatusCode.ERROR, text_of(error)))
        span.set_attribute("error.type", full)
    except Exception as failure:
        none(failure)


def note(span: Span, outcome: str) -> None:
    """Say what has become of the message of a span, where it was not plainly handled."""
    try:
        span.set_attribute(OUTCOME, outcome)
    except Exception as failure:
        none(failure)


def end(span: Span) -> None:
    """The operation of a span is over."""
    try:
        span.end()
    except Exception as failure:
        none(failure)


@contextmanager
def sending(
    by: Tracer, name: str, kind: SpanKind, found: Attributes, parent: Context | None = None
) -> Iterator[Span]:
    """The current span while something is sent; it fails with what is raised.

    :param parent: by default the current context
    """
    try:
        span = by.start_span(name, parent, kind, found, record_exception=False)
    except Exception as error:
        span = none(error)
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            end(span)
