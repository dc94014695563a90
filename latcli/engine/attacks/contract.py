"""The promise about every adversarial image, and its check.

Peers leak epsilon into protected pixels, so nothing leaves the engine unchecked: a broken promise raises.

Legend: B images, C channels, H, W pixels; levels are uint8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latcli.engine.attacks.settings import Attack, AttackSettings, Model, narrowed
from latcli.errors import ContractError

#: What float32 addition may add to |x' - x| beyond epsilon: one unit in the last place of values below 1.
ROUNDING = 2.0**-23


def run_attack(
    attack: Attack,
    model: Model,
    x_BCHW: Tensor,
    y_B: Tensor,
    eps_B1HW: Tensor,
    settings: AttackSettings,
    seeds_B: Tensor,
) -> Tensor:
    """Run any attack and check what it returns. See `Attack` for shapes.

    Where the device has not the memory for all images at once, each half is attacked alone. Raises ContractError.
    """
    try:
        # Copies: an attack that writes into its arguments must not move what it is measured against.
        adv_BCHW = attack(model, x_BCHW.clone(), y_B, eps_B1HW.clone(), settings, seeds_B).detach()
    except torch.OutOfMemoryError:
        if len(y_B) < 2:
            raise
        adv_BCHW = None
    if adv_BCHW is None:  # out of the except clause, which keeps the attack's tensors alive
        torch.cuda.empty_cache()
        places_B = torch.arange(len(y_B), device=y_B.device)
        given = ((narrowed(model, b), x_BCHW[b], y_B[b], eps_B1HW[b], settings, seeds_B[b]) for b in places_B.chunk(2))
        return torch.cat([run_attack(attack, *half) for half in given])
    check_contract(x_BCHW, adv_BCHW, eps_B1HW, settings.radius)
    return adv_BCHW


def check_contract(x_BCHW: Tensor, adv_BCHW: Tensor, eps_B1HW: Tensor, radius: float | None = None) -> None:
    """No NaN; in [0, 1]; |x' - x| <= E at every pixel; bit for bit unchanged where E = 0; inside the l2 radius.

    Raises ContractError with the broken promise and by how much.
    """
    if adv_BCHW.shape != x_BCHW.shape:
        raise _broken(f"the shape became {tuple(adv_BCHW.shape)} from {tuple(x_BCHW.shape)}")
    if not torch.isfinite(adv_BCHW).all():
        raise _broken("it holds NaN or infinite values")
    if adv_BCHW.min() < 0.0 or adv_BCHW.max() > 1.0:
        raise _broken(f"values from {adv_BCHW.min():.6g} to {adv_BCHW.max():.6g} leave [0, 1]")
    change_BCHW = (adv_BCHW - x_BCHW).abs()
    excess = (change_BCHW - eps_B1HW).max()
    if not excess <= ROUNDING:  # also true of an epsilon of NaN
        raise _broken(f"a pixel changed by {excess:.3g} more than its epsilon")
    if ((adv_BCHW != x_BCHW) & (eps_B1HW == 0)).any():
        raise _broken("a protected pixel changed")
    if radius is not None:
        length = change_BCHW.flatten(1).cpu().double().norm(dim=1).max()  # Apple's GPUs have no float64
        if length > radius * (1.0 + 1e-5):
            raise _broken(f"the l2 change is {length:.6g}, above the radius {radius:g}")


def allowed_levels(eps_1HW: Tensor) -> Tensor:
    """How many whole 8-bit levels each pixel may move: uint8 (1, H, W), the epsilon matrix rounded down."""
    return eps_1HW.add(ROUNDING).mul_(255.0).floor_().clamp_(0, 255).to(torch.uint8)


def _broken(what: str) -> ContractError:
    return ContractError(
        f"the attack broke its contract: {what}", "this is a defect of the attack, not of your input; nothing was kept"
    )
