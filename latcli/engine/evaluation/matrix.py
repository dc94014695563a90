"""What an evaluation computes, and its models on natural and attacked test images: the columns of the loss matrix.

Attacks run on a model's fast form; what they find is checked against the contract and scored by the model in fp32. An
image whose entry is filled is done: an interrupted evaluation goes on with the others, and nothing is counted twice.
Legend: N images of a column, M models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from latcli.engine import registry
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import Attack, AttackSettings, Model, Norm
from latcli.engine.attacks.suite import HOLDS, Batch, Member, Outcome, members, standard_suite, worst_case
from latcli.engine.datasets.base import Images, MaskSource, TrainingData
from latcli.engine.evaluation import distrust
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.scoring import judge
from latcli.engine.training.regimes import Regime, masks, regime_epsilon
from latcli.errors import LatcliError, UsageError, WeightsError
from latcli.results import starts_text, steps_taken

#: What a model is tried on: the images as they are, or with what a regime of that name may change changed.
InputType = Regime

ATTACKED: tuple[InputType, ...] = ("standard", "background")
CONTROLS: tuple[InputType, ...] = ("foreground", "random")

#: The column of natural images, and that of those among them that the attacked columns have.
NATURAL, NATURAL_ATTACKED = "natural", "natural-attacked"

#: What the name of an input's column under the strong suite ends in.
_STRONG = "-strong"

#: How hard the strong suite tries: `full` is AutoAttack's budget, `quick` shows no more than that it runs.
StrongBudget = Literal["quick", "full"]
_QUICK = {"apgd_steps": 10, "targets": 3, "queries": 100}


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Equal settings, models, data and device give equal figures.

    images: how many test images are attacked; natural inputs are always all of them. epsilon in [0, 1] image scale;
    center: share of the side that the middle keeps, looked at where mask_from is center. attack: a registered name;
    norm, radius, steps, restarts: its settings. controls: the inputs foreground and random, too. until_wrong: an image
    is attacked no further than its first wrong guess, which leaves no loss to be reported. strong: the budget of the
    suite that standard and background inputs are attacked with besides; None for no suite. transfer: the models, by
    name, whose examples are tried on each other, or "all"; empty for none. curve_epsilons, curve_steps: the points of
    accuracy curves. donor_seeds: how often each photo gets other backgrounds; 0 for never. batch: images attacked
    together.
    """

    images: int = 1000
    epsilon: float
    mask_from: MaskSource = "center"
    center: float = 0.0
    attack: str = "pgd"
    norm: Norm = "linf"
    radius: float | None = None
    steps: int = 100
    restarts: int = 1
    controls: bool = False
    until_wrong: bool = False
    strong: StrongBudget | None = None
    transfer: tuple[str, ...] = ()
    curve_epsilons: tuple[float, ...] = ()
    curve_steps: tuple[int, ...] = ()
    donor_seeds: int = 0
    batch: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.center < 1.0:
            raise UsageError(f"center is {self.center:g}, not a share from 0 to below 1", "for example --center 0.5")
        if self.strong and self.norm != "linf":
            raise UsageError("the strong suite does not support --norm l2", "leave --strong or --norm l2 out")
        for what, values in {"epsilons": self.curve_epsilons, "numbers of steps": self.curve_steps}.items():
            if values:
                require_ascending(values, what)
        self.attack_settings()

    @property
    def inputs(self) -> tuple[InputType, ...]:
        """The attacked inputs, in the order of the table."""
        return (*ATTACKED, *CONTROLS) if self.controls else ATTACKED

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attacked columns, in the order of the table."""
        return (*self.inputs, *(name + _STRONG for name in ATTACKED if self.strong))

    def attack_settings(self) -> AttackSettings:
        """Steps of one size from a random start, as the paper's PGD has them. Raises UsageError."""
        return AttackSettings(
            steps=self.steps, restarts=self.restarts, schedule="constant", norm=self.norm, radius=self.radius
        )

    def attack_function(self) -> Attack:
        """The attack itself. Raises LatcliError where its plug-in cannot be imported."""
        attack: Attack = registry.load("attack", self.attack)
        return attack

    def suite(self) -> list[Member]:
        """The strong suite: APGD on cross entropy, targeted APGD on DLR, Square."""
        return standard_suite(**_QUICK) if self.strong == "quick" else standard_suite()

    @property
    def attack_name(self) -> str:
        """As the caption calls it."""
        steps = steps_taken(self.attack, self.steps)
        parts = [self.attack if steps is None else f"{self.attack}-{steps}", starts_text(self.attack, self.restarts)]
        parts += [f"l2 radius {self.radius:g}"] if self.radius is not None else []
        parts += ["until the first wrong guess"] if self.until_wrong else []
        return ", ".join(filter(None, parts))

    def facts(self, column: str) -> dict[str, Any]:
        """What a `Cell` says of how its column was made."""
        found: dict[str, Any] = {"input": column, "seed": self.seed}
        if column not in (NATURAL, NATURAL_ATTACKED):
            names = ("epsilon", "steps", "restarts", "norm", "radius", "mask_from")
            found |= {name: getattr(self, name) for name in names}
            attack = f"{self.attack} until wrong" if self.until_wrong else self.attack
            if column not in self.inputs:
                attack = " + ".join([self.attack, *(member.name for member in self.suite())])
            found |= {"attack": attack, "center": self.center if self.mask_from == "center" else None}
        return found


def require_ascending(values: Sequence[float], what: str) -> None:
    """Raise UsageError for values that are no curve's; `what` names them."""
    if not values or not values[0] > 0 or any(not low < high for low, high in pairwise(values)):
        raise UsageError(f"the {what} of a curve are not ascending and above 0", "for example 0.1 0.2 0.3, or 1 10 100")


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under test: `net` scores, in fp32 and evaluation mode; `fast` is where attacks look for gradients."""

    name: str
    net: nn.Module
    fast: Model


@dataclass(frozen=True, eq=False)
class Progress:
    """A batch is done: the images at these places of one column of one subject (by its position), in so much time."""

    subject: int
    column: str
    place_B: Tensor
    seconds: float


_OPEN = -1

#: In `Column.broken_by_N` of a strong column: the ordinary attack; the suite's members follow, in their order.
BROKEN_BY_ATTACK = 0


class Column:
    """One model on one input, or on one that a suite of attacks made; of `n` images, of which none is done yet.

    right_N int8: 1, 0, or -1 where it is open; loss_N float64: NaN where not measured; broken_by_N int8: which attack
    of a suite got the image wrong, -1 for none; vanished_N int8: 1 where the gradient is zero at every pixel that may
    change; allowed_N float32: the share of pixels that may change; seconds_1 float64: the time taken so far.
    """

    def __init__(self, n: int) -> None:
        self.right_N = torch.full((n,), _OPEN, dtype=torch.int8)
        self.loss_N = torch.full((n,), math.nan, dtype=torch.float64)
        self.broken_by_N = torch.full((n,), HOLDS, dtype=torch.int8)
        self.vanished_N = torch.zeros(n, dtype=torch.int8)
        self.allowed_N = torch.zeros(n)
        self.seconds_1 = torch.zeros(1, dtype=torch.float64)

    def is_done(self, positions_B: Tensor) -> bool:
        """Whether each image at these positions is."""
        return bool((self.right_N[positions_B] != _OPEN).all())

    @property
    def done(self) -> int:
        """How many images are."""
        return int((self.right_N != _OPEN).sum())

    def figures(self) -> tuple[float | None, float]:
        """Mean loss (None where it was not measured for every image) and accuracy. Raises ValueError before the end."""
        if self.done < len(self.right_N):
            raise ValueError("the figures of a column that is not done")
        loss = float(self.loss_N.mean())
        return None if math.isnan(loss) else loss, float(self.right_N.double().mean())

    def fill(self, place_B: Tensor, right_B: Tensor, loss_B: Tensor | None, seconds: float) -> None:
        """Note what came of the images at these positions; a loss of None was not measured."""
        if loss_B is not None:
            self.loss_N[place_B] = loss_B.to(self.loss_N)
        self.right_N[place_B] = right_B.to(self.right_N)
        self.seconds_1 += seconds

    def images(self, place_B: Tensor) -> dict[str, Tensor]:
        """What it says of the images at these positions, part by part."""
        return {name: tensor[place_B] for name, tensor in vars(self).items() if name != "seconds_1"}

    def take(self, place_B: Tensor, images: Mapping[str, Tensor], seconds: float) -> None:
        """Note what another process has found of the images at these positions, in so much time."""
        for name, tensor in images.items():
            getattr(self, name)[place_B] = tensor
        self.seconds_1 += seconds


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
            {NATURAL: Column(data.test_count)} | {name: Column(n) for name in settings.columns} for _ in subjects
        )
        self.attack_function = settings.attack_function()

    @property
    def attacked_images(self) -> tuple[int, int]:
        """How many attacked images are done, and how many there are in all columns together."""
        columns = [column for one in self.columns for name, column in one.items() if name != NATURAL]
        return sum(column.done for column in columns), sum(len(column.right_N) for column in columns)

    def run(self, rank: int = 0, size: int = 1) -> Iterator[Progress]:
        """Do what is not done yet, batch by batch; of several processes each does its share of the images.

        Raises ContractError, and LatcliError for NaN.
        """
        for position in range(len(self.subjects)):
            yield from self._natural(position, rank, size)
            yield from self._attack_open(position, rank, size)

    def outcomes(self, name: str, *, chosen: bool = False) -> tuple[Tensor, Tensor]:
        """right_NM bool and loss_NM of all models on one input; `chosen`: on the attacked images alone."""
        columns = [of_model[name] for of_model in self.columns]
        kept_N = self.chosen_N if chosen else slice(None)
        right_NM = torch.stack([column.right_N[kept_N] == 1 for column in columns], dim=1)
        return right_NM, torch.stack([column.loss_N[kept_N] for column in columns], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """All that is known image by image, by names that begin with the subject's position and the column's name."""
        parts = {
            f"{index}.{name}.{part}": tensor
            for index, columns in enumerate(self.columns)
            for name, column in columns.items()
            for part, tensor in vars(column).items()
        }
        return parts | {"chosen": self.chosen_N}

    def restore(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Fill the columns with what `tensors` gave. Raises WeightsError where that does not fit; `what` names it."""
        for name, mine in self.tensors().items():
            theirs = tensors.get(name)
            if theirs is None or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
                raise WeightsError(f"{what} does not fit the evaluation: {name}", "start a new evaluation")
            mine.copy_(theirs)

    def attacked(self, name: InputType, epsilon: float) -> Iterator[tuple[Images, Tensor]]:
        """The images that the columns are of, batch by batch, with their eps_B1HW on an input, of another epsilon."""
        for images in self.data.testing(torch.split(self.chosen_N, self.settings.batch)):
            yield images, self._matrix(name, images, epsilon, self._seeds(images))

    def doubts(self, position: int) -> Iterator[tuple[str, Doubt]]:
        """What speaks against a model's columns, by their names, once they are done."""
        columns, settings = self.columns[position], self.settings
        clean = float((columns[NATURAL].right_N[self.chosen_N] == 1).double().mean())
        for name in settings.inputs:
            column = columns[name]
            found = (
                distrust.vanishing_gradients(column.vanished_N),
                distrust.nothing_to_change(column.allowed_N),
                distrust.accuracy_rises(clean, column.figures()[1], settings.epsilon),
            )
            yield from ((name, doubt) for doubt in found if doubt is not None)
        names = [settings.attack, *(member.name for member in settings.suite())]
        black = torch.tensor([place for place, name in enumerate(names) if name == "square"], dtype=torch.int8)
        for strong in (name for name in settings.columns if name.endswith(_STRONG)):
            right_N = columns[strong].right_N == 1
            white_N = right_N | torch.isin(columns[strong].broken_by_N, black)
            if (doubt := distrust.black_box_wins(white_N, right_N)) is not None:
                yield strong, doubt

    def _natural(self, position: int, rank: int, size: int) -> Iterator[Progress]:
        subject, column = self.subjects[position], self.columns[position][NATURAL]
        # An image that is attacked falls to one process as it is, too: the strong suite asks what came of it.
        owner_N = torch.arange(self.data.test_count) % size
        owner_N[self.chosen_N] = torch.arange(len(self.chosen_N)) % size
        places = self._batches((column.right_N == _OPEN) & (owner_N == rank))
        for place_B, images in zip(places, self.data.testing(places), strict=True):
            started = time.perf_counter()
            found = judge(subject.net, images.x_BCHW, images.y_B, subject.name)
            seconds = time.perf_counter() - started
            column.fill(place_B, found.right_B, found.loss_B, seconds)
            yield Progress(position, NATURAL, place_B, seconds)

    def _batches(self, open_N: Tensor) -> list[Tensor]:
        """The positions where this is true, in batches."""
        positions = open_N.nonzero()[:, 0]
        return list(torch.split(positions, self.settings.batch)) if len(positions) else []

    def _attack_open(self, position: int, rank: int, size: int) -> Iterator[Progress]:
        columns, settings = self.columns[position], self.settings
        open_N = torch.stack([columns[name].right_N == _OPEN for name in settings.columns]).any(dim=0)
        places = self._batches(open_N & (torch.arange(len(open_N)) % size == rank))
        batches = self.data.testing([self.chosen_N[place_B] for place_B in places])
        for place_B, images in zip(places, batches, strict=True):
            for name in settings.columns:
                if columns[name].is_done(place_B):
                    continue
                started = time.perf_counter()
                measure = self._under_attack if name in settings.inputs else self._under_suite
                right_B, loss_B = measure(position, name, place_B, images)
                seconds = time.perf_counter() - started
                columns[name].fill(place_B, right_B, loss_B, seconds)
                yield Progress(position, name, place_B, seconds)

    def _under_attack(self, position: int, name: str, place_B: Tensor, images: Images) -> tuple[Tensor, Tensor | None]:
        """Whether each image is right under the attack, and its loss."""
        subject, column, settings = self.subjects[position], self.columns[position][name], self.settings
        batch = self._batch(name, images)
        blind_B = distrust.vanished(subject.net, batch.x_BCHW, batch.y_B, batch.eps_B1HW)
        column.vanished_N[place_B] = blind_B.to(column.vanished_N)
        column.allowed_N[place_B] = distrust.allowed_share(batch.eps_B1HW).to(column.allowed_N)
        if settings.until_wrong:
            return _worst(subject, batch, members([(settings.attack, settings.attack_settings())])).robust, None
        given = (batch.x_BCHW, batch.y_B, batch.eps_B1HW, settings.attack_settings(), batch.seeds_B)
        found = judge(subject.net, run_attack(self.attack_function, subject.fast, *given), batch.y_B, subject.name)
        return found.right_B, found.loss_B

    def _under_suite(self, position: int, name: str, place_B: Tensor, images: Images) -> tuple[Tensor, None]:
        """The suite on those that are right as they are and when attacked; the worst case is over all attempts."""
        subject, columns, attacked = self.subjects[position], self.columns[position], name.removesuffix(_STRONG)
        clean_B = columns[NATURAL].right_N[self.chosen_N[place_B]] == 1
        right_B = clean_B & (columns[attacked].right_N[place_B] == 1)
        broken_by_B = torch.full_like(place_B, HOLDS)
        broken_by_B[clean_B & ~right_B] = BROKEN_BY_ATTACK
        open_b = right_B.nonzero()[:, 0]
        if len(open_b):
            part = self._batch(attacked, images).narrowed(open_b.to(images.x_BCHW.device))
            outcome = _worst(subject, part, self.settings.suite())
            found_b = outcome.broken_by_B.cpu()
            broken_by_B[open_b] = torch.where(found_b == HOLDS, HOLDS, found_b + BROKEN_BY_ATTACK + 1)
            right_B[open_b] = outcome.robust.cpu()
        columns[name].broken_by_N[place_B] = broken_by_B.to(torch.int8)
        return right_B, None

    def _batch(self, name: str, images: Images) -> Batch:
        seeds_B = self._seeds(images)
        eps_B1HW = self._matrix(name, images, self.settings.epsilon, seeds_B)
        return Batch(images.x_BCHW, images.y_B, eps_B1HW, seeds_B)

    def _matrix(self, name: str, images: Images, epsilon: float, seeds_B: Tensor) -> Tensor:
        mask_B1HW = masks(images, self.settings.mask_from, self.settings.center)
        return regime_epsilon(cast(InputType, name), mask_B1HW, epsilon, seeds_B)

    def _seeds(self, images: Images) -> Tensor:
        return item_seeds(derive_seed(self.settings.seed, "evaluation"), images.samples_B)


def _worst(subject: Subject, batch: Batch, suite: Sequence[Member]) -> Outcome:
    """What a suite finds; an image leaves it at its first wrong guess, which may be of the image as it is."""
    (outcome,) = worst_case([batch], suite, subject.fast, subject.net)
    return outcome
