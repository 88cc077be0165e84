"""Fixtures for tests of jobs: a few digits, and jobs that take milliseconds per step."""

import copy
from pathlib import Path

import pytest
import torch

from nas.architectures.genotypes import GENOTYPES
from nas.config.params import parse_config
from nas.config.yaml_file import read_yaml
from nas.data.dataset import load_split
from nas.data.prepare import prepare
from nas.methods import sections
from nas.spaces.registry import get_space
from nas.training.checkpoint import Checkpoint, Stop
from nas.training.retrain import RetrainJob
from nas.training.search import SearchJob

TREE = read_yaml(Path(__file__).parents[1] / "presets" / "digits.yaml")
SMALL = {"epochs": 2, "batch": 16, "cells": 3, "channels": 2}
SPLITS = {"search_train": "train[:40]", "search_valid": "train[40:60]", "retrain": "train[:40]", "test": "test[:20]"}
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def config():
    tree = copy.deepcopy(TREE)
    tree["data"]["splits"] = SPLITS
    tree["search"]["common"] |= SMALL | {"epochs": 1}
    tree["search"]["random"] |= {"samples": 1}
    tree["search"]["darts"] |= {"warmup_epochs": 0}
    tree["retrain"] |= SMALL | {"drop_path": 0.3, "auxiliary_weight": 0.4}
    return parse_config(tree, *sections())


@pytest.fixture(scope="session")
def prepared(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(config.data, folder)
    return folder


@pytest.fixture
def search_job(config, prepared):
    """Builds a search at its start: search_job("darts", seed=1)."""
    return lambda method="darts", seed=0: SearchJob(config, method, seed, prepared, CPU)


@pytest.fixture
def retrain_job(config, prepared):
    """Builds a retraining at its start, with changed values of its recipe."""

    def build(seed=0, identity="darts-0 main", precision="float32", device=CPU, graphs=False, **changes):
        data = load_split(prepared, "retrain", device)
        form = data.spec.form
        recipe = config.retrain.model_copy(update=changes)
        return RetrainJob(
            recipe, get_space("darts"), GENOTYPES["PDARTS"], identity, seed, data, form, precision, graphs
        )

    return build


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in a folder of its own, with no signal to stop."""
    return Checkpoint(tmp_path / "work" / "job.pt", Stop())
