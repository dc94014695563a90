"""Algorithm 1 and its variants: one step, one loop; must not know files, stores or how progress is shown.

All that is random is a hash of the seed, the step and the sample's number, never of its place among others: a resumed
run draws what the undisturbed one would have drawn, and so will several devices.

Source: the paper's Algorithm 1 (localized adversarial training). Legend: B images, C channels, H, W pixels, K classes;
a small b is the adversarial part of the batch. eps_b1HW is the epsilon matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.contract import check_contract
from latcli.engine.attacks.objectives import ObjectiveFunction, cross_entropy_odds
from latcli.engine.attacks.threat import LinfBox
from latcli.engine.datasets.base import Dataset
from latcli.engine.noise import derive_seed, item_seeds, permutation, uniform_noise
from latcli.engine.training.augmentation import crop_and_flip
from latcli.engine.training.averaging import WeightAverage
from latcli.engine.training.gradient_forms import Form, GradientForm
from latcli.engine.training.inner_attacks import climb, plan_for
from latcli.engine.training.losses import divergence_from, trades
from latcli.engine.training.regimes import masks, regime_epsilon
from latcli.engine.training.schedules import epsilon_at, rate_at
from latcli.engine.training.settings import TrainSettings
from latcli.errors import LatcliError, UsageError

#: The contract of the inner attack's images is checked at every so many steps, and at the last.
_CHECK_EVERY = 100


class DivergedError(LatcliError):
    """Training that came to numbers that are none."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"training diverged at step {step}: {what} is not finite",
            "the last good checkpoint is kept; lower --rate, or lengthen --warm-up",
        )
        self.step = step


@dataclass(frozen=True)
class Batch:
    """One minibatch: images in [0, 1], labels, and a seed for each image's random start."""

    x_BCHW: torch.Tensor
    y_B: torch.Tensor
    seeds_B: torch.Tensor


@dataclass(frozen=True)
class StepReport:
    """What one step came to. Accuracies are of its own minibatch, before the update; None where not measured."""

    step: int
    loss: float
    rate: float
    epsilon: float
    clean_accuracy: float | None = None
    adversarial_accuracy: float | None = None


class Trainer:
    """A network in training on a data set that lies on the network's device; `done` steps are done.

    Raises UsageError for a batch that is larger than the training set.
    """

    def __init__(self, net: nn.Module, dataset: Dataset, settings: TrainSettings, form: Form) -> None:
        check_batch(dataset, settings)
        self.settings, self.dataset, self.done = settings, dataset, 0
        layout = torch.channels_last if form.endswith("channels-last") else torch.contiguous_format
        self.net = net.to(memory_format=layout).train()  # type: ignore[call-overload]
        self._layout = layout
        self.form = form
        self.fast = GradientForm(self.net, form)
        self.optimizer = _optimizer(self.net, settings)
        self.average = WeightAverage(self.net, settings.average) if settings.average else None
        self._epoch, self._order_N = -1, torch.empty(0)

    def step(self, *, measure: bool = False) -> StepReport:
        """Draw the next minibatch, attack it, update the weights.

        `measure` adds accuracies. Raises DivergedError, before the weights are touched, where the loss is not finite.
        """
        settings, index = self.settings, self.done
        torch.manual_seed(derive_seed(settings.seed, "step", index))  # for networks that draw numbers of their own
        rate = rate_at(settings.schedule, index, settings.steps, settings.rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        epsilon = epsilon_at(index, settings.steps, settings.warm_up, settings.epsilon)
        batch = self.batch_at(index)
        if settings.is_adversarial and settings.attack == "free":
            loss, adv_BCHW = self._free_step(batch, epsilon)
        else:
            adv_BCHW = self._attacked(batch, epsilon)
            loss = self._update(self._loss(batch, adv_BCHW))
        accuracies = self._accuracies(batch, adv_BCHW) if measure else (None, None)
        if self.average is not None:
            self.average.update(self.net, index)
        self.done += 1
        return StepReport(self.done, loss, rate, epsilon, *accuracies)

    def batch_at(self, index: int) -> Batch:
        """Minibatch `index` of the run: each epoch is a new order of all samples, of which a rest is left out."""
        settings, data = self.settings, self.dataset
        batches = len(data.y_train) // settings.batch
        epoch, position = divmod(index, batches)
        if epoch != self._epoch:
            order_seed = derive_seed(settings.seed, "order", epoch)
            self._order_N = permutation(order_seed, len(data.y_train), data.y_train.device)
            self._epoch = epoch
        samples_B = self._order_N[position * settings.batch : (position + 1) * settings.batch]
        x_BCHW = data.x_train[samples_B].float().div_(255.0)
        if settings.augment == "crop-flip":
            x_BCHW = crop_and_flip(x_BCHW, item_seeds(derive_seed(settings.seed, "augment", index), samples_B))
        x_BCHW = x_BCHW.contiguous(memory_format=self._layout)
        return Batch(x_BCHW, data.y_train[samples_B], item_seeds(derive_seed(settings.seed, "start", index), samples_B))

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that count: the average where there is one, else the last."""
        return self.average.values if self.average is not None else self.net.state_dict()

    def check_finite(self) -> None:
        """Raise DivergedError where a weight is not finite."""
        if not all(bool(torch.isfinite(value).all()) for value in self.net.state_dict().values()):
            raise DivergedError(self.done, "a weight")

    def _attacked(self, batch: Batch, epsilon: float) -> torch.Tensor:
        """The minibatch with its adversarial images in place; the first `mix` of it stays natural."""
        settings = self.settings
        if not settings.is_adversarial:
            return batch.x_BCHW
        natural = round(settings.mix * settings.batch)
        x_bCHW, y_b, seeds_b = batch.x_BCHW[natural:], batch.y_B[natural:], batch.seeds_B[natural:]
        if not len(y_b):
            return batch.x_BCHW
        self.fast.refresh()
        eps_b1HW = self._epsilon_matrix(x_bCHW, epsilon, seeds_b)
        plan = plan_for(settings.attack, settings.attack_steps, settings.step_share)
        adv_bCHW = climb(self.fast, x_bCHW, y_b, eps_b1HW, plan, self._objective(x_bCHW), seeds_b)
        if self.done % _CHECK_EVERY == 0 or self.done == settings.steps - 1:
            check_contract(x_bCHW, adv_bCHW, eps_b1HW * plan.allowance)
        adv_BCHW = torch.cat((batch.x_BCHW[:natural], adv_bCHW)) if natural else adv_bCHW
        return adv_BCHW.contiguous(memory_format=self._layout)

    def _epsilon_matrix(self, x_bCHW: torch.Tensor, epsilon: float, seeds_b: torch.Tensor) -> torch.Tensor:
        settings = self.settings
        mask_b1HW = masks(x_bCHW, settings.mask_from, settings.center)
        return regime_epsilon(settings.regime, mask_b1HW, epsilon, seeds_b)

    @torch.no_grad()
    def _objective(self, x_bCHW: torch.Tensor) -> ObjectiveFunction:
        return divergence_from(self.fast(x_bCHW)) if self.settings.loss == "trades" else cross_entropy_odds

    def _loss(self, batch: Batch, adv_BCHW: torch.Tensor) -> torch.Tensor:
        if self.settings.is_adversarial and self.settings.loss == "trades":
            both_BK = self.net(torch.cat((batch.x_BCHW, adv_BCHW)).contiguous(memory_format=self._layout))
            clean_BK, adversarial_BK = both_BK.chunk(2)
            return trades(clean_BK, adversarial_BK, batch.y_B, self.settings.beta)
        return functional.cross_entropy(self.net(adv_BCHW), batch.y_B)

    def _update(self, loss: torch.Tensor) -> float:
        value = float(loss.detach())
        if not torch.isfinite(loss):
            raise DivergedError(self.done + 1, "the loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _free_step(self, batch: Batch, epsilon: float) -> tuple[float, torch.Tensor]:
        """`attack_steps` updates on one minibatch, each of whose gradients also moves the images.

        Source: Shafahi et al., NeurIPS'19, but every minibatch starts at random instead of where the last one ended,
        so that a step depends on nothing but the weights. Returns the last update's loss and images.
        """
        natural = round(self.settings.mix * self.settings.batch)
        eps_B1HW = self._epsilon_matrix(batch.x_BCHW, epsilon, batch.seeds_B)
        eps_B1HW = torch.cat((torch.zeros_like(eps_B1HW[:natural]), eps_B1HW[natural:]))
        box = LinfBox(batch.x_BCHW, eps_B1HW)
        noise_BCHW = uniform_noise(batch.seeds_B, batch.x_BCHW.shape[1:]).mul_(2.0).sub_(1.0)  # type: ignore[arg-type]
        adv_BCHW = box.project_(torch.addcmul(batch.x_BCHW, noise_BCHW, eps_B1HW))
        seen_BCHW, loss = adv_BCHW, 0.0
        for _ in range(self.settings.attack_steps):
            seen_BCHW = adv_BCHW.detach().contiguous(memory_format=self._layout).requires_grad_()
            loss = self._update(functional.cross_entropy(self.net(seen_BCHW), batch.y_B))
            assert seen_BCHW.grad is not None
            adv_BCHW = box.move(seen_BCHW.detach(), seen_BCHW.grad, self.settings.step_share or 1.0)
        if self.done % _CHECK_EVERY == 0 or self.done == self.settings.steps - 1:
            check_contract(batch.x_BCHW, adv_BCHW, eps_B1HW)
        return loss, seen_BCHW.detach()

    @torch.no_grad()
    def _accuracies(self, batch: Batch, adv_BCHW: torch.Tensor) -> tuple[float, float | None]:
        """Shares of the minibatch that are right, clean and attacked, after the update."""
        self.fast.refresh()
        clean = float((self.fast(batch.x_BCHW).argmax(dim=1) == batch.y_B).float().mean())
        if not self.settings.is_adversarial:
            return clean, None
        natural = round(self.settings.mix * self.settings.batch)
        right_b = self.fast(adv_BCHW[natural:]).argmax(dim=1) == batch.y_B[natural:]
        return clean, float(right_b.float().mean()) if len(right_b) else None


def check_batch(dataset: Dataset, settings: TrainSettings) -> None:
    """Raise UsageError where a minibatch is larger than the training set."""
    if settings.batch > len(dataset.y_train):
        raise UsageError(
            f"a batch of {settings.batch} is larger than the {len(dataset.y_train)} training images",
            f"give --batch at most {len(dataset.y_train)}",
        )


def new_network(
    architecture: Callable[[tuple[int, int, int], int], nn.Module], dataset: Dataset, seed: int
) -> nn.Module:
    """A network with fresh weights that depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return architecture(dataset.image_shape, len(dataset.class_names))


def train(
    trainer: Trainer,
    *,
    on_step: Callable[[StepReport], None],
    after_step: Callable[[int], None],
    measure_every: int,
) -> None:
    """Take all steps that are left.

    `on_step` gets every report, with accuracies at every `measure_every` steps and at the last; `after_step` gets the
    number of steps done when all of the step is behind, the moment for a checkpoint, and may raise to stop. Raises
    DivergedError and ContractError.
    """
    steps = trainer.settings.steps
    while trainer.done < steps:
        due = (trainer.done + 1) % measure_every == 0 or trainer.done + 1 == steps
        on_step(trainer.step(measure=due))
        after_step(trainer.done)


def _optimizer(net: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    fused = next(net.parameters()).device.type in {"cpu", "cuda"}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            net.parameters(),
            lr=settings.rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, fused=fused)
