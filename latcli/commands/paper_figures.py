"""The paper's figures and what it claims of them, as data; must not know what was measured here.

Rothberg, Chen, Jie, Ji: Localized Adversarial Training for Increased Accuracy and Robustness in Image Classification,
AdvML'19. All numbers of the paper that latcli compares itself with stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

#: Model, input: both called as regimes are.
Place = tuple[str, str]
Quantity = Literal["loss", "accuracy"]

REGIMES = ("natural", "standard", "background")


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that figures can bear out or not.

    asked: which figures it is about; holds: whether it is true of them, in this order. Losses are mean cross entropies,
    not scaled; accuracies are shares.
    """

    text: str
    asked: tuple[tuple[Quantity, Place], ...]
    holds: Callable[..., bool]


@dataclass(frozen=True)
class Figure2:
    """What the paper says of one data set: its Figure 2, and accuracies where its text has them.

    losses: as printed, that is with those on natural inputs multiplied by `natural_scale`. accuracies: shares.
    protocol: what the paper tells of how it trained and attacked, by the names of latcli's options.
    """

    dataset: str
    source: str
    natural_scale: int
    losses: Mapping[Place, float]
    accuracies: Mapping[Place, float]
    protocol: Mapping[str, float]
    claims: tuple[Claim, ...]

    def value(self, quantity: Quantity, place: Place) -> float | None:
        """A figure of the paper, losses not scaled; None where it has none."""
        if quantity == "accuracy":
            return self.accuracies.get(place)
        loss = self.losses.get(place)
        return loss if loss is None or place[1] != "natural" else loss / self.natural_scale


@dataclass(frozen=True)
class PhotoClaim:
    """A statement on photos; asked: the figures of `PHOTO_FIGURES` it is about, holds: whether it is true of them."""

    text: str
    asked: tuple[str, ...]
    holds: Callable[..., bool]


@dataclass(frozen=True)
class PhotoTables:
    """Tables 1 and 2: `n` photos on one classifier; figures by the names of `PHOTO_FIGURES`, shares from 0 to 1."""

    source: str
    classifier: str
    n: int
    figures: Mapping[str, float]
    claims: tuple[PhotoClaim, ...]


#: Means over photos, in words.
PHOTO_FIGURES = {
    "clean_confidence": "confidence in the right class, clean",
    "adversarial_confidence": "confidence in the right class, attacked",
    "clean_top10": "right class in the top ten, clean",
    "adversarial_top10": "right class in the top ten, attacked",
    "altered": "pixels altered",
}


def _loss(model: str, given: str) -> tuple[Quantity, Place]:
    return "loss", (model, given)


def _accuracy(model: str, given: str) -> tuple[Quantity, Place]:
    return "accuracy", (model, given)


def _figure(*rows: tuple[float, float, float]) -> dict[Place, float]:
    """Figure 2 from its rows, models down, inputs across."""
    return {(model, given): row[i] for model, row in zip(REGIMES, rows, strict=True) for i, given in enumerate(REGIMES)}


_STANDARD_COSTS = Claim(
    "standard training costs loss on natural images",
    (_loss("standard", "natural"), _loss("natural", "natural")),
    lambda standard, natural: standard > natural,
)
_BACKGROUND_COSTS_NOTHING = Claim(
    "background training costs no loss on natural images",
    (_loss("background", "natural"), _loss("natural", "natural")),
    lambda background, natural: background <= natural,
)
_LEANS = Claim(
    "changing the background alone raises a natural model's loss at least tenfold",
    (_loss("natural", "background"), _loss("natural", "natural")),
    lambda attacked, natural: attacked >= 10 * natural,
)
_PROTECTS = Claim(
    "background training takes nine tenths of the loss under background attack, or more",
    (_loss("background", "background"), _loss("natural", "background")),
    lambda background, natural: background <= natural / 10,
)
_AS_GOOD = Claim(
    "there it is as good as standard training: at most 1.25 times its loss",
    (_loss("background", "background"), _loss("standard", "background")),
    lambda background, standard: background <= 1.25 * standard,
)
_SHARED = (_STANDARD_COSTS, _BACKGROUND_COSTS_NOTHING, _LEANS, _PROTECTS, _AS_GOOD)

MNIST = Figure2(
    dataset="mnist",
    source="Figure 2, MNIST",
    natural_scale=1000,
    losses=_figure((41.4, 68.19, 61.80), (57.9, 0.27, 0.21), (39.6, 0.55, 0.23)),
    accuracies={("natural", "natural"): 0.9919, ("natural", "background"): 0.0008},
    protocol={"epsilon": 0.3, "attack_steps": 100, "steps": 100_000},
    claims=(
        *_SHARED,
        Claim(
            "background training takes nine tenths of the loss under standard attack, too",
            (_loss("background", "standard"), _loss("natural", "standard")),
            lambda background, natural: background <= natural / 10,
        ),
        Claim(
            "there, too, it comes near standard training: at most 2.5 times its loss",
            (_loss("background", "standard"), _loss("standard", "standard")),
            lambda background, standard: background <= 2.5 * standard,
        ),
        Claim(
            "the background attack leaves a natural model at most one digit in ten",
            (_accuracy("natural", "background"),),
            lambda attacked: attacked <= 0.1,
        ),
    ),
)

CIFAR10 = Figure2(
    dataset="cifar10",
    source="Figure 2, CIFAR-10",
    natural_scale=100,
    losses=_figure((21.44, 54.00, 2.96), (40.49, 2.34, 0.52), (21.09, 45.37, 0.23)),
    accuracies={("natural", "natural"): 0.9517, ("natural", "background"): 0.5926},
    protocol={},
    claims=(
        *_SHARED,
        Claim(
            "background training leaves more than half of the loss under standard attack",
            (_loss("background", "standard"), _loss("natural", "standard")),
            lambda background, natural: background > natural / 2,
        ),
        Claim(
            "the background attack costs a natural model 20 points of accuracy or more",
            (_accuracy("natural", "natural"), _accuracy("natural", "background")),
            lambda natural, attacked: natural - attacked >= 0.2,
        ),
    ),
)

FIGURE_2 = (MNIST, CIFAR10)

PHOTOS = PhotoTables(
    source="Tables 1 and 2",
    classifier="inception_v3",
    n=9,
    figures={
        "clean_confidence": 0.71,
        "adversarial_confidence": 0.000169,
        "clean_top10": 8 / 9,
        "adversarial_top10": 0.0,
        "altered": 0.491,
    },
    claims=(
        PhotoClaim(
            "the background alone takes 99 % of the confidence in the right class, or more",
            ("clean_confidence", "adversarial_confidence"),
            lambda clean, attacked: attacked <= clean / 100,
        ),
        PhotoClaim(
            "the right class leaves the top ten of every photo",
            ("adversarial_top10",),
            lambda attacked: attacked == 0,
        ),
    ),
)
