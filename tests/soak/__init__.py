"""Hundreds of random faults under constant load: `make soak`."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent
# Bytecode beside the connector would be rendered with it.
sys.dont_write_bytecode = True
sys.path[:0] = [str(_TESTS), str(_TESTS / "connector")]

from baked import CONNECTOR  # noqa: E402

sys.path[:0] = [str(CONNECTOR.parent)]
