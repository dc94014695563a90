"""Numbers under stress: the contract on any model, shape and epsilon matrix, and a photo's result whatever its batch.

Short by default; LATCLI_RELIABILITY=full draws more and attacks all nine photos with the default steps.
"""

from __future__ import annotations

import json
import os
import re
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

from latcli import process
from latcli.cli import app
from latcli.engine import registry
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import NORMS, OBJECTIVES, AttackSettings, Model, Norm
from latcli.engine.canvas import adversarial_levels, make_grid
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.noise import derive_seed
from latcli.errors import UsageError

FULL = full()
EXAMPLES = 500 if FULL else 20
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


def _after(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int], Model]:
    def made(channels: int) -> Model:
        net = _net(channels)
        return lambda x_BCHW: change(net(x_BCHW))

    return made


def _noisy(channels: int) -> Model:
    net = _net(channels)
    return lambda x_BCHW: net(nn.functional.dropout(x_BCHW, 0.5, training=True))


MODELS: dict[str, Callable[[int], Model]] = {
    "float32": _casting(torch.float32),
    "float16": _casting(torch.float16),
    "bfloat16": _casting(torch.bfloat16),
    "float64": _casting(torch.float64),
    "float16 that overflows": _casting(torch.float16, scale=1e6),
    "1e30": _after(lambda logits_BK: logits_BK * 1e30),
    "constant": _after(lambda logits_BK: logits_BK * 0.0),
    "NaN": _after(lambda logits_BK: logits_BK * float("nan")),
    "infinite": _after(lambda logits_BK: logits_BK / 0.0),
    "one class impossible": _after(lambda logits_BK: logits_BK + torch.tensor([-float("inf"), 0, 0, 0, 0])),
    "one class certain": _after(lambda logits_BK: logits_BK + torch.tensor([float("inf"), 0, 0, 0, 0])),
    "never twice the same": _noisy,
}


# Images and epsilon matrices


@dataclass(frozen=True)
class Case:
    """Levels (uint8) of images, whole levels that they may move or any epsilon, and both as an attack takes them."""

    levels_BCHW: np.ndarray
    x_BCHW: torch.Tensor
    eps_B1HW: torch.Tensor


def _epsilon(kind: str, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    H, W = shape
    eps_HW = np.zeros(shape, np.float32)
    if kind == "one pixel":
        eps_HW[random.integers(H), random.integers(W)] = 8 / 255
    elif kind == "a hole of one pixel":
        eps_HW[:] = 8 / 255
        eps_HW[random.integers(H), random.integers(W)] = 0
    elif kind == "soft":
        eps_HW[:] = random.random(shape) * 8 / 255
    elif kind == "from 0 to 1":
        eps_HW[:] = random.random(shape)
    elif kind == "below one level":
        eps_HW[:] = random.random(shape) / 255
    elif kind == "tiny":
        eps_HW[:] = 1e-30
    elif kind == "all":
        eps_HW[:] = 1.0
    return eps_HW


KINDS = ("zero", "one pixel", "a hole of one pixel", "soft", "from 0 to 1", "below one level", "tiny", "all")
LAYOUTS = ("usual", "channels last", "transposed", "strided", "expanded")


def _laid_out(t_BCHW: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another place of memory."""
    if layout == "channels last":
        return t_BCHW.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return t_BCHW.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "strided":
        return torch.stack([t_BCHW, torch.full_like(t_BCHW, 9.0)], dim=-1)[..., 0]
    if layout == "expanded":
        return t_BCHW[:1].expand_as(t_BCHW)
    return t_BCHW


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    side_st = st.integers(1, 9)
    H, W = draw(st.one_of(st.tuples(side_st, side_st), st.sampled_from([(1, 70), (70, 1)])))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels_BCHW = random.choice([0, 1, 128, 254, 255], (batch, channels, H, W)).astype(np.uint8)
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(batch)]
    eps_B1HW = torch.from_numpy(np.stack([_epsilon(kind, (H, W), random)[None] for kind in kinds]))
    layout = draw(st.sampled_from(LAYOUTS))
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
    return _search(
        norm,
        steps=draw(st.integers(1, 3)),
        restarts=draw(st.integers(1, 2)),
        random_start=draw(st.booleans()),
        objective=draw(st.sampled_from(OBJECTIVES)),
        targeted=draw(st.booleans()),
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
        levels_HWC = np.ascontiguousarray(levels_CHW.transpose(1, 2, 0))
        grid = make_grid(levels_HWC, allowed_HW)
        saved_HWC = adversarial_levels(levels_HWC, allowed_HW, grid, adv_CHW, radius)
        change_HWC = np.abs(saved_HWC.astype(int) - levels_HWC)
        assert (change_HWC <= allowed_HW[:, :, None]).all()
        assert radius is None or np.linalg.norm(change_HWC / 255) <= radius + 1e-6


# A result depends on the photo and the seed


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("stop_rank", [0, 1])
def test_an_image_gets_the_same_alone_and_anywhere_among_64_others(name: str, norm: Norm, stop_rank: int) -> None:
    """With a model that gives each image the same bits in any batch, an attack does so, too."""
    net = _net(3)

    def one_by_one(x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.cat([net(x_1CHW.clone()) for x_1CHW in x_BCHW.tensor_split(len(x_BCHW))])

    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.rand(65, 3, 6, 7, generator=generator)
    eps_B1HW = torch.rand(65, 1, 6, 7, generator=generator) * 0.1 * (torch.rand(65, 1, 6, 7, generator=generator) > 0.3)
    y_B, seeds_B = one_by_one(x_BCHW).argmax(dim=1), torch.arange(65) * 977

    def attacked(order: torch.Tensor) -> torch.Tensor:
        part = (x_BCHW[order], y_B[order], eps_B1HW[order])
        search = _search(norm, steps=3, restarts=2, stop_rank=stop_rank)
        return run_attack(registry.load("attack", name), one_by_one, *part, search, seeds_B[order])

    together_BCHW = attacked(torch.arange(65))
    turned_round = attacked(torch.arange(64, -1, -1)).flip(0)
    assert torch.equal(together_BCHW, turned_round)
    assert torch.equal(together_BCHW[1:], attacked(torch.arange(1, 65)))
    for number in (0, 1, 31, 64):
        assert torch.equal(together_BCHW[number], attacked(torch.tensor([number]))[0])
    if name not in ("fgsm",):  # the one without chance
        seeds_B += 1
        assert not torch.equal(together_BCHW, attacked(torch.arange(65)))


# Through the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(tiny_model.__file__, folder)
    (folder / "stressed.py").write_text(STRESSED)
    for name in [name for name in os.environ if name.startswith("LATCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(folder)
    sys.modules.pop("stressed", None)
    return folder


def _attack(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path, model: str = "tiny_model:tiny"
) -> tuple[int, str, str]:
    capsys.readouterr()
    fixed = ["--classifier", model, "--center", "0.4", "--no-figures", "--json"]
    code = process.run(app, ["attack", *map(str, arguments), *fixed])
    return code, *capsys.readouterr()


def _results(stdout: str) -> dict[str, dict[str, Any]]:
    """Each photo's part of a document."""
    return {one["image"]: one for one in json.loads(stdout)["images"]}


def _assert_alike(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]], tolerance: float) -> None:
    """The same clean prediction and verdict, and confidences that differ by no more than the tolerance."""
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert one["clean"] == expected[name]["clean"]
        assert one["fooled"] == expected[name]["fooled"]
        assert one["linf_inside"] == 0
        confidences = (each["adversarial"]["confidence"] for each in (one, expected[name]))
        assert abs(next(confidences) - next(confidences)) <= tolerance, name


@pytest.mark.parametrize("attack", registry.names("attack"))
def test_a_photo_gets_the_same_verdict_whatever_is_attacked_beside_it(
    attack: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of 1, 2 and 8, another order, a neighbour less, photos of several sizes on one canvas."""
    sizes = [(40, 44), (64, 30), (33, 70), (40, 44), (52, 53)]
    names = [save_photo(Path(f"{n}.png"), *size, seed=n).name for n, size in enumerate(sizes)]
    how = ("--attack", attack, "--steps", "6", "--restarts", "2")

    def results(*photos: str, batch: int) -> dict[str, dict[str, Any]]:
        code, stdout, stderr = _attack(capsys, *photos, *how, "--batch", str(batch))
        assert (code, stderr) == (0, "")
        return _results(stdout)

    alone = results(*names, batch=1)
    for photos, batch in ((names, 2), (names, 8), (names[::-1], 8), (names[2:], 8)):
        _assert_alike(results(*photos, batch=batch), {name: alone[name] for name in photos}, tolerance=1e-3)


def test_real_photos_get_the_same_verdict_in_every_batch(
    shared_data: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default network, whose layers choose their kernels by the number of images.

    Another kernel sums in another order: noise of 1e-6, which signs and 8-bit rounding enlarge with every step.
    """
    photos = sorted((shared_data / "photos" / "paper9").iterdir())[: 9 if FULL else 4]
    steps = "40" if FULL else "4"
    how = (*photos, "--steps", steps, "--epsilon", "2/255", "--offline")
    found = []
    for batch in (1, 2, 4, 8) if FULL else (1, 4):
        code, stdout, _ = _attack(capsys, *how, "--batch", str(batch), model="efficientnet_lite0")
        assert code == 0
        found.append(_results(stdout))
    for one in found[1:]:
        _assert_alike(one, found[0], tolerance=0.05)


ODD_PHOTOS: dict[str, Callable[[Path], None]] = {
    "8x8": lambda path: Image.fromarray(tiny_model.blobs(8, 8)).save(path),
    "9x300": lambda path: Image.fromarray(tiny_model.blobs(300, 9)).save(path),
    "300x9": lambda path: Image.fromarray(tiny_model.blobs(9, 300)).save(path),
    "1x40": lambda path: Image.fromarray(tiny_model.blobs(40, 1)).save(path),
    "40x1": lambda path: Image.fromarray(tiny_model.blobs(1, 40)).save(path),
    "grey": lambda path: Image.fromarray(tiny_model.blobs()[:, :, 0]).save(path),
    "one bit": lambda path: Image.fromarray(tiny_model.blobs()[:, :, 0]).convert("1").save(path),
    "16 bit": lambda path: Image.fromarray(tiny_model.blobs()[:, :, 0].astype(np.uint16) * 257).save(path),
    "alpha": lambda path: _with_alpha().save(path),
    "palette": lambda path: Image.fromarray(tiny_model.blobs()).quantize(16).save(path),
    "black": lambda path: Image.new("RGB", (44, 40)).save(path),
    "white": lambda path: Image.new("RGB", (44, 40), "white").save(path),
}


def _with_alpha() -> Image.Image:
    image = Image.fromarray(tiny_model.blobs())
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def test_odd_photos_keep_the_contract_in_their_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from latcli.engine.images import read_photo

    for name, write in ODD_PHOTOS.items():
        write(Path(f"{name}.png"))
    code, stdout, stderr = _attack(capsys, *[f"{name}.png" for name in ODD_PHOTOS], "--steps", "2")
    document = json.loads(stdout)
    assert code == 1
    attacked = {one["image"]: one["files"] for one in document["images"]}
    # Of a photo of one row the classifier sees the middle alone, and that is the object.
    assert set(attacked) == {f"{name}.png" for name in ODD_PHOTOS if name not in ("1x40", "40x1")}
    told = stderr.splitlines()
    assert len(told) == 2
    assert all("lies outside what the classifier sees" in line for line in told)
    for name, files in attacked.items():
        levels_HWC = read_photo(Path(name)).levels_HWC
        saved_HWC, mask_HW = np.asarray(Image.open(files["adversarial"])), np.asarray(Image.open(files["mask"]))
        assert saved_HWC.shape == levels_HWC.shape
        change_HW = np.abs(saved_HWC.astype(int) - levels_HWC).max(axis=2)
        assert change_HW.max() <= 8
        assert change_HW[mask_HW == 255].max(initial=0) == 0


#: Networks of a user's own, as bad as they come.
STRESSED = """
import torch
from tiny_model import TinyNet

class InPlace(TinyNet):
    def forward(self, x):
        return super().forward(x.mul_(0.5).add_(0.25))

class Dropping(TinyNet):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.1, training=True))

class Detached(TinyNet):
    def forward(self, x):
        return super().forward(x.detach())

class Times(TinyNet):
    factor = 1.0
    def forward(self, x):
        return super().forward(x) * self.factor

def times(factor):
    net = Times()
    net.factor = factor
    return net

class CastsByItself(TinyNet):
    def forward(self, x):
        return super().forward(x.half())

def half(): return TinyNet().half()
def bfloat16(): return TinyNet().bfloat16()
def double(): return TinyNet().double()
def casts_by_itself(): return CastsByItself().half()
def training(): return TinyNet().train()
def in_place(): return InPlace()
def dropping(): return Dropping()
def detached(): return Detached()
def huge(): return times(1e30)
def constant(): return times(0.0)
def nan(): return times(float("nan"))
def infinite(): return times(float("inf"))
"""


@pytest.mark.parametrize(
    "model", ["half", "bfloat16", "double", "training", "in_place", "dropping", "huge", "constant"]
)
def test_a_classifier_of_ones_own_may_be_odd(model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_photo(here / "a.png")
    code, stdout, stderr = _attack(capsys, "a.png", "--steps", "2", model=f"stressed:{model}")
    assert code == 0
    assert ("plain fp32" in stderr) == (model == "dropping")  # no form agrees with what is drawn anew each time
    (told,) = _results(stdout).values()
    assert 0 <= told["adversarial"]["confidence"] <= 1
    assert told["linf_outside"] <= 8 / 255 + 1e-9


def test_a_classifier_leaves_its_input_as_it_was() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, CLASSES))
    classifier = Classifier("in place", net, Preprocessing(2, 2, "bilinear"), [str(k) for k in range(CLASSES)])
    x_BChw = torch.full((1, 3, 2, 2), -1.0)
    classifier(x_BChw)
    assert (x_BChw == -1.0).all()


def test_an_in_place_network_is_attacked_as_one_that_is_not(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its input is a copy: what it does to it reaches neither the gradient nor the score."""
    save_photo(here / "a.png")
    (here / "stressed.py").write_text(
        STRESSED + "\nclass Plain(TinyNet):\n    def forward(self, x):\n"
        "        return super().forward(x * 0.5 + 0.25)\n\ndef plain(): return Plain()\n"
    )
    found = [
        _results(_attack(capsys, "a.png", "--steps", "5", "--attack", attack, model=f"stressed:{model}")[1])["a.png"]
        for attack in ("pgd", "square")
        for model in ("in_place", "plain")
    ]
    assert found[0]["adversarial"] == found[1]["adversarial"]
    assert found[2]["adversarial"] == found[3]["adversarial"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nan", "NaN or infinite logits"),
        ("infinite", "NaN or infinite logits"),
        ("detached", "gives no gradient"),
        ("casts_by_itself", "does not take images"),
    ],
)
def test_a_classifier_that_cannot_be_attacked_is_refused_in_two_lines(
    model: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photo(here / "a.png")
    code, stdout, stderr = _attack(capsys, "a.png", "--steps", "2", model=f"stressed:{model}")
    assert code in (1, 2)
    assert stdout == ""
    assert re.fullmatch(r"error: [^\n]+\nhint: [^\n]+\n", stderr), stderr
    assert message in stderr


def test_a_classifier_without_gradients_is_attacked_by_queries(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_photo(here / "a.png")
    how = ("a.png", "--steps", "100", "--epsilon", "32/255", "--attack", "square")
    code, stdout, _ = _attack(capsys, *how, model="stressed:detached")
    assert code == 0
    (told,) = _results(stdout).values()
    assert told["adversarial"]["confidence"] < told["clean"]["confidence"]
