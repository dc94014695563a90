"""Examples of one model on another: known answers on linear models, one start for all sources, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings, Model
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.transfer import Contender, TransferCell, transfer_matrix
from latcli.errors import ContractError, LatcliError, UsageError

SHAPE = (1, 4, 4)
PLAIN = AttackSettings(steps=10, schedule="constant", step=0.5)


def linear(weights_CHW: torch.Tensor) -> Model:
    """Two classes; the first one's lead over the second is -weights . x."""

    def classify(x_BCHW: torch.Tensor) -> torch.Tensor:
        lead_B = (x_BCHW * weights_CHW).flatten(1).sum(dim=1)
        return torch.stack([-lead_B / 2, lead_B / 2], dim=1)

    return classify


def weights(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def contender(name: str, model: Model) -> Contender:
    return Contender(name, model, model)


def images(count: int, seed: int = 0, first: int = 0) -> Images:
    """Images so far from 0 and 1 that an epsilon of 0.1 is never cut short."""
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = 0.2 + 0.6 * torch.rand(count, *SHAPE, generator=generator)
    return Images(x_BCHW, torch.randint(0, 2, (count,), generator=generator), torch.arange(first, first + count))


def uniform(batch: Images, epsilon: float = 0.1) -> torch.Tensor:
    """A matrix that protects the upper half."""
    eps_B1HW = torch.full((len(batch.y_B), 1, *SHAPE[1:]), epsilon)
    eps_B1HW[:, :, :2] = 0.0
    return eps_B1HW


def in_two(batch: Images, at: int) -> Iterator[tuple[Images, torch.Tensor]]:
    for part in (slice(0, at), slice(at, None)):
        some = Images(batch.x_BCHW[part], batch.y_B[part], batch.samples_B[part])
        yield some, uniform(some)


def by_name(cells: list[TransferCell]) -> dict[tuple[str | None, str], TransferCell]:
    return {(cell.source, cell.target): cell for cell in cells}


def test_on_linear_models_each_cell_is_the_closed_form() -> None:
    models = {"a": weights(1), "b": weights(2), "opposite of a": -weights(1)}
    batch = images(40)
    eps_B1HW = uniform(batch)
    contenders = [contender(name, linear(w_CHW)) for name, w_CHW in models.items()]
    cells = by_name(transfer_matrix(contenders, in_two(batch, 15), pgd, PLAIN, seed=0))
    assert len(cells) == 3 * 4
    sign_B111 = (1 - 2 * batch.y_B)[:, None, None, None]
    corners = {name: batch.x_BCHW + eps_B1HW * sign_B111 * w_CHW.sign() for name, w_CHW in models.items()}
    for source, x_BCHW in {None: batch.x_BCHW, **corners}.items():
        for target, w_CHW in models.items():
            logits_B2 = linear(w_CHW)(x_BCHW).double()
            cell = cells[source, target]
            assert cell.n == 40
            # float32 sums of 16 products of about 1
            assert cell.loss == pytest.approx(float(functional.cross_entropy(logits_B2, batch.y_B)), abs=2e-6)
            assert cell.accuracy == float((logits_B2.argmax(dim=1) == batch.y_B).float().mean())
    # What hurts a model helps its opposite.
    assert cells["a", "a"].loss > cells[None, "a"].loss
    assert cells["a", "opposite of a"].loss < cells[None, "opposite of a"].loss


def test_all_sources_start_at_the_same_images_however_they_are_batched() -> None:
    seen: list[list[tuple[int, int]]] = []

    def looking(
        model: Model,
        x_BCHW: torch.Tensor,
        y_B: torch.Tensor,
        eps_B1HW: torch.Tensor,
        settings: AttackSettings,
        seeds_B: torch.Tensor,
    ) -> torch.Tensor:
        seen.append(seeds_B.tolist())
        return pgd(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B)

    contenders = [contender("a", linear(weights(1))), contender("b", linear(weights(2)))]
    one_step = replace(PLAIN, steps=1, step=0.01)
    batch = images(10)
    whole = transfer_matrix(contenders, [(batch, uniform(batch))], looking, one_step, seed=5)
    parts = transfer_matrix(contenders, in_two(batch, 4), looking, one_step, seed=5)
    assert seen[0] == seen[1] == seen[2] + seen[4] == seen[3] + seen[5]
    assert len(set(map(str, seen[0]))) == 10
    for one, other in zip(whole, parts, strict=True):
        assert (one.source, one.target, one.n, one.accuracy) == (other.source, other.target, other.n, other.accuracy)
        assert one.loss == pytest.approx(other.loss, abs=1e-9)
    assert transfer_matrix(contenders, in_two(batch, 4), pgd, one_step, seed=6) != parts


def test_the_examples_are_sought_on_the_fast_form_and_scored_on_the_other() -> None:
    w_CHW, batch = weights(1), images(12)
    eps_B1HW = uniform(batch)
    one = Contender("a", linear(weights(3)), linear(w_CHW))
    cell = by_name(transfer_matrix([one], [(batch, eps_B1HW)], pgd, PLAIN, seed=0))["a", "a"]
    adv_BCHW = run_attack(pgd, one.fast, batch.x_BCHW, batch.y_B, eps_B1HW, PLAIN, torch.arange(12))
    assert cell.loss == pytest.approx(float(functional.cross_entropy(one.score(adv_BCHW), batch.y_B)), abs=2e-6)


def test_a_tie_counts_against_the_label() -> None:
    undecided = contender("undecided", lambda x_BCHW: 0 * x_BCHW.flatten(1)[:, :2])
    batch = images(6)
    cells = transfer_matrix([undecided], [(batch, uniform(batch))], pgd, PLAIN, seed=0)
    assert [(cell.accuracy, cell.loss) for cell in cells] == [(0.0, pytest.approx(math.log(2)))] * 2


def test_an_attack_that_leaves_the_matrix_is_caught() -> None:
    def leaking(model: Model, x_BCHW: torch.Tensor, *_: object) -> torch.Tensor:
        return x_BCHW + 0.001

    batch = images(3)
    with pytest.raises(ContractError, match="broke its contract"):
        transfer_matrix([contender("a", linear(weights(1)))], [(batch, uniform(batch))], leaking, PLAIN, seed=0)


def test_bad_input_is_refused_in_one_line() -> None:
    a, batch = contender("a", linear(weights(1))), images(3)
    pairs = [(batch, uniform(batch))]
    with pytest.raises(UsageError, match="same name"):
        transfer_matrix([a, a], pairs, pgd, PLAIN, seed=0)
    with pytest.raises(UsageError, match="targeted"):
        transfer_matrix([a], pairs, pgd, replace(PLAIN, targeted=True), seed=0)
    with pytest.raises(LatcliError, match="no images"):
        transfer_matrix([a], [], pgd, PLAIN, seed=0)
    beyond = [(replace(batch, y_B=torch.tensor([0, 1, 2])), uniform(batch))]
    with pytest.raises(LatcliError, match="the labels 0 to 2 do not fit a model of 2 classes"):
        transfer_matrix([a], beyond, pgd, PLAIN, seed=0)
    broken = contender("nan", lambda x_BCHW: torch.full((len(x_BCHW), 2), float("nan")))
    with pytest.raises(LatcliError, match="NaN or infinite logits"):
        transfer_matrix([a, broken], pairs, pgd, PLAIN, seed=0)
