"""Stand-ins for the loop, the stream and pika's channel, which do nothing by themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from mq_connector import fork
from mq_connector.connection.broker import Broker
from mq_connector.connection.link import Lingering, Owed
from mq_connector.connection.scratch import Scratch
from mq_connector.connection.wire.frames import PropertiesEncoder
from mq_connector.connection.wire.transport import HIGH_WATER
from mq_connector.errors import ChannelError
from pika import frame
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Queue

from . import wire


def be_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be, for the connector, a child that was forked from this process."""
    for each in tuple(fork._all):
        monkeypatch.setattr(each, "forked", True)


class FakeTransport:
    """Writes down each burst that is sent, as decoded frames."""

    def __init__(self) -> None:
        self.bursts: list[list[Any]] = []
        self.attached: dict[int, Any] = {}
        self.reader = SimpleNamespace(
            attach=self.attached.__setitem__,
            detach=lambda number: self.attached.pop(number, None),
            now=0.0,
        )
        self.room: Callable[[], bool] = lambda: True
        #: As if so much were waiting that it has to be asked for room.
        self.size = HIGH_WATER
        #: Called after each burst.
        self.on_send: Callable[[], None] = lambda: None

    def send(self, frames: list[bytes]) -> None:
        if frames:
            self.bursts.append(wire.decoded(b"".join(frames)))
            self.on_send()

    def wait_for_room(self, timeout: float) -> bool:
        return self.room()

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all messages that were published, in order."""
        frames = [each for burst in self.bursts for each in burst]
        return [each.fragment for each in frames if isinstance(each, frame.Body)]

    @property
    def methods(self) -> list[list[str]]:
        """The names of the methods in each burst."""
        return [
            [each.method.NAME for each in burst if isinstance(each, frame.Method)]
            for burst in self.bursts
        ]


class FakeChannel:
    """pika's channel: keeps each method call, and its callback until the test answers."""

    def __init__(self, number: int) -> None:
        self.channel_number = number
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.closed = False
        self.on_close: Callable[[Any, BaseException], None] | None = None
        self._callbacks: list[Callable[[Any], None]] = []

    def add_on_close_callback(self, callback: Callable[[Any, BaseException], None]) -> None:
        self.on_close = callback

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any, callback: Callable[[Any], None] | None = None) -> None:
            if callback is None:
                *arguments, callback = arguments  # type: ignore[assignment]
            self.calls.append((name, tuple(arguments)))
            self._callbacks.append(callback)

        return call

    @property
    def is_open(self) -> bool:
        return not self.closed

    @property
    def waiting(self) -> int:
        """Calls that the broker has yet to answer."""
        return len(self._callbacks)

    def answer(self, method: Any = None) -> None:
        """The broker answers the oldest call."""
        self._callbacks.pop(0)(
            frame.Method(self.channel_number, method or Queue.DeclareOk("q", 0, 0))
        )

    def close(self) -> None:
        """Our own close waits for the answer that the broker owes, as pika's does."""
        self.closed = True

    def lose(self, reason: BaseException) -> None:
        self._callbacks.clear()
        assert self.on_close is not None
        self.on_close(self, reason)

    def refuse(self, code: int, text: str) -> None:
        """The broker closes the channel instead of answering."""
        self.lose(ChannelClosedByBroker(code, text))


class FakeAMQP:
    """pika's connection: channels open when the test says so."""

    def __init__(self) -> None:
        self.params = SimpleNamespace(frame_max=wire.FRAME_MAX)
        self.is_open = True
        self.closed = 0
        self.channels: list[FakeChannel] = []
        self._opening: list[Callable[[FakeChannel], None]] = []

    def channel(self, on_open_callback: Callable[[FakeChannel], None]) -> None:
        self._opening.append(on_open_callback)

    @property
    def opening(self) -> int:
        return len(self._opening)

    def open(self) -> FakeChannel:
        """The broker opens a channel that was asked for."""
        channel = FakeChannel(len(self.channels) + 1)
        self.channels.append(channel)
        self._opening.pop(0)(channel)
        return channel

    def close(self) -> None:
        self.closed += 1
        self.is_open = False


class FakeConnection:
    """`mq_connector.connection.Connection` with a loop that runs when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.last_error = ""
        self.is_own_thread = False

    def call(self, function: Callable[[], object]) -> None:
        self.calls.append(function)

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        self.timers.append((seconds, function))

    def run_calls(self) -> None:
        """One turn of the loop."""
        calls, self.calls = self.calls, []
        for function in calls:
            function()

    def run_timers(self) -> None:
        """All timers that are set now go off."""
        timers, self.timers = self.timers, []
        for _, function in timers:
            function()


class FakeLink(FakeConnection):
    """`mq_connector.connection.link.Link`, open, and its connection as well: they have one loop."""

    def __init__(self, version: tuple[int, ...] = (3, 13, 0)) -> None:
        super().__init__()
        self.broker = Broker(version)
        self.transport = FakeTransport()
        self.lingering = Lingering(self.call, self.later)
        self.owed = Owed(self.later, lambda: False)
        self.amqp = FakeAMQP()
        self.encoder = PropertiesEncoder(wire.FRAME_MAX)
        self.dropped = 0
        self.is_full = False
        self.siblings: list[tuple[Callable[[Any], None], Callable[[str], None]]] = []
        link: Any = self
        self.apart = Scratch(link, apart=True)

    def drop(self) -> None:
        self.dropped += 1

    def channel(self, on_open: Callable[[Any], None]) -> None:
        if self.is_full:
            raise ChannelError(530, "all channels are in use")
        self.amqp.channel(on_open_callback=on_open)

    def sibling(
        self, on_open: Callable[[Any], None], on_gone: Callable[[str], None]
    ) -> Callable[[], None]:
        self.siblings.append((on_open, on_gone))
        return lambda: on_gone("given up")
