"""Results in plain values: what goes into JSON and columns comes back as it was, and anything else is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latcli.results import (
    DocumentError,
    Guess,
    Label,
    Prediction,
    canonical_json,
    column_types,
    columns,
    from_columns,
    read,
    to_json,
)


@dataclass(frozen=True)
class Row:
    """Every kind of field that rows have."""

    name: str
    label: Label
    clean: Prediction
    fooled: bool
    loss: float | None
    notes: tuple[str, ...] = ()
    files: dict[str, str] | None = None
    target: Label | None = None


finite = st.floats(allow_nan=False, allow_infinity=False)
labels = st.builds(Label, index=st.integers(0, 999), name=st.text(), source=st.sampled_from(["given", "file"]))
guesses = st.builds(Guess, index=st.integers(0, 9), name=st.text(), p=finite)
predictions = st.builds(
    Prediction,
    prediction=st.text(),
    index=st.integers(0, 9),
    p_prediction=finite,
    confidence=finite,
    rank=st.integers(1, 10),
    loss=finite,
    top=st.lists(guesses, max_size=2).map(tuple),
)
rows = st.builds(
    Row,
    name=st.text(),
    label=labels,
    clean=predictions,
    loss=st.none() | finite,
    fooled=st.booleans(),
    notes=st.lists(st.text(), max_size=2).map(tuple),
    files=st.none() | st.dictionaries(st.text(), st.text(), max_size=2),
    target=st.none() | labels,
)


@given(rows.filter(lambda row: json.dumps(to_json(row)).isascii()))
def test_a_row_comes_back_from_json_and_from_columns(row):
    assert read(Row, json.dumps(to_json(row))) == row
    assert from_columns(Row, columns(row)) == row


def test_columns_are_named_by_their_place():
    clean = Prediction("hen", 8, 0.75, 0.75, 1, 0.3, (Guess(8, "hen", 0.75),))
    row = Row("a.jpg", Label(8, "hen", "given"), clean, True, math.nan)

    assert columns(row) == {
        "name": "a.jpg",
        "label_index": 8,
        "label_name": "hen",
        "label_source": "given",
        "clean_prediction": "hen",
        "clean_index": 8,
        "clean_p_prediction": 0.75,
        "clean_confidence": 0.75,
        "clean_rank": 1,
        "clean_loss": 0.3,
        "clean_top_json": '[{"index":8,"name":"hen","p":0.75}]',
        "fooled": 1,
        "loss": None,
        "notes_json": "[]",
        "files_json": None,
        "target_index": None,
        "target_name": None,
        "target_source": None,
    }
    assert list(columns(row)) == list(column_types(Row))


def test_plain_values():
    value = {"path": Path("a"), "numbers": (torch.tensor(1.5), math.inf), "name": "\udcff", "set": {2, 1}, 3: None}
    assert to_json(value) == {"path": "a", "numbers": [1.5, None], "name": "\\udcff", "set": [1, 2], "3": None}
    assert canonical_json({"b": 1, "a": math.nan}) == '{"a":null,"b":1}'
    with pytest.raises(TypeError):
        to_json(object())


def test_what_is_no_document_is_refused():
    for text in ("", "{", "[]", "{}", '{"index": "x", "name": "a", "source": "b"}', "[" * 5000, '{"index": 1}'):
        with pytest.raises(DocumentError):
            read(Label, text)


def test_what_is_missing_has_its_default_and_what_is_more_is_ignored():
    document = {"prediction": "hen", "index": 8, "p_prediction": 1, "confidence": 1.0, "rank": 1, "loss": 0, "new": 3}
    assert read(Prediction, document).top == ()
