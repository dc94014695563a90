"""Every registered attack keeps its contract, and an attack that breaks one of its promises is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_digits import SmallDigits
from small_images import background, convnet, seeds, small_images
from torch import nn

from latcli.engine import registry
from latcli.engine.attacks.contract import ROUNDING, allowed_levels, check_contract, run_attack
from latcli.engine.attacks.objectives import cross_entropy_odds, dlr, logit_margin
from latcli.engine.attacks.settings import NORMS, OBJECTIVES, Attack, AttackSettings, Model, Norm
from latcli.errors import ContractError, LatcliError, UsageError

CLASSES, SIDE, BATCH = 12, 8, 3


# Networks to attack


def _convnet(seed: int = 0, confidence: float = 1.0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * (SIDE // 2) ** 2, CLASSES),
    ).eval()
    with torch.no_grad():
        net[-1].weight.mul_(confidence)
    return net


def _autocast(net: nn.Module) -> Model:
    def classify(x_BCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BK: torch.Tensor = net(x_BCHW)
        return logits_BK

    return classify


def _blind(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Says the same of every image; its gradient is zero."""
    return (x_BCHW * 0).mean(dim=(2, 3)).repeat(1, CLASSES // 3)


MODELS: dict[str, Model] = {
    "plain": _convnet(),
    "confident": _convnet(confidence=1e4),
    "certain": _convnet(confidence=1e12),
    "bf16": _autocast(_convnet()),
    "confident bf16": _autocast(_convnet(confidence=1e4)),
    "blind": _blind,
}


# The epsilon matrix and images


@st.composite
def epsilons(draw: st.DrawFn) -> torch.Tensor:
    """eps_B1HW: soft, all zero, one pixel, full, a hard mask, or a mixture of these in one batch."""
    full = draw(st.sampled_from([1 / 255, 8 / 255, 0.3, 1.0]))
    eps_B1HW = np.zeros((BATCH, 1, SIDE, SIDE), np.float32)
    for eps_1HW in eps_B1HW:
        kind = draw(st.sampled_from(["soft", "zero", "one pixel", "full", "mask"]))
        if kind == "soft":
            eps_1HW[:] = full * draw(arrays(np.float32, eps_1HW.shape, elements=st.floats(0, 1, width=32)))
        elif kind == "one pixel":
            eps_1HW[0, draw(st.integers(0, SIDE - 1)), draw(st.integers(0, SIDE - 1))] = full
        elif kind == "full":
            eps_1HW[:] = full
        elif kind == "mask":
            eps_1HW[:] = full * draw(arrays(np.bool_, eps_1HW.shape))
    return torch.from_numpy(eps_B1HW)


level_st = st.one_of(st.sampled_from([0, 255]), st.integers(0, 255))


@st.composite
def images(draw: st.DrawFn) -> torch.Tensor:
    """x_BCHW of 8-bit levels, many of them 0 or 255, or of any values."""
    if draw(st.booleans()):
        levels_BCHW = draw(arrays(np.uint8, (BATCH, 3, SIDE, SIDE), elements=level_st))
        return torch.from_numpy(levels_BCHW).float() / 255
    values_st = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))
    return torch.from_numpy(draw(arrays(np.float32, (BATCH, 3, SIDE, SIDE), elements=values_st)))


def _norm(name: Norm) -> dict[str, object]:
    return {"norm": name, "radius": 0.5} if name == "l2" else {}


def _honours(name: str, norm: Norm) -> bool:
    """Whether an attack takes a norm; one that does not has to say so."""
    x_BCHW = torch.full((1, 3, SIDE, SIDE), 0.5)
    one = (torch.zeros(1, dtype=torch.int64), torch.full((1, 1, SIDE, SIDE), 0.1))
    attack_settings = AttackSettings(steps=1, **_norm(norm))  # type: ignore[arg-type]
    try:
        registry.load("attack", name)(MODELS["plain"], x_BCHW, *one, attack_settings, torch.tensor([0]))
    except UsageError:
        return False
    return True


CASES = [(name, norm) for name in registry.names("attack") for norm in NORMS if _honours(name, norm)]


def test_every_registered_attack_is_here() -> None:
    assert {name for name, _ in CASES} == set(registry.names("attack"))
    assert {name for name, norm in CASES if norm == "l2"} == {"pgd", "fgsm", "mi-fgsm"}


@st.composite
def attack_settings(draw: st.DrawFn, norm: Norm) -> AttackSettings:
    objective = draw(st.sampled_from([*OBJECTIVES, "topk:3"]))
    chosen = AttackSettings(
        steps=draw(st.integers(1, 4)),
        step=draw(st.sampled_from([None, 0.3, 3.0])),
        schedule=draw(st.sampled_from(["constant", "linear", "cosine"])),
        restarts=draw(st.integers(1, 2)),
        random_start=draw(st.booleans()),
        objective=objective,
        targeted=objective in ("ce", "margin") and draw(st.booleans()),
        stop_rank=draw(st.sampled_from([0, 0, 1, 10])),
    )
    return replace(chosen, norm="l2", radius=draw(st.sampled_from([0.01, 0.5, 50.0]))) if norm == "l2" else chosen


def _assert_kept(
    x_BCHW: torch.Tensor, adv_BCHW: torch.Tensor, eps_B1HW: torch.Tensor, radius: float | None = None
) -> None:
    """The contract, said once more in other words and in double precision."""
    x, adv, eps = (t.double().numpy() for t in (x_BCHW, adv_BCHW, eps_B1HW.expand_as(x_BCHW)))
    assert adv.shape == x.shape
    assert adv_BCHW.dtype == x_BCHW.dtype
    assert np.isfinite(adv).all()
    assert ((adv >= 0) & (adv <= 1)).all()
    assert (np.abs(adv - x) <= eps + 1.2e-7).all()
    assert np.array_equal(adv[eps == 0], x[eps == 0])
    if radius is not None:
        assert (np.sqrt(((adv - x) ** 2).sum(axis=(1, 2, 3))) <= radius * (1 + 1e-5)).all()


@pytest.mark.parametrize(("name", "norm"), CASES)
@settings(max_examples=40)
@given(st.data(), images(), epsilons())
def test_an_attack_keeps_the_contract(
    name: str, norm: Norm, data: st.DataObject, x_BCHW: torch.Tensor, eps_B1HW: torch.Tensor
) -> None:
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    chosen = data.draw(attack_settings(norm))
    y_B = torch.tensor(data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=BATCH, max_size=BATCH)))
    seeds_B = torch.tensor(data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=BATCH, max_size=BATCH)))
    attack: Attack = registry.load("attack", name)
    before = [t.clone() for t in (x_BCHW, y_B, eps_B1HW, seeds_B)]

    def watched(seen_bCHW: torch.Tensor) -> torch.Tensor:
        if len(seen_bCHW) == BATCH:  # nobody has left: the positions are those of the batch
            check_contract(x_BCHW, seen_bCHW.detach(), eps_B1HW, chosen.radius)
        return model(seen_bCHW)

    adv_BCHW = attack(watched, x_BCHW, y_B, eps_B1HW, chosen, seeds_B)
    _assert_kept(x_BCHW, adv_BCHW, eps_B1HW, chosen.radius)
    assert not adv_BCHW.requires_grad
    assert all(torch.equal(*pair) for pair in zip(before, (x_BCHW, y_B, eps_B1HW, seeds_B), strict=True))
    assert torch.equal(run_attack(attack, model, x_BCHW, y_B, eps_B1HW, chosen, seeds_B), adv_BCHW)


@pytest.mark.parametrize("model", ["plain", "confident", "certain", "bf16"])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_attack_uses_what_it_is_allowed(name: str, norm: Norm, model: str) -> None:
    """Doing nothing keeps every promise; it is no attack."""
    x_BCHW = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    eps_B1HW = torch.full((BATCH, 1, SIDE, SIDE), 8 / 255)
    y_B = MODELS[model](x_BCHW).argmax(dim=1)
    chosen = AttackSettings(steps=5, random_start=False, **_norm(norm))  # type: ignore[arg-type]
    adv_BCHW = run_attack(
        registry.load("attack", name), MODELS[model], x_BCHW, y_B, eps_B1HW, chosen, torch.arange(BATCH)
    )
    moved_B = (adv_BCHW - x_BCHW).flatten(1).norm(dim=1)
    beaten_B = (
        MODELS[model](adv_BCHW).argmax(dim=1) != y_B if name == "minimal" else torch.zeros(BATCH, dtype=torch.bool)
    )
    assert ((moved_B > 0.3) | beaten_B).all()  # the corner of the box is .43 away, the radius .5


# Images, restarts


@pytest.mark.parametrize("stop_rank", [0, 1])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_image_gets_the_same_result_alone_and_in_a_batch(name: str, norm: Norm, stop_rank: int) -> None:
    net, x_BCHW, eps_B1HW = convnet().double(), small_images(8), background(8, 0.07)

    def exact(x_BCHW: torch.Tensor) -> torch.Tensor:  # in float32 a sign may flip where a gradient is all but zero
        logits_BK: torch.Tensor = net(x_BCHW.double())
        return logits_BK

    y_B = exact(x_BCHW).argmax(dim=1)
    chosen = AttackSettings(steps=8, stop_rank=stop_rank, restarts=2, targets=3, **_norm(norm))  # type: ignore[arg-type]
    attack: Attack = registry.load("attack", name)
    together_BCHW = attack(exact, x_BCHW, y_B, eps_B1HW, chosen, seeds(8))
    assert name == "square" or 0 < (logit_margin(exact(together_BCHW), y_B) > 0).sum() < 8
    for one in (slice(0, 1), slice(3, 4), slice(7, 8)):
        alone_1CHW = attack(exact, x_BCHW[one], y_B[one], eps_B1HW[one], chosen, seeds(8)[one])
        assert torch.allclose(alone_1CHW, together_BCHW[one], rtol=0, atol=1e-5)


HEIGHTS = {"pgd": cross_entropy_odds, "apgd-ce": cross_entropy_odds, "apgd-dlr": dlr, "apgd-t": logit_margin}


@pytest.mark.parametrize("name", [*HEIGHTS, "square"])
def test_more_restarts_never_find_less(name: str, small_digits: SmallDigits) -> None:
    x_BCHW, y_B, eps_B1HW, seeds_B = small_digits.first(60)
    wins, heights = [], []
    for restarts in (1, 2, 4):
        chosen = AttackSettings(steps=15 if name == "square" else 4, step=0.3, restarts=restarts, targets=2)
        adv_BCHW = registry.load("attack", name)(small_digits.net, x_BCHW, y_B, eps_B1HW, chosen, seeds_B)
        logits_BK = small_digits.net(adv_BCHW)
        wins.append(logit_margin(logits_BK, y_B) > 0)
        heights.append(HEIGHTS.get(name, logit_margin)(logits_BK, y_B))
    for fewer, more in ((0, 1), (1, 2)):
        assert (wins[more] | ~wins[fewer]).all()
        same = wins[more] == wins[fewer]
        assert (heights[more] >= heights[fewer] - 1e-5)[same].all()
    assert heights[2].mean() > heights[0].mean() + 1e-4  # and restarts do find more


# The model is left as it was


@pytest.mark.parametrize(
    ("training", "trainable", "grad_enabled", "with_gradients"),
    [(False, False, True, False), (True, True, False, True), (False, True, True, False), (True, False, False, False)],
)
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_model_is_left_as_it_was(
    name: str, norm: Norm, training: bool, trainable: bool, grad_enabled: bool, with_gradients: bool
) -> None:
    net = _convnet()
    del net[1]  # batch norm counts its batches in training mode, whoever calls it
    net.train(training).requires_grad_(trainable)
    if with_gradients and trainable:
        net(torch.rand(2, 3, SIDE, SIDE)).sum().backward()
    modes = {name: module.training for name, module in net.named_modules()}
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradients = [p.grad.clone() if p.grad is not None else None for p in net.parameters()]
    hooks = [len(module._forward_hooks) for module in net.modules()]
    chosen = AttackSettings(steps=2, restarts=2, **_norm(norm))  # type: ignore[arg-type]
    with torch.set_grad_enabled(grad_enabled):
        run_attack(
            registry.load("attack", name),
            net,
            torch.full((2, 3, SIDE, SIDE), 0.5),
            torch.tensor([0, 1]),
            torch.full((2, 1, SIDE, SIDE), 0.1),
            chosen,
            torch.tensor([0, 1]),
        )
        assert torch.is_grad_enabled() == grad_enabled
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad == trainable for p in net.parameters())
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert [len(module._forward_hooks) for module in net.modules()] == hooks


# Breaches are caught

Breach = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _changed(change: Callable[[torch.Tensor], None]) -> Breach:
    """A breach that starts from an allowed image: every free pixel moved by half its epsilon."""

    def breach(x_BCHW: torch.Tensor, eps_B1HW: torch.Tensor) -> torch.Tensor:
        adv_BCHW = (x_BCHW + eps_B1HW / 2).clamp(0, 1)
        change(adv_BCHW)
        return adv_BCHW

    return breach


def _set(value: float, row: int = 0, column: int = 0) -> Breach:
    def change(adv_BCHW: torch.Tensor) -> None:
        adv_BCHW[1, 2, row, column] = value

    return _changed(change)


def _add(value: float, row: int = 0, column: int = 0) -> Breach:
    def change(adv_BCHW: torch.Tensor) -> None:
        adv_BCHW[1, 2, row, column] += value

    return _changed(change)


MIDDLE = SIDE // 2  # a protected pixel; 0, 0 may change

BREACHES: dict[str, tuple[Breach, str]] = {
    "NaN": (_set(float("nan")), "NaN or infinite"),
    "NaN inside": (_set(float("nan"), MIDDLE, MIDDLE), "NaN or infinite"),
    "infinity": (_set(float("inf")), "NaN or infinite"),
    "above 1": (lambda x, eps: torch.where(x == 1.0, 1.0 + 1e-6, x), r"leave \[0, 1\]"),
    "below 0": (lambda x, eps: torch.where(x == 0.0, -1e-6, x), r"leave \[0, 1\]"),
    "more than epsilon": (_add(8 / 255), "more than its epsilon"),
    "one level more than epsilon": (_add(4 / 255 + 1 / 255), r"changed by 0\.0039\d* more than its epsilon"),
    "a millionth more than epsilon": (_add(4 / 255 + 1e-6), "more than its epsilon"),
    "epsilon everywhere": (lambda x, eps: (x + eps.amax()).clamp(0, 1), "more than its epsilon"),
    "one level inside": (_add(1 / 255, MIDDLE, MIDDLE), "more than its epsilon"),
    "the last bit inside": (_add(2.0**-24, MIDDLE, MIDDLE), "a protected pixel changed"),
    "another shape": (lambda x, eps: x[:, :, :-1], "the shape became"),
    "fewer images": (lambda x, eps: x[:1], "the shape became"),
    "one channel": (lambda x, eps: x[:, :1], "the shape became"),
    "written into its arguments": (lambda x, eps: x.add_(0.2).clamp_(0, 1), "more than its epsilon"),
    "epsilon widened": (lambda x, eps: (x + eps.fill_(0.5)).clamp(0, 1), "more than its epsilon"),
}


def _photo_and_epsilon() -> tuple[torch.Tensor, torch.Tensor]:
    x_BCHW = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 0.5 + 0.25
    x_BCHW[0, 0, 1, :2] = torch.tensor([0.0, 1.0])
    eps_B1HW = torch.full((2, 1, SIDE, SIDE), 8 / 255)
    eps_B1HW[:, :, 2:6, 2:6] = 0.0
    return x_BCHW, eps_B1HW


def _run(attack: Attack, radius: float | None = None) -> torch.Tensor:
    x_BCHW, eps_B1HW = _photo_and_epsilon()
    chosen = AttackSettings() if radius is None else AttackSettings(norm="l2", radius=radius)
    return run_attack(attack, _blind, x_BCHW, torch.zeros(2, dtype=torch.int64), eps_B1HW, chosen, torch.arange(2))


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_caught(name: str) -> None:
    breach, message = BREACHES[name]

    def leaky(model: Model, x: torch.Tensor, y: torch.Tensor, eps: torch.Tensor, *_: object) -> torch.Tensor:
        return breach(x, eps)

    with pytest.raises(ContractError, match=message) as raised:
        _run(leaky)
    assert isinstance(raised.value, LatcliError)
    assert "defect of the attack" in raised.value.hint
    assert raised.value.exit_code == 1


def test_an_l2_change_beyond_the_radius_is_caught_image_by_image() -> None:
    def along(shares: list[float]) -> Attack:
        def attack(model: Model, x: torch.Tensor, y: torch.Tensor, eps: torch.Tensor, *_: object) -> torch.Tensor:
            change = torch.zeros_like(x)
            change[:, :, 0] = 0.02  # 24 values: a length of .098
            change *= torch.tensor(shares)[:, None, None, None] * 0.05 / (0.02 * 24**0.5)
            return x + change

        return attack

    assert not torch.equal(_run(along([0.99, 0.99]), radius=0.05), _photo_and_epsilon()[0])
    for shares in ([1.001, 0.0], [0.0, 1.001]):
        with pytest.raises(ContractError, match=r"above the radius 0\.05"):
            _run(along(shares), radius=0.05)
    _run(along([1.001, 1.001]))  # without a radius nothing is broken


def test_an_epsilon_that_is_no_number_allows_nothing() -> None:
    x_BCHW, eps_B1HW = _photo_and_epsilon()
    eps_B1HW[0, 0, 0, 0] = float("nan")
    with pytest.raises(ContractError):
        check_contract(x_BCHW, x_BCHW.clone(), eps_B1HW)


@given(images(), epsilons(), st.data())
def test_what_reaches_every_limit_is_no_breach(
    x_BCHW: torch.Tensor, eps_B1HW: torch.Tensor, data: st.DataObject
) -> None:
    direction_BCHW = torch.from_numpy(data.draw(arrays(np.int8, x_BCHW.shape, elements=st.integers(-1, 1))))
    adv_BCHW = (x_BCHW + eps_B1HW * direction_BCHW).clamp(0, 1)
    check_contract(x_BCHW, adv_BCHW, eps_B1HW)
    radius = (adv_BCHW - x_BCHW).double().flatten(1).norm(dim=1).max().item()
    check_contract(x_BCHW, adv_BCHW, eps_B1HW, radius or 1.0)


@given(images(), epsilons(), st.data())
def test_any_value_that_strays_is_a_breach(x_BCHW: torch.Tensor, eps_B1HW: torch.Tensor, data: st.DataObject) -> None:
    place = tuple(data.draw(st.integers(0, side - 1)) for side in x_BCHW.shape)
    limit = float(eps_B1HW[place[0], 0, place[2], place[3]])
    stray = data.draw(st.sampled_from([1e-5, 1 / 255, 0.5])) + limit
    adv_BCHW = x_BCHW.clone()
    adv_BCHW[place] += stray if data.draw(st.booleans()) else -stray
    with pytest.raises(ContractError):
        check_contract(x_BCHW, adv_BCHW, eps_B1HW)


def test_a_leaky_plug_in_is_found_by_name_and_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a package of someone else's is installed: a module and its entry point."""
    (tmp_path / "leaky_attack.py").write_text(
        "def attack(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B):\n"
        "    return (x_BCHW + eps_B1HW.amax() * settings.steps / 40).clamp(0, 1)\n"
    )
    info = tmp_path / "leaky_attack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky-attack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[latcli.attacks]\nleaky = leaky_attack:attack\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.names("attack")[-1] == "leaky"
    with pytest.raises(ContractError, match="more than its epsilon"):
        _run(registry.load("attack", "leaky"))


# Whole levels


@pytest.mark.parametrize(
    ("epsilon", "levels"),
    [
        (8 / 255, 8),
        (0.031, 7),
        (0.0314, 8),
        (1 / 255, 1),
        (1 / 255 - 1e-9, 1),  # the same float32, up to rounding
        (1 / 255 - 1e-6, 0),
        (0.5 / 255, 0),
        (2 / 255 - 1e-5, 1),
        (16 / 255, 16),
        (254.999 / 255, 254),
        (0.3, 76),
        (0.0, 0),
        (1.0, 255),
    ],
)
def test_an_epsilon_allows_whole_levels(epsilon: float, levels: int) -> None:
    allowed_1HW = allowed_levels(torch.full((1, 2, 3), epsilon))
    assert allowed_1HW.dtype == torch.uint8
    assert allowed_1HW.shape == (1, 2, 3)
    assert (allowed_1HW == levels).all()


def test_every_whole_number_of_levels_is_allowed_in_full() -> None:
    levels = torch.arange(256)
    for eps in (levels / 255, (levels.double() / 255).float(), 1 - (255 - levels) / 255):
        assert torch.equal(allowed_levels(eps.view(1, 1, 256)).flatten().long(), levels)


@given(arrays(np.float32, (1, 4, 4), elements=st.floats(0, 1, width=32)))
def test_levels_never_exceed_epsilon_and_use_it_up(eps: np.ndarray) -> None:
    before = eps.copy()
    allowed = allowed_levels(torch.from_numpy(eps)).numpy().astype(np.float64)
    assert (allowed / 255 <= eps.astype(np.float64) + 2 * ROUNDING).all()
    assert ((allowed + 1) / 255 > eps).all()
    assert np.array_equal(eps, before)
