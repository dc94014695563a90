"""Every registered attack keeps its contract, on any model; and an attack that breaks one of its promises is caught."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_images import background, convnet, seeds, small_images
from torch import nn

from latcli.engine import registry
from latcli.engine.attacks.contract import ROUNDING, allowed_levels, check_contract, run_attack
from latcli.engine.attacks.objectives import logit_margin
from latcli.engine.attacks.settings import NORMS, OBJECTIVES, AttackSettings
from latcli.engine.canvas import adversarial_levels, make_grid
from latcli.errors import ContractError, UsageError

CLASSES = 12


def net_of(dtype=torch.float32, scale=1.0):
    """A network for images of any size, in which a layer works in place."""
    torch.manual_seed(0)
    head = nn.Linear(6, CLASSES)
    with torch.no_grad():
        head.weight.mul_(scale)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()]
    return nn.Sequential(*layers, head).to(dtype).eval()


def casting(dtype, scale=1.0):
    net = net_of(dtype, scale)
    return lambda x_BCHW: net(x_BCHW.to(dtype))


def after(change):
    net = net_of()
    return lambda x_BCHW: change(net(x_BCHW))


def first_impossible(logits_BK, value):
    return torch.cat([torch.full_like(logits_BK[:, :1], value), logits_BK[:, 1:]], dim=1)


USEFUL = {
    "plain": net_of(),
    "confident": net_of(scale=1e4),
    "certain": net_of(scale=1e12),
    "bf16": casting(torch.bfloat16),
    "confident bf16": casting(torch.bfloat16, 1e4),
    "float64": casting(torch.float64),
}
MODELS = USEFUL | {
    "float16 that overflows": casting(torch.float16, 1e6),
    "1e30": after(lambda logits_BK: logits_BK * 1e30),
    "constant": after(lambda logits_BK: logits_BK * 0.0),
    "NaN": after(lambda logits_BK: logits_BK * float("nan")),
    "infinite": after(lambda logits_BK: logits_BK / 0.0),
    "one class impossible": after(lambda logits_BK: first_impossible(logits_BK, -float("inf"))),
    "one class certain": after(lambda logits_BK: first_impossible(logits_BK, float("inf"))),
    "never twice the same": lambda x_BCHW: net_of()(nn.functional.dropout(x_BCHW, 0.5, training=True)),
}


def laid_out(t_BCHW, layout):
    """The same values in another place of memory."""
    if layout == "channels last":
        return t_BCHW.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return t_BCHW.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "strided":
        return torch.stack([t_BCHW, torch.full_like(t_BCHW, 9.0)], dim=-1)[..., 0]
    return t_BCHW


@st.composite
def problems(draw):
    """x_BCHW, often of 8-bit levels and often 0 or 1, and eps_B1HW, of another kind for each image."""
    batch, side_st = draw(st.integers(1, 3)), st.integers(1, 9)
    H, W = draw(st.one_of(st.tuples(side_st, side_st), st.sampled_from([(1, 70), (70, 1)])))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    x_BCHW = random.choice([0, 1, 128, 254, 255], (batch, 3, H, W)) / 255
    if draw(st.booleans()):
        x_BCHW = random.random((batch, 3, H, W))
    eps_B1HW = np.zeros((batch, 1, H, W))
    for eps_1HW in eps_B1HW:
        most = draw(st.sampled_from([1e-30, 0.5 / 255, 1 / 255, 8 / 255, 0.3, 1.0]))
        kind = draw(st.sampled_from(["soft", "zero", "one pixel", "full", "mask", "a hole of one pixel"]))
        one_pixel_HW = np.arange(H * W).reshape(H, W) == random.integers(H * W)
        shares = {"soft": random.random((H, W)), "zero": 0, "full": 1, "mask": random.random((H, W)) > 0.5}
        eps_1HW[:] = most * (shares | {"one pixel": one_pixel_HW, "a hole of one pixel": ~one_pixel_HW})[kind]
    layout = draw(st.sampled_from(["usual", "channels last", "transposed", "strided"]))
    x_BCHW, eps_B1HW = (laid_out(torch.from_numpy(t).float(), layout) for t in (x_BCHW, eps_B1HW))
    return x_BCHW, eps_B1HW


def chosen_of(norm, **more):
    return AttackSettings(norm=norm, **{"radius": 0.5 if norm == "l2" else None} | more)


def honours(name, norm):
    """Whether an attack takes a norm; one that does not has to say so."""
    one = (torch.full((1, 3, 2, 2), 0.5), torch.tensor([0]), torch.full((1, 1, 2, 2), 0.1))
    try:
        registry.load("attack", name)(USEFUL["plain"], *one, chosen_of(norm, steps=1), torch.tensor([0]))
    except UsageError:
        return False
    return True


CASES = [(name, norm) for name in registry.names("attack") for norm in NORMS if honours(name, norm)]
every_attack = pytest.mark.parametrize(("name", "norm"), CASES)


def test_every_registered_attack_is_here():
    assert {name for name, _ in CASES} == set(registry.names("attack"))
    assert {name for name, norm in CASES if norm == "l2"} == {"pgd", "fgsm", "mi-fgsm"}


@st.composite
def searches(draw, norm):
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


@every_attack
@settings(max_examples=2 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), problems(), st.sampled_from(sorted(MODELS)), st.integers(0, 2**63 - 4))
def test_an_attack_keeps_the_contract(name, norm, data, problem, model, seed):
    """On the way, in what it returns, and after rounding to 8 bit; said once more in other words and in float64."""
    (x_BCHW, eps_B1HW), chosen = problem, data.draw(searches(norm))
    batch = len(x_BCHW)
    y_B = torch.tensor(data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=batch, max_size=batch)))
    seeds_B = seed + torch.arange(batch)
    before = [t.clone() for t in (x_BCHW, y_B, eps_B1HW, seeds_B)]

    def watched(seen_bCHW):
        if len(seen_bCHW) == batch:  # nobody has left: the positions are those of the batch
            check_contract(x_BCHW, seen_bCHW.detach(), eps_B1HW, chosen.radius)
        return MODELS[model](seen_bCHW)

    adv_BCHW = run_attack(registry.load("attack", name), watched, x_BCHW, y_B, eps_B1HW, chosen, seeds_B)
    x, adv, eps = (t.double().numpy() for t in (x_BCHW, adv_BCHW, eps_B1HW.expand_as(x_BCHW)))
    assert (adv.shape, adv_BCHW.dtype, adv_BCHW.requires_grad) == (x.shape, torch.float32, False)
    assert np.isfinite(adv).all()
    assert ((adv >= 0) & (adv <= 1)).all()
    assert (np.abs(adv - x) <= eps + 1.2e-7).all()
    assert np.array_equal(adv[eps == 0], x[eps == 0])
    assert chosen.radius is None or (np.sqrt(((adv - x) ** 2).sum((1, 2, 3))) <= chosen.radius * (1 + 1e-5)).all()
    assert all(torch.equal(*pair) for pair in zip(before, (x_BCHW, y_B, eps_B1HW, seeds_B), strict=True))
    whole_BHW = np.floor(eps_B1HW[:, 0].double().numpy() * 255 + 1e-4).astype(np.uint8)
    for x_CHW, allowed_HW, adv_CHW in zip(x_BCHW, whole_BHW, adv_BCHW, strict=True):
        levels_HWC = (x_CHW * 255).round().byte().permute(1, 2, 0).numpy()
        saved_HWC = adversarial_levels(
            levels_HWC, allowed_HW, make_grid(levels_HWC, allowed_HW), adv_CHW, chosen.radius
        )
        change_HWC = np.abs(saved_HWC.astype(int) - levels_HWC)
        assert (change_HWC <= allowed_HW[:, :, None]).all()
        assert chosen.radius is None or np.linalg.norm(change_HWC / 255) <= chosen.radius + 1e-6


@every_attack
def test_an_attack_uses_what_it_is_allowed(name, norm):
    """Doing nothing keeps every promise; it is no attack."""
    for model in USEFUL:
        x_BCHW, eps_B1HW, net = small_images(3), torch.full((3, 1, 8, 8), 8 / 255), USEFUL[model]
        y_B = net(x_BCHW).argmax(dim=1)
        chosen = chosen_of(norm, steps=5, random_start=False)
        adv_BCHW = run_attack(registry.load("attack", name), net, x_BCHW, y_B, eps_B1HW, chosen, torch.arange(3))
        moved_B = (adv_BCHW - x_BCHW).flatten(1).norm(dim=1) > 0.3  # the corner of the box is .43 away, the radius .5
        assert (moved_B | ((net(adv_BCHW).argmax(dim=1) != y_B) & (name == "minimal"))).all()


@pytest.mark.parametrize("stop_rank", [0, 1])
@every_attack
def test_an_image_gets_the_same_alone_and_anywhere_among_others(name, norm, stop_rank):
    """With a model that gives each image the same bits in any batch, an attack does so, too."""
    net, x_BCHW, eps_B1HW, seeds_B = convnet(), small_images(9), background(9, 0.07), seeds(9)

    def one_by_one(x_BCHW):
        return torch.cat([net(x_1CHW.clone()) for x_1CHW in x_BCHW.tensor_split(len(x_BCHW))])

    y_B = one_by_one(x_BCHW).argmax(dim=1)
    chosen = chosen_of(norm, steps=8, stop_rank=stop_rank, restarts=2, targets=3)

    def attacked(order):
        part = (x_BCHW[order], y_B[order], eps_B1HW[order], chosen, seeds_B[order])
        return run_attack(registry.load("attack", name), one_by_one, *part)

    together_BCHW = attacked(torch.arange(9))
    assert name == "square" or 0 < (logit_margin(one_by_one(together_BCHW), y_B) > 0).sum() < 9
    for order in (torch.arange(8, -1, -1), torch.arange(1, 9), torch.tensor([0]), torch.tensor([7])):
        assert torch.equal(attacked(order), together_BCHW[order])
    if name not in ("fgsm", "mi-fgsm", "minimal"):  # those without chance
        seeds_B += 1
        assert not torch.equal(together_BCHW, attacked(torch.arange(9)))


@pytest.mark.parametrize("trainable", [True, False])
@every_attack
def test_the_model_is_left_as_it_was(name, norm, trainable):
    net = net_of().train(trainable).requires_grad_(trainable)
    if trainable:
        net(torch.rand(2, 3, 8, 8)).sum().backward()

    def state():
        tensors = {key: value.tolist() for key, value in net.state_dict().items()}
        gradients = [None if p.grad is None else p.grad.tolist() for p in net.parameters()]
        modes = [(module.training, len(module._forward_hooks)) for module in net.modules()]
        return tensors | {"gradients": gradients, "modes": modes, "grad": [p.requires_grad for p in net.parameters()]}

    before = state()
    case = (small_images(2), torch.tensor([0, 1]), torch.full((2, 1, 8, 8), 0.1), chosen_of(norm, steps=2, restarts=2))
    with torch.set_grad_enabled(not trainable):
        run_attack(registry.load("attack", name), net, *case, torch.tensor([0, 1]))
        assert torch.is_grad_enabled() != trainable
    assert state() == before


def add(value, place=0):
    """From an allowed image, every free pixel moved by half its epsilon, a value is moved further."""

    def breach(x_BCHW, eps_B1HW):
        adv_BCHW = (x_BCHW + eps_B1HW / 2).clamp(0, 1)
        adv_BCHW[1, 2, place, place] += value
        return adv_BCHW

    return breach


MIDDLE = 4  # a protected pixel; 0, 0 may change

BREACHES = {
    "NaN": (add(float("nan")), "NaN or infinite"),
    "above 1": (lambda x, eps: torch.where(x == 1.0, 1.0 + 1e-6, x), r"leave \[0, 1\]"),
    "below 0": (lambda x, eps: torch.where(x == 0.0, -1e-6, x), r"leave \[0, 1\]"),
    "one level more than epsilon": (add(4 / 255 + 1 / 255), r"changed by 0\.0039\d* more than its epsilon"),
    "one level inside": (add(1 / 255, MIDDLE), "more than its epsilon"),
    "the last bit inside": (add(2.0**-24, MIDDLE), "a protected pixel changed"),
    "another shape": (lambda x, eps: x[:, :, :-1], "the shape became"),
    "written into its arguments": (lambda x, eps: x.add_(0.2).clamp_(0, 1), "more than its epsilon"),
    "epsilon widened": (lambda x, eps: (x + eps.fill_(0.5)).clamp(0, 1), "more than its epsilon"),
}


def run(attack, radius=None):
    """What the attack makes of two images with a protected middle."""
    x_BCHW, eps_B1HW = small_images(2, seed=2) * 0.5 + 0.25, torch.full((2, 1, 8, 8), 8 / 255)
    x_BCHW[0, 0, 1, :2] = torch.tensor([0.0, 1.0])
    eps_B1HW[:, :, 2:6, 2:6] = 0.0
    chosen = AttackSettings() if radius is None else AttackSettings(norm="l2", radius=radius)
    model = MODELS["constant"]
    return run_attack(attack, model, x_BCHW, torch.zeros(2, dtype=torch.int64), eps_B1HW, chosen, torch.arange(2))


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_caught(name):
    breach, message = BREACHES[name]
    with pytest.raises(ContractError, match=message) as raised:
        run(lambda model, x, y, eps, *_: breach(x, eps))
    assert "defect of the attack" in raised.value.hint
    assert raised.value.exit_code == 1


def test_an_l2_change_beyond_the_radius_is_caught_image_by_image():
    def along(*shares):
        def attack(model, x, *_):
            change = torch.zeros_like(x)
            change[:, :, 0] = 0.05 / 24**0.5  # 24 values: a length of .05
            return x + change * torch.tensor(shares)[:, None, None, None]

        return attack

    run(along(0.99, 0.99), radius=0.05)
    for shares in ([1.001, 0.0], [0.0, 1.001]):
        with pytest.raises(ContractError, match=r"above the radius 0\.05"):
            run(along(*shares), radius=0.05)
    run(along(1.001, 1.001))  # without a radius nothing is broken


@given(problems(), st.data())
def test_what_reaches_every_limit_is_no_breach_and_what_strays_is(problem, data):
    x_BCHW, eps_B1HW = problem
    direction_BCHW = torch.from_numpy(data.draw(arrays(np.int8, tuple(x_BCHW.shape), elements=st.integers(-1, 1))))
    adv_BCHW = (x_BCHW + eps_B1HW * direction_BCHW).clamp(0, 1)
    radius = (adv_BCHW - x_BCHW).double().flatten(1).norm(dim=1).max().item()
    check_contract(x_BCHW, adv_BCHW, eps_B1HW, radius or 1.0)
    place = tuple(data.draw(st.integers(0, side - 1)) for side in x_BCHW.shape)
    stray = data.draw(st.sampled_from([1e-5, 1 / 255, 0.5])) + float(eps_B1HW[place[0], 0, place[2], place[3]])
    adv_BCHW[place] = x_BCHW[place] + (stray if data.draw(st.booleans()) else -stray)
    with pytest.raises(ContractError):
        check_contract(x_BCHW, adv_BCHW, eps_B1HW)
    eps_B1HW[0, 0, 0, 0] = float("nan")  # an epsilon that is no number allows nothing
    with pytest.raises(ContractError):
        check_contract(x_BCHW, x_BCHW.clone(), eps_B1HW)


WHOLE = {0.031: 7, 0.0314: 8, 0.0313725: 8, 0.0039: 0, 0.5 / 255: 0, 2 / 255 - 1e-5: 1, 254.999 / 255: 254, 0.3: 76}
WHOLE |= {1 / 255 - 1e-9: 1, 1 / 255 - 1e-6: 0, 0.5: 127}  # the first is the same float32 as 1/255, up to rounding


def test_an_epsilon_allows_whole_levels_rounded_down_and_each_whole_level_in_full():
    found = allowed_levels(torch.tensor(list(WHOLE)).view(1, 1, -1))
    assert (found.dtype, found.flatten().tolist()) == (torch.uint8, list(WHOLE.values()))
    levels = torch.arange(256)
    for eps in (levels / 255, (levels.double() / 255).float(), 1 - (255 - levels) / 255):
        assert torch.equal(allowed_levels(eps.view(1, 1, 256)).flatten().long(), levels)


@given(arrays(np.float32, (1, 4, 4), elements=st.floats(0, 1, width=32)))
def test_levels_never_exceed_epsilon_and_use_it_up(eps):
    allowed = allowed_levels(torch.from_numpy(eps.copy())).numpy().astype(np.float64)
    assert (allowed / 255 <= eps.astype(np.float64) + 2 * ROUNDING).all()
    assert ((allowed + 1) / 255 > eps).all()
