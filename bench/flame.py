"""Flame graphs as SVG: a box for each function, as wide as its share, on top of who called it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from .plot import LINE, TEXT

_WIDTH, _HEIGHT, _TOP, _MARGIN = 1200, 18, 44, 8
#: Columns of the legend.
_COLUMNS = 3
#: Pixels of a letter, and of a box that is still drawn.
_LETTER, _THIN = 6.6, 0.4


@dataclass
class Box:
    """A function as called from where it stands."""

    name: str
    share: float = 0.0
    inside: dict[str, Box] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Boxes on top of each other, this one included."""
        return 1 + max((each.depth for each in self.inside.values()), default=0)


def tree(stacks: Mapping[str, float], name: str) -> Box:
    """The boxes of stacks ``outermost;…;innermost``, under one that stands for all."""
    root = Box(name)
    for stack, share in stacks.items():
        box = root
        box.share += share
        for frame in stack.split(";"):
            box = box.inside.setdefault(frame, Box(frame))
            box.share += share
    return root


def picture(
    title: str, root: Box, colour: Callable[[tuple[str, ...]], str], legend: Mapping[str, str]
) -> str:
    """An SVG document without scripts; what a box is called in full, and its share, is its tool tip.

    :param colour: for a box and those below it, the outermost first
    :param legend: what each colour stands for
    """
    rows = -(-len(legend) // _COLUMNS)
    height = _TOP + rows * _HEIGHT + root.depth * (_HEIGHT + 1) + _MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" font-family="sans-serif" font-size="12" '
        f'fill="{TEXT}">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_MARGIN}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, tone) in enumerate(legend.items()):
        x = _MARGIN + number % _COLUMNS * (_WIDTH // _COLUMNS)
        y = 36 + number // _COLUMNS * _HEIGHT
        out.append(
            f'<rect x="{x}" y="{y}" width="12" height="12" fill="{tone}" fill-opacity=".4" '
            f'stroke="{LINE}" stroke-width=".3"/><text x="{x + 17}" y="{y + 10}">{escape(name)}</text>'
        )

    def draw(box: Box, left: float, above: tuple[str, ...]) -> None:
        width = box.share / root.share * (_WIDTH - 2 * _MARGIN)
        if width < _THIN:
            return
        path = (*above, box.name)
        y = height - _MARGIN - len(path) * (_HEIGHT + 1)
        share = f"{box.share / root.share:.1%}"
        short = box.name.partition(" (")[0]
        room = int((width - 6) / _LETTER)
        text = short if len(short) <= room else short[: room - 1] + "…" if room > 3 else ""
        label = f'<text x="{left + 3:.1f}" y="{y + 13}">{escape(text)}</text>' if text else ""
        out.append(
            f"<g><title>{escape(box.name)}: {share}</title>"
            f'<rect x="{left:.1f}" y="{y}" width="{max(width - 0.5, 0.3):.1f}" height="{_HEIGHT}" '
            f'rx="2" fill="{colour(path)}" fill-opacity=".4" stroke="{LINE}" stroke-width=".3"/>'
            f"{label}</g>"
        )
        for each in sorted(box.inside.values(), key=lambda other: -other.share):
            draw(each, left, path)
            left += each.share / root.share * (_WIDTH - 2 * _MARGIN)

    draw(root, _MARGIN, ())
    return "\n".join([*out, "</svg>", ""])
