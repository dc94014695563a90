"""Models on natural and attacked test images: fills the columns, batch by batch; must not know files or runs.

Attacks run on a model's fast form; what they find is checked against the contract and scored by the model in fp32.
Legend: B images, C channels, H, W pixels, K classes; a small b is a part of the batch. eps_B1HW is the epsilon matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import cross_entropy_odds, is_right
from latcli.engine.attacks.pgd import input_gradient, pgd
from latcli.engine.attacks.settings import Model
from latcli.engine.attacks.suite import HOLDS, Batch, Member, Outcome, worst_case
from latcli.engine.datasets.base import Images, TrainingData
from latcli.engine.evaluation import distrust
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.evaluation.samples import Column
from latcli.engine.evaluation.settings import ATTACKED, EvalSettings, InputType, strong_column
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
    column: str
    images: int


#: In `Column.broken_by_N` of a strong column: the ordinary attack; the suite's members follow, in their order.
BROKEN_BY_PGD = 0


class Evaluation:
    """Some models, one data set, and a column for each model and input; `run` fills those that are open."""

    def __init__(self, subjects: Sequence[Subject], data: TrainingData, settings: EvalSettings) -> None:
        if data.test_count == 0:
            raise LatcliError(f"{data.name} has no test images", "choose another data set")
        self.subjects, self.data, self.settings = tuple(subjects), data, settings
        n = min(settings.images, data.test_count)
        #: Numbers of the attacked images: every so many-th of the test set.
        self.chosen_N = torch.arange(n) * data.test_count // n
        self.columns: tuple[dict[str, Column], ...] = tuple(
            {"natural": Column.empty(data.test_count)} | {name: Column.empty(n) for name in settings.columns}
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
        columns, settings = self.columns[position], self.settings
        places = [
            place_B
            for place_B in torch.split(torch.arange(len(self.chosen_N)), settings.batch)
            if not all(columns[name].is_done(place_B) for name in settings.columns)
        ]
        batches = self.data.testing([self.chosen_N[place_B] for place_B in places])
        for place_B, images in zip(places, batches, strict=True):
            for name in settings.inputs:
                if not columns[name].is_done(place_B):
                    self._attack(position, name, place_B, images)
                    yield Progress(position, name, len(place_B))
            for name in ATTACKED if settings.strong else ():
                if not columns[strong_column(name)].is_done(place_B):
                    self._attack_strongly(position, name, place_B, images)
                    yield Progress(position, strong_column(name), len(place_B))

    def _attack(self, position: int, name: InputType, place_B: torch.Tensor, images: Images) -> None:
        begun = time.perf_counter()
        subject, column, settings = self.subjects[position], self.columns[position][name], self.settings
        batch = self._batch(name, images)
        blind_B = distrust.vanished(subject.net, batch.x_BCHW, batch.y_B, batch.eps_B1HW)
        column.vanished_N[place_B] = blind_B.to(column.vanished_N)
        column.allowed_N[place_B] = distrust.allowed_share(batch.eps_B1HW).to(column.allowed_N)
        if settings.until_wrong:
            right_B = _worst(subject, batch, settings.first_wrong()).robust
            loss_B = torch.full((len(place_B),), torch.nan)
        else:
            given = (batch.x_BCHW, batch.y_B, batch.eps_B1HW, settings.attack(), batch.seeds_B)
            right_B, loss_B = judge(subject, run_attack(pgd, subject.fast, *given), batch.y_B)
        _fill(column, place_B, right_B, loss_B, begun)

    def _attack_strongly(self, position: int, name: InputType, place_B: torch.Tensor, images: Images) -> None:
        """The suite on those that are right as they are and under PGD: the worst case is over all that was tried."""
        begun = time.perf_counter()
        subject, columns = self.subjects[position], self.columns[position]
        column = columns[strong_column(name)]
        clean_B = columns["natural"].right_N[self.chosen_N[place_B]] == 1
        right_B = clean_B & (columns[name].right_N[place_B] == 1)
        broken_by_B = torch.full_like(place_B, HOLDS)
        broken_by_B[clean_B & ~right_B] = BROKEN_BY_PGD
        open_b = right_B.nonzero()[:, 0]
        if len(open_b):
            part = self._batch(name, images).narrowed(open_b.to(images.x_BCHW.device))
            outcome = _worst(subject, part, self.settings.suite())
            found_b = outcome.broken_by_B.cpu()
            broken_by_B[open_b] = torch.where(found_b == HOLDS, HOLDS, found_b + BROKEN_BY_PGD + 1)
            right_B[open_b] = outcome.robust.cpu()
        column.broken_by_N[place_B] = broken_by_B.to(column.broken_by_N)
        _fill(column, place_B, right_B, torch.full((len(place_B),), torch.nan), begun)

    def _batch(self, name: InputType, images: Images) -> Batch:
        settings = self.settings
        seeds_B = self._seeds(images)
        eps_B1HW = self._matrix(name, images, settings.epsilon, seeds_B)
        return Batch(images.x_BCHW, images.y_B, eps_B1HW, seeds_B)

    def _matrix(self, name: InputType, images: Images, epsilon: float, seeds_B: torch.Tensor) -> torch.Tensor:
        mask_B1HW = masks(images, self.settings.mask_from, self.settings.center)
        return regime_epsilon(name, mask_B1HW, epsilon, seeds_B)

    def _seeds(self, images: Images) -> torch.Tensor:
        return item_seeds(derive_seed(self.settings.seed, "evaluation"), images.samples_B)

    def attacked(self, name: InputType, epsilon: float) -> Iterator[tuple[Images, torch.Tensor]]:
        """The images that the columns are of, batch by batch, with their eps_B1HW on an input, of another epsilon."""
        for images in self.data.testing(torch.split(self.chosen_N, self.settings.batch)):
            yield images, self._matrix(name, images, epsilon, self._seeds(images))

    def doubts(self, position: int) -> Iterator[tuple[str, Doubt]]:
        """What speaks against a model's columns, by their names, once they are done."""
        columns, settings = self.columns[position], self.settings
        clean = float(columns["natural"].right_N[self.chosen_N].double().mean())
        for name in settings.inputs:
            column = columns[name]
            found = (
                distrust.vanishing_gradients(column.vanished_N),
                distrust.nothing_to_change(column.allowed_N),
                distrust.accuracy_rises({0.0: clean, settings.epsilon: column.cell().accuracy}),
            )
            yield from ((name, doubt) for doubt in found if doubt is not None)
        for strong in map(strong_column, ATTACKED) if settings.strong else ():
            doubt = distrust.black_box_wins(*self._worst_cases(columns[strong]))
            if doubt is not None:
                yield strong, doubt

    def _worst_cases(self, column: Column) -> tuple[torch.Tensor, torch.Tensor]:
        """Bool (N,) each: right in the worst case of the white-box attacks, and in that of all."""
        black = [place + BROKEN_BY_PGD + 1 for place, one in enumerate(self.settings.suite()) if one.name == "square"]
        right_N = column.right_N == 1
        return right_N | torch.isin(column.broken_by_N, torch.tensor(black, dtype=torch.int8)), right_N


def examine(subject: Subject, x_BCHW: torch.Tensor) -> list[Doubt]:
    """What speaks against a model as a whole, from its answers to some images.

    Raises LatcliError for NaN, and for a model that gives no gradient, which most attacks need.
    """
    with torch.no_grad():
        first_BK, second_BK = subject.net(x_BCHW).float(), subject.net(x_BCHW).float()
    distrust.check_logits(first_BK, subject.name)
    try:
        input_gradient(subject.fast, x_BCHW[:1], first_BK[:1].argmax(dim=1), cross_entropy_odds)
    except (LatcliError, RuntimeError) as error:
        cause = f": {str(error).partition(chr(10))[0]}" if isinstance(error, RuntimeError) else ""
        raise LatcliError(
            f"{subject.name} gives no gradient of its logits{cause}",
            "a model under attack must be differentiable with respect to its images",
        ) from error
    return [doubt for doubt in (distrust.random_model(first_BK, second_BK), distrust.probabilities(first_BK)) if doubt]


@torch.no_grad()
def judge(subject: Subject, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bool (B,): the label is the top guess; and the cross entropy (B,); both in fp32. Raises LatcliError for NaN."""
    logits_BK = subject.net(x_BCHW).float()
    distrust.check_logits(logits_BK, subject.name)
    return is_right(logits_BK, y_B), functional.cross_entropy(logits_BK, y_B, reduction="none")


def _worst(subject: Subject, batch: Batch, suite: Sequence[Member]) -> Outcome:
    """What a suite finds; an image leaves it at its first wrong guess, which may be of the image as it is."""
    (outcome,) = worst_case([batch], suite, subject.fast, subject.net)
    return outcome


def _fill(column: Column, place_B: torch.Tensor, right_B: torch.Tensor, loss_B: torch.Tensor, begun: float) -> None:
    column.loss_N[place_B] = loss_B.to(column.loss_N)
    column.right_N[place_B] = right_B.to(column.right_N)
    column.seconds_1 += time.perf_counter() - begun
