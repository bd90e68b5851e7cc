"""Ctrl-C while a program loads is an end without a traceback, as after a program's own `import interrupts`.

Imports nothing that isn't loaded already: what comes before it would still end with one.
"""

from __future__ import annotations

import sys

sys.excepthook = lambda kind, error, trace: (
    None if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)
)
