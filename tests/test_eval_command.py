"""`latcli eval`: which models it takes, what it keeps, what is left after kill and signals, and bad input."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunLatcli, StartLatcli
from PIL import Image
from test_train_command import document, row

from latcli.commands.eval import further as eval_further
from latcli.commands.eval.command import run
from latcli.commands.eval.further import Findings
from latcli.commands.eval.models import usual_dataset
from latcli.commands.eval.result import EvalResult, grouped
from latcli.commands.eval.samples import SAMPLES
from latcli.commands.trained import CHECKPOINT
from latcli.engine.attacks.pgd import pgd
from latcli.engine.datasets.base import DatasetSource, Images
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.evaluation.curves import accuracy_against_epsilon, accuracy_against_steps
from latcli.engine.evaluation.transfer import Contender, transfer_matrix
from latcli.engine.localize import center_mask
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.checkpoint import CheckpointInfo, pack, pack_classifier, unpack
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.small import paper_cnn
from latcli.errors import LatcliError, UsageError, WeightsError
from latcli.options import EvalOptions
from latcli.session import Session
from latcli.store.store import Store
from latcli.store.verify import verify

#: The fixture `work` puts real digits of 12 pixels a side at this name, 10 for testing of each of three classes.
TINY = "folder:tiny"
QUICK = {"dataset": TINY, "images": 12, "steps": 3, "batch": 6}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run."""
    digits = open_dataset("mnist-5k", DatasetSource(tmp_path))
    parts = {"train": (digits.x_train, digits.y_train, 2), "test": (digits.x_test, digits.y_test, 10)}
    folder = tmp_path / "work"
    for split, (x_NCHW, y_N, count) in parts.items():
        for digit in range(3):
            place = folder / "tiny" / split / str(digit)
            place.mkdir(parents=True)
            for index, x_CHW in enumerate(x_NCHW[y_N == digit][:count]):
                Image.fromarray(x_CHW[0].numpy()).resize((12, 12)).save(place / f"{index}.png")
    monkeypatch.chdir(folder)
    return folder


def checkpoint_bytes(regime: str, seed: int, **changes: Any) -> bytes:
    data = open_dataset(TINY, DatasetSource(Path()))
    about: dict[str, Any] = {"image_shape": data.image_shape, "class_names": data.class_names, "dataset": data.name}
    about |= changes
    torch.manual_seed(seed + 100 * len(regime))
    net = paper_cnn(about["image_shape"], len(about["class_names"]))
    fixed = {"architecture": "paper-cnn", "dataset_fingerprint": data.fingerprint, "epsilon": 0.3, "steps": 1}
    return pack_classifier(net.state_dict(), CheckpointInfo(**fixed, regime=regime, **about))


def trained(work: Path, regime: str, seed: int = 0, *, told: str = "", completed: bool = True, **changes: Any) -> str:
    """A training run as `latcli train` leaves it, with weights of chance; its id."""
    data = open_dataset(TINY, DatasetSource(Path()))
    config: dict[str, object] = {"dataset": TINY, "regime": regime, "seed": seed, "told": told}
    with Store.open(work / "runs") as store:
        dataset = store.record_dataset(data.name, fingerprint=data.fingerprint)
        try:
            with store.start_run("train", argv=[], config=config, seed=seed, device="cpu", dataset=dataset) as stored:
                stored.write_artifact(CHECKPOINT, checkpoint_bytes(regime, seed, **changes), "checkpoint")
                if not completed:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        return stored.id


def evaluate(work: Path, *models: str, seed: int = 0, **options: Any) -> tuple[EvalResult, str]:
    """The result and what was said on stderr."""
    said = io.StringIO()
    session = Session(store=work / "runs", data=work / "data", offline=True, precision="fp32", seed=seed, stderr=said)
    return run(EvalOptions(models=models, **QUICK | options), session), said.getvalue()


def evaluations(work: Path) -> list[Path]:
    return sorted((work / "runs").glob("*-eval-*"))


def without_times(cells: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]


# a whole run


def test_a_run_gives_its_document_cells_and_samples(run_latcli: RunLatcli, work: Path) -> None:
    natural, background = trained(work, "natural"), trained(work, "background", seed=4)
    options = ("--images", "9", "--steps", "2", "--controls", "--strong", "--strong-budget", "quick", "--json")
    done = run_latcli("eval", *options, "--epsilon", "0.1", "--seed", "3")
    result = document(done)

    assert (result["dataset"], result["n"]) == (TINY, 9)
    assert f"natural: training run {natural}" in done.stderr
    assert [entry["name"] for entry in result["models"]] == [natural, background]
    columns = ["natural", "standard", "background", "foreground", "random", "standard-strong", "background-strong"]
    assert [(cell["regime"], cell["input"]) for cell in result["cells"]] == [
        (regime, name) for regime in ("natural", "background") for name in columns
    ]
    standard = result["cells"][1]
    assert {
        "n": 9,
        "epsilon": 0.1,
        "steps": 2,
        "seed": 3,
        "train_seed": 0,
        "model": natural,
    }.items() <= standard.items()
    assert result["cells"][0]["n"] == 30
    assert json.loads((Path(result["dir"]) / "matrix.json").read_text()) == result

    assert row(work, "SELECT command, status, seed FROM runs ORDER BY started DESC LIMIT 1") == ("eval", "completed", 3)
    query = "SELECT loss, accuracy, attack, restarts, mask_from, models.run FROM cells JOIN models ON models.id = model"
    found = row(work, f"{query} WHERE input = 'standard' AND cells.regime = 'natural'")
    assert found[:5] == (standard["loss"], standard["accuracy"], "pgd", 1, "center")
    assert row(work, "SELECT count(*) FROM cells") == (14,)
    with Store.open_existing(work / "runs") as store:
        assert verify(store, [store.find_run(result["run"])]).ok

    tensors, _ = unpack(Path(result["dir"]) / "samples.safetensors", "evaluation")
    assert tensors["0.standard.loss"].double().mean().item() == standard["loss"]
    assert tensors["0.standard.right"].double().mean().item() == standard["accuracy"]


def test_without_json_the_matrix_is_drawn(run_latcli: RunLatcli, work: Path) -> None:
    run_id = trained(work, "natural")
    done = run_latcli(
        "eval", run_id[-4:], "--images", "6", "--steps", "1", "--dataset", TINY, "--until-wrong", "--curve", "steps=1,2"
    )

    assert done.returncode == 0, done.stderr
    assert "Loss matrix on folder:tiny" in done.stdout
    assert f"natural {run_id[-4:]}" in done.stdout
    assert "until the first wrong guess" in done.stdout
    assert "Accuracy in % against steps, background, n = 6" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("run ")
    assert "standard: accuracy" in done.stderr


# beside the matrix


def by_hand(name: str, result: EvalResult, epsilon: float) -> list[tuple[Images, torch.Tensor]]:
    """The attacked images in one batch, with the epsilon matrix of an input."""
    data = open_dataset(TINY, DatasetSource(Path()))
    chosen = torch.arange(result.n) * 30 // result.n
    (images,) = data.testing([chosen])
    object_1HW = center_mask((12, 12), result.settings.center)
    mask_B1HW = object_1HW.expand(len(chosen), -1, -1, -1) if name == "background" else torch.zeros(12, 1, 12, 12)
    return [(images, epsilon * (1 - mask_B1HW))]


def networks(result: EvalResult) -> dict[str, Classifier]:
    return {one.id: open_classifier(one.source, ClassifierSource(), torch.device("cpu")) for one in result.models}


def test_transfer_is_each_models_examples_on_every_model(work: Path) -> None:
    trained(work, "natural")
    trained(work, "background", seed=2)
    result, said = evaluate(work, transfer="all", seed=5)

    assert "transfer" in said
    assert json.loads((result.dir / "matrix.json").read_text())["transfer"] == result.to_json()["transfer"]
    nets = networks(result)
    contenders = [Contender(model, net, net) for model, net in nets.items()]
    expected = {
        (name, cell.source, cell.target): cell
        for name in ("standard", "background")
        for cell in transfer_matrix(contenders, by_hand(name, result, 0.3), pgd, result.settings.attack(), 5)
    }
    assert [(one.input, one.source, one.target) for one in result.transfer] == list(expected)
    for one in result.transfer:
        cell = expected[one.input, one.source, one.target]
        assert (one.n, one.accuracy) == (12, cell.accuracy)
        # Batches of 6 here, of 12 there: float32 logits differ in their last digits, and so may an iterate.
        assert one.loss == pytest.approx(cell.loss, rel=1e-4)
    losses = {one.loss for one in result.transfer}
    assert len(losses) == 10  # what they are without an attack stands under either input


def test_curves_are_those_of_the_matrix_attack_inside_each_inputs_region(work: Path) -> None:
    trained(work, "natural")
    result, _ = evaluate(work, curve=("steps=1,4", "epsilon=0.02,8/255,0.3"))

    assert [(one.input, one.axis) for one in result.curves] == [
        (name, axis) for name in ("standard", "background") for axis in ("epsilon", "steps")
    ]
    ((model, net),) = networks(result).items()
    told = (result.settings.attack(), 0)
    for one in result.curves:
        if one.axis == "epsilon":
            values: tuple[float, ...] = (0.02, 8 / 255, 0.3)
            curve = accuracy_against_epsilon(pgd, net, net, by_hand(one.input, result, 1.0), values, *told)
        else:
            curve = accuracy_against_steps(pgd, net, net, by_hand(one.input, result, 0.3), (1, 4), *told)
        assert (one.model, one.points) == (model, curve.points)
    assert result.to_json()["curves"][0]["points"][2]["value"] == 8 / 255


def test_transfer_between_listed_models_leaves_the_others_out(work: Path) -> None:
    one, two, three = (trained(work, regime) for regime in ("natural", "standard", "background"))
    result, _ = evaluate(work, one[-4:], transfer=f"{two[-4:]}, {three[-4:]},{two[-4:]}")

    assert [entry.name for entry in result.models] == [one, two, three]
    ids = [entry.id for entry in result.models]
    assert {row.source for row in result.transfer} == {None, *ids[1:]}
    assert {row.target for row in result.transfer} == set(ids[1:])

    alone, _ = evaluate(work, transfer=f"{two[-4:]},{three[-4:]}")
    assert [entry.name for entry in alone.models] == [two, three]
    assert alone.transfer == result.transfer


def test_what_was_cut_off_beside_the_matrix_goes_on_where_it_was(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(work, "natural")
    trained(work, "background")
    options: dict[str, Any] = {"transfer": "all", "curve": ("epsilon=0.1,0.2", "steps=1,2")}
    whole, _ = evaluate(work, **options)

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(eval_further, "accuracy_against_steps", stop)
        with pytest.raises(StopError):
            evaluate(work, **options)
    (run_id,) = {path.name for path in evaluations(work)} - {whole.run}
    with Store.open_existing(work / "runs") as store:
        assert store.rows_of(run_id, "cells") == []
    with pytest.raises(UsageError, match=r"different options: .*--transfer a,b \(was all\), --curve .*steps=1"):
        resume(work, run_id, transfer="a,b", curve=("steps=1",))

    measured: list[str] = []
    for name in ("transfer_matrix", "accuracy_against_epsilon", "accuracy_against_steps"):
        monkeypatch.setattr(eval_further, name, noting(measured, getattr(eval_further, name)))
    said = io.StringIO()
    result = resume(work, run_id, said=said)
    assert (result.transfer, result.curves) == (whole.transfer, whole.curves)
    assert Counter(measured) == {"accuracy_against_epsilon": 3, "accuracy_against_steps": 4}
    assert "resumed with 48 of 48 attacked images done" in said.getvalue()


def noting(measured: list[str], measure: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*given: Any) -> Any:
        measured.append(measure.__name__)
        return measure(*given)

    return noted


def test_findings_of_another_version_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(work, "natural")
    options: dict[str, Any] = {"curve": ("steps=1,2",)}

    def stop(_: Findings) -> None:
        raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(Findings, "curves", stop)
        with pytest.raises(StopError):
            evaluate(work, **options)
    (path,) = evaluations(work)
    tensors, description = unpack(path / SAMPLES, "evaluation")
    for damaged in ({"curve steps": [{"model": "a"}]}, {"curve steps": 3}, ["curve"], None):
        told = {"settings": description["settings"], "findings": damaged}
        (path / SAMPLES).write_bytes(pack("evaluation", tensors, told))
        with pytest.raises(WeightsError, match=r"does not fit the evaluation|keeps no curve that can be read"):
            resume(work, path.name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("a",), "transfer": "all"}, "--transfer needs two models"),
        ({"transfer": "a"}, "--transfer needs two models"),
        ({"transfer": "a,,a "}, "--transfer needs two models"),
        ({"transfer": " "}, "--transfer names no models"),
        ({"transfer": "a,b", "seeds": True}, "--seeds chooses training runs by itself"),
        ({"curve": ("width=1",)}, "there is no curve 'width=1'"),
        ({"curve": ("epsilon",)}, "epsilon '' is not a number"),
        ({"curve": ("epsilon=0.1,2",)}, "epsilon '2' is not over 0 and at most 1"),
        ({"curve": ("steps=1,2.5",)}, "'2.5' is no number of steps"),
        ({"curve": ("steps=0,5",)}, "are not ascending and above 0"),
        ({"curve": ("epsilon=0.2,0.1",)}, "are not ascending and above 0"),
        ({"curve": ("steps=1", "steps=5")}, "two curves against steps"),
    ],
)
def test_what_nothing_can_be_measured_of_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        EvalOptions(**options)
    assert caught.value.hint


def test_what_models_or_data_do_not_give_is_refused_before_a_run_is_begun(work: Path) -> None:
    trained(work, "natural")
    with pytest.raises(UsageError, match="--transfer needs two models"):
        evaluate(work, transfer="all")
    with pytest.raises(UsageError, match="--reliance needs photos, which folder:tiny has none of"):
        evaluate(work, reliance=True)
    assert evaluations(work) == []


# which models


def test_without_names_the_latest_completed_run_of_each_regime(work: Path) -> None:
    trained(work, "natural", seed=1)
    latest = [trained(work, "natural", seed=2), trained(work, "standard"), trained(work, "background")]
    trained(work, "standard", seed=9, completed=False)
    trained(work, "foreground")

    result, said = evaluate(work, dataset=None)

    assert [entry.name for entry in result.models] == latest
    assert all(name in said for name in latest)
    assert result.groups == ()


def test_seeds_take_every_seed_of_the_latest_experiment(work: Path) -> None:
    trained(work, "natural", seed=3, told="otherwise")
    trained(work, "natural", seed=1)
    second, first = trained(work, "natural", seed=2), trained(work, "natural", seed=1)
    result, _ = evaluate(work, seeds=True)

    assert [(entry.name, entry.train_seed) for entry in result.models] == [(first, 1), (second, 2)]
    assert [group.models for group in result.groups] == [2, 2, 2]


def test_groups_are_mean_and_sample_deviation(work: Path) -> None:
    for seed in (1, 2, 5):
        trained(work, "standard", seed=seed)
    result, said = evaluate(work, seeds=True)

    assert "natural: no training run of folder:tiny is completed" in said
    assert "12 of 30 images attacked" in said
    losses = [cell.loss for cell in result.cells if cell.input == "background" and cell.loss is not None]
    mean = sum(losses) / 3
    (group,) = [group for group in result.groups if group.input == "background"]
    assert len(set(losses)) == 3
    assert group.models == 3
    assert group.loss == pytest.approx(mean)
    assert group.loss_spread == pytest.approx((sum((loss - mean) ** 2 for loss in losses) / 2) ** 0.5)
    assert grouped(result.cells[:1])[0].loss_spread is None


def test_a_checkpoint_and_a_module_are_models_and_one_named_twice_is_evaluated_once(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = trained(work, "natural")
    path = work / "runs" / run_id / CHECKPOINT
    (work / "eval_victims.py").write_text(VICTIMS)
    monkeypatch.syspath_prepend(work)
    result, said = evaluate(work, run_id[-4:], str(path), "eval_victims:honest")

    assert [entry.name for entry in result.models] == [run_id, "eval_victims:honest"]
    assert "is evaluated once" in said
    assert [entry.regime for entry in result.models] == ["natural", None]
    assert result.warnings == ()


VICTIMS = """
import torch
from torch import nn
from latcli.engine.models.preprocessing import Preprocessing

class Net(nn.Module):
    preprocessing = Preprocessing(12, 12, "bilinear")

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(3 * 144, 3)
        generator = torch.Generator().manual_seed(1)
        self.linear.weight.data = torch.randn(3, 432, generator=generator) * 0.1

    def forward(self, x):
        logits = self.linear((x * 3).round().flatten(1) / 3 if self.kind == "quantized" else x.flatten(1))
        if self.kind == "nan":
            return logits * torch.where(x.mean() > 0, torch.nan, 1.0)
        if self.kind == "random":
            return logits + torch.randn_like(logits)
        return logits.softmax(dim=1) if self.kind == "softmax" else logits

def honest():
    return Net("honest")
def quantized():
    return Net("quantized")
def softmax():
    return Net("softmax")
def random():
    return Net("random")
def nan():
    return Net("nan")
"""


@pytest.fixture
def victims(work: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (work / "eval_victims.py").write_text(VICTIMS)
    monkeypatch.syspath_prepend(work)
    return "eval_victims"


@pytest.mark.parametrize(
    ("name", "check"),
    [("quantized", "vanishing-gradients"), ("softmax", "probabilities"), ("random", "random-model")],
)
def test_what_is_doubtful_is_told_logged_and_recorded(work: Path, victims: str, name: str, check: str) -> None:
    result, said = evaluate(work, f"{victims}:{name}")

    assert check in [warned["check"] for warned in result.to_json()["warnings"]]
    assert f"warning: {victims}:{name}" in said
    assert f"warning: {victims}:{name}" in (result.dir / "log.txt").read_text()


# cut off and taken up again


@pytest.fixture
def start(start_latcli: StartLatcli, work: Path) -> StartLatcli:
    """`start_latcli`, once the data is in its place."""
    return start_latcli


def wait_for_samples(process: subprocess.Popen[str], work: Path) -> Path:
    """Until something is kept; the run's folder."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list((work / "runs").glob("*-eval-*/samples.safetensors"))
        if found:
            return found[0].parent
        time.sleep(0.02)
    raise AssertionError(f"nothing was kept: {process.communicate() if process.poll() is not None else 'too slow'}")


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (signal.SIGKILL, -9, "crashed"),
        pytest.param(signal.SIGTERM, 143, "interrupted", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_cut_off_ends_with_the_same_cells(
    run_latcli: RunLatcli,
    start: StartLatcli,
    work: Path,
    number: signal.Signals,
    code: int,
    status: str,
) -> None:
    trained(work, "background")
    arguments = ("eval", "--images", "30", "--steps", "40", "--batch", "2", "--precision", "fp32")
    process = start(*arguments)
    cut_off = wait_for_samples(process, work)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    with Store.open_existing(work / "runs") as store:
        assert store.find_run(cut_off.name).status == status
        assert store.rows_of(cut_off.name, "cells") == []

    resumed = run_latcli("eval", "--resume", cut_off.name[-4:], "--json")
    result = document(resumed)
    whole, _ = evaluate(work, dataset=None, images=30, steps=40, batch=2)

    done = int(resumed.stderr.partition("resumed with ")[2].split()[0])
    assert 0 <= done < 60
    assert result["run"] == cut_off.name != whole.run
    assert without_times(result["cells"]) == without_times(whole.to_json()["cells"])
    with Store.open_existing(work / "runs") as store:
        assert len(store.rows_of(cut_off.name, "cells")) == 3
        assert verify(store, [store.find_run(cut_off.name)]).ok


class StopError(Exception):
    pass


def cut_off(work: Path, monkeypatch: pytest.MonkeyPatch, *models: str, **options: Any) -> str:
    """The id of an evaluation that ended after its eighth batch."""
    from latcli.commands.eval import monitor as eval_monitor

    batches = 0
    after_batch = eval_monitor.Monitor.after_batch

    def stop(monitor: Any, progress: Any) -> None:
        nonlocal batches
        after_batch(monitor, progress)
        batches += 1
        if batches == 8:
            raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(eval_monitor.Monitor, "after_batch", stop)
        with pytest.raises(StopError):
            evaluate(work, *models, **options)
    return evaluations(work)[-1].name


def resume(work: Path, run_id: str, seed: int = 0, said: io.StringIO | None = None, **options: Any) -> EvalResult:
    stderr = said or io.StringIO()
    session = Session(store=work / "runs", data=work / "data", offline=True, seed=seed, stderr=stderr)
    return run(EvalOptions(resume=run_id, **options), session)


def test_a_strong_evaluation_goes_on_with_the_models_it_was_begun_with(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(work, "natural")
    options = {"strong": True, "strong_budget": "quick", "controls": True}
    run_id = cut_off(work, monkeypatch, **options)
    whole, _ = evaluate(work, **options)
    trained(work, "natural", seed=7)  # the latest one now

    said = io.StringIO()
    result = resume(work, run_id, said=said)

    assert "resumed with 18 of 72 attacked images done" in said.getvalue()  # five of the eight batches were natural
    assert [entry.name for entry in result.models] == [entry.name for entry in whole.models]
    assert without_times(result.to_json()["cells"]) == without_times(whole.to_json()["cells"])


def test_what_cannot_be_resumed_is_refused_with_the_reason(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_id = trained(work, "natural")
    run_id = cut_off(work, monkeypatch)

    with pytest.raises(UsageError, match=r"started with different options: .*--steps 9 \(was 3\).*--seed 5 \(was 0\)"):
        resume(work, run_id, steps=9, seed=5)
    with pytest.raises(UsageError, match=r"--strong full \(was None\)"):
        resume(work, run_id, strong=True)
    with pytest.raises(UsageError, match="is a run of train, not of eval"):
        resume(work, train_id)
    samples = work / "runs" / run_id / "samples.safetensors"
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-9])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        resume(work, run_id)
    samples.write_bytes(whole)
    checkpoint = work / "runs" / train_id / CHECKPOINT
    original = checkpoint.read_bytes()
    checkpoint.write_bytes(checkpoint_bytes("natural", 8))
    with pytest.raises(WeightsError, match="are not those that the evaluation was begun with"):
        resume(work, run_id)
    checkpoint.write_bytes(original)
    digit = next((work / "tiny" / "test" / "0").iterdir())
    pixels = digit.read_bytes()
    Image.new("L", (12, 12)).save(digit)
    with pytest.raises(WeightsError, match="is not the one that"):
        resume(work, run_id)
    digit.write_bytes(pixels)
    assert resume(work, run_id, steps=3).run == run_id
    with pytest.raises(UsageError, match="is already completed"):
        resume(work, run_id)


# bad input


def test_an_empty_store_says_what_to_train(work: Path) -> None:
    with pytest.raises(UsageError, match=r"no training run of folder:tiny in .* is completed") as caught:
        evaluate(work)
    assert "latcli train --dataset folder:tiny --regime natural" in caught.value.hint
    assert evaluations(work) == []


def test_a_model_whose_classes_or_images_do_not_fit_is_refused(work: Path, victims: str) -> None:
    with pytest.raises(UsageError, match="efficientnet_lite0 has 1,000 classes, and folder:tiny has 3"):
        evaluate(work, "efficientnet_lite0")
    other = work / "other.safetensors"
    for changes, said in (
        ({"class_names": ("a", "b", "c")}, "was trained on .*, whose classes or image size are not"),
        ({"class_names": ("2", "1", "0")}, "in another order"),
        ({"class_names": ("0", "1")}, "has 2 classes"),
        ({"image_shape": (1, 16, 16)}, "does not take images of 1x12x12"),
    ):
        other.write_bytes(checkpoint_bytes("natural", 0, **changes))
        with pytest.raises(UsageError, match=said):
            evaluate(work, str(other))
    with pytest.raises(LatcliError, match=f"{victims}:nan returns NaN"):
        evaluate(work, f"{victims}:nan")
    assert evaluations(work) == []


def test_an_id_that_fits_two_runs_is_refused(work: Path) -> None:
    run_id = trained(work, "natural")
    twin = f"20200101-000000-train-{run_id[-4:]}"
    with Store.open(work / "runs") as store, store.writing() as db:
        one = dict(next(iter(db.query("SELECT * FROM runs WHERE id = ?", [run_id]))))
        db.table("runs").insert(one | {"id": twin, "folder": twin})
    with pytest.raises(UsageError, match=f"'{run_id[-4:]}' fits 2 runs"):
        evaluate(work, run_id[-4:])


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="--seeds chooses training runs by itself"):
        EvalOptions(models=("a",), seeds=True)
    with pytest.raises(UsageError, match="of no use without --strong"):
        EvalOptions(strong_budget="quick")


def test_named_runs_bring_their_data_set(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(work, "natural")
    with Store.open(work / "runs") as store:
        config: dict[str, object] = {"dataset": "folder:another", "regime": "natural", "seed": 0}
        with store.start_run("train", argv=[], config=config, seed=0, device="cpu"):
            pass
        assert usual_dataset(store, ()) == "folder:another"
        assert usual_dataset(store, (first,)) == usual_dataset(store, ("resnet18", first[-4:])) == TINY
        with pytest.raises(UsageError, match="no run"):
            usual_dataset(store, ("0000",))
    result, _ = evaluate(work, first, dataset=None)
    assert result.dataset == TINY
