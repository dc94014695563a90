"""What a model makes of images: the loss of a sure model, ties, devices without float64, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latcli.engine.scoring import judge
from latcli.errors import LatcliError


def fixed(*rows: list[float]) -> Any:
    return lambda x_BCHW: torch.tensor(rows)


X_2CHW = torch.zeros(2, 1, 1, 1)


def test_a_sure_models_loss_is_not_lost() -> None:
    found = judge(fixed([30.0, 0.0], [-80.0, 0.0]), X_2CHW, torch.tensor([0, 0]))
    assert found.loss_B.dtype == torch.float64
    assert found.loss_B.tolist() == pytest.approx([9.357622968840175e-14, 80.0], rel=1e-3)
    assert found.right_B.tolist() == [True, False]


def test_a_tie_is_no_right_answer() -> None:
    assert judge(fixed([1.0, 1.0], [0.0, 1.0]), X_2CHW, torch.tensor([0, 1])).right_B.tolist() == [False, True]


def test_nothing_becomes_float64_before_it_is_on_the_cpu() -> None:
    """Apple's GPUs have no float64; a tensor that refuses it stands for one that lies there."""

    class OnDevice(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.cpu:
                return args[0].as_subclass(torch.Tensor).clone()
            assert function is not torch.Tensor.double
            assert not any(value is torch.float64 for value in (*args, *(kwargs or {}).values()))
            return super().__torch_function__(function, types, args, kwargs or {})

    def model(x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[2.0, 0.0], [0.0, 2.0]]).as_subclass(OnDevice)

    found = judge(model, X_2CHW, torch.tensor([0, 1]).as_subclass(OnDevice))
    assert type(found.loss_B) is torch.Tensor
    assert found.right_B.tolist() == [True, True]


def test_what_cannot_be_scored_is_refused() -> None:
    for rows, labels, message in [
        ([[float("nan"), 0.0], [0.0, 1.0]], [0, 1], "m returns NaN or infinite logits for 1 of 2 images"),
        ([[float("inf"), 0.0], [0.0, float("-inf")]], [0, 1], "NaN or infinite logits for 2 of 2"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 2], "the labels 0 to 2 do not fit the 2 classes of m"),
        ([[1.0, 0.0], [0.0, 1.0]], [-1, 0], "the labels -1 to 0 do not fit"),
    ]:
        with pytest.raises(LatcliError, match=message):
            judge(fixed(*rows), X_2CHW, torch.tensor(labels), "m")
