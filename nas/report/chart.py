"""Charts: axes with ticks, grid, lines, bands, marks, error bars and a legend, several side by side in a picture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nas.report.style import PAPER, SOFT
from nas.report.svg import Box, Canvas, Point, text_width

GRID = "#e6e9ed"
TICK, LABEL, LEGEND, TITLE = 10.0, 10.0, 9.0, 11.0  # points of the font
HEAD, FOOT, SIDE, TAIL = 16.0, 38.0, 24.0, 12.0  # points: above and below the plot area, for the y label, to the right
HANDLE = 20.0  # points of line in a legend
LINEAR = 2.0  # a symlog axis is linear up to here
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Line:
    """A course of points; NaN leaves a gap. `marker` is drawn at each point, hollow if `face` is the paper's colour."""

    points: Sequence[Point]
    colour: str
    dash: str = "-"
    width: float = 1.8  # 0: marks alone
    marker: str = ""
    size: float = 5.0
    face: str = ""  # of the marks; the colour of the line if empty
    edge: str = ""  # around the marks, if not empty
    opacity: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class Bar:
    """A filled rectangle in data units."""

    x0: float
    x1: float
    y0: float
    y1: float
    colour: str


@dataclass(frozen=True)
class ErrorBar:
    x: float
    low: float
    high: float
    colour: str


@dataclass
class Axes:
    """One panel. Fill it with what it shows; `figure` lays it out and draws it.

    `shown` formats an x tick. `whole_x` and `whole_y` restrict ticks to whole numbers.
    """

    x_title: str = ""
    y_title: str = ""
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    errors: list[ErrorBar] = field(default_factory=list)
    x_values: list[float] = field(default_factory=list)  # in addition to what is drawn, for the limits
    x_margin: float = 0.05  # share of the range on either side
    y_margin: float = 0.05
    y_low: float | None = None  # where the y axis starts, if fixed
    whole_x: bool = False
    whole_y: bool = False
    symlog: bool = False
    grid: bool = True
    shown: Callable[[float], str] | None = None
    keys: Sequence[tuple[str, str]] = ()  # (text, colour): a legend alone, no axes
    keys_title: str = ""
    note: str = ""  # a text alone, no axes
    legend_box: Box | None = None

    def settle(self, width: float, height: float) -> None:
        """Limits and ticks for a plot area of about this size."""
        xs, ys = self._extent()
        self.xlim = limits(xs, self.x_margin)
        low, high = limits([self._scaled(y) for y in ys], self.y_margin)
        self.ylim = (low if self.y_low is None else self.y_low, high)
        self.xticks, x_step = ticks(*self.xlim, int(width // ((2 if self.whole_x else 4) * TICK)), self.whole_x)
        if self.symlog:
            top = LINEAR * 10 ** (self.ylim[1] - 1) if self.ylim[1] > 1 else self.ylim[1] * LINEAR
            self.yticks = [value for value in (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0) if value <= top]
            self.ytexts = [f"{value:g}" for value in self.yticks]
        else:
            self.yticks, y_step = ticks(*self.ylim, int(height // (1.8 * TICK)), self.whole_y)
            self.ytexts = tick_texts(self.yticks, y_step)
        self.xtexts = [self.shown(x) for x in self.xticks] if self.shown else tick_texts(self.xticks, x_step)

    def _extent(self) -> tuple[list[float], list[float]]:
        points = [point for line in self.lines for point in line.points if not math.isnan(point[1])]
        xs = [*self.x_values, *(x for x, _ in points), *(x for bar in self.bars for x in (bar.x0, bar.x1))]
        ys = [*(y for _, y in points), *(y for bar in self.bars for y in (bar.y0, bar.y1))]
        ys += [y for error in self.errors for y in (error.low, error.high)]
        return xs, ys

    def _scaled(self, y: float) -> float:
        if not self.symlog:
            return y
        return y / LINEAR if abs(y) <= LINEAR else math.copysign(1 + math.log10(abs(y) / LINEAR), y)

    def at(self, x: float, y: float) -> Point:
        """The place of a data point on the canvas; known once the figure is laid out."""
        (left, right), (low, high) = self.xlim, self.ylim
        across, up = (x - left) / (right - left), (self._scaled(y) - low) / (high - low)
        return self.area.x0 + across * (self.area.x1 - self.area.x0), self.area.y1 - up * (self.area.y1 - self.area.y0)

    def draw(self, canvas: Canvas, area: Box) -> None:
        self.area = area
        self._draw_grid(canvas)
        for bar in self.bars:
            (x0, y1), (x1, y0) = self.at(bar.x0, bar.y0), self.at(bar.x1, bar.y1)
            canvas.rectangle(Box(x0, y0, x1, y1), fill=bar.colour, crisp=True)
        for line in self.lines:
            self._draw_line(canvas, line)
        for error in self.errors:
            self._draw_error(canvas, error)
        for line in self.lines:
            self._draw_marks(canvas, line)
        canvas.line([(area.x0, area.y0), (area.x0, area.y1), (area.x1, area.y1)], stroke=SOFT, width=0.8)
        self._draw_legend(canvas)

    def _draw_grid(self, canvas: Canvas) -> None:
        area = self.area
        for x, text in zip(self.xticks, self.xtexts, strict=True):
            at = self.at(x, 0)[0]
            if self.grid:
                canvas.line([(at, area.y0), (at, area.y1)], stroke=GRID, width=0.8)
            canvas.line([(at, area.y1), (at, area.y1 + 3.5)], stroke=SOFT, width=0.8)
            canvas.text((at, area.y1 + 11), text, TICK, anchor=0.5)
        for y, text in zip(self.yticks, self.ytexts, strict=True):
            at = self.at(self.xlim[0], y)[1]
            if self.grid:
                canvas.line([(area.x0, at), (area.x1, at)], stroke=GRID, width=0.8)
            canvas.line([(area.x0 - 3.5, at), (area.x0, at)], stroke=SOFT, width=0.8)
            canvas.text((area.x0 - 6.5, at), text, TICK, anchor=1.0)
        canvas.text(((area.x0 + area.x1) / 2, area.y1 + 26), self.x_title, LABEL, anchor=0.5)
        widest = max((text_width(text, TICK) for text in self.ytexts), default=0.0)
        canvas.text((area.x0 - 15 - widest, (area.y0 + area.y1) / 2), self.y_title, LABEL, anchor=0.5, turned=True)

    def _draw_line(self, canvas: Canvas, line: Line) -> None:
        if line.width:
            for part in _unbroken(line.points):
                looks = {"stroke": line.colour, "width": line.width, "dash": line.dash, "opacity": line.opacity}
                canvas.line([self.at(*point) for point in part], **looks)

    def _draw_marks(self, canvas: Canvas, line: Line) -> None:
        if line.marker:
            for point in line.points:
                if not math.isnan(point[1]):
                    canvas.marker(line.marker, self.at(*point), line.size, **_marks(line))

    def _draw_error(self, canvas: Canvas, error: ErrorBar) -> None:
        (x, top), (_, bottom) = self.at(error.x, error.high), self.at(error.x, error.low)
        canvas.line([(x, top), (x, bottom)], stroke=error.colour, width=1.4)
        for y in (top, bottom):
            canvas.line([(x - 4, y), (x + 4, y)], stroke=error.colour, width=1.0)

    def _draw_legend(self, canvas: Canvas) -> None:
        """In the corner that hides the least of the lines."""
        named = [line for line in self.lines if line.label]
        if not named:
            return
        width = HANDLE + 8 + max(text_width(line.label, LEGEND) for line in named)
        height = 14.0 * len(named)
        box = self._free_place(width, height)
        self.legend_box = box
        canvas.rectangle(box, fill=PAPER, opacity=0.8)
        for place, line in enumerate(named):
            y = box.y0 + 14.0 * (place + 0.5)
            if line.width:
                canvas.line([(box.x0, y), (box.x0 + HANDLE, y)], stroke=line.colour, width=line.width, dash=line.dash)
            if line.marker:
                canvas.marker(line.marker, (box.x0 + HANDLE / 2, y), line.size, **_marks(line))
            canvas.text((box.x0 + HANDLE + 6, y), line.label, LEGEND)

    def _free_place(self, width: float, height: float) -> Box:
        area = self.area
        lefts = (area.x1 - width - 4, area.x0 + 6, (area.x0 + area.x1 - width) / 2)
        tops = (area.y0 + 2, area.y1 - height - 4, (area.y0 + area.y1 - height) / 2)
        boxes = [Box(left, top, left + width, top + height) for top in tops for left in lefts]
        dots = [dot for line in self.lines for part in _unbroken(line.points) for dot in self._dots(part)]
        hidden = [sum(box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1 for x, y in dots) for box in boxes]
        return boxes[hidden.index(min(hidden))]

    def _dots(self, part: Sequence[Point]) -> list[Point]:
        """Places along a line, close enough that no legend falls between them."""
        ends = [self.at(*point) for point in part]
        between = [
            (x0 + (x1 - x0) * step / 8, y0 + (y1 - y0) * step / 8)
            for (x0, y0), (x1, y1) in pairwise(ends)
            for step in range(8)
        ]
        return [*between, ends[-1]]


def figure(
    panels: Sequence[Axes], title: str = "", columns: int = 3, width: float = 4.0, height: float = 2.9
) -> Canvas:
    """Panels row by row; `width` and `height` of one in inches."""
    across, down = 72 * width, 72 * height
    columns = min(columns, len(panels))
    top = 20.0 if title else 0.0
    canvas = Canvas(across * columns, top + down * -(-len(panels) // columns))
    canvas.text((8, 12), title, TITLE, fill=SOFT)
    plain = [axes for axes in panels if not axes.keys and not axes.note]
    for axes in plain:
        axes.settle(across - 70, down - HEAD - FOOT)
    left = SIDE + max((text_width(text, TICK) for axes in plain for text in axes.ytexts), default=0.0)
    for place, axes in enumerate(panels):
        x, y = across * (place % columns), top + down * (place // columns)
        area = Box(x + left, y + HEAD, x + across - TAIL, y + down - FOOT)
        if axes.keys:
            _draw_keys(canvas, axes, area)
        elif axes.note:
            canvas.text(((area.x0 + area.x1) / 2, (area.y0 + area.y1) / 2), axes.note, anchor=0.5, fill=SOFT)
        else:
            axes.draw(canvas, area)
    return canvas


def _draw_keys(canvas: Canvas, axes: Axes, area: Box) -> None:
    y = (area.y0 + area.y1 - 16.0 * len(axes.keys)) / 2
    canvas.text((area.x0, y - 12), axes.keys_title)
    for place, (text, colour) in enumerate(axes.keys):
        middle = y + 16.0 * (place + 0.5)
        canvas.rectangle(Box(area.x0, middle - 4.5, area.x0 + HANDLE, middle + 4.5), fill=colour)
        canvas.text((area.x0 + HANDLE + 8, middle), text)


def _marks(line: Line) -> dict[str, object]:
    """The style of a line's marks."""
    return {
        "fill": line.face or line.colour,
        "stroke": line.edge or (line.colour if line.face else "none"),
        "width": 1.0,
        "opacity": line.opacity,
    }


def _unbroken(points: Sequence[Point]) -> list[list[Point]]:
    """The parts of a line between its gaps."""
    parts: list[list[Point]] = [[]]
    for point in points:
        if math.isnan(point[1]):
            parts.append([])
        else:
            parts[-1].append(point)
    return [part for part in parts if part]


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Lowest and highest value with a margin; a range around a single value, and 0 .. 1 without any."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        half = abs(low) * 0.05 or 0.5
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)


def ticks(low: float, high: float, most: int, whole: bool) -> tuple[list[float], float]:
    """Round values between the limits, at most about `most` of them, and the step from one to the next."""
    rough = (high - low) / max(2, min(most, 9))
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [at * step for at in range(first, last + 1)], step


def tick_texts(values: Sequence[float], step: float) -> list[str]:
    """As many decimals as the step needs; powers of ten for very large and very small values."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 1e6 or step < 1e-4:
        texts = [f"{value:.4g}" for value in values]
    else:
        digits = next(digits for digits in range(7) if abs(round(step, digits) - step) < 1e-9 + step / 1e6)
        texts = [f"{value + 0.0:.{digits}f}" for value in values]
    return [text.replace("-", "−") for text in texts]


VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
BLUES = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")


def shade(colours: Sequence[str], share: float) -> str:
    """The colour at `share` (0 .. 1) of a scale, between its two nearest colours."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    at = min(int(place), len(colours) - 2)
    pairs = [(int(colours[at][i : i + 2], 16), int(colours[at + 1][i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(low + (high - low) * (place - at)):02x}" for low, high in pairs)


def heat(canvas: Canvas, table: Sequence[Sequence[float]], area: Box, colours: Sequence[str]) -> None:
    """A table of shares (0 .. 1) as coloured cells; NaN stays empty."""
    down, across = (area.y1 - area.y0) / len(table), (area.x1 - area.x0) / len(table[0])
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            if not math.isnan(value):
                x, y = area.x0 + across * column, area.y0 + down * row
                canvas.rectangle(Box(x, y, x + across, y + down), fill=shade(colours, value), crisp=True)
