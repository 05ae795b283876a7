"""Test images with boxes over them, as SVG: what is there, and what an artifact answers."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from edgekd.examples import Example

if TYPE_CHECKING:
    from edgekd.tasks import Mark

_COLOURS: Final = ("#ff5a4f", "#ffd23c", "#4fd1ff", "#7dff6a", "#ff8ae2", "#ffffff")
"""Of classes in turn; over photos they are the same on light paper and dark."""
_GAP: Final = 0.03
"""Between the two images, as a share of their width."""


def drawn(example: Example, names: Sequence[str]) -> Markup:
    """The image twice: under what is there at the left, under what was found at the right."""
    height, width = example.height, example.width
    right = width * (1 + _GAP)
    source = f"data:image/png;base64,{base64.b64encode(example.png).decode()}"
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:.1f} {}">').format(width + right, height),
    ]
    for left, marks in ((0.0, example.truth), (right, example.found)):
        parts.append(Markup('<g transform="translate({:.1f} 0)">').format(left))
        parts.append(Markup('<image href="{}" width="{}" height="{}"/>').format(source, width, height))
        parts += [_box(mark, names, height, width) for mark in marks]
        parts.append(Markup("</g>"))
    return Markup("").join([*parts, Markup("</svg>")])


def _box(mark: "Mark", names: Sequence[str], height: int, width: int) -> Markup:
    left, top, right, bottom = (share * size for share, size in zip(mark.corners, (width, height) * 2, strict=True))
    colour = _COLOURS[names.index(mark.name) % len(_COLOURS)] if mark.name in names else _COLOURS[-1]
    said = mark.name if mark.score is None else f"{mark.name} {100 * mark.score:.0f}%"
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="none" stroke="{}" stroke-width="{:.2f}">'
        "<title>{}</title></rect>"
    ).format(left, top, max(right - left, 0), max(bottom - top, 0), colour, width / 200, said)
