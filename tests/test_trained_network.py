"""Loading a network from nothing but its file of weights, and exporting it as a program that needs only torch."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from nas.architectures.genotypes import GENOTYPES
from nas.commands.main import app
from nas.data.dataset import Stream, load_split
from nas.records import RecordError
from nas.trained_network import export, load_network
from nas.training.loop import run
from nas.training.retrain import DESCRIPTION, description, save_weights, weights_of

CPU = torch.device("cpu")


@pytest.fixture
def trained(retrain_job, config, prepared, checkpoint, tmp_path):
    """(the network as it was trained, its file of weights in a folder without other files)."""
    job = retrain_job()
    run(job, checkpoint, lambda row: None)
    path = tmp_path / "elsewhere" / "mine.safetensors"
    spec = load_split(prepared, "test", CPU).spec
    about = description(GENOTYPES["PDARTS"].to_dict(), config.retrain, spec)
    save_weights(weights_of(job.result()), path, about)
    return job.result().eval(), path


def test_the_file_is_enough_to_load_the_network_with_its_normalisation(trained, prepared):
    network, path = trained
    data = load_split(prepared, "test", CPU)
    loaded = load_network(path)
    assert not loaded.training
    assert loaded.spec == data.spec
    pixels = data.images.permute(0, 3, 1, 2) / 255
    (images, _), *none = Stream(data, len(data), None, 0).epoch(0)  # without augmentation, in file order
    assert not none
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels), network(images)[0], rtol=1e-4, atol=1e-5)


def test_equal_networks_give_equal_bytes(trained, config, prepared, tmp_path):
    network, path = trained
    about = description(GENOTYPES["PDARTS"].to_dict(), config.retrain, load_split(prepared, "test", CPU).spec)
    save_weights(weights_of(network), tmp_path / "again.safetensors", about)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_an_exported_program_needs_only_torch_and_takes_any_batch_size(trained, tmp_path):
    _, path = trained
    loaded, out = load_network(path), tmp_path / "program" / "mine.pt2"
    out.parent.mkdir()
    said = CliRunner().invoke(app, ["export", str(path), str(out)])
    assert said.exit_code == 0, said.output
    assert "float32 [batch, 1, 8, 8], pixels from 0 to 1 -> logits [batch, 10]. Classes: 0, 1, 2" in said.output
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(images, out.parent / "images.pt")
    script = (
        "import sys, torch; images = torch.load('images.pt', weights_only=True);"
        "program = torch.export.load('mine.pt2').module();"
        "torch.save([program(images), program(images[:1])], 'logits.pt'); assert 'nas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=out.parent, check=True)
    several, one = torch.load(out.parent / "logits.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(several, loaded(images))
        torch.testing.assert_close(one, loaded(images[:1]))


def test_other_files_are_refused(trained, tmp_path):
    _, path = trained
    with pytest.raises(RecordError, match=r"none\.safetensors: no such file"):
        load_network(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(RecordError, match=r"text\.safetensors: not a readable file of weights"):
        load_network(tmp_path / "text.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RecordError, match="no description of a network"):
        load_network(tmp_path / "other.safetensors")
    for said, message in (("{", "is not JSON"), ('{"data": {}}', "this version cannot build the network")):
        save_file({"weight": torch.zeros(1)}, tmp_path / "strange.safetensors", {DESCRIPTION: said})
        with pytest.raises(RecordError, match=message):
            load_network(tmp_path / "strange.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"weight": torch.zeros(1)}, tmp_path / "strange.safetensors", metadata)
    with pytest.raises(RecordError, match="this version cannot build the network"):
        load_network(tmp_path / "strange.safetensors")
    cut = tmp_path / "cut.safetensors"
    shutil.copy(path, cut)
    with cut.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(RecordError, match=r"cut\.safetensors: not a readable file of weights"):
        load_network(cut)
    refused = CliRunner().invoke(app, ["export", str(path), str(tmp_path / "mine.onnx")])
    assert (refused.exit_code, refused.stderr.startswith("error: ")) == (1, True)
    assert not (tmp_path / "mine.onnx").exists()


@pytest.mark.parametrize(
    "images",
    [torch.rand(2, 3, 8, 8), torch.rand(2, 1, 9, 8), torch.rand(1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)],
)
def test_images_of_another_shape_or_type_are_refused(trained, images):
    network = load_network(trained[1])
    with pytest.raises(ValueError, match=r"images are torch\.\w+ \[.*\], expected floats from 0 to 1, \[B, 1, 8, 8\]"):
        network(images)


def test_a_failed_export_leaves_no_file(trained, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export(load_network(trained[1]), tmp_path / "mine.pt2")
    assert not list(tmp_path.glob("*.pt2*"))
