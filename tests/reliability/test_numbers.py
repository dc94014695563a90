"""Photos and networks as odd as they come, through the command: the contract holds, and a batch changes no verdict.

Short by default; LATCLI_RELIABILITY=full tries every attack, and attacks all nine photos with the default steps.
"""

from pathlib import Path

import numpy as np
import pytest
import tiny_model
from helpers import FULL
from PIL import Image
from tiny_model import save_photo

from latcli.engine.images import read_photo


@pytest.fixture
def attacked(latcli, here):
    """Attack photos of the working folder with a network of the user's own: the images of the document, by name."""

    def run(*arguments, model="tiny_model:tiny", code=0):
        fixed = ("--classifier", model, "--center", "0.4", "--no-figures", "--json")
        outcome = latcli("attack", *arguments, *fixed)
        assert outcome.code == code, outcome.err
        return {one["image"]: one for one in outcome.json["images"]}

    return run


def _assert_alike(found, expected, tolerance):
    """The same clean prediction and verdict, and confidences that differ by no more than the tolerance."""
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert one["clean"] == expected[name]["clean"]
        assert one["fooled"] == expected[name]["fooled"]
        assert one["linf_inside"] == 0
        confidences = [each["adversarial"]["confidence"] for each in (one, expected[name])]
        assert confidences[0] == pytest.approx(confidences[1], abs=tolerance), name


@pytest.mark.slow
def test_real_photos_get_the_same_verdict_in_every_batch(shared_data, attacked):
    """The default network, whose layers choose their kernels by the number of images.

    Another kernel sums in another order: noise of 1e-6, which signs and 8-bit rounding enlarge with every step.
    """
    photos = sorted((shared_data / "photos" / "paper9").iterdir())[: 9 if FULL else 4]
    how = (*photos, "--steps", "40" if FULL else "4", "--epsilon", "2/255", "--offline")
    alone, *others = (
        attacked(*how, "--batch", str(batch), model="efficientnet_lite0")
        for batch in ((1, 2, 4, 8) if FULL else (1, 4))
    )
    for one in others:
        _assert_alike(one, alone, tolerance=0.05)


def _odd_photos():
    plain, grey = Image.fromarray(tiny_model.blobs()), tiny_model.blobs()[:, :, 0]
    clear = plain.copy()
    clear.putalpha(Image.linear_gradient("L").resize(plain.size))
    sizes = {"8x8": (8, 8), "9x300": (300, 9), "300x9": (9, 300), "1x40": (40, 1), "40x1": (1, 40)}
    return {
        **{name: Image.fromarray(tiny_model.blobs(*size)) for name, size in sizes.items()},
        **{"grey": Image.fromarray(grey), "one bit": Image.fromarray(grey).convert("1"), "alpha": clear},
        **{"16 bit": Image.fromarray(grey.astype(np.uint16) * 257), "palette": plain.quantize(16)},
        **{colour: Image.new("RGB", (44, 40), colour) for colour in ("black", "white")},
    }


def test_odd_photos_keep_the_contract_in_their_files(attacked):
    for name, image in _odd_photos().items():
        image.save(f"{name}.png")
    found = attacked(*(f"{name}.png" for name in _odd_photos()), "--steps", "2", code=1)
    # Of a photo of one row the classifier sees the middle alone, and that is the object.
    assert set(found) == {f"{name}.png" for name in _odd_photos() if name not in ("1x40", "40x1")}
    for name, one in found.items():
        levels_HWC, files = read_photo(Path(name)).levels_HWC, one["files"]
        saved_HWC, mask_HW = np.asarray(Image.open(files["adversarial"])), np.asarray(Image.open(files["mask"]))
        change_HW = np.abs(saved_HWC.astype(int) - levels_HWC).max(axis=2)
        assert change_HW.max() <= 8
        assert change_HW[mask_HW == 255].max(initial=0) == 0


def test_a_classifier_of_ones_own_may_be_odd(attacked):
    for model in ("half", "bfloat16", "double", "training", "dropping", "huge", "constant"):
        (one,) = attacked(save_photo(Path("a.png")), "--steps", "2", model=f"odd_models:{model}").values()
        assert 0 <= one["adversarial"]["confidence"] <= 1
        assert one["linf_outside"] <= 8 / 255 + 1e-9


@pytest.mark.parametrize("attack", ["pgd", "square"])
def test_an_in_place_network_is_attacked_as_one_that_is_not(attack, attacked):
    """Its input is a copy: what it does to it reaches neither the gradient nor the score."""
    how = (save_photo(Path("a.png")), "--steps", "5", "--attack", attack)
    in_place, plain = (attacked(*how, model=f"odd_models:{model}")["a.png"] for model in ("in_place", "plain"))
    assert in_place["adversarial"] == plain["adversarial"]


def test_a_classifier_that_cannot_be_attacked_is_refused_in_two_lines(latcli, attacked):
    save_photo(Path("a.png"))
    for model in ("nan", "infinite", "detached", "casts_by_itself"):
        outcome = latcli("attack", "a.png", "--steps", "2", "--center", "0.4", "--classifier", f"odd_models:{model}")
        assert (outcome.code in (1, 2), len(outcome.error)) == (True, 2)


def test_a_classifier_without_gradients_is_attacked_by_queries(attacked):
    how = (save_photo(Path("a.png")), "--steps", "100", "--epsilon", "32/255", "--attack", "square")
    (one,) = attacked(*how, model="odd_models:detached").values()
    assert one["adversarial"]["confidence"] < one["clean"]["confidence"]
