"""Signals that are put off while a piece of work ends: remembered, delivered, and never put off twice."""

from __future__ import annotations

import signal

import pytest

from latcli.commands.training_steps import postponed


@pytest.mark.parametrize(
    ("times", "deliver", "expected"),
    [
        pytest.param(1, False, [0], id="it comes at the end"),
        pytest.param(1, True, [], id="it comes when it is asked for"),
        pytest.param(3, False, [0], id="a second one is not put off"),
    ],
)
def test_an_interrupt_is_put_off_until_it_suits(times: int, deliver: bool, expected: list[int]) -> None:
    reached: list[int] = []
    terminate = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def work() -> None:
        with postponed() as pending:
            signal.raise_signal(signal.SIGTERM)  # what is ignored stays ignored
            assert pending.number is None
            for time in range(times):
                signal.raise_signal(signal.SIGINT)
                assert pending.has_waited(0.0)
                if deliver:
                    pending.deliver(pending.number)
                reached.append(time)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.signal(signal.SIGTERM, terminate) is signal.SIG_IGN
