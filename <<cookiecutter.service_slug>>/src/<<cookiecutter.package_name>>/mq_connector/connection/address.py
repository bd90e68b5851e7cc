"""Where a vhost is, and who we are there: pika's parameters, one set for each host."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pika

from ..config.settings import Settings
from ..config.tls import TLS
from ..errors import ConfigurationError

#: Seconds between heartbeats (AMQP 0-9-1, 4.2.7): a peer that is silent is given up after 25 to 50.
#: Shorter than the broker's 60, which callbacks can't delay here, as they run on other threads.
HEARTBEAT = 20
#: The kernel's own check of an idle connection (tcp(7), seconds), for a peer that is gone altogether.
#: Without TCP_USER_TIMEOUT, which would also end a connection that a memory alarm merely holds up.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}

Parameters = Sequence[pika.ConnectionParameters]


class Address:
    """Where a vhost is, and who we are there.

    :param parameters: one for each host, in the order in which they are tried; a callable is asked
        when they are first needed, so that a service can be made without a configuration
    """

    def __init__(self, parameters: Parameters | Callable[[], Parameters]) -> None:
        self._ask = parameters if callable(parameters) else None
        self._parameters = None if callable(parameters) else parameters

    @property
    def parameters(self) -> Parameters:
        """:raises ConfigurationError: when they come from a configuration that lacks something"""
        if self._parameters is None:
            assert self._ask is not None
            self._parameters = self._ask()
        return self._parameters

    def ask_again(self) -> None:
        """Read the configuration again, as the broker refuses what it said: a password may have changed.

        If it can't be read now, the old parameters stay.
        """
        if self._ask is not None:
            with suppress(ConfigurationError):
                self._parameters = self._ask()


def parameters(settings: Settings, vhost: str, name: str) -> list[pika.ConnectionParameters]:
    """pika's parameters for a service's login, one set for each host.

    :param name: how the connection calls itself in the broker's management pages
    :raises ConfigurationError: a file that TLS needs is missing or isn't what it should be
    """
    tls = settings.tls
    credentials: Any = pika.PlainCredentials(settings.username, settings.password)
    if tls and tls.cert and not settings.password:
        credentials = pika.credentials.ExternalCredentials()  # the certificate is the login
    return [
        pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=vhost,
            credentials=credentials,
            ssl_options=_ssl_options(tls, host) if tls else None,
            connection_attempts=1,
            heartbeat=HEARTBEAT,
            tcp_options=KEEPALIVE,
            socket_timeout=5,
            stack_timeout=10,
            client_properties={"connection_name": name},
        )
        for host, port in settings.hosts
    ]


def _not_loaded(tls: TLS) -> str:
    """Which of the files OpenSSL can't use, and what it has to hold."""
    if tls.ca:
        try:
            ssl.create_default_context(cafile=tls.ca)
        except ssl.SSLError:
            return f"{tls.ca}: it has to hold certificates of authorities, in PEM"
    if tls.key:
        return f"{tls.cert} and {tls.key}: they have to be a certificate and its unencrypted key, in PEM"
    return (
        f"{tls.cert}: it has to hold a certificate and its unencrypted key, in PEM; a key in a file of "
        "its own is named by MQ_TLS_KEY or tls.key"
    )


def _ssl_options(tls: TLS, host: str) -> pika.SSLOptions:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert:
            # An encrypted key would be asked for at the terminal, for as long as nobody answers.
            context.load_cert_chain(tls.cert, tls.key, password="")
    except ssl.SSLError as error:
        # OpenSSL's own word for it, where it has one.
        word = f" ({error.reason})" if error.reason else ""
        raise ConfigurationError(f"tls: {_not_loaded(tls)}{word}") from None
    except OSError as error:
        # The error doesn't say which of the files it is about.
        files = [name for name in (tls.ca, tls.cert, tls.key) if name]
        name = next((name for name in files if not os.access(name, os.R_OK)), files[-1])
        raise ConfigurationError(f"tls: {name}: {error.strerror}; check the file") from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return pika.SSLOptions(context, server_hostname=host)
