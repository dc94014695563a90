"""Training: settings are checked, schedules are functions of the step, a resumed run is the undisturbed one."""

import copy
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorders import ON_CUDA, tape
from torch import nn
from training_cases import BASE

from latcli.engine import cuda_graph
from latcli.engine.cuda_graph import record_cuda_graph
from latcli.engine.datasets.base import DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.models.small import PaperCNN, resnet18
from latcli.engine.models.weights import pack
from latcli.engine.precision import gradient_model
from latcli.engine.scoring import adversarial_score, natural_score, score_point
from latcli.engine.training.inner_attacks import trades
from latcli.engine.training.loop import DivergedError, Order, Trainer, WeightAverage, new_network, train
from latcli.engine.training.settings import FINE_TUNING, PRESETS, TrainSettings, resolve
from latcli.engine.training.state import pack_state, read_state, restore
from latcli.errors import UsageError, WeightsError
from latcli.results import read, to_json


@pytest.fixture(scope="module")
def digits():
    whole = open_dataset("mnist-5k", DatasetSource(Path("nowhere"), offline=True))
    return replace(whole, x_test=whole.x_test[::5], y_test=whole.y_test[::5])


def trainer_for(dataset, form="fp32-channels-last", device="cpu", architecture=PaperCNN, **changes):
    settings = replace(BASE, **changes)
    net = new_network(architecture, dataset, settings.seed).to(device)
    return Trainer(net, dataset.to(torch.device(device)), settings, form)


def finish(trainer):
    reports = []
    train(trainer, on_step=reports.append, after_step=lambda _step: None, measure_every=3)
    return reports


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


VARIANTS = {
    "background": ("bf16-channels-last", {}),
    "random silhouettes": ("bf16-channels-last", {"regime": "random", "mask_from": "otsu"}),
    "sgd": ("bf16-channels-last", {"optimizer": "sgd", "schedule": "constant", "regime": "foreground", "average": 0.0}),
    "trades": ("bf16-channels-last", {"loss": "trades", "label_smoothing": 0.1}),
    "free and mixed": ("bf16-channels-last", {"attack": "free", "mix": 0.25}),
    "n-fgsm": ("bf16-channels-last", {"attack": "n-fgsm", "augment": "crop-flip"}),
    "registered": ("fp32-channels-last", {"attack": "apgd-ce"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_with_the_weights_of_the_undisturbed_one(digits, tmp_path, variant):
    form, changes = VARIANTS[variant]
    undisturbed, cut_off, resumed = (trainer_for(digits, form, **changes) for _ in range(3))
    losses = [report.loss for report in finish(undisturbed)]
    for _ in range(2):
        cut_off.step()
    (tmp_path / "state").write_bytes(pack_state(cut_off))
    restore(resumed, read_state(tmp_path / "state"))
    score_point(resumed) if variant == "background" else None  # which leaves training as it is
    torch.manual_seed(99)  # whatever else has drawn numbers meanwhile
    assert [report.loss for report in finish(resumed)] == losses[2:]
    assert same(undisturbed.weights(), resumed.weights())
    assert same(undisturbed.net.state_dict(), resumed.net.state_dict())
    assert not same(undisturbed.weights(), cut_off.weights())


def test_a_state_of_something_else_is_refused_and_none_is_made_of_weights_that_are_not_finite(digits, tmp_path):
    path, trainer = tmp_path / "state", trainer_for(digits, steps=1)
    path.write_bytes(pack_state(trainer))
    state = read_state(path)
    with pytest.raises(WeightsError, match="does not fit the network"):
        restore(trainer, replace(state, tensors=state.tensors | {"optimizer.999.exp_avg": torch.zeros(1)}))
    path.write_bytes(pack("training state", state.tensors, {"step": 1}))
    with pytest.raises(WeightsError, match="lacks a part of the training state"):
        read_state(path)
    next(trainer.net.parameters()).data[0] = float("inf")
    with pytest.raises(DivergedError, match="a weight is not finite"):
        pack_state(trainer)


def test_each_epoch_shows_every_sample_once_in_an_order_of_its_own(digits):
    few = replace(digits, x_train=digits.x_train[:64], y_train=torch.arange(64))
    trainer = trainer_for(few, batch=16)
    epochs = [[int(y) for index in range(4) for y in trainer.batch_at(4 * epoch + index).y_B] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [int(y) for y in trainer.batch_at(1).y_B] == epochs[0][16:32]  # in whatever order they are asked for


@given(
    seed=st.integers(0, 2**32),
    ranks=st.integers(1, 4),
    share=st.integers(1, 5),
    spare=st.integers(0, 30),
    first=st.integers(0, 20),
    natural=st.integers(0, 20),
)
def test_the_ranks_shares_are_the_minibatch(seed, ranks, share, spare, first, natural):
    batch = ranks * share
    natural = min(natural, batch)
    parts = [Order(seed, batch + spare, batch, rank, ranks) for rank in range(ranks)]
    alone = next(Order(seed, batch + spare, batch).requests(first))
    together = [next(part.requests(first)) for part in parts]
    assert torch.equal(alone.samples_B, torch.cat([one.samples_B for one in together]))
    assert torch.equal(alone.seeds_B, torch.cat([one.seeds_B for one in together]))
    of_each = [range(rank * share, rank * share + part.of_mine(natural)) for rank, part in enumerate(parts)]
    assert [index for one in of_each for index in one] == list(range(natural))


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_a_silhouette_moves_with_its_image(augment):
    x_NCHW = torch.full((16, 3, 32, 32), 230, dtype=torch.uint8)
    x_NCHW[:, :, 10:22, 10:22] = 40  # a dark object on a bright ground
    y_N = torch.arange(16) % 2
    dataset = make_dataset("bright", (x_NCHW, y_N), (x_NCHW, y_N), ("a", "b"), Defaults(0.1, 0.5, "paper-cnn"))
    batch = trainer_for(dataset, batch=16, mask_from="otsu", augment=augment).batch_at(0)
    dark_B1HW = (batch.x_BCHW[:, :1] - 40 / 255).abs() < 1e-3
    assert dark_B1HW.sum(dim=(1, 2, 3)).tolist() == [144] * 16
    assert torch.equal(batch.mask_B1HW, dark_B1HW.float())


def test_the_mixed_part_stays_natural_and_the_rest_does_not(digits):
    trainer = trainer_for(digits, mix=0.25, warm_up=0.0)
    batch = trainer.batch_at(0)
    adv_BCHW = trainer._attacked(batch, 0.3)
    assert (adv_BCHW != batch.x_BCHW).flatten(1).any(dim=1).tolist() == [False] * 2 + [True] * 6
    middle = slice(11, 16)  # 5 of 28 pixels
    assert torch.equal(adv_BCHW[:, :, middle, middle], batch.x_BCHW[:, :, middle, middle])


@pytest.mark.parametrize(
    "changes", [{}, {"loss": "trades"}, {"mix": 0.5}, {"attack": "n-fgsm"}, {"regime": "natural"}], ids=str
)
@pytest.mark.parametrize("record", [tape, pytest.param(record_cuda_graph, marks=ON_CUDA)])
def test_training_by_replays_is_training(digits, changes, record, monkeypatch):
    monkeypatch.setattr(cuda_graph, "record_cuda_graph", record)
    device = "cpu" if record is tape else "cuda"
    plain, replayed = (trainer_for(digits, device=device, **changes) for _ in range(2))
    plain._attack, replayed._attack = plain._inner_attack, replayed._replayed_attack
    plain._replays_update, replayed._replays_update = False, True
    losses = [report.loss for report in finish(plain)]
    assert [report.loss for report in finish(replayed)] == pytest.approx(losses, rel=0 if record is tape else 1e-4)


def test_a_batch_of_one_image_is_refused_where_the_network_s_norms_need_two():
    x_NCHW, y_N = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2
    dataset = make_dataset("black", (x_NCHW, y_N), (x_NCHW, y_N), ("a", "b"), Defaults(0.1, 0.5, "resnet18"))
    with pytest.raises(UsageError, match="cannot be trained on one image at a time"):
        trainer_for(dataset, architecture=resnet18, batch=1)
    for changes in ({"batch": 1, "loss": "trades"}, {"batch": 2}):
        assert trainer_for(dataset, architecture=resnet18, **changes).step().step == 1


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(digits):
    trainer = trainer_for(digits, regime="natural", optimizer="sgd", schedule="constant", rate=1e20, steps=50)
    before = {}

    def remember(_step):
        before.update(copy.deepcopy(trainer.net.state_dict()))

    with pytest.raises(DivergedError, match=r"training diverged at step \d+: the loss is not finite") as caught:
        train(trainer, on_step=lambda _report: None, after_step=remember, measure_every=50)

    assert caught.value.step == trainer.done + 1
    assert all(torch.equal(before[n].nan_to_num(7), v.nan_to_num(7)) for n, v in trainer.net.state_dict().items())


def test_it_learns_and_its_test_score_is_that_of_the_average(digits):
    trainer = trainer_for(digits, regime="natural", steps=40, batch=64)
    reports = finish(trainer)
    point = score_point(trainer)
    trainer.net.load_state_dict(trainer.weights())
    score = natural_score(trainer.net.eval(), digits)
    assert [report.step for report in reports if report.clean_accuracy is not None] == [*range(3, 40, 3), 40]
    assert score.n == 200
    assert score.accuracy > 0.8
    assert score.loss < 0.8
    assert (point.step, point.loss, point.accuracy, point.attacked_loss) == (40, score.loss, score.accuracy, None)


@pytest.mark.slow
def test_background_training_withstands_the_background_attack(digits):
    accuracies = {}
    for regime in ("natural", "background"):
        trainer = trainer_for(digits, regime=regime, steps=100, batch=32, center=0.6, attack_steps=3, average=0.0)
        finish(trainer)
        attacked = replace(trainer.settings, regime="background", score_images=100)
        net = trainer.net.eval()
        fast = gradient_model(net, digits.image_shape, form=trainer.form)
        accuracies[regime] = adversarial_score(net, fast, digits, attacked, steps=10).accuracy
    assert accuracies["background"] > accuracies["natural"] + 0.3


def test_a_one_cycle_rate_climbs_and_falls_and_epsilon_grows_over_the_warm_up():
    settings = replace(BASE, steps=100, rate=0.1, warm_up=0.5)
    rates = [settings.rate_at(step) for step in range(100)]
    epsilons = [settings.epsilon_at(step) for step in range(100)]
    assert max(rates) == rates[19] == 0.1
    assert rates[:20] == sorted(rates[:20])
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert 0 < rates[0] < 0.011
    assert 0 <= rates[-1] < 1e-3
    assert replace(settings, steps=1).rate_at(0) == 0.1
    assert {replace(settings, schedule="constant").rate_at(step) for step in range(100)} == {0.1}
    assert epsilons == sorted(epsilons)
    assert 0 < epsilons[0] < 0.01
    assert epsilons[50:] == [0.3] * 50
    assert replace(settings, warm_up=0.0).epsilon_at(0) == 0.3


def test_an_average_of_constant_weights_is_those_and_forgets_the_first():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(5.0)
    average = WeightAverage(net, 0.9)
    net.weight.data.fill_(1.0)
    for step in range(200):
        average.update(net, step)
    assert float(average.values["weight"]) == pytest.approx(1.0, abs=1e-6)


def test_trades_of_equal_predictions_is_cross_entropy():
    logits_BK, y_B = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    plain = nn.functional.cross_entropy(logits_BK, y_B)
    attacked_BK = torch.tensor([[-1.0, 2.0], [0.5, 0.0]])
    p, q = logits_BK[0].softmax(0), attacked_BK[0].softmax(0)
    assert torch.isclose(trades(logits_BK, logits_BK, y_B, 6.0), plain)
    expected = plain + 6.0 * (p * (p / q).log()).sum() / 2
    assert torch.isclose(trades(logits_BK, attacked_BK, y_B, 6.0), expected)


def test_label_smoothing_spreads_a_share_of_each_label_over_all_classes_of_every_loss(digits):
    for changes in (
        {"regime": "natural"},
        {"loss": "trades", "beta": 0.0},
        {"attack": "free", "attack_steps": 1, "epsilon": 0.0},
    ):
        trainer = trainer_for(digits, warm_up=0.0, label_smoothing=0.2, **changes)
        batch = trainer.batch_at(0)
        log_p_BK = trainer.net(batch.x_BCHW).detach().log_softmax(dim=1)
        y_BK = nn.functional.one_hot(batch.y_B, 10) * 0.8 + 0.02
        assert trainer.step().loss == pytest.approx(float(-(y_BK * log_p_BK).sum(dim=1).mean()), rel=1e-4)


DIGITS = Defaults(0.3, 0.4, "paper-cnn")


def test_the_paper_s_preset_is_the_paper_and_an_epoch_all_minibatches():
    settings = resolve({}, DIGITS, preset="paper")
    assert (settings.steps, settings.batch, settings.attack, settings.attack_steps) == (100_000, 50, "pgd", 100)
    assert (settings.regime, settings.epsilon, settings.step_size) == ("background", 0.3, pytest.approx(0.01))
    assert resolve({"attack": "fgsm-rs"}, DIGITS, preset="paper").step_size is None
    assert resolve({"epochs": 3, "batch": 50}, DIGITS, train_count=4_020).steps == 240
    with pytest.raises(UsageError, match="--steps and --epochs"):
        resolve({"epochs": 3, "steps": 5}, DIGITS, train_count=4_020)


def test_given_options_go_before_the_preset_and_the_preset_before_the_data():
    for preset, fine_tuning in [*((name, False) for name in PRESETS), *((name, True) for name in FINE_TUNING)]:
        given = {"regime": "natural", "epsilon": 0.2, "average": 0.0, "mix": 0.0, "dataset": "another option"}
        row = (FINE_TUNING if fine_tuning else PRESETS)[preset]
        settings = resolve(given, DIGITS, preset=preset, fine_tuning=fine_tuning, seed=3)
        assert (settings.epsilon, settings.average, settings.center, settings.seed) == (0.2, 0.0, 0.4, 3)
        assert (settings.steps, settings.batch) == (row["natural_steps"], row.get("batch", 128))
        assert set(row) - {"natural_steps", "step_share"} <= {field.name for field in fields(TrainSettings)}
        assert read(TrainSettings, to_json(settings) | {"further": 1}) == settings


def test_a_middle_or_a_folder_that_is_given_takes_the_place_of_the_detector():
    photos, middle = replace(DIGITS, mask_from="detector"), {"center": 0.9}
    for defaults, chosen, source in [
        (photos, {}, "detector"),
        (photos, middle, "center"),
        (photos, {"masks": "masks"}, "folder"),
        (DIGITS, {}, "center"),
        (DIGITS, middle, "center"),
        (DIGITS, {"mask_from": "otsu"}, "otsu"),
    ]:
        assert resolve(chosen, defaults).mask_from == source


def test_settings_that_make_no_sense_are_refused():
    for changes, message in [
        ({"rate": float("inf")}, "--rate is inf"),
        ({"mix": 1.0}, "--mix is 1"),
        ({"beta": -1.0}, "--beta is -1"),
        ({"beta": float("inf")}, "--beta is inf"),
        ({"weight_decay": float("nan")}, "--weight-decay is nan"),
        ({"mix": 0.9, "batch": 4}, "--mix 0.9 of a minibatch of 4 is 4"),
        ({"mix": 0.1, "batch": 4}, "--mix 0.1 of a minibatch of 4 is 0"),
        ({"attack": "free", "loss": "trades"}, "free maximises the cross entropy and cannot be used with TRADES"),
        ({"attack": "fgsm", "loss": "trades"}, "fgsm maximises the cross entropy and cannot be used with TRADES"),
        ({"loss": "trades", "mix": 0.5}, "natural part already"),
        ({"attack": "square"}, "square does not declare that it can be used in training"),
        ({"attack": "pdg"}, "no inner attack called 'pdg'"),
    ]:
        with pytest.raises(UsageError, match=message):
            replace(BASE, **changes)


@given(mix=st.floats(0.01, 0.99), batch=st.integers(1, 300))
def test_a_mix_that_rounds_to_nothing_or_to_all_is_refused_with_ones_that_do_not(mix, batch):
    assert replace(BASE, regime="natural", mix=mix, batch=batch).mix == mix
    try:
        assert 0 < replace(BASE, mix=mix, batch=batch).natural_images < batch
    except UsageError as error:
        words = re.split("[ ,]+", error.hint)
        replace(BASE, mix=mix, batch=int(words[-1]))
        if "--mix" in words:
            replace(BASE, mix=float(words[words.index("--mix") + 1]), batch=batch)
