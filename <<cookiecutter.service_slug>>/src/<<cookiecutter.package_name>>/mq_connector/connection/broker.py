"""The broker: its generation, the reply codes by which it says no, and what a lost connection means.

Reply codes: AMQP 0-9-1, section 1.2, and what RabbitMQ adds to it.
"""

from __future__ import annotations

import ast
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from pika import exceptions

from ..errors import ChannelError, MQError, NotConnected, printable

_SUCCESS = 200
#: The broker is shutting down, or an operator has closed the connection.
CONNECTION_FORCED = 320
#: No permission.
ACCESS_REFUSED = 403
#: No such queue or exchange.
NOT_FOUND = 404
#: The queue belongs exclusively to another connection.
RESOURCE_LOCKED = 405
#: It exists otherwise than declared; or a message that the broker can't take, or wasn't settled in time.
PRECONDITION_FAILED = 406
#: The connection has as many channels as it may have (also: there is no such vhost).
NOT_ALLOWED = 530
#: Stands for "no answer", as the connection or the channel was lost before there was one.
UNANSWERED = 504
#: What RabbitMQ 4.3 answers, closing the connection, to a transient queue where those are denied.
INTERNAL_ERROR = 541

#: How pika wraps the broker's own words about a login: as text. A stream that merely ended while
#: logging in, as when the broker is still booting, carries neither code.
_LOGIN_REFUSED, _VHOST_REFUSED = "(403)", "(530)"
#: What stands in that text when the peer said something that is no AMQP. A stream that ends before
#: the first word is blamed on the protocol as well, but a booting broker or a proxy before it does that.
_NO_AMQP = "InvalidFrameError"
#: What OpenSSL calls an answer that is no TLS, before its version 3.2 and since.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
#: OpenSSL's numbers for certificates whose authority isn't among the trusted (X509_STORE_CTX_get_error(3)).
_NO_ISSUER = (2, 18, 19, 20, 21)
#: Where that text carries the broker's own code and words, these as Python writes a string.
_BROKERS_WORDS = re.compile(r"""ConnectionClosedByBroker: \((\d+)\) ((?P<mark>['"]).*(?P=mark))""")
#: How RabbitMQ says that a vhost, a user or a node has as many connections as it may have: with the
#: code of a vhost that is refused, but others will leave.
_LIMIT = re.compile(r"connection limit \(\d+\) is reached$")


def is_our_doing(loss: BaseException) -> bool:
    """Whether what was sent or received may have cost a connection, and would cost the next one.

    Not so where the network failed, the broker went down, or an operator closed the connection.
    """
    causes = list(causes_of(loss))
    for cause in causes:
        if isinstance(cause, exceptions.ConnectionClosedByBroker):
            return cause.reply_code not in (CONNECTION_FORCED, _SUCCESS)
        if isinstance(cause, (exceptions.ConnectionClosed, exceptions.AMQPHeartbeatTimeout)):
            return False
    # A stream that can't be read is wrapped in a loss of the connection.
    return not all(isinstance(each, (OSError, exceptions.AMQPConnectionError)) for each in causes)


def is_lost(error: MQError) -> bool:
    """Whether an operation failed because the connection went."""
    return isinstance(error, NotConnected)


def is_stuck(error: MQError) -> bool:
    """Whether the broker gave no answer at all."""
    return isinstance(error, ChannelError) and error.code == UNANSWERED


def is_late(closed: exceptions.ChannelClosed) -> bool:
    """Whether a channel was closed because a message wasn't settled in time (``consumer_timeout``)."""
    return closed.reply_code == PRECONDITION_FAILED and "timed out" in closed.reply_text


def is_refused_publish(closed: exceptions.ChannelClosed) -> bool:
    """Whether a channel was closed because of what was published on it, as far as the broker says so."""
    if closed.reply_code in (ACCESS_REFUSED, NOT_FOUND):
        return "exchange" in closed.reply_text
    return closed.reply_code == PRECONDITION_FAILED and "delivery tag" not in closed.reply_text


#: Seconds after which an answer is given up that the broker owes, and with it what owes it.
PATIENCE = 30.0


class Broker(NamedTuple):
    """The broker at the other end of a connection."""

    #: Its version as numbers, (0,) where it doesn't say.
    version: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, server_properties: Mapping[str, Any] | None) -> Broker:
        """:param server_properties: as in ``connection.start`` (AMQP 0-9-1, 1.4.2.1)"""
        version = str((server_properties or {}).get("version", "0")).split("-")[0].split("+")[0]
        return cls(tuple(int(part) for part in version.split(".") if part.isdigit()) or (0,))

    @property
    def may_relax(self) -> bool:
        """Whether a quorum queue can be made to tolerate a legacy re-declaration."""
        return self.version >= (4,)

    @property
    def may_deny_transient(self) -> bool:
        """Whether declaring a transient queue may cost the connection."""
        return self.version >= (4, 3)

    @property
    def fears_reply_to(self) -> bool:
        """Whether publishing to a forged address of direct reply-to may cost the connection (541)."""
        return self.version < (4, 3)

    @property
    def cancels_late(self) -> bool:
        """Whether a consumer that doesn't settle in time is cancelled; before, its channel is closed."""
        return self.version >= (4, 3)


def permanent_reason(
    error: BaseException, vhost: str, username: str, where: str = "this port"
) -> str | None:
    """Why connecting can't succeed, whenever it is tried.

    :param error: what pika reports for a connection that didn't open
    :param where: host and port, where they are known
    :returns: one sentence for the person who runs the service, or None if time may heal it
    """
    for cause in causes_of(error):
        text = str(cause)
        if isinstance(cause, exceptions.ProbableAuthenticationError) and _LOGIN_REFUSED in text:
            if not username:
                return (
                    "the broker refuses our certificate (EXTERNAL): it has no user of that name, or takes "
                    "the name from another field (ssl_cert_login_from)"
                )
            return (
                f"the broker refuses user {username!r}: wrong password or no such user; is the "
                "password in mq_config.json (or MQ_PASSWORD) the broker's own? After "
                "rabbitmq/provision.py has made a new one, restart the broker"
            )
        if isinstance(cause, exceptions.AuthenticationError):
            return f"the broker offers no way to log in as {username!r}: {text}"
        if isinstance(cause, exceptions.ProbableAccessDeniedError) and _VHOST_REFUSED in text:
            words = _brokers_words(cause)
            if _LIMIT.search(words):
                continue
            return (
                f"user {username!r} can't use vhost {vhost!r}: {words or 'refused'}; the broker must "
                "have the vhost, and the user permissions on it: rabbitmq/provision.py gives both, for "
                "the VHOST in rabbitmq/topology.py and for those in `calls` of the class"
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            unknown = getattr(cause, "verify_code", 0) in _NO_ISSUER
            remedy = "; MQ_TLS_CA or tls.ca names the file of its authority" if unknown else ""
            return f"the broker's certificate isn't trusted: {cause.verify_message}{remedy}"
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return f"what listens on {where} doesn't speak TLS; is it the broker's TLS port, usually 5671?"
        if isinstance(cause, exceptions.IncompatibleProtocolError) and _NO_AMQP in text:
            return (
                f"what listens on {where} doesn't speak AMQP 0-9-1; is it the broker's AMQP port, and "
                "not its TLS port?"
            )
    return None


def describe(error: BaseException | None) -> str:
    """An error in a few words: the innermost one, which says what happened on the wire."""
    if error is None:
        return "closed"
    causes = causes_of(error)
    for cause in reversed(causes):
        if isinstance(cause, socket.gaierror):
            return "the host name isn't known"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        if isinstance(cause, TimeoutError):  # pika's own, which names the socket at length
            return "no answer in time"
    cause = causes[-1]
    if isinstance(cause, exceptions.ConnectionOpenAborted) and "Timeout while" in str(cause):
        return "no answer in time"  # that is pika giving up, which names the socket at length, too
    if isinstance(cause, (exceptions.ConnectionClosed, exceptions.ChannelClosed)):
        return f"{cause.reply_code} {printable(' '.join(cause.reply_text.split()), 255)}"
    if isinstance(cause, exceptions.IncompatibleProtocolError):
        return "closed before the broker said a word"
    if isinstance(
        cause, (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    ):
        return _brokers_words(cause) or "closed while logging in"
    return printable(str(cause)) or type(cause).__name__


def _brokers_words(error: BaseException) -> str:
    """Code and text with which the broker closed the connection while we logged in; empty if it didn't."""
    said = _BROKERS_WORDS.search(str(error.args[0]) if error.args else "")
    if said is None:
        return ""
    words = printable(" ".join(ast.literal_eval(said[2]).split()), 255)
    return f"{said[1]} {words}"


def causes_of(error: BaseException) -> list[BaseException]:
    """The error and all that it wraps: pika nests them as arguments and attributes."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause in found:
            continue
        found.append(cause)
        nested = [*cause.args, *getattr(cause, "exceptions", ()), getattr(cause, "exception", None)]
        waiting += [each for each in nested if isinstance(each, BaseException)]
    return found
