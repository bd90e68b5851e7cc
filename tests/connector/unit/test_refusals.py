"""Which failures to connect are final, told from the shapes in which pika reports them."""

from __future__ import annotations

import socket
import ssl

import pytest
from mq_connector.connection.broker import describe, permanent_reason
from pika import exceptions
from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorAMQPHandshakeError,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
    AMQPConnectorTransportSetupError,
)


def handshake(error: BaseException) -> BaseException:
    """As pika nests what happened while logging in."""
    return AMQPConnectionWorkflowFailed([AMQPConnectorAMQPHandshakeError(error)])


def closed(code: int, text: str) -> str:
    return repr(exceptions.ConnectionClosedByBroker(code, text))


UNTRUSTED = ssl.SSLCertVerificationError(1, "certificate verify failed")
UNTRUSTED.verify_message = "self-signed certificate"
UNTRUSTED.verify_code = 18
OTHER_NAME = ssl.SSLCertVerificationError(1, "certificate verify failed")
OTHER_NAME.verify_message = "Hostname mismatch"
OTHER_NAME.verify_code = 62
NO_TLS = ssl.SSLError(1, "wrong version number")
NO_TLS.reason = "WRONG_VERSION_NUMBER"

FINAL = [
    pytest.param(
        handshake(
            exceptions.ProbableAuthenticationError(closed(403, "ACCESS_REFUSED - Login was"))
        ),
        "refuses user 'echo': wrong password or no such user; is the password in mq_config.json (or "
        "MQ_PASSWORD) the broker's own? After rabbitmq/provision.py has made a new one, restart the broker",
        id="wrong password",
    ),
    pytest.param(
        handshake(
            exceptions.ProbableAccessDeniedError(closed(530, "NOT_ALLOWED - vhost not found"))
        ),
        "user 'echo' can't use vhost '/echo': 530 NOT_ALLOWED - vhost not found; the broker must have "
        "the vhost, and the user permissions on it: rabbitmq/provision.py gives both, for the VHOST in "
        "rabbitmq/topology.py and for those in `calls` of the class",
        id="no such vhost",
    ),
    pytest.param(
        handshake(
            exceptions.ProbableAccessDeniedError(
                closed(530, "NOT_ALLOWED - access to vhost '/echo' refused for user 'echo'")
            )
        ),
        "530 NOT_ALLOWED - access to vhost '/echo' refused for user 'echo';",
        id="no permission on the vhost",
    ),
    pytest.param(
        handshake(
            exceptions.ProbableAccessDeniedError(
                closed(530, "NOT_ALLOWED - vhost connection limit not found")
            )
        ),
        "530 NOT_ALLOWED - vhost connection limit not found;",
        id="a vhost that is called a limit",
    ),
    pytest.param(
        AMQPConnectionWorkflowFailed([AMQPConnectorTransportSetupError(UNTRUSTED)]),
        "certificate isn't trusted: self-signed certificate; MQ_TLS_CA or tls.ca names the file of its "
        "authority",
        id="certificate",
    ),
    pytest.param(
        AMQPConnectionWorkflowFailed([AMQPConnectorTransportSetupError(OTHER_NAME)]),
        "certificate isn't trusted: Hostname mismatch",
        id="another host's certificate",
    ),
    pytest.param(
        AMQPConnectionWorkflowFailed([AMQPConnectorTransportSetupError(NO_TLS)]),
        "what listens on mq.example:5672 doesn't speak TLS",
        id="TLS on the plain port",
    ),
    pytest.param(
        handshake(
            exceptions.IncompatibleProtocolError(
                repr(
                    exceptions.StreamLostError(
                        "Stream connection lost: "
                        + repr(exceptions.InvalidFrameError("frame of type 72 with 1 bytes"))
                    )
                )
            )
        ),
        "what listens on mq.example:5672 doesn't speak AMQP 0-9-1",
        id="a web server",
    ),
]

LOST = exceptions.StreamLostError("Transport indicated EOF")
HEALING = [
    pytest.param(
        exceptions.AMQPConnectionError(
            AMQPConnectionWorkflowFailed(
                [AMQPConnectorSocketConnectError(ConnectionRefusedError(111, "Connection refused"))]
            )
        ),
        "connection refused",
        id="broker down",
    ),
    pytest.param(
        AMQPConnectionWorkflowFailed(
            [AMQPConnectorSocketConnectError(socket.gaierror(-2, "Name or service not known"))]
        ),
        "the host name isn't known",
        id="unknown host",
    ),
    pytest.param(
        handshake(exceptions.ProbableAuthenticationError(repr(LOST))),
        "closed while logging in",
        id="end of stream while logging in",
    ),
    pytest.param(
        handshake(exceptions.ProbableAccessDeniedError(repr(LOST))),
        "closed while logging in",
        id="end of stream while tuning",
    ),
    pytest.param(
        handshake(exceptions.IncompatibleProtocolError(repr(LOST))),
        "closed before the broker said a word",
        id="end of stream before the first word",
    ),
    pytest.param(
        handshake(exceptions.ProbableAccessDeniedError(closed(541, "INTERNAL_ERROR"))),
        "541 INTERNAL_ERROR",
        id="vhost is down",
    ),
    pytest.param(
        handshake(
            exceptions.ProbableAccessDeniedError(
                closed(
                    530,
                    "NOT_ALLOWED - access to vhost '/echo' refused for user 'echo': "
                    "connection limit (1) is reached",
                )
            )
        ),
        "530 NOT_ALLOWED - access to vhost '/echo' refused for user 'echo': "
        "connection limit (1) is reached",
        id="as many connections as the vhost may have",
    ),
    pytest.param(
        handshake(
            exceptions.ProbableAccessDeniedError(
                closed(
                    530,
                    "NOT_ALLOWED - connection refused for user 'echo': "
                    "user connection limit (1) is reached",
                )
            )
        ),
        "user connection limit (1) is reached",
        id="as many connections as the user may have",
    ),
    pytest.param(
        AMQPConnectionWorkflowFailed(
            [
                AMQPConnectorAMQPHandshakeError(
                    AMQPConnectorStackTimeout("Timeout during AMQP handshake")
                )
            ]
        ),
        "Timeout during AMQP handshake",
        id="no answer",
    ),
]


@pytest.mark.parametrize(("error", "reason"), FINAL)
def test_what_time_does_not_heal_has_a_reason_for_the_user(
    error: BaseException, reason: str
) -> None:
    text = permanent_reason(error, "/echo", "echo", "mq.example:5672")
    assert text is not None
    assert reason in text
    assert "\n" not in text


def test_a_certificate_that_is_refused_as_a_login_is_no_wrong_password() -> None:
    error = handshake(exceptions.ProbableAuthenticationError(closed(403, "ACCESS_REFUSED")))
    text = permanent_reason(error, "/echo", "")
    assert text is not None
    assert "certificate" in text and "password" not in text


@pytest.mark.parametrize(("error", "words"), HEALING)
def test_what_time_may_heal_is_tried_again(error: BaseException, words: str) -> None:
    assert permanent_reason(error, "/echo", "echo") is None
    assert words in describe(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "closed"),
        (exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED"), "320 CONNECTION_FORCED"),
        (exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED"), "406 PRECONDITION_FAILED"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset by peer"),
        (exceptions.AMQPHeartbeatTimeout(), "AMQPHeartbeatTimeout"),
        (ConnectionAbortedError("given up"), "given up"),
        (
            TimeoutError("TCP connection attempt timed out: 'x'/(<AddressFamily.AF_INET: 2>, 6)"),
            "no answer in time",
        ),
        (TimeoutError(110, "Connection timed out"), "connection timed out"),
        (
            # As pika puts it where the broker takes the connection and says nothing.
            exceptions.ConnectionOpenAborted(
                "Connection.close() called before connection finished opening: prev_state=PROTOCOL "
                "(320): \"Timeout while setting up AMQP to 'x'/(<AddressFamily.AF_INET: 2>, 6)\""
            ),
            "no answer in time",
        ),
        (
            exceptions.ChannelClosedByBroker(
                404, "NOT_FOUND - no queue '\x1b[2J\u202e'\r\nERROR x"
            ),
            r"404 NOT_FOUND - no queue '\x1b[2J\u202e' ERROR x",
        ),
        (
            exceptions.ProbableAccessDeniedError(closed(530, 'it\'s "down"\n\x1b]0;x\x07')),
            r"""530 it's "down" \x1b]0;x\x07""",
        ),
    ],
)
def test_errors_are_described_in_a_few_words(error: BaseException | None, words: str) -> None:
    assert describe(error) == words


def test_the_innermost_error_describes_all_around_it() -> None:
    inner = exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED")
    assert describe(AMQPConnectionWorkflowFailed([inner])) == "320 CONNECTION_FORCED"


def test_errors_that_wrap_each_other_are_no_endless_story() -> None:
    first, second = AMQPConnectorAMQPHandshakeError(LOST), AMQPConnectorAMQPHandshakeError(LOST)
    first.exception, second.exception = second, first
    assert permanent_reason(first, "/", "") is None
    assert describe(first)
