"""Several processes do the work of one: with its results, under whatever starts them, none outliving the others."""

import json
import os
import pickle
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny_model
import torch
from photo_set import save, write_photos
from PIL import Image
from rank_cases import CASES, norm_inputs, outcome, passed, small_digits
from tiny_model import save_photo
from torch import nn

from latcli.engine.distributed import GlobalBatchNorm, Ranks, use_global_norms, world_of
from latcli.engine.models.small import resnet18
from latcli.engine.precision import gradient_model
from latcli.engine.training.loop import DivergedError
from latcli.errors import ExitCode, LatcliError, UsageError

SCRIPT = Path(__file__).with_name("rank_cases.py")
TRAIN = ("train", "--dataset", "mnist-5k", "--preset", "quick", "--precision", "fp32", "--device", "cpu")
SHORT = (*TRAIN, "--regime", "natural", "--batch", "16", "--steps", "4")
LONG = (*TRAIN, "--regime", "natural", "--batch", "16", "--steps", "4000", "--checkpoint-every", "20")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# the same curve, by two processes of the library


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each of two ranks found out."""
    port, environment = str(free_port()), os.environ | {"OMP_NUM_THREADS": "1"}
    files = [tmp_path_factory.mktemp("ranks") / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(file), str(rank), port], env=environment)
        for rank, file in enumerate(files)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    return [torch.load(file, weights_only=False) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_the_curve_of_one(outcomes, name):
    first, second = (one[name] for one in outcomes)
    alone = outcome(CASES[name], small_digits())
    assert first["reports"] == second["reports"]
    for expected, found in zip(alone["reports"], first["reports"], strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=0, abs=CASES[name].rounding)
        assert (found.clean_accuracy, found.adversarial_accuracy) == (
            expected.clean_accuracy,
            expected.adversarial_accuracy,
        )
    for part in ("last", "average"):
        assert list(first[part]) == list(alone[part])
        for tensor, expected in alone[part].items():
            assert torch.equal(first[part][tensor], second[part][tensor]), tensor
            torch.testing.assert_close(first[part][tensor], expected, rtol=0, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_norm_over_two_ranks_is_one_over_all_images(outcomes, momentum):
    """In fp64, against torch's own on the whole batch: parameters' gradients are sums over the ranks."""
    first, second = (one[f"norm {momentum}"] for one in outcomes)
    for name, expected in passed(*norm_inputs(momentum)).items():
        mine, other = first[name], second[name]
        if name in ("gradient of weight", "gradient of bias"):
            found = mine + other
        elif name in ("y", "gradient of x"):
            found = torch.cat((mine, other))
        else:
            found = mine
            assert torch.equal(mine, other)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_all_ranks_stop_where_the_loss_of_one_is_not_finite(outcomes):
    assert [one["nan"] for one in outcomes] == ["training diverged at step 3: the loss is not finite"] * 2


def test_batch_norms_are_replaced_and_nothing_is_renamed():
    net = resnet18((1, 8, 8), 10)
    fast = gradient_model(net, (1, 8, 8), form="fp32")
    tensors, x_BCHW = net.state_dict(), torch.rand(4, 1, 8, 8)
    expected_BK = net.eval()(x_BCHW)

    use_global_norms(net.train())

    kinds = {type(module) for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {GlobalBatchNorm}
    assert {name: value.data_ptr() for name, value in net.state_dict().items()} == {
        name: value.data_ptr() for name, value in tensors.items()
    }
    assert torch.equal(net.eval()(x_BCHW), expected_BK)
    with torch.no_grad():
        net.bn1.running_mean.add_(1.0)  # as training does
    fast.refresh()
    torch.testing.assert_close(fast(x_BCHW), net(x_BCHW))


def test_norms_of_a_kind_that_is_not_known_are_refused_where_they_learn():
    class Odd(nn.BatchNorm2d):
        pass

    use_global_norms(nn.Sequential(Odd(3)).eval())
    with pytest.raises(UsageError, match="layers of the kind Odd"):
        use_global_norms(nn.Sequential(Odd(3)))


def test_an_error_keeps_its_kind_its_hint_and_its_code_on_the_way_to_another_process():
    for error in (UsageError("m", "h"), LatcliError("m", "h", ExitCode.NO_OBJECT), DivergedError(3, "the loss")):
        sent = pickle.loads(pickle.dumps(error))
        assert (type(sent), str(sent), sent.hint, sent.exit_code) == (
            type(error),
            error.message,
            error.hint,
            error.exit_code,
        )


# how many processes there are

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "3"}
SRUN |= {"SLURM_NNODES": "2"}
BY_HAND = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "expected"),
    [
        (None, None, {}, (1, 1)),
        (2, 2, BY_HAND, (2, 2)),
        (None, None, TORCHRUN, (2, 3)),
        (2, 3, TORCHRUN | SRUN, (2, 3)),
        (None, None, SRUN, (3, 2)),
        (None, None, SRUN | {"SLURM_JOB_NAME": "interactive"}, (1, 1)),
        (2, None, {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}, (2, 1)),
        (None, 2, {"MASTER_PORT": "1"}, "needs MASTER_ADDR, NODE_RANK in the environment"),
        (4, None, TORCHRUN, "2 processes on 3 nodes were started"),
        (None, None, {n: v for n, v in SRUN.items() if n != "SLURM_NTASKS_PER_NODE"}, "SLURM_NTASKS_PER_NODE is not"),
    ],
)
def test_a_world_is_what_was_started_or_what_is_asked_for(monkeypatch, devices, nodes, environment, expected):
    for name in {**TORCHRUN, **SRUN, **BY_HAND}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, tuple):
        assert world_of(devices, nodes) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            world_of(devices, nodes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--devices", "2", "--batch", "15"), "a batch of 15 cannot be divided into 2 equal shares"),
        (("--nodes", "2"), "--nodes 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK"),
        (("--devices", "2", "--device", "cuda:0"), "--device cuda:0 cannot be used by several processes"),
    ],
)
def test_a_world_that_cannot_be_is_refused_before_anything_is_started(latcli, tmp_path, options, said):
    done = latcli(*TRAIN, "--steps", "2", *options, "--store", tmp_path / "runs")
    assert done.code == 2
    assert said in done.error[0]
    assert not (tmp_path / "runs").exists()


# real processes of the command


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


@pytest.fixture
def start(work, latcli_environment):
    """Start a command; whatever still runs at the end is killed, with all that it has started."""
    begun = []

    def popen(*arguments, by=(), **environment):
        command = (sys.executable, *(by or ("-m", "latcli")), *arguments)
        environment = latcli_environment | {"OMP_NUM_THREADS": "1"} | environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen(command, cwd=work, env=environment, **pipes))
        return begun[-1]

    yield popen
    for process in begun:
        for descendant in descendants(process):
            descendant.kill()
        process.kill()
        process.communicate()


def descendants(process):
    try:
        return list(psutil.Process(process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def until(reached, process=None):
    """Wait for what must be reached within minutes, and before the process ends."""
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)


def has_ended(process):
    """Whether it is gone; one that nobody has waited for counts as gone."""
    return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)


def training(process, work):
    """Rank 1 of a command, once steps have been taken and recorded."""
    until(lambda: list(work.glob("runs/*-train-*/state.safetensors")) and steps_done(work) > 0, process)
    (other,) = descendants(process)
    return other


def steps_done(work):
    return int(query(work, "SELECT coalesce(max(step), 0) FROM metrics")[0])


def query(work, sql):
    with closing(sqlite3.connect(work / "runs" / "latcli.db")) as connection:
        return tuple(connection.execute(sql).fetchone())


def error_of(stderr):
    """The error's line; it and its hint are the only ones of their kind."""
    error, hint = stderr.strip().splitlines()[-2:]
    assert hint.startswith("hint: ")
    assert "Traceback" not in stderr
    assert stderr.count("error: ") == 1
    return error.removeprefix("error: ")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The final loss of SHORT in one process."""
    command = [sys.executable, "-m", "latcli", *SHORT, "--json", "--store", str(tmp_path_factory.mktemp("alone"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(json.loads(done.stdout)["final"]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("by", ["latcli", "torchrun", "srun", "hand"])
def test_two_processes_make_one_run(start, work, alone, by):
    """Whoever starts them; the score is that of one process but for rounding."""
    port, short = str(free_port()), (*SHORT, "--json")
    if by == "latcli":
        processes = [start(*short, "--devices", "2")]
    elif by == "torchrun":
        agent = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d")
        agent += (f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1", "-m", "latcli")
        processes = [start(*short, by=agent) for _ in range(2)]
    elif by == "srun":
        shared = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": port, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
        shared |= {"SLURM_NNODES": "2", "SLURM_LOCALID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port}
        processes = [start(*short, SLURM_PROCID=rank, SLURM_NODEID=rank, **shared) for rank in ("0", "1")]
    else:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes = [start(*short, "--nodes", "2", NODE_RANK=node, **shared) for node in ("0", "1")]
    ended = [process.communicate(timeout=120) for process in processes]

    assert {process.returncode for process in processes} == {0}, ended
    (document,) = [json.loads(stdout) for stdout, _ in ended if stdout]
    assert document["devices"] == 2
    assert document["final"]["loss"] == pytest.approx(alone, abs=1e-4)
    assert query(work, "SELECT count(*), min(status) FROM runs") == (1, "completed")
    assert sum(stderr.count("run 2") for _, stderr in ended) == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_within_seconds_and_fails_the_run(start, work, killed):
    process = start(*LONG, "--devices", "2")
    other = training(process, work)
    (process, other)[killed].kill()
    if killed == 0:
        until(lambda: has_ended(other))
    else:
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 1
        assert error_of(stderr).startswith("another rank has ended")
        assert query(work, "SELECT status, exit_code FROM runs") == ("failed", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "rank"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 0)])
def test_a_signal_to_any_rank_stops_all_at_one_step_and_the_run_goes_on(start, work, number, code, rank):
    process = start(*LONG, "--devices", "2")
    other = training(process, work)
    os.kill((process.pid, other.pid)[rank], number)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == code, stderr
    assert query(work, "SELECT status, exit_code FROM runs") == ("interrupted", code)
    until(lambda: has_ended(other))
    reached, devices = steps_done(work), str(1 + rank)
    again = start("train", "--resume", "latest", "--device", "cpu", "--devices", devices)
    until(lambda: steps_done(work) > reached, again)
    again.send_signal(signal.SIGINT)
    _, stderr = again.communicate(timeout=30)
    assert again.returncode == 130, stderr
    assert ("processes before the interruption: 2, now: 1" in stderr) == (devices == "1")
    assert query(work, "SELECT count(*) FROM runs") == (1,)


# attack, mask, eval

TINY = ("--classifier", "tiny_model:tiny", "--device", "cpu", "--precision", "fp32")
TWO_CLASSES = """
from tiny_model import TinyNet

class Two(TinyNet):
    class_names = ("green", "red")

    def forward(self, x):
        return super().forward(x)[:, :2]
"""
ATTACK = ("attack", "photos", *TINY, "--detector", "cam", "--steps", "5", "--batch", "2", "--no-figures", "--json")


@pytest.fixture
def photos(work):
    """Seven photos of several sizes, one of them broken, beside the classifier for them."""
    for seed in range(6):
        save_photo(work / "photos" / f"{seed}.png", 40 + 3 * seed, 44, seed)
    (work / "photos" / "3x.png").write_bytes(b"nothing")
    shutil.copy(tiny_model.__file__, work)
    return work / "photos"


def document_of(process, code=0):
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == code, stderr
    return json.loads(stdout)


def assert_same_photos(found, expected, work):
    """Predictions to five digits; levels to within the noise that the other photos of a batch make."""
    assert [one["image"] for one in found["images"]] == [one["image"] for one in expected["images"]]
    assert [one["image"] for one in found["failures"]] == [one["image"] for one in expected["failures"]]
    for mine, other in zip(found["images"], expected["images"], strict=True):
        for name in ("sha256", "label", "clean", "boxes", "object_percent"):
            assert mine[name] == other[name]
        for kind, path in mine["files"].items():
            levels, expected_levels = (np.asarray(Image.open(work / one)) for one in (path, other["files"][kind]))
            assert np.mean(levels != expected_levels) < 0.01, kind
        if "adversarial" in mine:
            assert mine["fooled"] == other["fooled"]
            assert mine["adversarial"]["confidence"] == pytest.approx(other["adversarial"]["confidence"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--regions", "background,all"), ("--dry-run",)])
def test_two_processes_attack_the_photos_of_one(start, photos, work, more):
    expected = document_of(start(*ATTACK, *more), 1)
    found = document_of(start(*ATTACK, *more, "--devices", "2"), 1)
    if more == ("--dry-run",):
        assert [one["image"] for one in found["planned"]] == [one["image"] for one in expected["planned"]]
        return
    assert_same_photos(found, expected, work)
    verified = json.loads(start("runs", "verify", "--json").communicate(timeout=60)[0])
    assert (verified["ok"], verified["checked"]) == (True, 2 * len(found["images"]) * 3 - (12 if more else 0))
    assert not list(work.glob("runs/*/.latcli-*"))


@pytest.mark.slow
def test_two_processes_find_the_masks_of_one_and_more_than_there_are_photos_do_no_harm(start, photos, work):
    documents = [
        document_of(start("mask", *words, *TINY, "--detector", "cam", "--json", "--out", f"masks {index}"), code)
        for index, (words, code) in enumerate(
            [
                (("photos",), 1),
                (("photos", "--devices", "2"), 1),
                (("photos/0.png", "photos/1.png", "--devices", "3"), 0),
            ]
        )
    ]
    assert_same_photos(documents[1], documents[0], work)
    assert [one["image"] for one in documents[2]["images"]] == ["photos/0.png", "photos/1.png"]


@pytest.mark.slow
def test_two_processes_evaluate_what_one_does(start, work):
    write_photos(work / "squares", test=4, masks=work / "masks")
    shutil.copy(tiny_model.__file__, work)
    (work / "two.py").write_text(TWO_CLASSES)
    words = ("eval", "two.py:Two", "--dataset", "folder:squares")
    words += ("--steps", "2", "--batch", "2", "--masks", "masks", "--images", "6", "--reliance", "--strong")
    words += ("--strong-budget", "quick", "--curve", "steps=1,2", "--json", "--device", "cpu", "--precision", "fp32")
    expected, found = (document_of(start(*words, *more)) for more in ((), ("--devices", "2")))
    for mine, other in zip(found["cells"], expected["cells"], strict=True):
        assert (mine["input"], mine["n"], mine["accuracy"]) == (other["input"], other["n"], other["accuracy"])
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert [one["axis"] for one in found["curves"]] == [one["axis"] for one in expected["curves"]]
    assert found["reliance"] == expected["reliance"]
    assert found["warnings"] == expected["warnings"]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_an_attack_which_goes_on_with_the_other_photos(start, photos, work, killed):
    (photos / "3x.png").unlink()
    slow = work / "slow.py"
    slow.write_text(
        "import time\nfrom tiny_model import TinyNet\n\nclass Slow(TinyNet):\n"
        "    def forward(self, x):\n        time.sleep(0.05)\n        return super().forward(x)\n"
    )
    words = [*ATTACK]
    words[words.index("tiny_model:tiny")] = "slow.py:Slow"
    words[words.index("--batch") + 1] = "1"
    process = start(*words, "--devices", "2")
    until(lambda: list(work.glob("runs/*-attack-*/?-adversarial.png")), process)
    (other,) = descendants(process)
    (process, other)[killed].kill()
    if killed:
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 1
        assert error_of(stderr).startswith("another rank has ended")
        assert query(work, "SELECT status FROM runs") == ("failed",)
    until(lambda: has_ended(other))
    kept = {path: path.stat().st_mtime_ns for path in work.glob("runs/*-attack-*/?-adversarial.png")}

    again = ("attack", "--resume", "latest", "--classifier", "slow.py:Slow", "--device", "cpu")
    resumed = document_of(start(*again, "--devices", "2", "--json"))
    assert [one["image"] for one in resumed["images"]] == [f"photos/{number}.png" for number in range(6)]
    assert query(work, "SELECT count(*), min(status) FROM runs") == (1, "completed")
    assert query(work, "SELECT count(*), count(DISTINCT image) FROM attacks") == (6, 6)
    assert not list(work.glob("runs/*/.latcli-*"))
    assert sum(path.stat().st_mtime_ns == was for path, was in kept.items()) >= len(kept) - 2


#: What differs on rank 1, which has a folder of its own as on another machine: the command, and what rank 0 says.
FOLDER = ("train", "--dataset", "folder:set", "--architecture", "paper-cnn", "--batch", "2", "--steps", "2")
DIFFERENCES = {
    "a file is missing": ((*FOLDER, "--preset", "quick"), "rank 1: "),
    "other data": ((*FOLDER, "--preset", "quick"), "are not the same on rank 1 as on rank 0"),
    "other photos": (ATTACK, "the photos, their labels or the weights are not the same on rank 1 as on rank 0"),
    "the runs are out of sight": ((*ATTACK, "--center", "0.4", "--detector", "auto"), "is not there"),
    "another version": (ATTACK, "rank 1 has latcli "),
}


@pytest.mark.slow
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_what_differs_on_another_rank_is_one_line_of_rank_0(start, work, difference):
    command, said = DIFFERENCES[difference]
    for rank, digits in enumerate((2, {"a file is missing": 0, "other data": 3}.get(difference, 2))):
        save_photo(work / str(rank) / "photos" / "a.png", seed=rank if difference == "other photos" else 0)
        save_photo(work / str(rank) / "photos" / "b.png", 43)
        shutil.copy(tiny_model.__file__, work / str(rank))
        for split, name, number in product(("train", "test"), "ab", range(digits)):
            save(
                work / str(rank) / "set" / split / name / f"{number}.png", np.full((8, 8), 40 * number + rank, np.uint8)
            )
    program = "import os, sys, pathlib, latcli\nrank = os.environ['LOCAL_RANK']\nos.chdir(rank)\nsys.path[0] = ''\n"
    program += "latcli.__version__ += rank\n" if difference == "another version" else ""
    program += "from latcli.cli import main\n"
    if difference == "the runs are out of sight":
        program += "if rank == '1':\n    pathlib.Path.is_file = lambda path: False\n"
    (work / "there.py").write_text(program + "main()\n")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    processes = [start(*command, "--devices", "2", by=("there.py",), LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    (_, stderr), (_, silent) = [process.communicate(timeout=60) for process in processes]
    assert said in error_of(stderr)
    assert {process.returncode for process in processes} <= {1, 2}
    if difference in ("a file is missing", "other data", "other photos"):
        assert silent == ""
        assert command is not ATTACK or not (work / "0" / "runs").exists()


@pytest.mark.slow
def test_a_port_in_use_is_told_at_once(start, photos):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        process = start(*ATTACK, "--devices", "2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK="0")
        _, stderr = process.communicate(timeout=60)
    assert f"the port {port} (MASTER_PORT) cannot be used" in error_of(stderr)


def test_more_devices_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="--devices 8, but there are 1 CUDA devices"):
        Ranks(8, 1, "cuda")
