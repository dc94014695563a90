"""The paper's figures beside ours: its own figures bear its claims out, others need not, and nothing is guessed."""

import pytest
from report_store import WILD, attack, entry, evaluate, photo, train

from latcli.commands.gathering import EVERYTHING, gather
from latcli.commands.paper import CIFAR10, FIGURE_2, MNIST, PHOTOS, compare_with_paper
from latcli.options import ReportOptions
from latcli.session import Session
from latcli.store.store import Store

#: Figures, just beyond the edge, that bear each claim out no longer.
AGAINST = {
    "standard training costs loss on natural images": (0.04, 0.04),
    "background training costs no loss on natural images": (0.0401, 0.04),
    "changing the background alone raises a natural model's loss at least tenfold": (0.39, 0.04),
    "background training takes nine tenths of the loss under background attack, or more": (1.01, 10.0),
    "there it is as good as standard training: at most 1.25 times its loss": (1.26, 1.0),
    "background training takes nine tenths of the loss under standard attack, too": (1.01, 10.0),
    "there, too, it comes near standard training: at most 2.5 times its loss": (2.51, 1.0),
    "the background attack leaves a natural model at most one digit in ten": (0.11,),
    "background training leaves more than half of the loss under standard attack": (5.0, 10.0),
    "the background attack costs a natural model 20 points of accuracy or more": (0.9, 0.71),
    "the background alone takes 99 % of the confidence in the right class, or more": (0.7, 0.1),
    "the right class leaves the top ten of every photo": (1 / 9,),
}
CLAIMS = [(paper, claim) for paper in (*FIGURE_2, PHOTOS) for claim in paper.claims]


def test_a_claim_holds_of_the_paper_s_own_figures_and_fails_of_others():
    for paper, claim in CLAIMS:
        assert claim.verdict(paper.figures) == "holds"
        assert claim.verdict({**paper.figures, claim.asked[-1]: None}) == "not measured"
        assert claim.verdict(dict(zip(claim.asked, AGAINST[claim.text], strict=True))) == "fails"


def test_without_any_figures_nothing_is_measured():
    found = compare_with_paper([], [], {})
    assert [(part.of, part.ours, part.protocol) for part in found] == [
        ("mnist", None, ()), ("cifar10", None, ()), ("photos", None, ())
    ]  # fmt: skip
    claims = [claim for part in found for claim in part.claims]
    assert {(claim.verdict, claim.ours, claim.seeds) for claim in claims} == {("not measured", "-", 0)}
    assert {figure.ours for part in found for figure in part.figures} == {None}
    printed = {(one.figure, one.regime, one.input): one.paper for part in found[:2] for one in part.figures}
    assert printed["loss", "standard", "natural"] == pytest.approx(0.4049)  # 40.49 on CIFAR-10, times 100 in the paper
    assert len(MNIST.figures) == len(CIFAR10.figures) == 11


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three regimes, of which background has two seeds, a smaller evaluation of them, and attacked photos."""
    folder = tmp_path_factory.mktemp("paper") / "runs"
    with Store.open(folder) as store:
        seeds = [("natural", 0), ("standard", 0), ("background", 0), ("natural", 1), ("background", 1)]
        entries = [entry(store, train(store, regime, seed)) for regime, seed in seeds]
        losses = [(0.02, 20.0, 15.0), (0.06, 0.4, 0.25), (0.03, 1.2, 0.2), (0.04, 18.0, 13.0), (0.03, 1.0, 4.0)]
        by_id = {one["id"]: row for one, row in zip(entries, losses, strict=True)}
        evaluate(store, by_id, entries)
        evaluate(store, {one["id"]: (9.0, 9.0, 9.0) for one in entries}, entries, n=10)
        for seed in (0, 1):
            attack(store, [(name, name, name) for name in WILD[:9]], seed=seed)
        attack(store, [("other.jpg", "hen", "cock")])
        attack(store, [("inside.jpg", "hen", "cock")] * 9, region="foreground")
    return gather(ReportOptions(paper=True), Session(store=folder), EVERYTHING)


@pytest.fixture(scope="module")
def found(report):
    assert report.paper is not None
    return {part.of: part for part in report.paper}


def test_cells_stand_beside_the_paper_s_on_its_scale_with_a_verdict_for_each_claim(found):
    figures = {(one.figure, one.regime, one.input): one for one in found["mnist"].figures}
    natural = figures["loss", "natural", "natural"]
    assert (natural.paper, natural.ours, natural.ours_spread) == pytest.approx((0.0414, 0.03, 0.02 / 2**0.5))
    assert figures["loss", "background", "standard"].ours == pytest.approx(1.1)
    claims = {claim.claim: claim for claim in found["mnist"].claims}
    for text, *expected in (
        ("standard training costs loss on natural images", "holds", 1, 1),
        ("background training costs no loss on natural images", "holds", 1, 2),
        ("background training takes nine tenths of the loss under background attack, or more", "fails", 1, 2),
        ("the background attack leaves a natural model at most one digit in ten", "fails", 0, 2),
    ):
        assert [claims[text].verdict, claims[text].seeds_holding, claims[text].seeds] == expected
    costs = claims["background training costs no loss on natural images"]
    assert (costs.of, costs.paper, costs.ours) == ("mnist", "0.0396 and 0.0414", "0.03 and 0.03")
    assert {claim.verdict for claim in found["cifar10"].claims} == {"not measured"}


def test_figures_may_be_compared_with_those_of_another_data_set(report):
    like = compare_with_paper(report.matrices, report.attacks, {}, like="cifar10")
    assert [part.ours is None for part in like] == [True, False, False]
    assert like[1].figures[0].ours == pytest.approx(0.03)


def test_differences_in_protocol_are_said_in_words(found):
    said = "\n".join(found["mnist"].protocol)
    assert "the center, 0.25 of each side; the paper does not say how large" in said
    assert "pgd, 100 steps, as in the paper" in said
    assert "standard 7; background 7 steps; the paper 100" in said
    assert "1,200 minibatches; the paper 100,000" in said
    assert "1,000 attacked images, 10,000 natural ones" in said
    assert "natural 2, standard 1, background 2" in said


def test_only_the_paper_s_own_attack_is_called_so(tmp_path):
    told = [{"attack": "apgd-ce"}, {"norm": "l2", "radius": 2.0}, {"attack": "fgsm"}, {}]
    with Store.open(tmp_path / "runs") as store:
        one = entry(store, train(store, "natural", 0))
        for settings in told:
            evaluate(store, {one["id"]: (0.1, 5.0, 4.0)}, [one], **settings)
    matrices = gather(ReportOptions(), Session(store=tmp_path / "runs"), EVERYTHING).matrices
    lines = [compare_with_paper([matrix], [], {})[0].protocol for matrix in matrices]
    assert [next(line for line in one if line.startswith("attack: ")) for one in lines] == [
        "attack: pgd, 100 steps, as in the paper",
        "attack: fgsm; the paper pgd, 100 steps",
        "attack: pgd, 100 steps, l2 radius 2; the paper pgd, 100 steps",
        "attack: apgd-ce, 100 steps; the paper pgd, 100 steps",
    ]


def test_only_attacks_that_differ_by_their_seed_alone_are_averaged(tmp_path):
    def seeds_said(*runs):
        """The seeds and the protocol of runs on the same photos: seed, options, what rows have; the newest last."""
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with Store.open(folder) as store:
            for seed, options, row in runs:
                with store.start_run("attack", argv=[], config=options, seed=seed, device="cpu") as run:
                    run.insert("attacks", [photo(0, f"{name}.jpg", "hen", "cock", **row) for name in "abc"])
        *_, part = gather(ReportOptions(paper=True), Session(store=folder), EVERYTHING).paper
        return next(line for line in part.protocol if line.startswith("attack seeds")).partition(": ")[2], part.protocol

    usual = (0, {"stop": "never", "threads": 1}, {})
    assert seeds_said(usual, (1, {"stop": "never", "threads": 2, "devices": 2, "photos": ["b"]}, {}))[0] == "1, 0"
    for other in ({"soft": True}, {"schedule": "linear"}, {"refine": "grabcut"}, {"step_size": 0.01}):
        assert seeds_said((1, {"stop": "never", **other}, {}), usual)[0] == "0"
    aimed = {"target_index": 3, "target_name": "dog", "target_source": "given", "reached": 1, "p_target": 0.9}
    guessed = {"label_source": "prediction"}
    # The newest is not the most like the paper's.
    assert seeds_said(usual, (1, {"target": "3"}, aimed))[0] == "0"
    assert seeds_said(usual, (1, {"stop": "top1"}, {}))[0] == "0"
    assert seeds_said(usual, (1, {"stop": "never"}, guessed))[0] == "0"
    (seeds, said) = seeds_said((1, {"stop": "top1"}, guessed))
    assert (seeds, [line for line in said if line.startswith(("labels", "attack:"))]) == ("1", [
        "labels: the right class of 3 of 3 is the classifier's own guess before the attack; see --labels",
        "attack: epsilon 8/255, pgd, 40 steps, stopped at top1",
    ])  # fmt: skip


def test_the_photos_are_those_most_like_the_paper_s_over_attack_seeds(found):
    photos = found["photos"]
    figures = {one.figure: (one.paper, one.ours, one.ours_spread) for one in photos.figures}
    assert figures["confidence in the right class, attacked"] == (0.000169, pytest.approx(0.001), pytest.approx(0))
    assert figures["pixels altered"] == (0.491, pytest.approx(0.4), pytest.approx(0))
    assert [(claim.verdict, claim.seeds_holding, claim.seeds) for claim in photos.claims] == [("holds", 2, 2)] * 2
    assert {
        "photos: 9; the paper's 9 are others",
        "classifier: efficientnet_lite0; the paper inception_v3",
        "attack seeds: 1, 0",
    } < set(photos.protocol)
