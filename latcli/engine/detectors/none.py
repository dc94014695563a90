"""The detector that looks for nothing: no boxes, so that the whole image is background."""

from __future__ import annotations

from latcli.engine.detectors.base import Detection, Target
from latcli.engine.detectors.settings import DetectorSettings
from latcli.engine.images import Photo


class NoDetector:
    """Finds nothing on purpose: the control that attacks every pixel."""

    name = "none"
    fingerprint = "none"
    depends_on_target = False

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        """Take the settings that every detector takes; none of them concerns this one."""

    def detect(self, photo: Photo, target: Target) -> Detection:
        """No boxes."""
        return Detection(())
