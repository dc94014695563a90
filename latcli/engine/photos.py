"""The pipeline of a photo: find the object, attack, check, encode, score from the encoded bytes.

A library call that any Python program can make.

Legend: B photos of a batch, H, W a photo's own size, h, w the classifier's input size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, pairwise
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from latcli.engine import localize
from latcli.engine.attacks.contract import allowed_levels, run_attack
from latcli.engine.attacks.settings import Attack, AttackSettings, Watched
from latcli.engine.canvas import (
    MAX_GRID_PIXELS,
    Canvas,
    CanvasView,
    Change,
    Grid,
    adversarial_levels,
    make_canvas,
    make_grid,
    make_view,
    measure_change,
)
from latcli.engine.detectors.base import Target
from latcli.engine.detectors.cam import evidence_inside
from latcli.engine.devices import at_once, images_that_fit, rounded_factors
from latcli.engine.images import Photo, decode_png, encode_png, to_unit
from latcli.engine.models.classifier import Classifier, predict
from latcli.engine.noise import derive_seed
from latcli.engine.objects import FoundObject, ObjectFinder
from latcli.engine.precision import GradientForm, Precision, gradient_model
from latcli.errors import LatcliError, UsageError
from latcli.results import Label, Prediction

#: Photos that are attacked together where nothing is asked for and free memory is not known.
_BATCH = 8
#: Where it is known, at most so many, of at most so many pixels: more gain nothing, and results come late.
_LARGEST_BATCH, _LARGEST_PIXELS = 32, 4 * MAX_GRID_PIXELS
#: Logits that a label must fall behind by, before an attack with a stop rank rests: PIL's resize rounds twice where
#: the differentiable one rounds once, and the score is PIL's.
STOP_MARGIN = 0.25


@dataclass(frozen=True)
class PhotoSettings:
    """Everything that decides a photo's result, besides the photo, the classifier and the attack.

    step_size: of the first step, on the scale of epsilon, in place of the share of epsilon (or of the radius) that
    `attack` has as its step.
    """

    epsilon: float = 8 / 255
    region: localize.Region = "background"
    attack: AttackSettings = field(default_factory=AttackSettings)
    step_size: float | None = None
    target: Label | None = None
    at_model_resolution: bool = False
    precision: Precision = "auto"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Located:
    """A photo, its label and clean prediction, and its object.

    mask_HW: uint8, 255 on the object. window: the rows and columns that the classifier sees. evidence: the share of the
    classifier's evidence for the label that lies on the object, and its lift (see `evidence_inside`); None where the
    network has no map.
    """

    photo: Photo
    label: Label
    clean: Prediction
    found: FoundObject
    mask_HW: np.ndarray
    window: tuple[slice, slice]
    evidence: tuple[float, float] | None

    @property
    def size(self) -> tuple[int, int]:
        """The photo's height and width."""
        return self.photo.size

    @property
    def object_share(self) -> float:
        """Share of the photo's pixels that belong to the object."""
        return float(np.mean(self.mask_HW >= 128))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the photo to make it plain RGB, and what is doubtful about its object."""
        return (*self.photo.notes, *self.found.notes, *_doubts(self))


@dataclass(frozen=True, eq=False)
class Threat:
    """What may change in a photo: `allowed_HW` are whole levels (uint8), 0 where the classifier does not look.

    background_share: the share of the photo's pixels that the region covers; visible_share: the share of those that the
    classifier sees and that may change.
    """

    located: Located
    region: localize.Region
    epsilon: float
    allowed_HW: np.ndarray
    background_share: float
    visible_share: float

    @property
    def size(self) -> tuple[int, int]:
        """The photo's height and width."""
        return self.located.photo.size


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """One attacked photo. `adversarial_png` are the very bytes that `adversarial` was scored from.

    p_target: the probability of the target class, of a targeted attack.
    """

    threat: Threat
    adversarial: Prediction
    adversarial_png: bytes
    adversarial_HWC: np.ndarray
    change: Change
    p_target: float | None = None
    reached: bool | None = None

    @property
    def located(self) -> Located:
        """The photo and its object."""
        return self.threat.located

    @property
    def was_right(self) -> bool:
        """Whether the label was the top guess before the attack."""
        return self.located.clean.rank == 1

    @property
    def fooled(self) -> bool:
        """Right before the attack, and wrong after it."""
        return self.was_right and self.adversarial.rank > 1

    @property
    def succeeded(self) -> bool:
        """The target is reached, where there is one, else the classifier is fooled."""
        return self.fooled if self.reached is None else self.reached


#: A result of which only the scores are missing, and x_Chw, what the classifier reads in its saved bytes.
_Saved = tuple[Callable[..., PhotoResult], torch.Tensor]


class PhotoAttacker:
    """A classifier, what finds objects, an attack and settings, ready for any number of photos.

    `threads`, where given, encode and check attacked photos while a GPU attacks the next ones. scored_together: how
    many images are scored in one pass; one on a CPU, where the last bits of several would depend on how many there are.
    """

    def __init__(
        self,
        classifier: Classifier,
        finder: ObjectFinder,
        attack: Attack,
        settings: PhotoSettings,
        threads: Executor | None = None,
    ) -> None:
        self.classifier, self.finder, self.attack, self.threads = classifier, finder, attack, threads
        self.scored_together = 1 if classifier.device.type == "cpu" else _LARGEST_BATCH
        self._given_up = threading.Event()
        margin = STOP_MARGIN if settings.attack.stop_rank else 0.0
        search = replace(settings.attack, targeted=settings.target is not None, stop_margin=margin)
        self.settings = replace(settings, attack=search)
        self.device = classifier.device

    @cached_property
    def gradients(self) -> GradientForm:
        """The classifier in the form that gradients are looked for in."""
        return gradient_model(self.classifier, (3, *self.classifier.preprocessing.size), self.settings.precision)

    @cached_property
    def _passes(self) -> int:
        return passes(self.attack, self.settings.attack, len(self.classifier.class_names))

    @cached_property
    def _can_share(self) -> bool:
        """Whether threads may attack photos side by side: nothing is known of the state in others' attacks."""
        ours = getattr(self.attack, "__module__", "").startswith("latcli.")
        return self.device.type == "cpu" and ours and self.gradients.shareable

    def look_ahead(self, photo: Photo) -> None:
        """Find of a photo's object what can be found on another thread, before `locate` is called."""
        self.finder.look_ahead(self._at_resolution(photo))

    def locate(self, photo: Photo, label: Label | None = None) -> Located:
        """Clean prediction and object of a photo. Without a label the clean prediction is the label.

        Raises NoObjectError where nothing was found and that is to fail, ImageError or UsageError for a mask or box
        that does not fit, and for a target that is the photo's own class.
        """
        photo = self._at_resolution(photo)
        clean = self._score([self._read(photo.image)], [label.index if label else None])[0]
        label = label or Label(clean.index, clean.prediction, "prediction")
        if self.settings.target is not None and self.settings.target.index == label.index:
            raise UsageError(
                f"the target '{label.name}' is the class of {photo.name} itself", "choose another --target"
            )
        found = self.finder.find(photo, Target(label.index, label.name))
        mask_HW = found.mask_1HW[0].mul(255.0).round().to(torch.uint8).numpy()
        evidence = evidence_inside(self.classifier, photo, label.index, found.mask_1HW)
        return Located(photo, label, clean, found, mask_HW, self._window(photo), evidence)

    def threat(self, located: Located, region: localize.Region | None = None, epsilon: float | None = None) -> Threat:
        """The epsilon matrix of a photo, in whole levels; region and epsilon are the settings' unless they are given.

        Regions at a random place are placed within what the classifier sees, so that the control covers as much of it
        as the background does. Raises LatcliError where nothing is left to change.
        """
        region, epsilon = region or self.settings.region, epsilon or self.settings.epsilon
        seed = derive_seed(self.settings.seed, located.photo.sha256, "region")
        mask_1HW = located.found.mask_1HW
        seen_1hw = mask_1HW[:, located.window[0], located.window[1]]
        allowed_HW = np.zeros(located.photo.size, dtype=np.uint8)
        seen = allowed_levels(localize.epsilon_matrix(seen_1hw[None], epsilon, region, [seed])[0])[0].numpy()
        allowed_HW[located.window] = seen
        whole = allowed_HW
        if region != "patch":
            unplaced: localize.Region = "background" if region == "random" else region
            whole = allowed_levels(localize.epsilon_matrix(mask_1HW[None], epsilon, unplaced)[0])[0].numpy()
        background_share = float(np.count_nonzero(whole)) / whole.size
        visible_share = float(np.count_nonzero(seen)) / seen.size
        if visible_share == 0.0:
            raise _nothing_to_change(located, epsilon, background_share)
        return Threat(located, region, epsilon, allowed_HW, background_share, visible_share)

    def batches(self, photos: Iterable[Located], most: int | None = None) -> Iterator[list[Located]]:
        """Photos in groups to be attacked together, as `batches` has them.

        Without `most`, as many as free memory allows for photos of the first one's size, where it is known.
        """
        photos = iter(photos)
        first = next(photos, None)
        if first is None:
            return
        pixels = MAX_GRID_PIXELS
        if most is None:
            _ = self.gradients  # made now: making it takes memory that attacks do not
            most, fit = _BATCH, images_that_fit(self.device, partial(self._gradient_on, first))
            if fit is not None:
                # The need of a small photo is the network's, and says little about that of larger ones.
                budget = max(fit * first.size[0] * first.size[1], MAX_GRID_PIXELS)
                most, pixels = min(fit, _LARGEST_BATCH), min(budget, _LARGEST_PIXELS)
        yield from batches(chain([first], photos), most, pixels)

    def _gradient_on(self, one: Located, count: int) -> None:
        """Compute one gradient for so many copies of a photo, as an attack does; none where the classifier has none."""
        canvas = make_canvas([make_grid(one.photo.levels_HWC, np.ones(one.size, np.uint8))] * count, self.device)
        x_BCHW = canvas.x_BCHW.requires_grad_()
        with torch.enable_grad(), rounded_factors(self.device):
            logits_BK = self._view(canvas)(x_BCHW)
            if logits_BK.requires_grad:
                torch.autograd.grad(logits_BK.sum(), x_BCHW, allow_unused=True)

    def attack_batch(self, batch: Sequence[Threat], search: AttackSettings | None = None) -> list[PhotoResult]:
        """Attack photos together; each result is what it would be alone, up to floating-point noise.

        `search` takes the place of the settings' own. Raises ContractError where the attack leaves the epsilon matrix.
        """
        return self.begin_batch(batch, search)()

    def begin_batch(
        self, batch: Sequence[Threat], search: AttackSettings | None = None
    ) -> Callable[[], list[PhotoResult]]:
        """The same in two parts: attack the photos now; what is returned scores them and gives their results.

        Between the two, threads encode and check the photos, where there are threads. On a CPU each thread does all of
        it for its share of the photos now, where the classifier allows it.
        """
        search = search or self.settings.attack
        if (step_size := self.settings.step_size) is not None:
            search = replace(search, step=step_size / (search.radius or max(one.epsilon for one in batch)))
        shares = min(len(batch), torch.get_num_threads()) if self._can_share else 1
        if shares < 2:
            return self._begun(batch, search)

        def share(first: int, go_on: Callable[[], None]) -> list[PhotoResult]:
            return self._begun(batch[first::shares], search, go_on)()  # neighbours in a folder take equally long

        found = at_once([partial(share, first) for first in range(shares)])
        return lambda: [found[place % shares][place // shares] for place in range(len(batch))]

    def _begun(
        self, batch: Sequence[Threat], search: AttackSettings, go_on: Callable[[], None] | None = None
    ) -> Callable[[], list[PhotoResult]]:
        """The two parts of `begin_batch`; `go_on`, which may raise, is called now and then, on this thread."""
        settings = self.settings
        photos = [one.located.photo for one in batch]
        grids = [make_grid(one.located.photo.levels_HWC, one.allowed_HW) for one in batch]
        canvas = make_canvas(grids, self.device)
        view = self._view(canvas)
        wanted = [settings.target.index if settings.target else one.located.label.index for one in batch]
        seeds = [derive_seed(settings.seed, photo.sha256, "start") for photo in photos]
        adv_BCHW = run_attack(
            self.attack,
            view if go_on is None else Watched(view, go_on),
            canvas.x_BCHW,
            torch.tensor(wanted, device=self.device),
            canvas.eps_B1HW,
            _on_grids(search, grids),
            torch.tensor(seeds, device=self.device),
        )
        saved: list[Callable[[], _Saved]] = [
            partial(self._saved, one, grid, adv_CHW, search.radius, go_on or self.go_on)
            for one, grid, adv_CHW in zip(batch, grids, adv_BCHW.cpu(), strict=True)
        ]
        if self.threads is not None:
            saved = [self.threads.submit(one).result for one in saved]
        labels = [one.located.label.index for one in batch]
        return lambda: self._results([one() for one in saved], labels, go_on or (lambda: None))

    def smallest_epsilon(
        self, batch: Sequence[Located], region: localize.Region, most: float
    ) -> list[tuple[PhotoResult, float | None]]:
        """For each photo the least epsilon that succeeds, by bisection over whole levels up to `most`, and its result.

        None, with the result at `most`, where nothing up to there succeeds, and for a photo that was wrong before. Each
        trial is an attack that rests as soon as it succeeds, scored from its saved bytes. Bisection takes for granted
        that a larger epsilon succeeds where a smaller one does.
        """
        rank = self.settings.attack.stop_rank or 1
        search = replace(self.settings.attack, stop_rank=rank, stop_margin=STOP_MARGIN)
        highest = whole_levels(most)
        results = self.attack_batch([self.threat(one, region, highest / 255.0) for one in batch], search)
        low, high = [0] * len(batch), [highest if result.succeeded else 0 for result in results]
        while trials := [index for index in range(len(batch)) if high[index] - low[index] > 1]:
            middle = {index: (low[index] + high[index]) // 2 for index in trials}
            threats = [self.threat(batch[index], region, middle[index] / 255.0) for index in trials]
            for index, result in zip(trials, self.attack_batch(threats, search), strict=True):
                if result.succeeded:
                    high[index], results[index] = middle[index], result
                else:
                    low[index] = middle[index]
        return [(result, level / 255.0 if level else None) for result, level in zip(results, high, strict=True)]

    def object_only(self, located: Located) -> tuple[np.ndarray, Prediction]:
        """The photo with its background blacked out (levels_HWC), and the classifier's answer to it."""
        kept_HW1 = located.mask_HW[:, :, None] >= 128
        levels_HWC = located.photo.levels_HWC * kept_HW1
        return levels_HWC, self._score([self._read(Image.fromarray(levels_HWC))], [located.label.index])[0]

    def seconds(self, threat: Threat) -> float:
        """How long the attack on one photo will take: the time between its first passes, times their number."""
        canvas = make_canvas([make_grid(threat.located.photo.levels_HWC, threat.allowed_HW)], self.device)
        starts: list[float] = []

        def note() -> None:
            starts.append(time.perf_counter())
            if len(starts) == _ENOUGH:
                raise _EnoughError

        view = Watched(self._view(canvas), note)
        y_1, seed_1 = torch.tensor([threat.located.label.index]), torch.tensor([0])
        start = time.perf_counter()
        try:
            settings = self.settings.attack
            self.attack(view, canvas.x_BCHW, y_1.to(self.device), canvas.eps_B1HW, settings, seed_1.to(self.device))
        except _EnoughError:
            spans = [later - earlier for earlier, later in pairwise(starts[1:])]
            return self._passes * median(spans)
        return time.perf_counter() - start

    def give_up(self) -> None:
        """Let threads skip what they have not done yet, since the process waits for them before it ends."""
        self._given_up.set()

    def go_on(self) -> None:
        """Raise CancelledError after `give_up`."""
        if self._given_up.is_set():
            raise CancelledError

    def _saved(
        self, threat: Threat, grid: Grid, adv_CHW: torch.Tensor, radius: float | None, go_on: Callable[[], None]
    ) -> _Saved:
        """What an attack found on a photo's grid, as it is saved. Raises ContractError."""
        levels_HWC, allowed_HW = threat.located.photo.levels_HWC, threat.allowed_HW
        adversarial_HWC = adversarial_levels(levels_HWC, allowed_HW, grid, adv_CHW, radius)
        png = encode_png(adversarial_HWC, go_on)
        change = measure_change(levels_HWC, adversarial_HWC, allowed_HW)
        scored = partial(PhotoResult, threat, adversarial_png=png, adversarial_HWC=adversarial_HWC, change=change)
        return scored, self._read(decode_png(png))

    def _results(self, saved: Sequence[_Saved], labels: Sequence[int], go_on: Callable[[], None]) -> list[PhotoResult]:
        inputs, target = [x_Chw for _, x_Chw in saved], self.settings.target
        predictions = self._score(inputs, labels, go_on)
        if target is None:
            return [scored(prediction) for (scored, _), prediction in zip(saved, predictions, strict=True)]
        of_target = self._score(inputs, [target.index for _ in saved], go_on)
        return [
            scored(prediction, p_target=other.confidence, reached=prediction.index == target.index)
            for (scored, _), prediction, other in zip(saved, predictions, of_target, strict=True)
        ]

    def _at_resolution(self, photo: Photo) -> Photo:
        if not self.settings.at_model_resolution:
            return photo
        square = np.asarray(self.classifier.preprocessing.prepare(photo.image))
        return Photo(photo.name, square, photo.sha256, (*photo.notes, f"resized to {square.shape[1]} px"), resized=True)

    def _window(self, photo: Photo) -> tuple[slice, slice]:
        if self.settings.at_model_resolution:
            return slice(None), slice(None)
        return self.classifier.preprocessing.visible(photo.size)

    def _read(self, image: Image.Image) -> torch.Tensor:
        """x_Chw: how every score of a photo is taken."""
        read = to_unit if self.settings.at_model_resolution else self.classifier.preprocessing.read
        return read(image.convert("RGB"))

    def _score(
        self, inputs: Sequence[torch.Tensor], labels: Sequence[int | None], go_on: Callable[[], None] = lambda: None
    ) -> list[Prediction]:
        """The classifier's answers to inputs x_Chw."""
        predictions = []
        for begin in range(0, len(inputs), self.scored_together):
            go_on()
            part = slice(begin, begin + self.scored_together)
            predictions += predict(self.classifier, torch.stack([*inputs[part]]).to(self.device), labels[part])
        return predictions

    def _view(self, canvas: Canvas) -> CanvasView:
        return make_view(
            self.gradients, canvas, None if self.settings.at_model_resolution else self.classifier.preprocessing
        )


T = TypeVar("T", Located, Threat)


def batches(photos: Iterable[T], most: int, pixels: int = MAX_GRID_PIXELS) -> Iterator[list[T]]:
    """Photos in groups for `attack_batch`, in their order: at most `most`, on a canvas of at most `pixels` pixels.

    A photo that is larger than that goes alone.
    """
    group: list[T] = []
    height = width = 0
    for one in photos:
        h, w = one.size
        taller, wider = max(height, h), max(width, w)
        if group and (len(group) == most or taller * wider * (len(group) + 1) > pixels):
            yield group
            group, taller, wider = [], h, w
        group.append(one)
        height, width = taller, wider
    if group:
        yield group


def whole_levels(epsilon: float) -> int:
    """How many whole 8-bit levels an epsilon allows. Raises UsageError for less than one."""
    levels = int(epsilon * 255.0 + 1e-6)
    if levels < 1:
        raise UsageError(
            f"epsilon {epsilon:g} is less than one 8-bit level", "the smallest that a PNG can hold is 1/255"
        )
    return levels


def passes(attack: Attack, settings: AttackSettings, classes: int) -> int:
    """How many passes through the model an attack on one image takes if it never succeeds.

    Counted by running it on a small linear model that is sure of its label.
    """
    weights_KN = torch.rand(classes, 3 * 16 * 16, generator=torch.Generator().manual_seed(0)) * 1e-3
    lead_K = torch.zeros(classes).index_fill(0, torch.tensor([1 if settings.targeted else 0]), 1e3)
    starts: list[None] = []
    model = Watched(lambda x_BCHW: x_BCHW.flatten(1) @ weights_KN.T + lead_K, lambda: starts.append(None))
    x_1CHW, eps_11HW = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 1, 16, 16), 8 / 255)
    attack(model, x_1CHW, torch.tensor([0]), eps_11HW, replace(settings, stop_rank=0), torch.tensor([0]))
    return len(starts)


#: Passes of an attack that are timed to say how long all of it will take.
_ENOUGH = 6


class _EnoughError(Exception):
    """Enough passes were timed."""


def _on_grids(settings: AttackSettings, grids: Sequence[Grid]) -> AttackSettings:
    """The settings for an attack on grids: a cell that changes changes all its pixels, so the l2 radius shrinks."""
    if settings.radius is None:
        return settings
    return replace(settings, radius=settings.radius / max(float(grid.cell_areas.max()) for grid in grids) ** 0.5)


#: A lift of the evidence below this says that the object holds hardly more of it than its area would.
_LOW_LIFT = 1.2


def _doubts(located: Located) -> tuple[str, ...]:
    found = located.found.detector in ("saliency", "yolo", "mobilenet")
    if found and located.evidence is not None and located.evidence[1] < _LOW_LIFT:
        share, lift = located.evidence
        return (
            f"{100 * share:.0f} % of the classifier's evidence lies on the object, {lift:.1f} times what its area "
            "would hold by chance: look at the mask",
        )
    return ()


def _nothing_to_change(located: Located, epsilon: float, share: float) -> LatcliError:
    name = located.photo.name
    whole_levels(epsilon)  # the reason, where it is less than one
    if located.object_share == 0.0:
        return LatcliError(
            f"there is no object in {name} whose pixels could change", "try another --detector, --box or --mask"
        )
    if share > 0.0:
        return LatcliError(
            f"all that may change in {name} lies outside what the classifier sees",
            "its preprocessing crops the photo's middle; choose another box, mask or --region",
        )
    return LatcliError(
        f"nothing is left to change in {name}: the object ({located.found.how}) covers the whole photo",
        "this says nothing about robustness; try --boxes best, --refine saliency, --box or --mask",
    )
