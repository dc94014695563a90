"""What training minimizes and what its inner attack climbs; knows logits and labels only.

Legend: B images, K classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from latcli.engine.attacks.objectives import ObjectiveFunction


def divergence(logits_BK: torch.Tensor, clean_logits_BK: torch.Tensor) -> torch.Tensor:
    """KL(clean || adversarial) of the predictions, shape (B,): what TRADES adds (Zhang et al., ICML'19)."""
    clean_BK = clean_logits_BK.log_softmax(dim=1)
    return (clean_BK.exp() * (clean_BK - logits_BK.log_softmax(dim=1))).sum(dim=1)


def divergence_from(clean_logits_BK: torch.Tensor) -> ObjectiveFunction:
    """The objective of TRADES' inner attack: away from the predictions on the clean images, whatever the labels."""
    return lambda logits_BK, _y_B: divergence(logits_BK.float(), clean_logits_BK)


def trades(
    clean_logits_BK: torch.Tensor, adversarial_logits_BK: torch.Tensor, y_B: torch.Tensor, beta: float
) -> torch.Tensor:
    """Cross entropy on clean images plus beta x the divergence of adversarial ones; a scalar."""
    natural = functional.cross_entropy(clean_logits_BK, y_B)
    return natural + beta * divergence(adversarial_logits_BK, clean_logits_BK).mean()
