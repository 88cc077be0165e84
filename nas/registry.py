"""The built-in methods and spaces. A new method or space is added here and nowhere else."""

from typing import NamedTuple

METHODS = {  # name -> title, as its paper writes it; in the order of tables
    "given": "Given architectures",
    "random": "Random search",
    "darts": "DARTS",
    "gdas": "GDAS",
    "eoinas": "EoiNAS",
    "lfr_darts": "LFR-DARTS",
    "tenas": "TENAS",
    "asng": "ASNG-NAS",
    "is_nas": "IS-NAS",
}


class SpaceModules(NamedTuple):
    """The modules that define a space: its Space class, and the record of its architectures, which imports no torch."""

    space: str
    record: str


SPACES = {
    "darts": SpaceModules("nas.spaces.darts.space", "nas.architectures.darts"),
    "layered": SpaceModules("nas.spaces.darts.layered", "nas.architectures.darts"),
    "channel": SpaceModules("nas.spaces.channel.space", "nas.architectures.channel"),
    "enas": SpaceModules("nas.spaces.enas.space", "nas.architectures.enas"),
    "nasbench201": SpaceModules("nas.spaces.nasbench201.space", "nas.architectures.nasbench201"),
    "nasbench201_layered": SpaceModules("nas.spaces.nasbench201.layered", "nas.architectures.nasbench201"),
    "mobile": SpaceModules("nas.spaces.mobile.space", "nas.architectures.mobile"),
    "mobile_cifar": SpaceModules("nas.spaces.mobile.space", "nas.architectures.mobile"),
}


def seed_name(method: str) -> str:
    """The name from which a method's seeds are derived. Hyphens keep the seeds equal to those of the first records."""
    return method.replace("_", "-")
