"""Chooses among the boxes of a detection those that show the labelled object; knows no detector and no pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from latcli.engine.detectors.agreement import agrees
from latcli.engine.detectors.base import Box, Detection, Target


def choose_boxes(detection: Detection, target: Target, which: Literal["all", "best"]) -> Detection:
    """The boxes that agree with the target's class: all of them, or the one of the largest confidence.

    Where none agrees, the one of the largest confidence of all; where there is no box, the detection itself.
    Segmentations are carried along, and only those of the chosen boxes.
    """
    if not detection.boxes:
        return detection
    agreeing = [box for box in detection.boxes if agrees(box.name, target)]
    if which == "all" and agreeing:
        return _only(detection, agreeing)
    return _only(detection, [max(agreeing or detection.boxes, key=lambda box: box.score)])


def _only(detection: Detection, chosen: list[Box]) -> Detection:
    used = [box.segmentation for box in chosen if box.segmentation is not None]
    if detection.segmentations_NHW is None or not used:
        return Detection(tuple(replace(box, segmentation=None) for box in chosen))
    renumbered = {old: new for new, old in enumerate(used)}
    boxes = (
        box if box.segmentation is None else replace(box, segmentation=renumbered[box.segmentation]) for box in chosen
    )
    return Detection(tuple(boxes), detection.segmentations_NHW[used])
