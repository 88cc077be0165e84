"""Tables of texts, and how they are written as Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

DASH = "–"  # an absent value
TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "−": "$-$",
        DASH: "--",
    }
)


@dataclass(frozen=True)
class Sheet:
    """A table: titles, then one list of texts per row. `right`: which columns are right-aligned."""

    cells: Sequence[Sequence[str]]
    right: Sequence[bool]
    notes: Sequence[str]  # how to read the table, one or two sentences each


def plus_minus(mean: float | None, std: float | None) -> str:
    if mean is None:
        return DASH
    return f"{mean:.2f} ± {DASH if std is None else format(std, '.2f')}"


def span(mean: float, low: float, high: float, digits: int) -> str:
    """The mean, or lowest–highest if their shown digits differ."""
    first, last = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return f"{mean:.{digits}f}" if first == last else f"{first}{DASH}{last}"


def duration(seconds: float) -> str:
    """12.3 s, 4.5 min or 6.7 h: the largest unit that leaves at least 1.5 of it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def markdown(sheets: Sequence[Sheet]) -> str:
    return "\n".join(
        "\n".join([*pipes(sheet.cells, sheet.right), "", *(f"- {note}" for note in sheet.notes)]) + "\n"
        for sheet in sheets
    )


def pipes(texts: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """The lines of a Markdown table; the first row holds the titles, `right` marks right-aligned columns."""
    header, *body = [[text.replace("|", r"\|") for text in line] for line in texts]
    rule = ["---:" if aligned else ":---" for aligned in right]
    return ["| " + " | ".join(line) + " |" for line in (header, rule, *body)]


def latex(sheets: Sequence[Sheet]) -> str:
    """Each sheet as a booktabs tabular with its notes below, to be put into a table environment."""
    return "\n".join([r"% needs \usepackage{booktabs}", *(line for sheet in sheets for line in tabular(sheet)), ""])


def tabular(sheet: Sheet) -> list[str]:
    header, *body = [" & ".join(tex(text) for text in line) + r" \\" for line in sheet.cells]
    layout = "".join("r" if right else "l" for right in sheet.right)
    return [
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        header,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {tex(note)}\par}}" for note in sheet.notes),
    ]


def tex(text: str) -> str:
    """LaTeX source that typesets plain text unchanged."""
    return text.translate(TEX).replace("¹²", "$^{12}$").replace("⁶", "$^{6}$")
