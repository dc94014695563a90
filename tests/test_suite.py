"""A suite takes the worst case of each image: whom it attacks, who scores, what it keeps, and what peers find."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torchattacks
from small_digits import EPSILON

from latcli.engine.attacks.objectives import cross_entropy_odds, logit_margin
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.attacks.suite import HOLDS, Batch, Member, members, standard_suite, worst_case
from latcli.engine.localize import center_mask, epsilon_matrix
from latcli.errors import UsageError


def _one(batch, suite, gradients, score=None):
    (outcome,) = worst_case([batch], suite, gradients, score or gradients)
    return outcome


# One pixel: the label is class 0, and the model's other class stands at 4 x - 2

EDGE = torch.tensor([0.1, 0.3, 0.45, 0.8])  # the last one is misclassified as it is


def _edge(x_B111):
    lead_B = 4 * x_B111.flatten() - 2
    return torch.stack([torch.zeros_like(lead_B), lead_B], dim=1)


def _edge_batch(epsilon=0.25):
    x_B111 = EDGE.view(-1, 1, 1, 1)
    return Batch(x_B111, torch.zeros(4, dtype=torch.int64), torch.full_like(x_B111, epsilon), torch.arange(4))


def _spy(seen, add):
    """Adds a share of epsilon, and notes which images it was given (by their values)."""

    def attack(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B):
        seen.append([int((EDGE - value).abs().argmin()) for value in x_BCHW.flatten()])
        return (x_BCHW + add * eps_B1HW).clamp(0, 1)

    return attack


def test_each_image_is_attacked_until_it_is_fooled():
    seen = []
    suite = [Member(f"add {add}", _spy(seen, add), AttackSettings()) for add in (0.4, 1.0, -1.0)]
    outcome = _one(_edge_batch(), suite, _edge)
    # Image 3 is wrong as it is; .45 + .1 fools; .3 + .25 fools; .1 + .25 does not.
    assert seen == [[0, 1, 2], [0, 1], [0]]
    assert outcome.clean_B.tolist() == [True, True, True, False]
    assert outcome.broken_by_B.tolist() == [HOLDS, 1, 0, HOLDS]
    assert outcome.robust.tolist() == [True, False, False, False]
    # Of one that holds out the worst try, of one that was wrong already the image itself.
    assert outcome.adv_BCHW.flatten().tolist() == pytest.approx([0.35, 0.55, 0.55, 0.8])
    assert outcome.robust.float().mean() == 0.25  # of all four, the misclassified one included


def test_batches_are_taken_one_at_a_time_and_what_is_wrong_as_it_is_is_not_attacked():
    seen = []
    wrong = replace(_edge_batch(), y_B=torch.where(EDGE > 0.5, 0, 1))
    batches = iter([wrong, _edge_batch()])
    outcomes = worst_case(batches, [Member("spy", _spy(seen, 1.0), AttackSettings())], _edge, _edge)
    outcome = next(outcomes)
    assert (seen, outcome.clean_B.any().item()) == ([], False)
    assert torch.equal(outcome.adv_BCHW, wrong.x_BCHW)
    assert len(list(batches)) == 1


def test_the_score_decides_not_the_gradients():
    """The fast form says that everything fools it; and that nothing does."""

    for lead in (50.0, -50.0, 0.0):

        def gradients(x_B111, lead=lead):
            return _edge(x_B111) + torch.tensor([0.0, lead])

        outcome = _one(_edge_batch(), members([("pgd", AttackSettings(steps=10))]), gradients, _edge)
        assert outcome.robust.tolist() == [True, False, False, False]
        assert outcome.clean_B.tolist() == [True, True, True, False]
        assert (_edge(outcome.adv_BCHW).argmax(dim=1) == 0).tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr", "apgd-t", "square"])
def test_a_win_by_a_hair_in_the_fast_form_alone_is_fought_out(name):
    """The fast form falls a little before the exact one; who rested there would seem to hold out."""
    hair = 1e-2

    def fast(x_B111):
        return _edge(x_B111) + torch.tensor([0.0, hair])

    batch = _edge_batch()
    # The fast form is fooled from .4975 on, and already by the image as it is; the exact one beyond .5.
    batch = replace(batch, x_BCHW=torch.full_like(batch.x_BCHW, 0.499))
    outcome = _one(batch, members([(name, AttackSettings(steps=10, random_start=False))]), fast, _edge)
    assert outcome.clean_B.all()
    assert (outcome.broken_by_B == 0).all()
    assert logit_margin(_edge(outcome.adv_BCHW), batch.y_B).min() > 0


def test_the_standard_suite_has_the_budgets_of_autoattack():
    found = {member.name: (member.settings.steps, member.settings.restarts) for member in standard_suite()}
    assert found == {"apgd-ce": (100, 1), "apgd-t": (100, 1), "square": (5000, 1)}
    assert standard_suite()[1].settings.targets == 9


def test_what_no_suite_can_be_made_of_is_refused():
    with pytest.raises(UsageError, match="cannot be targeted"):
        members([("pgd", AttackSettings(targeted=True))])
    with pytest.raises(UsageError, match="no attack called 'apgd'"):
        members([("apgd", AttackSettings())])
    with pytest.raises(UsageError, match="at least one step"):
        standard_suite(queries=0)


def test_more_attacks_and_restarts_never_raise_the_accuracy_and_the_worst_try_is_kept(small_digits):
    x_BCHW, y_B, _, seeds_B = small_digits.first(80)
    mask_B1HW = center_mask((28, 28), 0.25)[None].expand(80, 1, 28, 28)
    batch, net = Batch(x_BCHW, y_B, epsilon_matrix(mask_B1HW, 0.15), seeds_B), small_digits.net
    suite = standard_suite(apgd_steps=6, targets=2, queries=20)
    more = [replace(member, settings=replace(member.settings, restarts=3)) for member in suite]
    outcomes = [_one(batch, members, net) for members in (suite[:1], suite[:2], suite, more)]
    for fewer, larger in pairwise(outcomes):
        assert not (larger.robust & ~fewer.robust).any()
    assert 0 < outcomes[-1].robust.sum() < outcomes[0].robust.sum()
    for outcome in outcomes:
        fooled_B = outcome.broken_by_B != HOLDS
        assert (net(outcome.adv_BCHW).argmax(dim=1) != batch.y_B)[fooled_B].all()
        before_B, after_B = (cross_entropy_odds(net(x_BCHW), batch.y_B) for x_BCHW in (batch.x_BCHW, outcome.adv_BCHW))
        assert (after_B >= before_B)[outcome.robust].all()
        unchanged = (batch.eps_B1HW == 0).expand_as(batch.x_BCHW) | ~outcome.clean_B[:, None, None, None]
        assert torch.equal(outcome.adv_BCHW[unchanged], batch.x_BCHW[unchanged])


def _theirs(digits, count, steps, queries):
    """Bool (B,): who holds out against torchattacks' APGD, targeted APGD and Square."""
    x_BCHW, y_B, _, _ = digits.first(count)
    holds_B = digits.net(x_BCHW).argmax(dim=1) == y_B
    for attack in (
        torchattacks.APGD(digits.net, eps=EPSILON, steps=steps),
        torchattacks.APGDT(digits.net, eps=EPSILON, steps=steps, n_classes=4),  # three targets
        torchattacks.Square(digits.net, eps=EPSILON, n_queries=queries),
    ):
        open_b = holds_B.nonzero()[:, 0]
        holds_B[open_b] &= digits.net(attack(x_BCHW[open_b], y_B[open_b])).argmax(dim=1) == y_B[open_b]
    return holds_B


def test_a_peers_suite_has_the_same_worst_case(small_digits):
    """The same network and budgets: of 150 digits two, which chance decides."""
    suite = standard_suite(20, targets=3, queries=60)
    ours = int(_one(Batch(*small_digits.first(150)), suite, small_digits.net).robust.sum())
    assert 45 < ours < 135
    assert abs(ours - int(_theirs(small_digits, 150, 20, 60).sum())) <= 2
