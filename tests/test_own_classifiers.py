"""Networks as their users have them: attacked, evaluated and fine-tuned, and scored by their own library's pipeline.

Each is saved by its own library, small or with fresh weights; the independent score reads latcli's saved PNG.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import blobs, save_photo
from torch import nn

from latcli.engine.vision import import_timm, import_torchvision

Pipeline = Callable[[Image.Image], torch.Tensor]
SHORT = ["--center", "0.5", "--detector", "none", "--no-figures", "--offline", "--json"]


@dataclass
class Own:
    """A network in its user's hands: its name for latcli, how its library scores a photo, and options for latcli."""

    name: str
    net: nn.Module
    pipeline: Pipeline
    classes: int
    options: tuple[str, ...] = ()

    @torch.no_grad()
    def probabilities(self, path: Path) -> np.ndarray:
        """Of a photo's classes, by the library alone."""
        found = self.net.eval()(self.pipeline(Image.open(path).convert("RGB"))[None])
        logits = found if isinstance(found, torch.Tensor) else found["logits"]
        return logits.double().softmax(dim=1)[0].numpy()  # type: ignore[no-any-return]


def of_timm(name: str, classes: int, file: str, content: Callable[[dict[str, Any]], object], *options: str) -> Own:
    timm = import_timm()
    net = timm.create_model(name, num_classes=classes)
    torch.save(content(net.state_dict()), file)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    return Own(f"timm:{name}", net, transform, classes, ("--classifier-weights", file, *options))


def of_torchvision(name: str, classes: int, content: Callable[[dict[str, Any]], object]) -> Own:
    models = import_torchvision().models
    net = models.get_model(name, num_classes=classes)
    torch.save(content(net.state_dict()), "w.pt")
    transform = models.get_model_weights(name).DEFAULT.transforms()
    return Own(f"torchvision:{name}", net, transform, classes, ("--classifier-weights", "w.pt"))


def prefixed(prefix: str, state_dict: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state_dict.items()}


def timm_with_a_new_head() -> Own:
    """Its state dict by torch.save, class names in a file."""
    Path("names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    return of_timm("test_vit", 5, "vit.pth", dict, "--class-names", "names.txt")


def lightning_checkpoint() -> Own:
    """As Trainer.save_checkpoint writes it: the module's attribute as a prefix, hyperparameters, a loss's weights."""

    def content(state_dict: dict[str, Any]) -> object:
        return {
            "epoch": 1,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**prefixed("model.", state_dict), "criterion.weight": torch.ones(4)},
            "hyper_parameters": {"lr": 0.1, "class_names": ["a", "b", "c", "d"]},
        }

    return of_timm("test_resnet", 4, "epoch=1.ckpt", content)


def madrylab() -> Own:
    """robustness' layout: the model once as such and once in its attacker, with a normaliser beside each."""

    def content(state_dict: dict[str, Any]) -> object:
        statistics = {f"module.{where}normalizer.new_mean": torch.zeros(3, 1, 1) for where in ("", "attacker.")}
        both = prefixed("module.model.", state_dict) | prefixed("module.attacker.model.", state_dict)
        return {"model": both | statistics, "epoch": 90}

    return of_torchvision("shufflenet_v2_x0_5", 9, content)


def hugging_face() -> Own:
    """ViT for image classification, saved by save_pretrained."""
    import_torchvision()  # its processors import torchvision
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, id2label={0: "x", 1: "y", 2: "z"})
    net = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    net.save_pretrained("vit")
    processor.save_pretrained("vit")
    return Own("hf:vit", net, lambda image: processor(image, return_tensors="pt")["pixel_values"][0], 3)


#: What `nets.py` holds; it prints, as user code does.
CODE = """
import torch, torchvision
from torch import nn
print("nets is imported")

def seeded(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*(layer() for layer in layers)).eval()

def convolved(convolution, *more):
    return seeded(convolution, *more, nn.ReLU, lambda: nn.AdaptiveAvgPool2d(2))

class Features(nn.Module):
    def __init__(self, features, last, wrap=lambda x: x):
        super().__init__()
        self.features, self.head, self.last, self.wrap = features, nn.Linear(32, 5), last, wrap

    def forward(self, pixel_values):
        return self.wrap(self.head(self.last(self.features(pixel_values))))

conv, norm = lambda: nn.Conv2d(3, 8, 5, 4), lambda: nn.BatchNorm2d(8)
normed = nn.utils.parametrizations.weight_norm
flat = (nn.Flatten, lambda: nn.Linear(32, 5))

grey = lambda: seeded(lambda: nn.Conv2d(1, 8, 3, 2), nn.ReLU, nn.Flatten, lambda: nn.Linear(8 * 13 * 13, 10))
weight_normed = lambda: seeded(lambda: convolved(lambda: normed(conv()), norm), nn.Flatten, lambda: normed(flat[1]()))
scripted = lambda: torch.jit.script(seeded(lambda: convolved(conv, norm), *flat))
viewing = lambda: seeded(lambda: Features(convolved(conv), lambda x: x.view(len(x), -1)))
answers = lambda x: {"loss": None, "logits": x}
answering = lambda: seeded(lambda: Features(convolved(conv), lambda x: x.flatten(1), answers))
quantised = lambda: torch.ao.quantization.quantize_dynamic(seeded(lambda: convolved(conv), *flat), {nn.Linear})
swin = lambda: torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [7, 7], num_classes=6)
"""


def of_code(name: str, classes: int, resize: Any = 256, side: int = 224, *options: str, last: Any = None) -> Own:
    """A function in a file of the user's own."""
    Path("nets.py").write_text(CODE)
    made: dict[str, Any] = {}
    exec(CODE, made)
    transforms = import_torchvision().transforms
    steps = [transforms.Resize(resize), transforms.CenterCrop(side), transforms.ToTensor()]
    return Own(f"nets.py:{name}", made[name](), transforms.Compose(steps + [last] * bool(last)), classes, options)


def swin() -> Own:
    options = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4", "--resize", "squash", "--classifier-weights", "swin.pt")
    normalize = import_torchvision().transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    own = of_code("swin", 6, (224, 224), 224, *options, last=normalize)
    torch.save(own.net.state_dict(), "swin.pt")
    return own


NETWORKS: dict[str, Callable[[], Own]] = {
    "timm with a new head": timm_with_a_new_head,
    "torchvision with a new head": lambda: of_torchvision("squeezenet1_1", 3, lambda w: {"net": w, "epoch": 1}),
    "DataParallel": lambda: of_torchvision("mobilenet_v3_small", 4, lambda w: prefixed("module.", w)),
    "Lightning": lightning_checkpoint,
    "MadryLab": madrylab,
    "Hugging Face": hugging_face,
    "one channel": lambda: of_code("grey", 10, 28, 28, last=lambda x_CHW: x_CHW.mean(dim=0, keepdim=True)),
    "Swin": swin,
    "weight norm": lambda: of_code("weight_normed", 5),
    "scripted": lambda: of_code("scripted", 5),
    "view": lambda: of_code("viewing", 5),
    "dict of outputs": lambda: of_code("answering", 5),
    "quantised": lambda: of_code("quantised", 5),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("which", "precision"),
    [
        *((which, "auto") for which in NETWORKS),
        *((which, form) for which in ("view", "weight norm", "Swin", "scripted") for form in ("fp32", "bf16")),
    ],
)
def test_it_is_attacked_and_its_own_library_agrees_with_the_score(
    which: str, precision: str, here: Path, latcli: Callable[..., Any]
) -> None:
    own = NETWORKS[which]()
    save_photo(Path("photo.png"), 150, 190)
    # A quantised layer has no gradient.
    attack = ["--attack", "square", "--steps", "20"] if which == "quantised" else ["--steps", "2"]
    words = ["attack", "photo.png", "--classifier", own.name, *own.options, "--precision", precision]
    done = latcli(*words, *attack, *SHORT)

    assert done.code == 0, done.err
    assert ("nets is imported" in done.err) == own.name.startswith("nets.py")
    (image,) = done.json["images"]
    assert image["linf_inside"] == 0.0
    assert 0 < image["linf_outside"] <= 8 / 255 + 1e-9
    for found, path in ((image["clean"], "photo.png"), (image["adversarial"], image["files"]["adversarial"])):
        expected = own.probabilities(Path(path))
        assert (len(expected), found["index"]) == (own.classes, expected.argmax())
        assert found["p_prediction"] == pytest.approx(expected.max(), abs=1e-5)
        assert found["confidence"] == pytest.approx(expected[image["label"]["index"]], abs=1e-5)
    change = np.abs(blobs(150, 190).astype(int) - np.asarray(Image.open(image["files"]["adversarial"])))
    assert change.max() <= 8
    assert change[75 - 37 : 75 + 37, 95 - 47 : 95 + 47].max() == 0
    if which == "quantised":
        assert len(latcli(*words, *SHORT).error) == 2


def test_small_images_are_evaluated_by_it(here: Path, latcli: Callable[..., Any]) -> None:
    own = NETWORKS["one channel"]()
    done = latcli("eval", own.name, "--dataset", "mnist-5k", "--images", "20", "--steps", "2", "--json")

    assert done.code == 0, done.err
    natural = next(cell for cell in done.json["cells"] if cell["input"] == "natural")
    assert natural["n"] > 0
    assert done.json["models"][0]["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["timm with a new head", "Swin", "weight norm"])
def test_it_is_fine_tuned_on_photos_and_the_result_is_evaluated_and_attacked(
    which: str, here: Path, latcli: Callable[..., Any]
) -> None:
    for split in ("train", "test"):  # of two classes, which are names of none of the networks
        for index in range(4):
            save_photo(here / "set" / split / ("left", "right")[index % 2] / f"{index}.png", 70, 80, seed=index)
    own = NETWORKS[which]()
    options = [word for word in own.options if "names" not in word]
    photos = ["--dataset", f"folder:{here / 'set'}", "--mask-from", "center", "--center", "0.4", "--json"]
    words = ["--steps", "2", "--batch", "2", "--attack-steps", "1", "--preset", "quick", "--offline"]
    trained = latcli("train", "--architecture", own.name, *options, *photos, *words)
    assert trained.code == 0, trained.err

    evaluated = latcli("eval", trained.json["run"], *photos, "--steps", "1", "--images", "2")
    assert evaluated.code == 0, evaluated.err
    photo, checkpoint = here / "set" / "test" / "left" / "0.png", trained.json["checkpoint"]
    attacked = latcli("attack", photo, "--classifier", checkpoint, "--steps", "1", *SHORT)
    assert attacked.code == 0, attacked.err
    assert attacked.json["images"][0]["clean"]["prediction"] in ("left", "right")
