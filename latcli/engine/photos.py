"""The whole way of photos: detect, localize, attack, check, encode, score from the encoded bytes.

A library call that any Python program can make; must not know the store, the command line or how results are shown.

Legend: B photos of a batch, H, W a photo's own size, h = w the classifier's input size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from latcli.engine import localize
from latcli.engine.attacks.contract import allowed_levels, run_attack
from latcli.engine.attacks.objectives import objective_for
from latcli.engine.attacks.pgd import input_gradient
from latcli.engine.attacks.settings import Attack, AttackSettings
from latcli.engine.canvas import (
    MAX_GRID_PIXELS,
    Canvas,
    CanvasView,
    Grid,
    adversarial_levels,
    make_canvas,
    make_grid,
    make_view,
    measure_change,
)
from latcli.engine.detectors.base import Box, Detection, Detector, Target
from latcli.engine.images import Photo, decode_png, encode_png
from latcli.engine.masks import MaskFolder, mask_folder, read_mask
from latcli.engine.models.classifier import Classifier, Prediction, predict
from latcli.engine.models.preprocessing import square_to_unit
from latcli.engine.noise import derive_seed
from latcli.engine.objects import (
    MISS_CENTER,
    DetectionCache,
    Refinement,
    WhichBoxes,
    detection_mask,
    find_object,
)
from latcli.engine.precision import GradientForm, Precision, gradient_model
from latcli.errors import LatcliError, NoObjectError, UsageError
from latcli.results import Label

#: Logits that a label must fall behind by, before an attack with a stop rank rests: PIL's resize rounds twice where
#: the differentiable one rounds once, and the score is PIL's.
STOP_MARGIN = 0.25

OnMiss = Literal["fail", "skip", "center"]


@dataclass(frozen=True)
class Localization:
    """Where the object is. At most one of `boxes`, `mask` and `center` takes the place of the detector.

    boxes: rectangles in pixels. mask: a file (white protects), or a folder of masks that lie as the photos do. center:
    the paper's middle pixels, as a share of the side. which: all boxes that agree with the label, or the best one.
    refine: "grabcut" turns boxes into silhouettes. on_miss: what to do with a photo in which nothing is found.
    """

    boxes: tuple[localize.Rectangle, ...] = ()
    mask: Path | None = None
    center: float | None = None
    which: WhichBoxes = "all"
    refine: Refinement = "none"
    on_miss: OnMiss = "fail"

    def __post_init__(self) -> None:
        given = [name for name in ("boxes", "mask", "center") if getattr(self, name) not in ((), None)]
        if len(given) > 1:
            options = " and ".join("--box" if name == "boxes" else f"--{name}" for name in given)
            raise UsageError(f"{options} cannot be used together", "each says on its own where the object is")
        if self.center is not None and not 0.0 < self.center < 1.0:
            raise UsageError(f"the center share is {self.center:g}, not between 0 and 1", "for example --center 0.25")


@dataclass(frozen=True)
class PhotoSettings:
    """Everything that decides a photo's result, besides the photo, the classifier and the detector."""

    epsilon: float = 8 / 255
    region: localize.Region = "background"
    localization: Localization = field(default_factory=Localization)
    attack: AttackSettings = field(default_factory=AttackSettings)
    target: Label | None = None
    at_model_resolution: bool = False
    precision: Precision = "auto"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Localized:
    """A photo, its label and clean prediction, the object's mask and what may change: ready to be attacked.

    `mask_HW` is uint8, 255 on the object; `how` says in words where it came from. `background_share` is the share of
    pixels that the epsilon matrix lets change, `visible_share` the same of those that the classifier sees; `allowed_HW`
    are whole levels (uint8) for the latter, since a change that nobody sees would be pointless.
    """

    photo: Photo
    label: Label
    clean: Prediction
    boxes: tuple[Box, ...]
    how: str
    mask_HW: np.ndarray
    allowed_HW: np.ndarray
    background_share: float
    visible_share: float


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """One attacked photo. Shares are in [0, 1]; confidences and ranks are the label's own.

    `adversarial_png` are the very bytes that the adversarial prediction was scored from.
    """

    localized: Localized
    adversarial: Prediction
    adversarial_png: bytes
    adversarial_HWC: np.ndarray
    altered_share: float
    linf_inside: float
    linf_outside: float
    l2: float


class PhotoAttacker:
    """A classifier, a detector and settings, ready for any number of photos."""

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        attack: Attack,
        settings: PhotoSettings,
        cache: DetectionCache | None = None,
    ) -> None:
        self.classifier, self.detector, self.attack, self.cache = classifier, detector, attack, cache
        rank = settings.attack.stop_rank
        self.settings = replace(
            settings,
            attack=replace(
                settings.attack, targeted=settings.target is not None, stop_margin=STOP_MARGIN if rank else 0.0
            ),
        )
        self.device = classifier.device

    @cached_property
    def masks(self) -> MaskFolder | None:
        """The folder of masks, where masks come from one. Raises ImageError where it cannot be read."""
        mask = self.settings.localization.mask
        return None if mask is None else mask_folder(mask)

    @cached_property
    def gradients(self) -> GradientForm:
        """The classifier in the form in which gradients are computed."""
        crop = self.classifier.preprocessing.crop
        return gradient_model(self.classifier, (3, crop, crop), self.settings.precision)

    def localize(self, photo: Photo, label: Label | None = None) -> Localized:
        """Everything up to the attack: clean prediction, object, mask, epsilon matrix.

        Without a label the clean prediction is the label. Raises NoObjectError where nothing was found and that is to
        fail, LatcliError where nothing is left to change, ImageError or UsageError for a mask or box that does not fit.
        """
        settings = self.settings
        photo = self._at_resolution(photo)
        clean = self._score([photo.image], [label.index if label else None])[0]
        label = label or Label(clean.index, clean.name, "prediction")
        if settings.target is not None and settings.target.index == label.index:
            raise UsageError(
                f"the target '{label.name}' is the class of {photo.name} itself", "choose another --target"
            )
        mask_1HW, boxes, how = self._mask(photo, label)
        seed = derive_seed(settings.seed, photo.sha256, "region")
        eps_1HW = localize.epsilon_matrix(mask_1HW[None], settings.epsilon, settings.region, [seed])[0]
        allowed_HW = allowed_levels(eps_1HW)[0].numpy()
        background_share = float(np.count_nonzero(allowed_HW)) / allowed_HW.size
        window = self._window(photo)
        visible_share = float(np.count_nonzero(allowed_HW[window])) / allowed_HW[window].size
        if visible_share == 0.0:
            raise _nothing_to_change(photo, how, settings, background_share)
        allowed_HW = _within(allowed_HW, window)
        mask_HW = mask_1HW[0].mul(255.0).round_().to(torch.uint8).numpy()
        return Localized(photo, label, clean, boxes, how, mask_HW, allowed_HW, background_share, visible_share)

    def attack_batch(self, batch: Sequence[Localized]) -> list[PhotoResult]:
        """Attack photos together; each result is what it would be alone, up to floating-point noise.

        Raises ContractError where the attack leaves the epsilon matrix.
        """
        settings = self.settings
        grids = [make_grid(one.photo.levels_HWC, one.allowed_HW) for one in batch]
        canvas = make_canvas(grids, self.device)
        wanted = [settings.target.index if settings.target else one.label.index for one in batch]
        seeds = [derive_seed(settings.seed, one.photo.sha256, "start") for one in batch]
        adv_BCHW = run_attack(
            self.attack,
            self._view(canvas),
            canvas.x_BCHW,
            torch.tensor(wanted, device=self.device),
            canvas.eps_B1HW,
            _on_grids(settings.attack, grids),
            torch.tensor(seeds, device=self.device),
        )
        levels = [
            adversarial_levels(one.photo.levels_HWC, one.allowed_HW, grid, adv_CHW, settings.attack.radius)
            for one, grid, adv_CHW in zip(batch, grids, adv_BCHW, strict=True)
        ]
        return self._results(batch, levels)

    def object_only(self, localized: Localized) -> tuple[np.ndarray, Prediction]:
        """The photo with its background blacked out (levels_HWC), and what the classifier says of it."""
        kept_HW1 = localized.mask_HW[:, :, None] >= 128
        levels_HWC = localized.photo.levels_HWC * kept_HW1
        return levels_HWC, self._score([Image.fromarray(levels_HWC)], [localized.label.index])[0]

    def seconds_a_step(self, localized: Localized) -> float:
        """Time of one gradient step on one photo, measured: the second of two, since the first one warms up."""
        grid = make_grid(localized.photo.levels_HWC, localized.allowed_HW)
        canvas = make_canvas([grid], self.device)
        view = self._view(canvas)
        y_1 = torch.tensor([localized.label.index], device=self.device)
        for _ in range(2):
            start = time.perf_counter()
            gradient_1CHW, _ = input_gradient(view, canvas.x_BCHW, y_1, objective_for(self.settings.attack))
            gradient_1CHW.sum().item()  # waits for the device
        return time.perf_counter() - start

    def _results(self, batch: Sequence[Localized], levels: Sequence[np.ndarray]) -> list[PhotoResult]:
        encoded = [encode_png(levels_HWC) for levels_HWC in levels]
        scores = self._score([decode_png(png) for png in encoded], [one.label.index for one in batch])
        results = []
        for one, levels_HWC, png, adversarial in zip(batch, levels, encoded, scores, strict=True):
            change = measure_change(one.photo.levels_HWC, levels_HWC, one.allowed_HW)
            results.append(
                PhotoResult(
                    localized=one,
                    adversarial=adversarial,
                    adversarial_png=png,
                    adversarial_HWC=levels_HWC,
                    altered_share=change.altered,
                    linf_inside=change.linf_inside,
                    linf_outside=change.linf_outside,
                    l2=change.l2,
                )
            )
        return results

    def _mask(self, photo: Photo, label: Label) -> tuple[torch.Tensor, tuple[Box, ...], str]:
        where = self.settings.localization
        if where.mask is not None:
            file = self.masks.mask_of(Path(photo.name)) if self.masks else where.mask
            mask_1HW, notes = read_mask(file, photo.size)
            return mask_1HW, (), "; ".join(["mask file", *notes])
        if where.center is not None:
            return localize.center_mask(photo.size, where.center), (), f"middle {where.center:g} of the sides"
        if where.boxes:
            given = localize.user_boxes(where.boxes, photo.size)
            boxes = tuple(Box(*box, score=1.0, name=label.name) for box in given)
            return detection_mask(photo, Detection(boxes), where.refine), boxes, "given boxes"
        found = find_object(self.detector, photo, Target(label.index, label.name), where.which, self.cache)
        if found.boxes or self.detector.name == "none":
            return detection_mask(photo, found, where.refine), found.boxes, self.detector.name
        if where.on_miss == "center":
            return (
                localize.center_mask(photo.size, MISS_CENTER),
                (),
                f"middle {MISS_CENTER:g}, {self.detector.name} missed",
            )
        raise NoObjectError(
            f"{self.detector.name} found no object in {photo.name}",
            "give --box or --mask, choose another --detector, or say --on-miss center or skip",
        )

    def _at_resolution(self, photo: Photo) -> Photo:
        if not self.settings.at_model_resolution:
            return photo
        square = np.asarray(self.classifier.preprocessing.prepare(photo.image))
        return Photo(photo.name, square, photo.sha256, (*photo.notes, f"resized to {square.shape[1]} px"), resized=True)

    def _window(self, photo: Photo) -> tuple[slice, slice]:
        if self.settings.at_model_resolution:
            return slice(None), slice(None)
        return self.classifier.preprocessing.visible(photo.size)

    def _score(self, images: Sequence[Image.Image], labels: Sequence[int | None]) -> list[Prediction]:
        read = square_to_unit if self.settings.at_model_resolution else self.classifier.preprocessing.read
        # One at a time: of several together, the last bits would depend on how many there are.
        singly = [read(image.convert("RGB"))[None].to(self.device) for image in images]
        return [predict(self.classifier, x_1Chw, [label])[0] for x_1Chw, label in zip(singly, labels, strict=True)]

    def _view(self, canvas: Canvas) -> CanvasView:
        if self.settings.at_model_resolution:
            return make_view(self.gradients, canvas, lambda size: (torch.eye(size[0]), torch.eye(size[1])))
        return make_view(self.gradients, canvas, self.classifier.preprocessing.matrices)


def batches(photos: Iterable[Localized], most: int, pixels: int = MAX_GRID_PIXELS) -> Iterator[list[Localized]]:
    """Photos in groups for `attack_batch`, in their order: at most `most`, on a canvas of at most `pixels` pixels.

    A photo that is larger than that goes alone.
    """
    group: list[Localized] = []
    height = width = 0
    for one in photos:
        h, w = one.photo.size
        taller, wider = max(height, h), max(width, w)
        if group and (len(group) == most or taller * wider * (len(group) + 1) > pixels):
            yield group
            group, taller, wider = [], h, w
        group.append(one)
        height, width = taller, wider
    if group:
        yield group


def _on_grids(settings: AttackSettings, grids: Sequence[Grid]) -> AttackSettings:
    """The settings for an attack on grids: a cell that changes changes all its pixels, so the l2 radius shrinks."""
    if settings.radius is None:
        return settings
    return replace(settings, radius=settings.radius / max(float(grid.cell_areas.max()) for grid in grids) ** 0.5)


def _within(allowed_HW: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """Nothing may change outside the window: no gradient comes from there, and a random start would stay as noise."""
    inside_HW = np.zeros_like(allowed_HW)
    inside_HW[window] = allowed_HW[window]
    return inside_HW


def _nothing_to_change(photo: Photo, how: str, settings: PhotoSettings, share: float) -> LatcliError:
    if settings.epsilon < 1 / 255:
        return UsageError(
            f"epsilon {settings.epsilon:g} is less than one 8-bit level", "the smallest one that a PNG holds is 1/255"
        )
    if share > 0.0:
        return LatcliError(
            f"all that may change in {photo.name} lies outside what the classifier sees",
            "its preprocessing crops the photo's middle; choose another box, mask or --region",
        )
    return LatcliError(
        f"nothing is left to change in {photo.name}: the object ({how}) covers the whole photo",
        "this says nothing about robustness; try --boxes best, --refine grabcut, --box or --mask",
    )
