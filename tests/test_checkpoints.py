"""A checkpoint is opened as the network that was saved, or refused with the reason."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import code_blocks
from PIL import Image
from safetensors.torch import save

from latcli.engine import registry
from latcli.engine.models.catalog import CheckpointInfo, open_checkpoint, open_classifier, pack_classifier, read_info
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.models.small import PaperCNN
from latcli.engine.models.weights import pack
from latcli.errors import UsageError, WeightsError

INFO = CheckpointInfo("paper-cnn", (1, 28, 28), tuple("0123456789"), "mnist-5k", "f" * 64, "background", 0.3, 12)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PaperCNN((1, 28, 28), 10).eval()


@pytest.fixture
def checkpoint(net, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack_classifier(net.to(memory_format=torch.channels_last).state_dict(), INFO))
    return path


def test_it_opens_by_its_path_as_the_same_function(net, checkpoint):
    classifier = open_classifier(str(checkpoint), ClassifierSource(), torch.device("cpu"))
    x_BCHW = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert classifier.class_names == INFO.class_names
    assert torch.allclose(classifier(x_BCHW), net(x_BCHW), atol=1e-5)
    assert torch.allclose(classifier(x_BCHW.expand(-1, 3, -1, -1)), net(x_BCHW), atol=1e-5)
    assert classifier.preprocessing.size == (28, 28)
    assert read_info(checkpoint) == INFO


def test_one_that_was_trained_on_oblong_images_reads_them_as_they_are(tmp_path):
    path, shape = tmp_path / "oblong.safetensors", (3, 20, 28)
    path.write_bytes(pack_classifier(PaperCNN(shape, 10).state_dict(), replace(INFO, image_shape=shape)))
    classifier = open_checkpoint(path)
    levels_HWC = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    x_CHW = classifier.preprocessing.read(Image.fromarray(levels_HWC))
    assert torch.equal(x_CHW, torch.from_numpy(levels_HWC).permute(2, 0, 1) / 255)
    assert classifier(x_CHW[None]).shape == (1, 10)
    assert classifier.preprocessing.read(Image.new("RGB", (90, 70))).shape == shape


def test_the_docs_read_it_without_latcli(net, checkpoint, monkeypatch):
    (code,) = code_blocks("classifiers.md", "python")
    monkeypatch.chdir(checkpoint.rename(checkpoint.with_name("checkpoint.safetensors")).parent)
    names = {}
    exec(code, names)
    x_BCHW = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert "latcli import" not in code
    assert torch.allclose(names["logits"](x_BCHW), net(x_BCHW), atol=1e-5)
    assert names["info"]["class_names"] == list(INFO.class_names)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet20"])
def test_residual_networks_come_back(architecture, tmp_path):
    path = tmp_path / "resnet.safetensors"
    network = registry.load("architecture", architecture)((3, 32, 32), 5).eval()
    info = replace(INFO, architecture=architecture, image_shape=(3, 32, 32), class_names=tuple("abcde"))
    path.write_bytes(pack_classifier(network.state_dict(), info))
    x_BCHW = torch.rand(2, 3, 32, 32)
    assert torch.allclose(open_checkpoint(path)(x_BCHW), network(x_BCHW), atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((lambda data, kept=kept: data[:kept], "is damaged, or not a weights file") for kept in (4, 100, 5000, -1)),
        (lambda data: b"", "is damaged, or not a weights file"),
        (
            lambda data: data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:],
            "its tensors are not those that were written",
        ),
        (lambda data: save({"a": torch.zeros(3)}), "is no classifier but no file of latcli"),
        (lambda data: pack("training state", {}, {}), "is no classifier but training state"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused(damage, message, checkpoint):
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(checkpoint)


def test_weights_of_another_architecture_than_the_file_names_are_refused(tmp_path, net):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(pack_classifier(net.state_dict(), replace(INFO, architecture="resnet18")))
    with pytest.raises(WeightsError, match="do not fit SmallResNet"):
        open_checkpoint(path)
    path.write_bytes(pack_classifier(net.state_dict(), replace(INFO, architecture="vgg")))
    with pytest.raises(UsageError, match="no architecture called 'vgg'"):
        open_checkpoint(path)


def test_a_checkpoint_that_names_a_huge_network_makes_none(tmp_path):
    info = CheckpointInfo("paper-cnn", (3, 50_000, 50_000), ("a", "b"), "mnist", "0" * 64, "natural", 0.3, 1)
    (tmp_path / "huge.safetensors").write_bytes(pack_classifier({"weight": torch.zeros(1)}, info))
    with pytest.raises(WeightsError, match="cannot be made"):
        open_checkpoint(tmp_path / "huge.safetensors")
