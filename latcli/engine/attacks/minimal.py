"""The smallest change inside an epsilon matrix that leaves the label, found by linearizing the model again and again.

Source: Moosavi-Dezfooli, Fawzi and Frossard, CVPR'16, "DeepFool", whose steps lead on until the label is left. From
then on, as in Croce and Hein, ICML'20, "Minimally distorted adversarial examples" (FAB), each step starts at the image
itself. The linear problems are solved inside the box. The size of a change is the largest share of its own epsilon that
any pixel uses.

Legend: B images, C channels, H, W pixels, K classes, T classes that are considered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import WorstCase, directed, logit_margin, reached
from latcli.engine.attacks.settings import AttackSettings, Model
from latcli.engine.attacks.threat import LinfBox, largest_scale, linf_box
from latcli.errors import LatcliError

#: Each step goes this much further than the linear model asks for, and by this share of epsilon, to end beyond the
#: boundary and not on it.
OVERSHOOT, BEYOND = 1.02, 1e-3

#: Halvings of the share of epsilon that a change may use, at the end: it is the smallest to 2^-8 of itself.
BISECTIONS = 8

#: How far each step goes to where the linear model points, once a change is found; whole steps may swing for ever.
PROGRESS = 0.3


def minimal(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """For each image the smallest change found that leaves the label by the stop margin. See `Attack` for shapes.

    Each of the `steps` steps takes a gradient for each of the `targets` likeliest other classes, and goes towards the
    one that the linearized model reaches with the smallest change; with `targeted`, towards the target alone. An image
    for which no change inside epsilon is enough keeps the candidate of the largest logit margin. Step size, schedule,
    restarts, random start, objective and stop rank are not looked at, and nothing is random. Raises UsageError for the
    l2 norm.
    """
    box = linf_box(x_BCHW, eps_B1HW, settings)
    everyone_B = torch.arange(len(y_B), device=y_B.device)
    fallback = WorstCase(x_BCHW, y_B, settings, directed(logit_margin, settings))
    best_BCHW, size_B = x_BCHW.clone(), torch.full_like(x_BCHW[:, 0, 0, 0], float("inf"))
    adv_BCHW = x_BCHW.clone()
    for index in range(settings.steps + 1):
        logits_BK, lead_TB, gradient_TBCHW = _leads(model, adv_BCHW, y_B, settings, slopes=index < settings.steps)
        fallback.offer(everyone_B, adv_BCHW, logits_BK)
        smaller_B = reached(logits_BK, y_B, settings) & (_size(adv_BCHW, box) < size_B)
        best_BCHW = torch.where(smaller_B[:, None, None, None], adv_BCHW, best_BCHW)
        size_B = torch.where(smaller_B, _size(adv_BCHW, box), size_B)
        found_B111 = size_B.isfinite()[:, None, None, None]
        if index < settings.steps:
            base_BCHW = torch.where(found_B111, x_BCHW, adv_BCHW)
            nearest_BCHW = _nearest(box, base_BCHW, adv_BCHW, lead_TB - settings.stop_margin, gradient_TBCHW)
            adv_BCHW = torch.where(found_B111, torch.lerp(adv_BCHW, nearest_BCHW, PROGRESS), nearest_BCHW)
    shrunk_BCHW = _shrunk(model, box, best_BCHW, size_B, y_B, settings)
    return torch.where(found_B111, shrunk_BCHW, fallback.adv_BCHW)


def _leads(
    model: Model, adv_BCHW: Tensor, y_B: Tensor, settings: AttackSettings, *, slopes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """logits_BK, lead_TB of the likeliest other classes over the label (or of the target), and their gradients."""
    with torch.enable_grad():
        leaf_BCHW = adv_BCHW.detach().requires_grad_()
        logits_BK = model(leaf_BCHW).float()
        if settings.targeted:
            lead_TB = -logit_margin(logits_BK, y_B)[None]
        else:
            others_BK = logits_BK.detach().scatter(1, y_B[:, None], float("-inf"))
            target_BT = others_BK.topk(min(settings.targets, logits_BK.shape[1] - 1), dim=1).indices
            lead_TB = (logits_BK.gather(1, target_BT) - logits_BK.gather(1, y_B[:, None])).T
        if not slopes:
            return logits_BK.detach(), lead_TB.detach(), adv_BCHW[None]
        if not lead_TB.requires_grad:
            raise LatcliError("the model gives no gradient of its logits", "choose --attack square")
        gradients = [
            torch.autograd.grad(lead_B.sum(), leaf_BCHW, retain_graph=place + 1 < len(lead_TB))[0]
            for place, lead_B in enumerate(lead_TB)
        ]
    return logits_BK.detach(), lead_TB.detach(), torch.stack(gradients)


def _nearest(box: LinfBox, base_BCHW: Tensor, adv_BCHW: Tensor, lead_TB: Tensor, gradient_TBCHW: Tensor) -> Tensor:
    """The smallest change of base_BCHW that gives some class the lead, if the model were linear around adv_BCHW.

    Where no share s of epsilon is enough, s is 1. A change by s moves each value by s epsilon along the sign of the
    gradient, as far as the box lets it.
    """
    gradient_TBCHW = gradient_TBCHW.nan_to_num()
    # A scale of gradient and lead moves no boundary, and the largest may be beyond what float32 can add up.
    scale_TB = gradient_TBCHW.abs().amax(dim=(2, 3, 4)).clamp_min(1e-30)
    slope_TBCHW = gradient_TBCHW / scale_TB[:, :, None, None, None]
    missing_TB = ((adv_BCHW - base_BCHW) * slope_TBCHW).sum(dim=(2, 3, 4)) - lead_TB / scale_TB
    room_TBCHW = torch.where(slope_TBCHW > 0, box.hi_BCHW - base_BCHW, base_BCHW - box.lo_BCHW)
    steep_TBCHW = slope_TBCHW.abs()

    def falls_short(share_N: Tensor) -> Tensor:
        share_TB111 = share_N.view(*missing_TB.shape, 1, 1, 1)
        gained_TB = (steep_TBCHW * torch.minimum(share_TB111 * box.eps_B1HW, room_TBCHW)).sum(dim=(2, 3, 4))
        return (gained_TB <= missing_TB).flatten()

    share_TB = largest_scale(falls_short, missing_TB.flatten()).view_as(missing_TB)
    share_B, chosen_B = share_TB.min(dim=0)
    slope_BCHW = slope_TBCHW[chosen_B, torch.arange(len(chosen_B), device=chosen_B.device)]
    size_B1HW = (share_B * OVERSHOOT + BEYOND).clamp_max(1.0)[:, None, None, None] * box.eps_B1HW
    return box.project_(torch.addcmul(base_BCHW, slope_BCHW.sign(), size_B1HW))


def _size(adv_BCHW: Tensor, box: LinfBox) -> Tensor:
    """The largest share of its epsilon that any value of each image uses; shape (B,)."""
    share_BCHW = (adv_BCHW - box.x_BCHW).abs() / box.eps_B1HW.clamp_min(1e-30)
    return share_BCHW.amax(dim=(1, 2, 3))


@torch.no_grad()
def _shrunk(
    model: Model, box: LinfBox, best_BCHW: Tensor, size_B: Tensor, y_B: Tensor, settings: AttackSettings
) -> Tensor:
    """The best images with their changes cut to the least share of epsilon that was seen to leave the label."""
    low_B, high_B, kept_BCHW = torch.zeros_like(size_B), size_B, best_BCHW
    for _ in range(BISECTIONS):
        middle_B = (low_B + high_B) / 2
        most_B1HW = middle_B.nan_to_num(1.0, 1.0)[:, None, None, None] * box.eps_B1HW
        cut_BCHW = box.project_(box.x_BCHW + torch.clamp(best_BCHW - box.x_BCHW, -most_B1HW, most_B1HW))
        leaves_B = reached(model(cut_BCHW), y_B, settings)
        kept_BCHW = torch.where(leaves_B[:, None, None, None], cut_BCHW, kept_BCHW)
        low_B, high_B = torch.where(leaves_B, low_B, middle_B), torch.where(leaves_B, middle_B, high_B)
    return kept_BCHW
