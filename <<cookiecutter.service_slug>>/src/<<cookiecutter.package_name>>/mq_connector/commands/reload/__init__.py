"""Runs a service that is started anew when its files change."""

from .standby import stand_by
from .supervisor import supervise

__all__ = ["stand_by", "supervise"]
