"""Signals that are put off while a piece of work ends: remembered, delivered, and never put off twice."""

from __future__ import annotations

import signal

import pytest

from latcli.commands.signals import postponed


def test_an_interrupt_is_remembered_until_the_block_asks() -> None:
    with postponed() as pending:
        signal.raise_signal(signal.SIGINT)
        assert pending.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            pending.deliver(pending.number)
        pending.number = None


def interrupted(times: int, reached: list[int]) -> None:
    with postponed():
        for time in range(times):
            signal.raise_signal(signal.SIGINT)
            reached.append(time)


def test_an_interrupt_that_nobody_asked_for_comes_at_the_end() -> None:
    reached: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(1, reached)
    assert reached == [0]


def test_a_second_interrupt_is_not_put_off() -> None:
    reached: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(3, reached)
    assert reached == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with postponed() as pending:
            signal.raise_signal(signal.SIGTERM)
            assert pending.number is None
    finally:
        signal.signal(signal.SIGTERM, before)
