"""The paper's figures beside ours: its own figures bear its claims out, others need not, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_store import WILD, attack, entry, evaluate, train

from latcli.commands.paper_figures import CIFAR10, FIGURE_2, MNIST, PHOTOS, Claim, Figure2
from latcli.commands.report.command import EVERYTHING, gather
from latcli.commands.report.paper import paper, verdict
from latcli.options import ReportOptions
from latcli.session import Session
from latcli.store.store import Store

CLAIMS = [(figure, claim) for figure in FIGURE_2 for claim in figure.claims]


@pytest.mark.parametrize(("figure", "claim"), CLAIMS, ids=[f"{f.dataset}: {c.text}" for f, c in CLAIMS])
def test_the_paper_s_own_figures_bear_out_what_it_claims(figure: Figure2, claim: Claim) -> None:
    theirs = [figure.value(*asked) for asked in claim.asked]
    assert verdict(claim, theirs) == "holds"
    assert verdict(claim, [*theirs[:-1], None]) == "not measured"


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
}


@pytest.mark.parametrize(("figure", "claim"), CLAIMS, ids=[f"{f.dataset}: {c.text}" for f, c in CLAIMS])
def test_a_claim_fails_where_figures_speak_against_it(figure: Figure2, claim: Claim) -> None:
    assert verdict(claim, AGAINST[claim.text]) == "fails"


def test_figure_2_is_that_of_the_paper() -> None:
    assert MNIST.value("loss", ("natural", "natural")) == pytest.approx(0.0414)
    assert MNIST.value("loss", ("background", "standard")) == 0.55
    assert CIFAR10.value("loss", ("standard", "natural")) == pytest.approx(0.4049)
    assert CIFAR10.value("accuracy", ("natural", "background")) == 0.5926
    assert CIFAR10.value("accuracy", ("standard", "background")) is None


def test_without_any_figures_nothing_is_measured() -> None:
    found = paper([], [], {})
    assert {claim["verdict"] for claim in found["claims"]} == {"not measured"}
    assert {claim["ours"] for claim in found["claims"]} == {"-"}
    assert {cell["paper"] for cell in found["figure2"][0]["cells"]} == set(MNIST.losses.values())
    assert {cell["ours"] for part in found["figure2"] for cell in part["cells"]} == {None}
    assert [one["ours"] for one in found["tables"][0]["figures"]] == [None] * 5


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The part `paper` of a store with three regimes, a smaller evaluation of them after it, and attacked photos."""
    folder: Path = tmp_path_factory.mktemp("paper") / "runs"
    with Store.open(folder) as store:
        entries = [entry(store, train(store, regime, 0)) for regime in ("natural", "standard", "background")]
        losses = [(0.02, 20.0, 15.0), (0.06, 0.4, 0.25), (0.03, 1.2, 0.2)]
        by_id = {one["id"]: row for one, row in zip(entries, losses, strict=True)}
        evaluate(store, by_id, entries)
        evaluate(store, {one["id"]: (9.0, 9.0, 9.0) for one in entries}, entries, n=10)
        attack(store, [(name, name, name) for name in WILD[:9]])
        attack(store, [("other.jpg", "hen", "cock")])
        attack(store, [("inside.jpg", "hen", "cock")] * 9, region="foreground")
    document = gather(ReportOptions(paper=True), Session(store=folder), EVERYTHING).to_json()
    part: dict[str, Any] = document["paper"]
    return part


def test_cells_stand_beside_the_paper_s_on_its_scale(found: dict[str, Any]) -> None:
    cells = {(cell["regime"], cell["input"]): cell for cell in found["figure2"][0]["cells"]}
    natural = cells["natural", "natural"]
    assert (natural["paper"], natural["ours"]) == (41.4, pytest.approx(20.0))
    assert natural["difference"] == pytest.approx(-21.4)
    assert cells["background", "standard"]["difference"] == pytest.approx(0.65)


def test_each_claim_gets_its_verdict_and_both_sides(found: dict[str, Any]) -> None:
    verdicts = {claim["claim"]: claim["verdict"] for claim in found["figure2"][0]["claims"]}
    assert verdicts["standard training costs loss on natural images"] == "holds"
    assert verdicts["background training costs no loss on natural images"] == "fails"
    assert verdicts["the background attack leaves a natural model at most one digit in ten"] == "fails"
    assert {claim["verdict"] for claim in found["figure2"][1]["claims"]} == {"not measured"}
    (costs,) = [one for one in found["figure2"][0]["claims"] if one["claim"].startswith("background training costs")]
    assert (costs["paper"], costs["ours"]) == ("0.0396 and 0.0414", "0.03 and 0.02")


def test_differences_in_protocol_are_said_in_words(found: dict[str, Any]) -> None:
    told = "\n".join(found["figure2"][0]["protocol"])
    assert "a middle of 0.25 of the side; the paper does not say how large" in told
    assert "pgd, 100 steps, as in the paper" in told
    assert "standard 7; background 7 steps; the paper 100" in told
    assert "1,200 minibatches; the paper 100,000" in told
    assert "1,000 attacked images, 10,000 natural ones" in told
    assert "natural 1, standard 1, background 1" in told


def test_without_an_attack_nothing_is_said_of_one() -> None:
    plain = {"id": "matrix-1", "dataset": "mnist", "epsilon": None, "attack": None, "steps": None}
    plain |= {"mask_from": None, "center": None, "images": 0, "rows": []}
    told = paper([plain], [], {})["figure2"][0]["protocol"]
    assert [line.partition(":")[0] for line in told] == ["no attack", "n", "training seeds"]
    middle = plain | {"epsilon": 0.3, "attack": "pgd", "steps": 100, "mask_from": "center"}
    assert "a middle of unknown size" in paper([middle], [], {})["figure2"][0]["protocol"][0]


def test_the_photos_are_those_most_like_the_paper_s(found: dict[str, Any]) -> None:
    (tables,) = found["tables"]
    assert tables["n"] == {"paper": 9, "ours": 9}
    figures = {one["figure"]: (one["paper"], one["ours"]) for one in tables["figures"]}
    assert figures["confidence in the right class, attacked"] == (0.000169, pytest.approx(0.001))
    assert figures["pixels altered"] == (0.491, pytest.approx(0.4))
    assert [claim["verdict"] for claim in tables["claims"]] == ["holds", "holds"]
    assert "classifier: efficientnet_lite0; the paper inception_v3" in tables["protocol"]


def test_the_photo_claims_hold_in_the_paper_s_own_tables() -> None:
    for claim in PHOTOS.claims:
        assert verdict(claim, [PHOTOS.figures[name] for name in claim.asked]) == "holds"
    gone, left = PHOTOS.claims
    assert verdict(gone, [0.7, 0.1]) == "fails"
    assert verdict(left, [1 / 9]) == "fails"
