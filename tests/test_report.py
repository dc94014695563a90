"""`latcli report`: which figures a report has, of which runs, and that what is not as it was written is not shown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from report_store import WILD, attack, crash, entry, evaluate, photo, stranger, train, whole

from latcli.commands.gathering import EVERYTHING, SHOWN_ATTACKS, TERMINAL, gather
from latcli.commands.report import compare
from latcli.errors import LatcliError, UsageError
from latcli.options import ReportOptions
from latcli.results import photo_summary, to_json
from latcli.session import Session
from latcli.store.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "runs") as opened:
        yield opened


def document(folder, *runs, needs=EVERYTHING, **options):
    found = to_json(gather(ReportOptions(runs=runs, **options), Session(store=folder), needs))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def one_model(store, *evaluations):
    """The matrices after evaluating one model once for each of these."""
    known = entry(store, train(store, "natural", 0))
    for settings in evaluations:
        evaluate(store, {known["id"]: settings.pop("losses", (0.1, 5.0, 4.0))}, [known], **settings)
    return document(store.folder)["matrices"]


def several_models(store, *models, **settings):
    """The matrix after evaluating these training runs' models, each with its loss under standard attack."""
    entries = [entry(store, run) for run, _ in models]
    losses = {one["id"]: (0.1, loss, 1.0) for one, (_, loss) in zip(entries, models, strict=True)}
    evaluate(store, losses, entries, **settings)
    (matrix,) = document(store.folder)["matrices"]
    return matrix


def test_photos_are_summed_up_with_those_that_were_wrong_before_counted_apart():
    photos = [
        {
            "clean_rank": before, "clean_confidence": p_before, "adversarial_rank": after,
            "adversarial_confidence": p_after, "was_right": before == 1, "fooled": before == 1 < after,
            "altered_percent": 40.0 + before, "target_index": None,
        }
        for before, after, p_before, p_after in (
            (1, 20, 0.9, 0.1), (1, 1, 0.8, 0.6), (1, 4, 0.7, 0.3), (7, 300, 0.0, 0.0),
        )
    ]  # fmt: skip
    averages = {"right": 3, "top5": 3, "top10": 4, "confidence": 0.6, "median_confidence": 0.75}
    after = {"right": 1, "top5": 2, "top10": 2, "confidence": 0.25, "median_confidence": 0.2}
    found = to_json(photo_summary(photos))
    for side in ("clean", "adversarial"):
        found[side] = pytest.approx(found[side])
    counts = {"n": 4, "right_before": 3, "fooled": 2, "wrong_before": 1, "altered_percent": 42.5, "reached": None}
    assert found == counts | {"clean": averages, "adversarial": after}
    assert photo_summary([]).n == 0


def test_each_region_and_epsilon_of_a_run_is_a_table_and_a_search_for_the_smallest_epsilon_is_one(store):
    changes = [{"region": region, "epsilon": e} for region in ("background", "all") for e in (0.01, 0.02)]
    with store.start_run("attack", argv=[], config={}, seed=3, device="cpu") as run:
        run.insert("attacks", [photo(0, "a.jpg", "hen", "cock", **changed) for changed in changes])
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as search:
        found = [{"epsilon": e, "smallest_epsilon": e, "smallest_epsilon_max": 0.03} for e in (0.01, 0.02)]
        search.insert("attacks", [photo(0, "a.jpg", "hen", "cock", **changed) for changed in found])
    attacks = document(store.folder)["attacks"]
    assert attacks[0]["smallest_epsilon"] == pytest.approx(0.015)
    assert [(one["run"], one["region"], one["epsilon"], one["summary"]["n"]) for one in attacks] == [
        (search.id, "background", None, 2),
        *((run.id, changed["region"], changed["epsilon"], 1) for changed in changes),
    ]


def test_a_matrix_has_the_paper_s_rows_and_columns_with_seeds_averaged(stored):
    folder, runs = stored
    (matrix,) = document(folder)["matrices"]
    assert [row["label"] for row in matrix["rows"]] == matrix["inputs"] == ["natural", "standard", "background"]
    assert (matrix["natural_scale"], matrix["images"], matrix["seeds"]) == (1000, 1000, [0])
    assert (matrix["runs"], matrix["warnings"]) == ([runs["evaluation"]], ["natural: differs"])
    background = matrix["rows"][2]
    assert (background["model_count"], background["train_seeds"]) == (2, [0, 1])
    assert background["train_runs"] == [runs["background"], runs["background 1"]]
    cell = background["cells"]["standard"]
    assert (cell["losses"], cell["loss"], cell["spread_over"]) == ([1.2, 1.4], pytest.approx(1.3), "models")
    assert cell["loss_spread"] == pytest.approx(stdev([1.2, 1.4]))
    assert cell["accuracy_spread"] == pytest.approx(stdev([0.988, 0.986]))
    # An interval over the two background models reaches below the one standard model.
    assert best(matrix, "natural", "loss") == ["natural", "background"]
    assert best(matrix, "standard", "loss") == best(matrix, "background", "loss") == ["standard", "background"]
    assert best(matrix, "natural", "accuracy") == ["natural", "standard", "background"]


def test_the_interval_is_the_wider_of_that_over_images_and_that_over_models(store):
    models = [(train(store, "background", seed), loss) for seed, loss in enumerate((1.0, 2.0, 6.0))]
    cells = several_models(store, *models)["rows"][0]["cells"]
    standard, background = cells["standard"], cells["background"]
    for figure, values in (("loss", [1.0, 2.0, 6.0]), ("accuracy", [0.99, 0.98, 0.94])):
        half = 4.3027 * stdev(values) / 3**0.5
        assert standard[f"{figure}_low"] == pytest.approx(fmean(values) - half, rel=1e-4)
        highest = 1.0 if figure == "accuracy" else fmean(values) + half
        assert standard[f"{figure}_high"] == pytest.approx(highest, rel=1e-4)
    assert (standard["interval"], standard["loss_interval"]) == ("models", "models")
    assert (background["loss_low"], background["loss_high"]) == pytest.approx((0.95, 1.05))
    assert (background["accuracy_low"], background["accuracy_high"]) == pytest.approx((0.98, 1.0))
    assert (background["interval"], background["loss_interval"]) == ("wilson", "bootstrap")


def best(matrix, given, figure):
    return [row["label"] for row in matrix["rows"] if row["cells"][given][f"best_{figure}"]]


@pytest.mark.parametrize("marked", [["standard"], ["natural", "standard"]])
def test_models_of_one_evaluation_are_marked_as_it_has_compared_them(store, marked):
    entries = [entry(store, train(store, regime, 0)) for regime in ("natural", "standard")]
    a, b = (one["id"] for one in entries)
    losses = {a: (0.1, 2.0, 2.0), b: (0.05, 1.0, 1.9)}
    evaluate(store, losses, entries, best=marked)
    (matrix,) = document(store.folder)["matrices"]
    both = ["natural", "standard"]
    assert (best(matrix, "standard", "accuracy"), best(matrix, "standard", "loss")) == (marked, marked)
    evaluate(store, {b: losses[b]}, entries[1:])  # from then on the columns are of two evaluations
    (matrix,) = document(store.folder)["matrices"]  # and no interval of the loss reaches another
    assert (best(matrix, "standard", "accuracy"), best(matrix, "standard", "loss")) == (both, ["standard"])


def test_an_input_that_one_seed_lacks_leaves_the_others_in_the_matrix(store):
    entries = [entry(store, train(store, "natural", seed)) for seed in (0, 1)]
    a, b = (one["id"] for one in entries)
    evaluate(store, {a: (0.1, 2.0, 2.0)}, entries[:1])
    evaluate(store, {b: (0.2, 2.2)}, entries[1:])
    (matrix,) = document(store.folder)["matrices"]
    (row,) = matrix["rows"]
    assert [row["cells"][name]["loss"] for name in matrix["inputs"]] == pytest.approx([0.15, 2.1, 2.0])


def test_a_later_evaluation_of_a_model_replaces_the_earlier(store):
    (matrix,) = one_model(store, {"losses": (0.1, 5.0, 4.0)}, {"losses": (0.2, 6.0, 5.0)})
    (row,) = matrix["rows"]
    cells = [row["cells"][name] for name in matrix["inputs"]]
    assert [cell["loss"] for cell in cells] == [0.2, 6.0, 5.0]
    assert {(cell["best_loss"], cell["best_accuracy"], cell["spread_over"]) for cell in cells} == {(False, False, None)}
    assert len(matrix["runs"]) == 1


def test_other_evaluation_seeds_are_averaged_and_named(store):
    (matrix,) = one_model(store, {"losses": (0.1, 5.0, 4.0)}, {"losses": (0.1, 6.0, 5.0), "seed": 1})
    cell = matrix["rows"][0]["cells"]["standard"]
    assert (cell["loss"], cell["loss_spread"], cell["spread_over"]) == (5.5, pytest.approx(stdev([5.0, 6.0])), "seeds")
    assert (cell["models"], matrix["seeds"]) == (1, [0, 1])


@pytest.mark.parametrize(
    "other", [{"epsilon": 0.2}, {"steps": 10}, {"restarts": 2}, {"center": 0.5}, {"n": 100}, {"dataset": "cifar10"}]
)
def test_what_was_measured_otherwise_is_another_matrix(store, other):
    first, second = one_model(store, {}, dict(other))
    assert [row["model_count"] for row in (*first["rows"], *second["rows"])] == [1, 1]
    assert first["natural_scale"] == (100 if "dataset" in other else 1000)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ([{}, {}, {"beta": 2.5}], {"background (beta unset)": 1.5, "background (beta 2.5)": 30.0}),
        ([{}, {"new": None}, {"new": 3}], {"background (new unset)": 1.5, "background (new 3)": 30.0}),
    ],
)
def test_training_with_other_options_is_never_averaged_and_an_unset_one_is_none(store, options, rows):
    trained = [train(store, "background", seed, **more) for seed, more in enumerate(options)]
    found = several_models(store, *zip(trained, (1.0, 2.0, 30.0), strict=True))["rows"]
    assert {row["label"]: row["cells"]["standard"]["loss"] for row in found} == rows


def test_a_seed_that_was_trained_again_is_not_another_seed(store):
    trained = [train(store, "natural", 0, precision="fp32"), train(store, "natural", 0, precision="bf16")]
    trained.append(train(store, "natural", 1, devices="2"))
    matrix = several_models(store, *zip(trained, (30.0, 1.0, 2.0), strict=True))
    (row,) = matrix["rows"]
    assert (row["train_runs"], row["train_seeds"]) == ([trained[1].id, trained[2].id], [0, 1])
    assert row["cells"]["standard"]["loss"] == 1.5
    assert matrix["notes"] == ["natural: 1 older training run(s) of the same seed left out"]


def test_a_model_from_elsewhere_has_a_row_of_its_own(store):
    names = ["timm:a", "timm:b"]
    evaluate(store, dict.fromkeys(names, (0.1, 1.0, 1.0)), list(map(stranger, names)))
    rows = document(store.folder)["matrices"][0]["rows"]
    assert [(row["label"], row["model_count"], row["regime"]) for row in rows] == [(name, 1, None) for name in names]


def test_a_loss_that_diverged_leaves_no_mean_and_is_counted(store):
    matrix = several_models(store, (train(store, "natural", 0), None), (train(store, "natural", 1), 2.0))
    cell = matrix["rows"][0]["cells"]["standard"]
    assert (cell["loss"], cell["loss_spread"], cell["loss_low"], cell["diverged"]) == (None, None, None, 1)
    assert cell["losses"] == [None, 2.0]
    assert any("no finite loss" in note for note in matrix["notes"])


def test_an_attack_that_stops_at_the_first_wrong_guess_leaves_no_loss_and_none_diverged(store):
    (matrix,) = one_model(store, {"losses": (0.1, None, None), "attack": "apgd-ce until wrong"})
    assert [cell["diverged"] for cell in matrix["rows"][0]["cells"].values()] == [0, 0, 0]
    assert matrix["notes"] == []


def test_runs_that_did_not_end_are_left_out_and_named(store):
    failed = crash(store)
    train(store, "natural", 0)
    found = document(store.folder)
    assert [(one["run"], one["status"]) for one in found["left_out"]] == [(failed, "failed")]
    assert "nothing to divide by" in found["left_out"][0]["why"]
    assert failed not in [row["run"] for row in found["training"]]


def test_files_are_those_of_their_photo(stored):
    (found,) = document(stored[0])["attacks"]
    counts = (found["summary"]["n"], found["summary"]["fooled"])
    assert (found["run"], *counts) == (stored[1]["attack"], len(WILD), len(WILD))
    for position, image in enumerate(found["images"]):
        contents = {kind: Path(path).read_bytes().decode() for kind, path in image["files"].items()}
        assert contents == {kind: f"{position} {kind}" for kind in ("adversarial", "mask", "difference", "figure")}


def test_the_terminal_has_the_newest_attacks_that_have_photos(store):
    with_photos = [attack(store, [(f"{number}.jpg", "hen", "cock")]).id for number in range(3)]
    for _ in range(10):
        with store.start_run("attack", argv=[], config={}, seed=0, device="cpu"):
            pass
    found = document(store.folder, needs=TERMINAL)
    assert [one["run"] for one in found["attacks"]] == with_photos[:0:-1]
    assert len(found["attacks"]) == SHOWN_ATTACKS


def test_a_run_of_several_epsilons_is_one_run_and_each_epsilon_has_photos_where_they_are_cut(store):
    epsilons = (0.01, 0.02, 0.03, 0.04)
    old = attack(store, [("old.jpg", "hen", "cock")])
    last = attack(store, [("last.jpg", "hen", "cock")])
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        for epsilon in epsilons:  # a batch of photos at one, then at the next
            run.insert("attacks", [photo(0, f"{place}.jpg", "hen", "cock", epsilon=epsilon) for place in range(6)])
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu"):
        pass  # without photos
    found = document(store.folder, needs=replace(TERMINAL, photos=4))
    assert [(one["run"], one["epsilon"], one["summary"]["n"], len(one["images"])) for one in found["attacks"]] == [
        *((run.id, epsilon, 6, 1) for epsilon in epsilons), (last.id, 8 / 255, 1, 1)
    ]  # fmt: skip
    assert found["further_attacks"] == 1
    everything = document(store.folder)
    assert (everything["attacks"][-1]["run"], everything["further_attacks"]) == (old.id, 0)
    assert [len(one["images"]) for one in everything["attacks"][:4]] == [6] * 4


def test_a_file_that_is_gone_or_changed_is_a_fault_and_not_shown(store):
    run = attack(store, [("a.jpg", "hen", "cock"), ("b.jpg", "hen", "cock")])
    (run.folder / "0-mask.png").unlink()
    (run.folder / "1-adversarial.png").write_bytes(b"X adversarial")  # of the same size
    found = document(store.folder)
    first, second = (image["files"] for image in found["attacks"][0]["images"])
    assert (sorted(first), sorted(second)) == (
        ["adversarial", "difference", "figure"],
        ["difference", "figure", "mask"],
    )
    faults = [(fault["run"], fault["name"], fault["fault"]) for fault in found["faults"]]
    assert faults == [(run.id, "0-mask.png", "missing"), (run.id, "1-adversarial.png", "changed")]
    quick = document(store.folder, needs=TERMINAL)
    assert [fault["name"] for fault in quick["faults"]] == ["0-mask.png"]


def test_what_vanished_changed_or_is_damaged_is_a_fault_and_shows_nothing(tmp_path):
    folder = tmp_path / "runs"
    run = whole(folder)["evaluation"]
    (folder / run / "matrix.json").write_text('{"models": []}')
    with Store.open(folder) as store, store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as bad:
        bad.insert("attacks", [photo(0, "hen.jpg", "hen", "cock", clean_rank=None)])

    def faults(found):
        (matrix,) = found["matrices"]  # the figures of the database stay
        assert (found["evaluations"], matrix["warnings"]) == ([], [])
        assert bad.id not in [one["run"] for one in found["attacks"]]
        return [(fault["run"], fault["name"], fault["fault"]) for fault in found["faults"]]

    unreadable = (bad.id, "hen.jpg", "unreadable")
    assert faults(document(folder)) == [(run, "matrix.json", "changed"), unreadable]
    shutil.rmtree(folder / run)
    assert faults(document(folder)) == [(run, None, "missing"), unreadable]


def test_runs_are_chosen_by_name_status_data_set_and_date(stored):
    for options, left in [
        ({}, {"natural", "standard", "background", "background 1", "evaluation", "attack", "failed"}),
        ({"runs": ("latest", "natural")}, {"natural", "failed"}),
        ({"status": "failed"}, {"failed"}),
        ({"dataset": "mnist"}, {"natural", "standard", "background", "background 1", "evaluation"}),
        ({"runs": ("evaluation",), "since": "2000-01-01"}, {"evaluation"}),
    ]:
        folder, runs = stored
        names = [runs.get(name, name)[-4:] if name in runs else name for name in options.pop("runs", ())]
        found = document(folder, *names, **options)
        assert {run["run"] for run in found["runs"]} == {runs[name] for name in left}
        if left == {"evaluation"}:  # how the models were trained is known all the same
            assert [row["model_count"] for row in found["matrices"][0]["rows"]] == [1, 1, 2]


@pytest.mark.parametrize("alone", [False, True])
def test_the_best_are_chosen_by_their_own_last_figure(stored, alone):
    folder, runs = stored
    found = document(folder, *([runs["evaluation"]] if alone else []), best=True)
    attacked = "accuracy under its own attack"
    assert {one["regime"]: (one["run"], one["of"], one["figure"]) for one in found["best"]} == {
        "natural": (runs["natural"], 1, "accuracy on natural images"),
        "standard": (runs["standard"], 1, attacked),
        "background": (runs["background 1"], 2, attacked),
    }
    chosen = [runs[name] for name in ("natural", "standard", "background 1")]
    assert {row["run"] for row in found["training"]} == set(chosen)
    assert [row["train_runs"] for row in found["matrices"][0]["rows"]] == [[run] for run in chosen]


def test_a_retraining_that_made_the_same_model_does_not_cost_the_best_its_matrix(store):
    first = train(store, "background", 0)
    several_models(store, (first, 2.0))
    again = train(store, "background", 0)
    again.made_model(str(store.find_run(first.id).model))
    found = document(store.folder, best=True)
    assert [one["run"] for one in found["best"]] == [again.id]
    assert found["matrices"][0]["rows"][0]["cells"]["standard"]["loss"] == 2.0


def test_what_cannot_be_chosen_is_refused(stored):
    for options, message in [
        ({"since": "2999-01-01T10:00"}, "no run matches"),
        ({"since": "yesterday"}, "'yesterday'"),
        ({"since": "0001-01-01T00:00+05:00"}, "0001-01-01"),
        ({"dataset": "mnits"}, "no data set among the runs called 'mnits'"),
        ({"runs": ("zzzz",)}, "there is no run 'zzzz'"),
    ]:
        with pytest.raises(UsageError, match=message):
            gather(ReportOptions(**options), Session(store=stored[0]), TERMINAL)


def test_two_training_runs_side_by_side(stored):
    folder, runs = stored
    found = compare(ReportOptions(runs=(runs["standard"], runs["background 1"]), compare=True), Session(store=folder))
    differing = {row["name"]: (row["a"], row["b"]) for row in found.configuration}
    assert differing == {"regime": ("standard", "background"), "seed": (0, 1)}
    results = {row["name"]: row for row in found.results}
    assert results["test_accuracy"]["difference"] == pytest.approx(0.01)


def test_photos_side_by_side_are_the_same_photos(store):
    def run_of(*photos):
        rows = [
            photo(place, name, "hen", "cock", sha256=one * 64, **changed)
            for place, (name, one, changed) in enumerate(photos)
        ]
        with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
            run.insert("attacks", rows)
        return run.id

    first = run_of(
        ("a/1.jpg", "1", {"adversarial_confidence": 0.1}),
        ("b/1.jpg", "2", {"adversarial_confidence": 0.2}),
        ("unreadable.jpg", "4", {"altered_percent": None}),
    )
    second = run_of(
        ("elsewhere/b.jpg", "2", {"adversarial_confidence": 0.4}),
        ("a/1.jpg", "3", {"adversarial_confidence": 0.3, "was_right": 0, "fooled": 0}),
    )
    found = compare(ReportOptions(runs=(first, second), compare=True), Session(store=store.folder))
    results = {row["name"]: (row["a"], row["b"]) for row in found.results}
    assert {name: sides for name, sides in results.items() if ".jpg" in name} == {
        "a/1.jpg 11111111: confidence": (0.1, None),
        "b/1.jpg: confidence": (0.2, 0.4),
        "a/1.jpg 33333333: confidence": (None, 0.3),
    }
    assert (results["photos"], results["fooled"]) == ((2, 2), (2, 1))


@pytest.mark.parametrize("most", [(0.1, None), (0.1, 0.1)])
def test_searches_for_the_smallest_epsilon_are_compared_as_a_whole(store, most):
    runs = []
    for largest, found in zip(most, [(0.01, 0.02, 0.06), (0.02, 0.04, 0.05)], strict=True):
        rows = [
            photo(0, f"{place}.jpg", "hen", "cock", epsilon=e, smallest_epsilon=e, smallest_epsilon_max=largest)
            if largest else photo(0, f"{place}.jpg", "hen", "cock", epsilon=0.1)
            for place, e in enumerate(found)
        ]  # fmt: skip
        with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
            run.insert("attacks", rows)
        runs.append(run.id)
    found = compare(ReportOptions(runs=tuple(runs), compare=True), Session(store=store.folder))
    results = {row["name"]: (row["a"], row["b"]) for row in found.results}
    assert results["photos"] == (3, 3)
    assert results["median smallest epsilon"] == (0.02, 0.04 if most[1] else None)


@pytest.mark.parametrize(
    ("first", "second", "message"), [("natural", "evaluation", "a run of train"), ("natural", "natural", "both names")]
)
def test_what_cannot_be_compared_is_refused(stored, first, second, message):
    folder, runs = stored
    with pytest.raises(LatcliError, match=message):
        compare(ReportOptions(runs=(runs[first], runs[second]), compare=True), Session(store=folder))
