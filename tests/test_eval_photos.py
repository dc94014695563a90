"""`latcli eval` on folders of photos: whose classes are which, where the objects are, and what is refused."""

import dataclasses
import json
import shutil

import pytest
import torch
from photo_set import CLASSES, SMALL, save_weights, write_photos
from PIL import Image

from latcli.commands import evaluate as evaluate_command
from latcli.commands.evaluate import run
from latcli.engine.datasets.photo_folder import class_folders, photo_folder, read_masks
from latcli.engine.evaluation.reliance import background_reliance, photos_of
from latcli.engine.models.catalog import CheckpointInfo, fine_tuned_without_weights, open_classifier, pack_classifier
from latcli.engine.models.classifier import Classifier, ClassifierSource, with_classes_first
from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import LatcliError, UsageError
from latcli.options import EvalOptions
from latcli.results import EvalResult, read
from latcli.session import Session
from latcli.store.store import Store

VICTIMS = """
import torch
from torch import nn
from latcli.engine.models.preprocessing import Preprocessing

class Bright(nn.Module):
    '''How much of each channel is brighter than 0.6, which on these photos the objects alone are.'''

    def __init__(self, names, crop):
        super().__init__()
        self.class_names, self.preprocessing = names, Preprocessing(crop, crop, "bilinear")
        self.channels = [{"blue": 2, "red": 0, "green": 1}.get(name.lower()) for name in names]

    def forward(self, x):
        bright = 20 * (x - 0.6).relu().flatten(2).mean(dim=2)
        unseen = torch.full_like(bright[:, 0], -1.0)
        return torch.stack([unseen if c is None else bright[:, c] for c in self.channels], dim=1)

def four():
    return Bright(("blue", "red", "yellow", "Green"), 32)
class Dark(nn.Module):
    '''Which channel half of the picture is darkest in: by the objects alone nobody could tell.'''

    def __init__(self):
        super().__init__()
        self.class_names, self.preprocessing = ("green", "red"), Preprocessing(32, 32, "bilinear")

    def forward(self, x):
        return -9 * x[:, [1, 0]].flatten(2).sort(dim=2).values[:, :, :512].mean(dim=2)

def background():
    return Dark()
def larger():
    return Bright(("blue", "red", "yellow", "green"), 40)
def no_green():
    return Bright(("blue", "red", "yellow"), 32)
"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Options for two photos a class and their masks."""
    write_photos(tmp_path / "set", masks=tmp_path / "masks")
    (tmp_path / "photo_victims.py").write_text(VICTIMS)
    monkeypatch.syspath_prepend(tmp_path)
    return {"dataset": f"folder:{tmp_path / 'set'}", "masks": tmp_path / "masks", "steps": 2, "batch": 3}


def session_of(tmp_path):
    return Session(store=tmp_path / "runs", data=tmp_path, device="cpu", precision="fp32", offline=True, quiet=True)


def evaluate(tmp_path, *models, **options):
    return run(EvalOptions(models=models, **options), session_of(tmp_path))


def fine_tuned_checkpoint(tmp_path):
    """A network of SMALL with a head for the folder's classes, of chance."""
    torch.manual_seed(0)
    net = fine_tuned_without_weights(SMALL, ("a", "b"))
    about = CheckpointInfo(SMALL, (3, 160, 160), CLASSES, f"folder:{tmp_path / 'set'}", "0", "background", 0.03, 5)
    path = tmp_path / "tuned.safetensors"
    path.write_bytes(pack_classifier(net.state_dict(), about))
    return str(path)


def config(tmp_path, run_id):
    with Store.open_existing(tmp_path / "runs") as store:
        return store.find_run(run_id).config


def test_a_classifier_from_outside_is_right_about_the_folders_classes(tmp_path, photos):
    result = evaluate(tmp_path, "photo_victims:four", epsilon=0.05, **photos)
    natural, standard, background = result.cells
    assert (natural.n, standard.n) == (4, 4)
    assert natural.accuracy == background.accuracy == 1.0
    assert natural.loss is not None
    assert standard.loss is not None
    assert background.loss is not None
    # What is 0.4 at most cannot be brighter than 0.6 by 0.05: only the object counts, and that is protected.
    assert background.loss == pytest.approx(natural.loss, abs=1e-6)
    assert standard.loss > natural.loss + 0.01
    assert (result.settings["mask_from"], standard.mask_from, natural.mask_from) == ("folder", "folder", None)


def test_a_published_classifier_knows_folders_by_word_net_ids(tmp_path, shared_data):
    for name in ("n01944390_snail", "n01514859_hen"):
        for split in ("train", "test"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            shutil.copy(shared_data / "photos" / "paper9" / f"{name}.jpg", tmp_path / "set" / split / name)
    options = {"center": 0.5, "steps": 2, "dataset": f"folder:{tmp_path / 'set'}"}
    result = evaluate(tmp_path, "efficientnet_lite0", **options)
    assert (result.settings["mask_from"], result.settings["center"]) == ("center", 0.5)
    natural, standard, background = result.cells
    assert (natural.n, natural.accuracy, standard.accuracy) == (2, 1.0, 0.0)
    losses = [natural.loss, background.loss, standard.loss]
    assert losses == sorted(set(losses))


def test_the_top_guess_is_one_of_all_classes_and_logits_keep_their_names():
    class Fixed(torch.nn.Module):
        def forward(self, x_BChw):
            return torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(len(x_BChw), -1)

    names, ids = ("hen", "Cat", "tree frog", "dog"), ("n01", "n02", "n03", "n04")
    classifier = Classifier("it", Fixed(), Preprocessing(8, 8, "bilinear"), names, ids)
    ordered = with_classes_first(classifier, ("dog", "tree_frog"), "the folder")
    assert ordered.class_names == ("dog", "tree frog", "hen", "Cat")
    assert ordered.class_ids == ("n04", "n03", "n01", "n02")
    assert ordered(torch.zeros(1, 3, 8, 8)).tolist() == [[3.0, 2.0, 0.0, 1.0]]
    assert with_classes_first(classifier, names, "the folder") is classifier
    assert with_classes_first(classifier, ("1", "2", "3", "4"), "the folder") is classifier
    for folders, message in (
        (("dog", "cow"), "it has no class 'cow', which the folder has"),
        (("1", "2"), "it has no class '1'"),
        (("dog", "Dog"), "'dog' and 'Dog' of the folder are one class of it: dog"),
    ):
        with pytest.raises(UsageError, match=message):
            with_classes_first(classifier, folders, "the folder")


def test_a_fine_tuned_network_is_evaluated_on_what_a_detector_finds(tmp_path, photos):
    weights = save_weights(tmp_path / "small.safetensors")
    told = photos | {"masks": None, "detector": "cam", "classifier_weights": weights, "steps": 1}
    result = evaluate(tmp_path, fine_tuned_checkpoint(tmp_path), **told)
    kept = config(tmp_path, result.run)
    assert (kept["mask_from"], kept["detector"], len(kept["mask_fingerprint"])) == ("detector", "cam", 64)
    assert [cell.n for cell in result.cells] == [4, 4, 4]
    assert result.settings["epsilon"] == 8 / 255


def test_reliance_tells_who_looks_at_the_background(tmp_path, photos):
    result = evaluate(tmp_path, "photo_victims:four", "photo_victims:background", reliance=True, **photos)
    by_object, by_background = result.reliance
    accuracies = [{v: mean.accuracy for v, mean in row.overall.means.items()} for row in result.reliance]
    # Where nothing is bright, three classes are level, which is no right answer.
    no_object = {"only_bg_b": 0.0, "only_bg_t": 0.0}
    assert accuracies[0] == {"original": 1, "only_fg": 1, **no_object, "mixed_same": 1, "mixed_rand": 1}
    assert (accuracies[1]["original"], accuracies[1]["only_bg_t"]) == (1, 1)
    assert (accuracies[1]["mixed_same"], accuracies[1]["mixed_rand"]) == (1, 0)
    assert [(row.overall.gap.n, row.overall.gap.value) for row in (by_object, by_background)] == [(4, 0.0), (4, 1.0)]
    assert by_background.overall.gap.standard_error == 0.0
    assert [group.n for group in by_background.by_share] == [1, 1, 1, 1]
    assert read(EvalResult, (result.dir / "matrix.json").read_text()) == result
    with Store.open_existing(tmp_path / "runs") as store:
        rows = {row["name"]: row["value"] for row in store.rows_of(result.run, "metrics")}
    assert rows[f"reliance/{by_background.model}/gap"] == 1.0
    assert rows[f"reliance/{by_background.model}/mixed_rand"] == 0.0
    assert rows[f"reliance/{by_object.model}/n"] == 4.0


def test_reliance_is_the_mean_over_donor_seeds_from_the_sessions_on(tmp_path, photos):
    options = EvalOptions(models=("photo_victims:background",), reliance=True, donor_seeds=2, **photos)
    session = session_of(tmp_path)
    session.seed = 1
    result = run(options, session)
    folders = class_folders(tmp_path / "set")
    data = photo_folder(folders, Preprocessing(32, 32, "bilinear"))
    folder = photos_of(data.with_masks(*read_masks(folders, tmp_path / "masks")))
    classifier = open_classifier("photo_victims:background", ClassifierSource(), torch.device("cpu"))
    name = result.models[0].id
    assert result.reliance == (background_reliance(name, classifier, folder, (1, 2)),)
    each = [background_reliance(name, classifier, folder, (seed,)).overall.means["mixed_rand"] for seed in (1, 2)]
    assert each[0] != each[1]
    assert config(tmp_path, result.run)["donor_seeds"] == 2


def test_an_evaluation_goes_on_with_the_same_masks_alone(tmp_path, photos, monkeypatch):
    whole = evaluate(tmp_path, "photo_victims:four", **photos)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evaluate_command, "_result", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, "photo_victims:four", **photos)
    (begun,) = {path.name for path in (tmp_path / "runs").glob("*-eval-*")} - {whole.run}
    again = EvalOptions(models=("photo_victims:four",), resume=begun)  # code has to be named again
    mask = tmp_path / "masks" / "test" / "red" / "0.png"
    original = mask.read_bytes()
    with Image.open(mask) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(mask)
    with pytest.raises(UsageError, match=r"the masks of .* are not those"):
        run(again, session_of(tmp_path))
    mask.write_bytes(original)
    moved = (tmp_path / "masks").rename(tmp_path / "moved")
    resumed = run(dataclasses.replace(again, masks=moved), session_of(tmp_path))
    assert [(cell.loss, cell.accuracy) for cell in resumed.cells] == [
        (cell.loss, cell.accuracy) for cell in whole.cells
    ]
    assert json.loads((resumed.dir / "matrix.json").read_text())["settings"]["batch"] == 3


def test_what_does_not_go_together_is_refused_before_a_run_is_begun(tmp_path, photos):
    four, larger, tuned = "photo_victims:four", "photo_victims:larger", fine_tuned_checkpoint(tmp_path)
    for models, changes, message in [
        (("photo_victims:no_green",), {}, "photo_victims:no_green has no class 'green', which folder:.*set has"),
        ((four, larger), {}, r"four takes the middle 32 of a photo resized to 32 .*, .*larger takes the middle 40"),
        ((tuned, four), {}, r"takes the middle 160 of .*takes the middle 32 of"),
        ((four,), {"boxes": "best"}, "--boxes is not used where no detector"),
        ((four,), {"mask_from": "center"}, "--masks is not used with --mask-from center"),
        ((four,), {"center": 0.9}, "--center is not used with --mask-from folder"),
        ((four,), {"mask_from": "center", "masks": None, "reliance": True}, "--reliance needs to know the objects"),
        ((four,), {"mask_from": "folder", "masks": None}, "--mask-from folder needs the folder"),
        ((four,), {"dataset": "mnist-5k"}, "--masks cannot be used with mnist-5k"),
        ((four,), {"dataset": "mnist-5k", "masks": None, "mask_from": "detector"}, "needs photos"),
        ((), {}, "no training run of folder:.*set in .* is completed"),
    ]:
        with pytest.raises(LatcliError, match=message) as caught:
            evaluate(tmp_path, *models, **photos | changes)
        assert caught.value.hint
        assert list((tmp_path / "runs").glob("*-eval-*")) == []
