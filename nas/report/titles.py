"""Titles for readers. Records and results.metrics.json use names: `is_nas eps=0` there is `IS-NAS eps=0` here."""

from nas.registry import METHODS


def method_title(method: str) -> str:
    """The title of a method; the name of one that is not registered."""
    return METHODS.get(method, method)


def label_title(method: str, rest: str = "") -> str:
    """The title of a method, followed by the name of its architecture or control, if any."""
    return f"{method_title(method)} {rest}".strip()
