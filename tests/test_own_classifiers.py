"""Networks as their users have them: attacked, evaluated and fine-tuned, and scored by their own library's pipeline.

Each is saved by its own library, small or with fresh weights; the independent score reads latcli's saved PNG.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import blobs
from torch import nn

from latcli.engine.vision import import_torchvision

Pipeline = Callable[[Image.Image], torch.Tensor]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@dataclass
class Own:
    """A network in its user's hands: its name for latcli, options, classes, and how its library scores a photo."""

    name: str
    net: nn.Module
    pipeline: Pipeline
    classes: int
    options: list[str] = field(default_factory=list)

    @torch.no_grad()
    def probabilities(self, path: Path) -> np.ndarray:
        """Of a photo's classes, by the library alone."""
        found = self.net.eval()(self.pipeline(Image.open(path).convert("RGB"))[None])
        logits = found if isinstance(found, torch.Tensor) else found["logits"]
        return logits.double().softmax(dim=1)[0].numpy()  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def timm_pipeline(net: nn.Module) -> Pipeline:
    import timm

    config = timm.data.resolve_model_data_config(net)
    return timm.data.create_transform(**config, is_training=False)  # type: ignore[no-any-return]


def timm_with_a_new_head(folder: Path) -> Own:
    """test_vit of timm, five classes, its state dict by torch.save, class names in a file."""
    import timm

    net = timm.create_model("test_vit", num_classes=5)
    torch.save(net.state_dict(), folder / "vit.pth")
    (folder / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    options = ["--classifier-weights", folder / "vit.pth", "--class-names", folder / "names.txt"]
    return Own("timm:test_vit", net, timm_pipeline(net), 5, [*map(str, options)])


def torchvision_with_a_new_head(folder: Path) -> Own:
    models = import_torchvision().models
    net = models.squeezenet1_1(num_classes=3)
    torch.save({"epoch": 3, "classes": ["red", "green", "blue"], "state_dict": net.state_dict()}, folder / "s.pt")
    transform = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    return Own("torchvision:squeezenet1_1", net, transform, 3, ["--classifier-weights", str(folder / "s.pt")])


def data_parallel(folder: Path) -> Own:
    models = import_torchvision().models
    net = models.mobilenet_v3_small(num_classes=4)
    torch.save(nn.DataParallel(net).state_dict(), folder / "parallel.pth")
    transform = models.MobileNet_V3_Small_Weights.DEFAULT.transforms()
    return Own(
        "torchvision:mobilenet_v3_small", net, transform, 4, ["--classifier-weights", str(folder / "parallel.pth")]
    )


def lightning_checkpoint(folder: Path) -> Own:
    """As Trainer.save_checkpoint writes it: the module's attribute as a prefix, hyperparameters, a loss's weights."""
    import timm

    net = timm.create_model("test_resnet", num_classes=4)
    state_dict = {f"model.{name}": value for name, value in net.state_dict().items()}
    checkpoint = {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**state_dict, "criterion.weight": torch.ones(4)},
        "hyper_parameters": {"lr": 0.1, "class_names": ["a", "b", "c", "d"]},
    }
    torch.save(checkpoint, folder / "epoch=1.ckpt")
    return Own("timm:test_resnet", net, timm_pipeline(net), 4, ["--classifier-weights", str(folder / "epoch=1.ckpt")])


def madrylab(folder: Path) -> Own:
    """robustness' layout: the model once as such and once in its attacker, with a normaliser beside each."""
    models = import_torchvision().models
    net = models.resnet18(num_classes=9)
    inner = {f"module.model.{name}": value for name, value in net.state_dict().items()}
    attacker = {f"module.attacker.model.{name}": value for name, value in net.state_dict().items()}
    statistics = {f"module.{where}normalizer.new_mean": torch.zeros(3, 1, 1) for where in ("", "attacker.")}
    torch.save({"model": {**inner, **attacker, **statistics}, "epoch": 90}, folder / "madry.pt")
    transform = models.ResNet18_Weights.DEFAULT.transforms()
    return Own("torchvision:resnet18", net, transform, 9, ["--classifier-weights", str(folder / "madry.pt")])


def swin(folder: Path) -> Own:
    models = import_torchvision().models
    net = models.swin_transformer.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [7, 7], num_classes=6)
    net.eval()
    torch.save(net.state_dict(), folder / "swin.pth")
    (folder / "swin_net.py").write_text(
        "from torchvision.models.swin_transformer import SwinTransformer\n"
        "def net():\n    return SwinTransformer([4, 4], 12, [1, 1], [2, 2], [7, 7], num_classes=6)\n"
    )
    options = [
        "--classifier-weights",
        "swin.pth",
        "--mean",
        "0.5,0.4,0.3",
        "--std",
        "0.2,0.3,0.4",
        "--resize",
        "squash",
    ]
    return Own("swin_net.py:net", net, squashed(224), 6, options)


def squashed(side: int) -> Pipeline:
    transforms = import_torchvision().transforms
    steps = [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return transforms.Compose(steps)  # type: ignore[no-any-return]


def hugging_face(folder: Path) -> Own:
    """ViT for image classification, saved by save_pretrained."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, id2label={0: "x", 1: "y", 2: "z"})
    net = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    net.save_pretrained(folder / "vit")
    processor.save_pretrained(folder / "vit")
    return Own(f"hf:{folder / 'vit'}", net, lambda image: processor(image, return_tensors="pt")["pixel_values"][0], 3)


ONES = {
    "grey": """
def grey():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 10))
""",
    "weight_normed": """
def weight_normed():
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.weight_norm
    layers = [norm(nn.Conv2d(3, 8, 5, 4)), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, norm(nn.Linear(32, 5)))
""",
    "scripted": """
def scripted():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return torch.jit.script(nn.Sequential(*layers, nn.Linear(32, 5)).eval())
""",
    "viewing": """
class View(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)

def viewing():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), View(), nn.Linear(32, 5))
""",
    "answering": """
class Answer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 5, 4), nn.Linear(32, 5)

    def forward(self, pixel_values):
        pooled = nn.functional.adaptive_avg_pool2d(self.conv(pixel_values).relu(), 2).flatten(1)
        return {"loss": None, "logits": self.head(pooled), "hidden": pooled}

def answering():
    torch.manual_seed(0)
    return Answer()
""",
}


def of_code(name: str, classes: int, side: int, resize: int, *, grey: bool = False) -> Callable[[Path], Own]:
    """A function in a file of the user's own."""

    def make(folder: Path) -> Own:
        (folder / "nets.py").write_text(
            "import torch\nimport torchvision\nfrom torch import nn\n" + "".join(ONES.values())
        )
        made: dict[str, Any] = {}
        exec("import torch\nfrom torch import nn\n" + "".join(ONES.values()), made)
        transforms = import_torchvision().transforms
        steps = [transforms.Resize(resize), transforms.CenterCrop(side), transforms.ToTensor()]
        steps += [transforms.Lambda(lambda x_CHW: x_CHW.mean(dim=0, keepdim=True))] if grey else []
        return Own(f"nets.py:{name}", made[name](), transforms.Compose(steps), classes)

    return make


TEN: dict[str, Callable[[Path], Own]] = {
    "timm with a new head": timm_with_a_new_head,
    "torchvision with a new head": torchvision_with_a_new_head,
    "DataParallel": data_parallel,
    "Lightning": lightning_checkpoint,
    "MadryLab": madrylab,
    "Hugging Face": hugging_face,
    "one channel": of_code("grey", 10, 28, 28, grey=True),
    "Swin": swin,
    "weight norm": of_code("weight_normed", 5, 224, 256),
    "scripted": of_code("scripted", 5, 224, 256),
    "view": of_code("viewing", 5, 224, 256),
    "dict of outputs": of_code("answering", 5, 224, 256),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import_torchvision()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("nets", "swin_net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
@pytest.mark.parametrize("which", TEN)
def test_it_is_attacked_and_its_own_library_agrees_with_the_score(
    which: str, precision: str, here: Path, latcli: Callable[..., Any]
) -> None:
    if precision != "auto" and which not in ("view", "weight norm", "Swin", "scripted"):
        pytest.skip("the form of gradients is tried on a few")
    own = TEN[which](here)
    Image.fromarray(blobs(150, 190)).save("photo.png")
    words = ["--center", "0.5", "--steps", "2", "--detector", "none", "--no-figures", "--offline", "--json"]
    done = latcli("attack", "photo.png", "--classifier", own.name, *own.options, "--precision", precision, *words)

    assert done.code == 0, done.err
    (image,) = done.json["images"]
    assert image["linf_inside"] == 0.0
    assert 0 < image["linf_outside"] <= 8 / 255 + 1e-9
    clean, adversarial = (own.probabilities(Path(path)) for path in ("photo.png", image["files"]["adversarial"]))
    for found, expected in ((image["clean"], clean), (image["adversarial"], adversarial)):
        assert len(expected) == own.classes
        assert found["index"] == expected.argmax()
        assert found["p_prediction"] == pytest.approx(expected.max(), abs=1e-5)
        assert found["confidence"] == pytest.approx(expected[image["label"]["index"]], abs=1e-5)
    before = np.asarray(Image.open("photo.png").convert("RGB")).astype(int)
    change = np.abs(before - np.asarray(Image.open(image["files"]["adversarial"])))
    assert change.max() <= 8
    assert change[75 - 37 : 75 + 37, 95 - 47 : 95 + 47].max() == 0


# evaluated and fine-tuned


@pytest.fixture
def photos(here: Path) -> Path:
    """Four photos a split of two classes, which are names of none of the networks."""
    for split in ("train", "test"):
        for index in range(4):
            path = here / "set" / split / ("left", "right")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(blobs(70, 80, seed=index)).save(path)
    return here / "set"


@pytest.mark.parametrize("which", ["one channel", "view"])
def test_it_is_evaluated(which: str, here: Path, latcli: Callable[..., Any]) -> None:
    own = TEN[which](here)
    if own.classes != 10:
        pytest.skip("digits have ten classes")
    words = ["--dataset", "mnist-5k", "--images", "20", "--steps", "2", "--json"]
    done = latcli("eval", own.name, *own.options, *words)

    assert done.code == 0, done.err
    natural = next(cell for cell in done.json["cells"] if cell["input"] == "natural")
    assert natural["n"] > 0
    assert done.json["models"][0]["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["timm with a new head", "Swin", "weight norm"])
def test_it_is_fine_tuned_on_photos_and_the_result_is_evaluated_and_attacked(
    which: str, photos: Path, here: Path, latcli: Callable[..., Any]
) -> None:
    own = TEN[which](here)
    options = [word for word in own.options if "names" not in word]
    words = ["--dataset", f"folder:{photos}", "--steps", "2", "--batch", "2", "--attack-steps", "1", "--json"]
    words += ["--preset", "quick", "--mask-from", "center", "--center", "0.4", "--offline"]
    trained = latcli("train", "--architecture", own.name, *options, *words)
    assert trained.code == 0, trained.err

    checkpoint = trained.json["checkpoint"]
    evaluated = latcli(
        *("eval", trained.json["run"], "--dataset", f"folder:{photos}", "--steps", "1", "--images", "2", "--json"),
        *("--mask-from", "center", "--center", "0.4"),
    )
    assert evaluated.code == 0, evaluated.err
    words = ["--center", "0.5", "--steps", "1", "--detector", "none", "--no-figures", "--json"]
    photo = photos / "test" / "left" / "0.png"
    attacked = latcli("attack", photo, "--classifier", checkpoint, *words)
    assert attacked.code == 0, attacked.err
    assert attacked.json["images"][0]["clean"]["prediction"] in ("left", "right")
