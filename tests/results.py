"""Files that several processes write what they have measured into."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def update(file: Path, change: Callable[[Any], Any], empty: Any) -> None:
    """Replace what a JSON file holds by what `change` makes of it, while no other process does so.

    A reader finds the old content or the new.

    :param empty: what there is to change as long as there is no file, or none that can be read
    """
    file.parent.mkdir(exist_ok=True)
    with file.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = empty
        new = file.with_suffix(".new")
        new.write_text(json.dumps(change(known), indent=1) + "\n", encoding="utf-8")
        os.replace(new, file)
