"""Derive sized architectures from the record of a search: by the method's rule, then by a width for each network."""

from typing import Any

from nas.complexity import Count, nearest_width
from nas.config.params import Retrain, Size
from nas.config.sections import ParamsError, Section
from nas.contracts import ImageForm, Space
from nas.methods import method_module
from nas.training.sized import SizedArchitecture


def derive(
    method: str, state: dict[str, Any], params: Section, space: Space, form: ImageForm, size: Retrain
) -> list[tuple[SizedArchitecture, Count]]:
    """The architectures that a search ends with, each with the complexity of its network.

    Args:
        method: the method's name, whose rule is applied.
        state: what the method's `search_state` returned.
        params: the section `derive.<method>`.
        form: the images that the networks are built for.
        size: depth, width and `macs_limit_m` of the networks to retrain.

    Raises:
        ParamsError: no width keeps to `macs_limit_m`.
    """
    counts: dict[str, Count] = {}
    sized = []
    for one in method_module(method).derive(state, params, space):
        channels = size.channels
        if one.like:
            channels = width_like(counts[one.like].params, space, one.architecture, form, size)
        channels = width_within(size.macs_limit_m, space, one.architecture, form, size.at(channels))
        counts[one.name] = space.count(one.architecture, form, size.at(channels))
        sized.append(SizedArchitecture(one.name, space, one.architecture, channels, one.notes))
    return [(one, counts[one.name]) for one in sized]


def width_like(params: int, space: Space, architecture: Any, form: ImageForm, size: Size) -> int:
    """The even number of channels whose network comes closest to `params` parameters."""
    return nearest_width(lambda width: space.count(architecture, form, size.at(width)).params, params, size.channels)


def width_within(limit_m: float | None, space: Space, architecture: Any, form: ImageForm, size: Size) -> int:
    """The largest even number of channels, at most `size.channels`, whose network has at most `limit_m` multiply-adds.

    Args:
        limit_m: in millions; None is no limit.

    Raises:
        ParamsError: a network of two channels exceeds the limit.
    """
    channels = size.channels
    while limit_m is not None and space.count(architecture, form, size.at(channels)).macs_m > limit_m:
        if channels == 2:
            raise ParamsError(f"'retrain.macs_limit_m' is {limit_m}: a network of 2 channels has more multiply-adds")
        channels -= 2
    return channels
