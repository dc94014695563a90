"""A run cut short at every line of the store's code: by Ctrl-C, and by a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from form import Figures, full
from soundness import assert_sound, statuses

import latcli.store
from latcli.store.store import Store

PLAIN: dict[str, Any] = {"argv": [], "config": {}, "seed": 0, "device": "cpu"}
STORE_CODE = str(Path(latcli.store.__file__).parent)
#: In the short form every so many lines are tried, a prime, so that loops of the code are met at different lines.
STRIDE = 1 if full() else 61


def work(folder: Path) -> None:
    """A whole run, with a file that is replaced and one that is removed."""
    with Store.open(folder) as store, store.start_run("attack", **PLAIN) as run:
        for content in (b"first", b"second"):
            run.write_artifact("state.safetensors", content, "state")
        run.record_attack({"image": "1", "name": "hen.jpg", "position": 0, "epsilon": 0.03})
        run.remove_artifact("state.safetensors")


def at_line(number: int, do: Callable[[], None]) -> Callable[..., Any]:
    """A trace function that calls `do` at the `number`th line of the store that is executed."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(STORE_CODE):
            return None
        if event == "line":
            seen += 1
            if seen == number:
                sys.settrace(None)
                do()
        return trace

    return trace


def in_a_child(folder: Path, number: int, do: Callable[[], None]) -> int:
    """Work in a process of its own that is cut short at a line; what it ended with, 0 where it has fewer lines."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        sys.settrace(at_line(number, do))
        work(folder)
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store whose schema is there already."""
    work(tmp_path / "runs")
    return tmp_path / "runs"


def test_a_kill_at_any_line_leaves_a_sound_store(folder: Path, figures: Figures) -> None:
    number, kills = 1, 0
    while (code := in_a_child(folder, number, kill)) == -signal.SIGKILL:
        assert_sound(folder)
        number, kills = number + STRIDE, kills + 1

    assert code == 0
    found = statuses(folder)
    assert set(found) == {"completed", "crashed"}
    figures(f"{kills} kills, one at each {STRIDE}th line; {found.count('crashed')} runs crashed")


def test_an_interrupt_at_any_line_leaves_a_sound_store(folder: Path, figures: Figures) -> None:
    """Between a run's first row and its `with` block, and at the block's last line, nobody can close it any more."""
    number, interrupts = 1, 0
    while (code := in_a_child(folder, number, interrupt)) == 130:
        assert_sound(folder)
        number, interrupts = number + STRIDE, interrupts + 1

    assert code == 0
    found = statuses(folder)
    assert set(found) <= {"completed", "interrupted", "crashed"}
    assert found.count("crashed") <= 1 + len(found) // 20
    documents = [json.loads(path.read_text()) for path in folder.glob("*/run.json")]
    assert sorted(document["status"] for document in documents) == sorted(found)
    ended = ", ".join(f"{found.count(status)} {status}" for status in sorted(set(found)))
    figures(f"{interrupts} interrupts, one at each {STRIDE}th line; runs: {ended}")
