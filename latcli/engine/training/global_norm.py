"""Batch norm over the minibatch of all ranks, on any device; must not know training or how ranks are started.

torch's own SyncBatchNorm is for GPUs alone. Source: cross-replica batch norm (Peng et al., MegDet, CVPR'18), here with
the squared deviation reduced after the mean, which loses no digits where the mean is large.

Legend: B images of this rank, F channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from latcli.errors import UsageError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GlobalBatchNorm(_BatchNorm):
    """A batch norm whose statistics in training are those of all ranks' images; each rank must hold as many.

    What modules it holds are applied to what it has normalized, in turn.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> GlobalBatchNorm:
        """The same layer: it holds the very parameters and buffers of `norm`, under the same names.

        Raises UsageError for a kind of batch norm of which it is not known what else it does.
        """
        # timm's BatchNormAct2d drops and activates after it has normalized.
        if type(norm) not in _PLAIN and list(norm._modules) != ["drop", "act"]:
            raise UsageError(
                f"the network has layers of the kind {type(norm).__name__}, which cannot be trained on several devices",
                "train it on one, or choose another --architecture",
            )
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made._parameters, made._buffers, made.training = norm._parameters, norm._buffers, norm.training
        made._modules = norm._modules
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalized x of shape (B, F, ...); without training the same as any batch norm."""
        normal = self._normalized(x) if self.training else super().forward(x)
        for module in self._modules.values():
            assert module is not None
            normal = module(normal)
        return normal

    def _normalized(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *(1,) * (x.dim() - 2))
        dims = [0, *range(2, x.dim())]
        mean_F: torch.Tensor = _MeanOverRanks.apply(x.mean(dims))  # type: ignore[no-untyped-call]
        centered = x - mean_F.view(shape)
        variance_F: torch.Tensor = _MeanOverRanks.apply(centered.square().mean(dims))  # type: ignore[no-untyped-call]
        self._remember(mean_F.detach(), variance_F.detach(), x.numel() // x.shape[1] * distributed.get_world_size())
        normal = centered * (variance_F + self.eps).rsqrt().view(shape)
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape)) if self.affine else normal

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Nothing: the layer that this one stands for has seen such images before."""

    @torch.no_grad()
    def _remember(self, mean_F: torch.Tensor, variance_F: torch.Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_F, weight)
        self.running_var.lerp_(variance_F * (count / max(count - 1, 1)), weight)


def use_global_norms(net: nn.Module) -> None:
    """Put a GlobalBatchNorm in the place of every batch norm inside `net`; weights and their names stay."""
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
                setattr(module, name, GlobalBatchNorm.of(child))


class _MeanOverRanks(torch.autograd.Function):
    """The mean of a tensor over all ranks, which all hold it then; so do gradients flow back, to all of them."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _mean_over_ranks(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _mean_over_ranks(gradients[0])


def _mean_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    mean = tensor.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(mean)
    return mean.div_(distributed.get_world_size())
