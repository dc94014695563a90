"""A new head on any classifier: what is kept of the old one, what stays still, and checkpoints that open again."""

import pytest
import torch
from photo_set import SMALL, save_weights
from torch import nn

from latcli.engine.models import libraries
from latcli.engine.models.catalog import (
    CheckpointInfo,
    check_architecture,
    fine_tuned,
    fine_tuned_without_weights,
    is_classifier_name,
    open_checkpoint,
    open_classifier,
    pack_classifier,
    preprocessing_of,
)
from latcli.engine.models.classifier import Classifier, ClassifierSource
from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import UsageError

CPU = torch.device("cpu")
SQUARE = Preprocessing(40, 32, "bilinear")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ClassifierSource(save_weights(tmp_path_factory.mktemp("weights") / "small.safetensors"), offline=True)


def photos(count, side):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_shared_classes_keep_what_was_learnt_of_them(source):
    pretrained = open_classifier(SMALL, source, CPU)
    x_BCHW = photos(2, 160)
    with torch.no_grad():
        before_BK = pretrained(x_BCHW)
        tuned = fine_tuned(pretrained, ("n02123045_tabby", "my own", "triceratops", "8"))
        after_BK = tuned(x_BCHW)

    # A product with fewer rows may be summed in another order.
    torch.testing.assert_close(after_BK[:, [0, 2]], before_BK[:, [281, 51]], rtol=1e-5, atol=1e-6)
    assert after_BK.shape == (2, 4)
    assert not torch.allclose(after_BK[:, 3], before_BK[:, 8])  # a number is no name


@pytest.mark.parametrize(
    "name",
    [SMALL, "timm:test_vit", "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small", "efficientnet_lite0"],
)
def test_a_network_without_weights_gets_a_head_and_gradients(name):
    tuned = fine_tuned_without_weights(name, "abc")
    logits_BK = tuned(photos(1, tuned.preprocessing.size[0]))
    logits_BK.square().sum().backward()
    assert logits_BK.shape == (1, 3)
    assert preprocessing_of(name) == tuned.preprocessing
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    assert len(trained) == len(list(tuned.parameters()))
    assert all(parameter.grad is not None for parameter in trained)


@pytest.mark.slow
def test_auxiliary_heads_are_frozen():
    tuned = fine_tuned_without_weights("inception_v3", "abc")
    frozen = {name.split(".")[2] for name, value in tuned.named_parameters() if not value.requires_grad}
    assert frozen == {"AuxLogits"}
    assert tuned.net[1].fc.out_features == 3


def test_training_leaves_norms_as_they_were(source):
    tuned = fine_tuned(open_classifier(SMALL, source, CPU), ("a", "b")).train()
    before = {name: value.clone() for name, value in tuned.named_buffers()}
    tuned(photos(4, 160))
    assert not any(module.training for module in tuned.modules())
    assert all(torch.equal(value, before[name]) for name, value in tuned.named_buffers())


class TwoHeads(nn.Module):
    """Adds two layers of five outputs, as networks with a distilled head do."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x_BCHW):
        return self.one(x_BCHW.mean(dim=(2, 3))) + self.other(x_BCHW.mean(dim=(2, 3)))


class Scaled(nn.Module):
    """Has no layer that gives its logits."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x_BCHW):
        return x_BCHW.mean(dim=(1, 2, 3))[:, None] * self.weight


@pytest.mark.parametrize(
    "net", [TwoHeads(), Scaled(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5), nn.Linear(5, 4))]
)
def test_a_head_that_cannot_be_replaced_is_said(net):
    classifier = Classifier("mine", net, SQUARE, [f"class {index}" for index in range(5)])
    with pytest.raises(UsageError, match="the head of mine cannot be replaced"):
        fine_tuned(classifier, ("a", "b"))


def test_which_names_mean_fine_tuning_and_the_nearest_of_a_misspelt_one():
    tuned = ["inception_v3", "torchvision:resnet50", "timm:any", "module:function", "hf:any/vit"]
    assert [name for name in ["resnet18", *tuned, "paper-cnn"] if is_classifier_name(name)] == tuned
    with pytest.raises(UsageError) as caught:
        check_architecture("efficientnet-lite0")
    assert "did you mean 'efficientnet_lite0'" in caught.value.hint
    assert "torchvision:NAME" in caught.value.hint


def test_a_checkpoint_opens_as_it_was_trained_and_downloads_nothing(source, tmp_path, monkeypatch):
    tuned = fine_tuned(open_classifier(SMALL, source, CPU), ("green", "red"))
    info = CheckpointInfo(SMALL, (3, 160, 160), ("green", "red"), "folder:x", "0", "background", 0.03, 5)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(pack_classifier(tuned.state_dict(), info))
    for name in ("require_reachable", "fetch"):
        monkeypatch.setattr(libraries, name, lambda *_, **__: pytest.fail("asked for weights"))
    opened = open_checkpoint(path)
    x_BCHW = photos(3, 160)
    with torch.no_grad():
        assert torch.equal(opened(x_BCHW), tuned(x_BCHW))
    assert (opened.class_names, opened.preprocessing) == (("green", "red"), tuned.preprocessing)
    assert not any(parameter.requires_grad for parameter in opened.parameters())
