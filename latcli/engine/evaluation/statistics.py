"""How far figures can be trusted: chance in counts of images, bootstrapped intervals, models on the same images.

Torch is imported where images are drawn anew: a report asks for the chance in counts alone, and does without it.
Legend: M models, R resamples of a bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from latcli.results import Cell, Comparison, EvaluatedModel

if TYPE_CHECKING:
    from torch import Tensor

#: What is taken for chance happens by chance at least this often.
ALPHA = 0.05

_Z = NormalDist().inv_cdf(0.975)


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of the share right/n (Wilson, 1927); it also holds at 0, at 1 and for few."""
    share, z2 = right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == n else middle + half
    return low, high


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value that two models are right equally often (McNemar, 1947).

    only_a, only_b: images that one of them alone has right; by chance each is as likely to be the one.
    """
    n = only_a + only_b
    ways, term = 0, 1
    for count in range(min(only_a, only_b) + 1):
        ways += term
        term = term * (n - count) // (count + 1)
    return float(min(1.0, 2 * ways / 2**n))


def rejected(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several hypotheses are rejected, at a family-wise error rate (Holm, 1979)."""
    found = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        found[index] = True
    return found


def not_beaten(values: Sequence[float], p_value: Callable[[int, int], float]) -> list[bool]:
    """Whether each of several models may be the best: that of the highest value, and who chance may have put behind.

    `p_value(first, other)` compares two by their positions. All are False where there is nothing to compare.
    """
    if len(values) < 2:
        return [False] * len(values)
    first = max(range(len(values)), key=values.__getitem__)
    others = [index for index in range(len(values)) if index != first]
    beaten = dict(zip(others, rejected([p_value(first, other) for other in others]), strict=True))
    return [not beaten.get(index, False) for index in range(len(values))]


# images drawn anew

RESAMPLES = 1000

#: Numbers drawn at once: all resamples of a large set would take gigabytes.
_DRAWN = 2_000_000


def bootstrap_means(values_NM: Tensor, seed: int, resamples: int = RESAMPLES) -> Tensor:
    """means_RM, float64: the means of so many resamples of the N rows, the same for all columns; on the CPU.

    Equal seeds and N give equal resamples (Efron, 1979).
    """
    import torch

    from latcli.engine.noise import derive_seed

    N, _ = values_NM.shape
    values_NM = values_NM.cpu().double()
    generator = torch.Generator().manual_seed(derive_seed(seed, "bootstrap", N))
    means = []
    together = max(1, _DRAWN // N)
    for start in range(0, resamples, together):
        count = min(together, resamples - start)
        chosen_RN = torch.randint(N, (count, N), generator=generator)
        counts_RN = torch.zeros(count, N, dtype=torch.float64)
        counts_RN.scatter_add_(1, chosen_RN, torch.ones_like(counts_RN))
        means.append(counts_RN @ values_NM / N)
    return torch.cat(means)


def percentile_interval(means_R: Tensor) -> tuple[float, float]:
    """The middle 95 % of bootstrapped means."""
    import torch

    low, high = means_R.quantile(torch.tensor([0.025, 0.975], dtype=means_R.dtype)).tolist()
    return low, high


def difference_p_value(difference: float, means_R: Tensor, n: int) -> float:
    """The two-sided p-value that a mean of n paired differences is 0, by the normal law.

    means_R: bootstrapped means of the differences, whose deviation is the standard error. Never below 2^(1 - n), which
    the signs of n differences can say at most, nor below 1 / (R + 1), which R resamples can.
    """
    error = float(means_R.std())
    if difference == 0.0:
        return 1.0
    p = math.erfc(abs(difference) / error / math.sqrt(2.0)) if error else 0.0
    return min(1.0, max(p, 2.0 ** (1 - n), 1.0 / (len(means_R) + 1)))


def column_results(
    right_NM: Tensor,
    loss_NM: Tensor,
    seed: int,
    models: Sequence[EvaluatedModel],
    facts: Mapping[str, Any],
    seconds: Sequence[float],
) -> tuple[list[Cell], list[Comparison]]:
    """All models on the same images of one input: the cell of each, and every pair of them.

    right_NM bool; loss_NM float64, with NaN where losses were not measured: then the column has none. `facts` are those
    that all cells share, `seconds` the time that each model has taken. A single image has no interval of its loss.
    """
    N, M = right_NM.shape
    right_NM, has_loss = right_NM.cpu().double(), not loss_NM.isnan().any()
    accuracy_M, loss_M = right_NM.mean(dim=0).tolist(), loss_NM.double().mean(dim=0).tolist()
    loss_RM = bootstrap_means(loss_NM, seed)

    def only_right(a: int, b: int) -> tuple[int, int]:
        lead_N = right_NM[:, a] - right_NM[:, b]
        return int((lead_N > 0).sum()), int((lead_N < 0).sum())

    def loss_p_value(a: int, b: int) -> float:
        return difference_p_value(loss_M[a] - loss_M[b], loss_RM[:, a] - loss_RM[:, b], N)

    best_accuracy = not_beaten(accuracy_M, lambda a, b: mcnemar_p_value(*only_right(a, b)))
    best_loss = not_beaten([-loss for loss in loss_M], loss_p_value) if has_loss else [False] * M
    cells, comparisons = [], []
    for place, model in enumerate(models):
        accuracy_low, accuracy_high = wilson_interval(int(right_NM[:, place].sum()), N)
        measured = has_loss and N > 1
        loss_low, loss_high = percentile_interval(loss_RM[:, place]) if measured else (None, None)
        cells.append(
            Cell(
                model=model.name,
                model_id=model.id,
                label=model.label,
                regime=model.regime,
                train_seed=model.train_seed,
                n=N,
                accuracy=accuracy_M[place],
                accuracy_low=accuracy_low,
                accuracy_high=accuracy_high,
                best_accuracy=best_accuracy[place],
                loss=loss_M[place] if has_loss else None,
                loss_low=loss_low,
                loss_high=loss_high,
                best_loss=best_loss[place],
                seconds=seconds[place],
                **facts,
            )
        )
    for a, b in combinations(range(M), 2):
        only_a, only_b = only_right(a, b)
        pair = (facts["input"], models[a].id, models[b].id, N, only_a, only_b, mcnemar_p_value(only_a, only_b))
        losses = (loss_M[a] - loss_M[b], loss_p_value(a, b)) if has_loss else ()
        comparisons.append(Comparison(*pair, *losses))
    return cells, comparisons
