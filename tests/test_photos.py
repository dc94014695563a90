"""The whole way of a photo: what may change, what changed, and that the score is that of the saved bytes."""

import io
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import CLASSES, CROP, RESIZE, TinyNet, blobs
from torch import nn

from latcli.engine import devices, registry
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.detectors.base import Box, Detection
from latcli.engine.devices import at_once
from latcli.engine.images import Photo, decode_photo, encode_png
from latcli.engine.models.classifier import Classifier
from latcli.engine.objects import ObjectFinder, ObjectSettings
from latcli.engine.photos import PhotoAttacker, PhotoSettings, batches
from latcli.errors import LatcliError
from latcli.results import Label

NAMES = TinyNet.class_names
#: x0, y0, x1, y1 of the object, unless a test says otherwise.
MIDDLE = (12.0, 10.0, 28.0, 26.0)


def photo_of(height=40, width=44, seed=0):
    return decode_photo(encode_png(blobs(height, width, seed)), f"{seed}.png")


def label_of(index):
    return Label(index, NAMES[index], "given")


def attacker_of(*boxes, search=None, objects=None, network=None, **settings):
    finder = ObjectFinder(objects or ObjectSettings(boxes=boxes or (MIDDLE,)))
    classifier = Classifier("tiny", network or TinyNet(), TinyNet.preprocessing, NAMES, "tiny")
    return PhotoAttacker(classifier, finder, pgd, PhotoSettings(attack=search or AttackSettings(steps=12), **settings))


def attack(attacker, photo, label=None):
    located = attacker.locate(photo, None if label is None else label_of(label))
    return attacker.attack_batch([attacker.threat(located)])[0]


def change_of(result):
    """The largest change of each pixel, in levels, from the bytes that were saved."""
    saved = np.asarray(Image.open(io.BytesIO(result.adversarial_png)))
    return np.abs(saved.astype(int) - result.located.photo.levels_HWC).max(axis=2)


def probabilities(png, resize=True):
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


def test_the_score_is_that_of_the_saved_bytes():
    for size in [(40, 44), (41, 97), (120, 50), (20, 20), (1, 1), (7, 3)]:
        for seed in range(3):
            photo = photo_of(*size, seed=seed)
            result = attack(attacker_of((0, 0, 1, 1), region="all"), photo, label=5)
            said, found = result.adversarial, probabilities(result.adversarial_png)
            assert said.index == found.argmax()
            assert (said.confidence, said.p_prediction) == (
                pytest.approx(found[5], abs=1e-6),
                pytest.approx(found.max(), abs=1e-6),
            )
            assert said.rank == 1 + np.count_nonzero(found > found[5])
            assert said.loss == pytest.approx(-np.log(found[5]), abs=1e-5)
            assert [guess.index for guess in said.top] == list(found.argsort()[::-1][:5])
            clean = probabilities(encode_png(photo.levels_HWC))
            assert result.located.clean.confidence == pytest.approx(clean[5], abs=1e-6)
            assert result.located.clean.index == clean.argmax()
            np.testing.assert_array_equal(
                np.asarray(Image.open(io.BytesIO(result.adversarial_png))), result.adversarial_HWC
            )


@pytest.mark.parametrize(("change", "levels"), [(0.6, 1), (0.4, 0), (-0.6, -1), (-0.4, 0), (2.5001, 3)])
def test_changes_are_rounded_to_the_nearest_level_not_cut_off(change, levels):
    attacker = attacker_of()
    attacker.attack = lambda model, x, y, eps, *_: x + change / 255 * (eps > 0)
    result = attack(attacker, photo_of())
    found = result.adversarial_HWC.astype(int) - result.located.photo.levels_HWC
    assert set(found[result.threat.allowed_HW > 0].ravel()) == {levels}


# Labels and targets


def test_a_target_is_reached_and_its_probability_said():
    photo = photo_of()
    target = int(probabilities(encode_png(photo.levels_HWC)).argsort()[-3])
    search = AttackSettings(steps=40)
    result = attack(attacker_of(search=search, epsilon=32 / 255, target=label_of(target)), photo)
    found = probabilities(result.adversarial_png)
    assert result.adversarial.index == target == found.argmax()
    assert (result.reached, result.succeeded, result.fooled) == (True, True, True)
    assert result.p_target == pytest.approx(found[target], abs=1e-6)
    # A photo that takes another class than the target is fooled, and no success.
    least = label_of(int(probabilities(encode_png(photo.levels_HWC)).argmin()))
    result = attack(attacker_of(search=AttackSettings(steps=1), epsilon=16 / 255, target=least), photo)
    assert (result.fooled, result.reached, result.succeeded) == (True, False, False)


# What may change


def test_what_the_classifier_does_not_see_is_left_alone():
    """Of a photo five times as wide as high it sees the middle alone."""
    wide = photo_of(40, 200)
    unseen = attacker_of((50, 0, 150, 40))
    with pytest.raises(LatcliError, match="lies outside what the classifier sees"):
        unseen.threat(unseen.locate(wide))
    result = attack(attacker_of((90, 0, 110, 40)), wide)
    assert result.threat.background_share == pytest.approx(0.9)
    assert 0 < result.threat.visible_share < 0.9
    changed = change_of(result)
    assert changed[:, :75].max() == changed[:, 125:].max() == 0
    assert changed.max() > 0


def test_regions_say_what_may_change():
    attacker, photo = attacker_of(), photo_of()
    inside = np.zeros((40, 44), dtype=bool)
    inside[10:26, 12:28] = True
    located = attacker.locate(photo)
    window = np.zeros_like(inside)
    window[located.window] = True
    for region, expected in (("background", ~inside), ("foreground", inside), ("all", np.ones_like(inside))):
        threat = attacker.threat(located, region)
        np.testing.assert_array_equal(threat.allowed_HW, 8 * (expected & window))
        assert threat.background_share == pytest.approx(expected.mean())


@pytest.mark.parametrize("size", [(40, 44), (40, 90), (90, 40), (50, 500)])
def test_a_random_region_is_as_large_as_the_background_where_the_classifier_looks(size):
    height, width = size
    box = (0.4 * width, 0.2 * height, 0.6 * width, 0.8 * height)
    moved = 0
    for seed in range(5):
        attacker = attacker_of(box, seed=seed)
        located = attacker.locate(photo_of(*size))
        background, random = (attacker.threat(located, region) for region in ("background", "random"))
        assert random.visible_share == background.visible_share
        assert random.background_share == background.background_share
        assert np.count_nonzero(random.allowed_HW) == np.count_nonzero(background.allowed_HW)
        moved += not np.array_equal(random.allowed_HW, background.allowed_HW)
    assert moved >= 4


def test_a_patch_is_a_small_square_of_any_value_in_the_background():
    attacker = attacker_of()
    located = attacker.locate(photo_of())
    threat = attacker.threat(located, "patch", 1.0)
    rows, columns = np.nonzero(threat.allowed_HW)
    assert (np.ptp(rows), np.ptp(columns)) == (4, 4)  # 5 x 5 are 2 % of the 36 x 36 that the classifier sees
    assert set(threat.allowed_HW[threat.allowed_HW > 0]) == {255}
    result = attacker.attack_batch([threat])[0]
    changed = change_of(result)
    assert changed[threat.allowed_HW == 0].max() == 0
    assert changed.max() > 100


def test_the_l2_radius_holds_for_the_saved_photo():
    search = AttackSettings(steps=12, norm="l2", radius=0.4)
    result = attack(attacker_of(search=search, epsilon=1.0), photo_of())
    saved = np.asarray(Image.open(io.BytesIO(result.adversarial_png))).astype(int)
    length = np.sqrt(np.square(saved - result.located.photo.levels_HWC).sum()) / 255
    assert result.change.l2 == pytest.approx(length)
    assert 0.28 < length <= 0.4


def test_at_model_resolution_the_saved_photo_has_the_networks_size():
    result = attack(attacker_of((0, 0, 5, 5), at_model_resolution=True), photo_of(60, 80))
    assert result.adversarial_HWC.shape == (CROP, CROP, 3)
    assert result.located.photo.notes[-1] == f"resized to {CROP} px"
    found = probabilities(result.adversarial_png, resize=False)
    assert result.adversarial.confidence == pytest.approx(found[result.located.label.index], abs=1e-6)
    assert attack(attacker_of((0, 0, 5, 5)), photo_of(60, 80)).adversarial_HWC.shape == (60, 80, 3)


def test_a_photo_of_more_pixels_than_the_grid_keeps_the_contract(monkeypatch):
    from latcli.engine import photos

    monkeypatch.setattr(photos, "make_grid", lambda levels, allowed: coarse(levels, allowed, 900))
    from latcli.engine.canvas import make_grid as coarse

    result = attack(attacker_of((20, 20, 61, 61)), photo_of(97, 101))
    changed = change_of(result)
    assert changed[20:61, 20:61].max() == 0
    assert changed.max() <= 8
    assert result.adversarial_HWC.shape == (97, 101, 3)


@pytest.mark.parametrize("rank", [1, 10])
def test_an_attack_that_stops_early_has_reached_its_rank_in_the_saved_file(rank):
    attacker = attacker_of(search=AttackSettings(steps=60, stop_rank=rank), epsilon=48 / 255)
    for seed in range(4):
        assert attack(attacker, photo_of(seed=seed)).adversarial.rank > rank


# The smallest epsilon


def test_the_smallest_epsilon_fools_and_one_level_less_does_not():
    attacker = attacker_of(search=AttackSettings(steps=15))
    located = [attacker.locate(photo_of(seed=seed)) for seed in range(4)]
    for one, (result, epsilon) in zip(located, attacker.smallest_epsilon(located, "background", 64 / 255), strict=True):
        assert epsilon is not None
        assert (result.fooled, result.threat.epsilon) == (True, epsilon)
        level = round(255 * epsilon)
        assert level / 255 == epsilon
        assert change_of(result).max() <= level
        assert probabilities(result.adversarial_png).argmax() != one.label.index
        search = AttackSettings(steps=15, stop_rank=1, stop_margin=0.25)
        if level > 1:
            less = attacker.attack_batch([attacker.threat(one, "background", (level - 1) / 255)], search)[0]
            assert not less.fooled


def test_bisection_finds_a_known_threshold():
    """An attack that adds epsilon to red, on a classifier that changes its mind at 105 levels of red."""

    class Red(torch.nn.Module):
        def forward(self, x_BCHW):
            red_B = x_BCHW[:, 0].mean(dim=(1, 2)) - 104.5 / 255
            return torch.stack([-red_B, red_B] + [-torch.ones_like(red_B)] * (CLASSES - 2), dim=1)

    attacker = attacker_of(objects=ObjectSettings(center=0.0))
    attacker.classifier.net = Red()
    attacker.attack = lambda model, x, y, eps, *_: x + eps
    levels = [90, 97, 104, 105]
    photos = [Photo(str(red), np.full((30, 30, 3), red, np.uint8), str(red)) for red in levels]
    found = attacker.smallest_epsilon([attacker.locate(photo, label_of(0)) for photo in photos], "all", 16 / 255)
    assert [None if epsilon is None else round(255 * epsilon) for _, epsilon in found] == [15, 8, 1, None]
    assert [result.threat.epsilon for result, _ in found][3] == 16 / 255


# Seeds and batches


def test_a_photo_comes_out_of_a_batch_as_alone_but_for_noise():
    attacker = attacker_of(objects=ObjectSettings(center=0.4))
    sizes = [(40, 44), (61, 33), (20, 20), (35, 90)]
    located = [attacker.locate(photo_of(*size, seed=seed), label_of(seed)) for seed, size in enumerate(sizes)]
    threats = [attacker.threat(one) for one in located]
    for threat, together in zip(threats, attacker.attack_batch(threats), strict=True):
        alone = attacker.attack_batch([threat])[0]
        assert together.adversarial.confidence == pytest.approx(alone.adversarial.confidence, rel=0.02)
        assert together.adversarial.rank == alone.adversarial.rank


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_on_a_cpu_each_thread_attacks_its_share_of_the_photos_as_one_thread_alone_would(two_threads, monkeypatch):
    shares = []
    monkeypatch.setattr("latcli.engine.photos.at_once", lambda tasks: shares.append(len(tasks)) or at_once(tasks))
    monkeypatch.setattr("latcli.engine.precision._LONG", 0)
    torch.manual_seed(0)
    pooled = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, len(NAMES)))
    attacker = attacker_of(network=nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), *pooled))
    threats = [attacker.threat(attacker.locate(photo_of(seed=seed))) for seed in range(5)]

    shared = attacker.attack_batch(threats)
    torch.set_num_threads(1)
    alone = [attacker.attack_batch(threats[first::2]) for first in (0, 1)]
    assert [result.threat for result in shared] == threats
    assert [result.adversarial_png for result in shared[0::2]] == [result.adversarial_png for result in alone[0]]
    assert [result.adversarial_png for result in shared[1::2]] == [result.adversarial_png for result in alone[1]]
    assert shares == [2]


def test_tasks_run_side_by_side_with_equal_shares_of_the_threads(two_threads):
    meeting = threading.Barrier(2, timeout=10)  # nobody passes alone

    def task(number, go_on):
        meeting.wait()
        go_on()
        return number, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert at_once([partial(task, 1), partial(task, 2)]) == [(1, 1, False), (2, 1, False)]
    assert torch.get_num_threads() == 2


def test_threads_are_parted_without_a_rest_and_new_ones_know_nothing_of_it(two_threads):
    torch.set_num_threads(5)
    seen = []

    def task(go_on):
        outside = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        outside.start()
        outside.join()
        return torch.get_num_threads()

    assert sorted(at_once([task, task])) == [2, 3]
    assert seen == [5, 5]


def test_where_a_thread_cannot_be_started_those_that_run_end(two_threads, monkeypatch):
    submit = ThreadPoolExecutor.submit

    def second_fails(pool, *task):
        if pool._threads:
            raise RuntimeError("can't start new thread")
        return submit(pool, *task)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", second_fails)
    with pytest.raises(RuntimeError, match="start new thread"):
        at_once([lambda go_on: time.sleep(60)] * 2)
    assert torch.get_num_threads() == 2


def test_where_a_task_fails_the_others_end_and_its_error_is_raised(two_threads):
    begun = threading.Event()

    def long(go_on):
        begun.set()
        for _ in range(1000):
            time.sleep(0.01)
            go_on()
        raise AssertionError("it went on for ten seconds")

    def failing(go_on):
        begun.wait()
        raise LatcliError("it failed", "")

    with pytest.raises(LatcliError, match="it failed"):
        at_once([long, failing])
    assert torch.get_num_threads() == 2


def test_photos_that_are_scored_together_have_the_scores_that_each_has_alone():
    attacker = attacker_of(objects=ObjectSettings(center=0.4), target=label_of(7))
    threats = [attacker.threat(attacker.locate(photo_of(seed=seed), label_of(seed))) for seed in range(5)]
    alone = attacker.attack_batch(threats)
    attacker.scored_together = 3
    for one, together in zip(alone, attacker.attack_batch(threats), strict=True):
        assert together.adversarial_png == one.adversarial_png
        assert (together.adversarial.rank, together.reached) == (one.adversarial.rank, one.reached)
        assert together.adversarial.loss == pytest.approx(one.adversarial.loss, abs=1e-5)
        assert together.p_target == pytest.approx(one.p_target, abs=1e-6)


def test_the_random_start_of_a_photo_depends_on_its_bytes_not_its_name():
    one = photo_of()
    renamed, other = replace(one, name="renamed.png"), replace(one, sha256="other")
    pngs = [
        attack(attacker_of(search=AttackSettings(steps=1)), photo).adversarial_png for photo in (one, renamed, other)
    ]
    assert pngs[0] == pngs[1] != pngs[2]


def test_photos_are_grouped_in_order_by_number_and_by_canvas_and_not_before_their_turn():
    def grouped(sizes, most, pixels):
        photos = (SimpleNamespace(size=size) for size in sizes)
        return [len(group) for group in batches(photos, most, pixels)]

    assert grouped([(10, 10)] * 5, 2, 10_000) == [2, 2, 1]
    assert grouped([(10, 10)] * 5, 8, 300) == [3, 2]
    assert grouped([(10, 40), (40, 10)], 8, 1_000) == [1, 1]  # their canvas is as wide and as high as both
    assert grouped([(10, 40), (10, 40)], 8, 1_000) == [2]
    assert grouped([(10, 10), (100, 100), (10, 10)], 8, 300) == [1, 1, 1]
    assert grouped([], 8, 300) == []
    loaded = []

    def load():
        for number in range(20):
            loaded.append(number)
            yield SimpleNamespace(size=(10, 10))

    assert len(next(batches(load(), 4, 10_000))) == 4
    assert len(loaded) <= 5


def test_a_batch_is_as_large_as_free_memory_allows_where_that_is_known(monkeypatch):
    """A gradient takes 3 MB, and 1 MB an image; torch holds 2 MB that it can give again."""
    attacker = attacker_of(objects=ObjectSettings(center=0.4))
    found = [attacker.locate(photo_of(seed=seed), label_of(seed)) for seed in range(12)]
    taken = []

    def fits(free):
        stats = {"max_memory_allocated": lambda _: (3 + taken[-1]) * 1_000_000, "memory_allocated": lambda _: 0}
        stats |= {"memory_reserved": lambda _: 2_000_000, "mem_get_info": lambda _: (int(free * 1e6), 80_000_000)}
        for name, value in (stats | {"reset_peak_memory_stats": lambda _: None}).items():
            monkeypatch.setattr(torch.cuda, name, value)
        return devices.images_that_fit(torch.device("cuda"), taken.append)

    assert (fits(8), fits(20), fits(0)) == (4, 8, 1)  # a photo takes 1.25 MB, a quarter of what two take
    assert taken == [1, 2] * 3

    def sizes(fit, most=None):
        def images_that_fit(device, compute):
            compute(2)
            return fit

        monkeypatch.setattr("latcli.engine.photos.images_that_fit", images_that_fit)
        return [len(batch) for batch in attacker.batches(found, most)]

    assert [sizes(fit) for fit in (None, 5, 1000)] == [[8, 4], [5, 5, 2], [12]]
    assert sizes(5, most=7) == [7, 5]
    assert list(attacker.batches([])) == []
    assert devices.images_that_fit(torch.device("cpu"), taken.append) is None


def test_one_photo_at_a_time_where_two_do_not_fit(monkeypatch):
    def too_much(_count):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("reset_peak_memory_stats", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    assert devices.images_that_fit(torch.device("cuda"), too_much) == 1


# What else is asked of it


def test_the_object_alone_is_the_photo_with_a_black_background():
    attacker = attacker_of()
    one = attacker.locate(photo_of())
    levels, said = attacker.object_only(one)
    np.testing.assert_array_equal(levels[10:26, 12:28], one.photo.levels_HWC[10:26, 12:28])
    assert levels.sum() == one.photo.levels_HWC[10:26, 12:28].sum()
    assert said.confidence == pytest.approx(probabilities(encode_png(levels))[one.label.index], abs=1e-6)


@pytest.mark.parametrize(("name", "steps", "expected"), [("apgd-t", 5, 55), ("pgd", 40, 40), ("square", 9, 9)])
def test_the_time_of_an_attack_is_its_passes_times_what_one_takes(name, steps, expected, monkeypatch):
    clock = iter(range(1000))
    attacker = attacker_of(search=AttackSettings(steps=steps))
    attacker.attack = registry.load("attack", name)
    threat = attacker.threat(attacker.locate(photo_of()))
    assert attacker._passes == expected
    monkeypatch.setattr("latcli.engine.photos.time.perf_counter", lambda: 0.5 * next(clock))
    assert attacker.seconds(threat) == pytest.approx(0.5 * expected)


def test_a_found_object_without_the_classifiers_evidence_gets_a_note(monkeypatch):
    from latcli.engine import photos

    class Finds:
        name, fingerprint, depends_on_target = "saliency", None, False

        def detect(self, photo, target):
            return Detection((Box(*MIDDLE, 0.9, target.name),))

    def located(share, lift):
        monkeypatch.setattr(photos, "evidence_inside", lambda *_: (share, lift))
        attacker = attacker_of()
        attacker.finder = ObjectFinder(ObjectSettings(detector="saliency"), [Finds()])
        return attacker.locate(photo_of())

    (note,) = located(0.07, 0.9).notes
    assert note.startswith("7 % of the classifier's evidence")
    assert located(0.5, 2.0).notes == ()
    assert located(0.5, 2.0).evidence == (0.5, 2.0)


# A photo of 100 megapixels


SIDE = 10_000
CENTER = slice(3_750, 6_250)
GIB = 2**30


#: Runs a command and writes the most memory that it held, in kilobytes, as its last line on stderr.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak // 1024 if sys.platform == "darwin" else peak, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_photo_of_100_megapixels_is_attacked_within_4_gib(tmp_path, latcli_environment):
    photo = tmp_path / "large.jpg"
    Image.fromarray(blobs(SIDE, SIDE)).save(photo, quality=85)
    attack = [sys.executable, "-m", "latcli", "attack", photo, "--center", "0.25", "--steps", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *attack],
        cwd=tmp_path,
        env=latcli_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (peak,) = done.stderr.split()  # and nothing else was said
    assert GIB / 4 < int(peak) * 1024 < 4 * GIB
    (image,) = json.loads(done.stdout)["images"]
    assert image["linf_inside"] == 0
    assert image["adversarial"]["confidence"] < image["clean"]["confidence"]
    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    try:
        before, saved = Image.open(photo), Image.open(image["files"]["adversarial"])
        assert saved.size == before.size == (SIDE, SIDE)
        before_HWC, saved_HWC = np.asarray(before), np.asarray(saved)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    np.testing.assert_array_equal(saved_HWC[CENTER, CENTER], before_HWC[CENTER, CENTER])
    largest = max(
        int(np.abs(saved_HWC[top : top + 500].astype(np.int16) - before_HWC[top : top + 500]).max())
        for top in range(0, SIDE, 500)
    )
    assert largest == 8
