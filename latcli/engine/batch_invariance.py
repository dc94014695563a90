"""A network whose answer for an image is the same alone and among others, to the last bit; knows layers, no attacks.

Libraries choose another kernel for another number of images, and another kernel sums in another order. That is noise of
1e-6, but an attack takes the sign of gradients and rounds to 8 bits, so it grows with every step. Only some layers do
it, which ones depends on shapes and threads: they are found by trying, and given one image at a time.

Legend: B images of a batch, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from latcli.engine.folding import device_of
from latcli.engine.precision import Form, GradientForm

#: Images that a layer is tried on together: with more, the same layers were found, at more cost.
_EXAMINED = 2


class BatchInvariant:
    """A gradient form whose logits and gradients of an image do not depend on the rest of its batch.

    That holds on a CPU, with the same number of threads, for networks whose sums are all taken in layers (as those of
    convolutional networks are; attention takes its own). On a GPU nothing is changed: its batches are what makes it
    fast.
    """

    def __init__(self, fast: GradientForm, image_shape: tuple[int, int, int]) -> None:
        self._fast, self._image_shape = fast, image_shape
        self._examined = device_of(fast.network).type != "cpu"

    @property
    def form(self) -> Form:
        """The form's name."""
        return self._fast.form

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK in fp32 of images in [0, 1]."""
        if len(x_BCHW) > 1 and not self._examined:  # who attacks one photo need not wait for it
            self._examined = True
            for layer in varying_layers(self._fast, self._image_shape):
                layer.forward = _one_by_one(layer.forward)
        return self._fast(x_BCHW)


def varying_layers(fast: GradientForm, image_shape: tuple[int, int, int]) -> list[nn.Module]:
    """The layers that give an image in a batch of two another output, or gradient, than alone; image_shape: (C, H, W).

    Found layer by layer, each on what the layers before it made of random images. Of the layers those are looked at
    that hold no others.
    """
    found: list[nn.Module] = []

    def examine(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if layer in found or not _is_of_images(inputs, output):
            return
        if _varies(layer, inputs[0]):  # type: ignore[arg-type]
            found.append(layer)

    layers = [module for module in fast.network.modules() if next(module.children(), None) is None]
    hooks = [layer.register_forward_hook(examine) for layer in layers]
    try:
        with torch.no_grad():
            fast(torch.rand(_EXAMINED, *image_shape, generator=torch.Generator().manual_seed(0)))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_of_images(inputs: tuple[object, ...], output: object) -> bool:
    """Whether a layer took one tensor and gave one, both with the images first."""
    tensors = [one for one in (*inputs, output) if isinstance(one, torch.Tensor)]
    return (
        len(inputs) == 1
        and len(tensors) == 2
        and all(one.ndim > 1 and len(one) == _EXAMINED and one.is_floating_point() for one in tensors)
    )


def _varies(layer: nn.Module, x_B: torch.Tensor) -> bool:
    """Whether the layer treats any of its images otherwise than alone; x_B is its input, the images first."""
    together = _output_and_gradient(layer, x_B)
    for index in range(len(x_B)):
        alone = _output_and_gradient(layer, x_B[index : index + 1])
        if not all(torch.equal(a[index : index + 1], b) for a, b in zip(together, alone, strict=True)):
            return True
    return False


@torch.enable_grad()
def _output_and_gradient(layer: nn.Module, x_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf_B = x_B.detach().clone().requires_grad_()
    # A copy, since some work in place; `forward`, since a call is what is being watched.
    output: torch.Tensor = layer.forward(leaf_B.clone())
    if not output.requires_grad:  # rounds or compares: there is nothing more to look at
        return output, output
    # Any gradient would do; the output itself is one that differs from place to place.
    (gradient_B,) = torch.autograd.grad(output, leaf_B, output.detach())
    return output.detach(), gradient_B


def _one_by_one(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same function of each image by itself."""

    def each(x_B: torch.Tensor) -> torch.Tensor:
        if len(x_B) == 1:
            return forward(x_B)
        # Copies begin where memory is aligned, as an image that is alone does.
        return torch.cat([forward(one_1.clone()) for one_1 in x_B.tensor_split(len(x_B))])

    return each
