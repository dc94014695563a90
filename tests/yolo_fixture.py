"""Small YOLOs trained for the tests, and the pictures they are trained on.

No pretrained weights can be counted on, so a network of ultralytics' own layout learns to find two kinds of textured
shapes on noisy backgrounds, from nothing, in about a minute. Where the shapes are is known exactly, since the pictures
are composed here. Import the fixtures `yolo_weights` and `yolo_segmentation_weights`, and mark the tests slow.

Run as a program (`yolo_fixture.py MODEL FOLDER`), it trains one model. The fixtures do so in a process of its own, with
its home in the tests' folder and its sockets shut.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("disc", "plank")
#: Side of the training pictures in pixels.
SIDE = 96


@dataclass(frozen=True)
class Shape:
    """One shape in a picture: its kind, its box (left, top, right, bottom; right and bottom exclusive), its pixels."""

    name: str
    box: tuple[int, int, int, int]
    silhouette_HW: np.ndarray


def compose(seed: int, enlarged: int = 1) -> tuple[np.ndarray, list[Shape]]:
    """A picture (levels_HWC) of SIDE x SIDE pixels times `enlarged`, and the one or two shapes in it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 216, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
    picture = np.array(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    picture += rng.integers(-25, 26, picture.shape, dtype=np.int16)
    shapes: list[Shape] = []
    for _ in range(rng.integers(1, 3)):
        shape = _place(rng, shapes)
        if shape is not None:
            shapes.append(shape)
            picture[shape.silhouette_HW] = _texture(shape)[shape.silhouette_HW]
    levels_HWC = picture.clip(0, 255).astype(np.uint8)
    return _enlarge(levels_HWC, enlarged), [
        Shape(s.name, tuple(enlarged * edge for edge in s.box), _enlarge(s.silhouette_HW, enlarged)) for s in shapes
    ]


def _enlarge(pixels: np.ndarray, times: int) -> np.ndarray:
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _place(rng: np.random.Generator, others: list[Shape]) -> Shape | None:
    name = NAMES[rng.integers(len(NAMES))]
    width = int(rng.integers(28, 52))
    height = width if name == "disc" else width * 2 // 3
    for _ in range(20):
        x0, y0 = (int(rng.integers(0, SIDE - side + 1)) for side in (width, height))
        box = (x0, y0, x0 + width, y0 + height)
        if all(overlap(box, other.box) == 0 for other in others):
            return Shape(name, box, _silhouette(name, box))
    return None


def _silhouette(name: str, box: tuple[int, int, int, int]) -> np.ndarray:
    y_HW, x_HW = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    x0, y0, x1, y1 = box
    if name == "plank":
        return (x_HW > x0) & (x_HW < x1) & (y_HW > y0) & (y_HW < y1)
    return (x_HW - (x0 + x1) / 2) ** 2 + (y_HW - (y0 + y1) / 2) ** 2 <= ((x1 - x0) / 2) ** 2


def _texture(shape: Shape) -> np.ndarray:
    y_HW, x_HW = np.mgrid[0:SIDE, 0:SIDE]
    if shape.name == "disc":
        return np.array([[255, 220, 0], [200, 0, 0]])[(x_HW // 5 + y_HW // 5) % 2]
    return np.array([[255, 255, 255], [0, 0, 90]])[x_HW // 4 % 2]


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (_area(one) + _area(other) - shared)


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


@pytest.fixture(scope="session")
def yolo_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a detection model that knows NAMES, as its training left them on the disk."""
    return _trained("yolo26n", tmp_path_factory)


@pytest.fixture(scope="session")
def yolo_segmentation_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a segmentation model."""
    return _trained("yolo26n-seg", tmp_path_factory)


def _trained(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers' folders lie in one
        base = base.parent
    folder = base / f"trained-{model}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        weights = folder / "run" / "weights" / "last.pt"
        if not (folder / "done").exists():
            _train_in_a_process_of_its_own(model, folder)
            (folder / "done").touch()
        return weights


def _train_in_a_process_of_its_own(model: str, folder: Path) -> None:
    places = {name: str(folder) for name in ("HOME", "XDG_CACHE_HOME", "YOLO_CONFIG_DIR", "MPLCONFIGDIR", "TMPDIR")}
    switches = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_VERBOSE": "0"}
    training = subprocess.run(
        [sys.executable, __file__, model, str(folder)],
        cwd=folder,
        env=os.environ | places | switches,
        capture_output=True,
        text=True,
        check=False,
    )
    if training.returncode:
        raise RuntimeError(f"the training of {model} failed:\n{training.stderr}")


def _train(model: str, folder: Path) -> None:
    socket.socket.connect = socket.getaddrinfo = _refuse  # type: ignore[method-assign, assignment]
    from latcli.engine.vision import import_torchvision

    import_torchvision()
    from ultralytics import YOLO

    data = _write_dataset(folder)
    YOLO(f"{model}.yaml").train(
        data=str(data),
        project=str(folder),
        name="run",
        epochs=7,
        imgsz=SIDE,
        batch=8,
        nbs=8,
        optimizer="AdamW",
        lr0=0.002,
        warmup_epochs=1.0,
        # Pictures are cheap to compose: more of them teach more in a minute than changed copies do.
        mosaic=0.0,
        scale=0.1,
        translate=0.05,
        hsv_h=0.0,
        hsv_s=0.0,
        hsv_v=0.0,
        device="cpu",
        workers=0,
        cache=True,
        pretrained=False,
        amp=False,
        plots=False,
        val=False,
        verbose=False,
    )


def _refuse(*_: object) -> None:
    raise OSError("no network in tests")


def _write_dataset(folder: Path) -> Path:
    for split, seeds in {"train": range(320), "val": range(320, 328)}.items():
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for seed in seeds:
            levels_HWC, shapes = compose(seed)
            Image.fromarray(levels_HWC).save(folder / split / "images" / f"{seed}.png")
            (folder / split / "labels" / f"{seed}.txt").write_text("".join(map(_label, shapes)))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: train/images\nval: val/images\nnames: [{', '.join(NAMES)}]\n")
    return data


def _label(shape: Shape) -> str:
    """One line of the dataset's format: the class and the outline, as shares of the side; boxes are taken from it."""
    outline = " ".join(f"{x / SIDE} {y / SIDE}" for x, y in _outline(shape))
    return f"{NAMES.index(shape.name)} {outline}\n"


def _outline(shape: Shape) -> Iterator[tuple[float, float]]:
    x0, y0, x1, y1 = shape.box
    if shape.name == "plank":
        yield from ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        return
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        yield (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angle), (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angle)


if __name__ == "__main__":
    _train(sys.argv[1], Path(sys.argv[2]))
