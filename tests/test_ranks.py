"""Several processes train one model: as one would have, under whatever starts them, and none outlives the others."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import RunLatcli
from rank_cases import CASES, Case, norm_inputs, outcome, passed, small_digits
from torch import nn

from latcli.commands.train.ranks import gathered
from latcli.engine.models.small import resnet18
from latcli.engine.precision import gradient_model
from latcli.engine.training.global_norm import GlobalBatchNorm, use_global_norms
from latcli.engine.training.lifeline import Hub, Spoke
from latcli.engine.training.worlds import World, find_world
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError, UsageError
from latcli.options import TrainOptions
from latcli.session import Session

TWO = TrainOptions(devices=2)
SCRIPT = Path(__file__).with_name("rank_cases.py")
#: One of each kind: the others are the same code with other numbers, and slow.
QUICK = ("background", "free-mix", "trades", "norm-mix")
TRAIN = ("train", "--dataset", "mnist-5k", "--preset", "quick", "--precision", "fp32", "--device", "cpu")
LONG = (*TRAIN, "--regime", "natural", "--batch", "16", "--steps", "4000", "--checkpoint-every", "20")

Start = Callable[..., "subprocess.Popen[str]"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def two_ranks(folder: Path, task: str) -> list[Any]:
    """What each of two processes found out."""
    port, environment = free_port(), os.environ | {"OMP_NUM_THREADS": "1"}
    files = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(file), str(rank), str(port), task], env=environment)
        for rank, file in enumerate(files)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    return [torch.load(file, weights_only=False) for file in files]


# the same curve


@pytest.fixture(scope="module")
def quick_outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return two_ranks(tmp_path_factory.mktemp("quick"), ",".join((*QUICK, "norm", "diverged")))


@pytest.fixture(scope="module")
def slow_outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return two_ranks(tmp_path_factory.mktemp("slow"), ",".join(set(CASES) - set(QUICK)))


def same_curve(case: Case, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Rounding apart: 40 ulp of a weight near 1, where shaking all weights by one ulp gives up to 30; of a loss, the
    case's own."""
    alone = outcome(case, small_digits())
    assert first["reports"] == second["reports"]
    for expected, found in zip(alone["reports"], first["reports"], strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=0, abs=case.rounding)
        assert found.clean_accuracy == expected.clean_accuracy
        assert found.adversarial_accuracy == expected.adversarial_accuracy
    assert list(first["state"]) == list(alone["state"])
    for part in ("state", "weights"):
        for name, expected in alone[part].items():
            assert torch.equal(first[part][name], second[part][name]), name
            torch.testing.assert_close(first[part][name], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", QUICK)
def test_two_ranks_give_the_curve_of_one(quick_outcomes: list[Any], name: str) -> None:
    same_curve(CASES[name], *(outcomes[name] for outcomes in quick_outcomes))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - set(QUICK)))
def test_two_ranks_give_the_curve_of_one_everywhere(slow_outcomes: list[Any], name: str) -> None:
    same_curve(CASES[name], *(outcomes[name] for outcomes in slow_outcomes))


def test_a_batch_norm_over_two_ranks_is_one_over_all_images(quick_outcomes: list[Any]) -> None:
    """In fp64, against torch's own on the whole batch: parameters' gradients are sums over the ranks."""
    first, second = (outcomes["norm"] for outcomes in quick_outcomes)
    for momentum in (0.1, None):
        expected = passed(*norm_inputs(momentum))
        for name, value in expected.items():
            mine, other = first[momentum][name], second[momentum][name]
            if name in ("gradient of weight", "gradient of bias"):
                found = mine + other
            elif name in ("y", "gradient of x"):
                found = torch.cat((mine, other))
            else:
                found = mine
                assert torch.equal(mine, other)
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_batch_norms_are_replaced_and_nothing_is_renamed() -> None:
    net = resnet18((1, 8, 8), 10)
    fast = gradient_model(net, (1, 8, 8), form="fp32")
    names, parameters, buffers = list(net.state_dict()), list(net.parameters()), list(net.buffers())
    x_BCHW = torch.rand(4, 1, 8, 8)
    expected_BK = net.eval()(x_BCHW)

    use_global_norms(net)

    kinds = {type(module) for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {GlobalBatchNorm}
    assert list(net.state_dict()) == names
    assert [*map(id, net.parameters()), *map(id, net.buffers())] == [*map(id, parameters), *map(id, buffers)]
    assert torch.equal(net.eval()(x_BCHW), expected_BK)
    with torch.no_grad():
        net.norm.running_mean.add_(1.0)  # as training does
    fast.refresh()
    torch.testing.assert_close(fast(x_BCHW), net(x_BCHW))
    torch.testing.assert_close(gradient_model(net, (1, 8, 8), form="fp32")(x_BCHW), net(x_BCHW))


def test_all_ranks_stop_where_the_loss_of_one_is_no_number(quick_outcomes: list[Any]) -> None:
    said = [outcomes["diverged"] for outcomes in quick_outcomes]

    assert said == ["training diverged at step 3: the loss is not finite"] * 2


def test_norms_that_do_more_do_it_still_or_are_refused() -> None:
    import_torchvision()  # which timm imports, and which may not fit this torch
    from timm import layers

    norm = layers.BatchNormAct2d(3).eval()
    x_BFHW = torch.randn(2, 3, 4, 4)
    assert torch.equal(GlobalBatchNorm.of(norm)(x_BFHW), norm(x_BFHW))
    assert float(norm(x_BFHW).detach().min()) == 0.0

    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match="layers of the kind Odd"):
        use_global_norms(nn.Sequential(Odd(3)))


# who starts them

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "6",
    "RANK": "3",
    "LOCAL_RANK": "1",
}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "6",
    "SLURM_NTASKS_PER_NODE": "3",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
}
BY_HAND = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "expected"),
    [
        (None, None, {}, None),
        (1, 1, {"LOCAL_RANK": "0", "NODE_RANK": "3"}, None),
        (2, None, {}, World(2, 1, 0, 0, "latcli")),
        (2, None, {"LOCAL_RANK": "1"}, World(2, 1, 1, 1, "latcli")),
        (2, None, {"NODE_RANK": "7"}, World(2, 1, 0, 0, "latcli")),
        (2, 2, BY_HAND, World(2, 2, 2, 0, "latcli")),
        (2, 2, BY_HAND | {"LOCAL_RANK": "1"}, World(2, 2, 3, 1, "latcli")),
        (None, 2, BY_HAND, World(1, 2, 1, 0, "latcli")),
        (None, None, TORCHRUN, World(2, 3, 3, 1, "torchrun")),
        (2, 3, TORCHRUN, World(2, 3, 3, 1, "torchrun")),
        (None, None, TORCHRUN | SRUN, World(2, 3, 3, 1, "torchrun")),
        (None, None, TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, None),
        (None, None, SRUN, World(3, 2, 4, 1, "slurm")),
        (None, None, SRUN | {"SLURM_JOB_NAME": "interactive"}, None),
        (None, None, {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}, None),
    ],
)
def test_a_world_is_found(
    devices: int | None, nodes: int | None, environment: dict[str, str], expected: World | None
) -> None:
    assert find_world(devices, nodes, environment) == expected


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "said"),
    [
        (None, 2, {"MASTER_PORT": "1"}, "needs MASTER_ADDR, NODE_RANK in the environment"),
        (2, 2, BY_HAND | {"NODE_RANK": "2"}, "too large"),
        (2, None, {"LOCAL_RANK": "2"}, "too large"),
        (4, None, TORCHRUN, "torchrun has started 2 processes on 3 nodes"),
        (None, None, TORCHRUN | {"RANK": "one"}, "RANK in the environment is 'one'"),
        (None, None, {k: v for k, v in SRUN.items() if k != "SLURM_NTASKS_PER_NODE"}, "SLURM_NTASKS_PER_NODE is not"),
    ],
)
def test_a_world_that_cannot_be(devices: int | None, nodes: int | None, environment: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_world(devices, nodes, environment)


def test_a_run_alone_does_not_import_fabric() -> None:
    code = (
        "import sys\n"
        "from latcli.commands.train import command as train, ranks as train_ranks\n"
        "from latcli.session import Session\n"
        "from latcli.commands.train.options import TrainOptions\n"
        "with train_ranks.gathered(TrainOptions(), Session()) as (ranks, session):\n"
        "    print(ranks.size, 'lightning_fabric' in sys.modules, 'torch.distributed.nn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "False", "False"]


# the line to rank 0


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(3, wide=False)
    yield made
    made.close(done=True)


def come(hub: Hub) -> list[Spoke]:
    spokes = [Spoke(("127.0.0.1", hub.port), hub.key, rank) for rank in (1, 2)]
    hub.gather(lambda: None)
    return spokes


def test_the_first_failure_is_the_one_that_is_told(hub: Hub) -> None:
    spokes = come(hub)
    hub.check()
    spokes[1].fail("broken", "mend it")
    with pytest.raises(LatcliError, match="rank 2: broken") as raised:
        hub.wait_for_failure(10.0)
    assert raised.value.hint == "mend it"
    spokes[0].fail("broken because of it", "")
    time.sleep(0.2)
    with pytest.raises(LatcliError, match="rank 2: broken"):
        hub.check()
    with pytest.raises(LatcliError, match="rank 2: broken"):
        hub.meet()


def test_a_stranger_is_shown_out(hub: Hub) -> None:
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b'{"key": "guess", "rank": 1}\n', b'["key"]\n'):
        stranger = socket.create_connection(("127.0.0.1", hub.port))
        stranger.sendall(greeting)
        stranger.shutdown(socket.SHUT_WR)
    come(hub)
    hub.check()


@pytest.mark.parametrize("done", [True, False])
def test_a_rank_ends_with_rank_0(done: bool) -> None:
    hub = Hub(2, wide=False)
    code = (
        "import sys, time\n"
        "from latcli.engine.training.lifeline import Spoke\n"
        "spoke = Spoke(('127.0.0.1', int(sys.argv[1])), sys.argv[2], 1)\n"
        "spoke.meet()\n"
        "spoke.wait_for_end()\n"
        "sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(hub.port), hub.key])
    hub.gather(lambda: None)
    hub.meet()
    hub.close(done=done)

    assert process.wait(20) == (7 if done else 1)


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_given_up(tmp_path: Path) -> None:
    port = free_port()
    files = [tmp_path / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(file), str(rank), str(port), "stopped"])
        for rank, file in enumerate(files)
    ]
    try:
        assert processes[0].wait(120) == 0
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()

    assert torch.load(files[0]) == "a rank has not answered for 3 seconds"


# real processes of the command


@pytest.fixture
def start(tmp_path: Path, latcli_environment: dict[str, str], run_latcli: RunLatcli) -> Iterator[Start]:
    """Begin a command beside the test; whatever still runs at its end is killed, with all that it has started."""
    begun: list[subprocess.Popen[str]] = []

    def popen(*command: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command or (sys.executable, "-m", "latcli", *LONG, "--devices", "2"),
            cwd=tmp_path / "work",
            env=latcli_environment | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield popen
    for process in begun:
        for descendant in descendants(process):
            descendant.kill()
        process.kill()
        process.communicate()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return list(psutil.Process(process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def training(process: subprocess.Popen[str], folder: Path) -> psutil.Process:
    """Rank 1 of a command, once steps have been taken and kept."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(folder.glob("runs/*-train-*/state.safetensors")) and steps_done(folder) > 0:
            (other,) = descendants(process)
            return other
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"no step was taken: {process.communicate()}")


def steps_done(folder: Path) -> int:
    return int(query(folder, "SELECT coalesce(max(step), 0) FROM metrics")[0])


def query(folder: Path, sql: str) -> tuple[Any, ...]:
    connection = sqlite3.connect(folder / "runs" / "latcli.db")
    try:
        return tuple(connection.execute(sql).fetchone())
    finally:
        connection.close()


def last_lines(stderr: str) -> tuple[str, str]:
    error, hint = stderr.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert "Traceback" not in stderr
    return error, hint


@pytest.mark.slow
def test_a_killed_rank_fails_the_run_within_seconds(start: Start, tmp_path: Path) -> None:
    folder, process = tmp_path / "work", start()
    other = training(process, folder)
    killed_at = time.monotonic()
    other.kill()
    _, stderr = process.communicate(timeout=30)

    assert time.monotonic() - killed_at < 20
    assert process.returncode == 1
    assert "rank 1: its process has ended without a word" in last_lines(stderr)[0]
    assert query(folder, "SELECT status, exit_code, error FROM runs")[:2] == ("failed", 1)
    assert not other.is_running()


@pytest.mark.slow
def test_no_rank_outlives_a_killed_rank_0(start: Start, run_latcli: RunLatcli, tmp_path: Path) -> None:
    process = start()
    other = training(process, tmp_path / "work")
    process.kill()

    psutil.wait_procs([other], timeout=10)
    assert not other.is_running()
    assert json.loads(run_latcli("runs", "show", "latest", "--json").stdout)["status"] == "crashed"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "whom"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 0)])
def test_a_signal_to_any_rank_stops_all_at_one_step_and_the_run_goes_on(
    start: Start, run_latcli: RunLatcli, tmp_path: Path, number: signal.Signals, code: int, whom: int
) -> None:
    folder, process = tmp_path / "work", start()
    other = training(process, folder)
    os.kill((process.pid, other.pid)[whom], number)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == code, stderr
    assert query(folder, "SELECT status, exit_code FROM runs") == ("interrupted", code)
    assert not other.is_running()
    # A run of 4,000 steps is not waited for: it is enough that it goes on, and comes to a later state.
    reached = steps_done(folder)
    devices = "2" if whom else "1"
    again = start(
        sys.executable, "-m", "latcli", "train", "--resume", "latest", "--device", "cpu", "--devices", devices
    )
    deadline = time.monotonic() + 120
    while steps_done(folder) <= reached and again.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again.send_signal(signal.SIGINT)
    _, stderr = again.communicate(timeout=30)
    assert again.returncode == 130, stderr
    assert ("kept by 2 processes, going on on 1" in stderr) == (devices == "1")
    assert query(folder, "SELECT count(*) FROM runs") == (1,)


def final_loss(done: str) -> float:
    return float(json.loads(done)["final"]["loss"])


SHORT = (*TRAIN, "--regime", "natural", "--batch", "16", "--steps", "4", "--json")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> float:
    command = [sys.executable, "-m", "latcli", *SHORT, "--store", str(tmp_path_factory.mktemp("alone"))]
    return final_loss(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_devices_of_one_machine_make_one_run(latcli_environment: dict[str, str], tmp_path: Path, alone: float) -> None:
    """By a console script, in a folder with a space in its name; scores are those of a run alone but for rounding."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    script = folder / "the script"
    script.write_text("from latcli.cli import main\nmain()\n")
    cores = len(os.sched_getaffinity(0))
    environment = {name: value for name, value in latcli_environment.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, str(script), *SHORT, "--devices", "2"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == 2
    assert final_loss(done.stdout) == pytest.approx(alone, abs=1e-4)
    config = json.loads(query(folder, "SELECT config_json FROM runs")[0])
    assert (config["devices"], config["nodes"]) == (2, 1)
    assert query(folder, "SELECT count(*), min(status) FROM runs") == (1, "completed")
    assert "distributed_backend" not in done.stderr
    assert done.stderr.count("run 2") == 1
    (log,) = folder.glob("runs/*-train-*/log.txt")
    assert f"fp32-channels-last, 2 x {max(1, cores // 2)} threads" in log.read_text()


def test_fabric_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LatcliError, match="need the package lightning-fabric") as raised, gathered(TWO, Session()):
        pass
    assert raised.value.hint == "pip install 'latcli[distributed]'"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["torchrun", "srun", "hand"])
def test_two_nodes_on_one_machine(start: Start, tmp_path: Path, alone: float, by: str) -> None:
    port, latcli = str(free_port()), ("-m", "latcli", *SHORT)
    if by == "torchrun":
        agent = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1")
        where = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1")
        processes = [start(*agent, *where, *latcli) for _ in range(2)]
    elif by == "srun":
        shared = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": port, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
        shared |= {"SLURM_NNODES": "2", "SLURM_LOCALID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port}
        own = [{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in range(2)]
        processes = [start(sys.executable, *latcli, environment=shared | mine) for mine in own]
    else:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes = [
            start(sys.executable, *latcli, "--nodes", "2", environment=shared | {"NODE_RANK": str(node)})
            for node in range(2)
        ]
    ended = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0, 0], ended
    (document,) = [stdout for stdout, _ in ended if stdout]
    assert json.loads(document)["devices"] == 2
    assert final_loss(document) == pytest.approx(alone, abs=1e-4)
    assert query(tmp_path / "work", "SELECT count(*), min(status) FROM runs") == (1, "completed")


@pytest.mark.slow
def test_an_error_of_another_rank_reaches_the_user_through_rank_0(run_latcli: RunLatcli, tmp_path: Path) -> None:
    """A network that cannot be made on rank 1 alone, as where one machine lacks memory or a file."""
    (tmp_path / "work" / "latcli_odd.py").write_text(
        "import os\n"
        "from latcli.engine.models.small import paper_cnn\n"
        "def network(image_shape, classes):\n"
        "    if os.environ['LOCAL_RANK'] == '1':\n"
        "        raise OSError('no room left')\n"
        "    return paper_cnn(image_shape, classes)\n"
    )
    installed = tmp_path / "work" / "latcli_odd-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: latcli-odd\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[latcli.architectures]\nodd = latcli_odd:network\n")
    done = run_latcli(*SHORT, "--devices", "2", "--architecture", "odd")

    assert done.returncode == 1
    assert last_lines(done.stderr)[0] == "error: rank 1: unexpected OSError: no room left"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--devices", "2", "--batch", "15"), "a batch of 15 cannot be parted into 2 equal shares"),
        (("--nodes", "2"), "--nodes 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK"),
        (("--devices", "2", "--device", "cuda:0"), "--device cuda:0 is no device for 2 processes"),
        pytest.param(
            ("--devices", "2", "--device", "cuda"),
            "the device 'cuda' is not here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for"),
        ),
    ],
)
def test_bad_worlds_are_told_in_two_lines(
    run_latcli: RunLatcli, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = run_latcli(*TRAIN, "--steps", "2", *options)

    assert done.returncode == 2, done.stderr
    assert said in last_lines(done.stderr)[0]
    assert list(tmp_path.glob("work/runs/*-train-*")) == []
