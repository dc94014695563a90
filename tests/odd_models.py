"""Networks of a user's own, as odd as they come: `--classifier odd_models:NAME`."""

import torch
from tiny_model import TinyNet


class Changed(TinyNet):
    """What goes into the network, or comes out of it, is changed."""

    def __init__(self, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(super().forward(self.before(x)))


class Blind(TinyNet):
    """Sees nothing, so that no place of a photo is evidence."""

    def __init__(self):
        super().__init__()
        self.features.weight.data.zero_()
        self.features.bias.data.zero_()


globals().update(
    half=lambda: TinyNet().half(),
    bfloat16=lambda: TinyNet().bfloat16(),
    double=lambda: TinyNet().double(),
    training=lambda: TinyNet().train(),
    casts_by_itself=lambda: Changed(lambda x: x.half()).half(),
    plain=lambda: Changed(lambda x: x * 0.5 + 0.25),
    in_place=lambda: Changed(lambda x: x.mul_(0.5).add_(0.25)),
    dropping=lambda: Changed(lambda x: torch.nn.functional.dropout(x, 0.1, training=True)),
    detached=lambda: Changed(lambda x: x.detach()),
    huge=lambda: Changed(after=lambda logits: logits * 1e30),
    constant=lambda: Changed(after=lambda logits: logits * 0.0),
    nan=lambda: Changed(after=lambda logits: logits * float("nan")),
    infinite=lambda: Changed(after=lambda logits: logits * float("inf")),
    softmax=lambda: Changed(after=lambda logits: logits.softmax(dim=1)),
    noisy=lambda: Changed(after=lambda logits: logits + torch.randn(16)),
    no_module=lambda: 3,
)
