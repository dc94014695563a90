"""Documents of commands, as `--json` gives them, as tables: one function for each command, and the whole report."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latcli.reporting.evaluations import evaluation, further, matrix, matrix_of
from latcli.reporting.photos import MANY, PHOTOS, attack, folder_line, mask, photo_table, regions, whole_runs
from latcli.reporting.table import NONE, Cell, Column, Format, Row, Table, Value, facts, listed, text_table
from latcli.reporting.text import counted, duration, from_here, percent, plain, printable, short, size

Document = Mapping[str, Any]

#: What a report on a terminal shows at most.
MATRICES, TRAINED, EVALUATIONS, NAMED = 4, 8, 1, 8


# training


def train(document: Document) -> list[Table]:
    """Loss and accuracy on the test images, what to know of them, where the model is and what to do with it."""
    scores = {"natural": document["final"], document["attack"]: document["adversarial"]}
    title = f"{document['regime']} training on {document['dataset']}, {counted(document['steps'], 'step')}"
    speed = document["images_per_second"]  # 0 where the run was too short to tell
    speed_words = [f"{speed:,.0f} images/s"] if speed else []
    words = ", ".join([duration(document["seconds"]), *speed_words, f"gradients in {document['form']}"])
    lines = [*document["notes"], words, f"run {document['run']}"]
    return [
        listed(
            title,
            [{"images": name, **score} for name, score in scores.items() if score is not None],
            Column("images", "test images", "name"),
            Column("n", "n", "count"),
            Column("loss", "loss", "number"),
            Column("accuracy", "accuracy", "percent"),
        ),
        text_table("", *lines, from_here(document["checkpoint"])),
        text_table("Try next", *document["next_commands"]),
    ]


def training(rows: Sequence[Document], best: Sequence[Document] = (), most: int | None = None) -> Table:
    """Training runs with what they ended with; of more than `most` the first."""
    columns = (
        Column("run", "run", "run"),
        Column("regime", "regime", "name"),
        Column("dataset", "data set", "name"),
        Column("seed", "seed"),
        Column("final.loss", "loss", "number", "natural", figure="loss", optional=True),
        Column("final.accuracy", "accuracy", "percent", "natural", figure="accuracy"),
        Column("final.adversarial_loss", "loss", "number", "own attack", figure="adversarial_loss", optional=True),
        Column("final.adversarial_accuracy", "accuracy", "percent", "own attack", figure="adversarial_accuracy"),
    )
    notes = [
        f"best of {one['of']} {one['regime']} on {one['dataset']}: {short(one['run'])}, "
        f"{percent(one['value'])} {one['figure'].replace('_', ' ')}"
        for one in best
    ]
    notes += _more(len(rows), most, "training run", "training runs", "--best")
    about = ("run", "dataset", "regime", "epsilon", "seed")
    title = "Training runs, on test images or those held out"
    return listed(title, rows[:most], *columns, notes=notes, kind="training", about=about)


#: Training runs in one plot, and what is drawn of them.
LINES = 12
_SERIES = {
    "loss": "Training loss",
    "test_loss": "Test loss",
    "test_attacked_loss": "Test loss under attack",
    "clean_accuracy": "Accuracy on clean training batches",
    "adversarial_accuracy": "Accuracy on attacked training batches",
    "test_accuracy": "Accuracy on test images",
    "test_attacked_accuracy": "Accuracy on attacked test images",
}


def training_curves(rows: Sequence[Document]) -> list[Table]:
    """For each data set and figure a table: its newest training runs down, steps across; a gap is NaN."""
    found = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows if row["series"]):
        newest = [row for row in rows if row["series"] and row["dataset"] == dataset][:LINES]
        for name, title in _SERIES.items():
            form: Format = "number" if name.endswith("loss") else "percent"
            drawn = [(row, dict(points)) for row in newest if len(points := row["series"].get(name) or ()) > 1]
            steps = sorted({step for _, points in drawn for step in points})
            lines = []
            for row, points in drawn:
                cells = (Cell(math.nan if points[step] is None else points[step]) if step in points else Cell()
                         for step in steps)  # fmt: skip
                label = f"{row['regime']} {short(row['run'])}"
                lines.append(Row((Cell(label), *cells), about={"regime": row["regime"]}))
            columns = (Column("line", "step", "name"), *(Column(str(step), str(step), form) for step in steps))
            title = f"{title}, {dataset or NONE}"
            found += [Table(title, columns, tuple(lines), about={"dataset": dataset})] if lines else []
    return found


# reports


def report(document: Document, *, cut: bool = False) -> list[Table]:
    """All tables of a report: paper, matrices, training, photos, what was measured beside them, what is left out.

    cut: as for a terminal, only the newest of each kind, and how to get at the others.
    """
    found = paper(document["paper"] or ())
    matrices = document["matrices"]
    found += [matrix(one) for one in (matrices[:MATRICES] if cut else matrices)]
    found += _more_table(cut, len(matrices), MATRICES, "loss matrix", "loss matrices", "--dataset, --since")
    if document["training"]:
        found.append(training(document["training"], document["best"], TRAINED if cut else None))
    found += _attacks(document, cut=cut)
    measured = [tables for one in document["evaluations"] if (tables := beside_matrix(one))]
    found += [table for tables in measured[: EVALUATIONS if cut else None] for table in tables]
    found += _more_table(cut, len(measured), EVALUATIONS, "evaluation", "evaluations", "run ids")
    if not found:
        ended = any(run["status"] == "completed" for run in document["runs"])
        none = "these runs have no figures" if ended else "no figures yet: none of these runs is completed"
        found.append(text_table("", none))
    found += not_shown(document, most=NAMED if cut else None)
    return [*found, text_table("", "try: latcli report --html report.html")] if cut else found


def beside_matrix(evaluation: Document) -> list[Table]:
    """What an evaluation measured beside its matrix, with the evaluation in the titles."""
    place = f"{evaluation['dataset']}, run {short(evaluation['run'])}"
    return [replace(table, title=f"{table.title} ({place})") for table in further(evaluation)]


def _attacks(document: Document, *, cut: bool) -> list[Table]:
    """Photos run by run, of each region and epsilon; where they are cut, those of a run in one table."""
    found = []
    for one in whole_runs(document["attacks"]) if cut else document["attacks"]:
        table = photo_table(one, PHOTOS if cut else None)
        tables = [*regions(one.get("regions", ())), replace(table, notes=(*table.notes, *folder_line(one)))]
        found += [replace(each, title=f"{each.title} (run {short(one['run'])})") for each in tables]
    return found + _more_table(cut, document["further_attacks"], 0, "attack run", "attack runs", "run ids")


def not_shown(document: Document, most: int | None = None) -> list[Table]:
    """Runs without figures, and files and runs that are not as they were written; of more than `most` the first."""
    left_out = [{**one, "image": ""} for one in document["left_out"]]
    faults = [{**one, "image": one["name"], "why": f"{one['name'] or 'folder'}: {one['detail']}"}
              for one in document["faults"]]  # fmt: skip
    columns = (Column("run", "run", "name"), Column("why", "why", "name", figure="why"))
    found = []
    for kind, title, rows in (
        ("left out", "Left out", left_out), ("fault", "Changed since it was written, and not shown", faults)
    ):  # fmt: skip
        notes = _more(len(rows), most, "run", "runs", "latcli report --json")
        found.append(listed(title, rows[:most], *columns, notes=notes, kind=kind, about=("run", "image")))
    return [table for table in found if table.rows]


def _more(count: int, most: int | None, one: str, several: str, how: str) -> list[str]:
    cut = 0 if most is None else count - most
    return [f"and {cut:,} more {one if cut == 1 else several}: choose with {how}"] if cut > 0 else []


def _more_table(cut: bool, count: int, most: int, one: str, several: str, how: str) -> list[Table]:
    return [text_table("", *lines) for lines in [_more(count, most, one, several, how)] if cut and lines]


def paper(parts: Sequence[Document]) -> list[Table]:
    """The paper's Figure 2 and photo tables beside ours, each with the verdicts on its claims."""
    found = []
    for one in parts:
        title = f"Comparison with the paper: {one['source']}"
        if one["ours"] is not None:
            found += [_beside_paper(one, title), *claims(one["claims"], f"Claims of {one['source']}")]
            continue
        hint = f"train and evaluate: latcli train --dataset {one['of']}, then latcli eval"
        if one["of"] == "photos":
            hint = "attack photos: latcli attack PHOTOS --labels labels.csv"
        found.append(text_table(title, f"not measured; {hint}"))
    return found


#: Figures of the paper that are columns of their own, and how they and their differences are printed.
_GROUPS: dict[str, tuple[Format, Format]] = {"loss": ("number", "number"), "accuracy": ("percent", "points")}


def _beside_paper(part: Document, title: str) -> Table:
    """Models and inputs down, losses and accuracies across; of photos the means down."""
    figures = part["figures"]
    groups = [name for name in _GROUPS if any(one["figure"] == name for one in figures)] or [""]
    columns = [Column("place", "model, inputs" if groups[0] else "mean over photos", "name")]
    for group in groups:
        form, difference = _GROUPS.get(group, ("short", "short"))
        columns += [
            Column(f"{group} paper", "paper", form, group, figure=group),
            Column(f"{group} ours", "ours", form, group),
            Column(f"{group} difference", "difference", difference, group, optional=group == "accuracy"),
        ]
    records: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in figures:
        group, ours = one["figure"] if groups[0] else "", one["ours"]
        place: tuple[str, ...] = (one["regime"], one["input"]) if groups[0] else (one["figure"],)
        scale = part["natural_scale"] if group == "loss" and one["input"] == "natural" else 1
        record = records.setdefault(place, {**one, "place": ", ".join(map(str, place)), "dataset": part["of"]})
        record[f"{group} paper"] = Cell(one["paper"], scale=scale)
        record[f"{group} ours"] = Cell(ours, one["ours_spread"], scale=scale)
        record[f"{group} difference"] = Cell(None if ours is None else ours - one["paper"], scale=scale)
    scaled = [f"losses on natural inputs times {part['natural_scale']:,}"] if part["natural_scale"] != 1 else []
    notes, kind = [*scaled, *part["protocol"]], "paper" if groups[0] else ""
    about = ("regime", "input", "dataset")
    return listed(title, list(records.values()), *columns, notes=notes, kind=kind, about=about)


def claims(found: Sequence[Document], title: str) -> list[Table]:
    """The paper's claims with a verdict on each; of several seeds, for how many each holds."""
    columns = (
        Column("verdict", "verdict", figure="verdict"),
        Column("seeds", "seeds"),
        *(Column(name, name, "name") for name in ("claim", "paper", "ours")),
    )
    records = []
    for one in found:
        verdict = Cell(one["verdict"], style={"holds": "good", "fails": "bad"}.get(one["verdict"], "quiet"))
        seeds = f"{one['seeds_holding']} of {one['seeds']}"
        records.append({**one, "label": one["claim"], "dataset": one["of"], "verdict": verdict, "seeds": seeds})
    return [listed(title, records, *columns, kind="claim", about=("label", "dataset"))] if records else []


def comparison(document: Document) -> list[Table]:
    """Two runs side by side: options that differ, and results."""
    a, b = (f"{run['run']}, {run['status']}" for run in document["runs"])
    sides = (("a", "A"), ("b", "B"))
    options = text_table("", "both were started with the same options")
    if document["configuration"]:
        options = listed(
            "Options that differ",
            [{name: plain(value) or NONE for name, value in row.items()} for row in document["configuration"]],
            *(Column(name, heading, "name") for name, heading in (("name", "option"), *sides)),
            notes=[f"{document['equal']} other options are equal"],
        )
    results = text_table("", "neither has results")
    if document["results"]:
        numbers = (Column(name, heading, "short") for name, heading in (*sides, ("difference", "B - A")))
        results = listed("Results", document["results"], Column("name", "figure", "name"), *numbers)
    return [text_table("", f"A: {a}", f"B: {b}"), options, results]


def shown_report(document: Document) -> list[Table] | None:
    """What `report` puts on a terminal: a comparison, the files that were written, or the report itself."""
    if "configuration" in document:
        return comparison(document)
    if document.get("written") is None:
        return report(document, cut=True)
    lines = [f"wrote {one['path']} ({size(one['size'])})" for one in document["written"] if one["path"] != "-"]
    none = [] if document["written"] else ["nothing to draw: no run has a matrix, a series or a curve"]
    return [text_table("", *lines, *none)] if lines or none else None


# reproductions and the demo


def reproduction(document: Document) -> list[Table]:
    """The planned steps, or the results and where they are."""
    if document["planned"]:
        return _planned_steps(document)
    return [*reproduced(document), text_table("", *map(from_here, document["files"]), f"run {document['run']}")]


def reproduced(document: Document) -> list[Table]:
    """What a finished reproduction shows: the paper's figures beside ours with verdicts, and means over seeds."""
    compared = [one for one in (document["report"] or {}).get("paper", ()) if one["ours"] is not None]
    found = paper(compared)
    if document["report"] and not compared:
        found = [matrix(one) for one in document["report"]["matrices"]]
    return [*found, *map(_means, document["tables"])]


def steps(document: Document) -> Table:
    """Every step of a reproduction with its run."""
    return listed(
        "Runs",
        [{**row, "configuration": (row["config_hash"] or "")[:12]} for row in document["steps"]],
        Column("step", "step", "name"),
        Column("run", "run"),
        Column("configuration", "configuration"),
        Column("seconds", "took", "duration"),
    )


def _means(document: Document) -> Table:
    """Means over seeds, those of the paper below a line."""
    columns = (Column("name", document["heading"], "name"),
               *(Column(name, name, form) for name, form in document["columns"].items()))  # fmt: skip
    rows = []
    for row in document["rows"]:
        cells = [Cell(mean["value"], mean["spread"]) if (mean := row["means"].get(one.key)) else Cell("")
                 for one in columns[1:]]  # fmt: skip
        rows.append(Row((Cell(row["name"]), *cells), total=row["name"] == "paper"))
    return Table(document["title"], columns, tuple(rows), tuple(document["notes"]))


def _planned_steps(document: Document) -> list[Table]:
    steps = document["steps"]
    waiting = sum(row["state"] != "done" for row in steps)
    found = listed(
        "Steps",
        [row | {"state": row["state"] + (f", run {short(row['run'])}" if row["run"] else "")} for row in steps],
        Column("number", "", "count"),
        Column("step", "step", "name"),
        Column("state", "state", "name"),
        Column("seconds", "took", "duration"),
        notes=[f"{waiting} of {counted(len(steps), 'step')} to do" if waiting else "all steps are done"],
    )
    return [found, text_table("Commands", *(line for row in steps for line in continued(row["command_line"])))]


def continued(command_line: str, width: int = 78) -> list[str]:
    """A command in lines that a shell takes together."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command_line)):
        if lines[-1].strip() and len(lines[-1]) + len(word) > width - 2:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {printable(word)}" if lines[-1] else printable(word)
    return lines


def demo(document: Document) -> list[Table]:
    """The attack and its pictures, the matrix, the page, and what to try next."""
    pictures = [from_here(image["files"]["figure"]) for image in document["attack"]["images"]]
    return [
        *attack(document["attack"]),
        text_table("", *pictures),
        matrix(matrix_of(document["evaluation"])),
        text_table("", "everything on one page, with pictures:", from_here(document["page"])),
        text_table("Try next", *document["next"]),
    ]


# runs and checks


_STATES = {
    "ok": "good",
    "completed": "good",
    "missing": "doubtful",
    "interrupted": "doubtful",
    "crashed": "bad",
    "failed": "bad",
    "broken": "bad",
}


def runs(document: Document) -> list[Table]:
    """A line a run: what it was, what came of it, and how it ended."""
    columns = (
        Column("run", "run", "run"),
        Column("name", "name", "name"),
        Column("command", "command"),
        Column("dataset", "data set", "name"),
        Column("regime", "regime", "name"),
        Column("epsilon", "epsilon", "epsilon", optional=True),
        Column("result", "result", "name"),
        Column("state", "status"),
        Column("seconds", "took", "duration", optional=True),
        Column("tags", "tags", "name", optional=True),
    )
    records = [
        run
        | {
            "state": _state(run["status"]),
            "tags": plain(run["tags"]),
            "dataset": _SHORT_HASH.sub("", plain(run["dataset"])),
        }
        for run in document["runs"]
    ]
    known = [one for one in columns if any(record[one.key] not in (None, "") for record in records)]
    return [listed("", records, *known) if records else text_table("", "no runs")]


#: What a list leaves out of the id of a data set: `mnist-5k@6dbef627` is `mnist-5k`.
_SHORT_HASH = re.compile("@[0-9a-f]{8}$")
#: What a photo table says of the attack, from the configuration of its run.
_ATTACKED = ("attack", "steps", "restarts", "norm", "detector", "region")


def run(document: Document) -> list[Table]:
    """One run: itself, its configuration, photos, matrix, numbers and files, and what can be done with it."""
    environment = document["environment"]
    known: dict[str, Value] = {key: document[key] for key in ("run", "dir", "command", "status", "started")}
    known["took"] = None if document["seconds"] is None else duration(document["seconds"])
    known["exit code"] = None if document["exit_code"] is None else str(document["exit_code"])
    names = ("error", "name", "tags", "note", "seed", "device", "dataset", "model", "result", "parent")
    known |= {key: plain(document.get(key)) for key in names}
    known |= {key: environment.get(key) for key in ("latcli", "torch")}
    known["command line"] = command_line(document)
    found = [facts(known)]
    if document["config"]:
        found += _configuration(document["config"])
    if document["images"] and set(_ATTACKED) <= document["config"].keys():
        # The names of its regions are not what each region came to.
        attacked = {"classifier": document["model"], **document["config"], **document, "regions": ()}
        most = PHOTOS if len(document["images"]) > MANY else None
        found.append(photo_table({**attacked, "epsilon": _only_epsilon(document)}, most))
    metric, file = Column("name", "metric", "name"), Column("name", "file", "name")
    files, total = document["artifacts"][:MANY], document["totals"]["artifacts"]
    notes = (f"the first {len(files):,} of {total:,} files",) if len(files) < total else ()
    tables = (
        listed(
            "Cells",
            document["cells"],
            Column("label", "model", "name"),
            Column("input", "input", "name"),
            Column("n", "n", "count"),
            Column("loss", "loss", "number"),
            Column("accuracy", "accuracy", "percent"),
            Column("epsilon", "epsilon", "epsilon"),
            Column("attack", "attack", "name", optional=True),
            Column("steps", "steps", "count", optional=True),
            Column("restarts", "starts", "count", optional=True),
            Column("seconds", "took", "duration", optional=True),
        ),
        listed(
            "Metrics", document["metrics"], metric, Column("step", "step", "count"), Column("value", "value", "short")
        ),
        listed("Files", files, file, Column("kind", "kind", "name"), Column("size", "size", "size"), notes=notes),
    )
    found += [table for table in tables if table.rows]
    return [*found, text_table("Resume with", document["resume"])] if document["resume"] else found


def _only_epsilon(run: Document) -> float | None:
    """What a run's photos were attacked with; None where it differs, or was searched for."""
    epsilons = {image["epsilon"] for image in run["images"]}
    return epsilons.pop() if len(epsilons) == 1 and run["config"].get("smallest_epsilon") is None else None


def _configuration(config: Document) -> list[Table]:
    """Options as a list of facts; those that hold records, such as an evaluation's models, as tables of their own."""
    nested = {name: value for name, value in config.items()
              if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)}  # fmt: skip
    found = [facts({name: plain(value) for name, value in config.items() if name not in nested}, "Configuration")]
    for name, records in nested.items():
        keys = dict.fromkeys(key for record in records for key in record if plain(record[key]))
        columns = (Column(key, key.replace("_", " "), "name") for key in keys)
        texts = [{key: plain(record.get(key)) for key in keys} for record in records]
        found.append(listed(f"Configuration: {name}", texts, *columns))
    return found


def command_line(run: Document) -> str:
    """The command that repeats a run, as a shell takes it."""
    return " ".join(["latcli", *(shlex.quote(printable(word)) for word in run["argv"][1:])])


def verification(document: Document) -> list[Table]:
    """One line where all is well, else a line a problem."""
    if document["ok"]:
        checked = f"{counted(document['checked'], 'file')} of {counted(len(document['runs']), 'run')}"
        return [text_table("", f"{checked} {'is' if document['checked'] == 1 else 'are'} as written")]
    damage = [{"run": "database", "fault": "damaged", "detail": text} for text in document["database"]]
    run, file = Column("run", "run", "name"), Column("name", "file", "name")
    found = (run, file, Column("fault", "fault"), Column("detail", "detail", "name"))
    return [listed("", [*document["problems"], *damage], *found)]


def removal(document: Document) -> list[Table]:
    """A line for each run that is gone."""
    return [text_table("", *(f"removed {one}" for one in document["removed"]))]


def path(document: Document) -> str:
    """A path for use by a shell, as it is."""
    return str(document["path"])


def classes(document: Document) -> list[Table]:
    """A line for each class: index, name, and what it is."""
    columns = (
        Column("index", "index"),
        Column("name", "class"),
        Column("wordnet_id", "WordNet id", optional=True),
        Column("description", "description", optional=True),
    )
    records = [{**one, "description": Cell(one["description"] or "", style="quiet")} for one in document["classes"]]
    return [listed("", records, *(one for one in columns if any(plain(record[one.key]) for record in records)))]


def checks(document: Document) -> list[Table]:
    """A line for each check, and its hint below."""
    found = listed(
        "",
        [one | {"state": _state(one["state"]), "hint": Cell(one["hint"], style="quiet")} for one in document["checks"]],
        Column("name", "what", "name"),
        Column("state", "state"),
        Column("detail", "detail", "name", stack="detail"),
        Column("hint", "", "name", stack="detail"),
    )
    return [found]


def _state(state: str) -> Cell:
    return Cell(state, style=_STATES.get(state, ""))


#: What each command puts on a terminal: tables, a text that is printed as it is, or nothing.
DOCUMENTS: dict[str, Callable[[Document], list[Table] | str | None]] = {
    "attack": attack,
    "mask": mask,
    "train": train,
    "eval": evaluation,
    "report": shown_report,
    "reproduce": reproduction,
    "demo": demo,
    "doctor": checks,
    "classes": classes,
    "runs list": runs,
    "runs show": run,
    "runs verify": verification,
    "runs rm": removal,
    "runs path": path,
}
