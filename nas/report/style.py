"""The look of every figure: light, and readable with any colour vision."""

import re
from collections.abc import Sequence

INK, SOFT, WIRE, PAPER = "#1f2328", "#57606a", "#9aa3ad", "#ffffff"
OPS = {  # similar operations share a hue: blue separable or full, green and pink dilated, warm pooling, grey no weights
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
    "mbconv3_3x3": "#56b4e9",  # a hue per kernel; the darker shade has twice the channels
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
SHORT = re.compile(r"^(sep|dil)_conv|^nor_(conv)|^(max|avg)_pool|^(skip)_connect")  # the first word is enough


def short(operation: str) -> str:
    """`sep_conv_3x3` -> sep 3×3."""
    words = SHORT.sub(lambda match: str(match[match.lastindex or 0]), operation)
    return re.sub(r"(\d)x(\d)", r"\1×\2", words).replace("_", " ")


def colour(names: Sequence[str], name: str) -> str:
    """The fixed colour of an operation, which is the first word of a label; unknown operations take one of SERIES."""
    operation = name.partition(" ")[0]
    if operation in OPS:
        return OPS[operation]
    others = sorted({other.partition(" ")[0] for other in names} - set(OPS))
    return SERIES[others.index(operation) % len(SERIES)]
