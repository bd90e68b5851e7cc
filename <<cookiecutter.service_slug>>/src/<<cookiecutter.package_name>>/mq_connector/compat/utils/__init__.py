"""Helpers of the incumbent's, by the modules it has them in."""

from .connection_utils import retry, wait_for_mq_startup
from .thread_utils import RepeatingTimer

__all__ = ["RepeatingTimer", "retry", "wait_for_mq_startup"]
