"""The worst case of each image among all candidates that an attack has tried.

Legend: B images, C channels, H, W pixels, K classes; a small b is the part of the batch that is spoken of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import ObjectiveFunction, achieved
from latcli.engine.attacks.settings import AttackSettings


class WorstCase:
    """For each image the candidate that achieves most, and of those that achieve the same the highest one.

    Without the first rule a candidate of high loss that is still classified rightly could oust one that is not.
    """

    def __init__(self, x_BCHW: Tensor, y_B: Tensor, settings: AttackSettings, height: ObjectiveFunction) -> None:
        self.adv_BCHW = x_BCHW.clone()
        self.y_B, self.settings, self.height = y_B, settings, height
        self.achieved_B = torch.full_like(y_B, -1)
        self.height_B = torch.full_like(y_B, float("-inf"), dtype=torch.float32)

    def offer(self, where_b: Tensor, adv_bCHW: Tensor, logits_bK: Tensor) -> None:
        """Consider a candidate and its logits for each of the images at `where_b` (int64)."""
        y_b = self.y_B[where_b]
        achieved_b = achieved(logits_bK, y_b, self.settings).to(self.achieved_B.dtype)
        self._take(where_b, adv_bCHW, achieved_b, self.height(logits_bK, y_b))

    def merge(self, where_b: Tensor, other: WorstCase) -> None:
        """Consider what another search has kept for the images at `where_b` (int64)."""
        self._take(where_b, other.adv_BCHW, other.achieved_B, other.height_B)

    def open(self) -> Tensor:
        """Positions (int64) of the images that have not met the stop rank: all, where there is none."""
        everyone_B = torch.arange(len(self.y_B), device=self.y_B.device)
        return everyone_B[self.achieved_B < 2] if self.settings.stop_rank else everyone_B

    def _take(self, where_b: Tensor, adv_bCHW: Tensor, achieved_b: Tensor, height_b: Tensor) -> None:
        old_achieved_b, old_height_b = self.achieved_B[where_b], self.height_B[where_b]
        worse_b = (achieved_b > old_achieved_b) | ((achieved_b == old_achieved_b) & (height_b > old_height_b))
        # Selected rather than indexed by a mask: that would make a GPU wait for the CPU at every step.
        self.adv_BCHW[where_b] = torch.where(worse_b[:, None, None, None], adv_bCHW, self.adv_BCHW[where_b])
        self.achieved_B[where_b] = torch.where(worse_b, achieved_b, old_achieved_b)
        self.height_B[where_b] = torch.where(worse_b, height_b, old_height_b)
