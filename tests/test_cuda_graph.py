"""A recording gives what is computed plainly; what cannot be recorded, or does not fit, is computed all the same."""

import pytest
import torch
from recorders import ON_CUDA, tape
from torch import nn

from latcli.engine import cuda_graph
from latcli.engine.attacks.apgd import apgd_ce, apgd_t
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.pgd import mi_fgsm, pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.cuda_graph import replayed
from latcli.engine.models.small import PaperCNN
from latcli.engine.precision import GradientForm


def test_a_replay_gives_what_is_computed_plainly_for_any_mix_of_shapes(monkeypatch):
    monkeypatch.setattr(cuda_graph, "record_cuda_graph", tape)
    recordings = {}
    found = []
    for step in range(60):
        x = torch.full((1 + step % 10,), float(step))  # more shapes than are kept
        found.append((replayed(recordings, "double", lambda x: (2 * x,), (x,))[0], 2 * x))
    assert all(torch.equal(one, expected) for one, expected in found)


def test_what_cannot_be_recorded_is_computed_plainly(monkeypatch):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "record_cuda_graph", refuse)
    recordings = {}
    for step in range(4):
        x = torch.full((2,), float(step))
        assert torch.equal(replayed(recordings, "double", lambda x: (2 * x,), (x,))[0], 2 * x)


def problem(count, device):
    generator = torch.Generator().manual_seed(1)
    x_BCHW = torch.rand(count, 1, 28, 28, generator=generator).to(device)
    eps_B1HW = torch.full((count, 1, 28, 28), 0.1, device=device)
    eps_B1HW[:, :, 10:18, 10:18] = 0.0
    return x_BCHW, torch.arange(count, device=device) % 10, eps_B1HW, torch.arange(count, device=device)


def test_a_batch_for_which_there_is_no_memory_is_attacked_in_parts():
    sizes = []

    def small(model, x, y, eps, settings, seeds):
        sizes.append(len(y))
        if len(y) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (x + eps * (seeds[:, None, None, None] % 2)).clamp(0, 1)

    x_BCHW, y_B, eps_B1HW, seeds_B = problem(5, "cpu")
    adv_BCHW = run_attack(small, nn.Identity(), x_BCHW, y_B, eps_B1HW, AttackSettings(), seeds_B)

    assert sizes == [5, 3, 2, 1, 2]
    assert torch.equal(adv_BCHW, (x_BCHW + eps_B1HW * (seeds_B[:, None, None, None] % 2)).clamp(0, 1))


@ON_CUDA
@pytest.mark.parametrize("attack", [pgd, mi_fgsm, apgd_ce, apgd_t])
def test_attacks_on_recorded_gradients_are_the_attacks(attack):
    torch.manual_seed(0)
    net = PaperCNN((1, 28, 28), 10).cuda().eval()
    recorded = GradientForm(net, "fp32")
    settings = AttackSettings(steps=12, targets=2)
    for count in (6, 4, 6):
        x_BCHW, y_B, eps_B1HW, seeds_B = problem(count, "cuda")
        given = (x_BCHW, y_B, eps_B1HW, settings, seeds_B)
        plain_BCHW = run_attack(attack, lambda x_BCHW: recorded(x_BCHW), *given)
        found_BCHW = run_attack(attack, recorded, *given)
        assert (found_BCHW - plain_BCHW).abs().max() < 1e-5
    assert any(isinstance(one, cuda_graph._Recording) for one in recorded.recordings.values())


class Waiting(nn.Module):
    """Looks at a value on the host, which no recording can."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x_BCHW):
        scale = 2.0 if float(x_BCHW.sum()) > 0 else 1.0
        return self.linear(x_BCHW.flatten(1)) * scale


@ON_CUDA
def test_a_network_that_waits_for_the_host_is_attacked_all_the_same():
    x_BCHW, y_B, eps_B1HW, seeds_B = problem(4, "cuda")
    recorded = GradientForm(Waiting().cuda().eval(), "fp32")
    given = (x_BCHW, y_B, eps_B1HW, AttackSettings(steps=6), seeds_B)
    found_BCHW = run_attack(pgd, recorded, *given)
    assert torch.equal(found_BCHW, run_attack(pgd, lambda x_BCHW: recorded(x_BCHW), *given))
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
