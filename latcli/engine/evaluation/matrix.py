"""Models on natural and attacked test images: fills the columns, batch by batch; must not know files or runs.

Attacks run on a model's fast form; what they find is checked against the contract and scored by the model in fp32.
Legend: B images, C channels, H, W pixels, K classes; a small b is a part of the batch. eps_B1HW is the epsilon matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import logit_margin
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import Model
from latcli.engine.datasets.base import Images, TrainingData
from latcli.engine.evaluation import distrust
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.evaluation.samples import Column
from latcli.engine.evaluation.settings import EvalSettings, InputType
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.training.regimes import masks, regime_epsilon
from latcli.errors import LatcliError


@dataclass(frozen=True)
class Subject:
    """A model under test: `net` scores, in fp32 and evaluation mode; `fast` is where attacks look for gradients."""

    name: str
    net: nn.Module
    fast: Model


@dataclass(frozen=True)
class Progress:
    """A batch is done: `images` of one column of one subject (by its position)."""

    subject: int
    input: InputType
    images: int


@dataclass(frozen=True)
class _Task:
    """A batch as an attack takes it."""

    images: Images
    eps_B1HW: torch.Tensor
    seeds_B: torch.Tensor


class Evaluation:
    """Some models, one data set, and a column for each model and input; `run` fills those that are open."""

    def __init__(self, subjects: Sequence[Subject], data: TrainingData, settings: EvalSettings) -> None:
        if data.test_count == 0:
            raise LatcliError(f"{data.name} has no test images", "choose another data set")
        self.subjects, self.data, self.settings = tuple(subjects), data, settings
        n = min(settings.images, data.test_count)
        #: Numbers of the attacked images: every so many-th of the test set.
        self.chosen_N = torch.arange(n) * data.test_count // n
        self.columns: tuple[dict[InputType, Column], ...] = tuple(
            {"natural": Column.empty(data.test_count)} | {name: Column.empty(n) for name in settings.inputs}
            for _ in subjects
        )

    def run(self, after_batch: Callable[[Progress], None]) -> None:
        """Do what is not done yet; `after_batch` may raise to stop. Raises ContractError, and LatcliError for NaN."""
        for position in range(len(self.subjects)):
            for progress in chain(self._natural(position), self._attacked(position)):
                after_batch(progress)

    def _natural(self, position: int) -> Iterator[Progress]:
        subject, column = self.subjects[position], self.columns[position]["natural"]
        numbers = torch.arange(self.data.test_count)
        places = [one for one in torch.split(numbers, self.settings.batch) if not column.is_done(one)]
        for place_B, images in zip(places, self.data.testing(places), strict=True):
            begun = time.perf_counter()
            distrust.check_labels(images.y_B, len(self.data.class_names), self.data.name)
            right_B, loss_B = judge(subject, images.x_BCHW, images.y_B)
            _fill(column, place_B, right_B, loss_B, begun)
            yield Progress(position, "natural", len(place_B))

    def _attacked(self, position: int) -> Iterator[Progress]:
        columns = self.columns[position]
        inputs = self.settings.inputs
        places = [
            one
            for one in torch.split(torch.arange(len(self.chosen_N)), self.settings.batch)
            if not all(columns[name].is_done(one) for name in inputs)
        ]
        batches = self.data.testing([self.chosen_N[place_B] for place_B in places])
        for place_B, images in zip(places, batches, strict=True):
            for name in inputs:
                if not columns[name].is_done(place_B):
                    self._attack(position, name, place_B, images)
                    yield Progress(position, name, len(place_B))

    def _attack(self, position: int, name: InputType, place_B: torch.Tensor, images: Images) -> None:
        begun = time.perf_counter()
        subject, column, settings = self.subjects[position], self.columns[position][name], self.settings
        seeds_B = item_seeds(derive_seed(settings.seed, "evaluation"), images.samples_B)
        mask_B1HW = masks(images, settings.mask_from, settings.center)
        task = _Task(images, regime_epsilon(name, mask_B1HW, settings.epsilon, seeds_B), seeds_B)
        blind_B = distrust.vanished(subject.net, images.x_BCHW, images.y_B, task.eps_B1HW)
        column.vanished_N[place_B] = blind_B.to(column.vanished_N)
        column.allowed_N[place_B] = distrust.allowed_share(task.eps_B1HW).to(column.allowed_N)
        if settings.until_wrong:
            right_B, loss_B = _until_wrong(subject, task, settings), torch.full((len(place_B),), torch.nan)
        else:
            adv_BCHW = _search(subject.fast, task, settings, stop_rank=0)
            right_B, loss_B = judge(subject, adv_BCHW, images.y_B)
        _fill(column, place_B, right_B, loss_B, begun)

    def doubts(self, position: int) -> Iterator[tuple[InputType, Doubt]]:
        """What speaks against a model's figures, once its columns are done."""
        natural = self.columns[position]["natural"]
        clean = float(natural.right_N[self.chosen_N].double().mean())
        for name in self.settings.inputs:
            column = self.columns[position][name]
            found = (
                distrust.vanishing_gradients(column.vanished_N),
                distrust.nothing_to_change(column.allowed_N),
                distrust.accuracy_rises({0.0: clean, self.settings.epsilon: column.cell().accuracy}),
            )
            yield from ((name, doubt) for doubt in found if doubt is not None)


@torch.no_grad()
def examine(subject: Subject, x_BCHW: torch.Tensor) -> list[Doubt]:
    """What speaks against a model as a whole, from its answers to some images. Raises LatcliError for NaN."""
    first_BK, second_BK = subject.net(x_BCHW).float(), subject.net(x_BCHW).float()
    distrust.check_logits(first_BK, subject.name)
    return [doubt for doubt in (distrust.random_model(first_BK, second_BK), distrust.probabilities(first_BK)) if doubt]


@torch.no_grad()
def judge(subject: Subject, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bool (B,): the top guess is right; and the cross entropy (B,), both by fp32 logits. Raises LatcliError for NaN."""
    logits_BK = subject.net(x_BCHW).float()
    distrust.check_logits(logits_BK, subject.name)
    return logits_BK.argmax(dim=1) == y_B, functional.cross_entropy(logits_BK, y_B, reduction="none")


def _search(model: Model, task: _Task, settings: EvalSettings, *, stop_rank: int) -> torch.Tensor:
    attack = replace(settings.attack(), stop_rank=stop_rank)
    images = task.images
    return run_attack(pgd, model, images.x_BCHW, images.y_B, task.eps_B1HW, attack, task.seeds_B)


def _until_wrong(subject: Subject, task: _Task, settings: EvalSettings) -> torch.Tensor:
    """Bool (B,): still right after the attack, which leaves each image at its first wrong guess.

    An image that is wrong as it is counts as wrong: changing nothing is allowed. One that fools the fast form alone was
    left too early, and is attacked again in fp32.
    """
    right_B, _ = judge(subject, task.images.x_BCHW, task.images.y_B)
    open_b = right_B.nonzero()[:, 0]
    for model in (subject.fast, subject.net):
        if not len(open_b):
            break
        part = _narrowed(task, open_b)
        adv_bCHW = _search(model, part, settings, stop_rank=1)
        right_b, _ = judge(subject, adv_bCHW, part.images.y_B)
        right_B[open_b] = right_b
        with torch.no_grad():
            fooled_b = logit_margin(model(adv_bCHW), part.images.y_B) > 0
        open_b = open_b[right_b & fooled_b]
    return right_B


def _narrowed(task: _Task, kept_b: torch.Tensor) -> _Task:
    images = task.images
    mask_b1HW = None if images.mask_B1HW is None else images.mask_B1HW[kept_b]
    part = Images(images.x_BCHW[kept_b], images.y_B[kept_b], images.samples_B[kept_b], mask_b1HW)
    return _Task(part, task.eps_B1HW[kept_b], task.seeds_B[kept_b])


def _fill(column: Column, place_B: torch.Tensor, right_B: torch.Tensor, loss_B: torch.Tensor, begun: float) -> None:
    column.loss_N[place_B] = loss_B.to(column.loss_N)
    column.right_N[place_B] = right_B.to(column.right_N)
    column.seconds_1 += time.perf_counter() - begun
