"""Hundreds of random faults under constant load: `make soak`."""

from __future__ import annotations

import sys
from pathlib import Path

# Bytecode beside the connector would be rendered with it.
sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from baked import IMPORTABLE  # noqa: E402

sys.path[:0] = IMPORTABLE
