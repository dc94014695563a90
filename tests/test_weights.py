"""Weights files are read without running them, fitted strictly, and fetched or refused within seconds."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latcli.engine.models.weights import (
    Weights,
    fetch,
    kept_at,
    load_file,
    load_into,
    reachable,
    read_weights,
    state_dict_sha256,
    without_prefix,
)
from latcli.errors import ExitCode, WeightsError


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


@pytest.fixture
def state_dict():
    return dict(_network().state_dict())


def _assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


SAVED = {
    "bare.pth": torch.save,
    "legacy.pth": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "wrapped.pth": lambda content, path: torch.save({"epoch": 3, "state_dict": OrderedDict(content)}, path),
    "twice.pth": lambda content, path: torch.save({"model": {"state_dict": content}}, path),
    "file.safetensors": save_file,
}


def test_files_are_read_bare_and_wrapped_with_the_same_hash(state_dict, tmp_path):
    for name in SAVED:
        SAVED[name](state_dict, tmp_path / name)
        read = read_weights(tmp_path / name).state_dict
        assert type(read) is dict
        _assert_same(read, state_dict)
        assert state_dict_sha256(read) == state_dict_sha256(dict(reversed(state_dict.items())))


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(state_dict, tmp_path, legacy):
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save(state_dict | {"extra": _Payload(marker)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"contains code \((posix|nt)\.system\)") as refused:
        read_weights(file)
    assert "state_dict()" in refused.value.hint
    assert not marker.exists()
    torch.load(file, weights_only=False)  # the file does what it is accused of
    assert marker.exists()


def test_what_is_no_state_dict_is_said(tmp_path):
    for content, message in [
        (_network(), "torch.nn.modules.container.Sequential"),
        ([torch.ones(1)], "of type list"),
        ({}, "of type dict"),
        ({"epoch": 3}, "'epoch' is of type int"),
        ({"state_dict": {"weight": torch.ones(1), "step": 4}}, "'step' is of type int"),
        ({1: torch.ones(1)}, "'1' is of type Tensor"),
        ({"weight": torch.ones(2, 3).to_sparse()}, "not a tensor of plain numbers"),
        ({"weight": torch.ones(2, 3, device="meta")}, "not a tensor of plain numbers"),
    ]:
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(WeightsError, match=message):
            read_weights(tmp_path / "file.pth")


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_missing_and_empty_files_and_folders_are_said(name, tmp_path):
    file = tmp_path / name
    with pytest.raises(WeightsError, match="no such weights file") as refused:
        read_weights(file)
    assert refused.value.exit_code == ExitCode.FAILURE
    file.touch()
    for path in (file, tmp_path):
        with pytest.raises(WeightsError, match="is damaged, or not a weights file"):
            read_weights(path)


@pytest.mark.parametrize("dropped", ["nothing", "num_batches"])  # old files have no counters
def test_weights_that_fit_are_loaded(dropped, state_dict):
    network = _network()
    changed = OrderedDict((name, value + 1) for name, value in state_dict.items() if dropped not in name)
    load_into(network, changed, what="the weights")
    _assert_same({name: network.state_dict()[name] for name in changed}, changed)


def test_weights_that_do_not_fit_are_said_and_change_nothing(state_dict):
    for change, message in [
        ({"3.weight": None}, "missing: 3.weight"),
        ({"4.weight": torch.ones(1)}, "left over: 4.weight"),
        ({"3.weight": torch.ones(5, 16)}, "of another shape: 3.weight (5, 16) instead of (2, 16)"),
        (
            dict.fromkeys(["0.weight", "0.bias", "1.weight", "1.bias", "3.bias"]),
            "missing: 0.weight, 0.bias, 1.weight and 2 more",
        ),
    ]:
        network = _network()
        changed = {name: value + 1 for name, value in state_dict.items()} | change
        with pytest.raises(WeightsError) as refused:
            load_into(network, {k: v for k, v in changed.items() if v is not None}, what="the weights in file.pth")
        assert message in refused.value.message
        assert refused.value.message.startswith("the weights in file.pth do not fit Sequential: ")
        _assert_same(dict(network.state_dict()), state_dict)


def test_a_prefix_of_all_names_is_taken_off_with_a_note(state_dict, tmp_path):
    for prefix in ["", "module.", "model.", "_orig_mod.module.", "net.backbone."]:
        notes = []
        content = {f"{prefix}{name}": value for name, value in state_dict.items()}
        _assert_same(without_prefix(_network(), Weights(tmp_path / "w.pth", content), notes.append), state_dict)
        assert len(notes) == (1 if prefix else 0)
        assert all(f"'{prefix}'" in note for note in notes)


def test_of_two_networks_in_a_file_neither_is_guessed(state_dict, tmp_path):
    content = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in state_dict.items()}
    with pytest.raises(WeightsError, match=r"several networks of this kind: student\., teacher\."):
        without_prefix(_network(), Weights(tmp_path / "w.pth", content), lambda note: None)


@pytest.mark.parametrize("rows", [2, 3, 7])
def test_the_number_of_classes_is_the_files(rows, state_dict, tmp_path):
    head = {"3.weight": torch.ones(rows, 16), "3.bias": torch.ones(rows)}
    torch.save({"model": state_dict | head, "classes": ["a", "b", "c"]}, tmp_path / "w.pth")

    def build(classes):
        return nn.Sequential(*_network()[:3], nn.Linear(16, classes))

    network, count, names = load_file(tmp_path / "w.pth", build, 2, pytest.fail)
    assert (count, names) == (rows, ("a", "b", "c") if rows == 3 else ())
    _assert_same(dict(network.state_dict()), state_dict | head)


def test_different_weights_have_different_hashes():
    for other in [
        {"b": torch.zeros(4)},
        {"a": torch.tensor([0.0, 0, 0, 1e-30])},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(4), "b": torch.zeros(0)},
    ]:
        assert state_dict_sha256({"a": torch.zeros(4)}) != state_dict_sha256(other)


def test_hashes_take_every_type_and_layout():
    values = torch.arange(6).reshape(2, 3)
    for dtype in (torch.bfloat16, torch.float16, torch.bool, torch.int64):
        one, transposed = values.to(dtype), values.t().contiguous().t().to(dtype)
        assert state_dict_sha256({"a": one}) == state_dict_sha256({"a": transposed})
    assert len(state_dict_sha256({"scalar": torch.tensor(1.0)})) == 64


@dataclass
class _Server:
    """A server on this machine: what it has, and what it was asked for."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)

    def serve(self, content, named_after=None):
        """The URL of a file whose name holds its hash, or that of another content."""
        digest = hashlib.sha256(named_after or content).hexdigest()
        (self.folder / f"net-{digest[:8]}.pth").write_bytes(content)
        return f"http://127.0.0.1:{self.port}/net-{digest[:8]}.pth"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server, and an empty cache of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()
    server = _Server(tmp_path / "served")

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_):
            server.asked.append(f"{self.command} {self.path}")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(server.folder))) as running:
        server.port = running.server_port
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        running.shutdown()
        thread.join()


def _fetch(url, **options):
    return fetch(url, what="the weights of X", hint="do this", **({"offline": False} | options))


def test_weights_are_downloaded_once_into_torchs_cache(server, tmp_path, capfd):
    content, timeout = b"x" * 10_000, socket.getdefaulttimeout()
    url = server.serve(content)
    assert _fetch(url).read_bytes() == content
    asked = len(server.asked)
    assert _fetch(url, offline=True).read_bytes() == content
    assert len(server.asked) == asked
    assert list((tmp_path / "torch" / "hub" / "checkpoints").iterdir()) == [kept_at(url)]
    assert tuple(capfd.readouterr()) == ("", "")
    _fetch(server.serve(b"y"), progress=True)
    shown = capfd.readouterr()
    assert (shown.out, "100%" in shown.err) == ("", True)
    assert socket.getdefaulttimeout() == timeout


def test_a_download_with_another_content_than_its_name_says_is_not_kept(server):
    url = server.serve(b"others", named_after=b"the real weights")
    with pytest.raises(WeightsError, match="invalid hash value"):
        _fetch(url)
    assert list(kept_at(url).parent.iterdir()) == []


def test_a_file_the_server_does_not_have_is_not_asked_for_twice(server):
    url = f"http://127.0.0.1:{server.port}/none-12345678.pth"
    with pytest.raises(WeightsError, match=r"of X are not on this machine, and 127\.0\.0\.1:\d+ does not answer"):
        _fetch(url)
    assert server.asked == ["HEAD /none-12345678.pth"]


def test_a_cache_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "torch").write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match=r"the download of .* failed"):
        _fetch(server.serve(b"weights"))


def test_servers_that_say_nothing_count_as_out_of_reach(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/x", timeout_s=0.2)
    forever = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: forever.wait(30) and [])
    assert not reachable("http://weights.example/x", timeout_s=0.2)
    forever.set()
    for url in ("http://127.0.0.1:1/x", "nonsense", "http://", "unknown://x/y"):
        assert not reachable(url)
