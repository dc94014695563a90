"""The whole way of a photo: what may change, what changed, and that the score is that of the saved bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import CLASSES, CROP, RESIZE, TinyNet, blobs

from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.detectors.base import Box, Detection, Target
from latcli.engine.images import Photo, decode_photo, encode_png
from latcli.engine.models.classifier import Classifier
from latcli.engine.photos import Localization, Localized, PhotoAttacker, PhotoResult, PhotoSettings, batches
from latcli.errors import ContractError, ExitCode, ImageError, LatcliError, NoObjectError, UsageError
from latcli.results import Label

NAMES = TinyNet.class_names


def tiny_classifier() -> Classifier:
    return Classifier("tiny", TinyNet(), TinyNet.preprocessing, NAMES, "tiny")


class FakeDetector:
    """Finds what it was told to find, and counts how often it was asked."""

    depends_on_target = False

    def __init__(self, *boxes: Box, segmentations_NHW: torch.Tensor | None = None, name: str = "fake") -> None:
        self.detection = Detection(boxes, segmentations_NHW)
        self.name = self.fingerprint = name
        self.asked: list[tuple[str, Target]] = []

    def detect(self, photo: Photo, target: Target) -> Detection:
        self.asked.append((photo.name, target))
        return self.detection


MIDDLE = Box(12, 10, 28, 26, 0.9, "thing")


def photo_of(height: int = 40, width: int = 44, seed: int = 0) -> Photo:
    return decode_photo(encode_png(blobs(height, width, seed)), f"{seed}.png")


def attacker_of(
    *,
    detector: FakeDetector | None = None,
    search: AttackSettings | None = None,
    where: Localization | None = None,
    **settings: object,
) -> PhotoAttacker:
    return PhotoAttacker(
        tiny_classifier(),
        detector or FakeDetector(MIDDLE),
        pgd,
        PhotoSettings(
            attack=search or AttackSettings(steps=12),
            localization=where or Localization(),
            **settings,  # type: ignore[arg-type]
        ),
    )


def attack(attacker: PhotoAttacker, photo: Photo, label: int | None = None) -> PhotoResult:
    given = None if label is None else Label(label, NAMES[label], "given")
    return attacker.attack_batch([attacker.localize(photo, given)])[0]


def change_of(result: PhotoResult) -> np.ndarray:
    """The largest change of each pixel, in levels, from the bytes that were saved."""
    saved = np.asarray(Image.open(io.BytesIO(result.adversarial_png)))
    return np.abs(saved.astype(int) - result.localized.photo.levels_HWC).max(axis=2)


def probabilities(png: bytes, resize: bool = True) -> np.ndarray:
    """What the network says of a file, by PIL and numpy alone."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if resize:
        short = min(image.size)
        image = image.resize((image.width * RESIZE // short, image.height * RESIZE // short), Image.Resampling.BILINEAR)
        left, top = round((image.width - CROP) / 2), round((image.height - CROP) / 2)
        image = image.crop((left, top, left + CROP, top + CROP))
    x_1CHW = torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        return TinyNet()(x_1CHW).double().softmax(dim=1)[0].numpy()


# The background changes, the object does not


def test_the_background_changes_by_at_most_epsilon_and_the_object_not_at_all() -> None:
    result = attack(attacker_of(epsilon=8 / 255), photo_of())
    change = change_of(result)
    assert change[10:26, 12:28].max() == 0
    assert change.max() == 8
    assert result.linf_inside == 0.0
    assert result.linf_outside == pytest.approx(8 / 255)
    assert result.altered_share == pytest.approx(np.count_nonzero(change) / change.size)
    assert result.localized.mask_HW[10:26, 12:28].min() == 255
    assert result.localized.mask_HW.sum() == 16 * 16 * 255
    assert result.localized.background_share == pytest.approx(1 - 16 * 16 / (40 * 44))


def test_the_attack_fools_the_classifier() -> None:
    results = [attack(attacker_of(epsilon=16 / 255), photo_of(seed=seed)) for seed in range(6)]
    assert sum(result.adversarial.rank > 1 for result in results) >= 5
    for result in results:
        assert result.localized.clean.rank == 1
        assert result.localized.label.source == "prediction"
        assert result.adversarial.confidence < result.localized.clean.confidence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(40, 44), (41, 97), (120, 50), (20, 20), (1, 1), (7, 3)])
def test_the_score_is_that_of_the_saved_bytes(size: tuple[int, int], seed: int) -> None:
    photo = photo_of(*size, seed=seed)
    result = attack(attacker_of(where=Localization(boxes=((0, 0, 1, 1),)), region="all"), photo, label=5)
    told, found = result.adversarial, probabilities(result.adversarial_png)
    assert told.index == found.argmax()
    assert told.confidence == pytest.approx(found[5], abs=1e-6)
    assert told.rank == 1 + np.count_nonzero(found > found[5])
    assert told.loss == pytest.approx(-np.log(found[5]), abs=1e-5)
    assert [index for index, _ in told.top] == list(found.argsort()[::-1][:5])
    clean = probabilities(encode_png(photo.levels_HWC))
    assert result.localized.clean.confidence == pytest.approx(clean[5], abs=1e-6)
    assert result.localized.clean.index == clean.argmax()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(result.adversarial_png))), result.adversarial_HWC)


def test_an_attack_that_leaves_the_epsilon_matrix_is_stopped() -> None:
    def cheat(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B):  # type: ignore[no-untyped-def]
        return (x_BCHW + 0.5).clamp(0, 1)

    attacker = attacker_of()
    attacker.attack = cheat
    with pytest.raises(ContractError):
        attack(attacker, photo_of())


@pytest.mark.parametrize(("change", "levels"), [(0.6, 1), (0.4, 0), (-0.6, -1), (-0.4, 0), (2.5001, 3)])
def test_changes_are_rounded_to_the_nearest_level_not_cut_off(change: float, levels: int) -> None:
    def nudge(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B):  # type: ignore[no-untyped-def]
        return x_BCHW + change / 255 * (eps_B1HW > 0)

    attacker = attacker_of()
    attacker.attack = nudge
    result = attack(attacker, photo_of())
    found = result.adversarial_HWC.astype(int) - result.localized.photo.levels_HWC
    assert set(found[result.localized.allowed_HW > 0].ravel()) == {levels}


def test_a_classifier_that_returns_nan_is_refused() -> None:
    attacker = attacker_of()
    attacker.classifier.net.head.bias.data[0] = float("nan")
    with pytest.raises(LatcliError, match="tiny returns NaN or infinite logits"):
        attacker.localize(photo_of())


# Labels


def test_a_photo_that_is_classified_wrongly_is_judged_by_its_label() -> None:
    photo = photo_of()
    guess = attacker_of().localize(photo).clean.index
    label = (guess + 1) % CLASSES
    result = attack(attacker_of(search=AttackSettings(steps=1), epsilon=1 / 255), photo, label)
    assert result.localized.clean.index == guess
    assert result.localized.clean.rank > 1
    found = probabilities(result.adversarial_png)
    assert result.adversarial.confidence == pytest.approx(found[label], abs=1e-6)
    assert result.adversarial.rank == 1 + np.count_nonzero(found > found[label])


def test_the_label_is_what_the_attack_leaves() -> None:
    photo = photo_of()
    label = int(probabilities(encode_png(photo.levels_HWC)).argsort()[-2])
    result = attack(attacker_of(epsilon=16 / 255), photo, label)
    assert result.adversarial.confidence < result.localized.clean.confidence / 3


def test_a_target_is_reached() -> None:
    photo = photo_of()
    target = int(probabilities(encode_png(photo.levels_HWC)).argsort()[-3])
    settings = {"epsilon": 32 / 255, "target": Label(target, NAMES[target], "given")}
    result = attack(attacker_of(search=AttackSettings(steps=40), **settings), photo)
    assert result.adversarial.index == target == probabilities(result.adversarial_png).argmax()


def test_the_class_of_a_photo_is_no_target() -> None:
    attacker = attacker_of(target=Label(5, NAMES[5], "given"))
    with pytest.raises(UsageError, match=r"the target 'class 5' is the class of 0\.png itself"):
        attacker.localize(photo_of(), Label(5, NAMES[5], "given"))
    assert attacker.localize(photo_of(), Label(6, NAMES[6], "given")).label.index == 6


# Where the object is


def test_no_object_fails_with_its_own_exit_code() -> None:
    with pytest.raises(NoObjectError, match=r"fake found no object in 0\.png") as caught:
        attacker_of(detector=FakeDetector()).localize(photo_of())
    assert caught.value.exit_code == ExitCode.NO_OBJECT
    assert "--on-miss" in caught.value.hint


def test_no_object_and_on_miss_skip_is_left_to_the_caller() -> None:
    with pytest.raises(NoObjectError):
        attacker_of(detector=FakeDetector(), where=Localization(on_miss="skip")).localize(photo_of())


def test_no_object_and_on_miss_center_protects_the_middle() -> None:
    one = attacker_of(detector=FakeDetector(), where=Localization(on_miss="center")).localize(photo_of(40, 44))
    assert (one.mask_HW[10:30, 11:33] == 255).all()
    assert one.mask_HW.sum() == 20 * 22 * 255
    assert "fake missed" in one.how
    assert one.boxes == ()


def test_the_detector_none_leaves_the_whole_photo_to_the_attack() -> None:
    one = attacker_of(detector=FakeDetector(name="none")).localize(photo_of())
    assert one.mask_HW.max() == 0
    assert one.background_share == 1.0


def test_a_box_that_covers_the_photo_is_reported_and_not_attacked() -> None:
    with pytest.raises(LatcliError, match=r"nothing is left to change in 0\.png: the object .* whole photo") as caught:
        attacker_of(detector=FakeDetector(Box(0, 0, 44, 40, 0.9, "thing"))).localize(photo_of())
    assert "robustness" in caught.value.hint
    assert caught.value.exit_code == ExitCode.FAILURE


def test_a_background_that_the_classifier_does_not_see_is_reported() -> None:
    """Of a photo five times as wide as high the classifier sees the middle alone."""
    wide = photo_of(40, 200)
    with pytest.raises(LatcliError, match="lies outside what the classifier sees"):
        attacker_of(where=Localization(boxes=((50, 0, 150, 40),))).localize(wide)
    one = attacker_of(where=Localization(boxes=((90, 0, 110, 40),))).localize(wide)
    assert one.background_share == pytest.approx(0.9)
    assert 0 < one.visible_share < 0.9
    assert one.allowed_HW[:, :70].max() == 0


def test_what_the_classifier_does_not_see_is_left_alone() -> None:
    result = attack(attacker_of(where=Localization(boxes=((90, 0, 110, 40),))), photo_of(40, 200))
    changed = change_of(result)
    assert changed[:, :75].max() == changed[:, 125:].max() == 0
    assert changed.max() > 0


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((-1, 0, 10, 10), "outside"),
        ((0, 0, 45, 10), "outside"),
        ((0, 0, 10, 41), "outside"),
        ((10, 10, 10, 20), "empty"),
        ((20, 10, 10, 20), "empty"),
    ],
)
def test_a_box_that_does_not_fit_the_photo_is_refused(box: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attacker_of(where=Localization(boxes=(box,))).localize(photo_of(40, 44))


def test_given_boxes_ask_no_detector_and_are_united() -> None:
    detector = FakeDetector(MIDDLE)
    where = Localization(boxes=((0, 0, 10, 10), (5, 5, 20, 12)))
    one = attacker_of(detector=detector, where=where).localize(photo_of())
    assert detector.asked == []
    assert one.mask_HW.sum() == (100 + 105 - 25) * 255
    assert [box.score for box in one.boxes] == [1.0, 1.0]


def test_of_several_boxes_all_that_agree_are_protected_or_the_best() -> None:
    boxes = (
        Box(0, 0, 4, 4, 0.5, "Class_3"),
        Box(8, 8, 12, 12, 0.6, "class 3"),
        Box(20, 20, 40, 40, 0.9, "class 4"),
    )
    label = Label(3, "class 3", "given")
    for which, kept in (("all", boxes[:2]), ("best", boxes[1:2])):
        one = attacker_of(detector=FakeDetector(*boxes), where=Localization(which=which)).localize(photo_of(), label)
        assert one.boxes == kept
        assert one.mask_HW.sum() == 16 * len(kept) * 255


def test_silhouettes_are_protected_in_place_of_their_boxes() -> None:
    silhouettes = torch.zeros(2, 40, 44, dtype=torch.bool)
    silhouettes[0, 5:8, 5:8] = True
    silhouettes[1, 20, 20] = True
    boxes = (Box(4, 4, 9, 9, 0.9, "class 3", 0), Box(19, 19, 30, 30, 0.8, "class 4", 1))
    one = attacker_of(detector=FakeDetector(*boxes, segmentations_NHW=silhouettes)).localize(
        photo_of(), Label(4, "class 4", "given")
    )
    np.testing.assert_array_equal(one.mask_HW > 0, silhouettes[1].numpy())


def test_the_center_is_a_share_of_the_sides() -> None:
    one = attacker_of(where=Localization(center=0.25)).localize(photo_of(40, 80))
    assert (one.mask_HW[15:25, 30:50] == 255).all()
    assert one.mask_HW.sum() == 10 * 20 * 255


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_center_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="center"):
        Localization(center=share)


def test_two_ways_to_say_where_the_object_is_are_refused() -> None:
    with pytest.raises(UsageError, match="--box and --mask"):
        Localization(boxes=((0, 0, 1, 1),), mask=Path("mask.png"))


def test_grabcut_turns_a_box_into_the_objects_outline() -> None:
    rows, columns = np.mgrid[0:80, 0:80]
    disc = (rows - 40) ** 2 + (columns - 40) ** 2 < 20**2
    noise = np.random.default_rng(0).integers(-6, 7, (80, 80, 3))
    levels = (np.where(disc[:, :, None], (200, 60, 60), (60, 120, 60)) + noise).astype(np.uint8)
    photo = decode_photo(encode_png(levels), "disc.png")
    where = Localization(boxes=((15, 15, 65, 65),), refine="grabcut")
    one = attacker_of(where=where).localize(photo)
    found = one.mask_HW > 0
    assert np.count_nonzero(found & disc) / np.count_nonzero(found | disc) > 0.9
    assert np.array_equal(one.mask_HW, attacker_of(where=where).localize(photo).mask_HW)


# Masks


def mask_file(folder: Path, levels: np.ndarray, name: str = "mask.png") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encode_png(levels.astype(np.uint8)))
    return folder / name


def test_a_mask_protects_what_is_white_and_softly_what_is_grey(tmp_path: Path) -> None:
    levels = np.zeros((40, 44))
    levels[:, :10], levels[:, 10:20] = 255, 128
    where = Localization(mask=mask_file(tmp_path, levels))
    detector = FakeDetector(MIDDLE)
    result = attack(attacker_of(detector=detector, where=where, epsilon=20 / 255), photo_of())
    change = change_of(result)
    assert change[:, :10].max() == 0
    assert 1 <= change[:, 10:20].max() <= 9  # floor(20 x (1 - 128/255))
    assert change[:, 20:].max() == 20
    assert detector.asked == []
    assert result.localized.how == "mask file"


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    where = Localization(mask=mask_file(tmp_path, np.zeros((44, 40))))
    with pytest.raises(ImageError, match="is 40x44, its photo 44x40"):
        attacker_of(where=where).localize(photo_of(40, 44))


def test_from_a_folder_of_masks_each_photo_takes_the_one_of_its_name(tmp_path: Path) -> None:
    left, right = np.zeros((40, 44)), np.zeros((40, 44))
    left[:, :10], right[:, 30:] = 255, 255
    mask_file(tmp_path / "masks", left, "1.png")
    mask_file(tmp_path / "masks", right, "2.tiff")
    attacker = attacker_of(where=Localization(mask=tmp_path / "masks"))
    assert attacker.localize(photo_of(seed=1)).mask_HW[:, :10].min() == 255
    assert attacker.localize(photo_of(seed=2)).mask_HW[:, 30:].min() == 255
    with pytest.raises(UsageError, match=r"3\.png has no mask"):
        attacker.localize(photo_of(seed=3))


def test_a_mask_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such file: .*none\.png"):
        attacker_of(where=Localization(mask=tmp_path / "none.png")).localize(photo_of())


# Regions and epsilon


def test_regions_say_what_may_change() -> None:
    inside = np.zeros((40, 44), dtype=bool)
    inside[10:26, 12:28] = True
    changes = {region: change_of(attack(attacker_of(region=region), photo_of())) for region in ("foreground", "all")}
    assert changes["foreground"][~inside].max() == 0
    assert changes["foreground"][inside].max() == 8
    assert changes["all"][inside].max() == changes["all"][~inside].max() == 8


def test_a_random_region_has_the_area_of_the_background() -> None:
    photo = photo_of()
    shares = {}
    for region in ("background", "random"):
        one = attacker_of(region=region).localize(photo)
        shares[region] = one.background_share
    assert shares["random"] == shares["background"]
    moved = [
        attacker_of(region="random", seed=seed, detector=FakeDetector(MIDDLE)).localize(photo).allowed_HW
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(moved[0], moved[1])
    assert not np.array_equal(moved[0], moved[2])


@pytest.mark.parametrize("epsilon", [1 / 256, 1e-9])
def test_an_epsilon_below_one_level_is_refused(epsilon: float) -> None:
    with pytest.raises(UsageError, match="less than one 8-bit level") as caught:
        attacker_of(epsilon=epsilon).localize(photo_of())
    assert "1/255" in caught.value.hint


@pytest.mark.parametrize(("epsilon", "levels"), [(1 / 255, 1), (0.031, 7), (0.0313, 7), (8 / 255, 8), (1.0, 255)])
def test_epsilon_is_rounded_down_to_whole_levels(epsilon: float, levels: int) -> None:
    assert attacker_of(epsilon=epsilon).localize(photo_of()).allowed_HW.max() == levels


def test_the_l2_radius_holds_for_the_saved_photo() -> None:
    search = AttackSettings(steps=12, norm="l2", radius=0.7)
    result = attack(attacker_of(search=search, epsilon=1.0), photo_of())
    saved = np.asarray(Image.open(io.BytesIO(result.adversarial_png))).astype(float)
    length = np.linalg.norm((saved - result.localized.photo.levels_HWC) / 255)
    assert 0.3 < length <= 0.7 + 1e-6
    assert result.l2 == pytest.approx(length)
    assert change_of(result)[10:26, 12:28].max() == 0


# Resolution


def test_the_saved_photo_has_the_photos_own_size() -> None:
    result = attack(attacker_of(), photo_of(53, 71))
    assert Image.open(io.BytesIO(result.adversarial_png)).size == (71, 53)


def test_at_model_resolution_the_saved_photo_has_the_networks_size() -> None:
    where = Localization(center=0.3)
    result = attack(attacker_of(where=where, at_model_resolution=True), photo_of(53, 71), label=2)
    saved = Image.open(io.BytesIO(result.adversarial_png))
    assert saved.size == (CROP, CROP)
    assert result.localized.mask_HW.shape == (CROP, CROP)
    found = probabilities(result.adversarial_png, resize=False)
    assert result.adversarial.confidence == pytest.approx(found[2], abs=1e-6)
    assert result.adversarial.index == found.argmax()
    change = change_of(result)
    assert change[7:13, 7:13].max() == 0
    assert change.max() == 8
    assert "resized to 20 px" in result.localized.photo.notes


def test_a_photo_of_more_pixels_than_the_grid_keeps_the_contract() -> None:
    photo = photo_of(1_900, 2_300)
    search = AttackSettings(steps=6)
    result = attack(attacker_of(search=search, where=Localization(boxes=((801, 703, 1300, 1200),))), photo)
    change = change_of(result)
    assert change.shape == (1_900, 2_300)
    assert change[703:1200, 801:1300].max() == 0
    assert change.max() == 8
    found = probabilities(result.adversarial_png)
    assert result.adversarial.index == found.argmax()
    assert result.adversarial.confidence < result.localized.clean.confidence / 2


# Stopping early


@pytest.mark.parametrize("rank", [1, 10])
def test_an_attack_that_stops_early_has_reached_its_rank_in_the_saved_file(rank: int) -> None:
    search = AttackSettings(steps=60, stop_rank=rank)
    for seed in range(4):
        result = attack(attacker_of(search=search, epsilon=48 / 255), photo_of(seed=seed))
        found = probabilities(result.adversarial_png)
        assert 1 + np.count_nonzero(found > found[result.localized.label.index]) > rank
        whole = attack(attacker_of(search=AttackSettings(steps=60), epsilon=48 / 255), photo_of(seed=seed))
        assert result.adversarial.loss < whole.adversarial.loss


# The same again


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (attack(attacker_of(seed=seed), photo_of()).adversarial_png for seed in (4, 4, 5))
    assert first == again != other


def test_a_photo_comes_out_alone_as_in_a_batch() -> None:
    photos = [
        photo_of(*size, seed=seed) for seed, size in enumerate([(40, 44), (64, 30), (90, 91), (40, 44), (33, 70)])
    ]
    attacker = attacker_of(where=Localization(center=0.3), epsilon=12 / 255)
    together = attacker.attack_batch([attacker.localize(photo) for photo in photos])
    for photo, batched in zip(photos, together, strict=True):
        alone = attack(attacker_of(where=Localization(center=0.3), epsilon=12 / 255), photo)
        assert alone.adversarial.index == batched.adversarial.index
        assert alone.adversarial.rank == batched.adversarial.rank
        assert alone.adversarial.confidence == pytest.approx(batched.adversarial.confidence, abs=1e-4)
        assert np.mean(alone.adversarial_HWC != batched.adversarial_HWC) < 0.01


def test_the_random_start_of_a_photo_depends_on_its_bytes_not_its_name() -> None:
    photo = photo_of()
    renamed = Photo("renamed.png", photo.levels_HWC, photo.sha256)
    assert attack(attacker_of(), photo).adversarial_png == attack(attacker_of(), renamed).adversarial_png


# The cache of detections


class MemoryCache:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], Detection] = {}

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        return self.kept.get((photo.sha256, fingerprint, target))

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        self.kept[photo.sha256, fingerprint, target] = detection


@pytest.mark.parametrize(("depends_on_target", "asked"), [(False, 1), (True, 2)])
def test_a_photo_is_detected_once_for_each_target_that_matters(depends_on_target: bool, asked: int) -> None:
    detector, cache = FakeDetector(MIDDLE), MemoryCache()
    detector.depends_on_target = depends_on_target
    for label in (3, 3, 4):
        attacker = attacker_of(detector=detector)
        attacker.cache = cache
        assert attacker.localize(photo_of(), Label(label, NAMES[label], "given")).boxes == (MIDDLE,)
    assert len(detector.asked) == asked


def test_that_nothing_was_found_is_remembered_too() -> None:
    detector, cache = FakeDetector(), MemoryCache()
    for _ in range(2):
        attacker = attacker_of(detector=detector, where=Localization(on_miss="center"))
        attacker.cache = cache
        attacker.localize(photo_of())
    assert len(detector.asked) == 1


# Batches


def localized(height: int, width: int, seed: int = 0) -> Localized:
    one = attacker_of(where=Localization(center=0.3)).localize(photo_of())
    return replace(one, photo=Photo(str(seed), np.empty((height, width, 3), dtype=np.uint8), ""))


def grouped(sizes: list[tuple[int, int]], most: int, pixels: int) -> list[list[str]]:
    photos = [localized(*size, seed=number) for number, size in enumerate(sizes)]
    return [[one.photo.name for one in group] for group in batches(photos, most, pixels)]


def test_photos_are_grouped_in_order_by_number_and_by_canvas() -> None:
    assert grouped([(10, 10)] * 5, 2, 10_000) == [["0", "1"], ["2", "3"], ["4"]]
    assert grouped([(10, 10)] * 5, 8, 300) == [["0", "1", "2"], ["3", "4"]]
    # A wide and a high photo share a canvas as wide and as high as both.
    assert grouped([(10, 40), (40, 10)], 8, 1_000) == [["0"], ["1"]]
    assert grouped([(10, 40), (10, 40)], 8, 1_000) == [["0", "1"]]
    assert grouped([(10, 10), (100, 100), (10, 10)], 8, 300) == [["0"], ["1"], ["2"]]
    assert grouped([], 8, 300) == []


def test_photos_are_not_loaded_before_their_turn() -> None:
    loaded: list[int] = []

    def load() -> Iterator[Localized]:
        for number in range(20):
            loaded.append(number)
            yield localized(10, 10, number)

    groups = batches(load(), 4, 10_000)
    assert len(next(groups)) == 4
    assert len(loaded) <= 5


# What else is asked of it


def test_the_object_alone_is_the_photo_with_a_black_background() -> None:
    attacker = attacker_of()
    one = attacker.localize(photo_of())
    levels, said = attacker.object_only(one)
    np.testing.assert_array_equal(levels[10:26, 12:28], one.photo.levels_HWC[10:26, 12:28])
    assert levels.sum() == one.photo.levels_HWC[10:26, 12:28].sum()
    assert said.confidence == pytest.approx(probabilities(encode_png(levels))[one.label.index], abs=1e-6)


def test_the_time_of_a_step_is_measured() -> None:
    attacker = attacker_of()
    assert 0 < attacker.seconds_a_step(attacker.localize(photo_of())) < 60


def test_the_classifier_is_left_as_it_was() -> None:
    attacker = attacker_of()
    before = {name: value.clone() for name, value in attacker.classifier.state_dict().items()}
    attack(attacker, photo_of())
    assert not attacker.classifier.training
    for name, value in attacker.classifier.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in attacker.classifier.parameters())
