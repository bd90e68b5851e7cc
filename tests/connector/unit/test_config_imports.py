"""What a command that only reads the configuration, or asks for health, need not load."""

from __future__ import annotations

import subprocess
import sys

import pytest
from baked import CONNECTOR

#: The machinery and what it stands on: a container asks for health every few seconds.
MACHINERY = ("pika", "ssl", "dotenv", "mq_connector.connection", "mq_connector.consumer")


@pytest.mark.parametrize("module", ["config", "health"])
def test_a_module_without_machinery_loads_none(module: str) -> None:
    program = f"import sys, mq_connector.{module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env={"PYTHONPATH": str(CONNECTOR.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert f"mq_connector.{module}" in loaded
    assert [name for name in loaded if name.startswith(MACHINERY)] == []
