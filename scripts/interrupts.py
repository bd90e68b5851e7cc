"""To be imported first: Ctrl-C while the rest of a program loads ends it without a traceback.

It imports nothing that isn't loaded already, as Ctrl-C before it has run still shows one.
"""

from __future__ import annotations

import sys

sys.excepthook = lambda kind, error, trace: (
    None if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)
)
