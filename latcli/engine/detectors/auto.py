"""Opens a detector by name; `auto` takes the best one whose weights can be had, and says why. Runs no detector."""

from __future__ import annotations

from latcli.engine import registry
from latcli.engine.detectors.base import Detector
from latcli.engine.detectors.settings import DetectorSettings
from latcli.errors import WeightsError

#: What `auto` tries before `cam`, which needs no weights of its own: the surer boxes first.
_NEEDING_WEIGHTS = ("yolo", "mobilenet")


def open_detector(name: str, settings: DetectorSettings) -> tuple[Detector, str]:
    """The detector of that name, or the one that "auto" settles on, and one line that says which it is and why.

    Raises UsageError for an unknown name, WeightsError where a named detector's weights cannot be had or used, or
    where named weights fit no detector.
    """
    if name == "auto":
        return _first_that_opens(settings)
    detector: Detector = registry.load("detector", name)(settings)
    return detector, f"{name}{_source(detector)}"


def _first_that_opens(settings: DetectorSettings) -> tuple[Detector, str]:
    passed_over = ""
    for name in _NEEDING_WEIGHTS:
        try:
            detector, line = open_detector(name, settings)
        except WeightsError as error:
            passed_over += f"; not {name}: {error.message}"
        else:
            return detector, line + passed_over
    if settings.weights is not None:
        # Whoever names a file wants that file used: going on without it would answer another question.
        raise WeightsError(
            f"no detector can use {settings.weights}{passed_over}",
            "give YOLO weights (.pt) or SSDLite weights, or leave out --detector-weights",
        )
    detector, line = open_detector("cam", settings)
    return detector, f"{line}, the classifier's own activation map{passed_over}"


def _source(detector: Detector) -> str:
    source = getattr(detector, "source", None)
    return f" with the weights {source}" if source else ""
