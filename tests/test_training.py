"""Training: settings are checked, schedules are functions of the step, a resumed run is the undisturbed one."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_cases import BASE

from latcli.commands.train.options import TrainOptions, resolve
from latcli.engine.datasets.base import Dataset, DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.datasets.published import MNIST_DEFAULTS
from latcli.engine.models.small import paper_cnn, resnet18
from latcli.engine.precision import FORMS, Form, gradient_model
from latcli.engine.training.averaging import WeightAverage
from latcli.engine.training.loop import DivergedError, StepReport, Trainer, new_network, train
from latcli.engine.training.losses import trades
from latcli.engine.training.presets import PRESETS, PRESETS_NAMES
from latcli.engine.training.schedules import epsilon_at, rate_at
from latcli.engine.training.scoring import adversarial_score, natural_score
from latcli.engine.training.settings import TrainSettings
from latcli.engine.training.state import pack_state, read_state, restore
from latcli.errors import UsageError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("mnist-5k", DatasetSource(Path("nowhere"), offline=True))


@pytest.fixture(scope="module")
def colours() -> Dataset:
    x = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 4
    return make_dataset("any", (x, y), (x, y), ("a", "b", "c", "d"), Defaults(8 / 255, 0.75, "resnet18"))


def trainer_for(dataset: Dataset, form: Form = "fp32-channels-last", **changes: Any) -> Trainer:
    settings = replace(BASE, **changes)
    make = resnet18 if dataset.image_shape[0] == 3 else paper_cnn
    return Trainer(new_network(make, dataset, settings.seed), dataset, settings, form)


def finish(trainer: Trainer) -> list[StepReport]:
    reports: list[StepReport] = []
    train(trainer, on_step=reports.append, after_step=lambda _step: None, measure_every=1)
    return reports


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# the loop

VARIANTS: dict[str, dict[str, Any]] = {
    "background": {},
    "standard": {"regime": "standard"},
    "foreground": {"regime": "foreground"},
    "random silhouettes": {"regime": "random", "mask_from": "otsu"},
    "natural": {"regime": "natural"},
    "no average": {"average": 0.0},
    "sgd": {"optimizer": "sgd", "schedule": "constant"},
    "trades": {"loss": "trades"},
    "mix": {"mix": 0.5},
    "free": {"attack": "free", "mix": 0.25},
    "fgsm-rs": {"attack": "fgsm-rs"},
    "n-fgsm": {"attack": "n-fgsm", "augment": "crop-flip"},
}


@pytest.mark.parametrize(
    ("changes", "form"),
    [*((changes, "bf16-channels-last") for changes in VARIANTS.values()), ({}, "fp32"), ({}, "fp32-channels-last")],
    ids=[*VARIANTS, "fp32", "fp32 channels last"],
)
def test_a_resumed_run_ends_with_the_weights_of_the_undisturbed_one(
    digits: Dataset, tmp_path: Path, changes: dict[str, Any], form: Form
) -> None:
    undisturbed = trainer_for(digits, form, **changes)
    losses = [report.loss for report in finish(undisturbed)]
    broken_off = trainer_for(digits, form, **changes)
    for _ in range(2):
        broken_off.step()
    (tmp_path / "state").write_bytes(pack_state(broken_off, "paper-cnn"))

    resumed = trainer_for(digits, form, **changes)
    restore(resumed, read_state(tmp_path / "state"), "paper-cnn")
    torch.manual_seed(99)  # whatever else has drawn numbers meanwhile

    assert [report.loss for report in finish(resumed)] == losses[2:]
    assert same(undisturbed.weights(), resumed.weights())
    assert same(undisturbed.net.state_dict(), resumed.net.state_dict())
    assert not same(undisturbed.weights(), broken_off.weights())


def test_a_network_with_batch_norm_is_resumed_as_well(colours: Dataset, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": 2, "batch": 2, "augment": "crop-flip", "attack_steps": 1}
    undisturbed, broken_off, resumed = (trainer_for(colours, "bf16-channels-last", **changes) for _ in range(3))
    finish(undisturbed)
    broken_off.step()
    (tmp_path / "state").write_bytes(pack_state(broken_off, "resnet18"))
    restore(resumed, read_state(tmp_path / "state"), "resnet18")
    finish(resumed)

    assert same(undisturbed.weights(), resumed.weights())


def test_another_seed_gives_another_model(digits: Dataset) -> None:
    one, other = trainer_for(digits, steps=1), trainer_for(digits, steps=1, seed=1)
    finish(one), finish(other)

    assert not same(one.weights(), other.weights())


def test_each_epoch_shows_every_sample_once_in_an_order_of_its_own(digits: Dataset) -> None:
    few = replace(digits, x_train=digits.x_train[:64], y_train=torch.arange(64))
    trainer = trainer_for(few, batch=16)

    epochs = [[int(y) for index in range(4) for y in trainer.batch_at(4 * epoch + index).y_B] for epoch in range(3)]

    assert all(sorted(epoch) == list(range(64)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [int(y) for y in trainer.batch_at(1).y_B] == epochs[0][16:32]  # in whatever order they are asked for


def test_the_mixed_part_stays_natural_and_the_rest_does_not(digits: Dataset) -> None:
    trainer = trainer_for(digits, mix=0.25, warm_up=0.0)
    batch = trainer.batch_at(0)

    adv_BCHW = trainer._attacked(batch, 0.3)

    changed_B = (adv_BCHW != batch.x_BCHW).flatten(1).any(dim=1)
    assert changed_B.tolist() == [False] * 2 + [True] * 6
    middle = slice(11, 16)  # 5 of 28 pixels
    assert torch.equal(adv_BCHW[:, :, middle, middle], batch.x_BCHW[:, :, middle, middle])


def test_free_updates_so_often_a_minibatch(digits: Dataset) -> None:
    trainer = trainer_for(digits, attack="free", attack_steps=3, steps=2)
    finish(trainer)

    assert {int(moments["step"]) for moments in trainer.optimizer.state.values()} == {6}


def test_it_learns(digits: Dataset) -> None:
    trainer = trainer_for(digits, regime="natural", steps=40, batch=64)
    finish(trainer)
    trainer.net.load_state_dict(trainer.weights())

    score = natural_score(trainer.net.eval(), digits)

    assert score.n == 1000
    assert score.accuracy > 0.8
    assert score.loss < 0.8


@pytest.mark.slow
def test_background_training_withstands_the_background_attack(digits: Dataset) -> None:
    accuracies = {}
    for regime in ("natural", "background"):
        trainer = trainer_for(digits, regime=regime, steps=100, batch=32, center=0.6, attack_steps=3, average=0.0)
        finish(trainer)
        trainer.settings = replace(trainer.settings, regime="background")
        net = trainer.net.eval()
        fast = gradient_model(net, digits.image_shape, form=trainer.form)
        accuracies[regime] = adversarial_score(net, fast, digits, trainer.settings, images=100, steps=10).accuracy

    assert accuracies["background"] > accuracies["natural"] + 0.3


def test_measured_accuracies_are_shares_and_come_when_asked_for(digits: Dataset) -> None:
    reports: list[StepReport] = []
    train(trainer_for(digits), on_step=reports.append, after_step=lambda _step: None, measure_every=3)

    measured = [report.step for report in reports if report.clean_accuracy is not None]
    assert measured == [3, 4]
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert all(0 <= (report.adversarial_accuracy or 0) <= 1 for report in reports)


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(digits: Dataset) -> None:
    trainer = trainer_for(digits, regime="natural", optimizer="sgd", schedule="constant", rate=1e20, steps=50)
    before: dict[str, torch.Tensor] = {}

    def remember(_step: int) -> None:
        before.update(copy.deepcopy(trainer.net.state_dict()))

    with pytest.raises(DivergedError, match=r"training diverged at step \d+: the loss is not finite") as caught:
        train(trainer, on_step=lambda _report: None, after_step=remember, measure_every=50)

    assert caught.value.step == trainer.done + 1
    assert all(torch.equal(before[n].nan_to_num(7), v.nan_to_num(7)) for n, v in trainer.net.state_dict().items())


def test_weights_that_are_no_numbers_are_not_kept(digits: Dataset) -> None:
    trainer = trainer_for(digits)
    next(trainer.net.parameters()).data[0] = float("inf")

    with pytest.raises(DivergedError, match="a weight is not finite"):
        pack_state(trainer, "paper-cnn")


def test_a_batch_that_is_larger_than_the_data_is_refused(colours: Dataset) -> None:
    with pytest.raises(UsageError, match="a batch of 41 is larger than the 40 training images"):
        trainer_for(colours, batch=41)


# forms


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [paper_cnn, resnet18])
def test_every_form_computes_the_network_as_it_is_now(make: Any, form: Form) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make((1, 28, 28), 10)
        x_BCHW = torch.rand(8, 1, 28, 28)
    fast = gradient_model(net, (1, 28, 28), form=form)
    assert fast.form == form
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    stale_BK = fast(x_BCHW)
    fast.refresh()

    expected_BK = net.eval()(x_BCHW).detach()
    scale = float(expected_BK.abs().max())
    assert float((fast(x_BCHW) - expected_BK).abs().max()) < (0.05 if form.startswith("bf16") else 1e-4) * scale
    assert float((stale_BK - expected_BK).abs().max()) > 0.1 * scale
    assert all(parameter.grad is None for parameter in net.parameters())


# schedules, averages, losses


def test_a_one_cycle_rate_climbs_to_its_peak_and_falls_to_nothing() -> None:
    rates = [rate_at("one-cycle", step, 100, 0.1) for step in range(100)]

    assert max(rates) == rates[19] == 0.1
    assert rates[:20] == sorted(rates[:20])
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert 0 < rates[0] < 0.011
    assert 0 <= rates[-1] < 1e-3
    assert {rate_at("constant", step, 100, 0.1) for step in range(100)} == {0.1}
    assert rate_at("one-cycle", 0, 1, 0.1) == 0.1


def test_epsilon_grows_over_the_warm_up_and_never_above() -> None:
    epsilons = [epsilon_at(step, 100, 0.5, 0.3) for step in range(100)]

    assert epsilons == sorted(epsilons)
    assert 0 < epsilons[0] < 0.01
    assert epsilons[50:] == [0.3] * 50
    assert epsilon_at(0, 100, 0.0, 0.3) == 0.3


def test_an_average_of_constant_weights_is_those_and_forgets_the_first() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(5.0)
    average = WeightAverage(net, 0.9)
    net.weight.data.fill_(1.0)
    for step in range(200):
        average.update(net, step)

    assert float(average.values["weight"]) == pytest.approx(1.0, abs=1e-6)


def test_trades_of_equal_predictions_is_cross_entropy() -> None:
    logits_BK, y_B = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    plain = nn.functional.cross_entropy(logits_BK, y_B)
    attacked_BK = torch.tensor([[-1.0, 2.0], [0.5, 0.0]])
    p, q = logits_BK[0].softmax(0), attacked_BK[0].softmax(0)

    assert torch.isclose(trades(logits_BK, logits_BK, y_B, 6.0), plain)
    expected = plain + 6.0 * (p * (p / q).log()).sum() / 2
    assert torch.isclose(trades(logits_BK, attacked_BK, y_B, 6.0), expected)


# settings


def test_the_paper_s_preset_is_the_paper() -> None:
    settings = resolve(TrainOptions(preset="paper"), PRESETS["paper"], MNIST_DEFAULTS, seed=0)

    assert (settings.steps, settings.attack, settings.attack_steps, settings.epsilon) == (100_000, "pgd", 100, 0.3)
    assert settings.regime == "background"


@pytest.mark.parametrize("preset", PRESETS_NAMES)
def test_what_is_said_goes_before_preset_and_data(preset: Any) -> None:
    said = TrainOptions(regime="natural", steps=7, epsilon=0.2, average=0.0, mix=0.0)
    settings = resolve(said, PRESETS[preset], Defaults(0.1, 0.4, "paper-cnn"), seed=3)

    assert (settings.steps, settings.epsilon, settings.average, settings.center) == (7, 0.2, 0.0, 0.4)
    assert settings.seed == 3
    assert settings.batch == PRESETS[preset].batch
    assert TrainSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regime": "sideways"}, "no regime called 'sideways'"),
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"mix": 1.0}, "mix is 1"),
        ({"warm_up": -0.1}, "warm-up is -0.1"),
        ({"steps": 0}, "steps is 0"),
        ({"beta": -1.0}, "beta"),
        ({"attack": "free", "loss": "trades"}, "free cannot be used with TRADES"),
        ({"loss": "trades", "mix": 0.5}, "natural part already"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(BASE, **changes)
