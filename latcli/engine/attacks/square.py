"""The Square attack inside an epsilon matrix: random search that asks for logits and never for a gradient.

Source: Andriushchenko et al., ECCV'20, "Square Attack: a query-efficient black-box adversarial attack via random
search", Algorithms 1 and 2 (l-infinity). Legend: B images, C channels, H, W pixels, K classes, P places that a square
can have; a small b is the part of the batch that is still under attack.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import WorstCase, objective_for
from latcli.engine.attacks.settings import AttackSettings, Model, narrowed
from latcli.engine.attacks.threat import LinfBox, linf_box, part_of
from latcli.engine.noise import derive_seed, uniform_noise

#: The share of the image that the first squares cover (AutoAttack's p_init).
FIRST_SHARE = 0.8

#: After so many of 10,000 queries the share has been halved so often; other budgets are scaled to this (section 4.1).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """Random search on the logit margin. See `Attack` for shapes.

    `steps` is how many queries each image has in each restart, the first stripes included; step, schedule,
    objective and random start of the settings are not looked at. Every value goes to an end of its own box. Squares
    are drawn among the places that touch a pixel which may change; where all may, these are the original's, with the
    last row and column besides. A square that would change nothing is tried with the opposite signs. Each image has
    its own squares, from its own seed. Raises UsageError for the l2 norm.
    """
    box = linf_box(x_BCHW, eps_B1HW, settings)
    margin = objective_for(replace(settings, objective="margin"))
    worst = WorstCase(x_BCHW, y_B, settings, margin)
    for restart in range(settings.restarts):
        open_b = worst.open()
        if not len(open_b):
            break
        for extent, alike_b in _by_extent(eps_B1HW, open_b):
            found = WorstCase(x_BCHW[alike_b], y_B[alike_b], settings, margin)
            _search(narrowed(model, alike_b), part_of(box, alike_b), found, seeds_B[alike_b], restart, extent)
            worst.merge(alike_b, found)
    return worst.adv_BCHW


def _by_extent(eps_B1HW: Tensor, open_b: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    """The images at `open_b`, grouped by the rows and columns up to the last pixel that may change.

    The sides of squares are shares of an image. Beside a larger photo it has a margin that may not change, and must get
    the squares that it gets alone.
    """
    free_bHW = (eps_B1HW[open_b] > 0)[:, 0]
    ends = [
        (line_bN * torch.arange(1, line_bN.shape[1] + 1, device=line_bN.device)).amax(dim=1).clamp_min(1).tolist()
        for line_bN in (free_bHW.any(dim=2), free_bHW.any(dim=1))
    ]
    groups: dict[tuple[int, int], list[int]] = {}
    for place, extent in enumerate(zip(*ends, strict=True)):
        groups.setdefault(extent, []).append(place)
    return [(extent, open_b[torch.tensor(places, device=open_b.device)]) for extent, places in groups.items()]


@torch.no_grad()
def _search(
    model: Model, box: LinfBox, found: WorstCase, seeds_B: Tensor, restart: int, extent: tuple[int, int]
) -> None:
    """One restart: first stripes, then squares; `found` keeps a candidate where it raises the margin."""
    C, W = box.x_BCHW.shape[1], box.x_BCHW.shape[3]
    queries = found.settings.steps
    where_b, squares = torch.arange(len(seeds_B), device=seeds_B.device), None
    for query in range(queries):
        seeds_b = seeds_B[where_b] ^ derive_seed("square", restart, query)
        if query == 0:
            signs_bC1W = uniform_noise(seeds_b, (C, 1, W)) < 0.5
            candidate_bCHW = torch.where(signs_bC1W, box.hi_BCHW, box.lo_BCHW)
        else:
            side = side_at(query, queries, *extent)
            if squares is None or squares.side != side:
                squares = Squares(box, side, extent)
            candidate_bCHW = squares.draw(found.adv_BCHW[where_b], seeds_b)
        found.offer(where_b, candidate_bCHW, model(candidate_bCHW))
        if found.settings.stop_rank:
            kept_b = (found.achieved_B[where_b] < 2).nonzero()[:, 0]
            if not len(kept_b):
                return
            if len(kept_b) < len(where_b):
                model, box, where_b, squares = narrowed(model, kept_b), part_of(box, kept_b), where_b[kept_b], None


def side_at(query: int, queries: int, height: int, width: int) -> int:
    """The side in pixels of the square of query `query` of `queries` in an image of that size; at least 1."""
    passed = query * 10_000 / queries
    share = FIRST_SHARE / 2 ** sum(passed > mark for mark in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


class Squares:
    """All places of squares of one size, image by image, that touch a pixel which may change.

    `extent` are the first rows and columns that squares lie in.
    """

    def __init__(self, box: LinfBox, side: int, extent: tuple[int, int]) -> None:
        self.box, self.side = box, side
        rows, columns = extent
        self.across = columns - side + 1
        # How many pixels of each square may change: differences of sums over all rows above and columns before.
        free_BHW = (box.eps_B1HW > 0)[:, 0, :rows, :columns].long()
        sums_BHW = torch.nn.functional.pad(free_BHW.cumsum(1).cumsum(2), (1, 0, 1, 0))
        rows_BHW = sums_BHW[:, side:] - sums_BHW[:, :-side]
        inside_BHW = rows_BHW[:, :, side:] - rows_BHW[:, :, :-side]
        self.rank_BP = (inside_BHW > 0).flatten(1).cumsum(1)

    def draw(self, adv_BCHW: Tensor, seeds_B: Tensor) -> Tensor:
        """Candidates: a square of each image is set to one end of the box in each channel, as its seed says."""
        C, H, W = adv_BCHW.shape[1:]
        numbers_BN = uniform_noise(seeds_B, (1, 1, 1 + C)).flatten(1)
        inside_B1HW = self._square(self._place(numbers_BN[:, 0]), H, W)
        up_BC11 = (numbers_BN[:, 1:] < 0.5)[:, :, None, None]
        candidate_BCHW = torch.where(inside_B1HW, torch.where(up_BC11, self.box.hi_BCHW, self.box.lo_BCHW), adv_BCHW)
        idle_B = (candidate_BCHW == adv_BCHW).flatten(1).all(dim=1)
        opposite_BCHW = torch.where(up_BC11, self.box.lo_BCHW, self.box.hi_BCHW)
        return torch.where(idle_B[:, None, None, None] & inside_B1HW, opposite_BCHW, candidate_BCHW)

    def _place(self, number_B: Tensor) -> Tensor:
        """The place (int64, row by row) that a number in [0, 1) stands for, each allowed one as likely."""
        wanted_B = (number_B * 2**24).long() * self.rank_BP[:, -1] >> 24  # exact: a number has 24 bits
        place_B1 = torch.searchsorted(self.rank_BP, wanted_B[:, None], right=True)
        return place_B1[:, 0].clamp_max(self.rank_BP.shape[1] - 1)  # an image that may not change has no place

    def _square(self, place_B: Tensor, height: int, width: int) -> Tensor:
        """Bool (B, 1, H, W): the pixels of the square at each place."""
        row_B11, column_B11 = ((place_B // self.across)[:, None, None], (place_B % self.across)[:, None, None])
        rows_H1 = torch.arange(height, device=place_B.device)[:, None]
        columns_W = torch.arange(width, device=place_B.device)
        in_rows_BH1 = (rows_H1 >= row_B11) & (rows_H1 < row_B11 + self.side)
        in_columns_B1W = (columns_W >= column_B11) & (columns_W < column_B11 + self.side)
        return (in_rows_BH1 & in_columns_B1W)[:, None]
