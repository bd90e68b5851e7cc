"""The view as a terminal shows it; the only place that needs rich.

What comes from outside goes in as text, which rich takes no orders from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .view import QUEUE_COLUMNS, REPLICA_COLUMNS, Row, View

__all__ = ["Live", "console", "drawn"]


#: Characters of a line from which on there is room for all columns, and what is left out before.
_WIDE, _NARROW = 150, 64
_SPARED = frozenset(
    (
        "answered/s",
        "consumers",
        "CPU",
        "in flight",
        "memory",
        "p50",
        "reconnects",
        "reply p95",
        "retried/s",
    )
)
_SPARED_NARROW = frozenset((*_SPARED, "received/s", "failed/s", "p95", "up"))
#: Lines that a screen has beside its tables' rows and the errors; processes that it shows in any case.
_AROUND, _FEWEST = 14, 3


def console() -> Console:
    """Where it is shown; what nobody looks at has lines as long as need be."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=200)


def drawn(view: View, width: int, height: int | None = None) -> RenderableType:
    """A view, to be printed.

    :param width: characters of a line
    :param height: lines, where no more can be seen: processes that are well are left out for what is wrong
    """
    bad = "bold red"
    replicas, hidden = list(view.replicas), ""
    if height is not None:
        room = max(_FEWEST, height - _AROUND - len(view.queues) - len(view.failures))
        if len(replicas) > room:
            kept = sorted(replicas, key=lambda row: not row.is_bad)[:room]
            left = len(replicas) - room
            unwell = sum(row.is_bad for row in replicas) - sum(row.is_bad for row in kept)
            replicas = [row for row in replicas if any(row is each for each in kept)]
            hidden = f"and {left} more, {unwell} of them not well" if unwell else f"and {left} more"
    errors = "last errors, of processes on this machine" if view.failures else "no errors"
    parts: list[RenderableType] = [
        Text(view.title, style="bold", overflow="ellipsis", no_wrap=True),
        Text(view.broker, style=bad if view.is_broker_bad else ""),
        Text(),
        _table(QUEUE_COLUMNS, view.queues, width),
        Text(),
        _table(REPLICA_COLUMNS, replicas, width),
        Text(hidden, style=bad if "not well" in hidden else ""),
        Text(errors, overflow="ellipsis", no_wrap=True),
    ]
    for each in view.failures:
        name = f"message {each.message_id!r}" if each.message_id else "a message without id"
        line = f"{each.time}  {each.queue}  {each.what}  ({name})"
        parts.append(Text(line, overflow="ellipsis", no_wrap=True, style="red"))
    return Group(*parts)


def _table(columns: Sequence[str], rows: Iterable[Row], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    spared = _SPARED if width >= _NARROW else _SPARED_NARROW
    shown = [number for number, name in enumerate(columns) if width >= _WIDE or name not in spared]
    for number in shown:
        justify: JustifyMethod = "right" if number else "left"
        table.add_column(columns[number], justify=justify, overflow="fold")
    for row in rows:
        style = "red" if row.is_bad else ""
        table.add_row(*(Text(row.cells[number], style=style) for number in shown))
    return table
