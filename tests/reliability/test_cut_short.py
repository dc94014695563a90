"""A run cut short at every line of the store's code: by Ctrl-C, and by a kill."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from helpers import assert_sound, statuses

import latcli.store
from latcli.store.store import Store

STORE_CODE = str(Path(latcli.store.__file__).parent)


def work(folder):
    """A whole run, with a file that is replaced and one that is removed."""
    with Store.open(folder) as store, store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        for content in (b"first", b"second"):
            run.write_artifact("state.safetensors", content, "state")
        run.write_artifact("checkpoint.safetensors", b"third", "checkpoint")
        run.insert("attacks", [{"image": "hen.jpg", "sha256": "1", "epsilon": 0.03}])
        run.remove_artifact("state.safetensors")


def in_a_child(folder, number, do):
    """Work in a process that calls `do` at the `number`th line of the store; its exit code, 0 if there are fewer."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if not frame.f_code.co_filename.startswith(STORE_CODE):
            return None
        if event == "line":
            seen += 1
            if seen == number:
                sys.settrace(None)
                do()
        return trace

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        sys.settrace(trace)
        work(folder)
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


#: Every so many lines are tried: a prime, so that loops of the code are met at different lines.
@pytest.mark.parametrize("stride", [97, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("do", "ended"), [(kill, -signal.SIGKILL), (interrupt, 130)], ids=["kill", "interrupt"])
def test_a_run_cut_short_at_any_line_leaves_a_sound_store(tmp_path, do, ended, stride):
    folder = tmp_path / "runs"
    work(folder)
    number, cuts = 1, 0
    while (code := in_a_child(folder, number, do)) == ended:
        assert_sound(folder, killed=True)
        number, cuts = number + stride, cuts + 1
    assert code == 0
    found = statuses(folder)
    assert set(found) <= {"completed", "crashed", "interrupted"}
    # Between a run's row and its `with` block, and at the block's last line, nobody can close it any more.
    assert do is kill or found.count("crashed") <= 1 + len(found) // 20
    for path in folder.glob("*/run.json"):
        assert json.loads(path.read_text())["status"] in ("running", *found)
    print(f"cut short {cuts} times, at each {stride}th line: " + ", ".join(f"{found.count(s)} {s}" for s in set(found)))
