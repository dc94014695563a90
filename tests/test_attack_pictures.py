"""The pictures of attacked photos: drawn beside the attack, the same bytes in the same order, kept as far as drawn."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest
import torch
from tiny_model import blobs

from latcli.commands.attack import pictures as attack_pictures
from latcli.commands.attack.files import Keeper
from latcli.commands.attack.pictures import PictureDrawer
from latcli.engine.api import open_attacker
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.images import Photo
from latcli.engine.photos import Localization, PhotoAttacker, PhotoResult, PhotoSettings
from latcli.errors import ImageError
from latcli.reporting.figures import triptych
from latcli.store.store import Store

PROTOCOL: dict[str, object] = {"epsilon": 8 / 255, "norm": "linf", "steps": 1, "restarts": 1}


@pytest.fixture(scope="module")
def attacker() -> PhotoAttacker:
    torch.manual_seed(0)
    settings = PhotoSettings(localization=Localization(center=0.4), attack=AttackSettings(steps=1))
    return open_attacker(settings, classifier="tiny_model:tiny", detector="none", device="cpu")


@pytest.fixture(scope="module")
def results(attacker: PhotoAttacker) -> list[PhotoResult]:
    photos = [Photo(f"{seed}.png", blobs(40 + seed, 44, seed), f"{seed:064d}") for seed in range(3)]
    return attacker.attack_batch([attacker.localize(photo) for photo in photos])


def test_pictures_come_in_order_and_are_what_is_drawn_without_a_thread(
    attacker: PhotoAttacker, results: list[PhotoResult]
) -> None:
    with PictureDrawer(attacker, figures=True) as drawer:
        promised = [drawer.begin(result, f"photo{place}") for place, result in enumerate(results)]
        pictures = list(drawer.drawn())
        assert list(drawer.drawn()) == []
        figures = [triptych(*drawer._figure_1(result)) for result in results]
    assert [picture.file_name for picture in pictures] == [name for names in promised for name in names.values()]
    assert [picture.kind for picture in pictures] == ["mask", "difference", "figure"] * 3
    assert [picture.png for picture in pictures if picture.kind == "figure"] == figures


def test_without_figures_none_is_drawn(attacker: PhotoAttacker, results: list[PhotoResult]) -> None:
    with PictureDrawer(attacker, figures=False) as drawer:
        assert drawer.begin(results[0], "one") == {"mask": "one-mask.png", "difference": "one-difference.png"}
        assert [picture.kind for picture in drawer.drawn()] == ["mask", "difference"]


def test_letters_that_the_font_lacks_are_no_warning_and_warnings_are_as_before(
    attacker: PhotoAttacker, results: list[PhotoResult], recwarn: pytest.WarningsRecorder
) -> None:
    before = list(warnings.filters)
    with PictureDrawer(attacker, figures=True) as drawer:
        drawer.begin(results[0], "鳥")
        assert len(list(drawer.drawn())) == 3
    assert list(warnings.filters) == before
    assert not recwarn.list


def test_an_error_keeps_what_is_drawn_and_waits_for_no_figure(
    attacker: PhotoAttacker, results: list[PhotoResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    drawn = []

    def slow(*given: object) -> bytes:
        drawn.append(given)
        begun.set()
        assert go_on.wait(60)
        return b"figure"

    monkeypatch.setattr(attack_pictures, "triptych_on_thread", slow)

    def fail_in_the_middle(store: Store) -> None:
        with (
            store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run,
            PictureDrawer(attacker, figures=True) as drawer,
            Keeper(drawer, store, run, PROTOCOL) as keeper,
        ):
            for place, result in enumerate(results):
                keeper.keep(result, f"photo{place}")
            assert begun.wait(60)
            threading.Timer(0.2, go_on.set).start()
            raise ImageError("the next photo is damaged", "copy it again")

    with Store.open(tmp_path / "runs") as store, pytest.raises(ImageError, match="damaged"):
        fail_in_the_middle(store)
    kept = {path.name for path in (tmp_path / "runs").glob("*/*.png")}
    assert {f"photo{place}-{kind}.png" for place in range(3) for kind in ("adversarial", "mask", "difference")} <= kept
    assert {name for name in kept if "figure" in name} == {"photo0-figure.png"}
    assert len(drawn) == 1
