"""The plugin of pytest that looks after tests in several processes, and leaves word of what came of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from estimate import Estimate, read
from groups import Controller, Worker
from leftovers import Leftovers
from outcome import FILE, Outcome

#: What tests took where that was noted last for everybody.
DURATIONS = Path(__file__).with_name("durations.json")


def pytest_xdist_auto_num_workers() -> int:
    """Four more than there are processors, as `make quick` has it: some tests only wait, however few."""
    return (os.cpu_count() or 1) + 4


def pytest_configure(config: pytest.Config) -> None:
    """See to it that no process disturbs another, say how long all will take, leave nothing behind."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Worker(config))
        return
    config.pluginmanager.register(Outcome(config.rootpath / FILE))
    if config.getoption("numprocesses", None):
        here = config.rootpath / ".cache" / "durations.json"
        seconds = read(DURATIONS, here)
        controller = Controller(seconds)
        config.pluginmanager.register(controller)
        config.pluginmanager.register(Leftovers(controller.folder, os.getpid()))
        config.pluginmanager.register(Estimate(config, controller, seconds, here))
