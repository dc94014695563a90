"""Algorithm 1 and its variants: the order of samples, one step, one loop.

All that is random is a hash of the seed, the step and the sample's number, never of its place among others: a resumed
run draws what the undisturbed one would have drawn, and so do several devices.

Source: the paper's Algorithm 1 (localized adversarial training). Legend: N images of the training set, B of a
minibatch, C channels, H, W pixels, K classes; a small b is the adversarial part of the batch, or this rank's share.
eps_b1HW is the epsilon matrix.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.contract import check_contract
from latcli.engine.attacks.objectives import ObjectiveFunction, cross_entropy_odds
from latcli.engine.attacks.threat import LinfBox
from latcli.engine.cuda_graph import Recordings, replayed
from latcli.engine.datasets.base import Images, Request, TrainingData
from latcli.engine.devices import rounded_factors
from latcli.engine.distributed import Ranks
from latcli.engine.noise import derive_seed, item_seeds, permutation
from latcli.engine.precision import Form, gradient_model
from latcli.engine.training.inner_attacks import (
    INNER_ATTACKS,
    climb,
    divergence_from,
    plan_for,
    registered_attack,
    registered_settings,
    trades,
)
from latcli.engine.training.regimes import masks, otsu_mask, regime_epsilon
from latcli.engine.training.settings import TrainSettings
from latcli.errors import LatcliError, UsageError, first_line

#: The contract of the inner attack's images is checked at every so many steps, and at the last.
_CHECK_EVERY = 100


class DivergedError(LatcliError):
    """Training whose loss or weights are not finite any more."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"training diverged at step {step}: {what} is not finite",
            "the last good checkpoint is kept; lower --rate, or lengthen --warm-up",
        )
        self.step = step


@dataclass(frozen=True)
class Order:
    """Each epoch is a new order of all samples, of which a rest that fills no minibatch is left out.

    `samples` are there in all, `batch` make a minibatch, of which each of `ranks` takes an equal share.
    """

    seed: int
    samples: int
    batch: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch > self.samples:
            raise UsageError(
                f"a batch of {self.batch} is larger than the {self.samples} training images",
                f"give --batch at most {self.samples}",
            )
        check_parts(self.batch, self.ranks)

    @property
    def share(self) -> int:
        """How many samples of a minibatch are this rank's."""
        return self.batch // self.ranks

    def of_mine(self, count: int) -> int:
        """How many of a minibatch's first `count` samples are this rank's."""
        return min(max(count - self.rank * self.share, 0), self.share)

    def requests(self, first: int, augmented: bool = True) -> Iterator[Request]:
        """This rank's share of minibatch `first` and of all that follow, without end; seeds only where they count."""
        batches = self.samples // self.batch
        epoch, order_N = -1, torch.empty(0)
        index = first
        while True:
            if index // batches != epoch:
                epoch = index // batches
                order_N = permutation(derive_seed(self.seed, "order", epoch), self.samples, torch.device("cpu"))
            begin = index % batches * self.batch + self.rank * self.share
            samples_b = order_N[begin : begin + self.share]
            seed = derive_seed(self.seed, "augment", index)
            yield Request(samples_b, item_seeds(seed, samples_b) if augmented else samples_b)
            index += 1


def check_parts(batch: int, ranks: int) -> None:
    """Raise UsageError where a minibatch cannot be divided equally."""
    if batch % ranks:
        raise UsageError(
            f"a batch of {batch} cannot be divided into {ranks} equal shares", f"give --batch a multiple of {ranks}"
        )


class WeightAverage:
    """An exponential average of parameters and buffers (Polyak and Juditsky, 1992); counters are copied.

    Its memory grows from the last few steps to 1 / (1 - decay) steps, so that the first weights leave no trace.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        now = net.state_dict()
        floating = [name for name, value in now.items() if value.is_floating_point()]
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([self.values[name] for name in floating], [now[name] for name in floating], weight)
        for name in now.keys() - floating:
            self.values[name].copy_(now[name])


@dataclass(frozen=True)
class Batch:
    """One minibatch, or this rank's share of it: images in [0, 1], labels, masks, a seed for each random start.

    `natural` is how many of the first images stay as they are.
    """

    x_BCHW: torch.Tensor
    y_B: torch.Tensor
    mask_B1HW: torch.Tensor
    seeds_B: torch.Tensor
    natural: int


@dataclass(frozen=True)
class StepReport:
    """Numbers of one step. Accuracies are of its own minibatch, after the update; None where not measured."""

    step: int
    loss: float
    rate: float
    epsilon: float
    clean_accuracy: float | None = None
    adversarial_accuracy: float | None = None


class Trainer:
    """A network in training on the device it lies on; `done` steps are done.

    `ranks` are the processes that train the same network; the minibatch is parted among them. Raises UsageError for a
    batch that is larger than the training set, cannot be parted, or is too small for the network.
    """

    def __init__(
        self, net: nn.Module, data: TrainingData, settings: TrainSettings, form: Form, ranks: Ranks | None = None
    ) -> None:
        self.ranks = ranks or Ranks()
        self.order = Order(settings.seed, data.train_count, settings.batch, self.ranks.rank, self.ranks.size)
        self.settings, self.data, self.done = settings, data, 0
        self.fast = gradient_model(net, data.image_shape, form=form)
        self.form = self.fast.form
        self._layout = torch.channels_last if self.form.endswith("channels-last") else torch.contiguous_format
        self.net = net.to(memory_format=self._layout).train()  # type: ignore[call-overload]
        if settings.batch == 1:
            _check_single_image(self.net, data.image_shape, copies=2 if settings.loss == "trades" else 1)
        self._joined = self.ranks.join(self.net)
        #: Called between the steps of the inner attack, where the weights are still those of the last step, so that
        #: it may keep them, and raise to stop. Not on CUDA, where an inner attack is one recording, and quick.
        self.between: Callable[[], None] = lambda: None
        planned = settings.attack in INNER_ATTACKS
        self._registered = None if planned else registered_attack(settings.attack)
        self._plan = None
        if planned and settings.attack != "free":
            self._plan = plan_for(settings.attack, settings.attack_steps, settings.step_share)
        # A registered attack may look at its images on the way, which a recording cannot.
        self._device = next(net.parameters()).device
        on_cuda = self._device.type == "cuda"
        self._attack = self._replayed_attack if on_cuda and planned else self._inner_attack
        self._replays_update = on_cuda and self.ranks.size == 1  # gradients are joined in `backward`
        self._recordings: Recordings = {}
        self.optimizer = _optimizer(self.net, settings)
        self._weights = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.average = WeightAverage(self.net, settings.average) if settings.average else None
        self._stream: Iterator[Images] | None = None
        self._next = 0

    def step(self, *, measure: bool = False) -> StepReport:
        """Draw the next minibatch, attack it, update the weights.

        `measure` adds accuracies. Raises DivergedError, before the weights are touched, where the loss is not finite.
        """
        settings, index = self.settings, self.done
        _seed_generators(derive_seed(settings.seed, "step", index), self._device)
        rate = settings.rate_at(index)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        epsilon = settings.epsilon_at(index)
        batch = self.batch_at(index)
        if settings.is_adversarial and settings.attack == "free":
            loss, adv_BCHW = self._free_step(batch, epsilon)
        else:
            adv_BCHW = self._attacked(batch, epsilon)
            loss = self._update(batch, adv_BCHW)
        accuracies = self._accuracies(batch, adv_BCHW) if measure else (None, None)
        if self.average is not None:
            self.average.update(self.net, index)
        self.done += 1
        return StepReport(self.done, loss, rate, epsilon, *accuracies)

    def batch_at(self, index: int) -> Batch:
        """Minibatch `index` of the run; asked for one after the other, they are read ahead where they are files."""
        settings = self.settings
        if self._stream is None or index != self._next:
            requests = self.order.requests(index, settings.augment != "none")
            find = otsu_mask if settings.mask_from == "otsu" else None
            self._stream = self.data.training(requests, settings.augment, find)
        images, self._next = next(self._stream), index + 1
        return Batch(
            images.x_BCHW.contiguous(memory_format=self._layout),
            images.y_B,
            masks(images, settings.mask_from, settings.center),
            item_seeds(derive_seed(settings.seed, "start", index), images.samples_B)
            if settings.is_adversarial
            else images.samples_B,
            self.order.of_mine(settings.natural_images),
        )

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
        natural = batch.natural
        x_bCHW, y_b, seeds_b = batch.x_BCHW[natural:], batch.y_B[natural:], batch.seeds_B[natural:]
        if not len(y_b):
            return batch.x_BCHW
        eps_b1HW = regime_epsilon(settings.regime, batch.mask_B1HW[natural:], epsilon, seeds_b)
        adv_bCHW = self._attack(x_bCHW, y_b, eps_b1HW, seeds_b)
        self._check(x_bCHW, adv_bCHW, eps_b1HW * (self._plan.allowance if self._plan else 1.0))
        adv_BCHW = torch.cat((batch.x_BCHW[:natural], adv_bCHW)) if natural else adv_bCHW
        return adv_BCHW.contiguous(memory_format=self._layout)

    def _inner_attack(
        self, x_bCHW: torch.Tensor, y_b: torch.Tensor, eps_b1HW: torch.Tensor, seeds_b: torch.Tensor
    ) -> torch.Tensor:
        """The inner attack on the network as it is; a planned one asks the host for nothing: a GPU can replay it."""
        self.fast.refresh()
        if self._registered is not None:
            self.between()
            settings = registered_settings(self.settings.attack_steps, self.settings.step_share)
            return self._registered(self.fast, x_bCHW, y_b, eps_b1HW, settings, seeds_b)
        assert self._plan is not None
        objective: ObjectiveFunction = cross_entropy_odds
        if self.settings.loss == "trades":
            with torch.no_grad():
                objective = divergence_from(self.fast(x_bCHW))
        return climb(self.fast, x_bCHW, y_b, eps_b1HW, self._plan, objective, seeds_b, self.between)

    def _replayed_attack(self, *given: torch.Tensor) -> torch.Tensor:
        adv_bCHW: torch.Tensor
        with rounded_factors(given[0].device):
            (adv_bCHW,) = replayed(self._recordings, "inner attack", lambda *same: (self._inner_attack(*same),), given)
        return adv_bCHW

    def _check(self, x_BCHW: torch.Tensor, adv_BCHW: torch.Tensor, allowed_B1HW: torch.Tensor) -> None:
        if self.done % _CHECK_EVERY == 0 or self.done == self.settings.steps - 1:
            check_contract(x_BCHW, adv_BCHW, allowed_B1HW)

    def _loss(self, x_BCHW: torch.Tensor, adv_BCHW: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
        if self.settings.is_adversarial and self.settings.loss == "trades":
            both_BK = self._joined(torch.cat((x_BCHW, adv_BCHW)).contiguous(memory_format=self._layout))
            clean_BK, adversarial_BK = both_BK.chunk(2)
            return trades(clean_BK, adversarial_BK, y_B, self.settings.beta, self.settings.label_smoothing)
        return self._cross_entropy(self._joined(adv_BCHW), y_B)

    def _cross_entropy(self, logits_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits_BK, y_B, label_smoothing=self.settings.label_smoothing)

    def _update(self, batch: Batch, adv_BCHW: torch.Tensor) -> float:
        """One update of the weights; returns the loss before it."""
        given = (batch.x_BCHW, adv_BCHW, batch.y_B)
        if not self._replays_update:
            return self._descend(self._loss(*given))
        loss, *gradients = replayed(self._recordings, "update", self._loss_and_gradients, given)
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        return self._descend(loss)

    def _loss_and_gradients(self, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with rounded_factors(given[0].device):
            loss = self._loss(*given)
            return loss.detach(), *torch.autograd.grad(loss, self._weights, allow_unused=True)

    def _descend(self, loss: torch.Tensor) -> float:
        """Take the optimizer's step along the gradients of the loss, or those that are there; returns the loss."""
        (value,) = self.ranks.mean([float(loss.detach())])  # so that all ranks stop where one of them must
        if not math.isfinite(value):
            raise DivergedError(self.done + 1, "the loss")
        if loss.requires_grad:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _free_step(self, batch: Batch, epsilon: float) -> tuple[float, torch.Tensor]:
        """`attack_steps` updates on one minibatch, each of whose gradients also moves the images.

        Source: Shafahi et al., NeurIPS'19, but every minibatch starts at random instead of where the last one ended,
        so that a step depends on nothing but the weights. Returns the last update's loss and images.
        """
        eps_B1HW = regime_epsilon(self.settings.regime, batch.mask_B1HW, epsilon, batch.seeds_B).clone()
        eps_B1HW[: batch.natural] = 0.0
        box = LinfBox(batch.x_BCHW, eps_B1HW)
        adv_BCHW = box.random_start(batch.seeds_B)
        seen_BCHW, loss = adv_BCHW, 0.0
        for _ in range(self.settings.attack_steps):
            seen_BCHW = adv_BCHW.detach().contiguous(memory_format=self._layout).requires_grad_()
            loss = self._descend(self._cross_entropy(self._joined(seen_BCHW), batch.y_B))
            assert seen_BCHW.grad is not None
            adv_BCHW = box.move(seen_BCHW.detach(), seen_BCHW.grad, self.settings.step_share or 1.0)
        self._check(batch.x_BCHW, adv_BCHW, eps_B1HW)
        return loss, seen_BCHW.detach()

    @torch.no_grad()
    def _accuracies(self, batch: Batch, adv_BCHW: torch.Tensor) -> tuple[float, float | None]:
        """Shares of the minibatch that are right, clean and attacked, after the update."""
        self.fast.refresh()
        right_B = self.fast(batch.x_BCHW).argmax(dim=1) == batch.y_B
        if not self.settings.is_adversarial:
            (clean,) = self.ranks.mean([float(right_B.float().mean())])
            return clean, None
        natural, attacked = batch.natural, len(batch.y_B) - batch.natural
        right_b = self.fast(adv_BCHW).argmax(dim=1)[natural:] == batch.y_B[natural:]
        clean, right, count = self.ranks.mean([float(right_B.float().mean()), float(right_b.sum()), attacked])
        return clean, right / count if count else None


@torch.no_grad()
def _check_single_image(net: nn.Module, image_shape: tuple[int, int, int], copies: int) -> None:
    """Raise UsageError for a network that cannot be trained on one image, of which it sees so many forms together.

    A batch norm over features of a single pixel has nothing to take a variance of.
    """
    device = next(net.parameters()).device
    try:
        copy.deepcopy(net)(torch.zeros(copies, *image_shape, device=device))  # its running statistics would move
    except ValueError as error:
        raise UsageError(
            f"the network cannot be trained on one image at a time: {first_line(error)}", "give --batch at least 2"
        ) from error


def new_network(
    architecture: Callable[[tuple[int, int, int], int], nn.Module], data: TrainingData, seed: int
) -> nn.Module:
    """A network with fresh weights that depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return architecture(data.image_shape, len(data.class_names))


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


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed those that networks draw their own numbers from, dropout for one."""
    if device.type == "mps":
        torch.manual_seed(seed)
        return
    # torch.manual_seed would also note a traceback for each kind of device that is not in use.
    for generator in (torch.default_generator, *(torch.cuda.default_generators if device.type == "cuda" else ())):
        generator.manual_seed(seed)


def _optimizer(net: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    fused = next(net.parameters()).device.type in {"cpu", "cuda"}
    common: dict[str, Any] = {"lr": settings.rate, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=0.9, nesterov=True, **common)
    return torch.optim.AdamW(net.parameters(), **common)
