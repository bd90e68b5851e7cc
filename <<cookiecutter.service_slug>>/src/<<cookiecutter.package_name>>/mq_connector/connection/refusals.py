"""Tells a broker that is down from one that says no: only the first is worth another try."""

from __future__ import annotations

import ast
import re
import socket
import ssl

from pika import exceptions

from ..errors import printable

#: How pika wraps the broker's own words about a login: as text. A stream that merely ended while
#: logging in, as when the broker is still booting, carries neither code.
_LOGIN_REFUSED, _VHOST_REFUSED = "(403)", "(530)"
#: What stands in that text when the peer said something that is no AMQP. A stream that ends before
#: the first word is blamed on the protocol as well, but a booting broker or a proxy before it does that.
_NO_AMQP = "InvalidFrameError"
#: What OpenSSL calls an answer that is no TLS, before its version 3.2 and since.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
#: Where that text carries the broker's own code and words, these as Python writes a string.
_BROKERS_WORDS = re.compile(r"""ConnectionClosedByBroker: \((\d+)\) ((?P<mark>['"]).*(?P=mark))""")
#: How RabbitMQ says that a vhost, a user or a node has as many connections as it may have: with the
#: code of a vhost that is refused, but others will leave.
_LIMIT = re.compile(r"connection limit \(\d+\) is reached$")


def permanent_reason(error: BaseException, vhost: str, username: str) -> str | None:
    """Why connecting can't succeed, whenever it is tried.

    :param error: what pika reports for a connection that didn't open
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
                f"the broker refuses user {username!r}: wrong password or no such user; compare "
                "mq_config.json with the broker's definitions"
            )
        if isinstance(cause, exceptions.AuthenticationError):
            return f"the broker offers no way to log in as {username!r}: {text}"
        if isinstance(cause, exceptions.ProbableAccessDeniedError) and _VHOST_REFUSED in text:
            words = _brokers_words(cause)
            if _LIMIT.search(words):
                continue
            return (
                f"user {username!r} can't use vhost {vhost!r}: {words or 'refused'}; the broker must "
                "have the vhost, and the user permissions on it"
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the broker's certificate isn't trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return "what listens on this port doesn't speak TLS; is it the broker's TLS port, usually 5671?"
        if isinstance(cause, exceptions.IncompatibleProtocolError) and _NO_AMQP in text:
            return (
                "what listens on this port doesn't speak AMQP 0-9-1; is it the broker's AMQP port, and "
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
    cause = causes[-1]
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
