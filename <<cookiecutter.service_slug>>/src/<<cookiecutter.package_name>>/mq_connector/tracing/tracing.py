"""Has spans made of all that a service handles, asks and publishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..calling import Caller
from ..errors import needing
from ..logs import Logger

if TYPE_CHECKING:
    from ..consumer import ConsumerThread

_log = Logger(__name__)


def check() -> None:
    """Look whether spans can be made.

    :raises ConfigurationError: opentelemetry-api isn't installed
    """
    with needing(
        "opentelemetry",
        "MQ_TRACING is set, but opentelemetry-api isn't installed: pip install --editable '.[tracing]'; for an image, "
        "put it into `dependencies` of pyproject.toml, then `make lock`, and build it anew",
    ):
        from . import spans  # noqa: F401


class Tracing:
    """Makes spans for a service, from before its `on_start` on, which may set a provider of tracers.

    :param caller: the service's
    :raises ConfigurationError: opentelemetry-api isn't installed
    """

    def __init__(self, caller: Caller) -> None:
        check()
        from . import called, consumed, spans

        self._spans, self._consumed = spans, consumed.Consumed
        called.Called(caller, spans.tracer())

    def watch(self, consumers: Iterable[ConsumerThread]) -> None:
        """Make spans of what is consumed, if anybody takes spans; otherwise that costs nothing.

        :param consumers: which haven't started yet
        """
        if not self._spans.is_provided():
            _log.warning(
                "MQ_TRACING is set, but this process has no provider of tracers, so there are no spans: set "
                "one in on_start(), or start the service with opentelemetry-instrument"
            )
            return
        tracer = self._spans.tracer()
        for consumer in consumers:
            consumer.observer = self._consumed(consumer, tracer)
