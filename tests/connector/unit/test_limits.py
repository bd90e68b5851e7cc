"""How many workers, how many messages ahead, which kind of queue: defaults, and what is refused."""

from __future__ import annotations

import pytest
from mq_connector.config import Limits
from mq_connector.errors import ConfigurationError

from .test_config import Machine, machine

__all__ = ["machine"]


def test_limits_have_defaults_that_keep_the_order(machine: Machine) -> None:
    limits = Limits.from_environment()
    assert (limits.workers, limits.prefetch, limits.stuck, limits.queue_type) == (
        1,
        None,
        0,
        "auto",
    )


def test_limits_come_from_the_environment(machine: Machine) -> None:
    machine.set(MQ_WORKERS="8", MQ_PREFETCH="50", MQ_STUCK="60", MQ_QUEUE_TYPE="legacy")
    assert Limits.from_environment() == Limits(8, 50, 60, "legacy")


@pytest.mark.parametrize(
    ("workers", "prefetch", "idle"),
    [(4, 2, 2), (4, 4, 0), (4, None, 0), (4, 0, 0), (1, 1, 0), (2, 200, 0)],
)
def test_workers_for_whom_the_broker_sends_nothing_are_told_of(
    workers: int, prefetch: int | None, idle: int
) -> None:
    """As MQ_WORKERS then has no effect; 0 is no limit (AMQP)."""
    remark = Limits(workers=workers, prefetch=prefetch).remark
    assert bool(remark) is bool(idle)
    if idle:
        assert f"{idle} of {workers} workers" in remark and "MQ_PREFETCH" in remark


def test_limits_come_from_dotenv(machine: Machine) -> None:
    machine.write(machine.work / ".env", "MQ_WORKERS=3\n")
    assert Limits.from_environment().workers == 3


@pytest.mark.parametrize("variable", ["MQ_WORKERS", "MQ_PREFETCH"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "70000", "²"])
def test_a_limit_out_of_range_is_refused(machine: Machine, variable: str, value: str) -> None:
    machine.set(**{variable: value})
    with pytest.raises(ConfigurationError, match=rf"^{variable} is '{value}'; .* whole number"):
        Limits.from_environment()


def test_a_queue_type_that_does_not_exist_is_refused(machine: Machine) -> None:
    machine.set(MQ_QUEUE_TYPE="classic")
    with pytest.raises(
        ConfigurationError, match=r"MQ_QUEUE_TYPE is 'classic'.*auto, quorum, legacy"
    ):
        Limits.from_environment()
