"""A broker that allows one channel on a connection: what can't be had is said, and not over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from waiting import eventually

from .broker import SERVICE_VHOST, Broker
from .conftest import Consume, echo
from .peer import Peer
from .process import Make, make

__all__ = ["make"]
pytestmark = pytest.mark.timeout(300)

_SET = "application:set_env(rabbit, channel_max, {})."


@pytest.fixture
def narrow(broker: Broker) -> Iterator[Callable[..., None]]:
    """Lets new connections have one channel, or so many; those of other tests keep what they have."""
    before = broker.ctl("eval", "rabbit_misc:get_env(rabbit, channel_max, 2047).").strip()

    def narrow(channels: int = 1) -> None:
        broker.ctl("eval", _SET.format(channels))

    yield narrow
    broker.ctl("eval", _SET.format(before))


def test_a_start_fails_with_one_line(make: Make, narrow: Callable[[], None]) -> None:
    narrow()
    service = make()
    process = service.start(healthy=False)
    assert process.wait(60) == 1
    [line] = service.said.splitlines()
    assert "CRITICAL can't start:" in line and "raise channel_max" in line


def test_a_service_that_runs_says_so_at_intervals_and_goes_on_when_it_may(
    make: Make, broker: Broker, narrow: Callable[[], None]
) -> None:
    def close() -> None:
        broker.ctl("close_all_connections", "--vhost", SERVICE_VHOST, "for the test")

    service = make()
    process = service.start()
    narrow()
    close()
    eventually(lambda: "channel_max" in service.said, what=lambda: service.said)
    health = service.command("health")
    assert health.returncode == 1 and "channel_max" in health.stderr, health.stderr
    time.sleep(5)  # in which an attempt without a pause would have been logged hundreds of times
    assert service.said.count("channel_max") < 10
    broker.ctl("eval", _SET.format(2047))
    # What was agreed on holds for as long as the connection does; a broker with another setting is a new one.
    close()
    eventually(service.is_healthy, what=lambda: service.said)
    done = service.command("request", '{"text": "hi"}')
    assert done.returncode == 0, done.stderr
    assert process.poll() is None


def test_two_channels_are_enough_to_make_a_queue_and_to_consume_it(
    peer: Peer, queue: str, consume: Consume, narrow: Callable[[int], None]
) -> None:
    """That the queue isn't there yet costs one channel, which still counts while that is told."""
    narrow(2)
    consumer = consume(echo, within=0)
    eventually(lambda: consumer.is_consuming or consumer.failure)
    assert consumer.failure is None
    assert "echo" in peer.ask(queue)
