"""Option values that need more than a type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latcli.errors import ExitCode, UsageError
from latcli.options import parse_epsilon


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("0.031", 0.031), ("1", 1.0), ("255/255", 1.0), (" 2 / 255 ", 2 / 255), ("3e-2", 0.03)],
)
def test_an_epsilon_is_a_fraction_or_a_decimal(text: str, value: float) -> None:
    assert parse_epsilon(text) == value


OUT_OF_RANGE = ["0", "-0.1", "0/255", "-8/255", "256/255", "1.0001", "8", "nan", "inf", "inf/inf", "1e999"]
NO_NUMBERS = ["", "/", "8/", "/255", "8/0", "8/255/2", "eight", "8\\255", "8,255"]


@pytest.mark.parametrize("text", OUT_OF_RANGE + NO_NUMBERS)
def test_what_is_no_epsilon_is_a_usage_error_that_shows_both_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_epsilon(text)

    assert caught.value.exit_code is ExitCode.USAGE
    assert f"'{text}'" in caught.value.message
    assert "8/255" in caught.value.hint
    assert "0.031" in caught.value.hint


@given(st.text())
def test_any_text_is_an_epsilon_in_range_or_a_usage_error(text: str) -> None:
    try:
        value = parse_epsilon(text)
    except UsageError:
        return
    assert 0 < value <= 1
