"""Every exception of the connector, so that a caller can catch one base class, and how text from
outside may stand in their messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Characters of a text from outside that a message or a log line repeats.
EXCERPT = 200


def printable(text: str, limit: int = EXCERPT) -> str:
    """A text from outside, as it may stand in a line of the log or on a terminal.

    What a peer sends may hold line breaks, which would forge a log line, escape sequences, which a
    terminal obeys, or marks that turn the direction of writing. They are shown as Python writes them.

    :param limit: characters of it that are kept
    """
    if len(text) > limit:
        text = f"{text[:limit]}…"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def provisioned(effect: str = "gives the right") -> str:
    """What to do where the broker lacks what the source names.

    A broker in this folder's container has it at once, one that `make broker` runs from its next start on.

    :param effect: what that does, to be put behind "which"
    """
    return (
        f"run rabbitmq/provision.py, which {effect}, and restart `make broker` where that runs the "
        "broker"
    )


def named(message_id: str | None) -> str:
    """A message as a line of the log names it."""
    return "a message without an id" if message_id is None else f"message {message_id[:EXCERPT]!r}"


class MQError(Exception):
    """Base of all errors raised by the connector."""


class ConfigurationError(MQError):
    """The configuration is missing, unreadable or incomplete.

    The message names the file, the key and what to do; it never contains a password.
    """


class ServiceError(MQError):
    """The service's own code can't be imported, or its class can't be made."""


class StartError(MQError):
    """The broker refused us for a reason that waiting can't cure.

    Wrong credentials, an unknown vhost, or a missing permission: trying again would only hide it.
    """


class NotConnected(MQError):
    """The operation needs a connection, and there is none at the moment."""


class ChannelError(MQError):
    """The broker refused one operation (AMQP 0-9-1 channel exception); the consumer is unharmed.

    :param code: AMQP reply code, such as 404 or 406
    :param text: the broker's reply text
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = " ".join(text.split())  # RabbitMQ explains some refusals in several lines
        super().__init__(f"{code} {self.text}")


class NotInCallback(MQError, AttributeError):
    """A name of pika's that a callback's channel doesn't have, as using it would stop the consumer.

    An AttributeError as well, so that ``hasattr`` says no.

    :param name: the name
    :param instead: what to use
    """

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(f"a callback's channel has no {name}: {instead}")


class PayloadError(MQError, ValueError):
    """A body can't be decoded or exceeds a bound, or what is to be sent couldn't be decoded by its reader."""


class PublishError(MQError):
    """The broker hasn't taken a message: it was returned as unroutable, nacked, or cost its channel."""


class Unroutable(PublishError):
    """No queue takes the message: there is none of that name, or nothing is bound to the exchange."""


class RetryMessage(MQError):
    """Raised by a callback to have its message delivered again later.

    The broker counts the deliveries, and after 20 retries the message is dead-lettered. A transient queue
    doesn't count: there a message gets one retry only.

    A message that waits for its retry counts towards the prefetch: with 200 of them waiting (or
    ``MQ_PREFETCH``) nothing else is handled, so that a service whose upstream is down doesn't turn its whole
    queue into retries.

    :param delay: seconds until the first retry; doubled for each further one, up to a minute
    :raises ValueError: the delay is negative or no number
    """

    def __init__(self, delay: float = 1.0) -> None:
        if not delay >= 0:
            raise ValueError(f"delay is {delay}: it must be 0 s or more")
        super().__init__(f"to be delivered again in {delay:g} s or more")
        self.delay = float(delay)  # no timer takes a Decimal


class RequestError(MQError):
    """Raised by a handler that refuses a request: its client gets code and message, and the request is
    acknowledged, as the mistake is the client's. ``MQ_REJECTED=dead`` keeps it as a dead letter.

    :param code: as Neon's services use them: 400 (the request is wrong), 401 (not allowed), 404 (not
        found), 409 (it conflicts with what is there), 500
    :param message: tells the client what is wrong
    :raises ValueError: the code is no whole number from 100 to 599
    """

    def __init__(self, code: int, message: str) -> None:
        if type(code) is not int or not 100 <= code <= 599:
            raise ValueError(f"code is {code!r}: it must be a whole number from 100 to 599")
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


class Culprit(MQError):
    """A message isn't tried again, as it has cost a channel, a connection or a process before, or hangs."""


class RequestTimeout(MQError, TimeoutError):
    """No reply came within the time allowed."""


class Expired(MQError):
    """A request isn't handled, as its client no longer waits for the reply.

    :param ago: seconds since it expired
    """

    def __init__(self, ago: float) -> None:
        super().__init__(f"it had expired {ago:.3f} s before it was taken")
        self.ago = ago


class WouldWait(MQError, RuntimeError):
    """A blocking method was called where it would block what it waits for: on a connection's own thread,
    or on an event loop.

    :param name: the method's
    :param where: the place, in words
    :param instead: what to use
    """

    def __init__(self, name: str, where: str, instead: str) -> None:
        super().__init__(f"{name}() was called on {where}, which it would hold up: {instead}")


@contextmanager
def needing(package: str, remedy: str) -> Iterator[None]:
    """Import what an extra brings.

    :param package: its name in an import; what else can't be imported is a fault and raised as it is
    :param remedy: what isn't installed, and how it is
    :raises ConfigurationError: the package isn't installed
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ConfigurationError(remedy) from None
