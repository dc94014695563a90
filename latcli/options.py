"""Every option of the command line, once: a dataclass for each command, a field for each option.

A field has everything about its option: type, default, placeholder, help, panel, completion. `cli.py` makes the
commands from these classes, `config.py` reads the same names from TOML files, and the commands take the objects. Text
is parsed here, so that a command never sees `8/255`. Nothing heavy is imported: `latcli --help` shows what is here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum, auto
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import typer

from latcli.engine import registry
from latcli.errors import LatcliError, UsageError
from latcli.reporting.text import number_text
from latcli.results import Status

RegionName = Literal["background", "foreground", "all", "random", "patch"]

#: The default of `--epsilon`.
EPSILON = 8 / 255
#: What `--smallest-epsilon` without a value stands for.
LARGEST_TRIED = "16/255"

# panels, in the order in which help shows them

WHAT, WHICH_RUNS, PHOTOS_AND_LABELS = "Main options", "Run selection", "Photos and labels"
OBJECT, ATTACK, CLASSIFIER = "Object detection", "Attack", "Classifier"
TRAINING_ATTACK, OPTIMIZATION, STRONG, BEYOND = "Inner attack", "Optimization", "Strong attacks", "Further measurements"
EFFORT, SMALL_IMAGES, KEEPING, DEVICES = "Budget", "Small images", "Checkpoints and resuming", "Distributed training"
FILES, WHERE, OUTPUT = "Output files", "Execution", "Output"
PANELS = (
    *(WHAT, WHICH_RUNS, PHOTOS_AND_LABELS, OBJECT, ATTACK, TRAINING_ATTACK, CLASSIFIER, OPTIMIZATION, STRONG, BEYOND),
    *(EFFORT, SMALL_IMAGES, KEEPING, DEVICES, FILES, WHERE, OUTPUT),
)


class Mark(Enum):
    """A property of an option."""

    #: Shown by --help; the others only by --help-all.
    BASIC = auto()
    #: Says where or how a run is kept or shown: not part of the run's configuration, and free to change on --resume.
    INCIDENTAL = auto()
    #: May name code to run: accepted on the command line or in the user's own file, never in a project's.
    CODE = auto()
    #: Accepted on the command line only.
    TYPED = auto()


BASIC, INCIDENTAL, CODE, TYPED = Mark


class RefusedValue(typer.BadParameter):
    """An option's value that its parser refused, with the parser's own hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


# values that need more than a type


def parse_epsilon(text: str | float, what: str = "epsilon") -> float:
    """The largest change of a pixel as a share of [0, 1], from `8/255` or `0.0314`; errors call it `what`.

    Raises UsageError for a text that is no number, or one outside (0, 1].
    """
    hint = f"{what} is a share of full brightness, above 0 and at most 1: 8/255 or 0.0314"
    try:
        above, slash, below = str(text).partition("/")
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{what} '{text}' is not a number", hint) from None
    if not 0 < value <= 1:  # also true of nan
        raise UsageError(f"{what} '{text}' is not above 0 and at most 1", hint)
    return value


def parse_epsilons(text: str | float) -> float | tuple[float, ...]:
    """One epsilon, or several separated by commas in ascending order. Raises UsageError."""
    values = sorted({parse_epsilon(part) for part in str(text).split(",")})
    return values[0] if len(values) == 1 else tuple(values)


def parse_regions(text: str) -> tuple[str, ...]:
    """Names of regions separated by commas, each once. Raises UsageError."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in get_args(RegionName):
            raise registry.unknown_name("region", name, get_args(RegionName))
    return names


def _refuse_unless(usable: object, problem: str, hint: str) -> None:
    if not usable:
        raise UsageError(problem, hint)


def parse_objective(text: str) -> str:
    """ce, margin, top10 or topk:K with a K of at least 1. Raises UsageError."""
    known = re.fullmatch(r"ce|margin|top10|topk:0*[1-9]\d*", text)
    _refuse_unless(known, f"there is no objective called '{text}'", "known: ce, margin, top10, topk:K such as topk:5")
    return text


def parse_name(text: str) -> str:
    """A name for a run. Raises UsageError for one that would be ambiguous or awkward to type."""
    clear = re.fullmatch(r"[^\W\d_][\w.-]{0,63}", text) and text != "latest"
    hint = "use up to 64 letters, digits, dots, dashes and underscores, starting with a letter; latest is reserved"
    _refuse_unless(clear, f"a run cannot be called '{text}'", hint)
    return text


def parse_resize(text: str) -> str | int:
    """squash, crop, or the pixels of the short side before the crop. Raises UsageError."""
    usable = text in ("squash", "crop") or (text.isdecimal() and 0 < int(text) <= 8192)
    hint = "squash, crop, or the length of the short side before the crop, in pixels: 256"
    _refuse_unless(usable, f"'{text}' is not a way to resize", hint)
    return int(text) if text.isdecimal() else text


def _numbers(text: str) -> tuple[float, ...]:
    """Finite numbers that commas separate; none where one of them is something else."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def parse_box(text: str) -> tuple[float, float, float, float]:
    """A rectangle in pixels from `x0,y0,x1,y1`: left, top, right, bottom, right and bottom exclusive.

    Raises UsageError for anything but four finite numbers.
    """
    box = _numbers(text)
    hint = "a box is x0,y0,x1,y1 in pixels: 40,30,200,180"
    _refuse_unless(len(box) == 4, f"the box '{text}' is not four finite numbers", hint)
    return box[0], box[1], box[2], box[3]


def parse_shares(text: str) -> tuple[float, ...]:
    """Ascending shares of the side, separated by commas. Raises UsageError."""
    values = _numbers(text)
    usable = values and all(0.0 <= value < 1.0 for value in values) and list(values) == sorted(set(values))
    hint = "for example --centers 0.25,0.5,0.75"
    _refuse_unless(usable, f"'{text}' is not an ascending list of shares from 0 to below 1", hint)
    return values


def parse_channels(text: str) -> tuple[float, ...]:
    """Numbers of the colour channels, separated by commas: one for all, or one each. Raises UsageError."""
    values = _numbers(text)
    hint = "one number, or one for each channel: 0.485,0.456,0.406"
    _refuse_unless(len(values) in (1, 3), f"'{text}' is not one number or three", hint)
    return values


def parse_input_size(text: str) -> tuple[int, int]:
    """Height and width in pixels from `224` or `224,320`. Raises UsageError."""
    sides = [int(side) for side in _numbers(text) if side.is_integer() and 0 < side <= 4096]
    usable = len(sides) in (1, 2) and len(sides) == text.count(",") + 1
    _refuse_unless(usable, f"'{text}' is not a size in pixels", "give one side, or height and width: 224 or 224,320")
    return sides[0], sides[-1]


def _parse_step_size(text: str) -> float:
    return parse_epsilon(text, "step size")


# what the shell offers


def _stored(ctx: typer.Context, sql: str) -> list[dict[str, Any]]:
    """What the store says; nothing where it cannot be read."""
    from latcli.store.store import Store

    try:
        with Store.open_existing(Path(ctx.params["store"])) as store:
            return store.query(sql)
    except LatcliError:
        return []


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """The store's runs, newest first: names, then the ends of ids, then whole ids."""
    rows = _stored(ctx, "SELECT id, name FROM runs ORDER BY rowid DESC")
    ids = [row["id"] for row in rows]
    offered = ["latest", *(row["name"] for row in rows if row["name"]), *(run.rpartition("-")[2] for run in ids), *ids]
    return [name for name in offered if rows and name.startswith(incomplete)]


def complete_tag(ctx: typer.Context, incomplete: str) -> list[str]:
    """Tags of the store's runs."""
    rows = _stored(ctx, "SELECT DISTINCT value FROM runs, json_each(tags_json) ORDER BY value")
    return [row["value"] for row in rows if row["value"].startswith(incomplete)]


def _offering(words: str) -> Callable[[str], list[str]]:
    """Completes these words; `{detector}` stands for the names of all detectors."""

    def complete(incomplete: str) -> list[str]:
        known: list[str] = []
        for word in words.split():
            known += registry.names(word.strip("{}")) if word.startswith("{") else [word]  # type: ignore[arg-type]
        return [word for word in known if word.startswith(incomplete)]

    return complete


_FAMILIES = " ".join(f"{family}:" for family in registry.CLASSIFIER_FAMILIES)
_CLASSIFIERS = (
    "efficientnet_lite0, inception_v3, timm:NAME, torchvision:NAME, hf:NAME, robustbench:NAME, module:function, "
    "file.py:function, or a training run."
)


# how a field becomes an option


#: The completion of a value: a function as Typer's, or the words that `_offering` takes.
Offers = Callable[..., list[str]] | str | None


def _field(info: Any, marks: Sequence[Mark], default: Any, parse: Callable[[str], Any] | None, offers: Offers) -> Any:
    if isinstance(offers, str):
        info.autocompletion = _offering(offers)
        kind = re.search(r"{(\w+)}", offers)
    else:
        info.autocompletion, kind = offers, None
    about = {"info": info, "marks": frozenset(marks), "parse": parse, "kind": kind and kind[1]}
    return field(default=default, metadata=about)


def option(
    panel: str,
    metavar: str,
    help: str,
    *marks: Mark,
    default: Any = None,
    names: Sequence[str] = (),
    parse: Callable[[str], Any] | None = None,
    offers: Offers = None,
    **more: Any,
) -> Any:
    """A dataclass field that is an option with a value.

    parse: makes the value of its text, and may raise UsageError. offers: what the shell completes. more: as Typer's.
    """
    info = typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)
    return _field(info, marks, default, parse, offers)


def switch(panel: str, help: str, *marks: Mark, names: Sequence[str] = (), **more: Any) -> Any:
    """A dataclass field that is an option without a value."""
    return option(panel, "", help, *marks, default=False, names=names, **more)


def argument(metavar: str, help: str, *marks: Mark, default: Any = MISSING, offers: Offers = None) -> Any:
    """A dataclass field that is a word without a name; without a default it must be given."""
    return _field(typer.Argument(metavar=metavar, help=help), marks, default, None, offers)


@dataclass(frozen=True)
class Field:
    """One option of a command as a dataclass has it. `kind`: what its values are names of, in the registry."""

    name: str
    type: Any
    info: Any
    marks: frozenset[Mark]
    parse: Callable[[str], Any] | None
    kind: registry.Kind | None
    default: Any

    @property
    def key(self) -> str:
        """As it is written in a TOML file, and on the command line behind two dashes."""
        return self.name.replace("_", "-")

    @property
    def is_argument(self) -> bool:
        """Whether it is an argument, without a name."""
        return isinstance(self.info, typer.models.ArgumentInfo)


def fields_of(options: type) -> list[Field]:
    """The options of one of the classes below, those of its bases first."""
    types, known = get_type_hints(options), [one for one in fields(options) if "info" in one.metadata]
    return [Field(one.name, types[one.name], **one.metadata, default=one.default) for one in known]


def given(options: Any) -> dict[str, Any]:
    """The options that differ from their defaults and decide what is computed, by name.

    A resumed run must agree with them, and so must a run that a reproduction reuses.
    """
    known = [(one, getattr(options, one.name)) for one in fields_of(type(options)) if INCIDENTAL not in one.marks]
    return {one.name: value for one, value in known if value != one.default}


def command_words(options: Any) -> list[str]:
    """What a user types to get these options, arguments first: the exact values, not rounded ones."""
    words: list[str] = []
    named: list[str] = []
    for one in fields_of(type(options)):
        value = getattr(options, one.name)
        if one.is_argument:
            words += [str(item) for item in (value if isinstance(value, tuple) else [value])]
        elif value is True:
            named.append(f"--{one.key}")
        elif value != one.default:
            shown = number_text(value) if isinstance(value, float) else str(value)
            texts = list(map(str, value)) if isinstance(value, tuple) else [shown]
            for text in [",".join(texts)] if one.parse else texts:  # the others are repeated
                named += [f"--{one.key}", text]
    return words + named


# options that several commands have


def dataset_option(panel: str, **more: Any) -> Any:
    """A data set by its name."""
    known = "mnist, fashion-mnist, cifar10, mnist-5k, or folder:PATH."
    return option(panel, "NAME", known, BASIC, offers="folder: {dataset}", **more)


def epsilon_option(panel: str, *marks: Mark) -> Any:
    """Epsilon on images of a data set."""
    about = "Maximum change per pixel: 0.3 or 8/255."
    return option(panel, "E", about, *marks, parse=parse_epsilon, show_default="the data set's")


def resume_option() -> Any:
    """A run to resume."""
    return option(
        KEEPING, "RUN", "Resume an interrupted, failed or crashed run.", INCIDENTAL, BASIC, offers=complete_run
    )


def logger_option(default: str) -> Any:
    """Experiment trackers that get the run's numbers."""
    about = "Also log to: tensorboard, wandb, mlflow. May be repeated."
    return option(OUTPUT, "NAME", about, INCIDENTAL, default=(), offers="{logger}", show_default=default)


def status_option(*marks: Mark) -> Any:
    """The state of a run."""
    about = "Only runs that are running, completed, failed, interrupted or crashed."
    return option(WHICH_RUNS, "NAME", about, *marks)


# options that every command has


@dataclass(kw_only=True)
class Common:
    """Options of every command."""

    store: Path = option(
        WHERE, "DIR", "Folder of the stored runs.", INCIDENTAL, default=Path("runs"), envvar="LATCLI_STORE"
    )
    json: bool = switch(OUTPUT, "Print one JSON document on stdout and nothing else.", INCIDENTAL)
    quiet: bool = switch(
        OUTPUT, "Print errors only: no progress, no notes, no warnings on stderr.", INCIDENTAL, names=("--quiet", "-q")
    )
    debug: bool = switch(OUTPUT, "Show tracebacks.", INCIDENTAL)
    config: Path | None = option(WHERE, "FILE", "Read options from this TOML file instead of latcli.toml.", INCIDENTAL)


@dataclass(kw_only=True)
class Computing(Common):
    """Options of every command that computes."""

    data: Path = option(
        WHERE, "DIR", "Folder of the data sets.", INCIDENTAL, default=Path("data"), envvar="LATCLI_DATA"
    )
    device: str = option(
        WHERE, "NAME", "auto, cpu, cuda, cuda:N or mps.", INCIDENTAL, default="auto", offers="auto cpu cuda mps"
    )
    precision: Literal["auto", "fp32", "bf16"] = option(
        WHERE,
        "NAME",
        "Precision of gradients: auto, fp32, bf16. Results are always scored in fp32.",
        default="auto",
    )
    seed: int = option(WHERE, "N", "Random seed.", default=0, min=0)
    offline: bool = switch(WHERE, "Download nothing.", INCIDENTAL, envvar="LATCLI_OFFLINE")


@dataclass(kw_only=True)
class Recording(Computing):
    """Options of every command that keeps a run."""

    name: str | None = option(
        OUTPUT, "NAME", "A name for the run, to use in place of its id.", INCIDENTAL, TYPED, parse=parse_name
    )
    tag: tuple[str, ...] = option(
        OUTPUT,
        "TAG",
        "A tag for the run, for `latcli runs list --tag`. May be repeated.",
        INCIDENTAL,
        default=(),
    )


# where the object is


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """Which detector finds the object of a photo, and how."""

    detector: str = option(
        OBJECT,
        "NAME",
        "auto (chooses for each photo), yolo, mobilenet, saliency, cam, or none.",
        BASIC,
        default="auto",
        offers="auto {detector}",
    )
    detector_weights: Path | None = option(
        OBJECT, "FILE|NAME", "Detector weights: .pt (yolo); .onnx, u2net, isnet-general-use (saliency)."
    )
    detector_option: tuple[str, ...] = option(
        OBJECT, "NAME=VALUE", "A setting of the detector. May be repeated.", default=()
    )
    trust_weights: bool = switch(
        OBJECT,
        "Run code contained in YOLO weights. Only for files from a source you trust.",
        INCIDENTAL,
        TYPED,
    )
    detector_confidence: float = option(
        OBJECT, "P", "Minimum confidence of a box (yolo, mobilenet).", default=0.25, min=0.0, max=1.0
    )
    cam_threshold: float = option(
        OBJECT,
        "SHARE",
        "Threshold of the activation map, as a fraction of its peak (cam).",
        default=0.4,
        min=0.0,
        max=0.99,
    )
    boxes: Literal["all", "best"] = option(
        OBJECT, "all|best", "Protect all boxes that match the class, or only the best.", default="all"
    )
    refine: Literal["none", "grabcut", "saliency"] = option(
        OBJECT, "NAME", "Refine boxes to silhouettes: none, grabcut, saliency.", default="none"
    )
    soft: bool = switch(OBJECT, "Keep soft mask edges, where epsilon rises gradually from 0.")


@dataclass(frozen=True, kw_only=True)
class DataObjectOptions(ObjectOptions):
    """Where the object of each image of a data set is."""

    center: float | None = option(
        OBJECT,
        "SHARE",
        "Protect the center: a fraction of the image's sides. Implies --mask-from center.",
        show_default="the data set's",
    )
    mask_from: Literal["center", "otsu", "detector", "folder"] | None = option(
        OBJECT,
        "NAME",
        "center; otsu (silhouette of a digit); detector (photos); folder (--masks).",
        show_default="detector for photos, else center",
    )
    masks: Path | None = option(OBJECT, "DIR", "Folder of masks, white on the object: DIR/train/CLASS/NAME.png.")


# which classifier


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """How a classifier is set up: weights, class names, preprocessing."""

    classifier_weights: Path | None = option(
        CLASSIFIER,
        "FILE",
        "Weights: safetensors, or a PyTorch file without code. The head sets the number of classes.",
    )
    class_names: Path | None = option(
        CLASSIFIER, "FILE", "Class names in the order of the logits: one per line, or JSON."
    )
    mean: tuple[float, ...] = option(
        CLASSIFIER, "M", "Normalization: mean, one value or one per channel.", default=(), parse=parse_channels
    )
    std: tuple[float, ...] = option(
        CLASSIFIER,
        "S",
        "Normalization: standard deviation, one value or one per channel.",
        default=(),
        parse=parse_channels,
    )
    input_size: tuple[int, ...] = option(
        CLASSIFIER, "N|H,W", "Input size in pixels: 224, or height,width.", default=(), parse=parse_input_size
    )
    resize: str | int | None = option(
        CLASSIFIER,
        "NAME|N",
        "Resizing: squash, crop (the center), or N (length of the short side before the crop).",
        parse=parse_resize,
    )


# how many processes


@dataclass(frozen=True, kw_only=True)
class SeveralOptions:
    """Processes that share the work."""

    devices: int | None = option(
        DEVICES, "N", "Processes on this machine, one per GPU.", INCIDENTAL, min=1, show_default="1"
    )
    nodes: int | None = option(DEVICES, "M", "Number of machines.", INCIDENTAL, min=1, show_default="1")


# the commands


_PHOTOS = "Photos, folders (searched recursively), or - for stdin."


@dataclass(frozen=True, kw_only=True)
class PhotoOptions(ClassifierOptions, ObjectOptions, SeveralOptions):
    """Photos, their right classes, their objects, and the classifier."""

    photos: tuple[str, ...] = argument("PHOTO", _PHOTOS)
    label: str | None = option(PHOTOS_AND_LABELS, "NAME|INDEX", "Correct class of all photos.", BASIC)
    labels: Path | None = option(
        PHOTOS_AND_LABELS, "FILE", "CSV of correct classes: columns file, and index or name.", BASIC
    )
    labels_from: Literal["folder"] | None = option(
        PHOTOS_AND_LABELS, "folder", "Take correct classes from folder names."
    )
    on_miss: Literal["fail", "skip", "center"] = option(
        OBJECT, "fail|skip|center", "What to do if no object is found in a photo.", default="fail"
    )
    box: tuple[str, ...] = option(
        OBJECT, "X0,Y0,X1,Y1", "Bounding box of the object, in pixels. May be repeated.", BASIC, default=()
    )
    center: float | None = option(OBJECT, "SHARE", "Protect the center of the photo: a fraction of its sides, 0.25.")
    classifier: str = option(
        CLASSIFIER,
        "NAME",
        _CLASSIFIERS,
        BASIC,
        CODE,
        default=registry.DEFAULT_CLASSIFIER,
        offers=f"{_FAMILIES} {{classifier}}",
    )


@dataclass(frozen=True, kw_only=True)
class MaskOptions(PhotoOptions):
    """Find the objects in photos and write their masks.

    Masks are white on the object. Check and correct them, then use them with `attack --mask` or the --masks of train
    and eval. The subfolder `overlays` shows each mask on its photo.
    """

    out: Path = option(FILES, "DIR", "Folder for the masks.", INCIDENTAL, BASIC, default=Path("masks"))


@dataclass(frozen=True, kw_only=True)
class AttackOptions(PhotoOptions):
    """Fool a classifier by changing only a photo's background.

    Finds the object, then changes every pixel outside it by at most epsilon.
    The adversarial photo is saved as an 8-bit PNG, and scored from that file.
    """

    photos: tuple[str, ...] = argument("PHOTO", _PHOTOS, default=())
    mask: Path | None = option(
        OBJECT, "FILE|DIR", "A mask, white on the object, or a folder with a mask for each photo.", BASIC
    )
    epsilon: float | tuple[float, ...] = option(
        ATTACK,
        "E",
        "Maximum change per pixel: 8/255 or 0.0314. A list gives a table: 2/255,4/255,8/255.",
        BASIC,
        default=EPSILON,
        parse=parse_epsilons,
        show_default="8/255",
    )
    region: RegionName = option(
        ATTACK,
        "NAME",
        "Pixels that may change: background, foreground, all, random (a shifted region of the background's shape), "
        "or patch (a square in the background, epsilon 1).",
        BASIC,
        default="background",
    )
    regions: tuple[RegionName, ...] = option(
        ATTACK,
        "A,B,...",
        "Several regions, as a table: background,random,foreground,all.",
        default=(),
        parse=parse_regions,
    )
    smallest_epsilon: float | None = option(
        ATTACK,
        "[MAX]",
        f"Search for the smallest epsilon that fools, in steps of 1/255, up to MAX ({LARGEST_TRIED}).",
        BASIC,
        parse=parse_epsilon,
    )
    attack: str = option(
        ATTACK,
        "NAME",
        "pgd, fgsm, mi-fgsm, apgd-ce, apgd-dlr, apgd-t, square, or minimal.",
        BASIC,
        default="pgd",
        offers="{attack}",
    )
    steps: int = option(ATTACK, "N", "Gradient steps.", BASIC, default=40, min=1)
    step_size: float | None = option(
        ATTACK, "E", "Size of the first step, on the scale of epsilon.", parse=_parse_step_size
    )
    schedule: Literal["constant", "linear", "cosine"] = option(
        ATTACK, "NAME", "Step size decay: constant, linear, cosine.", default="cosine"
    )
    restarts: int = option(ATTACK, "N", "Random restarts; the worst case of each photo counts.", default=1, min=1)
    no_random_start: bool = switch(ATTACK, "Start from the unchanged photo.")
    objective: str = option(
        ATTACK,
        "NAME",
        "Objective: ce (cross entropy), margin (of logits), top10 or topk:K (push the class out of the top K).",
        default="ce",
        parse=parse_objective,
    )
    target: str | None = option(ATTACK, "NAME|INDEX", "Targeted attack: make the classifier predict this class.")
    stop: Literal["never", "top1", "top10"] = option(
        ATTACK, "WHEN", "Stop once the correct class has left the top1 or top10; or never.", default="never"
    )
    norm: Literal["linf", "l2"] = option(ATTACK, "linf|l2", "linf, or l2 (with --radius).", default="linf")
    radius: float | None = option(ATTACK, "R", "Radius of the l2 ball; epsilon still bounds each pixel.")
    at_model_resolution: bool = switch(ATTACK, "Attack the resized photo, as the paper does.")
    batch: int | None = option(
        WHERE, "N", "Photos per batch.", min=1, show_default="8; with CUDA what free memory allows, at most 32"
    )
    no_figures: bool = switch(
        OUTPUT, "Skip the figure (photo, background, adversarial photo) for each photo.", INCIDENTAL
    )
    dry_run: bool = switch(OUTPUT, "Show the objects and an estimate of the time; attack nothing.", INCIDENTAL)
    check_success: bool = switch(OUTPUT, "Exit with code 4 unless every photo fools the classifier.", INCIDENTAL)
    resume: str | None = resume_option()

    def __post_init__(self) -> None:
        if self.smallest_epsilon is not None:
            if self.epsilon != EPSILON:
                raise UsageError("--smallest-epsilon and --epsilon cannot be used together", "give the largest as MAX")
            if self.smallest_epsilon < 1 / 255:
                raise UsageError(
                    "--smallest-epsilon searches whole steps of 1/255", "give at least 1/255, such as 16/255"
                )
            if "patch" in (self.region, *self.regions):
                raise UsageError("a patch has epsilon 1, and no smallest", "leave out --smallest-epsilon or the patch")
        if self.regions and self.region != "background":
            raise UsageError("--region and --regions cannot be used together", "name all of them in --regions")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ClassifierOptions, DataObjectOptions, SeveralOptions):
    """Train a classifier with localized adversarial training (the paper's Algorithm 1).

    Trains a small network on small images, or fine-tunes a classifier on photos.
    Options that you leave out come from the preset, then from the data set.
    Use the run's id or --name as a classifier in `latcli attack` and `latcli eval`.
    """

    regime: Literal["natural", "standard", "background", "foreground", "random"] | None = option(
        WHAT,
        "NAME",
        "Pixels that may change: natural (none), standard (all), background, foreground, random.",
        BASIC,
        show_default="background",
    )
    dataset: str | None = dataset_option(WHAT, show_default="mnist")
    preset: Literal["quick", "standard", "paper"] | None = option(
        WHAT, "NAME", "Defaults for the other options: quick, standard, paper.", BASIC, show_default="standard"
    )
    architecture: str | None = option(
        WHAT,
        "NAME",
        "paper-cnn, resnet18, resnet20, resnet56; or a classifier to fine-tune, as in latcli attack.",
        BASIC,
        CODE,
        show_default="the data set's",
        offers=f"{_FAMILIES} {{architecture}}",
    )
    keep_classes: bool = switch(
        WHAT, "Keep the classifier's own classes; each class folder must be named after one, or its WordNet id."
    )
    augment: Literal["none", "crop-flip"] | None = option(
        WHAT, "NAME", "Augmentation: none, crop-flip.", show_default="the data set's"
    )
    epsilon: float | None = epsilon_option(TRAINING_ATTACK, BASIC)
    attack: str | None = option(
        TRAINING_ATTACK,
        "NAME",
        "pgd, fgsm-rs, n-fgsm, free, or another attack that supports training: fgsm, mi-fgsm, apgd-ce.",
        show_default="pgd",
        offers="fgsm-rs n-fgsm free {attack}",
    )
    attack_steps: int | None = option(
        TRAINING_ATTACK, "N", "Gradient steps (pgd), or updates per minibatch (free).", BASIC, min=1
    )
    step_size: float | None = option(
        TRAINING_ATTACK, "E", "Step size, on the scale of epsilon.", parse=_parse_step_size
    )
    warm_up: float | None = option(
        TRAINING_ATTACK, "SHARE", "Fraction of the steps over which epsilon ramps up from 0."
    )
    loss: Literal["ce", "trades"] | None = option(
        OPTIMIZATION, "ce|trades", "Cross entropy or TRADES.", show_default="ce"
    )
    beta: float | None = option(OPTIMIZATION, "B", "Weight of the TRADES regularizer.", show_default="6")
    mix: float | None = option(
        OPTIMIZATION, "SHARE", "Fraction of each minibatch that is not attacked.", show_default="0"
    )
    label_smoothing: float | None = option(
        OPTIMIZATION, "SHARE", "Fraction of each label spread over all classes.", show_default="0"
    )
    steps: int | None = option(OPTIMIZATION, "N", "Number of minibatches.", BASIC, min=1)
    epochs: int | None = option(OPTIMIZATION, "N", "Number of epochs, instead of --steps.", BASIC, min=1)
    batch: int | None = option(OPTIMIZATION, "N", "Minibatch size.", min=1)
    optimizer: Literal["adamw", "sgd"] | None = option(OPTIMIZATION, "adamw|sgd", "Optimizer.")
    schedule: Literal["one-cycle", "constant"] | None = option(
        OPTIMIZATION, "NAME", "Learning rate schedule: one-cycle, constant."
    )
    rate: float | None = option(OPTIMIZATION, "R", "Peak learning rate.")
    weight_decay: float | None = option(OPTIMIZATION, "W", "Weight decay.")
    average: float | None = option(OPTIMIZATION, "D", "Decay of the moving average of the weights; 0 for none.")
    checkpoint_every: int | None = option(
        KEEPING, "N", "Steps between checkpoints.", INCIDENTAL, min=1, show_default="once a minute"
    )
    test_every: int | None = option(
        KEEPING,
        "N",
        "Steps between evaluations on the test set, natural and under a short attack.",
        INCIDENTAL,
        min=1,
        show_default="at the end",
    )
    validation: float | None = option(
        KEEPING,
        "SHARE",
        "Hold out this fraction of the training images and score on it instead of the test set.",
        show_default="none",
    )
    logger: tuple[str, ...] = logger_option("tensorboard, if installed")
    resume: str | None = resume_option()


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ClassifierOptions, DataObjectOptions, SeveralOptions):
    """Evaluate models under natural, standard and background inputs: the loss matrix.

    Scores each model on natural images, under the standard attack, and under the background attack.
    Warns of anything that makes a number unreliable.
    """

    models: tuple[str, ...] = argument(
        "MODEL",
        "Training runs, checkpoint files or classifiers. Default: the latest training runs.",
        CODE,
        default=(),
        offers=complete_run,
    )
    dataset: str | None = dataset_option(WHAT, show_default="the training run's")
    seeds: bool = switch(WHAT, "Evaluate the latest training run of every seed: mean and deviation.", BASIC)
    images: int | None = option(WHAT, "N", "Number of test images to attack.", BASIC, min=1, show_default="1000")
    controls: bool = switch(WHAT, "Also attack the foreground and a random region.", BASIC)
    epsilon: float | None = epsilon_option(ATTACK, BASIC)
    attack: str = option(
        ATTACK, "NAME", "pgd, or any other attack of `latcli attack`.", default="pgd", offers="{attack}"
    )
    norm: Literal["linf", "l2"] = option(ATTACK, "linf|l2", "linf, or l2 (with --radius).", default="linf")
    radius: float | None = option(ATTACK, "R", "Radius of the l2 ball; epsilon still bounds each pixel.")
    steps: int | None = option(ATTACK, "N", "Attack steps.", BASIC, min=1, show_default="100")
    restarts: int | None = option(
        ATTACK, "N", "Random restarts; the worst case of each image counts.", min=1, show_default="1"
    )
    until_wrong: bool = switch(ATTACK, "Stop each image once it is misclassified: faster, accuracy only.")
    strong: bool = switch(STRONG, "Add the worst case over APGD, targeted APGD and Square.", BASIC)
    strong_budget: Literal["quick", "full"] | None = option(
        STRONG, "quick|full", "full (as AutoAttack), or quick (for a trial run).", show_default="full"
    )
    transfer: str | None = option(
        BEYOND, "A,B,...|all", "Transfer: test adversarial examples of these models on all others.", CODE
    )
    curve: tuple[str, ...] = option(
        BEYOND,
        "AXIS=V,V,...",
        "Accuracy over epsilon or steps: epsilon=0.1,0.2 or steps=1,10. May be repeated.",
        default=(),
    )
    reliance: bool = switch(
        BEYOND, "Background reliance: accuracy on photos with swapped backgrounds, no attack.", BASIC
    )
    donor_seeds: int | None = option(BEYOND, "N", "Backgrounds per photo (with --reliance).", min=1, show_default="3")
    batch: int | None = option(WHERE, "N", "Images per batch.", min=1, show_default="16 photos, else 250")
    logger: tuple[str, ...] = logger_option("none")
    resume: str | None = resume_option()

    def __post_init__(self) -> None:
        if self.models and self.seeds:
            raise UsageError("--seeds selects the training runs itself", "name models or give --seeds, not both")
        if self.strong_budget is not None and not self.strong:
            raise UsageError("--strong-budget needs --strong", "add --strong, or leave it out")
        if self.transfer is not None and not self.transfer.strip():
            raise UsageError("--transfer names no models", "for example --transfer 7f3a,81c2, or all")
        if self.transfer == "all" and len(self.models) == 1:
            raise UsageError("--transfer needs at least two models", "name several models, or none for the latest")
        if self.donor_seeds is not None and not self.reliance:
            raise UsageError("--donor-seeds needs --reliance", "add --reliance, or leave it out")
        if self.transfer not in (None, "all") and self.seeds:
            raise UsageError("--seeds selects the training runs itself", "use --transfer all, or leave --seeds out")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Show results: loss matrices, attacked photos, training curves.

    Covers all runs, or the ones you name. The latest evaluation of a model counts; seeds are averaged.
    Unfinished runs and damaged files are listed and left out. FILE may be - for stdout.
    """

    runs: tuple[str, ...] = argument(
        "RUN", "Run ids, names, or latest. Default: all runs.", default=(), offers=complete_run
    )
    since: str | None = option(
        WHICH_RUNS, "DATE", "Only runs started since this date (UTC), with or without a time: 2026-11-22."
    )
    dataset: str | None = option(WHICH_RUNS, "NAME", "Only runs on this data set.")
    status: Status | None = status_option()
    best: bool = switch(WHICH_RUNS, "Only the best training run for each data set and regime.", BASIC)
    paper: bool = switch(WHAT, "Compare with the paper's figures, and judge each of its claims.", BASIC)
    compare: bool = switch(WHAT, "Compare two runs: --compare A B.", BASIC)
    html: Path | None = option(FILES, "FILE", "Write a self-contained page.", BASIC)
    open: bool = switch(FILES, "Open the page in a browser.", BASIC)
    markdown: Path | None = option(FILES, "FILE", "Write the tables as Markdown.", BASIC)
    csv: Path | None = option(FILES, "FILE", "Write all numbers as CSV.", BASIC)
    latex: Path | None = option(FILES, "FILE", "Write the tables as LaTeX (booktabs).", BASIC)
    png: Path | None = option(FILES, "DIR", "Write matrices and curves as PNG.", BASIC)


ReproduciblePart = Literal[
    "figure1", "table2", "figure2", "hole", "controls", "masks", "strong", "transfer", "photos-epsilon"
]


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Reproduce the paper's figures and judge its claims.

    Starts the runs that are missing, resumes interrupted ones and reuses finished ones.
    Each step is one attack, train or eval command, which is printed.
    """

    what: str = argument(
        "WHAT",
        "figure1, table2, figure2; not in the paper: hole, controls, masks, strong, transfer, photos-epsilon; or all.",
        offers=" ".join((*get_args(ReproduciblePart), "all")),
    )
    budget: Literal["quick", "standard", "paper"] = option(
        EFFORT,
        "NAME",
        "quick: minutes, one seed; standard: hours; paper: 100,000 minibatches, days on a CPU.",
        BASIC,
        default="standard",
    )
    seeds: int | None = option(
        EFFORT, "N", "Number of seeds, starting at --seed.", BASIC, min=1, show_default="1 (quick), else 3"
    )
    images: int | None = option(
        EFFORT, "N", "Number of images to attack.", min=1, show_default="200 (quick), 1000, 10000 (paper)"
    )
    steps: int | None = option(EFFORT, "N", "Minibatches per training run.", min=1, show_default="the preset's")
    attack_steps: int | None = option(
        EFFORT, "N", "Gradient steps of the evaluation attacks.", min=1, show_default="100, on photos 40"
    )
    dataset: str = dataset_option(SMALL_IMAGES, default=registry.DEFAULT_DATASET)
    like: Literal["mnist", "cifar10"] | None = option(
        SMALL_IMAGES, "NAME", "Compare with the paper's figures for: mnist, cifar10."
    )
    architecture: str | None = option(
        SMALL_IMAGES, "NAME", "Network: paper-cnn, resnet18, resnet20, resnet56.", show_default="the data set's"
    )
    classifier_weights: Path | None = option(
        SMALL_IMAGES,
        "FILE",
        "Initial weights of the network. The natural model is fine-tuned from them, the others from it.",
        show_default="random",
    )
    epsilon: float | None = epsilon_option(SMALL_IMAGES)
    center: float | None = option(
        SMALL_IMAGES, "SHARE", "Protected center, as a fraction of the image's sides.", show_default="the data set's"
    )
    centers: tuple[float, ...] = option(
        SMALL_IMAGES,
        "A,B,...",
        "Sizes of the protected center (hole).",
        default=(),
        parse=parse_shares,
        show_default="seven",
    )
    photos: Path | None = option(
        PHOTOS_AND_LABELS, "DIR", "Photos to attack.", BASIC, show_default="DATA/photos/paper9, else two examples"
    )
    labels: Path | None = option(
        PHOTOS_AND_LABELS, "FILE", "CSV of correct classes: columns file, and index or name.", BASIC
    )
    classifier: str = option(
        PHOTOS_AND_LABELS,
        "NAME",
        "Classifier to attack.",
        CODE,
        default=registry.DEFAULT_CLASSIFIER,
        offers="{classifier}",
    )
    detector: str = option(
        PHOTOS_AND_LABELS,
        "NAME",
        "Detector: auto (decided photo by photo), yolo, mobilenet, saliency, cam.",
        default="auto",
        offers="auto {detector}",
    )
    plan: bool = switch(OUTPUT, "Show the steps, their state and their commands; run nothing.", INCIDENTAL, BASIC)

    def __post_init__(self) -> None:
        if self.what not in (*get_args(ReproduciblePart), "all"):
            raise registry.unknown_name("reproduction", self.what, (*get_args(ReproduciblePart), "all"))
        if self.labels is not None and self.photos is None:
            raise UsageError("--labels needs --photos", "add --photos DIR, or leave it out")
        if self.classifier_weights is not None and self.budget == "paper":
            raise UsageError(
                "--budget paper trains fresh networks, as the paper did", "leave out --classifier-weights, or --budget"
            )

    @property
    def parts(self) -> tuple[ReproduciblePart, ...]:
        """What is to be reproduced, each part once."""
        return tuple(part for part in get_args(ReproduciblePart) if self.what in ("all", part))


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run attack, train, eval and report on sample data, offline, in minutes.

    Attacks two sample photos, trains the paper's three regimes on 5,000 digits for a short time, shows the loss
    matrix, and writes a report page.
    """


@dataclass(frozen=True, kw_only=True)
class ClassesOptions(ClassifierOptions):
    """List or search the classes of a classifier.

    `latcli classes efficientnet_lite0 cat` finds tabby, Persian cat and others.
    --label and --target take names, indices and WordNet ids.
    """

    classifier: str = argument("CLASSIFIER", _CLASSIFIERS, CODE, offers=f"{_FAMILIES} {{classifier}}")
    words: tuple[str, ...] = argument("WORD", "Words to look for in class names and descriptions.", default=())


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check this machine: device, weights, data sets, disk, database.

    Exits with code 1 if something is broken. Missing parts are not a failure.
    """


_RUN = "A run: the end of its id, its name, or latest."
_RUNS = "Runs: ends of ids, names, or latest."


@dataclass(frozen=True, kw_only=True)
class RunsListOptions:
    """List stored runs, newest first."""

    command: str | None = option(
        WHICH_RUNS, "NAME", "Only runs of this command.", BASIC, offers="attack mask train eval reproduce"
    )
    status: Status | None = status_option(BASIC)
    dataset: str | None = option(WHICH_RUNS, "NAME", "Only runs on this data set.", BASIC, offers="folder: {dataset}")
    tag: str | None = option(WHICH_RUNS, "TAG", "Only runs with this tag.", BASIC, offers=complete_tag)
    limit: int | None = option(WHICH_RUNS, "N", "Only the newest N.", BASIC, names=("--limit", "-n"), min=1)


@dataclass(frozen=True, kw_only=True)
class RunsShowOptions:
    """Show one run: options, images, metrics, files, and how to resume it."""

    run: str = argument("RUN", _RUN, offers=complete_run)


@dataclass(frozen=True, kw_only=True)
class RunsVerifyOptions:
    """Check stored files and the database against their checksums.

    Checks all runs, or the ones you name. Exits with code 1 if anything is wrong.
    """

    runs: tuple[str, ...] = argument("RUN", _RUNS, default=(), offers=complete_run)


@dataclass(frozen=True, kw_only=True)
class RunsRemoveOptions:
    """Remove runs and all their files.

    If other runs depend on them, these are listed and you are asked first (without a terminal, --force is needed).
    A run that is still running cannot be removed.
    """

    runs: tuple[str, ...] = argument("RUN", _RUNS, offers=complete_run)
    force: bool = switch(WHAT, "Do not ask. Also remove runs that another machine left as running.", BASIC)


@dataclass(frozen=True, kw_only=True)
class RunsPathOptions:
    """Print the path of a run's folder or of one of its files."""

    run: str = argument("RUN", _RUN, offers=complete_run)
    file: str | None = argument("FILE", "One of the run's files.", default=None)
