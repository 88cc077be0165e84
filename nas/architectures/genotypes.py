"""Published cells by name, in the DARTS space.

DARTS_V1, DARTS_V2: quark0/darts, cnn/genotypes.py. PDARTS: chenxin061/pdarts, genotypes.py (the cell of that
repository's README, which says that it is from a different run than the cell in the paper).
EOI_GNAS, EOI_GNAS_2: ZLab540/EoiNAS, classification, defaults of train_imagenet.py and train_cifar.py.
EOI_SEG_GNAS, EOI_SEG: same release, segmentation. The release calls two different cells `GNAS`, hence our names.
"""

from nas.architectures.base import Cell
from nas.architectures.darts import DartsArchitecture

_OPS = {
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "sk": "skip_connect",
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
}


def parse_cell(text: str) -> Cell:
    """`s3-0 s3-1 | sk-0 d3-2 | ...` -> pairs; the number is the predecessor, `|` separates nodes 2..5."""
    return tuple((_OPS[word[:2]], int(word[3:])) for word in text.replace("|", " ").split())


def _darts(normal: str, reduce: str) -> DartsArchitecture:
    return DartsArchitecture(normal=parse_cell(normal), reduce=parse_cell(reduce))


GENOTYPES: dict[str, DartsArchitecture] = {
    "DARTS_V1": _darts(
        "s3-1 s3-0 | sk-0 s3-1 | sk-0 s3-1 | s3-0 sk-2", "mp-0 mp-1 | sk-2 mp-0 | mp-0 sk-2 | sk-2 ap-0"
    ),
    "DARTS_V2": _darts(
        "s3-0 s3-1 | s3-0 s3-1 | s3-1 sk-0 | sk-0 d3-2", "mp-0 mp-1 | sk-2 mp-1 | mp-0 sk-2 | sk-2 mp-1"
    ),
    "PDARTS": _darts("sk-0 d3-1 | sk-0 s3-1 | s3-1 s3-3 | s3-0 d5-4", "ap-0 s5-1 | s3-0 d5-2 | mp-0 d3-1 | d3-1 d5-3"),
    "EOI_GNAS": _darts(
        "s3-0 s3-1 | sk-0 s3-1 | s3-0 s5-3 | s3-1 d5-4", "s3-0 s3-1 | mp-0 s3-2 | s5-0 s5-1 | d5-2 d5-3"
    ),
    "EOI_GNAS_2": _darts(
        "s3-0 s3-1 | s3-0 s3-1 | sk-0 d3-2 | sk-1 d5-4", "s3-0 s3-1 | s5-0 d5-2 | d3-1 d5-3 | d5-3 d5-4"
    ),
    "EOI_SEG_GNAS": _darts(
        "s3-0 s3-1 | sk-0 s3-2 | sk-1 s5-3 | sk-1 d5-4", "s3-0 s3-1 | s3-0 s5-1 | s5-0 d5-3 | d5-2 d5-3"
    ),
    "EOI_SEG": _darts("sk-0 s5-1 | s3-0 s5-2 | s3-0 sk-2 | s3-0 mp-2", "ap-0 ap-1 | s5-1 d3-2 | s3-2 s5-3 | d5-3 s3-4"),
}
