"""Several attacks one after the other, and the worst case of each image.

Source: Croce and Hein, ICML'20 (AutoAttack): who has been fooled is attacked no further. Legend: B images, C channels,
H, W pixels, K classes; a small b is the part of the batch that still holds out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latcli.engine import registry
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import cross_entropy_odds, is_right, logit_margin
from latcli.engine.attacks.settings import Attack, AttackSettings, Model, narrowed
from latcli.engine.noise import derive_seed
from latcli.errors import UsageError

#: In `Outcome.broken_by_B`: no attack of the suite found an image that fools the model.
HOLDS = -1


@dataclass(frozen=True)
class Member:
    """One attack of a suite by its name, and how it searches. Its stop rank is set by the suite."""

    name: str
    attack: Attack
    settings: AttackSettings


@dataclass(frozen=True)
class Batch:
    """Images as attacks take them: x_BCHW in [0, 1], y_B true labels, the epsilon matrix, one seed an image."""

    x_BCHW: Tensor
    y_B: Tensor
    eps_B1HW: Tensor
    seeds_B: Tensor

    def narrowed(self, kept_b: Tensor) -> Batch:
        """Some of the images (positions, int64)."""
        return Batch(self.x_BCHW[kept_b], self.y_B[kept_b], self.eps_B1HW[kept_b], self.seeds_B[kept_b])


@dataclass(frozen=True)
class Outcome:
    """What a suite found out about a batch, image by image.

    clean_B: bool, the image as it is is classified rightly. broken_by_B: int64, the position in the suite of the first
    attack that fooled the model, or HOLDS; always HOLDS where clean_B is False, since nothing was tried. adv_BCHW: the
    image that fooled the model; of one that holds out the candidate of the highest loss; the image itself where clean_B
    is False.
    """

    clean_B: Tensor
    broken_by_B: Tensor
    adv_BCHW: Tensor

    @property
    def robust(self) -> Tensor:
        """Bool (B,): classified rightly as it is and under every attack. Its mean is the robust accuracy."""
        return self.clean_B & (self.broken_by_B == HOLDS)


def standard_suite(apgd_steps: int = 100, targets: int = 9, queries: int = 5000, restarts: int = 1) -> list[Member]:
    """APGD on cross entropy, targeted APGD and Square, with AutoAttack's budgets where none are given.

    Its fourth attack, FAB, looks for the smallest change instead of the worst inside a budget, and is left out. Raises
    UsageError for budgets below 1.
    """
    white_box = AttackSettings(steps=apgd_steps, targets=targets, restarts=restarts)
    black_box = AttackSettings(steps=queries, restarts=restarts)
    return members([("apgd-ce", white_box), ("apgd-t", white_box), ("square", black_box)])


def members(named: Iterable[tuple[str, AttackSettings]]) -> list[Member]:
    """A suite of registered attacks, in the order in which they are tried.

    Raises UsageError for an unknown name, and for settings with a target: the worst case is any class but the label.
    """
    suite = [Member(name, registry.load("attack", name), settings) for name, settings in named]
    if any(member.settings.targeted for member in suite):
        raise UsageError("a suite of attacks cannot be targeted", "apgd-t chooses its targets by itself")
    return suite


def worst_case(batches: Iterable[Batch], suite: Sequence[Member], gradients: Model, score: Model) -> Iterator[Outcome]:
    """The outcome of each batch, in turn; holds one batch in memory at a time.

    `gradients` is what attacks see, in any form that is fast; `score` alone says whether an image is classified rightly
    (fp32, the ordinary forward pass). Images that are misclassified as they are stay in the count and are not attacked;
    one that was fooled leaves the batch. What an image gets depends on itself and its seed, up to the rounding that the
    size of a batch makes in the models. Every candidate is checked. Raises ContractError.
    """
    for batch in batches:
        yield _worst_of_batch(batch, suite, gradients, score)


def _worst_of_batch(batch: Batch, suite: Sequence[Member], gradients: Model, score: Model) -> Outcome:
    right_B, height_B = _rightness(score, batch.x_BCHW, batch.y_B)
    outcome = Outcome(right_B, torch.full_like(batch.y_B, HOLDS), batch.x_BCHW.clone())
    for position, member in enumerate(suite):
        open_b = outcome.robust.nonzero()[:, 0]
        if not len(open_b):
            break
        part, sees, judges = batch.narrowed(open_b), narrowed(gradients, open_b), narrowed(score, open_b)
        adv_bCHW = _attack(member, part, sees, judges)
        right_b, height_b = _rightness(judges, adv_bCHW, part.y_B)
        outcome.broken_by_B[open_b[~right_b]] = position
        taken_b = ~right_b | (height_b > height_B[open_b])
        outcome.adv_BCHW[open_b[taken_b]] = adv_bCHW[taken_b]
        height_B[open_b[taken_b]] = height_b[taken_b]
    return outcome


def _attack(member: Member, part: Batch, gradients: Model, score: Model) -> Tensor:
    """The attack with rest at the first iterate that fools; without it where that iterate fools `gradients` alone.

    Rest saves most of the work. But a win by a hair in the fast form may be none in the exact one, and an attack that
    had gone on would have won there, too.
    """
    adv_bCHW = _run(member, part, gradients, stop_rank=1)
    with torch.no_grad():
        wins_b = logit_margin(gradients(adv_bCHW), part.y_B) > 0
    disputed_b = (wins_b & _rightness(score, adv_bCHW, part.y_B)[0]).nonzero()[:, 0]
    if len(disputed_b):
        again = (part.narrowed(disputed_b), narrowed(gradients, disputed_b))
        adv_bCHW[disputed_b] = _run(member, *again, stop_rank=0)
    return adv_bCHW


def _run(member: Member, part: Batch, gradients: Model, stop_rank: int) -> Tensor:
    """One attack, checked; its chance is its own, whatever else the suite holds."""
    settings = replace(member.settings, stop_rank=stop_rank, stop_margin=0.0)
    seeds_b = part.seeds_B ^ derive_seed("suite", member.name)
    return run_attack(member.attack, gradients, part.x_BCHW, part.y_B, part.eps_B1HW, settings, seeds_b)


@torch.no_grad()
def _rightness(score: Model, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image is classified rightly, and how high its loss is (as log odds)."""
    logits_BK = score(x_BCHW)
    return is_right(logits_BK, y_B), cross_entropy_odds(logits_BK, y_B)
