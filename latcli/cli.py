"""The command line: Typer signatures and help texts, nothing else; bodies are imported inside the function."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from latcli import __version__, process
from latcli.cli_options import OUTPUT, WHERE, Epsilon, complete_run, flag, parsed_by, with_session
from latcli.commands.parsing import parse_epsilon
from latcli.commands.session import Session

app = typer.Typer(
    name="latcli",
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)
runs_app = typer.Typer(help="Look at stored runs, check them, remove them.", invoke_without_command=True)
app.add_typer(runs_app, name="runs", rich_help_panel="Look around")


def main() -> NoReturn:
    """Run the process's command line and end the process with its exit code."""
    sys.exit(process.run(app, sys.argv[1:]))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"latcli {__version__}")
        raise typer.Exit


def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        ctx.get_help()  # Typer's rich help prints itself


@app.callback()
def latcli(
    ctx: typer.Context,
    version: Annotated[
        bool, flag("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Localized adversarial attacks: fool an image classifier by a photo's background alone."""
    _help_without_command(ctx)


@runs_app.callback()
def runs(ctx: typer.Context) -> None:
    """Look at stored runs, check them, remove them."""
    _help_without_command(ctx)


Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The end of a run's id, or latest.", autocompletion=complete_run),
]
Runs = Annotated[list[str], typer.Argument(metavar="RUN", help="Ends of ids, or latest.", autocompletion=complete_run)]


_WHAT, _OBJECT, _SEARCH, _MODEL = "Photos and labels", "Where the object is", "Attack", "Classifier"
_MATRIX, _STRONG, _FURTHER = "What is evaluated", "Strong suite", "Beyond the matrix"
_LEARNT, _INNER, _UPDATE, _KEPT = "What is learnt", "Inner attack", "Update", "Checkpoints"
_RANKS = "Several devices"
_EFFORT, _SMALL, _PHOTOS = "How much", "Small images", "Photos"
_CHOSEN, _SHOWN, _WRITTEN = "Which runs", "What is shown", "Files"


def _option(panel: str, metavar: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


# Where the object of each image is, to training and evaluation alike.
Center = Annotated[
    float | None,
    _option(_OBJECT, "SHARE", "The middle of the image, as a share of its sides.", show_default="the data set's"),
]
MaskFrom = Annotated[
    Literal["center", "otsu", "detector", "folder"] | None,
    _option(
        _OBJECT,
        "NAME",
        "center: the middle; otsu: each image's silhouette; detector: what is found on photos; folder: --masks.",
        show_default="detector for photos, else center",
    ),
]
Masks = Annotated[
    Path | None, _option(_OBJECT, "DIR", "A mask for each image, DIR/train/CLASS/NAME.png, white on the object.")
]
ObjectDetector = Annotated[
    str | None,
    _option(_OBJECT, "NAME", "auto, yolo, mobilenet, cam, none, or a plug-in's.", show_default="auto"),
]
DetectorWeights = Annotated[Path | None, _option(_OBJECT, "FILE", "The detector's weights.")]
#: Eager, as `shape_of` leaves such options to the command line: no file that came with a project may say this.
TrustWeights = Annotated[
    bool,
    flag(
        "--trust-weights",
        help="Run the code in the detector's weights (yolo): only for a file whose maker you trust.",
        panel=_OBJECT,
        is_eager=True,
    ),
]
DetectorConfidence = Annotated[
    float | None,
    _option(_OBJECT, "P", "Least confidence of a box (yolo, mobilenet).", min=0.0, max=1.0, show_default="0.25"),
]
CamThreshold = Annotated[
    float | None,
    _option(_OBJECT, "SHARE", "Share of the map's peak that is object (cam).", min=0.0, max=0.99, show_default="0.4"),
]
Boxes = Annotated[
    Literal["all", "best"] | None,
    _option(_OBJECT, "all|best", "All boxes that agree with the class, or one.", show_default="all"),
]
Refine = Annotated[
    Literal["none", "grabcut"] | None,
    _option(_OBJECT, "none|grabcut", "Turn boxes into silhouettes.", show_default="none"),
]


@app.command(rich_help_panel="Main job")
@with_session
def attack(
    session: Session,
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO...", help="Photos, folders (searched recursively), - for stdin.")
    ],
    label: Annotated[str | None, _option(_WHAT, "NAME|INDEX", "The right class of all photos.")] = None,
    labels: Annotated[Path | None, _option(_WHAT, "FILE", "Right classes from a CSV: file, and index or name.")] = None,
    labels_from: Annotated[
        Literal["folder"] | None, _option(_WHAT, "folder", "Right classes from the names of the photos' folders.")
    ] = None,
    detector: Annotated[str, _option(_OBJECT, "NAME", "auto, yolo, mobilenet, cam, none, or a plug-in's.")] = "auto",
    detector_weights: Annotated[Path | None, _option(_OBJECT, "FILE", "The detector's weights.")] = None,
    trust_weights: TrustWeights = False,
    detector_confidence: Annotated[
        float, _option(_OBJECT, "P", "Least confidence of a box (yolo, mobilenet).", min=0.0, max=1.0)
    ] = 0.25,
    cam_threshold: Annotated[
        float, _option(_OBJECT, "SHARE", "Share of the map's peak that is object (cam).", min=0.0, max=0.99)
    ] = 0.4,
    boxes: Annotated[
        Literal["all", "best"], _option(_OBJECT, "all|best", "All boxes that agree with the class, or one.")
    ] = "all",
    refine: Annotated[
        Literal["none", "grabcut"], _option(_OBJECT, "none|grabcut", "Turn boxes into silhouettes.")
    ] = "none",
    on_miss: Annotated[
        Literal["fail", "skip", "center"], _option(_OBJECT, "fail|skip|center", "Where no object is found.")
    ] = "fail",
    box: Annotated[list[str], _option(_OBJECT, "X0,Y0,X1,Y1", "The object, in pixels; may be repeated.")] = [],  # noqa: B006 (Typer only reads it)
    mask: Annotated[
        Path | None, _option(_OBJECT, "FILE|DIR", "A mask, white on the object; a folder: one named like each photo.")
    ] = None,
    center: Annotated[
        float | None, _option(_OBJECT, "SHARE", "The middle of the photo, as a share of its sides: 0.25.")
    ] = None,
    epsilon: Epsilon = 8 / 255,
    region: Annotated[
        Literal["background", "foreground", "all", "random"],
        _option(_SEARCH, "NAME", "What may change: background, foreground, all, or random (background, moved)."),
    ] = "background",
    attack: Annotated[
        str, _option(_SEARCH, "NAME", "pgd, fgsm, apgd-ce, apgd-dlr, apgd-t, square, or a plug-in's.")
    ] = "pgd",
    steps: Annotated[int, _option(_SEARCH, "N", "Gradient steps.", min=1)] = 40,
    step_size: Annotated[
        float | None,
        _option(
            _SEARCH, "E", "First step, on epsilon's scale.", parser=parsed_by(partial(parse_epsilon, what="step size"))
        ),
    ] = None,
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], _option(_SEARCH, "NAME", "How steps shrink: constant, linear, cosine.")
    ] = "cosine",
    restarts: Annotated[int, _option(_SEARCH, "N", "Random starts, of which the worst case is kept.", min=1)] = 1,
    no_random_start: Annotated[
        bool, flag("--no-random-start", help="Start at the photo itself.", panel=_SEARCH)
    ] = False,
    objective: Annotated[
        Literal["ce", "margin"], _option(_SEARCH, "ce|margin", "Climb cross entropy or the logit margin.")
    ] = "ce",
    target: Annotated[str | None, _option(_SEARCH, "NAME|INDEX", "Push towards this class.")] = None,
    stop: Annotated[
        Literal["never", "top1", "top10"],
        _option(_SEARCH, "WHEN", "never, or as soon as the class has left the top1 or top10."),
    ] = "never",
    norm: Annotated[Literal["linf", "l2"], _option(_SEARCH, "linf|l2", "l2 needs --radius as well.")] = "linf",
    radius: Annotated[float | None, _option(_SEARCH, "R", "Radius of the l2 ball, cut with epsilon.")] = None,
    at_model_resolution: Annotated[
        bool, flag("--at-model-resolution", help="Resize the photo first, as in the paper.", panel=_SEARCH)
    ] = False,
    classifier: Annotated[
        str,
        _option(
            _MODEL,
            "NAME",
            "efficientnet_lite0, inception_v3, torchvision:NAME, timm:NAME, module:function, a training run.",
        ),
    ] = "efficientnet_lite0",
    classifier_weights: Annotated[
        Path | None, _option(_MODEL, "FILE", "Its weights: safetensors, or a PyTorch file without code.")
    ] = None,
    batch: Annotated[int, _option(WHERE, "N", "Photos attacked together.", min=1)] = 8,
    no_figures: Annotated[
        bool, flag("--no-figures", help="Do not draw the paper's Figure 1 of each photo.", panel=OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool, flag("--dry-run", help="Show object, share and cost; attack nothing.", panel=OUTPUT)
    ] = False,
    check_success: Annotated[
        bool, flag("--check-success", help="Exit code 4 unless every photo is fooled.", panel=OUTPUT)
    ] = False,
) -> int:
    """Fool a classifier by changing a photo's background alone, imperceptibly.

    The object is found; everything outside it may change by at most epsilon.
    The result is scored from the saved 8-bit file, and kept as a run.
    """
    given = dict(locals())
    from latcli.commands.attack.command import run
    from latcli.commands.attack.options import AttackOptions
    from latcli.reporting import tables

    del given["session"]
    session.trust_weights = given.pop("trust_weights")
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    result = run(AttackOptions(**given | lists), session)
    session.show(result, tables.attack)
    return result.exit_code


@app.command(rich_help_panel="Main job")
@with_session
def train(
    session: Session,
    regime: Annotated[
        Literal["natural", "standard", "background", "foreground", "random"] | None,
        _option(_LEARNT, "NAME", "natural, standard, background, foreground, random.", show_default="background"),
    ] = None,
    dataset: Annotated[
        str | None,
        _option(_LEARNT, "NAME", "mnist, fashion-mnist, cifar10, mnist-5k, folder:PATH.", show_default="mnist"),
    ] = None,
    preset: Annotated[
        Literal["quick", "standard", "paper"] | None,
        _option(_LEARNT, "NAME", "quick, standard, paper: what is not said otherwise.", show_default="standard"),
    ] = None,
    architecture: Annotated[
        str | None,
        _option(
            _LEARNT,
            "NAME",
            "paper-cnn, resnet18, or a classifier to fine-tune on photos: efficientnet_lite0, inception_v3, "
            "torchvision:NAME, timm:NAME, a plug-in's.",
            show_default="the data set's",
        ),
    ] = None,
    classifier_weights: Annotated[
        Path | None, _option(_LEARNT, "FILE", "What fine-tuning starts from: safetensors, or a PyTorch file.")
    ] = None,
    augment: Annotated[
        Literal["none", "crop-flip"] | None,
        _option(_LEARNT, "NAME", "none, crop-flip.", show_default="the data set's"),
    ] = None,
    center: Center = None,
    mask_from: MaskFrom = None,
    masks: Masks = None,
    detector: ObjectDetector = None,
    detector_weights: DetectorWeights = None,
    trust_weights: TrustWeights = False,
    detector_confidence: DetectorConfidence = None,
    cam_threshold: CamThreshold = None,
    boxes: Boxes = None,
    refine: Refine = None,
    epsilon: Annotated[
        float | None,
        _option(
            _INNER,
            "E",
            "Largest change of a pixel: 0.3 or 8/255.",
            parser=parsed_by(parse_epsilon),
            show_default="the data set's",
        ),
    ] = None,
    attack: Annotated[
        Literal["pgd", "fgsm-rs", "n-fgsm", "free"] | None,
        _option(_INNER, "NAME", "pgd, fgsm-rs, n-fgsm, free.", show_default="pgd"),
    ] = None,
    attack_steps: Annotated[
        int | None, _option(_INNER, "N", "Gradient steps of pgd, updates a minibatch of free.", min=1)
    ] = None,
    step_size: Annotated[
        float | None, _option(_INNER, "E", "Of a step, on epsilon's scale.", parser=parsed_by(parse_epsilon))
    ] = None,
    warm_up: Annotated[float | None, _option(_INNER, "SHARE", "Of the steps, while epsilon grows from 0.")] = None,
    loss: Annotated[
        Literal["ce", "trades"] | None, _option(_UPDATE, "ce|trades", "Cross entropy or TRADES.", show_default="ce")
    ] = None,
    beta: Annotated[float | None, _option(_UPDATE, "B", "Weight of TRADES' divergence.", show_default="6")] = None,
    mix: Annotated[
        float | None, _option(_UPDATE, "SHARE", "Of each minibatch stays natural.", show_default="0")
    ] = None,
    steps: Annotated[int | None, _option(_UPDATE, "N", "Minibatches in all.", min=1)] = None,
    batch: Annotated[int | None, _option(_UPDATE, "N", "Images a minibatch.", min=1)] = None,
    optimizer: Annotated[Literal["adamw", "sgd"] | None, _option(_UPDATE, "adamw|sgd", "What moves weights.")] = None,
    schedule: Annotated[
        Literal["one-cycle", "constant"] | None, _option(_UPDATE, "NAME", "Learning rate: one-cycle, constant.")
    ] = None,
    rate: Annotated[float | None, _option(_UPDATE, "R", "Peak of the learning rate.")] = None,
    weight_decay: Annotated[float | None, _option(_UPDATE, "W", "Pull of the weights towards 0.")] = None,
    average: Annotated[float | None, _option(_UPDATE, "D", "Decay of the weights' average; 0 for none.")] = None,
    devices: Annotated[
        int | None, _option(_RANKS, "N", "Processes on this machine, a GPU each.", min=1, show_default="1")
    ] = None,
    nodes: Annotated[int | None, _option(_RANKS, "M", "Machines that train together.", min=1, show_default="1")] = None,
    checkpoint_every: Annotated[
        int | None, _option(_KEPT, "N", "Steps between checkpoints.", min=1, show_default="one a minute")
    ] = None,
    resume: Annotated[
        str | None,
        _option(_KEPT, "RUN", "Go on with a run that was cut off, as it was begun.", autocompletion=complete_run),
    ] = None,
) -> None:
    """Train a classifier on images whose background is under attack: a small one, or an ImageNet one on photos.

    The paper's Algorithm 1. What is not said comes from the preset, then from the data set.
    The model is kept as a run, whose id is a classifier's name for `latcli attack`.
    """
    given = dict(locals())
    from latcli.commands.train.command import run
    from latcli.commands.train.options import TrainOptions
    from latcli.reporting import tables

    del given["session"]
    session.trust_weights = given.pop("trust_weights")
    session.show(run(TrainOptions(**given), session), tables.train)


@app.command("eval", rich_help_panel="Main job")
@with_session
def evaluate(
    session: Session,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL...]",
            help="Training runs, checkpoint files, or classifiers; without any, the latest training runs.",
            autocompletion=complete_run,
        ),
    ] = [],  # noqa: B006 (Typer only reads it)
    dataset: Annotated[
        str | None,
        _option(
            _MATRIX,
            "NAME",
            "mnist, fashion-mnist, cifar10, mnist-5k, folder:PATH.",
            show_default="that of the training run",
        ),
    ] = None,
    seeds: Annotated[
        bool, flag("--seeds", help="The latest training run of every seed: mean and spread.", panel=_MATRIX)
    ] = False,
    images: Annotated[
        int | None, _option(_MATRIX, "N", "Test images that are attacked.", min=1, show_default="1000")
    ] = None,
    controls: Annotated[
        bool, flag("--controls", help="Attack the foreground and a random region, too.", panel=_MATRIX)
    ] = False,
    center: Center = None,
    mask_from: MaskFrom = None,
    masks: Masks = None,
    detector: ObjectDetector = None,
    detector_weights: DetectorWeights = None,
    trust_weights: TrustWeights = False,
    detector_confidence: DetectorConfidence = None,
    cam_threshold: CamThreshold = None,
    boxes: Boxes = None,
    refine: Refine = None,
    classifier_weights: Annotated[
        Path | None, _option(_OBJECT, "FILE", "Of the classifier that a detector is led by, as published or in a file.")
    ] = None,
    epsilon: Annotated[
        float | None,
        _option(
            _SEARCH,
            "E",
            "Largest change of a pixel: 0.3 or 8/255.",
            parser=parsed_by(parse_epsilon),
            show_default="the data set's",
        ),
    ] = None,
    steps: Annotated[int | None, _option(_SEARCH, "N", "Gradient steps of PGD.", min=1, show_default="100")] = None,
    restarts: Annotated[
        int | None,
        _option(_SEARCH, "N", "Random starts, of which the worst case is kept.", min=1, show_default="1"),
    ] = None,
    until_wrong: Annotated[
        bool,
        flag("--until-wrong", help="Leave each image at its first wrong guess: accuracy only, soon.", panel=_SEARCH),
    ] = False,
    strong: Annotated[
        bool, flag("--strong", help="Besides, the worst case of APGD, targeted APGD and Square.", panel=_STRONG)
    ] = False,
    strong_budget: Annotated[
        Literal["quick", "full"] | None,
        _option(_STRONG, "quick|full", "full is AutoAttack's; quick is a trial.", show_default="full"),
    ] = None,
    transfer: Annotated[
        str | None,
        _option(_FURTHER, "A,B,...|all", "Try examples made on each of these models on every other."),
    ] = None,
    curve: Annotated[
        list[str],
        _option(
            _FURTHER, "AXIS=V,V,...", "Accuracy against epsilon or steps: epsilon=0.1,0.2 steps=1,10; may be repeated."
        ),
    ] = [],  # noqa: B006 (Typer only reads it)
    reliance: Annotated[
        bool,
        flag("--reliance", help="Photos: accuracy without an attack, on other photos' backgrounds.", panel=_FURTHER),
    ] = False,
    donor_seeds: Annotated[
        int | None,
        _option(_FURTHER, "N", "How often each photo gets other backgrounds (reliance).", min=1, show_default="3"),
    ] = None,
    batch: Annotated[
        int | None, _option(WHERE, "N", "Images attacked together.", min=1, show_default="16 photos, else 250")
    ] = None,
    resume: Annotated[
        str | None,
        _option(_KEPT, "RUN", "Go on with a run that was cut off, as it was begun.", autocompletion=complete_run),
    ] = None,
) -> None:
    """Show how much models lean on the background: the loss matrix of models and inputs.

    Each model is scored on natural images and under standard and background attack.
    What was found of every image is kept as a run; what makes it doubtful is told.
    """
    given = dict(locals())
    from latcli.commands.eval.command import run
    from latcli.commands.eval.options import EvalOptions
    from latcli.reporting import evaluation_report

    del given["session"]
    session.trust_weights = given.pop("trust_weights")
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    session.show(run(EvalOptions(**given | lists), session), evaluation_report.evaluation)


@app.command(rich_help_panel="Main job")
@with_session
def report(
    session: Session,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN...]", help="Ends of ids, or latest; without any, all runs.", autocompletion=complete_run
        ),
    ] = [],  # noqa: B006 (Typer only reads it)
    since: Annotated[
        str | None, _option(_CHOSEN, "DATE", "Only runs begun since then: 2026-11-22, or with a time, UTC.")
    ] = None,
    dataset: Annotated[str | None, _option(_CHOSEN, "NAME", "Only runs on this data set.")] = None,
    status: Annotated[
        str | None, _option(_CHOSEN, "NAME", "Only running, completed, failed, interrupted or crashed ones.")
    ] = None,
    best: Annotated[
        bool, flag("--best", help="Of each data set and regime only the best training run.", panel=_CHOSEN)
    ] = False,
    paper: Annotated[
        bool, flag("--paper", help="The paper's figures beside ours, with a verdict on each claim.", panel=_SHOWN)
    ] = False,
    compare: Annotated[
        bool, flag("--compare", help="What differs between two runs: --compare A B.", panel=_SHOWN)
    ] = False,
    html: Annotated[Path | None, _option(_WRITTEN, "FILE", "One page with everything in it.")] = None,
    open: Annotated[bool, flag("--open", help="Open the page in a browser.", panel=_WRITTEN)] = False,
    markdown: Annotated[Path | None, _option(_WRITTEN, "FILE", "The tables as Markdown.")] = None,
    csv: Annotated[Path | None, _option(_WRITTEN, "FILE", "A figure a line, as CSV.")] = None,
    latex: Annotated[Path | None, _option(_WRITTEN, "FILE", "The tables as LaTeX (booktabs).")] = None,
    png: Annotated[Path | None, _option(_WRITTEN, "DIR", "The matrices and all curves as PNG.")] = None,
) -> None:
    """Show what was found: loss matrices, photos, curves, beside the paper's if you like.

    Of all runs, or of those named. A later evaluation of a model replaces an earlier one, and seeds are averaged.
    A FILE of - is stdout. Runs that did not come to their end, and files that have changed, are named and left out.
    """
    given = dict(locals())
    from latcli.commands.report.compare import compare as compare_runs
    from latcli.commands.report.options import ReportOptions
    from latcli.commands.report.result import FilesWritten
    from latcli.commands.report.writing import prints_text, run
    from latcli.reporting import comparison, listing, report_terminal

    del given["session"]
    options = ReportOptions(**given | {"runs": tuple(runs)})
    if compare:
        options.check(json=session.json)
        session.show(compare_runs(options, session), comparison.comparison)
        return
    result = run(options, session)
    if not prints_text(options):
        session.show(result, listing.written if isinstance(result, FilesWritten) else report_terminal.report)


@app.command(rich_help_panel="Main job")
@with_session
def reproduce(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="figure1, table2, figure2; beyond the paper: hole, controls, masks, strong, transfer, "
            "photos-epsilon; or all.",
        ),
    ],
    budget: Annotated[
        Literal["quick", "standard", "paper"],
        _option(
            _EFFORT, "NAME", "quick: minutes, one seed; standard: hours; paper: 100,000 minibatches, days on a CPU."
        ),
    ] = "standard",
    seeds: Annotated[
        int | None,
        _option(_EFFORT, "N", "Seeds, from --seed on.", min=1, show_default="1 (quick), else 3"),
    ] = None,
    images: Annotated[
        int | None,
        _option(_EFFORT, "N", "Images that are attacked.", min=1, show_default="200 (quick), 1000, 10000 (paper)"),
    ] = None,
    steps: Annotated[
        int | None, _option(_EFFORT, "N", "Minibatches of each training.", min=1, show_default="the preset's")
    ] = None,
    attack_steps: Annotated[
        int | None,
        _option(_EFFORT, "N", "Gradient steps of scoring attacks.", min=1, show_default="100, on photos 40"),
    ] = None,
    dataset: Annotated[str, _option(_SMALL, "NAME", "mnist, cifar10, fashion-mnist, mnist-5k, folder:PATH.")] = "mnist",
    like: Annotated[
        Literal["mnist", "cifar10"] | None,
        _option(_SMALL, "NAME", "Hold the data set against the paper's figures of this one: mnist, cifar10."),
    ] = None,
    architecture: Annotated[
        str | None, _option(_SMALL, "NAME", "The network: paper-cnn, resnet18.", show_default="the data set's")
    ] = None,
    epsilon: Annotated[
        float | None,
        _option(
            _SMALL,
            "E",
            "Largest change of a pixel: 0.3 or 8/255.",
            parser=parsed_by(parse_epsilon),
            show_default="the data set's",
        ),
    ] = None,
    center: Annotated[
        float | None,
        _option(_SMALL, "SHARE", "The middle of the image, as a share of its sides.", show_default="the data set's"),
    ] = None,
    centers: Annotated[
        str | None, _option(_SMALL, "A,B,...", "Sizes of the middle that hole tries.", show_default="seven")
    ] = None,
    photos: Annotated[
        Path | None, _option(_PHOTOS, "DIR", "Photos to attack.", show_default="DATA/photos/paper9, else packages'")
    ] = None,
    labels: Annotated[
        Path | None, _option(_PHOTOS, "FILE", "Their right classes, a CSV: file, and index or name.")
    ] = None,
    classifier: Annotated[str, _option(_PHOTOS, "NAME", "The classifier that is attacked.")] = "efficientnet_lite0",
    detector: Annotated[str, _option(_PHOTOS, "NAME", "What finds the objects: cam, yolo, mobilenet, auto.")] = "cam",
    plan: Annotated[
        bool, flag("--plan", help="Show the steps, what is done, and the time; do nothing.", panel=OUTPUT)
    ] = False,
) -> None:
    """Make the paper's figures again, and ours beyond it: every run they take, then the verdicts.

    Runs what is missing, goes on with what was cut off, and leaves alone what is done.
    Each step is one attack, train or eval of its own, whose command is told.
    """
    given = dict(locals())
    from latcli.commands.reproduce.command import run
    from latcli.commands.reproduce.options import ReproduceOptions, parse_centers
    from latcli.reporting import reproduction

    del given["session"]
    given["centers"] = () if centers is None else parse_centers(centers)
    session.show(run(ReproduceOptions(**given), session), reproduction.shown)


@app.command(rich_help_panel="Main job")
@with_session
def demo(session: Session) -> int:
    """Attack, train, evaluate, report: the whole story in minutes, without a network.

    Attacks two photos that installed packages carry, trains the paper's three regimes on 5,000 embedded digits for a
    short while, shows the loss matrix, and ends with the path of a page to open.
    """
    from latcli.commands.demo import run
    from latcli.reporting import demo_report

    result = run(session)
    session.show(result, demo_report.demo)
    return result.exit_code


@app.command(rich_help_panel="Look around")
@with_session
def doctor(session: Session) -> int:
    """Show what this machine offers: device, weights, data sets, disk, database.

    Exit code 1 where something is broken; what is only missing is no failure.
    """
    from latcli.commands.doctor import examine
    from latcli.reporting import listing

    result = examine(session)
    session.show(result, listing.checks)
    return result.exit_code


@runs_app.command("list")
@with_session
def runs_list(
    session: Session,
    command: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this command.")] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only running, completed, failed, interrupted or crashed ones."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", metavar="N", min=1, help="The newest N only.")] = None,
) -> None:
    """List the runs of the store, the newest first."""
    from latcli.commands.runs import list_runs
    from latcli.reporting import listing

    session.show(list_runs(session.store, command=command, status=status, limit=limit), listing.runs)


@runs_app.command("show")
@with_session
def runs_show(session: Session, run: Run) -> None:
    """Show all that is known of one run: options, images, numbers, files."""
    from latcli.commands.runs import show_run
    from latcli.reporting import listing

    session.show(show_run(session.store, run), listing.run)


@runs_app.command("verify")
@with_session
def runs_verify(session: Session, runs: Runs = []) -> int:  # noqa: B006 (Typer only reads it)
    """Check that the files of the runs named, or of all, are as they were written, and the database with them.

    Exit code 1 where anything is wrong.
    """
    from latcli.commands.runs import verify_runs
    from latcli.reporting import listing

    result = verify_runs(session.store, runs)
    session.show(result, listing.verification)
    return result.exit_code


@runs_app.command("rm")
@with_session
def runs_rm(
    session: Session,
    runs: Runs,
    force: Annotated[bool, flag("--force", help="Also one that a machine now gone left behind as running.")] = False,
) -> None:
    """Remove runs with all their files. A run that is at work is refused."""
    from latcli.commands.runs import rm_runs
    from latcli.reporting import listing

    session.show(rm_runs(session.store, runs, force=force), listing.removal)


@runs_app.command("path")
@with_session
def runs_path(
    session: Session,
    run: Run,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="One of the run's files.")] = None,
) -> None:
    """Print the path of a run's folder, or of one of its files, for use by a shell."""
    from latcli.commands.runs import run_path

    result = run_path(session.store, run, file)
    if session.json:
        session.print_json(result.to_json())
    else:
        print(result.path, file=session.stdout)
