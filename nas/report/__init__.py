"""Tables, plots, drawings and a page, made from records only. Does not import torch or matplotlib."""

from nas.report.building import build as build
from nas.report.building import difference as difference
from nas.report.drawing import draw as draw
