"""Tables, plots, drawings and one page, from records alone. Imports no torch."""

from nas.report.building import build as build
from nas.report.building import difference as difference
from nas.report.drawing import draw as draw
