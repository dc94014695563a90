"""The two other ways in, as the docs tell them: every example in them is run."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import code_blocks
from PIL import Image

from latcli.engine import registry
from latcli.errors import LatcliError


def install(folder, code, toml):
    """A package as pip would leave it: modules, and the entry points of its metadata."""
    modules = dict.fromkeys(re.findall(r'= "(mypackage[\w.]+):', toml))
    package = folder / "mypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for module in modules:
        folder.joinpath(*module.split(".")).with_suffix(".py").write_text(code, encoding="utf-8")
    metadata = folder / "mypackage-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n", encoding="utf-8")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in groups[group].items()) for group in groups
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def plugin(here, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    install(folder, "\n\n".join(code_blocks("plugins.md", "python")), code_blocks("plugins.md", "toml")[0])
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 200, (60, 80, 3), dtype=np.uint8)
    noise[30:, 40:] += 55
    Image.fromarray(noise).save(path)
    return path


def test_the_plug_ins_of_the_docs_do_the_main_job(plugin, photo, latcli):
    arguments = ["--attack", "signs", "--detector", "bright", "--classifier", "mine", "--json"]
    done = latcli("attack", photo, *arguments)

    assert done.code == 0, done.err
    document = done.json
    (image,) = document["images"]
    assert (document["classifier"], document["detector"]) == ("mine", "bright")
    assert image["boxes"][0][:4] == [40, 30, 80, 60]
    assert image["linf_inside"] == 0
    assert 0 < image["linf_outside"] <= 8 / 255
    assert image["label"]["name"] in {"cat", "dog", "hen", "bus"}

    more = ["--detector-option", "size=0.25", "--regions", "background,all"]
    done = latcli("attack", photo, *arguments, *more)
    assert [one["boxes"][0][:4] for one in done.json["images"]] == [[60, 45, 80, 60]] * 2
    done = latcli("attack", photo, *arguments, "--detector-option", "sise=1")
    assert (done.code, "did you mean 'size'" in done.err) == (2, True)


@pytest.mark.parametrize("architecture", ["paper-cnn", "linear"])
def test_the_data_set_and_network_of_the_docs_are_trained(plugin, latcli, architecture):
    arguments = ["--dataset", "stripes", "--regime", "natural", "--steps", "30", "--batch", "32", "--json"]
    arguments += ["--architecture", architecture, "--logger", "lines"]
    done = latcli("train", *arguments)
    assert done.code == 0, done.err
    document = done.json
    assert (document["dataset"], document["architecture"], document["steps"]) == ("stripes", architecture, 30)
    assert document["final"]["accuracy"] > 0.9
    lines = Path(document["dir"], "lines.txt").read_text().splitlines()
    assert (lines[0][:2], lines[-1].partition(" ")[0]) == ("1 ", "Scores")


def test_help_and_completion_name_installed_plug_ins(plugin, latcli):
    shown = latcli("attack", "--help-all").out
    assert all(f"Plug-ins: {name}." in " ".join(shown.split()) for name in ("signs", "bright", "mine"))
    assert "Plug-ins: lines." in " ".join(latcli("train", "--help-all").out.split())


def test_an_attack_that_leaks_is_caught_and_nothing_is_kept(plugin, photo, latcli):
    module = plugin / "mypackage" / "attacks.py"
    module.write_text(module.read_text().replace("eps_B1HW * gradient_BCHW", "eps_B1HW.amax() * gradient_BCHW"))
    arguments = ["--attack", "signs", "--detector", "bright", "--classifier", "mine"]
    done = latcli("attack", photo, *arguments)
    assert done.code == 1
    assert re.fullmatch(r"error: the attack broke its contract: .*\nhint: .*\n", done.err)
    assert not list(photo.parent.rglob("*-adversarial.png"))


def test_a_plug_in_that_cannot_be_imported_says_so(plugin):
    (plugin / "mypackage" / "models.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    assert "mine" in registry.names("classifier")
    with pytest.raises(LatcliError, match=r"mypackage\.models:mine cannot be imported: .*a_module_that_is_not_there"):
        registry.load("classifier", "mine")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["a photo", "tensors"])
def test_the_library_examples_run(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"), "photo.jpg")
    names = {}
    exec(code_blocks("library.md", "python")[number], names)
    if number == 0:
        assert Image.open("adversarial.png").size == (512, 600)
        assert "became" in capsys.readouterr().out
    else:
        change_BCHW = (names["x_adv_BCHW"] - names["x_BCHW"]).abs()
        assert change_BCHW[:, :, 10:18, 10:18].max() == 0
        assert 0.29 < change_BCHW.max() <= 0.3 + 2**-23
