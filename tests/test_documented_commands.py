"""The commands of README and docs are run as printed, offline; a latcli.toml beside them makes every size tiny.

docs/tutorial.md is run by docs/make_tutorial.py, at full size.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from test_docs import LINES

from latcli.commands.photos import package_photos

#: One step, few images: what makes a command of minutes one of seconds.
TINY = """
offline = true
[attack]
steps = 1
no-figures = true
[train]
steps = 2
attack-steps = 1
batch = 16
[eval]
images = 8
steps = 1
"""
#: Why a command cannot be run here; what runs it instead.
NOT_RUN = {
    r"timm:|torchvision:|hf:|robustbench:|hf-hub:|yolo": "downloads weights; test_own_classifiers.py, test_yolo.py",
    r"--devices|torchrun|srun|--nodes": "several processes; test_ranks.py",
    r"--resume": "needs a run that was interrupted; reliability/test_interruption.py",
    r"net\.py|module:|WEIGHTS|mine\.pth|background\.safetensors": "needs the user's network; test_own_classifiers.py",
    r"folder:|MASKS|--labels-from": "needs a data set of photos; test_photo_training.py, test_eval_photos.py",
    r"--logger": "needs a tracker's client; test_loggers.py",
    r"signs|stripes": "needs the plug-ins; test_plugins.py",
    r"--strong|--epochs": "takes minutes at any size; test_eval_command.py, test_train_command.py",
    r"PHOTO .*--classifier 7f3a|photo\.jpg --classifier 7f3a": "needs a model of photos; test_photo_training.py",
    r"--open": "opens a browser",
    r"reproduce": "hours; test_reproduce.py",
    r"cifar10": "downloads the data set",
    r"paper9": "needs 150 photos of ImageNet, which are not ours to give",
}
PAGES = ("README.md", "training.md", "evaluation.md", "objects.md", "report.md", "reliability.md", "classifiers.md")
COMMANDS = [
    (page, shlex.join(words))
    for page, line in LINES
    if page in PAGES and (words := shlex.split(line, comments=True))[:1] == ["latcli"]
]


def reason_against(command):
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_as_printed(page, latcli, tmp_path, sample_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sample_store, "runs")
    Path("latcli.toml").write_text(TINY)
    Path("PHOTOS").mkdir()
    for photo in package_photos():
        shutil.copy(photo, "PHOTOS")
    shutil.copy("PHOTOS/grace_hopper.jpg", "photo.jpg")
    trained = [folder.name[-4:] for folder in sorted(Path("runs").glob("*-train-*"))]
    run = [command for where, command in COMMANDS if where == page and not reason_against(command)]

    for command in run:
        words = shlex.split(command.replace("--dataset mnist ", "--dataset mnist-5k "))
        words = [{"7f3a": trained[0], "81c2": trained[1]}.get(word, word) for word in words]
        outcome = latcli(*words[1:])
        assert outcome.code == 0, f"{command}\n{outcome.err}"
    assert run


def test_most_commands_are_run_and_no_reason_is_idle():
    commands = [command for _, command in COMMANDS]
    assert sum(reason_against(command) is None for command in commands) >= 20
    for pattern in NOT_RUN:
        assert any(re.search(pattern, line) for _, line in LINES), pattern
