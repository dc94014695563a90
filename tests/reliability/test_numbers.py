"""Numbers under stress: the contract on any model, shape and epsilon matrix, and a photo's result whatever its batch.

Short by default; LATCLI_RELIABILITY=full draws more and attacks all nine photos with the default steps.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from form import full
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_model import save_photo
from torch import nn

from latcli.engine import registry
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import NORMS, OBJECTIVES, AttackSettings, Model, Norm
from latcli.engine.canvas import adversarial_levels, make_grid
from latcli.engine.images import read_photo
from latcli.engine.noise import derive_seed
from latcli.errors import UsageError

FULL = full()
EXAMPLES = 500 if FULL else 6
CLASSES = 5


# Models


def _net(channels: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> nn.Sequential:
    """A network for images of any size."""
    torch.manual_seed(channels)
    layers = [nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    head = nn.Linear(6, CLASSES)
    with torch.no_grad():
        head.weight.mul_(scale)
    return nn.Sequential(*layers, head).to(dtype).eval().requires_grad_(False)


def _casting(dtype: torch.dtype, scale: float = 1.0) -> Callable[[int], Model]:
    def made(channels: int) -> Model:
        net = _net(channels, dtype, scale)
        return lambda x_BCHW: net(x_BCHW.to(dtype))

    return made


def _with(
    after: Callable[[torch.Tensor], torch.Tensor] = lambda logits_BK: logits_BK,
    before: Callable[[torch.Tensor], torch.Tensor] = lambda x_BCHW: x_BCHW,
) -> Callable[[int], Model]:
    def made(channels: int) -> Model:
        net = _net(channels)
        return lambda x_BCHW: after(net(before(x_BCHW)))

    return made


MODELS: dict[str, Callable[[int], Model]] = {
    "float32": _casting(torch.float32),
    "float16": _casting(torch.float16),
    "bfloat16": _casting(torch.bfloat16),
    "float64": _casting(torch.float64),
    "float16 that overflows": _casting(torch.float16, scale=1e6),
    "1e30": _with(lambda logits_BK: logits_BK * 1e30),
    "constant": _with(lambda logits_BK: logits_BK * 0.0),
    "NaN": _with(lambda logits_BK: logits_BK * float("nan")),
    "infinite": _with(lambda logits_BK: logits_BK / 0.0),
    "one class impossible": _with(lambda logits_BK: logits_BK + torch.tensor([-float("inf"), 0, 0, 0, 0])),
    "one class certain": _with(lambda logits_BK: logits_BK + torch.tensor([float("inf"), 0, 0, 0, 0])),
    "never twice the same": _with(before=lambda x_BCHW: nn.functional.dropout(x_BCHW, 0.5, training=True)),
}


# Images and epsilon matrices


@dataclass(frozen=True)
class Case:
    """Levels (uint8) of images, whole levels that they may move or any epsilon, and both as an attack takes them."""

    levels_BCHW: np.ndarray
    x_BCHW: torch.Tensor
    eps_B1HW: torch.Tensor


def _epsilon(kind: str, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    pixel_HW = np.zeros(shape, np.float32)
    pixel_HW[random.integers(shape[0]), random.integers(shape[1])] = 8 / 255
    scales = {"soft": 8 / 255, "from 0 to 1": 1.0, "below one level": 1 / 255}
    if kind in scales:
        return (random.random(shape) * scales[kind]).astype(np.float32)
    if kind in ("one pixel", "a hole of one pixel"):
        return pixel_HW if kind == "one pixel" else np.float32(8 / 255) - pixel_HW
    return np.full(shape, {"zero": 0.0, "tiny": 1e-30, "all": 1.0}[kind], np.float32)


KINDS = ("zero", "one pixel", "a hole of one pixel", "soft", "from 0 to 1", "below one level", "tiny", "all")


def _laid_out(t_BCHW: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another place of memory."""
    layouts: dict[str, Callable[[], torch.Tensor]] = {
        "usual": lambda: t_BCHW,
        "channels last": lambda: t_BCHW.contiguous(memory_format=torch.channels_last),
        "strided": lambda: torch.stack([t_BCHW, torch.full_like(t_BCHW, 9.0)], dim=-1)[..., 0],
        "expanded": lambda: t_BCHW[:1].expand_as(t_BCHW),
    }
    return layouts[layout]()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    side_st = st.integers(1, 9)
    H, W = draw(st.one_of(st.tuples(side_st, side_st), st.sampled_from([(1, 70), (70, 1)])))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels_BCHW = random.choice([0, 1, 128, 254, 255], (batch, channels, H, W)).astype(np.uint8)
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(batch)]
    eps_B1HW = torch.from_numpy(np.stack([_epsilon(kind, (H, W), random)[None] for kind in kinds]))
    layout = draw(st.sampled_from(["usual", "channels last", "strided", "expanded"]))
    x_BCHW = torch.from_numpy(levels_BCHW).float() / 255
    if layout == "expanded":
        levels_BCHW = np.broadcast_to(levels_BCHW[:1], levels_BCHW.shape)
    return Case(levels_BCHW, _laid_out(x_BCHW, layout), _laid_out(eps_B1HW, layout))


# The contract


def _takes(name: str, norm: Norm) -> bool:
    x_1CHW, one = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    try:
        registry.load("attack", name)(_net(1), x_1CHW, one, x_1CHW, _search(norm, steps=1), one)
    except UsageError:
        return False
    return True


def _search(norm: Norm, **settings: Any) -> AttackSettings:
    return AttackSettings(norm=norm, radius=0.5 if norm == "l2" else None, **settings)


CASES = [(name, norm) for name in registry.names("attack") for norm in NORMS if _takes(name, norm)]


@st.composite
def searches(draw: st.DrawFn, norm: Norm) -> AttackSettings:
    objective = draw(st.sampled_from(OBJECTIVES))
    return _search(
        norm,
        steps=draw(st.integers(1, 3)),
        restarts=draw(st.integers(1, 2)),
        random_start=draw(st.booleans()),
        objective=objective,
        targeted=objective != "top10" and draw(st.booleans()),
        stop_rank=draw(st.sampled_from([0, 1])),
    )


@pytest.mark.parametrize(("name", "norm"), CASES)
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), cases(), st.sampled_from(sorted(MODELS)), st.integers(0, 2**63 - 1))
def test_any_model_shape_and_epsilon_keep_the_contract(
    name: str, norm: Norm, data: st.DataObject, case: Case, model: str, seed: int
) -> None:
    search = data.draw(searches(norm))
    y_B = torch.arange(len(case.x_BCHW)) % CLASSES
    seeds_B = torch.tensor([derive_seed(seed, number) for number in range(len(y_B))])
    net = MODELS[model](case.x_BCHW.shape[1])
    adv_BCHW = run_attack(registry.load("attack", name), net, case.x_BCHW, y_B, case.eps_B1HW, search, seeds_B)
    x, adv, eps = (t.double().numpy() for t in (case.x_BCHW, adv_BCHW, case.eps_B1HW.expand_as(case.x_BCHW)))
    assert adv_BCHW.dtype == torch.float32
    assert np.isfinite(adv).all()
    assert ((adv >= 0) & (adv <= 1)).all()
    assert (np.abs(adv - x) <= eps + 1.2e-7).all()
    assert np.array_equal(adv[eps == 0], x[eps == 0])
    _assert_levels_keep_it(case, adv_BCHW, search.radius)


def _assert_levels_keep_it(case: Case, adv_BCHW: torch.Tensor, radius: float | None) -> None:
    """The same after projection to 8 bit, whatever the epsilon matrix: a level that does not fit whole is not taken."""
    whole_BHW = np.floor(case.eps_B1HW[:, 0].double().numpy() * 255 + 1e-4).astype(np.uint8)
    for levels_CHW, allowed_HW, adv_CHW in zip(case.levels_BCHW, whole_BHW, adv_BCHW, strict=True):
        levels_HWC = np.ascontiguousarray(np.broadcast_to(levels_CHW.transpose(1, 2, 0), (*allowed_HW.shape, 3)))
        grid = make_grid(levels_HWC, allowed_HW)
        saved_HWC = adversarial_levels(levels_HWC, allowed_HW, grid, adv_CHW.expand(3, -1, -1), radius)
        change_HWC = np.abs(saved_HWC.astype(int) - levels_HWC)
        assert (change_HWC <= allowed_HW[:, :, None]).all()
        assert radius is None or np.linalg.norm(change_HWC / 255) <= radius + 1e-6


# A result depends on the photo and the seed


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("stop_rank", [0, 1])
def test_an_image_gets_the_same_alone_and_anywhere_among_others(name: str, norm: Norm, stop_rank: int) -> None:
    """With a model that gives each image the same bits in any batch, an attack does so, too."""
    net = _net(3)

    def one_by_one(x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.cat([net(x_1CHW.clone()) for x_1CHW in x_BCHW.tensor_split(len(x_BCHW))])

    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.rand(17, 3, 6, 7, generator=generator)
    eps_B1HW = torch.rand(17, 1, 6, 7, generator=generator) * 0.1 * (torch.rand(17, 1, 6, 7, generator=generator) > 0.3)
    y_B, seeds_B = one_by_one(x_BCHW).argmax(dim=1), torch.arange(17) * 977

    def attacked(order: torch.Tensor) -> torch.Tensor:
        part = (x_BCHW[order], y_B[order], eps_B1HW[order])
        search = _search(norm, steps=3, restarts=2, stop_rank=stop_rank)
        return run_attack(registry.load("attack", name), one_by_one, *part, search, seeds_B[order])

    together_BCHW = attacked(torch.arange(17))
    turned_round = attacked(torch.arange(16, -1, -1)).flip(0)
    assert torch.equal(together_BCHW, turned_round)
    assert torch.equal(together_BCHW[1:], attacked(torch.arange(1, 17)))
    for number in (0, 9, 16):
        assert torch.equal(together_BCHW[number], attacked(torch.tensor([number]))[0])
    if name not in ("fgsm", "mi-fgsm", "minimal"):  # those without chance
        seeds_B += 1
        assert not torch.equal(together_BCHW, attacked(torch.arange(17)))


# through the command


@pytest.fixture
def attacked(latcli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Attack photos of the working folder with a network of the user's own: the images of the document, by name."""
    shutil.copy(tiny_model.__file__, tmp_path)
    (tmp_path / "stressed.py").write_text(STRESSED)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("stressed", None)

    def run(*arguments: str | Path, model: str = "tiny_model:tiny", code: int = 0) -> dict[str, dict[str, Any]]:
        fixed = ("--classifier", model, "--center", "0.4", "--no-figures", "--json")
        outcome = latcli("attack", *arguments, *fixed)
        assert outcome.code == code, outcome.err
        return {one["image"]: one for one in outcome.json["images"]}

    return run


def _assert_alike(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]], tolerance: float) -> None:
    """The same clean prediction and verdict, and confidences that differ by no more than the tolerance."""
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert one["clean"] == expected[name]["clean"]
        assert one["fooled"] == expected[name]["fooled"]
        assert one["linf_inside"] == 0
        confidences = [each["adversarial"]["confidence"] for each in (one, expected[name])]
        assert confidences[0] == pytest.approx(confidences[1], abs=tolerance), name


@pytest.mark.parametrize("attack", registry.names("attack") if FULL else ["pgd", "square"])
def test_a_photo_gets_the_same_verdict_whatever_is_attacked_beside_it(
    attack: str, attacked: Callable[..., Any]
) -> None:
    """Batches of 1 and 8, another order, a neighbour less, photos of several sizes on one canvas."""
    sizes = [(40, 44), (64, 30), (33, 70), (40, 44), (52, 53)]
    names = [save_photo(Path(f"{n}.png"), *size, seed=n).name for n, size in enumerate(sizes)]
    how = ("--attack", attack, "--steps", "6", "--restarts", "2")
    alone = attacked(*names, *how, "--batch", "1")
    for photos in (names[::-1], names[2:]):
        _assert_alike(attacked(*photos, *how, "--batch", "8"), {name: alone[name] for name in photos}, tolerance=1e-3)


@pytest.mark.slow
def test_real_photos_get_the_same_verdict_in_every_batch(shared_data: Path, attacked: Callable[..., Any]) -> None:
    """The default network, whose layers choose their kernels by the number of images.

    Another kernel sums in another order: noise of 1e-6, which signs and 8-bit rounding enlarge with every step.
    """
    photos = sorted((shared_data / "photos" / "paper9").iterdir())[: 9 if FULL else 4]
    how = (*photos, "--steps", "40" if FULL else "4", "--epsilon", "2/255", "--offline")
    alone, *others = (
        attacked(*how, "--batch", str(batch), model="efficientnet_lite0")
        for batch in ((1, 2, 4, 8) if FULL else (1, 4))
    )
    for one in others:
        _assert_alike(one, alone, tolerance=0.05)


def _odd_photos() -> dict[str, Image.Image]:
    plain, grey = Image.fromarray(tiny_model.blobs()), tiny_model.blobs()[:, :, 0]
    clear = plain.copy()
    clear.putalpha(Image.linear_gradient("L").resize(plain.size))
    sizes = {"8x8": (8, 8), "9x300": (300, 9), "300x9": (9, 300), "1x40": (40, 1), "40x1": (1, 40)}
    return {
        **{name: Image.fromarray(tiny_model.blobs(*size)) for name, size in sizes.items()},
        **{"grey": Image.fromarray(grey), "one bit": Image.fromarray(grey).convert("1"), "alpha": clear},
        **{"16 bit": Image.fromarray(grey.astype(np.uint16) * 257), "palette": plain.quantize(16)},
        **{colour: Image.new("RGB", (44, 40), colour) for colour in ("black", "white")},
    }


def test_odd_photos_keep_the_contract_in_their_files(attacked: Callable[..., Any]) -> None:
    for name, image in _odd_photos().items():
        image.save(f"{name}.png")
    found = attacked(*(f"{name}.png" for name in _odd_photos()), "--steps", "2", code=1)
    # Of a photo of one row the classifier sees the middle alone, and that is the object.
    assert set(found) == {f"{name}.png" for name in _odd_photos() if name not in ("1x40", "40x1")}
    for name, one in found.items():
        levels_HWC, files = read_photo(Path(name)).levels_HWC, one["files"]
        saved_HWC, mask_HW = np.asarray(Image.open(files["adversarial"])), np.asarray(Image.open(files["mask"]))
        change_HW = np.abs(saved_HWC.astype(int) - levels_HWC).max(axis=2)
        assert change_HW.max() <= 8
        assert change_HW[mask_HW == 255].max(initial=0) == 0


#: Networks of a user's own, as bad as they come.
STRESSED = """
import torch
from tiny_model import TinyNet

class Odd(TinyNet):
    def __init__(self, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(super().forward(self.before(x)))

def half(): return TinyNet().half()
def bfloat16(): return TinyNet().bfloat16()
def double(): return TinyNet().double()
def training(): return TinyNet().train()
def plain(): return Odd(lambda x: x * 0.5 + 0.25)
def in_place(): return Odd(lambda x: x.mul_(0.5).add_(0.25))
def dropping(): return Odd(lambda x: torch.nn.functional.dropout(x, 0.1, training=True))
def detached(): return Odd(lambda x: x.detach())
def casts_by_itself(): return Odd(lambda x: x.half()).half()
def huge(): return Odd(after=lambda logits: logits * 1e30)
def constant(): return Odd(after=lambda logits: logits * 0.0)
def nan(): return Odd(after=lambda logits: logits * float("nan"))
def infinite(): return Odd(after=lambda logits: logits * float("inf"))
"""


@pytest.mark.parametrize(
    "model", ["half", "bfloat16", "double", "training", "in_place", "dropping", "huge", "constant"]
)
def test_a_classifier_of_ones_own_may_be_odd(model: str, attacked: Callable[..., Any]) -> None:
    (one,) = attacked(save_photo(Path("a.png")), "--steps", "2", model=f"stressed:{model}").values()
    assert 0 <= one["adversarial"]["confidence"] <= 1
    assert one["linf_outside"] <= 8 / 255 + 1e-9


def test_an_in_place_network_is_attacked_as_one_that_is_not(attacked: Callable[..., Any]) -> None:
    """Its input is a copy: what it does to it reaches neither the gradient nor the score."""
    how = (save_photo(Path("a.png")), "--steps", "5")
    in_place, plain = (attacked(*how, model=f"stressed:{model}")["a.png"] for model in ("in_place", "plain"))
    assert in_place["adversarial"] == plain["adversarial"]


@pytest.mark.parametrize("model", ["nan", "infinite", "detached", "casts_by_itself"])
def test_a_classifier_that_cannot_be_attacked_is_refused_in_two_lines(
    model: str, latcli: Callable[..., Any], attacked: Callable[..., Any]
) -> None:
    save_photo(Path("a.png"))
    outcome = latcli("attack", "a.png", "--steps", "2", "--center", "0.4", "--classifier", f"stressed:{model}")
    assert outcome.code in (1, 2)
    assert len(outcome.error) == 2


def test_a_classifier_without_gradients_is_attacked_by_queries(attacked: Callable[..., Any]) -> None:
    how = (save_photo(Path("a.png")), "--steps", "100", "--epsilon", "32/255", "--attack", "square")
    (one,) = attacked(*how, model="stressed:detached").values()
    assert one["adversarial"]["confidence"] < one["clean"]["confidence"]
