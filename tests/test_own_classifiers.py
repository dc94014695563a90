"""Networks as their users have them: attacked, evaluated and fine-tuned, and scored by their own library's pipeline.

Each is saved by its own library, small or with fresh weights; the independent score reads latcli's saved PNG.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_model import blobs, save_photo
from torch import nn

from latcli.engine.models.catalog import named_by_user
from latcli.engine.vision import import_timm, import_torchvision

Pipeline = Callable[[Image.Image], torch.Tensor]
MIDDLE = ["--mask-from", "center", "--center", "0.4"]
SHORT = ["--center", "0.5", "--no-figures", "--offline", "--json"]


@dataclass
class Own:
    """A network in its user's hands: its name for latcli, how its library scores a photo, and options for latcli."""

    name: str
    net: nn.Module
    pipeline: Pipeline
    classes: int
    options: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def class_name(self, index):
        return self.class_names[index] if self.class_names else f"class {index}"

    def load(self, checkpoint, classes):
        """Take what latcli trained, with a head of that many classes, by torch and safetensors alone."""
        if classes != self.classes:
            name, old = [(name, layer) for name, layer in self.net.named_modules() if outputs(layer) == self.classes][
                -1
            ]
            linear = isinstance(old, nn.Linear)
            head = nn.Linear(old.in_features, classes) if linear else nn.Conv2d(old.in_channels, classes, 1)
            self.net.set_submodule(name, head)
            self.classes = classes
        weights, first = load_file(checkpoint), next(iter(self.net.state_dict()))
        prefix = min((name.removesuffix(first) for name in weights if name.endswith(f".{first}")), key=len)
        self.net.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})

    @torch.no_grad()
    def probabilities(self, path):
        """Of a photo's classes, by the library alone."""
        found = self.net.eval()(self.pipeline(Image.open(path).convert("RGB"))[None])
        logits = found if isinstance(found, torch.Tensor) else found["logits"]
        return logits.double().softmax(dim=1)[0].numpy()


def outputs(layer):
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) else None


def of_timm(name, classes, file, content, *options):
    timm = import_timm()
    net = timm.create_model(name, num_classes=classes)
    torch.save(content(net.state_dict()), file)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    return Own(f"timm:{name}", net, transform, classes, ("--classifier-weights", file, *options))


def of_torchvision(name, classes, content):
    models = import_torchvision().models
    net = models.get_model(name, num_classes=classes)
    torch.save(content(net.state_dict()), "w.pt")
    transform = models.get_model_weights(name).DEFAULT.transforms()
    return Own(f"torchvision:{name}", net, transform, classes, ("--classifier-weights", "w.pt"))


def prefixed(prefix, state_dict):
    return {f"{prefix}{name}": value for name, value in state_dict.items()}


def timm_with_a_new_head():
    """Its state dict by torch.save, class names in a file."""
    Path("names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    own = of_timm("test_vit", 5, "vit.pth", dict, "--class-names", "names.txt")
    return replace(own, class_names=("ant", "bee", "cat", "dog", "elk"))


def lightning_checkpoint():
    """As Trainer.save_checkpoint writes it: the module's attribute as a prefix, hyperparameters, a loss's weights."""

    def content(state_dict):
        return {
            "epoch": 1,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**prefixed("model.", state_dict), "criterion.weight": torch.ones(4)},
            "hyper_parameters": {"lr": 0.1, "class_names": ["a", "b", "c", "d"]},
        }

    return replace(of_timm("test_resnet", 4, "epoch=1.ckpt", content), class_names=("a", "b", "c", "d"))


def madrylab():
    """robustness' layout: the model once as such and once in its attacker, with a normaliser beside each."""

    def content(state_dict):
        statistics = {f"module.{where}normalizer.new_mean": torch.zeros(3, 1, 1) for where in ("", "attacker.")}
        both = prefixed("module.model.", state_dict) | prefixed("module.attacker.model.", state_dict)
        return {"model": both | statistics, "epoch": 90}

    return of_torchvision("shufflenet_v2_x0_5", 9, content)


def hugging_face():
    """ViT for image classification, saved by save_pretrained."""
    import_torchvision()  # its processors import torchvision
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, id2label={0: "x", 1: "y", 2: "z"})
    net = transformers.ViTForImageClassification(config)
    # latcli resizes as PIL does; on torchvision's backend, which newer ones have besides, some levels differ by one.
    kind = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    processor = kind(size={"height": 32, "width": 32})
    net.save_pretrained("vit")
    processor.save_pretrained("vit")
    return Own(
        "hf:vit", net, lambda image: processor(image, return_tensors="pt")["pixel_values"][0], 3, (), ("x", "y", "z")
    )


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


def of_code(name, classes, resize=256, side=224, *options, last=None):
    """A function in a file of the user's own."""
    Path("nets.py").write_text(CODE)
    transforms, made = import_torchvision().transforms, {}
    exec(CODE, made)
    steps = [transforms.Resize(resize), transforms.CenterCrop(side), transforms.ToTensor()]
    return Own(f"nets.py:{name}", made[name](), transforms.Compose(steps + [last] * bool(last)), classes, options)


def swin():
    options = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4", "--resize", "squash", "--classifier-weights", "swin.pt")
    normalize = import_torchvision().transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    own = of_code("swin", 6, (224, 224), 224, *options, last=normalize)
    torch.save(own.net.state_dict(), "swin.pt")
    return own


NETWORKS = {
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
def here(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def assert_agreement(own, image, photo):
    """The contract holds, and the library sees in photo and saved result what latcli says, to five digits."""
    assert image["linf_inside"] == 0.0
    assert 0 < image["linf_outside"] <= 8 / 255 + 1e-9
    for found, path in ((image["clean"], photo), (image["adversarial"], Path(image["files"]["adversarial"]))):
        expected = own.probabilities(path)
        assert (len(expected), found["index"]) == (own.classes, expected.argmax())
        assert found["p_prediction"] == pytest.approx(expected.max(), abs=1e-5)
        assert found["confidence"] == pytest.approx(expected[image["label"]["index"]], abs=1e-5)


@pytest.mark.parametrize(
    ("which", "precision"),
    [
        *((which, "auto") for which in NETWORKS),
        *((which, form) for which in ("view", "weight norm", "Swin", "scripted") for form in ("fp32", "bf16")),
    ],
)
def test_it_is_attacked_and_its_own_library_agrees_with_the_score(which, precision, here, latcli):
    own = NETWORKS[which]()
    save_photo(Path("photo.png"), 150, 190)
    # A quantised layer has no gradient.
    attack = ["--attack", "square", "--steps", "20"] if which == "quantised" else ["--steps", "2"]
    words = ["attack", "photo.png", "--classifier", own.name, *own.options, "--precision", precision]
    done = latcli(*words, *attack, *SHORT)

    assert done.code == 0, done.err
    assert ("nets is imported" in done.err) == own.name.startswith("nets.py")
    (image,) = done.json["images"]
    assert_agreement(own, image, Path("photo.png"))
    change = np.abs(blobs(150, 190).astype(int) - np.asarray(Image.open(image["files"]["adversarial"])))
    assert change.max() <= 8
    assert change[75 - 37 : 75 + 37, 95 - 47 : 95 + 47].max() == 0
    if which == "quantised":
        assert len(latcli(*words, *SHORT).error) == 2


def test_small_images_are_evaluated_by_it(here, latcli):
    own = NETWORKS["one channel"]()
    done = latcli("eval", own.name, "--dataset", "mnist-5k", "--images", "20", "--steps", "2", "--json")
    assert done.code == 0, done.err
    natural = next(cell for cell in done.json["cells"] if cell["input"] == "natural")
    assert natural["n"] > 0
    assert done.json["models"][0]["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("which", NETWORKS)
def test_it_is_evaluated_on_photos_and_its_own_library_agrees(which, here, latcli):
    own = NETWORKS[which]()
    photos = [save_photo(here / f"{seed}.png", 150 + 20 * seed, 190, seed=seed) for seed in range(4)]
    p_NK = [own.probabilities(path) for path in photos]
    # The first photo's class is the one that the library sees in it, so that not all is wrong.
    right = int(p_NK[0].argmax())
    label_N = [right, right, (right + 1) % own.classes, (right + 1) % own.classes]
    for split in ("train", "test"):
        for path, label in zip(photos, label_N, strict=True):
            folder = here / "set" / split / own.class_name(label)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)

    words = ["--dataset", f"folder:{here / 'set'}", *MIDDLE, "--steps", "1", "--offline", "--json"]
    done = latcli("eval", own.name, *own.options, *words)
    if which == "quantised":
        assert (done.code, len(done.error)) == (1, 2), done.err
        return

    assert done.code == 0, done.err
    cells = {cell["input"]: cell for cell in done.json["cells"]}
    natural, accuracy = cells["natural"], np.mean([p_K.argmax() == n for p_K, n in zip(p_NK, label_N, strict=True)])
    assert accuracy > 0
    assert (natural["n"], natural["accuracy"]) == (4, accuracy)
    loss = np.mean([-np.log(p_K[label]) for p_K, label in zip(p_NK, label_N, strict=True)])
    assert natural["loss"] == pytest.approx(loss, abs=1e-5)
    assert cells["standard"]["loss"] > natural["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("which", NETWORKS)
def test_it_is_fine_tuned_on_photos_and_its_own_library_agrees_with_what_came_of_it(which, here, latcli):
    own = NETWORKS[which]()
    options = [word for word in own.options if "names" not in word]
    words = ["--batch", "2", "--attack-steps", "1", "--preset", "quick", *MIDDLE, "--steps", "1", "--offline", "--json"]

    def trained_on(folder, class_names):
        for split in ("train", "test"):
            for index in range(2 * len(class_names)):
                save_photo(here / folder / split / class_names[index // 2] / f"{index}.png", 70, 80, seed=index)
        return latcli("train", "--architecture", own.name, *options, "--dataset", f"folder:{here / folder}", *words)

    classes = ["left", "right"]  # which are names of none of the networks
    trained = trained_on("set", classes)
    if which in ("scripted", "quantised"):
        assert (trained.code, len(trained.error)) == (2, 2), trained.err
        # No layer of theirs can be replaced: they keep their classes.
        classes = [own.class_name(index) for index in range(own.classes)]
        trained = trained_on("same", classes)
    if which == "quantised":
        assert (trained.code, len(trained.error)) == (2, 2), trained.err
        return
    assert trained.code == 0, trained.err

    checkpoint, data = Path(trained.json["checkpoint"]), Path(trained.json["dataset"].removeprefix("folder:"))
    named = [str(checkpoint)]
    named_by_user.clear()  # as in a process of its own
    if own.name.startswith("nets.py"):  # code does not run because a checkpoint names it
        assert latcli("eval", checkpoint, "--dataset", f"folder:{data}", "--steps", "1").code == 2
        named = [own.name, "--classifier-weights", str(checkpoint)]
    evaluated = latcli("eval", *named, "--dataset", f"folder:{data}", *MIDDLE, "--steps", "1", "--offline", "--json")
    assert evaluated.code == 0, evaluated.err
    photos = [(path, classes.index(path.parent.name)) for path in sorted((data / "test").glob("*/*"))]
    attacked = latcli("attack", photos[0][0], "--classifier", *named, "--steps", "1", *SHORT)
    assert attacked.code == 0, attacked.err

    own.load(checkpoint, len(classes))
    (image,) = attacked.json["images"]
    assert_agreement(own, image, photos[0][0])
    assert image["clean"]["prediction"] == classes[image["clean"]["index"]]
    natural = next(cell for cell in evaluated.json["cells"] if cell["input"] == "natural")
    loss = -np.mean([np.log(own.probabilities(path)[label]) for path, label in photos])
    assert (natural["n"], natural["loss"]) == (len(photos), pytest.approx(loss, abs=1e-5))
