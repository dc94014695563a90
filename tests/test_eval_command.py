"""`latcli eval`: which models it takes, what it keeps, how it is resumed, and what it refuses before any work."""

import dataclasses
import importlib
import io
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from PIL import Image
from training_cases import write_digits

from latcli.commands.classifiers import CHECKPOINT
from latcli.commands.evaluate import SAMPLES, Findings, run
from latcli.commands.runs import verify
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.datasets.base import DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.evaluation import beyond
from latcli.engine.evaluation.beyond import fell_at, points_of, transfer_matrix
from latcli.engine.evaluation.matrix import Subject
from latcli.engine.evaluation.statistics import mcnemar_p_value, wilson_interval
from latcli.engine.localize import center_mask
from latcli.engine.models.catalog import CheckpointInfo, open_classifier, pack_classifier
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.models.small import PaperCNN
from latcli.engine.models.weights import unpack
from latcli.errors import LatcliError, UsageError, WeightsError
from latcli.options import EvalOptions
from latcli.results import Cell, EvalResult, from_columns, read, to_json
from latcli.session import Session
from latcli.store.store import Store

#: The fixture `work` puts real digits of 12 pixels a side at this name, 10 for testing of each of three classes.
TINY = "folder:tiny"
QUICK = {"dataset": TINY, "images": 12, "steps": 3, "batch": 6}
PLAIN_PGD = AttackSettings(steps=3, schedule="constant")
INPUTS = ("standard", "background")

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
        self.linear.bias.data.zero_()

    def forward(self, x):
        logits = self.linear((x * 3).round().flatten(1) / 3 if self.kind == "quantized" else x.flatten(1))
        if self.kind == "nan":
            return logits * torch.where(x.mean() > 0, torch.nan, 1.0)
        if self.kind == "random":
            return logits + torch.randn_like(logits)
        return logits.softmax(dim=1) if self.kind == "softmax" else logits

for _kind in ("honest", "quantized", "softmax", "random", "nan"):
    globals()[_kind] = lambda kind=_kind: Net(kind)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The digits and a module of networks, made once; nobody writes there."""
    return write_digits(tmp_path_factory.mktemp("tiny"), train=2)


@pytest.fixture
def work(work, tiny, monkeypatch):
    (work / "tiny").symlink_to(tiny)
    (work / "eval_victims.py").write_text(VICTIMS)
    monkeypatch.syspath_prepend(work)
    return work


def checkpoint_bytes(regime, seed, turned=False, **changes):
    """A network of chance; `turned` has its logits in the opposite order."""
    data = open_dataset(TINY, DatasetSource(Path()))
    about = {"image_shape": data.image_shape, "class_names": data.class_names, "dataset": data.name}
    about |= changes
    torch.manual_seed(seed + 100 * len(regime))
    net = PaperCNN(about["image_shape"], len(about["class_names"]))
    if turned:
        head = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]
        head.weight.data, head.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)
    fixed = {"architecture": "paper-cnn", "dataset_fingerprint": data.fingerprint, "epsilon": 0.3, "steps": 1}
    return pack_classifier(net.state_dict(), CheckpointInfo(**fixed, regime=regime, **about))


def trained(work, regime, seed=0, *, rate=0.1, completed=True):
    """A training run as `latcli train` leaves it, with weights of chance; its id."""
    data = open_dataset(TINY, DatasetSource(Path()))
    config = {"dataset": TINY, "regime": regime, "seed": seed, "rate": rate}
    with Store.open(work / "runs") as store:
        dataset = store.record_dataset(data.name, fingerprint=data.fingerprint)
        try:
            with store.start_run("train", argv=[], config=config, seed=seed, device="cpu", dataset=dataset) as stored:
                stored.write_artifact(CHECKPOINT, checkpoint_bytes(regime, seed), "checkpoint")
                if not completed:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        return stored.id


def session_of(work, stderr=None, **more):
    given = {"store": work / "runs", "data": work / "data", "offline": True, "precision": "fp32"} | more
    return Session(stderr=stderr or io.StringIO(), **given)


def evaluate(work, *models, seed=0, stderr=None, **options):
    """The result and what was written on stderr."""
    stderr = stderr or io.StringIO()
    return run(EvalOptions(models=models, **QUICK | options), session_of(work, stderr, seed=seed)), stderr.getvalue()


def resume(work, run_id, *models, stderr=None, **more):
    options = {name: more.pop(name) for name in tuple(more) if name in EvalOptions.__dataclass_fields__}
    return run(EvalOptions(models=models, resume=run_id, **options), session_of(work, stderr, **more))


def evaluations(work):
    return sorted(path.name for path in (work / "runs").glob("*-eval-*"))


def without_times(cells):
    return [dataclasses.replace(cell, seconds=0.0) for cell in cells]


def cut_off(work, monkeypatch, *models, batches=8, **options):
    """The id of an evaluation that was interrupted after so many batches."""
    before, left, keep = evaluations(work), iter(range(batches)), Findings.keep

    def stop(findings, stored, *, soon=False):
        keep(findings, stored, soon=soon)
        if soon and next(left) == batches - 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Findings, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(work, *models, **options)
    (run_id,) = set(evaluations(work)) - set(before)
    return run_id


# a whole run


def test_a_run_gives_its_document_cells_and_samples(latcli, work):
    natural, background = trained(work, "natural"), trained(work, "background", seed=4)
    options = ("--images", "9", "--steps", "2", "--controls", "--strong", "--strong-budget", "quick", "--json")
    done = latcli("eval", *options, "--epsilon", "0.1", "--seed", "3")
    document = done.json
    result = read(EvalResult, document)
    assert (result.dataset, result.n, result.attack) == (f"folder:{work / 'tiny'}", 9, "pgd-2, 1 random start")
    assert f"natural: training run {natural}" in done.err
    assert [entry.name for entry in result.models] == [natural, background]
    columns = ["natural", "natural-attacked", "standard", "background", "foreground", "random"]
    columns += ["standard-strong", "background-strong"]
    expected = [(regime, name) for regime in ("natural", "background") for name in columns]
    assert [(cell.regime, cell.input) for cell in result.cells] == expected
    assert [cell.n for cell in result.cells[:3]] == [30, 9, 9]
    standard = result.cells[2]
    about = (standard.model, standard.train_seed, standard.epsilon, standard.steps, standard.seed, standard.attack)
    assert about == (natural, 0, 0.1, 2, 3, "pgd")
    assert (standard.norm, standard.radius, standard.mask_from) == ("linf", None, "center")
    assert (result.cells[0].epsilon, result.cells[1].attack) == (None, None)
    assert json.loads((result.dir / "matrix.json").read_text()) == document
    assert read(EvalResult, json.dumps(to_json(result))) == result
    with Store.open_existing(work / "runs") as store:
        row = store.find_run(result.run)
        assert (row.command, row.status, row.seed) == ("eval", "completed", 3)
        assert tuple(from_columns(Cell, one) for one in store.rows_of(result.run, "cells")) == result.cells
        assert verify(store, [row]).ok
    tensors, _ = unpack(result.dir / SAMPLES, "evaluation")
    assert tensors["0.standard.loss_N"].mean().item() == standard.loss
    assert tensors["0.standard.right_N"].double().mean().item() == standard.accuracy


def test_cells_have_intervals_and_models_are_compared_on_the_same_images(work):
    trained(work, "natural")
    trained(work, "background", seed=2)
    result, _ = evaluate(work)
    tensors, _ = unpack(result.dir / SAMPLES, "evaluation")
    for cell in result.cells:
        right = round(cell.accuracy * cell.n)
        assert (cell.accuracy_low, cell.accuracy_high) == wilson_interval(right, cell.n)
        assert None not in (cell.loss_low, cell.loss, cell.loss_high)
        assert cell.loss_low < cell.loss < cell.loss_high
    by_input = {one.input: one for one in result.comparisons}
    assert list(by_input) == ["natural", "natural-attacked", *INPUTS]
    ids = [entry.id for entry in result.models]
    for name in INPUTS:
        one, (a, b) = by_input[name], (tensors[f"{model}.{name}.right_N"] == 1 for model in (0, 1))
        assert [one.a, one.b, one.n, one.only_a, one.only_b] == [*ids, 12, int((a & ~b).sum()), int((b & ~a).sum())]
        assert one.p_value == mcnemar_p_value(one.only_a, one.only_b)
        losses = [tensors[f"{model}.{name}.loss_N"].mean() for model in (0, 1)]
        assert one.loss_difference == pytest.approx(float(losses[0] - losses[1]))
    # The attacked images' own natural figures: what the attack is to be compared with.
    natural, chosen = tensors["0.natural.right_N"], tensors["chosen"]
    (attacked,) = [c for c in result.cells if c.input == "natural-attacked" and c.model_id == ids[0]]
    assert attacked.accuracy == (natural[chosen] == 1).double().mean()
    whole, _ = evaluate(work, images=30, steps=1)
    assert "natural-attacked" not in {cell.input for cell in whole.cells}


def test_any_attack_and_norm_can_be_chosen(work):
    trained(work, "natural")
    usual = {cell.input: cell for cell in evaluate(work)[0].cells}
    other, _ = evaluate(work, attack="mi-fgsm", norm="l2", radius=0.3)
    assert other.attack == "mi-fgsm-3, l2 radius 0.3"
    for cell in other.cells[2:]:
        assert (cell.attack, cell.norm, cell.radius) == ("mi-fgsm", "l2", 0.3)
        assert usual["natural"].loss < cell.loss < usual[cell.input].loss
    for attack in ("square", "apgd-ce"):  # they know no ball, which shows before a run is started
        before = evaluations(work)
        with pytest.raises(UsageError, match="does not support --norm l2"):
            evaluate(work, attack=attack, norm="l2", radius=0.3)
        assert evaluations(work) == before


# beside the matrix


def by_hand(name, result, epsilon):
    """The attacked images in one batch, with the epsilon matrix of an input."""
    (images,) = open_dataset(TINY, DatasetSource(Path())).testing([torch.arange(12) * 30 // 12])
    object_1HW = center_mask((12, 12), result.settings["center"]) if name == "background" else torch.zeros(1, 12, 12)
    return [(images, epsilon * (1 - object_1HW.expand(12, -1, -1, -1)))]


def networks(result):
    return {one.id: open_classifier(one.source, ClassifierSource(), torch.device("cpu")) for one in result.models}


def test_transfer_and_curves_are_those_of_the_matrix_attack_inside_each_inputs_region(work):
    trained(work, "natural")
    trained(work, "background", seed=2)
    result, _ = evaluate(work, transfer="all", curve=("steps=1,4", "epsilon=0.02,8/255,0.3"), seed=5)
    subjects = [Subject(model, net, net) for model, net in networks(result).items()]
    cells = [
        cell
        for name in INPUTS
        for cell in transfer_matrix(subjects, name, by_hand(name, result, 0.3), pgd, PLAIN_PGD, 5)
    ]
    # Batches of 6 here, of 12 there: float32 logits differ in their last digits, and so may an iterate.
    expected = [dataclasses.replace(cell, loss=pytest.approx(cell.loss, rel=1e-4)) for cell in cells]
    assert list(result.transfer) == expected
    assert len({one.loss for one in result.transfer}) == 10  # without an attack they are the same under either input
    order = [(one.name, name, axis) for one in subjects for name in INPUTS for axis in ("epsilon", "steps")]
    assert [(one.model, one.input, one.axis) for one in result.curves] == order
    for one in result.curves:
        net = networks(result)[one.model]
        values, epsilon = ((0.02, 8 / 255, 0.3), 1.0) if one.axis == "epsilon" else ((1, 4), 0.3)
        fell = fell_at(one.axis, values, pgd, net, net, by_hand(one.input, result, epsilon), PLAIN_PGD, 5)
        assert one.points == points_of(values, fell)


def test_transfer_between_listed_models_leaves_the_others_out(work):
    one, two, three = (trained(work, regime) for regime in ("natural", "standard", "background"))
    result, _ = evaluate(work, one[-4:], transfer=f"{two[-4:]}, {three[-4:]},{two[-4:]}")
    assert [entry.name for entry in result.models] == [one, two, three]
    ids = [entry.id for entry in result.models]
    assert {row.source for row in result.transfer} == {None, *ids[1:]}
    assert {row.target for row in result.transfer} == set(ids[1:])


def test_what_was_cut_off_beside_the_matrix_goes_on_where_it_was(work, monkeypatch):
    trained(work, "natural")
    trained(work, "background")
    options = {"transfer": "all", "curve": ("epsilon=0.1,0.2", "steps=1,2")}
    whole, _ = evaluate(work, **options)
    with monkeypatch.context() as patched:
        patched.setattr(beyond, "fell_at", lambda axis, *given: 1 / 0 if axis == "steps" else fell_at(axis, *given))
        with pytest.raises(ZeroDivisionError):
            evaluate(work, **options)
    (run_id,) = set(evaluations(work)) - {whole.run}
    with Store.open_existing(work / "runs") as store:
        assert store.rows_of(run_id, "cells") == []
    with pytest.raises(UsageError, match=r"different options: .*--transfer .*all.*--curve-steps"):
        resume(work, run_id, transfer="a,b", curve=("steps=1",))
    measured = []
    monkeypatch.setattr(beyond, "transfer_matrix", lambda *_: 1 / 0)
    monkeypatch.setattr(beyond, "fell_at", lambda axis, *given: (measured.append(axis), fell_at(axis, *given))[1])
    stderr = io.StringIO()
    result = resume(work, run_id, stderr=stderr)
    assert (result.transfer, result.curves) == (whole.transfer, whole.curves)
    assert Counter(measured) == {"epsilon": 3, "steps": 4}
    assert "resumed with 48 of 48 attacked images done" in stderr.getvalue()


def test_what_nothing_can_be_measured_of_is_refused_before_a_run_is_started(work):
    trained(work, "natural")
    for options, message in [
        ({"models": ("a",), "transfer": "all"}, "--transfer needs at least two models"),
        ({"transfer": "a"}, "--transfer needs at least two models"),
        ({"transfer": "a,,a "}, "--transfer needs at least two models"),
        ({"transfer": " "}, "--transfer names no models"),
        ({"transfer": "a,b", "seeds": True}, "--seeds selects the training runs itself"),
        ({"models": ("a",), "seeds": True}, "--seeds selects the training runs itself"),
        ({"strong_budget": "quick"}, "--strong-budget needs --strong"),
        ({"donor_seeds": 2}, "--donor-seeds needs --reliance"),
        ({"curve": ("width=1",)}, "there is no curve 'width=1'"),
        ({"curve": ("epsilon",)}, "epsilon '' is not a number"),
        ({"curve": ("epsilon=0.1,2",)}, "epsilon '2' is not above 0 and at most 1"),
        ({"curve": ("steps=1,2.5",)}, "'1,2.5' are no numbers of steps"),
        ({"curve": ("steps=0,5",)}, "are not ascending and above 0"),
        ({"curve": ("epsilon=0.2,0.1",)}, "are not ascending and above 0"),
        ({"curve": ("steps=1", "steps=5")}, "two curves against steps"),
        ({"transfer": "all"}, "--transfer needs at least two models"),
        ({"reliance": True}, "--reliance needs photos"),
        ({"dataset": "folder:tiny", "attack": "pdg"}, "no attack called 'pdg'"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            run(EvalOptions(**{"dataset": TINY} | options), session_of(work))
        assert caught.value.hint
        assert evaluations(work) == []


# which models


def test_the_models_are_the_latest_run_of_each_regime_those_named_or_every_seed_of_an_experiment(work):
    trained(work, "standard", seed=3, rate=0.9)
    trained(work, "natural", seed=1)
    latest = [trained(work, "natural", seed=2)]
    second, fifth, first = (trained(work, "standard", seed=seed) for seed in (2, 5, 1))
    latest += [first, trained(work, "background")]
    trained(work, "standard", seed=9, completed=False)
    foreground = trained(work, "foreground")
    result, said = evaluate(work, dataset=None)
    assert [entry.name for entry in result.models] == latest
    assert all(name in said for name in latest)
    assert result.groups == ()
    named, _ = evaluate(work, foreground[-4:], dataset=None)
    assert (named.dataset, named.models[0].name) == (f"folder:{work / 'tiny'}", foreground)
    seeds, _ = evaluate(work, seeds=True)
    standard = [(entry.name, entry.train_seed) for entry in seeds.models if entry.regime == "standard"]
    assert standard == [(first, 1), (second, 2), (fifth, 5)]
    (group,) = [one for one in seeds.groups if (one.regime, one.input) == ("standard", "background")]
    losses = [c.loss for c in seeds.cells if (c.regime, c.input) == ("standard", "background") and c.loss is not None]
    assert (group.models, group.loss) == (3, pytest.approx(fmean(losses)))
    assert group.loss_spread == pytest.approx(stdev(losses))


def test_a_checkpoint_and_a_module_are_models_and_one_named_twice_is_evaluated_once(work):
    run_id = trained(work, "natural")
    path = work / "runs" / run_id / CHECKPOINT
    result, said = evaluate(work, run_id[-4:], str(path), "eval_victims:honest")
    assert [entry.name for entry in result.models] == [run_id, "eval_victims:honest"]
    assert "is evaluated once" in said
    assert [entry.regime for entry in result.models] == ["natural", None]
    assert result.warnings == ()


@pytest.mark.parametrize(
    ("name", "check"), [("quantized", "vanishing-gradients"), ("softmax", "probabilities"), ("random", "random-model")]
)
def test_what_is_doubtful_is_shown_logged_and_recorded(work, name, check):
    result, said = evaluate(work, f"eval_victims:{name}")
    assert check in [warning.check for warning in result.warnings]
    assert f"warning: eval_victims:{name}" in said
    assert f"warning: eval_victims:{name}" in (result.dir / "log.txt").read_text()


# cut off and resumed


def test_a_strong_evaluation_goes_on_with_the_models_it_was_started_with(work, monkeypatch):
    trained(work, "natural")
    options = {"strong": True, "strong_budget": "quick", "controls": True}
    run_id = cut_off(work, monkeypatch, **options)
    whole, _ = evaluate(work, **options)
    trained(work, "natural", seed=7)  # the latest one now
    stderr = io.StringIO()
    result = resume(work, run_id, stderr=stderr)
    assert "resumed with 18 of 72 attacked images done" in stderr.getvalue()  # five of the eight batches were natural
    assert result.models == whole.models
    assert without_times(result.cells) == without_times(whole.cells)


def test_what_cannot_be_resumed_is_refused_with_the_reason(work, monkeypatch):
    train_id = trained(work, "natural")
    run_id = cut_off(work, monkeypatch)
    with pytest.raises(UsageError, match=r"--steps 9 \(was 3\).*--seed 5 \(was 0\)"):
        resume(work, run_id, steps=9, seed=5)
    with pytest.raises(UsageError, match=r"--strong full \(was not given\)"):
        resume(work, run_id, strong=True)
    with pytest.raises(UsageError, match="does not evaluate efficientnet_lite0"):
        resume(work, run_id, "efficientnet_lite0")
    with pytest.raises(UsageError, match="is a run of train, not of eval"):
        resume(work, train_id)
    samples, checkpoint = work / "runs" / run_id / SAMPLES, work / "runs" / train_id / CHECKPOINT
    for path, other, kind, message in (
        (samples, samples.read_bytes()[:-9], WeightsError, "is damaged"),
        (checkpoint, checkpoint_bytes("natural", 8), WeightsError, "is not the one that the evaluation was started"),
    ):
        whole = path.read_bytes()
        path.write_bytes(other)
        with pytest.raises(kind, match=message):
            resume(work, run_id)
        path.write_bytes(whole)
    (work / "tiny").unlink()
    for index in range(6):
        place = work / "tiny" / ("train", "test")[index % 2] / str(index % 3)
        place.mkdir(parents=True)
        Image.new("L", (12, 12)).save(place / "0.png")
    with pytest.raises(UsageError, match="is not the one that"):
        resume(work, run_id)


def test_a_store_and_a_folder_that_were_moved_are_found_again(work, tiny, monkeypatch):
    train_id = trained(work, "natural")
    run_id = cut_off(work, monkeypatch)
    whole, _ = evaluate(work)
    moved = work / "elsewhere"
    (work / "runs").rename(moved)
    (work / "tiny").rename(work / "digits")
    monkeypatch.chdir(tiny)
    with pytest.raises(UsageError, match="no longer exists"):
        resume(work, run_id, store=moved)
    result = resume(work, run_id, store=moved, dataset=f"folder:{work / 'digits'}")
    assert without_times(result.cells) == without_times(whole.cells)
    assert result.models[0].source == str(moved / train_id / CHECKPOINT)


def test_models_that_are_gone_and_code_that_only_a_store_names_are_refused(work, monkeypatch):
    own, source, stderr = work / "own.safetensors", work / "edited.py", io.StringIO()
    own.write_bytes(checkpoint_bytes("natural", 0))
    source.write_text(VICTIMS)
    run_id = cut_off(work, monkeypatch, "own.safetensors", "edited:honest", stderr=stderr)
    again = f"latcli eval edited:honest --resume {run_id[-4:]}"
    assert f"{again} --store {work / 'runs'}" in stderr.getvalue()
    with pytest.raises(UsageError, match="code that a stored run names is not run") as caught:
        resume(work, run_id)
    assert again in caught.value.hint
    own.rename(work / "away")
    with pytest.raises(UsageError, match=r"the model own\.safetensors is neither at"):
        resume(work, run_id, "edited:honest")
    (work / "away").rename(own)
    for text in (VICTIMS.replace("self.linear(", "-5 * self.linear("), VICTIMS):  # the same weights
        source.write_text(text)
        monkeypatch.delitem(sys.modules, "edited")
        importlib.invalidate_caches()
        shutil.rmtree(work / "__pycache__", ignore_errors=True)
        if text != VICTIMS:
            with pytest.raises(WeightsError, match="is not the one that the evaluation was started with"):
                resume(work, run_id, "edited:honest")
    assert resume(work, run_id, "edited:honest").run == run_id


# bad input


def test_a_store_without_trainings_says_what_to_train(work):
    with Store.open(work / "runs"):
        pass
    with pytest.raises(UsageError, match=r"no training run of folder:.*tiny in .* is completed") as caught:
        evaluate(work)
    assert f"latcli train --dataset folder:{work / 'tiny'} --regime natural" in caught.value.hint
    assert evaluations(work) == []


def test_a_model_whose_classes_or_images_do_not_fit_is_refused(work):
    with pytest.raises(UsageError, match=r"efficientnet_lite0 has 1,000 classes, and folder:.* has 3"):
        evaluate(work, "efficientnet_lite0")
    other = work / "other.safetensors"
    for changes, message in (
        ({"class_names": ("a", "b", "c")}, "was trained on .*, whose classes or image size are not"),
        ({"class_names": ("0", "1")}, "has 2 classes"),
        ({"image_shape": (1, 16, 16)}, "does not take images of 1x12x12"),
    ):
        other.write_bytes(checkpoint_bytes("natural", 0, **changes))
        with pytest.raises(UsageError, match=message):
            evaluate(work, str(other))
    with pytest.raises(LatcliError, match="eval_victims:nan returns NaN"):
        evaluate(work, "eval_victims:nan")
    assert evaluations(work) == []


def test_a_model_with_the_classes_in_another_order_is_put_into_the_data_sets(work):
    straight, turned = work / "straight.safetensors", work / "turned.safetensors"
    straight.write_bytes(checkpoint_bytes("natural", 0))
    turned.write_bytes(checkpoint_bytes("natural", 0, class_names=("2", "1", "0"), turned=True))
    cells = evaluate(work, str(straight), str(turned))[0].cells
    for input_ in ("natural", "standard"):
        one, other = (cell.accuracy for cell in cells if cell.input == input_)
        assert one == other > 0
