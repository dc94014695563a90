"""Examples of one model on another: known answers on linear models, one start for all sources, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from linear_problems import linear
from torch.nn import functional

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.beyond import transfer_matrix
from latcli.engine.evaluation.matrix import Subject
from latcli.errors import LatcliError, UsageError

SHAPE = (1, 4, 4)
PLAIN = AttackSettings(steps=10, schedule="constant", step=0.5)
Batches = list[tuple[Images, torch.Tensor]]


def weights(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def subject(name, model):
    return Subject(name, model, model)


A = subject("a", linear(weights(1)))


def images(count):
    """Images so far from 0 and 1 that an epsilon of 0.1 is never cut short."""
    generator = torch.Generator().manual_seed(0)
    x_BCHW = 0.2 + 0.6 * torch.rand(count, *SHAPE, generator=generator)
    return Images(x_BCHW, torch.randint(0, 2, (count,), generator=generator), torch.arange(count))


def lower_half(batch):
    eps_B1HW = torch.full((len(batch.y_B), 1, *SHAPE[1:]), 0.1)
    eps_B1HW[:, :, :2] = 0.0
    return eps_B1HW


def whole(batch):
    return [(batch, lower_half(batch))]


def in_two(batch, at):
    for part in (slice(0, at), slice(at, None)):
        some = Images(batch.x_BCHW[part], batch.y_B[part], batch.samples_B[part])
        yield some, lower_half(some)


def transfer(subjects, batches, attack=pgd, how=PLAIN, seed=0):
    return transfer_matrix(subjects, "background", batches, attack, how, seed)


def test_on_linear_models_each_cell_is_the_closed_form():
    models = {"a": weights(1), "b": weights(2), "opposite of a": -weights(1)}
    batch = images(40)
    subjects = [subject(name, linear(w_CHW)) for name, w_CHW in models.items()]
    found = transfer(subjects, in_two(batch, 15))
    cells = {(cell.source, cell.target): cell for cell in found}
    assert len(cells) == 3 * 4
    sign_B111 = (1 - 2 * batch.y_B)[:, None, None, None]
    corners = {name: batch.x_BCHW + lower_half(batch) * sign_B111 * w_CHW.sign() for name, w_CHW in models.items()}
    for source, x_BCHW in {None: batch.x_BCHW, **corners}.items():
        for target, w_CHW in models.items():
            logits_B2 = linear(w_CHW)(x_BCHW).double()
            cell = cells[source, target]
            assert (cell.input, cell.n) == ("background", 40)
            # float32 sums of 16 products of about 1
            assert cell.loss == pytest.approx(float(functional.cross_entropy(logits_B2, batch.y_B)), abs=2e-6)
            assert cell.accuracy == float((logits_B2.argmax(dim=1) == batch.y_B).double().mean())
    # What hurts a model helps its opposite.
    assert cells["a", "a"].loss > cells[None, "a"].loss
    assert cells["a", "opposite of a"].loss < cells[None, "opposite of a"].loss


def test_all_sources_start_at_the_same_images_however_they_are_batched():
    seen = []

    def looking(*given):
        seen.append(given[-1].tolist())
        return pgd(*given)

    one_step = replace(PLAIN, steps=1, step=0.01)
    both = [A, subject("b", linear(weights(2)))]
    together = transfer(both, whole(images(10)), looking, one_step, seed=5)
    apart = transfer(both, in_two(images(10), 4), looking, one_step, seed=5)
    assert seen[0] == seen[1] == seen[2] + seen[4] == seen[3] + seen[5]
    assert len(set(seen[0])) == 10
    for one, other in zip(together, apart, strict=True):
        assert one == replace(other, loss=pytest.approx(other.loss, abs=1e-9))
    assert transfer(both, in_two(images(10), 4), pgd, one_step, seed=6) != apart


def test_the_examples_are_sought_on_the_fast_form_and_a_tie_counts_against_the_label():
    batch, fast = images(12), linear(weights(3))
    *_, cell = transfer([Subject("a", linear(weights(1)), fast)], whole(batch))
    adv_BCHW = run_attack(pgd, fast, batch.x_BCHW, batch.y_B, lower_half(batch), PLAIN, torch.arange(12))
    expected = functional.cross_entropy(linear(weights(1))(adv_BCHW), batch.y_B)
    assert cell.loss == pytest.approx(float(expected), abs=2e-6)
    cells = transfer([subject("undecided", lambda x_BCHW: 0 * x_BCHW.flatten(1)[:, :2])], whole(batch))
    assert [(cell.accuracy, cell.loss) for cell in cells] == [(0.0, pytest.approx(math.log(2)))] * 2


def test_bad_input_is_refused_in_one_line():
    batch = images(3)
    refusals = [
        (UsageError, "same name", ([A, A], whole(batch))),
        (UsageError, "targeted", ([A], whole(batch), pgd, replace(PLAIN, targeted=True))),
        (LatcliError, "no images", ([A], [])),
    ]
    for kind, message, given in refusals:
        with pytest.raises(kind, match=message):
            transfer(*given)
