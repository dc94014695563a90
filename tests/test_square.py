"""Square asks the model and nothing else, stays inside the epsilon matrix, and looks wherever something may change."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_problems import corner, linear, linear_model, linear_problems
from small_images import SIDE, Watched

from latcli.engine.attacks.objectives import logit_margin
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.attacks.square import Squares, side_at, square
from latcli.engine.attacks.threat import LinfBox


def _square(model, x_BCHW, eps_B1HW, **more):
    y_B, seeds_B = torch.zeros(len(x_BCHW), dtype=torch.int64), torch.arange(len(x_BCHW)) * 100 + 3
    return square(model, x_BCHW, y_B, eps_B1HW, AttackSettings(**more), seeds_B)


@settings(max_examples=6)
@given(linear_problems(), st.booleans())
def test_on_a_linear_model_square_comes_close_to_the_corner(problem, targeted):
    """Squares of one pixel can set each pixel; only one whose channels pull apart needs luck, and has 400 tries."""
    chosen = AttackSettings(steps=400, targeted=targeted)
    adv_1CHW = square(linear_model(problem), *problem.attacked(), chosen, torch.tensor([3]))
    gain, best = (
        abs(problem.height(image) - problem.height(problem.x_1CHW)) for image in (adv_1CHW, corner(problem, targeted))
    )
    assert gain >= 0.8 * best - 2e-5


def test_of_all_that_was_asked_the_worst_is_kept():
    generator = torch.Generator().manual_seed(1)
    weights_CHW = torch.randn(3, SIDE, SIDE, generator=generator)
    watched = Watched(linear(weights_CHW))
    x_BCHW = torch.rand(4, 3, SIDE, SIDE, generator=generator)
    y_B, eps_B1HW = torch.zeros(4, dtype=torch.int64), torch.full((4, 1, SIDE, SIDE), 0.1)
    adv_BCHW = _square(watched, x_BCHW, eps_B1HW, steps=50, restarts=3)
    margins_QB = torch.stack([logit_margin(watched.model(seen), y_B) for seen in watched.seen])
    assert margins_QB.shape == (150, 4)
    assert torch.equal(logit_margin(watched.model(adv_BCHW), y_B), margins_QB.amax(dim=0))
    # Within a restart each square is put on the best image so far.
    assert (margins_QB[:50].amax(dim=0) > margins_QB[0] + 0.5).all()


#: The share of an image that a square covers, from each query on, of 10,000.
SHARES = {1: 0.8, 11: 0.4, 51: 0.2, 201: 0.1, 501: 0.05, 1001: 0.025, 2001: 0.0125, 4001: 0.00625}
SHARES |= {6001: 0.003125, 8001: 0.0015625, 10_000: 0.0015625}


def test_squares_shrink_as_in_the_paper():
    for (query, share), following in zip(SHARES.items(), [*list(SHARES)[1:], 10_001], strict=True):
        side = round(224 * math.sqrt(share))
        assert side_at(query, 10_000, 224, 224) == side_at(following - 1, 10_000, 224, 224) == side
        assert side_at(10 * query, 100_000, 224, 224) == side  # another budget runs through the same sizes
        assert side_at(query, 10_000, 1, 30) == 1


def _squares_seen(eps_HW, count=4000):
    """For each query of many images what differs from the stripes, bool (queries, count, H, W)."""
    watched = Watched(lambda x_BCHW: torch.tensor([[1.0, 0.0]]).expand(len(x_BCHW), 2))
    _square(watched, torch.full((count, 1, SIDE, SIDE), 0.5), eps_HW.expand(count, 1, SIDE, SIDE), steps=8)
    # The model never answers otherwise, so that each square is put on the stripes.
    return torch.stack([(seen != watched.seen[0])[:, 0] for seen in watched.seen[1:]])


def test_every_place_is_as_likely_where_everything_may_change():
    """Of the (8 - side + 1)^2 places each is drawn as often, to five standard deviations."""
    for side in [1, 4, 7, 8]:
        count = 20_000
        x_BCHW = torch.full((count, 1, SIDE, SIDE), 0.5)
        squares = Squares(LinfBox(x_BCHW, torch.full((count, 1, SIDE, SIDE), 0.1)), side, (SIDE, SIDE))
        inside_BHW = (squares.draw(x_BCHW, torch.arange(count)) != x_BCHW)[:, 0]
        assert (inside_BHW.sum(dim=(1, 2)) == side * side).all()
        row_B, column_B = inside_BHW.any(dim=2).int().argmax(dim=1), inside_BHW.any(dim=1).int().argmax(dim=1)
        assert inside_BHW[torch.arange(count), row_B + side - 1, column_B + side - 1].all()
        places = (SIDE - side + 1) ** 2
        counts = torch.bincount(row_B * (SIDE - side + 1) + column_B, minlength=places).double()
        assert len(counts) == places
        assert (counts - count / places).abs().max() < 5 * math.sqrt(count / places)


def test_with_a_mask_exactly_the_places_that_touch_it_are_drawn_and_no_query_is_wasted():
    eps_HW = torch.zeros(SIDE, SIDE)
    eps_HW[0, 0] = eps_HW[7, 3] = 0.1  # two pixels that may change
    last_BHW = _squares_seen(eps_HW)[-1]
    assert side_at(7, 8, SIDE, SIDE) == 1
    assert {tuple(place) for place in last_BHW.nonzero()[:, 1:].tolist()} == {(0, 0), (7, 3)}
    assert last_BHW.flatten(1).any(dim=1).all()
    share = last_BHW[:, 0, 0].float().mean().item()
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(len(last_BHW))
    assert _squares_seen(torch.full((SIDE, SIDE), 0.1)).flatten(2).any(dim=2).all()


def test_an_image_asks_no_more_than_its_budget_and_nothing_once_it_rests(small_digits):
    x_BCHW, y_B, eps_B1HW, seeds_B = small_digits.first(100)

    def no_gradient(x_BCHW):
        assert (torch.is_grad_enabled(), x_BCHW.requires_grad) == (False, False)
        return small_digits.net(x_BCHW)

    watched = Watched(no_gradient)
    adv_BCHW = square(watched, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=40, stop_rank=1), seeds_B)
    won_B = logit_margin(small_digits.net(adv_BCHW), y_B) > 0
    sizes = [len(seen) for seen in watched.seen]
    assert len(sizes) == 40
    assert sizes[0] == 100
    assert sizes == sorted(sizes, reverse=True)
    assert 100 - won_B.sum() <= sizes[-1] < 100
