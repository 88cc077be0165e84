"""An SVG writer. Text is drawn as glyph outlines, so a picture looks the same with or without the font.

Coordinates are points (1/72 inch); y points down. Equal calls give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas.report.style import INK, PAPER

FONTS = {"": "DejaVuSans", "bold": "DejaVuSans-Bold", "oblique": "DejaVuSans-Oblique"}  # face -> file
UNITS = 2048  # font units per em, in all three
CAPITAL = 0.729  # height of a capital letter, in em
REACH = 0.6  # text extends this far above and below the middle of its capitals, in em
SUB_SIZE, SUB_DROP = 0.7, 0.17  # of a subscript, in em of the text that it belongs to
DASHES = {"-": (), "--": (3.7, 1.6), ":": (1.0, 1.65), "-.": (6.4, 1.6, 1.0, 1.6)}  # in line widths
MARKERS = {  # corners within a unit square around (0, 0); "o" is a circle
    "o": (),
    "s": ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)),
    "^": ((0, -0.5), (0.5, 0.5), (-0.5, 0.5)),
    "v": ((0, 0.5), (0.5, -0.5), (-0.5, -0.5)),
    "D": ((0, -0.7), (0.7, 0), (0, 0.7), (-0.7, 0)),
    "P": tuple(
        (x / 6, y / 6)
        for x, y in [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1),
                     (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    ),
    "X": tuple(
        (x / 4, y / 4)
        for x, y in [(-1, -2), (0, -1), (1, -2), (2, -1), (1, 0), (2, 1),
                     (1, 2), (0, 1), (-1, 2), (-2, 1), (-1, 0), (-2, -1)]
    ),
}  # fmt: skip
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle from its upper left to its lower right corner."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: "Box") -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: "Box") -> bool:
        return self.x0 <= other.x0 and other.x1 <= self.x1 and self.y0 <= other.y0 and other.y1 <= self.y1


@dataclass(frozen=True)
class Text:
    text: str
    box: Box


class Canvas:
    """A white picture of `width` by `height` points. `texts` and `frames` record what was drawn, for tests."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.texts: list[Text] = []
        self.frames: list[Box] = []
        self._body: list[str] = []
        self._glyphs: dict[str, str] = {}  # id -> outline

    @property
    def box(self) -> Box:
        return Box(0, 0, self.width, self.height)

    def path(self, commands: str, **looks: Any) -> None:
        """SVG path commands. `looks`: fill, stroke, width, dash, opacity; crisp leaves no seam between rectangles."""
        self._body.append(f'<path d="{commands}"{_looks(**looks)}/>')

    def line(self, points: Sequence[Point], **looks: Any) -> None:
        self.path("M" + "L".join(f"{number(x)} {number(y)}" for x, y in points), **looks)

    def polygon(self, points: Sequence[Point], **looks: Any) -> None:
        self.path("M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) + "Z", **looks)

    def rectangle(self, box: Box, radius: float = 0, **looks: Any) -> None:
        size = f'width="{number(box.x1 - box.x0)}" height="{number(box.y1 - box.y0)}"'
        rounded = f' rx="{number(radius)}"' if radius else ""
        self._body.append(f'<rect x="{number(box.x0)}" y="{number(box.y0)}" {size}{rounded}{_looks(**looks)}/>')

    def frame(self, box: Box, radius: float, **looks: Any) -> None:
        """A rounded rectangle that is recorded in `frames`."""
        self.frames.append(box)
        self.rectangle(box, radius, **looks)

    def marker(self, shape: str, at: Point, size: float, **looks: Any) -> None:
        """A mark of MARKERS, `size` points wide."""
        if corners := MARKERS[shape]:
            self.polygon([(at[0] + size * x, at[1] + size * y) for x, y in corners], **looks)
        else:
            centre = f'cx="{number(at[0])}" cy="{number(at[1])}"'
            self._body.append(f'<circle {centre} r="{number(size / 2)}"{_looks(**looks)}/>')

    def text(
        self,
        at: Point,
        text: str,
        size: float = 10.0,
        *,
        anchor: float = 0.0,
        fill: str = INK,
        face: str = "",
        sub: str = "",
        turned: bool = False,
    ) -> Box:
        """Draw a line of text and return its extent.

        Args:
            at: the anchor; vertically the middle of the capital letters.
            anchor: the share of the text that lies before `at`: 0 starts there, 0.5 centres, 1 ends there.
            sub: a subscript behind the text.
            turned: read from bottom to top.
        """
        width, scale = text_width(text, size, face, sub), size / UNITS
        uses, x = self._uses(text, face, 0.0)
        label = text
        if sub:
            inner, _ = self._uses(sub, face, 0.0)
            move = f"translate({number(x)} {number(-SUB_DROP * UNITS)}) scale({SUB_SIZE})"
            uses += f'<g transform="{move}">{inner}</g>'
            label = f"{text}_{sub}"
        place = f"translate({number(at[0])} {number(at[1])})" + (" rotate(-90)" if turned else "")
        shift = f"translate({number(-anchor * width)} {number(CAPITAL * size / 2)}) scale({scale:.5f} {-scale:.5f})"
        self._body.append(f'<g aria-label="{escape(label)}" fill="{fill}" transform="{place} {shift}">{uses}</g>')
        before, behind, half = anchor * width, (1 - anchor) * width, REACH * size
        box = (
            Box(at[0] - half, at[1] - behind, at[0] + half, at[1] + before)
            if turned
            else Box(at[0] - before, at[1] - half, at[0] + behind, at[1] + half)
        )
        self.texts.append(Text(label, box))
        return box

    def _uses(self, text: str, face: str, x: float) -> tuple[str, float]:
        """The glyphs of a text from `x`, in font units, and the place behind the last one."""
        uses = []
        for sign in text:
            outline, advance = _glyph(sign, face)
            if outline:
                name = f"{face[:1]}{ord(sign):x}"
                self._glyphs[name] = outline
                uses.append(f'<use href="#g{name}" x="{number(x)}"/>')
            x += advance
        return "".join(uses), x

    def save(self, path: Path) -> None:
        size = f'width="{number(self.width)}pt" height="{number(self.height)}pt"'
        view = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
        defs = "\n".join(f'<path id="g{name}" d="{outline}"/>' for name, outline in sorted(self._glyphs.items()))
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view}>',
            f"<defs>\n{defs}\n</defs>",
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
            *self._body,
            "</svg>\n",
        ]
        path.write_text("\n".join(lines), encoding="utf-8")


def text_width(text: str, size: float, face: str = "", sub: str = "") -> float:
    """Points that a line of text takes."""
    units = sum(_glyph(sign, face)[1] for sign in text) + SUB_SIZE * sum(_glyph(sign, face)[1] for sign in sub)
    return size * units / UNITS


def number(value: float) -> str:
    """At most two decimals: a hundredth of a point is finer than any screen."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _looks(
    fill: str = "none",
    stroke: str = "none",
    width: float = 1.0,
    dash: str = "-",
    opacity: float = 1.0,
    crisp: bool = False,
) -> str:
    parts = [f' fill="{fill}"']
    if stroke != "none":
        parts.append(f' stroke="{stroke}" stroke-width="{number(width)}"')
    if DASHES[dash]:
        parts.append(f' stroke-dasharray="{" ".join(number(width * part) for part in DASHES[dash])}"')
    if crisp:
        parts.append(' shape-rendering="crispEdges"')
    if opacity != 1:
        parts.append(f' opacity="{number(opacity)}"')
    return "".join(parts)


@cache
def _glyph(sign: str, face: str) -> tuple[str, float]:
    """Outline (SVG path commands, y up) and advance of a character in font units; the font's box if it lacks it."""
    from fontTools.pens.svgPathPen import SVGPathPen

    glyphs, names = _font(face)
    glyph = glyphs[names.get(ord(sign), ".notdef")]
    pen = SVGPathPen(glyphs)
    glyph.draw(pen)
    return str(pen.getCommands()), float(glyph.width)


@cache
def _font(face: str) -> tuple[Any, dict[int, str]]:
    """Glyphs, and their names by code point. matplotlib ships the font; importing it would take longer than drawing."""
    from fontTools.ttLib import TTFont

    package = find_spec("matplotlib")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("matplotlib is not installed; the report uses the font that it ships")
    font = TTFont(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{FONTS[face]}.ttf", lazy=True)
    return font.getGlyphSet(), font.getBestCmap()
