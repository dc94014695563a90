"""Settings of a short training run, which tests change as they need."""

from __future__ import annotations

from latcli.engine.training.settings import TrainSettings

BASE = TrainSettings(
    regime="background",
    epsilon=0.3,
    mask_from="center",
    center=0.25,
    attack="pgd",
    attack_steps=2,
    step_size=None,
    loss="ce",
    beta=6.0,
    mix=0.0,
    augment="none",
    steps=4,
    batch=8,
    optimizer="adamw",
    schedule="one-cycle",
    rate=2e-3,
    weight_decay=1e-4,
    warm_up=0.4,
    average=0.9,
    seed=0,
)
