"""The file that an interrupted evaluation goes on from, written and read; must not know how anything is measured."""

from __future__ import annotations

import math
import time
from pathlib import Path

from latcli.commands.eval.further import Findings
from latcli.engine.evaluation.matrix import Evaluation
from latcli.engine.models.checkpoint import pack, unpack
from latcli.errors import WeightsError
from latcli.store.store import Run

#: What was found out, image by image, and beside the matrix part by part.
SAMPLES = "samples.safetensors"

_KIND = "evaluation"
#: After the first batch the samples are kept, and then after each, but not more often than this.
_KEEP_SECONDS = 3.0


class Keeper:
    """Writes what was found out into the run now and then; the file before stays until the new one is whole."""

    def __init__(self, stored: Run, evaluation: Evaluation, findings: Findings) -> None:
        self.stored, self._evaluation, self._findings = stored, evaluation, findings
        self._saved_at = -math.inf

    def after_batch(self) -> None:
        """Keep it where some time has passed. Raises StoreError."""
        if time.monotonic() - self._saved_at >= _KEEP_SECONDS:
            self.save()

    def save(self) -> None:
        """Keep it now. Raises StoreError."""
        tensors = {
            f"{index}.{name}.{part}": tensor
            for index, columns in enumerate(self._evaluation.columns)
            for name, column in columns.items()
            for part, tensor in column.tensors().items()
        }
        description = {"settings": self._evaluation.settings.to_json(), "findings": self._findings.rows_of}
        tensors["chosen"] = self._evaluation.chosen_N
        self.stored.write_artifact(SAMPLES, pack(_KIND, tensors, description), "samples")
        self._saved_at = time.monotonic()


def restore(evaluation: Evaluation, path: Path) -> Findings:
    """Fill the columns with what a file of `Keeper` holds, and hand back what was measured beside them.

    Raises WeightsError where it is damaged or of other models, data or settings.
    """
    tensors, description = unpack(path, _KIND)
    for index, columns in enumerate(evaluation.columns):
        for name, column in columns.items():
            prefix = f"{index}.{name}."
            parts = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            column.take(parts, str(path))
    findings = description.get("findings")
    if not isinstance(findings, dict):
        raise WeightsError(f"{path} does not fit the evaluation: findings", "start a new evaluation")
    return Findings(findings)
