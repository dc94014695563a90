"""Classifiers by name, what each says of a photo, and the errors of those that cannot be had."""

import math
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import nn
from torch.nn import functional

from latcli.commands.photos import package_photos
from latcli.engine import registry
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier, ClassifierSource, predict, read_class_names
from latcli.engine.models.libraries import processor_preprocessing
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.small import EfficientNetLite0
from latcli.engine.models.weights import load_into, read_weights
from latcli.engine.registry import DEFAULT_CLASSIFIER, names_code
from latcli.engine.vision import import_timm, import_torchvision
from latcli.errors import ExitCode, LatcliError, UsageError, WeightsError

CPU = torch.device("cpu")
SQUARE = Preprocessing(4, 4, "bilinear")
OFFLINE = ClassifierSource(offline=True)


def _open(name, source=OFFLINE):
    return open_classifier(name, source, CPU)


# Predictions


def _predicted(logits, labels, shown=5):
    """What is said of images that are their own logits."""
    logits_BK = torch.as_tensor(logits, dtype=torch.float32)
    names = [f"class {index}" for index in range(logits_BK.shape[1])]
    return predict(Classifier("fixed", nn.Identity(), SQUARE, names), logits_BK, labels, shown)


def test_a_prediction_has_known_numbers():
    log = math.log
    first, second = _predicted([[log(1), log(5), log(2), log(2)], [log(4), log(1), log(3), log(2)]], [2, 0], shown=2)
    assert (first.index, first.prediction, first.p_prediction) == (1, "class 1", pytest.approx(0.5))
    assert (first.confidence, first.loss) == (pytest.approx(0.2), pytest.approx(-log(0.2)))
    assert first.rank == 3  # behind 1, and level with 3, which counts against it
    assert [guess.index for guess in first.top] in ([1, 2], [1, 3])
    assert (second.index, second.rank, second.confidence) == (0, 1, pytest.approx(0.4))
    assert [(guess.index, guess.p) for guess in second.top] == [(0, pytest.approx(0.4)), (2, pytest.approx(0.3))]


logits_st = arrays(np.float32, (3, 7), elements=st.one_of(st.integers(-2, 2).map(float), st.floats(-50, 50, width=16)))


@given(logits_st, st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=3, max_size=3))
@example(np.array([[300.0, 0, 0, 0, 0, 0, 0]] * 3, np.float32), [1, 0, None])  # far below float32
def test_predictions_are_the_softmax_of_the_logits(logits, labels):
    for row, label, prediction in zip(logits, labels, _predicted(logits, labels, 99), strict=True):
        exact = np.exp(row.astype(np.float64) - row.max())
        exact /= exact.sum()
        confidences = [guess.p for guess in prediction.top]
        assert confidences == sorted(confidences, reverse=True)
        assert sorted(guess.index for guess in prediction.top) == list(range(7))
        assert confidences == pytest.approx([exact[guess.index] for guess in prediction.top], rel=1e-9, abs=1e-300)
        assert prediction.index == prediction.top[0].index
        assert row[prediction.index] == row.max()
        label = prediction.index if label is None else label
        assert prediction.confidence == pytest.approx(exact[label], rel=1e-9, abs=1e-300)
        assert prediction.loss == pytest.approx(-np.log(exact[label]), rel=1e-9, abs=1e-12)
        assert prediction.rank == (row >= row[label]).sum()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(LatcliError, match="fixed returns NaN or infinite logits"):
        _predicted([[0.0, 1.0, 2.0], [0.0, wrong, 1.0]], [0, 0])


# Identity


class _Weighted(nn.Module):
    """Answers by its weights, and by what its code does besides."""

    def __init__(self, code=lambda logits_BK: logits_BK, weight=1.0):
        super().__init__()
        self.linear = nn.Linear(48, 6, bias=False)
        self.linear.weight.data = weight * torch.randn(6, 48, generator=torch.Generator().manual_seed(0))
        self.code = code

    def forward(self, x_BChw):
        return self.code(self.linear(functional.adaptive_avg_pool2d(x_BChw, 4).flatten(1)))


def _classifier(net):
    return Classifier("any", net, Preprocessing(32, 32), list("abcdef"))


def test_weights_and_code_make_the_identity_and_nothing_else():
    known = _classifier(_Weighted()).fingerprint
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert _classifier(_Weighted()).fingerprint == known
    finally:
        torch.set_num_threads(threads)
    codes = [lambda x: 1.02 * x, lambda x: -x, lambda x: x[:, [1, 0, 2, 3, 4, 5]]]
    others = [_Weighted(weight=1.001), *(_Weighted(code) for code in codes)]
    assert len({known, *(_classifier(net).fingerprint for net in others)}) == 5
    assert len(known or "") == 64
    assert _classifier(_Weighted(lambda x: x * torch.rand(()))).fingerprint is None  # left to chance


@pytest.mark.parametrize("wrap", [lambda x: (x, x), lambda x: {"loss": x, "logits": x}, lambda x: [x]])
def test_logits_may_be_wrapped(wrap):
    x_BChw = torch.rand(2, 3, 32, 32)
    assert torch.equal(_classifier(_Weighted(wrap))(x_BChw), _Weighted()(x_BChw))


# The embedded default


def _photos():
    """A bus, of ultralytics, and a woman in a uniform, of matplotlib."""
    return [Image.open(path).convert("RGB") for path in package_photos()]


def test_the_default_is_the_packages_network_and_knows_what_photos_show():
    """Of a given version of the package: other weights would make other results under the same name."""
    default = _open(DEFAULT_CLASSIFIER)
    assert default.weights_sha256 == "ac73d8caead58befc6b7f487a945ef400c8f1514ec776b50fd6f4f8f65497ef2"
    assert not any(module.training for module in default.modules())
    assert not any(parameter.requires_grad for parameter in default.parameters())
    assert (default.name, default.preprocessing) == ("efficientnet_lite0", Preprocessing(256, 224, "bicubic"))
    assert len(default.class_names) == len(default.class_ids) == 1000
    assert (default.class_names[652], default.class_ids[652]) == ("military uniform", "n03763968")
    x_BChw = torch.stack([default.preprocessing.read(image) for image in _photos()])
    bus, woman = predict(default, x_BChw, [None, 652])
    assert woman.rank <= 3  # behind academic gown and mortarboard: she wears a cap
    assert woman.confidence > 0.1
    assert (bus.prediction, bus.confidence > 0.5) == ("minibus", True)


def test_the_default_is_built_as_timm_builds_it_and_names_classes_as_torchvision_and_timm_do():
    default, timm, torchvision = _open(DEFAULT_CLASSIFIER), import_timm(), import_torchvision()
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    own = EfficientNetLite0(1000).eval()
    for name, value in theirs.state_dict().items():
        if "running" in name or "bn" in name:  # as they start, batch norms hide a wrong place or epsilon
            value.copy_(0.5 + torch.rand(value.shape))
    load_into(own, theirs.state_dict(), what="its weights")
    for side in (224, 225, 97):
        x_BCHW = torch.randn(2, 3, side, side)
        assert torch.allclose(own(x_BCHW), theirs(x_BCHW), atol=1e-5)
    assert default.class_names == tuple(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    assert default.class_ids == tuple(timm.data.ImageNetInfo().label_names())


def test_a_first_attack_waits_for_no_library_that_it_does_not_need():
    code = (
        "import sys; from latcli.engine.api import attack_photo, open_attacker;"
        "from latcli.engine.attacks.settings import AttackSettings; from latcli.engine.photos import PhotoSettings;"
        "settings = PhotoSettings(attack=AttackSettings(steps=1));"
        "attack_photo(open_attacker(settings, device='cpu', offline=True), sys.argv[1]);"
        "print(*{'torchvision', 'timm', 'sympy', 'torch._dynamo', 'matplotlib'} & set(sys.modules))"
    )
    arguments = [sys.executable, "-c", code, str(package_photos()[1])]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


# Weights that do not fit, or are out of reach


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "inception_v3", "timm:test_resnet"])
@pytest.mark.parametrize(("offline", "reason"), [(True, "--offline"), (False, "does not answer")])
def test_weights_out_of_reach_are_said(name, offline, reason, no_network, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=f"are not on this machine, and .*{reason}") as raised:
        _open(name, ClassifierSource(offline=offline))
    assert "--classifier-weights" in raised.value.hint
    assert raised.value.exit_code == ExitCode.FAILURE
    assert bool(no_network) is not offline


# torchvision's and timm's, from a file


SLOW = [f"torchvision:{name}" for name in ("googlenet", "inception_v3", "convnext_tiny")]


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "torchvision:squeezenet1_1",
        "timm:vit_tiny_patch16_224",
        "timm:test_resnet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_a_classifier_is_what_its_library_makes_of_the_same_weights(name, tmp_path):
    torch.manual_seed(0)
    family, _, own_name = name.partition(":")
    if family == "timm":
        timm = import_timm()
        theirs = timm.create_model(own_name, pretrained=False)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    else:
        models = import_torchvision().models
        # Their own builders set this, and only this, when they are given pretrained weights.
        scaled = {"init_weights": False, "transform_input": True} if own_name in ("googlenet", "inception_v3") else {}
        theirs = models.get_model(own_name, weights=None, **scaled)
        transform = models.get_model_weights(own_name).DEFAULT.transforms()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    classifier = _open(name, ClassifierSource(weights=tmp_path / "weights.pth", offline=True))

    # By the measure of how far two photos lie apart: untrained networks say nearly the same of all.
    images = [image.resize(size) for image, size in zip(_photos(), [(300, 417), (341, 277)], strict=True)]
    found_2K = classifier(torch.stack([classifier.preprocessing.read(image) for image in images]))
    expected_2K = theirs.eval()(torch.stack([transform(image) for image in images]))
    apart = (expected_2K[0] - expected_2K[1]).abs().max()
    assert apart > 0
    assert (found_2K - expected_2K).abs().max() < 2e-3 * apart
    assert (classifier.class_names[652], classifier.class_ids[652]) == ("military uniform", "n03763968")
    assert classifier.name == name.replace("torchvision:inception_v3", "inception_v3")  # one classifier, one name


# Names


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("eficientnet_lite0", "classifier", "did you mean 'efficientnet_lite0"),
        ("inception", "classifier", "did you mean 'inception_v3"),
        ("torchvision:resnet5O", "torchvision classifier", "did you mean 'resnet50"),
        ("timm:test_resnets", "timm classifier", "did you mean 'test_resnet"),
        *(("", "classifier", "known: "), ("timm:zzzz", "timm classifier", "such as ")),
        ("torchvision:", "torchvision classifier", "such as "),
    ],
)
def test_an_unknown_name_gets_the_nearest_or_the_known_ones(name, kind, hint):
    with pytest.raises(UsageError, match=f"there is no {kind} called '{name.rpartition(':')[2]}'") as raised:
        _open(name)
    assert hint in raised.value.hint
    assert len(raised.value.hint) < 600


# One's own

MINE = """
import torch
from torch import nn
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing


class Small(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.drop = nn.Dropout()
        vars(self).update(attributes)

    def forward(self, x):
        return self.drop(self.linear(x.mean(dim=(2, 3))))


def failing():
    raise FileNotFoundError("no weights at\\nhere")


def leaving():
    raise SystemExit(3)


plain = Small
described = lambda: Small(class_names=["ant", "bee", "cat", "dog"], preprocessing=Preprocessing(40, 32, "bicubic"))
whole = lambda: Classifier("mine", Small(), Preprocessing(9, 8, "bilinear"), list("abcd"))
number = lambda: 7
with_arguments = lambda path: Small()
names_wrong = lambda: Small(class_names=["ant", "bee"])
preprocessing_wrong = lambda: Small(preprocessing=(256, 224))
features = lambda: nn.Conv2d(3, 4, 3)
two_inputs = lambda: nn.Bilinear(3, 3, 4)
undefined = lambda: Smal()
CONSTANT = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in the working directory, with a name of its own for each test."""
    name = f"my_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MINE)
    (tmp_path / f"broken_{name}.py").write_text("def plain(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


def test_a_plain_module_is_a_classifier_and_may_describe_itself(mine, tmp_path):
    classifier, described, whole = (_open(f"{mine}:{name}") for name in ("plain", "described", "whole"))
    assert (classifier.name, classifier.preprocessing) == (f"{mine}:plain", Preprocessing(256, 224, "bilinear"))
    assert classifier.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    x_BChw = torch.rand(2, 3, 224, 224)
    assert torch.equal(classifier(x_BChw), classifier(x_BChw))  # no dropout
    assert described.class_names == ("ant", "bee", "cat", "dog")
    assert described.preprocessing == Preprocessing(40, 32, "bicubic")
    assert (whole.name, whole.preprocessing.crop) == ("mine", 8)
    (tmp_path / "names.txt").write_text("a\nb\n")
    for name, source, said in (
        ("whole", ClassifierSource(mean=(0.5,)), "--mean cannot be used with"),
        ("plain", ClassifierSource(mean=(0.5, 0.5), std=(0.5,)), "--mean has"),
        ("plain", ClassifierSource(mean=(0.5,), std=(0.0,)), "--mean has"),
        ("plain", ClassifierSource(class_names=tmp_path / "names.txt"), f"has 2 names, but {mine}:plain has 4 classes"),
    ):
        with pytest.raises(UsageError, match=said):
            _open(f"{mine}:{name}", source)


def test_what_is_no_classifier_is_refused_in_one_line(mine):
    for name, message in [
        ("MINE:missing", "cannot be imported"),
        (":f", "cannot be imported"),
        ("no.such.package:f", "cannot be imported"),
        ("broken_MINE:plain", "cannot be imported: SyntaxError"),
        ("MINE:number", "returned a int, not a torch.nn.Module"),
        ("MINE:with_arguments", "failed: TypeError: .*path"),
        ("MINE:failing", "failed: FileNotFoundError: no weights at$"),
        ("MINE:undefined", "failed: NameError"),
        ("MINE:CONSTANT", "failed: TypeError: 'int' object is not callable"),
        ("MINE:names_wrong", "names 2 classes and returns 4 logits"),
        ("MINE:preprocessing_wrong", "the `preprocessing` of .* is a tuple"),
        ("MINE:features", r"a tensor of shape \(2, 4, 222, 222\) for two images"),
        ("MINE:leaving", "failed: SystemExit"),
        ("MINE:two_inputs", r"does not take images of 3x224x224, nor of other usual sizes: TypeError"),
    ]:
        with pytest.raises(UsageError, match=message) as raised:
            _open(name.replace("MINE", mine))
        assert name.replace("MINE", mine) in raised.value.message
        assert raised.value.hint
        assert "\n" not in raised.value.message


def test_a_file_is_named_by_its_path_and_imports_what_lies_beside_it(mine, tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / f"beside_{mine}.py").write_text("WIDTH = 4\n")
    (tmp_path / "nets" / f"of_{mine}.py").write_text(f"from beside_{mine} import WIDTH\n{MINE}")
    assert len(_open(f"nets/of_{mine}.py:plain").class_names) == 4
    with pytest.raises(UsageError, match=r"cannot be imported: FileNotFoundError.*none\.py"):
        _open("nets/none.py:plain")


def test_which_names_stand_for_code():
    code = ["module:function", "nets/file.py:function", "os:system.safetensors"]
    others = ["timm:resnet50", "hf:google/vit", "robustbench:Standard", "mine", "x/y.safetensors"]
    assert [name for name in code + others if names_code(name)] == code


# Class names


def test_classes_are_found_by_word(latcli):
    cats = latcli("classes", "efficientnet_lite0", "cat", "--json").json
    names = [one["name"] for one in cats["classes"]]
    assert (cats["classifier"], cats["count"]) == ("efficientnet_lite0", 1000)
    assert {"tabby", "Persian cat", "Siamese cat"} <= set(names)
    assert "catamaran" not in names
    assert cats["classes"][0] == {"index": 281, "name": "tabby", "wordnet_id": "n02123045"} | {
        "description": "a cat with a grey or tawny coat mottled with black"
    }
    assert latcli("classes", "efficientnet_lite0", "n03763968", "--json").json["classes"][0]["index"] == 652
    assert len(latcli("classes", "efficientnet_lite0", "--json").json["classes"]) == 1000
    assert latcli("classes", "efficientnet_lite0", "zzzz").code == ExitCode.USAGE


def test_class_names_are_read_from_lines_and_json(tmp_path):
    for content, ending, names in [
        ("ant\nbee\n\n", "txt", ("ant", "bee")),
        ('["ant", "bee"]', "json", ("ant", "bee")),
        ('{"1": "bee", "0": "ant"}', "json", ("ant", "bee")),
        ('{"ant": 0, "bee": 1}', "json", ("ant", "bee")),
        *((wrong, "txt", None) for wrong in ("ant\n\nbee", "")),
        *((wrong, "json", None) for wrong in ("[1, 2]", '{"0": "ant", "7": "bee"}', "{")),
    ]:
        path = tmp_path / f"names.{ending}"
        path.write_text(content)
        with nullcontext() if names else pytest.raises(UsageError):
            assert read_class_names(path) == names


# CIFAR's residual networks


@pytest.mark.parametrize(
    ("name", "right"), [("resnet20", 0.81), pytest.param("resnet56", 0.83, marks=pytest.mark.slow)]
)
def test_published_weights_of_cifar10_fit_and_know_their_classes(name, right, shared_data, tmp_path):
    packed = shared_data / "cifar10-subset.tar.xz"
    weights = shared_data / f"cifar10-{name}.safetensors"
    if not (packed.exists() and weights.exists()):
        pytest.skip(f"no {weights.name} in {shared_data}")
    net = registry.load("architecture", name)((3, 32, 32), 10).eval()
    load_into(net, read_weights(weights).state_dict, what=name)
    images, labels = [], []
    with tarfile.open(packed) as archive:
        names = sorted(one.name for one in archive if "/test/" in one.name and one.isfile())
        folders = sorted({Path(name).parent.name for name in names})
        for name in names[::10]:
            levels_HWC = np.asarray(Image.open(archive.extractfile(name)).convert("RGB"))
            images.append(torch.from_numpy(levels_HWC.copy()).permute(2, 0, 1))
            labels.append(folders.index(Path(name).parent.name))
    with torch.no_grad():
        guessed = net(torch.stack(images).float() / 255).argmax(dim=1)
    assert len(labels) == 200
    assert float((guessed == torch.tensor(labels)).float().mean()) == pytest.approx(right, abs=0.07)


# Other packages' classifiers


@pytest.mark.slow
def test_a_model_of_robustbench_opens_from_its_file(tmp_path, monkeypatch):
    import_torchvision()
    if "pkg_resources" not in sys.modules:  # only while robustbench is imported: pytest looks for it, too
        monkeypatch.setitem(sys.modules, "pkg_resources", ModuleType("pkg_resources"))
    pytest.importorskip("robustbench", reason="robustbench is not installed")
    from robustbench.model_zoo.models import model_dicts

    zoo = {d.value: {t.value: models for t, models in threats.items()} for d, threats in model_dicts.items()}
    torch.manual_seed(0)
    theirs = zoo["cifar10"]["Linf"]["Wong2020Fast"]["model"]().eval()
    torch.save({f"module.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "wong.pt")
    classifier = _open("robustbench:Wong2020Fast", ClassifierSource(weights=tmp_path / "wong.pt", offline=True))

    x_BChw = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x_BChw), theirs(x_BChw))
    assert classifier.class_names[3] == "cat"
    assert classifier.preprocessing.size == (32, 32)
    with pytest.raises(UsageError, match="there is no RobustBench model called 'Wong2020Fst'"):
        _open("robustbench:Wong2020Fst", OFFLINE)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        _open("robustbench:Rice2020Overfitting", ClassifierSource(weights=tmp_path / "wong.pt", offline=True))


VIT = {"do_resize": True, "resample": 2, "size": {"height": 224, "width": 224}, "do_rescale": True}
CONVNEXT = {"do_resize": True, "resample": 3, "size": {"shortest_edge": 224}, "crop_pct": 0.875}
CLIP = {"resample": 3, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}


def test_what_an_image_processor_says_is_taken_whole_or_refused():
    for processor, expected in [
        (VIT, Preprocessing((224, 224), (224, 224), "bilinear", "squash")),
        (VIT | {"size": 384, "resample": 1}, Preprocessing((384, 384), (384, 384), "lanczos", "squash")),
        (CONVNEXT, Preprocessing(256, 224, "bicubic")),
        (CONVNEXT | {"size": {"shortest_edge": 384}}, Preprocessing((384, 384), 384, "bicubic", "squash")),
        (CLIP, Preprocessing(256, (224, 224), "bicubic")),
        (VIT | {"rescale_factor": 1 / 127.5}, "scales levels"),
        (VIT | {"do_resize": False}, "does not resize"),
        (VIT | {"size": {"shortest_edge": 224, "longest_edge": 300}}, "resizes photos to"),
    ]:
        if isinstance(expected, Preprocessing):
            assert processor_preprocessing(processor, "hf:any") == expected
        else:
            with pytest.raises(UsageError, match=expected):
                processor_preprocessing(processor, "hf:any")
