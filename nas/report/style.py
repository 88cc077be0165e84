"""One look for every figure: light, colour-blind safe, the same bytes for the same data."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, WIRE, PAPER = "#1f2328", "#57606a", "#9aa3ad", "#ffffff"
OPS = {  # operations of a kind share a hue: blue separable or full, green, pink dilated, warm pooling, grey no weights
    "sep_conv_3x3": "#0072b2",
    "sep_conv_5x5": "#56b4e9",
    "nor_conv_3x3": "#0072b2",
    "nor_conv_1x1": "#56b4e9",
    "dil_conv_3x3": "#009e73",
    "dil_conv_5x5": "#cc79a7",
    "max_pool_3x3": "#d55e00",
    "avg_pool_3x3": "#e69f00",
    "skip_connect": "#6b7280",
    "identity": "#6b7280",
    "none": "#d0d5db",
    "mbconv3_3x3": "#56b4e9",  # a hue for each kernel, dark with twice the channels
    "mbconv6_3x3": "#0072b2",
    "mbconv3_5x5": "#5bc0a0",
    "mbconv6_5x5": "#00785a",
    "mbconv3_7x7": "#e5a9c9",
    "mbconv6_7x7": "#a84d84",
    "zero": "#d0d5db",
}
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4b5563")  # Okabe and Ito, without yellow
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
SHORT = re.compile(r"^(sep|dil)_conv|^nor_(conv)|^(max|avg)_pool|^(skip)_connect")  # the first word says it all
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",  # the same picture whether or not a reader has the font
    "svg.hashsalt": "nas",  # else the ids in an SVG are random
}


def short(operation: str) -> str:
    """`sep_conv_3x3` -> sep 3×3."""
    words = SHORT.sub(lambda match: str(match[match.lastindex or 0]), operation)
    return re.sub(r"(\d)x(\d)", r"\1×\2", words).replace("_", " ")


@contextmanager
def look() -> Iterator[None]:
    """matplotlib's defaults and ours on top, whatever the user's own settings say; undone afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def colour(names: Sequence[str], name: str) -> str:
    """The fixed colour of an operation, the first word of its label; one from the series for one of another space."""
    kind = name.partition(" ")[0]
    if kind in OPS:
        return OPS[kind]
    others = sorted({other.partition(" ")[0] for other in names} - set(OPS))
    return SERIES[others.index(kind) % len(SERIES)]


def grid(rows: int, columns: int, width: float = 4.0, height: float = 2.9) -> "tuple[Figure, list[Axes]]":
    """A figure and its panels, row by row; inches per panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save(figure: "Figure", path: Path) -> None:
    """Write `path`.svg and `path`.png (150 dots per inch), without date and program: equal data, equal bytes."""
    figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it is laid out now; a second time would take as long again
    figure.savefig(path.with_name(path.name + ".png"), dpi=150, metadata={"Software": None})
