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
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import typer

from latcli.engine import registry
from latcli.errors import UsageError
from latcli.reporting.text import number_text
from latcli.results import Status

T = TypeVar("T")

RegionName = Literal["background", "foreground", "all", "random", "patch"]

# panels, in the order in which help shows them

WHAT, WHICH_RUNS, PHOTOS_AND_LABELS = "What is done", "Which runs", "Photos and labels"
OBJECT, ATTACK, CLASSIFIER = "Where the object is", "Attack", "Classifier"
TRAINING_ATTACK, OPTIMIZATION, STRONG, BEYOND = "Inner attack", "Optimization", "Strong suite", "Beyond the matrix"
EFFORT, SMALL_IMAGES, KEEPING, DEVICES = "Effort", "Small images", "Checkpoints", "Several devices"
FILES, WHERE, OUTPUT = "Files", "Where and how it runs", "Output"
PANELS = (
    *(WHAT, WHICH_RUNS, PHOTOS_AND_LABELS, OBJECT, ATTACK, TRAINING_ATTACK, CLASSIFIER, OPTIMIZATION, STRONG, BEYOND),
    *(EFFORT, SMALL_IMAGES, KEEPING, DEVICES, FILES, WHERE, OUTPUT),
)


class Mark(Enum):
    """What else there is to know of an option."""

    #: Shown by --help; the others only by --help-all.
    BASIC = auto()
    #: Says where or how a run is kept or shown: no part of the run's configuration, and free to change on --resume.
    INCIDENTAL = auto()
    #: May name code to run: then it is taken from the command line or the user's own file, never a project's.
    CODE = auto()
    #: Taken from the command line alone.
    TYPED = auto()


BASIC, INCIDENTAL, CODE, TYPED = Mark


@dataclass(frozen=True)
class Implied:
    """The mark of an option that may be given without a value, and then has this one."""

    text: str


class RefusedValue(typer.BadParameter):
    """An option's value that its parser refused, with the parser's own hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


# values that need more than a type


def parse_epsilon(text: str | float, what: str = "epsilon") -> float:
    """The largest change of a pixel as a share of [0, 1], from `8/255` or `0.031`; errors call it `what`.

    Raises UsageError for a text that is no number, or one outside (0, 1].
    """
    hint = f"{what} is a share of full brightness, above 0 and at most 1: 8/255 or 0.031"
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


def parse_objective(text: str) -> str:
    """ce, margin, top10 or topk:K with a K of at least 1. Raises UsageError."""
    word, colon, number = text.partition(":")
    if text in ("ce", "margin", "top10") or (word == "topk" and colon and number.isdigit() and int(number) > 0):
        return text
    raise UsageError(f"there is no objective called '{text}'", "known: ce, margin, top10, topk:K such as topk:5")


def parse_step_size(text: str | float) -> float:
    """A step size, on epsilon's scale. Raises UsageError."""
    return parse_epsilon(text, "step size")


def parse_box(text: str) -> tuple[float, float, float, float]:
    """A rectangle in pixels from `x0,y0,x1,y1`: left, top, right, bottom, right and bottom exclusive.

    Raises UsageError for anything but four finite numbers.
    """
    box = _floats(text)
    if len(box) != 4:
        hint = "a box is x0,y0,x1,y1 in pixels: 40,30,200,180"
        raise UsageError(f"the box '{text}' is not four finite numbers", hint)
    return box[0], box[1], box[2], box[3]


def parse_shares(text: str) -> tuple[float, ...]:
    """Ascending shares of the side, separated by commas. Raises UsageError."""
    values = _floats(text)
    if not values or not all(0.0 <= value < 1.0 for value in values) or list(values) != sorted(set(values)):
        hint = "for example --centers 0.25,0.5,0.75"
        raise UsageError(f"'{text}' is not an ascending list of shares from 0 to below 1", hint)
    return values


def parse_name(text: str) -> str:
    """A run's own name. Raises UsageError for one that would be unclear or awkward to type."""
    if re.fullmatch(r"[^\W\d_][\w.-]{0,63}", text) and text != "latest":
        return text
    raise UsageError(
        f"a run cannot be called '{text}'",
        "a name begins with a letter, has at most 64 letters, digits, dots, dashes and underscores, and is not latest",
    )


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers of the colour channels, separated by commas: one for all, or one each. Raises UsageError."""
    values = _floats(text)
    if len(values) not in (1, 3):
        hint = "one number, or one for each channel: 0.485,0.456,0.406"
        raise UsageError(f"'{text}' is not one number or three", hint)
    return values


def _floats(text: str) -> tuple[float, ...]:
    """Finite numbers that commas separate; none where one of them is something else."""
    try:
        values = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def parse_input_size(text: str) -> tuple[int, int]:
    """Height and width in pixels from `224` or `224,320`. Raises UsageError."""
    sides = [int(part) if part.strip().isdecimal() else 0 for part in str(text).split(",")]
    if len(sides) not in (1, 2) or not all(0 < side <= 4096 for side in sides):
        raise UsageError(f"'{text}' is not a size", "pixels of a side, or height and width: 224 or 224,320")
    return sides[0], sides[-1]


def parse_resize(text: str) -> str | int:
    """squash, crop, or the pixels of the short side before the crop. Raises UsageError."""
    word = str(text)
    if word in ("squash", "crop"):
        return word
    if word.isdecimal() and 0 < int(word) <= 8192:
        return int(word)
    raise UsageError(
        f"'{text}' is not a way to resize", "squash, crop, or the pixels of the short side before the crop: 256"
    )


# what the shell offers


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs of the store, the newest first: by the last part of their id, or by the whole of it."""
    try:
        folders = [file.parent.name for file in Path(ctx.params["store"]).glob("*/run.json")]
    except OSError:
        return []
    ids = sorted(folders, reverse=True)
    return [name for name in [*(run.rpartition("-")[2] for run in ids), *ids] if name.startswith(incomplete)]


def _names_of(kind: registry.Kind, *more: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in (*more, *registry.names(kind)) if name.startswith(incomplete)]

    return complete


def _one_of(*words: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


_FAMILIES = tuple(f"{family}:" for family in registry.CLASSIFIER_FAMILIES)
_CLASSIFIERS = (
    "efficientnet_lite0, inception_v3, timm:NAME, torchvision:NAME, hf:NAME, robustbench:NAME, module:function, "
    "file.py:function, a training run."
)


# how a field becomes an option


Offers = Callable[..., list[str]]


def option(
    panel: str,
    metavar: str,
    help: str,
    *marks: Mark | Implied,
    default: Any = None,
    names: Sequence[str] = (),
    parse: Callable[[str], Any] | None = None,
    offers: Offers | None = None,
    **more: Any,
) -> Any:
    """A dataclass field that is an option with a value.

    parse: makes the value of its text, and may raise UsageError. offers: what the shell completes. more: as Typer's.
    """
    if parse is not None:
        more["parser"] = _refusing(parse)
    info = typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, autocompletion=offers, **more)
    return _field(info, default, marks)


def switch(panel: str, help: str, *marks: Mark, names: Sequence[str] = (), **more: Any) -> Any:
    """A dataclass field that is an option without a value."""
    return _field(typer.Option(*names, metavar="", help=help, rich_help_panel=panel, **more), False, marks)


def argument(metavar: str, help: str, *marks: Mark, default: Any = MISSING, offers: Offers | None = None) -> Any:
    """A dataclass field that is a word without a name; without a default it must be given."""
    return _field(typer.Argument(metavar=metavar, help=help, autocompletion=offers), default, marks)


def _field(info: Any, default: Any, marks: Sequence[Mark | Implied]) -> Any:
    return field(default=default, metadata={"info": info, "marks": frozenset(marks)})


def _refusing(parse: Callable[[str], T]) -> Callable[[str], T]:
    def parser(text: str) -> T:
        try:
            return parse(text)
        except UsageError as error:
            raise RefusedValue(error.message, error.hint) from error

    return parser


@dataclass(frozen=True)
class Field:
    """One option of a command as a dataclass has it: its Python type, its Typer declaration, and its marks."""

    name: str
    type: Any
    info: Any
    marks: frozenset[Mark | Implied]
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
    types = get_type_hints(options)
    return [
        Field(one.name, types[one.name], one.metadata["info"], one.metadata["marks"], one.default)
        for one in fields(options)
        if "info" in one.metadata
    ]


def given(options: Any) -> dict[str, Any]:
    """The options that differ from their defaults and decide what is computed, by name.

    A resumed run must agree with them, and so must a run that a reproduction reuses.
    """
    values = {one.name: getattr(options, one.name) for one in fields_of(type(options)) if INCIDENTAL not in one.marks}
    defaults = {one.name: one.default for one in fields_of(type(options))}
    return {name: value for name, value in values.items() if value != defaults[name]}


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
            for text in _texts(value, as_list=one.type is Any):
                named += [f"--{one.key}", text]
    return words + named


def _texts(value: Any, as_list: bool) -> list[str]:
    """What stands behind an option's name: one text, or one for each time that the option is repeated."""
    if isinstance(value, tuple):
        texts = [repr(item) if isinstance(item, float) else str(item) for item in value]
        return [",".join(texts)] if as_list else texts
    return [number_text(value) if isinstance(value, float) else str(value)]


# options that several commands have


def dataset_option(panel: str, **more: Any) -> Any:
    """A data set by its name."""
    known = "mnist, fashion-mnist, cifar10, mnist-5k, folder:PATH."
    return option(panel, "NAME", known, BASIC, offers=_names_of("dataset", "folder:"), **more)


def epsilon_option(panel: str, *marks: Mark) -> Any:
    """Epsilon on images of a data set."""
    about = "Largest change of a pixel: 0.3 or 8/255."
    return option(panel, "E", about, *marks, parse=parse_epsilon, show_default="the data set's")


def norm_option() -> Any:
    """The set of allowed changes."""
    return option(ATTACK, "linf|l2", "l2 needs --radius as well.", default="linf")


def radius_option() -> Any:
    """The radius that `norm_option` needs for l2."""
    return option(ATTACK, "R", "Radius of the l2 ball, inside epsilon's box.")


def resume_option() -> Any:
    """A run to go on with."""
    return option(KEEPING, "RUN", "Continue a run that was cut off.", INCIDENTAL, BASIC, offers=complete_run)


def status_option(*marks: Mark) -> Any:
    """What has become of a run."""
    return option(WHICH_RUNS, "NAME", "Only running, completed, failed, interrupted or crashed ones.", *marks)


# options that every command has


@dataclass(kw_only=True)
class Common:
    """Options of every command."""

    store: Path = option(WHERE, "DIR", "Where runs are kept.", INCIDENTAL, default=Path("runs"), envvar="LATCLI_STORE")
    json: bool = switch(OUTPUT, "Print one JSON document on stdout, and nothing else.", INCIDENTAL)
    quiet: bool = switch(OUTPUT, "No progress and no notes on stderr.", INCIDENTAL, names=("--quiet", "-q"))
    debug: bool = switch(OUTPUT, "Show the traceback of an error.", INCIDENTAL)
    config: Path | None = option(WHERE, "FILE", "Read options from this TOML file instead of latcli.toml.", INCIDENTAL)


@dataclass(kw_only=True)
class Computing(Common):
    """Options of every command that computes."""

    data: Path = option(WHERE, "DIR", "Where data sets are.", INCIDENTAL, default=Path("data"), envvar="LATCLI_DATA")
    device: str = option(
        WHERE,
        "NAME",
        "auto, cpu, cuda, cuda:N or mps.",
        INCIDENTAL,
        default="auto",
        offers=_one_of("auto", "cpu", "cuda", "mps"),
    )
    precision: Literal["auto", "fp32", "bf16"] = option(
        WHERE,
        "NAME",
        "Number format of gradients: auto, fp32, bf16. Results are always scored in fp32.",
        default="auto",
    )
    seed: int = option(WHERE, "N", "Equal seeds give equal files.", default=0, min=0)
    offline: bool = switch(WHERE, "Download nothing.", INCIDENTAL, envvar="LATCLI_OFFLINE")


@dataclass(kw_only=True)
class Recording(Computing):
    """Options of every command that keeps a run."""

    name: str | None = option(
        OUTPUT, "NAME", "A name for the run, for use in place of its id.", INCIDENTAL, TYPED, parse=parse_name
    )
    tag: tuple[str, ...] = option(
        OUTPUT,
        "TAG",
        "A tag for the run; `latcli runs list --tag` filters by it. May be repeated.",
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
        "auto (decided photo by photo), yolo, mobilenet, saliency, cam, none, or a plug-in's.",
        BASIC,
        default="auto",
        offers=_names_of("detector", "auto"),
    )
    detector_weights: Path | None = option(
        OBJECT, "FILE|NAME", "The detector's weights: .pt (yolo), .onnx, u2net, isnet-general-use (saliency)."
    )
    detector_option: tuple[str, ...] = option(
        OBJECT, "NAME=VALUE", "A setting of the detector, a plug-in's too. May be repeated.", default=()
    )
    trust_weights: bool = switch(
        OBJECT,
        "Run the code in the detector's weights (yolo). Only for a file whose maker you trust.",
        INCIDENTAL,
        TYPED,
    )
    detector_confidence: float = option(
        OBJECT, "P", "Lowest confidence of a box (yolo, mobilenet).", default=0.25, min=0.0, max=1.0
    )
    cam_threshold: float = option(
        OBJECT,
        "SHARE",
        "Share of the map's peak above which a pixel is the object's (cam).",
        default=0.4,
        min=0.0,
        max=0.99,
    )
    boxes: Literal["all", "best"] = option(
        OBJECT, "all|best", "Protect all boxes that agree with the class, or the best.", default="all"
    )
    refine: Literal["none", "grabcut", "saliency"] = option(
        OBJECT, "NAME", "Turn boxes into silhouettes: none, grabcut, saliency.", default="none"
    )
    soft: bool = switch(OBJECT, "Keep the soft edges of silhouettes: epsilon grows from 0 to its full value there.")


@dataclass(frozen=True, kw_only=True)
class DataObjectOptions(ObjectOptions):
    """Where the object of each image of a data set is."""

    center: float | None = option(
        OBJECT, "SHARE", "Protect the middle: a share of the image's sides.", show_default="the data set's"
    )
    mask_from: Literal["center", "otsu", "detector", "folder"] | None = option(
        OBJECT,
        "NAME",
        "center: the middle; otsu: the silhouette of a digit; detector: what is found on photos; folder: --masks.",
        show_default="detector for photos, else center",
    )
    masks: Path | None = option(OBJECT, "DIR", "A mask for each image, DIR/train/CLASS/NAME.png, white on the object.")


# which classifier


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """The description of a classifier, besides its name."""

    classifier_weights: Path | None = option(
        CLASSIFIER,
        "FILE",
        "Its weights: safetensors, or a PyTorch file without code. Its head gives the number of classes.",
    )
    class_names: Path | None = option(
        CLASSIFIER, "FILE", "Names of its classes: one a line, or JSON, in the order of the logits."
    )
    mean: Any = option(
        CLASSIFIER, "M", "Normalization: mean, of all channels or each.", default=(), parse=parse_numbers
    )
    std: Any = option(
        CLASSIFIER, "S", "Normalization: standard deviation, of all channels or each.", default=(), parse=parse_numbers
    )
    input_size: Any = option(
        CLASSIFIER, "N|H,W", "Pixels of its input: 224, or height and width.", default=(), parse=parse_input_size
    )
    resize: Any = option(
        CLASSIFIER,
        "NAME|N",
        "How photos are resized: squash, crop (the middle), or N (the short side before the crop).",
        default=(),
        parse=parse_resize,
    )


# the commands


_PHOTOS = "Photos, folders (searched recursively), or - for standard input."


@dataclass(frozen=True, kw_only=True)
class PhotoOptions(ClassifierOptions, ObjectOptions):
    """Photos, their right classes, their objects, and the classifier."""

    photos: tuple[str, ...] = argument("PHOTO...", _PHOTOS)
    label: str | None = option(PHOTOS_AND_LABELS, "NAME|INDEX", "The right class of all photos.", BASIC)
    labels: Path | None = option(PHOTOS_AND_LABELS, "FILE", "Right classes from a CSV: file, and index or name.", BASIC)
    labels_from: Literal["folder"] | None = option(
        PHOTOS_AND_LABELS, "folder", "Right classes from the names of the photos' folders."
    )
    on_miss: Literal["fail", "skip", "center"] = option(
        OBJECT, "fail|skip|center", "What to do with a photo in which no object is found.", default="fail"
    )
    box: tuple[str, ...] = option(OBJECT, "X0,Y0,X1,Y1", "The object, in pixels. May be repeated.", BASIC, default=())
    center: float | None = option(OBJECT, "SHARE", "Protect the middle of the photo: a share of its sides, 0.25.")
    classifier: str = option(
        CLASSIFIER,
        "NAME",
        _CLASSIFIERS,
        BASIC,
        CODE,
        default=registry.DEFAULT_CLASSIFIER,
        offers=_names_of("classifier", *_FAMILIES),
    )


@dataclass(frozen=True, kw_only=True)
class MaskOptions(PhotoOptions):
    """Find the objects of photos and write their masks, white on the object, for a person to look at and correct.

    Masks lie in --out as the photos do, where `attack --mask` and the --masks of train and eval read them.
    Each has an overlay beside it, in the folder `overlays`.
    """

    out: Path = option(FILES, "DIR", "Where the masks are written.", INCIDENTAL, BASIC, default=Path("masks"))


@dataclass(frozen=True, kw_only=True)
class AttackOptions(PhotoOptions):
    """Fool a classifier by changing only the background of a photo.

    The object is found; every pixel outside it may change by at most epsilon.
    The result is scored from the saved 8-bit file and kept as a run.
    """

    photos: tuple[str, ...] = argument("[PHOTO...]", _PHOTOS, default=())
    mask: Path | None = option(
        OBJECT, "FILE|DIR", "A mask, white on the object; or a folder with one mask for each photo.", BASIC
    )
    epsilon: Any = option(
        ATTACK,
        "E",
        "Largest change of a pixel: 8/255 or 0.031; several for a table: 2/255,4/255,8/255.",
        BASIC,
        default=8 / 255,
        parse=parse_epsilons,
        show_default="8/255",
    )
    region: RegionName = option(
        ATTACK,
        "NAME",
        "What may change: background, foreground, all, random (the background, moved), or patch (a square in the "
        "background, with epsilon 1).",
        BASIC,
        default="background",
    )
    regions: Any = option(
        ATTACK,
        "A,B,...",
        "Several regions for a table: background,random,foreground,all.",
        default=(),
        parse=parse_regions,
    )
    smallest_epsilon: float | None = option(
        ATTACK,
        "[MAX]",
        "Find the smallest epsilon that fools, in steps of 1/255, up to MAX (16/255).",
        Implied("16/255"),
        BASIC,
        parse=parse_epsilon,
    )
    attack: str = option(
        ATTACK,
        "NAME",
        "pgd, fgsm, mi-fgsm, apgd-ce, apgd-dlr, apgd-t, square, minimal, or a plug-in's.",
        BASIC,
        default="pgd",
        offers=_names_of("attack"),
    )
    steps: int = option(ATTACK, "N", "Gradient steps.", BASIC, default=40, min=1)
    step_size: float | None = option(ATTACK, "E", "Size of the first step, on epsilon's scale.", parse=parse_step_size)
    schedule: Literal["constant", "linear", "cosine"] = option(
        ATTACK, "NAME", "How steps shrink: constant, linear, cosine.", default="cosine"
    )
    restarts: int = option(ATTACK, "N", "Random starts; each photo keeps its worst case.", default=1, min=1)
    no_random_start: bool = switch(ATTACK, "Start at the photo itself.")
    objective: str = option(
        ATTACK,
        "NAME",
        "What is maximised: ce (cross entropy), margin (of logits), top10 or topk:K (push the class out of the "
        "first K guesses).",
        default="ce",
        parse=parse_objective,
    )
    target: str | None = option(ATTACK, "NAME|INDEX", "Push towards this class.")
    stop: Literal["never", "top1", "top10"] = option(
        ATTACK, "WHEN", "Stop a photo as soon as its class has left the top1 or top10; or never.", default="never"
    )
    norm: Literal["linf", "l2"] = norm_option()
    radius: float | None = radius_option()
    at_model_resolution: bool = switch(ATTACK, "Resize the photo first, as the paper does.")
    batch: int = option(WHERE, "N", "Photos attacked together.", default=8, min=1)
    no_figures: bool = switch(OUTPUT, "Do not draw the paper's Figure 1 for each photo.", INCIDENTAL)
    dry_run: bool = switch(OUTPUT, "Show object, background share and time; attack nothing.", INCIDENTAL)
    check_success: bool = switch(OUTPUT, "Exit with code 4 unless every photo is fooled.", INCIDENTAL)
    resume: str | None = resume_option()

    def __post_init__(self) -> None:
        if self.smallest_epsilon is not None and isinstance(self.epsilon, tuple):
            raise UsageError("--smallest-epsilon searches by itself", "leave out --epsilon, or give its largest as MAX")
        if self.smallest_epsilon is not None and self.smallest_epsilon < 1 / 255:
            raise UsageError("--smallest-epsilon searches whole steps of 1/255", "give at least 1/255, such as 16/255")
        if self.regions and self.region != "background":
            raise UsageError("--region and --regions cannot be used together", "name all of them in --regions")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ClassifierOptions, DataObjectOptions):
    """Train a classifier on images whose background is under attack (the paper's Algorithm 1).

    A small network on small images, or a classifier fine-tuned on photos.
    What is not given comes from the preset, then from the data set.
    The model is kept as a run; its id is a classifier's name for `latcli attack` and `latcli eval`.
    """

    regime: Literal["natural", "standard", "background", "foreground", "random"] | None = option(
        WHAT,
        "NAME",
        "What may change in training: natural (nothing), standard (all), background, foreground, random.",
        BASIC,
        show_default="background",
    )
    dataset: str | None = dataset_option(WHAT, show_default="mnist")
    preset: Literal["quick", "standard", "paper"] | None = option(
        WHAT, "NAME", "Defaults of all other options: quick, standard, paper.", BASIC, show_default="standard"
    )
    architecture: str | None = option(
        WHAT,
        "NAME",
        "paper-cnn, resnet18, resnet20, resnet56, or a classifier to fine-tune on photos (see latcli attack).",
        BASIC,
        CODE,
        show_default="the data set's",
        offers=_names_of("architecture", *_FAMILIES),
    )
    augment: Literal["none", "crop-flip"] | None = option(
        WHAT, "NAME", "none, crop-flip.", show_default="the data set's"
    )
    epsilon: float | None = epsilon_option(TRAINING_ATTACK, BASIC)
    attack: str | None = option(
        TRAINING_ATTACK,
        "NAME",
        "pgd, fgsm-rs, n-fgsm, free, or any attack that supports training: fgsm, apgd-ce, a plug-in's.",
        show_default="pgd",
        offers=_names_of("attack", "fgsm-rs", "n-fgsm", "free"),
    )
    attack_steps: int | None = option(
        TRAINING_ATTACK, "N", "Gradient steps of pgd; updates for each minibatch of free.", BASIC, min=1
    )
    step_size: float | None = option(TRAINING_ATTACK, "E", "Size of a step, on epsilon's scale.", parse=parse_step_size)
    warm_up: float | None = option(
        TRAINING_ATTACK, "SHARE", "Fraction of the steps over which epsilon ramps up from 0."
    )
    loss: Literal["ce", "trades"] | None = option(
        OPTIMIZATION, "ce|trades", "Cross entropy or TRADES.", show_default="ce"
    )
    beta: float | None = option(OPTIMIZATION, "B", "Weight of TRADES' divergence.", show_default="6")
    mix: float | None = option(OPTIMIZATION, "SHARE", "Fraction of each minibatch left natural.", show_default="0")
    steps: int | None = option(OPTIMIZATION, "N", "Number of minibatches.", BASIC, min=1)
    epochs: int | None = option(
        OPTIMIZATION, "N", "Passes over the training images, in place of --steps.", BASIC, min=1
    )
    batch: int | None = option(OPTIMIZATION, "N", "Images in a minibatch.", min=1)
    optimizer: Literal["adamw", "sgd"] | None = option(OPTIMIZATION, "adamw|sgd", "The optimizer.")
    schedule: Literal["one-cycle", "constant"] | None = option(
        OPTIMIZATION, "NAME", "Learning rate: one-cycle, constant."
    )
    rate: float | None = option(OPTIMIZATION, "R", "Peak learning rate.")
    weight_decay: float | None = option(OPTIMIZATION, "W", "Weight decay.")
    average: float | None = option(OPTIMIZATION, "D", "Decay of the weights' moving average; 0 for none.")
    devices: int | None = option(
        DEVICES, "N", "Processes on this machine, one GPU each.", INCIDENTAL, min=1, show_default="1"
    )
    nodes: int | None = option(DEVICES, "M", "Machines that train together.", INCIDENTAL, min=1, show_default="1")
    checkpoint_every: int | None = option(
        KEEPING, "N", "Steps between checkpoints.", INCIDENTAL, min=1, show_default="once a minute"
    )
    test_every: int | None = option(
        KEEPING,
        "N",
        "Steps between scores of the test set, natural and under a short attack of the regime.",
        INCIDENTAL,
        min=1,
        show_default="at the end",
    )
    resume: str | None = resume_option()


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ClassifierOptions, DataObjectOptions):
    """Measure how far models lean on the background: the loss matrix of models and inputs.

    Each model is scored on natural images, under standard attack, and under background attack.
    The result of every image is kept as a run. Anything that makes a figure doubtful is reported.
    """

    models: tuple[str, ...] = argument(
        "[MODEL...]",
        "Training runs, checkpoint files, or classifiers. Default: the latest training runs.",
        CODE,
        default=(),
        offers=complete_run,
    )
    dataset: str | None = dataset_option(WHAT, show_default="that of the training run")
    seeds: bool = switch(WHAT, "The latest training run of every seed: mean and spread.", BASIC)
    images: int | None = option(WHAT, "N", "Test images that are attacked.", BASIC, min=1, show_default="1000")
    controls: bool = switch(WHAT, "Also attack the foreground, and a random region.", BASIC)
    epsilon: float | None = epsilon_option(ATTACK, BASIC)
    attack: str = option(
        ATTACK, "NAME", "pgd, or any attack of `latcli attack`.", default="pgd", offers=_names_of("attack")
    )
    norm: Literal["linf", "l2"] = norm_option()
    radius: float | None = radius_option()
    steps: int | None = option(ATTACK, "N", "Steps of the attack.", BASIC, min=1, show_default="100")
    restarts: int | None = option(
        ATTACK, "N", "Random starts; each image keeps its worst case.", min=1, show_default="1"
    )
    until_wrong: bool = switch(ATTACK, "Stop each image at its first wrong guess: faster, accuracy only.")
    strong: bool = switch(STRONG, "Add the worst case of APGD, targeted APGD and Square.", BASIC)
    strong_budget: Literal["quick", "full"] | None = option(
        STRONG, "quick|full", "full is AutoAttack's; quick is for a trial.", show_default="full"
    )
    transfer: str | None = option(
        BEYOND, "A,B,...|all", "Try examples made on each of these models on all the others.", CODE
    )
    curve: tuple[str, ...] = option(
        BEYOND,
        "AXIS=V,V,...",
        "Accuracy against epsilon or steps: epsilon=0.1,0.2 or steps=1,10. May be repeated.",
        default=(),
    )
    reliance: bool = switch(BEYOND, "Photos: accuracy without an attack, on backgrounds of other photos.", BASIC)
    donor_seeds: int | None = option(
        BEYOND, "N", "How many other backgrounds each photo gets (reliance).", min=1, show_default="3"
    )
    batch: int | None = option(WHERE, "N", "Images attacked together.", min=1, show_default="16 photos, else 250")
    resume: str | None = resume_option()

    def __post_init__(self) -> None:
        if self.models and self.seeds:
            raise UsageError("--seeds chooses training runs by itself", "name models or give --seeds, not both")
        if self.strong_budget is not None and not self.strong:
            raise UsageError("--strong-budget needs --strong", "add --strong, or leave it out")
        if self.transfer is not None and not self.transfer.strip():
            raise UsageError("--transfer names no models", "for example --transfer 7f3a,81c2, or all")
        if self.transfer == "all" and len(self.models) == 1:
            raise UsageError("--transfer needs at least two models", "name several models, or none for the latest")
        if self.donor_seeds is not None and not self.reliance:
            raise UsageError("--donor-seeds needs --reliance", "add --reliance, or leave it out")
        if self.transfer not in (None, "all") and self.seeds:
            raise UsageError("--seeds chooses training runs by itself", "use --transfer all, or leave --seeds out")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Show what was found: loss matrices, photos, curves; with --paper, beside the paper's figures.

    Covers all runs, or those named. A later evaluation of a model replaces an earlier one; seeds are averaged.
    A FILE of - is standard output. Unfinished runs and changed files are named and left out.
    """

    runs: tuple[str, ...] = argument(
        "[RUN...]", "Ends of ids, or latest. Default: all runs.", default=(), offers=complete_run
    )
    since: str | None = option(WHICH_RUNS, "DATE", "Only runs started since: 2026-11-22, or with a time, UTC.")
    dataset: str | None = option(WHICH_RUNS, "NAME", "Only runs on this data set.")
    status: Status | None = status_option()
    best: bool = switch(WHICH_RUNS, "Only the best training run of each data set and regime.", BASIC)
    paper: bool = switch(WHAT, "Show the paper's figures beside ours, with a verdict on each claim.", BASIC)
    compare: bool = switch(WHAT, "Show what differs between two runs: --compare A B.", BASIC)
    html: Path | None = option(FILES, "FILE", "Write one page with everything in it.", BASIC)
    open: bool = switch(FILES, "Open the page in a browser.", BASIC)
    markdown: Path | None = option(FILES, "FILE", "Write the tables as Markdown.", BASIC)
    csv: Path | None = option(FILES, "FILE", "Write one figure a line, as CSV.", BASIC)
    latex: Path | None = option(FILES, "FILE", "Write the tables as LaTeX (booktabs).", BASIC)
    png: Path | None = option(FILES, "DIR", "Write the matrices and all curves as PNG.", BASIC)


ReproduciblePart = Literal[
    "figure1", "table2", "figure2", "hole", "controls", "masks", "strong", "transfer", "photos-epsilon"
]


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Reproduce the paper's figures, and more: the runs that they need, then a verdict on each claim.

    Finished runs are reused, interrupted ones resumed, missing ones started.
    Each step is one attack, train or eval, and its command is printed.
    """

    what: str = argument(
        "WHAT",
        "figure1, table2, figure2; beyond the paper: hole, controls, masks, strong, transfer, photos-epsilon; all.",
        offers=_one_of(*get_args(ReproduciblePart), "all"),
    )
    budget: Literal["quick", "standard", "paper"] = option(
        EFFORT,
        "NAME",
        "quick: minutes, one seed; standard: hours; paper: 100,000 minibatches, days on a CPU.",
        BASIC,
        default="standard",
    )
    seeds: int | None = option(
        EFFORT, "N", "Number of seeds, from --seed on.", BASIC, min=1, show_default="1 (quick), else 3"
    )
    images: int | None = option(
        EFFORT, "N", "Images that are attacked.", min=1, show_default="200 (quick), 1000, 10000 (paper)"
    )
    steps: int | None = option(EFFORT, "N", "Minibatches of each training.", min=1, show_default="the preset's")
    attack_steps: int | None = option(
        EFFORT, "N", "Gradient steps of scoring attacks.", min=1, show_default="100, on photos 40"
    )
    dataset: str = dataset_option(SMALL_IMAGES, default=registry.DEFAULT_DATASET)
    like: Literal["mnist", "cifar10"] | None = option(
        SMALL_IMAGES, "NAME", "Compare the data set with the paper's figures of this one: mnist, cifar10."
    )
    architecture: str | None = option(
        SMALL_IMAGES, "NAME", "The network: paper-cnn, resnet18.", show_default="the data set's"
    )
    epsilon: float | None = epsilon_option(SMALL_IMAGES)
    center: float | None = option(
        SMALL_IMAGES, "SHARE", "Protected middle, as a share of the image's sides.", show_default="the data set's"
    )
    centers: Any = option(
        SMALL_IMAGES, "A,B,...", "Sizes of the middle for hole.", default=(), parse=parse_shares, show_default="seven"
    )
    photos: Path | None = option(
        PHOTOS_AND_LABELS, "DIR", "Photos to attack.", BASIC, show_default="DATA/photos/paper9, else two examples"
    )
    labels: Path | None = option(
        PHOTOS_AND_LABELS, "FILE", "Their right classes, a CSV: file, and index or name.", BASIC
    )
    classifier: str = option(
        PHOTOS_AND_LABELS,
        "NAME",
        "The classifier that is attacked.",
        CODE,
        default=registry.DEFAULT_CLASSIFIER,
        offers=_names_of("classifier"),
    )
    detector: str = option(
        PHOTOS_AND_LABELS,
        "NAME",
        "Finds the objects: auto (decided photo by photo), yolo, mobilenet, saliency, cam.",
        default="auto",
        offers=_names_of("detector", "auto"),
    )
    plan: bool = switch(OUTPUT, "Show the steps, which are done, and their commands; run nothing.", INCIDENTAL, BASIC)

    def __post_init__(self) -> None:
        if self.what not in (*get_args(ReproduciblePart), "all"):
            raise registry.unknown_name("reproduction", self.what, (*get_args(ReproduciblePart), "all"))
        if self.labels is not None and self.photos is None:
            raise UsageError("--labels needs --photos", "add --photos DIR, or leave it out")

    @property
    def parts(self) -> tuple[ReproduciblePart, ...]:
        """What is to be reproduced, each part once."""
        return tuple(part for part in get_args(ReproduciblePart) if self.what in ("all", part))


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Attack, train, evaluate, report: all in minutes, offline.

    Attacks two sample photos, trains the paper's three regimes on 5,000 digits for a short while, shows the loss
    matrix, and prints the path of a page to open.
    """


@dataclass(frozen=True, kw_only=True)
class ClassesOptions(ClassifierOptions):
    """List the classes of a classifier, or find those that a word describes.

    `latcli classes efficientnet_lite0 cat` finds tabby, Persian cat and others.
    Names, indices and WordNet ids are what --label and --target take.
    """

    classifier: str = argument("CLASSIFIER", _CLASSIFIERS, CODE, offers=_names_of("classifier", *_FAMILIES))
    words: tuple[str, ...] = argument("[WORD...]", "Words that the class's name or description has.", default=())


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Show what this machine offers: device, weights, data sets, disk, database.

    Exit code 1 if something is broken; something that is only missing is not a failure.
    """


_RUN = "The end of a run's id, its name, or latest."
_RUNS = "Ends of run ids, names, or latest."


@dataclass(frozen=True, kw_only=True)
class RunsListOptions:
    """List the runs of the store, the newest first."""

    command: str | None = option(
        WHICH_RUNS,
        "NAME",
        "Only runs of this command.",
        BASIC,
        offers=_one_of("attack", "train", "eval", "reproduce", "demo"),
    )
    status: Status | None = status_option(BASIC)
    dataset: str | None = option(WHICH_RUNS, "NAME", "Only runs on this data set.", BASIC)
    tag: str | None = option(WHICH_RUNS, "TAG", "Only runs marked with this tag.", BASIC)
    limit: int | None = option(WHICH_RUNS, "N", "Only the newest N.", BASIC, names=("--limit", "-n"), min=1)


@dataclass(frozen=True, kw_only=True)
class RunsShowOptions:
    """Show all that is known of one run: options, images, numbers, files."""

    run: str = argument("RUN", _RUN, offers=complete_run)


@dataclass(frozen=True, kw_only=True)
class RunsVerifyOptions:
    """Check that the files of all runs, or of those named, are as they were written, and the database with them.

    Exit code 1 if anything is wrong.
    """

    runs: tuple[str, ...] = argument("RUN", _RUNS, default=(), offers=complete_run)


@dataclass(frozen=True, kw_only=True)
class RunsRemoveOptions:
    """Remove runs with all their files. A run that is still working is refused.

    Where other runs depend on them, they are named and you are asked first; off a terminal, --force is needed.
    """

    runs: tuple[str, ...] = argument("RUN", _RUNS, offers=complete_run)
    force: bool = switch(WHAT, "Do not ask. Also remove a run left as running by a machine that is gone.", BASIC)


@dataclass(frozen=True, kw_only=True)
class RunsPathOptions:
    """Print the path of a run's folder, or of one of its files, for use in a shell."""

    run: str = argument("RUN", _RUN, offers=complete_run)
    file: str | None = argument("FILE", "One of the run's files.", default=None)
