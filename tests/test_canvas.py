"""Photos of any sizes as one batch, and exact levels back: nothing leaks between photos, cells or protected pixels."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from latcli.engine import canvas as canvas_module
from latcli.engine.canvas import (
    adversarial_levels,
    check_levels,
    make_canvas,
    make_grid,
    make_view,
    measure_change,
    structural_similarity,
)
from latcli.engine.images import to_unit
from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import ContractError

CPU = torch.device("cpu")
PIPELINE = Preprocessing(20, 16, "bilinear")


def levels_of(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def allowance_of(height, width, seed):
    """Soft: 0 to 8 levels, with a protected rectangle."""
    allowed_HW = np.random.default_rng(seed).integers(0, 9, (height, width), dtype=np.uint8)
    allowed_HW[height // 4 : height // 2, width // 4 : width // 2] = 0
    return allowed_HW


MIXED = [(40, 60), (61, 33), (20, 20), (35, 90)]


def test_a_canvas_reads_photos_as_the_ordinary_pipeline_does():
    for pipeline in [Preprocessing(20, 16, "bicubic"), PIPELINE]:
        for contrast in [0.3, 1e5]:
            photos = [levels_of(*size, seed) for seed, size in enumerate(MIXED)]
            photos = [(128 + contrast * (p.astype(np.float64) - 128)).clip(0, 255).astype(np.uint8) for p in photos]
            canvas = make_canvas([make_grid(p, np.full(p.shape[:2], 8, np.uint8)) for p in photos], CPU)
            view, kept_b = make_view(lambda x_BCHW: x_BCHW, canvas, pipeline), torch.tensor([2, 0])
            seen_BChw = view(canvas.x_BCHW)
            assert torch.equal(view.narrowed(kept_b)(canvas.x_BCHW[kept_b]), seen_BChw[kept_b])
            for photo, seen_Chw in zip(photos, seen_BChw, strict=True):
                difference_Chw = 255 * (seen_Chw - pipeline.read(Image.fromarray(photo))).abs()
                assert difference_Chw.max() < 1.2  # PIL rounds after each of its two passes
                assert difference_Chw.mean() < 0.5  # so much where all weights are halves, which round the same way


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_areas_keep_their_whole_gradient(level):
    """Weights that add up to a little more than 1 must not count as overshooting."""
    photo = np.full((61, 83, 3), level, np.uint8)
    canvas = make_canvas([make_grid(photo, np.full(photo.shape[:2], 8, np.uint8))], CPU)
    pipeline = Preprocessing(20, 16, "bicubic")
    x_BCHW = canvas.x_BCHW.requires_grad_()
    seen_BChw = make_view(lambda x_BCHW: x_BCHW, canvas, pipeline)(x_BCHW)
    (gradient_BCHW,) = torch.autograd.grad(seen_BChw.sum(), x_BCHW)
    rows_hH, columns_wW = pipeline.matrices((61, 83))
    expected_HW = rows_hH.sum(dim=0)[:, None] * columns_wW.sum(dim=0)
    torch.testing.assert_close(gradient_BCHW[0], expected_HW.expand(3, 61, 83))


def test_the_view_sees_the_levels_that_will_be_saved_and_passes_gradients_straight():
    canvas = make_canvas([make_grid(levels_of(16, 16, 0), np.full((16, 16), 8, np.uint8))], CPU)
    seen = []

    def look(x_BCHW):
        seen.append(x_BCHW.detach())
        return x_BCHW.flatten(1)

    x_BCHW = (canvas.x_BCHW + 0.3 / 255).requires_grad_()  # rounds back to the photo's own levels
    view = make_view(look, canvas, None)
    (gradient_BCHW,) = torch.autograd.grad(view(x_BCHW).sum(), x_BCHW)

    torch.testing.assert_close(seen[0], canvas.x_BCHW, rtol=0, atol=1e-6)
    inside = (canvas.x_BCHW > 0) & (canvas.x_BCHW < 1)
    assert (gradient_BCHW[inside] == 1).all()


@given(st.integers(3, 70), st.integers(3, 70), st.integers(20, 1500), st.integers(0, 1000))
@example(20, 30, 600, 0)  # within bounds a photo is its own grid
def test_a_large_photo_changes_cell_by_cell_and_keeps_every_allowance(height, width, pixels, seed):
    levels_HWC, allowed_HW = levels_of(height, width, seed), allowance_of(height, width, seed)
    grid = make_grid(levels_HWC, allowed_HW, max_pixels=pixels)
    h, w = grid.allowed_HW.shape
    change_hw = np.random.default_rng(seed).integers(-1, 2, (h, w, 3)) * grid.allowed_HW[:, :, None].astype(int)
    adv_Chw = to_unit(np.clip(grid.levels_HWC + change_hw, 0, 255).astype(np.uint8))

    adversarial_HWC = adversarial_levels(levels_HWC, allowed_HW, grid, adv_Chw, None).astype(int)

    moved_HWC = np.abs(adversarial_HWC - levels_HWC)
    assert (moved_HWC <= allowed_HW[:, :, None]).all()
    if height * width <= pixels:
        assert grid.levels_HWC is levels_HWC
        assert np.array_equal(adversarial_HWC, np.clip(levels_HWC + change_hw, 0, 255))
        return
    assert h * w <= pixels + h + w  # whole cells at the edges
    for row, column in np.ndindex(h, w):
        cell = np.ix_(grid.rows == row, grid.columns == column)
        assert grid.allowed_HW[row, column] == allowed_HW[cell].min()
        change_C = adv_Chw[:, row, column].mul(255).round().int().numpy()
        change_C -= grid.levels_HWC[row, column]
        assert np.array_equal(adversarial_HWC[cell], np.clip(levels_HWC[cell] + change_C, 0, 255))


def test_the_l2_radius_holds_after_rounding_and_is_used():
    for max_pixels in [10_000, 300]:
        for radius in [0.05, 0.5, 2.0]:
            levels_HWC, allowed_HW = np.full((50, 60, 3), 120, np.uint8), np.full((50, 60), 30, np.uint8)
            grid = make_grid(levels_HWC, allowed_HW, max_pixels)
            h, w = grid.allowed_HW.shape
            noise_Chw = np.random.default_rng(0).normal(0, 5 / 255, (3, h, w))
            adv_Chw = torch.from_numpy(120 / 255 + noise_Chw).float().clamp(90 / 255, 150 / 255)
            change = measure_change(
                levels_HWC, adversarial_levels(levels_HWC, allowed_HW, grid, adv_Chw, radius), allowed_HW
            )
            assert change.l2 <= radius
            assert change.l2 > 0.7 * radius


@pytest.mark.parametrize(("change", "psnr"), [(1, 48.1308), (2, 42.1102), (8, 30.0690)])
def test_the_signal_to_noise_ratio_is_that_of_the_pixels_that_may_change(change, psnr):
    """20 log10(255 / change) where each of them changes alike; the half that is protected does not flatter it."""
    levels_HWC, allowed_HW = np.full((600, 20, 3), 100, np.uint8), np.full((600, 20), 8, np.uint8)
    allowed_HW[:300] = 0
    changed = measure_change(
        levels_HWC, levels_HWC + np.where(allowed_HW, change, 0)[:, :, None].astype(np.uint8), allowed_HW
    )
    assert changed.psnr == pytest.approx(psnr, abs=1e-3)
    same = measure_change(levels_HWC, levels_HWC, allowed_HW)
    assert (same.psnr, same.ssim) == (np.inf, pytest.approx(1))


def test_structural_similarity_is_wangs_formula_at_each_pixel():
    one, other = levels_of(40, 50, 0), levels_of(40, 50, 1)
    other[:20] = np.clip(one[:20].astype(int) + 9, 0, 255)
    found_HW = structural_similarity(one, other)
    place = np.arange(-5, 6)
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()
    grey = [np.asarray(Image.fromarray(levels).convert("L"), dtype=float) for levels in (one, other)]
    for row, column in ((8, 9), (19, 25), (30, 40)):
        x, y = (picture[row - 5 : row + 6, column - 5 : column + 6] for picture in grey)
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov, c1, c2 = (window * (x - mx) * (y - my)).sum(), 6.5025, 58.5225
        expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
        assert found_HW[row, column] == pytest.approx(expected, abs=0.005)  # greys are rounded to whole levels


def test_strips_of_a_large_photo_have_no_edges_of_their_own(monkeypatch):
    one, other = levels_of(90, 20, 0), levels_of(90, 20, 1)
    allowed_HW = allowance_of(90, 20, 0)
    whole = measure_change(one, other, allowed_HW)
    monkeypatch.setattr(canvas_module, "_STRIP", 16)
    stripped = measure_change(one, other, allowed_HW)
    assert stripped.ssim == pytest.approx(whole.ssim, abs=1e-6)
    assert (stripped.psnr, stripped.l2, stripped.altered) == (whole.psnr, whole.l2, whole.altered)


def test_what_would_be_saved_is_checked(monkeypatch):
    levels_HWC, allowed_HW = np.full((700, 20, 3), 100, np.uint8), np.full((700, 20), 8, np.uint8)
    allowed_HW[300:] = 0
    good_HWC = levels_HWC + allowed_HW[:, :, None]
    check_levels(levels_HWC, good_HWC, allowed_HW)
    for row in (10, 650):  # one free, one protected
        bad_HWC = good_HWC.copy()
        bad_HWC[row, 5, 1] += 1
        with pytest.raises(ContractError, match="changed by 1 levels more"):
            check_levels(levels_HWC, bad_HWC, allowed_HW)
    with pytest.raises(ContractError, match="above the radius"):
        check_levels(levels_HWC, good_HWC, allowed_HW, radius=0.5)
    monkeypatch.setattr(canvas_module, "_inside_radius", lambda change, *_: np.rint(change).astype(np.int16))
    with pytest.raises(ContractError, match="above the radius"):
        adversarial_levels(
            levels_HWC, allowed_HW, make_grid(levels_HWC, allowed_HW), torch.full((3, 700, 20), 108 / 255), 0.5
        )
