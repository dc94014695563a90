"""A recorded computation gives what the computation gives: for new inputs, new shapes and weights that moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_cases import BASE

from latcli.engine.datasets.base import Dataset, Defaults, make_dataset
from latcli.engine.models.small import paper_cnn
from latcli.engine.training.captured import Captured
from latcli.engine.training.loop import Trainer, new_network


class Tape:
    """Stands in for a CUDA graph on a CPU: the result of every replay goes where the first one was."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.recorded += 1
        output = run()
        return lambda: output.copy_(run()), output  # type: ignore[func-returns-value]


def test_a_replay_reads_what_it_is_given_now() -> None:
    tape = Tape()
    captured = Captured(lambda a, b: a * b + 1.0, tape)

    results = [captured(torch.full((2,), a), torch.full((2,), 3.0)) for a in (1.0, 2.0, 5.0)]

    assert [one.tolist() for one in results] == [[4.0, 4.0], [7.0, 7.0], [16.0, 16.0]]  # none overwrites another
    assert tape.recorded == 1


def test_new_shapes_are_recorded_anew_and_old_ones_remembered() -> None:
    tape = Tape()
    captured = Captured(lambda a: a.cumsum(0), tape)

    for size in (3, 5, 3, 5):
        assert captured(torch.ones(size)).tolist() == list(range(1, size + 1))
    assert tape.recorded == 2


def test_what_is_given_is_not_written_to() -> None:
    captured = Captured(lambda a: a.mul_(2.0), Tape())
    given = torch.ones(2)

    assert captured(given).tolist() == captured(given).tolist()
    assert given.tolist() == [1.0, 1.0]


def test_weights_that_moved_are_seen() -> None:
    layer = nn.Linear(1, 1, bias=False).requires_grad_(False)
    captured = Captured(layer, Tape())
    layer.weight.fill_(2.0)
    first = captured(torch.ones(1, 1))
    layer.weight.fill_(3.0)

    assert (first.item(), captured(torch.ones(1, 1)).item()) == (2.0, 3.0)


@pytest.fixture
def digits() -> Dataset:
    x = torch.randint(0, 256, (24, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(24) % 3
    return make_dataset("any", (x, y), (x, y), ("a", "b", "c"), Defaults(0.3, 0.25, "paper-cnn"))


@pytest.mark.parametrize("changes", [{}, {"loss": "trades"}, {"mix": 0.5}, {"attack": "n-fgsm"}], ids=str)
def test_training_on_a_replayed_climb_is_training(digits: Dataset, changes: dict[str, object]) -> None:
    settings = replace(BASE, **changes)  # type: ignore[arg-type]
    plain, replayed = (
        Trainer(new_network(paper_cnn, digits, 0), digits, settings, "fp32-channels-last") for _ in range(2)
    )
    replayed._climb = Captured(replayed._climb_once, Tape())
    for _ in range(settings.steps):
        assert plain.step().loss == replayed.step().loss

    for name, value in plain.net.state_dict().items():
        assert torch.equal(value, replayed.net.state_dict()[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changes", [{}, {"loss": "trades"}, {"mix": 0.5}, {"attack": "n-fgsm"}], ids=str)
def test_a_cuda_graph_is_the_climb_it_recorded(digits: Dataset, changes: dict[str, object]) -> None:
    settings, device = replace(BASE, **changes), torch.device("cuda")  # type: ignore[arg-type]
    plain, captured = (
        Trainer(new_network(paper_cnn, digits, 0).to(device), digits.to(device), settings, "fp32-channels-last")
        for _ in range(2)
    )
    plain._climb = plain._climb_once
    for _ in range(settings.steps):
        assert plain.step().loss == pytest.approx(captured.step().loss, rel=1e-4)
