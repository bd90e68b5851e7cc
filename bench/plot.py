"""Bar charts as SVG, in colours that can be read on white and on black."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .results import Spread

#: Middle tones: each has a contrast above 4 on white (#fff) and on GitHub's dark page (#0d1117).
TEXT, LINE, _OURS, _OTHER = "#6e7b8a", "#6e7b8a", "#1f7fe0", "#8c7b6b"
_LEFT, _WIDTH, _RIGHT, _STEP, _TOP = 345, 370, 110, 24, 44
#: Characters of a label that there is room for.
LABEL = 49
#: From this ratio between the largest and the smallest bar on, the scale is logarithmic.
_LOGARITHMIC = 25


@dataclass(frozen=True)
class Bar:
    """One row: a median, with a line from the lowest to the highest round."""

    label: str
    spread: Spread
    ours: bool


def bars(title: str, rows: Sequence[Bar], digits: int, bounds: Sequence[Bar] = ()) -> str:
    """An SVG document; the rows from top to bottom as they are given.

    :param bounds: drawn as lines across all rows
    """
    high = max(row.spread.high for row in (*rows, *bounds))
    low = min(row.spread.low for row in (*rows, *bounds) if row.spread.low > 0)
    logarithmic = high / low > _LOGARITHMIC
    floor = 10 ** math.floor(math.log10(low)) if logarithmic else 0.0

    def x(value: float) -> float:
        if logarithmic:
            value = max(value, floor)
            share = math.log(value / floor) / math.log(high / floor)
        else:
            share = value / high
        return _LEFT + share * _WIDTH

    below = _TOP + _STEP * len(rows)
    height = below + 14 + _STEP * len(bounds)
    width = _LEFT + _WIDTH + _RIGHT
    scale = ", logarithmic scale" if logarithmic else ""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="13" '
        f'fill="{TEXT}">',
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="22" font-size="15" font-weight="bold">{escape(title)}{scale}</text>',
    ]
    if logarithmic:
        tick = floor
        while tick <= high:
            out.append(
                f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP - 8}" y2="{below}" '
                f'stroke="{LINE}" stroke-opacity=".35"/>'
                f'<text x="{x(tick):.1f}" y="{below + 10}" font-size="10" text-anchor="middle">'
                f"{tick:g}</text>"
            )
            tick *= 10
    for number, row in enumerate(rows):
        y = _TOP + _STEP * number
        spread = row.spread
        colour = _OURS if row.ours else _OTHER
        weight = ' font-weight="bold"' if row.ours else ""
        out += [
            f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end"{weight}>{escape(row.label)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{max(1.5, x(spread.median) - _LEFT):.1f}" '
            f'height="15" rx="2" fill="{colour}" fill-opacity=".4"/>',
            f'<line x1="{x(spread.median):.1f}" x2="{x(spread.median):.1f}" y1="{y}" y2="{y + 15}" '
            f'stroke="{colour}" stroke-width="2"/>',
            f'<line x1="{x(spread.low):.1f}" x2="{x(spread.high):.1f}" y1="{y + 7.5}" '
            f'y2="{y + 7.5}" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{x(spread.high) + 7:.1f}" y="{y + 12}"{weight}>'
            f"{_number(spread.median, digits)}</text>",
        ]
    for number, bound in enumerate(bounds):
        place, y = x(bound.spread.median), below + _STEP * number
        out += [
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 8}" y2="{y + 4}" stroke="{LINE}" '
            f'stroke-width="2" stroke-dasharray="5 4"/>',
            f'<text x="{place:.1f}" y="{y + 17}" text-anchor="end">{escape(bound.label)} '
            f"{_number(bound.spread.median, digits)}</text>",
        ]
    return "\n".join([*out, "</svg>", ""])


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace(",", "\u202f")
