"""What a mask file means: white is the object, in whatever way it was written; what is unclear is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from latcli.engine.photo_files import read_mask
from latcli.errors import ImageError

#: The object of every mask below: six rows of eight pixels, an object of 2 x 3.
OBJECT_HW = np.zeros((6, 8), dtype=bool)
OBJECT_HW[1:3, 2:5] = True


def grey(white: int, black: int = 0) -> Image.Image:
    return Image.fromarray(np.where(OBJECT_HW, white, black).astype(np.uint8))


def deep(white: int) -> Image.Image:
    return Image.fromarray(np.where(OBJECT_HW, white, 0).astype(np.uint16))


def colours(of_object: tuple[int, int, int], of_background: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    return Image.fromarray(np.where(OBJECT_HW[..., None], of_object, of_background).astype(np.uint8))


def voc(*, border: bool = False) -> Image.Image:
    """As Pascal VOC has them: a palette, class 1, and the border as number 255, which is part of the object here."""
    numbers_HW = OBJECT_HW.astype(np.uint8)
    if border:
        numbers_HW[1, 2:5] = 255
    image = Image.fromarray(numbers_HW, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, *[9] * 759, 224, 224, 192])
    return image


def cut_out() -> Image.Image:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    photo.putalpha(grey(255))
    return photo


def with_alpha(image: Image.Image, alpha: Image.Image | int) -> Image.Image:
    image.putalpha(alpha)
    return image


READ: dict[str, tuple[Callable[[], Image.Image], bool]] = {
    "black and white": (lambda: grey(255), False),
    "one bit": (lambda: grey(255).convert("1"), False),
    "palette of greys": (lambda: grey(255).convert("P"), False),
    "RGB": (lambda: grey(255).convert("RGB"), False),
    "CMYK": (lambda: grey(255).convert("CMYK"), False),
    "opaque alpha": (lambda: with_alpha(grey(255).convert("RGB"), 255), False),
    "16 bit": (lambda: deep(65535), False),
    "0 and 1": (lambda: grey(1), True),
    "0 and 200": (lambda: grey(200), True),
    "16 bit, 0 and 255": (lambda: deep(255), True),
    "a class of Pascal VOC": (voc, True),
    "with its border": (lambda: voc(border=True), True),
    "red on black": (lambda: colours((255, 0, 0)), True),
    "a cut-out": (cut_out, True),
    "alpha of one colour": (lambda: with_alpha(Image.new("RGB", (8, 6)), grey(255)), True),
    "white on nothing": (lambda: with_alpha(grey(255).convert("RGB"), grey(255)), True),
}


def test_the_object_is_found_in_masks_of_every_kind(tmp_path):
    for kind in READ:
        make, noted = READ[kind]
        path = tmp_path / "mask.tiff"
        make().save(path)
        mask_1HW, notes = read_mask(path, (6, 8))
        assert torch.equal(mask_1HW, torch.from_numpy(OBJECT_HW)[None].float())
        assert len(notes) == noted


REFUSED: dict[str, Callable[[], Image.Image]] = {
    "black": lambda: grey(0),
    "wholly transparent": lambda: with_alpha(colours((9, 8, 7)), 0),
    "nothing is white": lambda: grey(100, 50),
    "numbers of classes": lambda: Image.fromarray(np.where(OBJECT_HW, 7, np.eye(6, 8) * 255).astype(np.uint8)),
    "several colours": lambda: colours((255, 0, 0), (0, 0, 255)),
    "a photo": lambda: cut_out().convert("RGB"),
    "alpha against its colours": lambda: with_alpha(grey(0, 255).convert("RGB"), grey(255)),
    "floating point": lambda: grey(255).convert("F"),
}


def test_what_would_protect_nothing_or_the_wrong_thing_is_refused(tmp_path):
    for kind in REFUSED:
        path = tmp_path / "mask.tiff"
        REFUSED[kind]().save(path)
        with pytest.raises(ImageError, match=r"mask\.tiff"):
            read_mask(path)


def test_soft_values_are_kept(tmp_path):
    levels = np.array([[0, 51, 255], [102, 1, 254]], dtype=np.uint8)
    for scale, name in ((1, "8.png"), (257, "16.png")):
        Image.fromarray(levels.astype(np.uint16) * scale if scale > 1 else levels).save(tmp_path / name)
        mask_1HW, notes = read_mask(tmp_path / name, (2, 3))
        assert torch.equal(mask_1HW[0], torch.from_numpy(levels).float() / 255)
        assert notes == ()


def test_a_mask_of_another_size_or_none_at_all_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(ImageError, match=r"no such file: .*mask\.png"):
        read_mask(path, (6, 8))
    grey(255).save(path)
    with pytest.raises(ImageError, match="is 8x6, its photo 6x8"):
        read_mask(path, (8, 6))
    for content in (b"", b"no image"):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"mask\.png is"):
            read_mask(path, (6, 8))
