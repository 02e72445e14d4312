"""One training loop, for demo models and for estimators that train a small model on the rows they are given.

Every random number is a function of the seed: initial weights and augmentations come from seeded
generators, posterior noise from ``fastvae_kernels.sample_normal``. With the same seed, number of threads and
PyTorch build, two runs make the same bits.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fastvae.training.module import SpecModule
from fastvae.training.objective import ELBO, TRAINING_STREAM, Objective, latent_noise
from fastvae.training.recipe import Recipe

ON_COMPLETE_ROWS = ELBO()

# A spread below this share of the mean is rounding.
CONSTANT = 1e-6


@contextlib.contextmanager
def reproducible(seed: int, threads: int) -> Iterator[torch.Generator]:
    """A generator seeded with ``seed``, PyTorch seeded and deterministic on ``threads``; undone at the end."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])


def fit(
    module: SpecModule,
    rows: Tensor,
    validation: Tensor | None,
    recipe: Recipe,
    *,
    seed: int,
    generator: torch.Generator,
    report: Callable[[str], None] = lambda line: None,
    objective: Objective = ON_COMPLETE_ROWS,
    fused: bool = False,
) -> int:
    """Train ``module`` in place, leave it with the averaged weights of its best epoch and return that epoch.

    Best is the epoch, checked every few after the warm-up, with the highest value of the objective on
    ``validation``; without any it is the last one.

    Args:
        rows: ``[n, *input_shape]`` float32; NaN where an entry is missing, if ``objective`` takes it.
        validation: rows as well, or None.
        generator: for the order of rows and which values are masked; see :func:`reproducible`.
        report: called with a line of progress at each check.
        fused: take steps in PyTorch's fused kernel, which has less to do in Python and rounds differently.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
    neutral, std = moments(rows)
    given = filled(rows, neutral)
    floor = 2 * torch.log(recipe.min_std * std)
    _hold_floor(module, floor)
    averaged = copy.deepcopy(module)
    old, new = (list(part.state_dict().values()) for part in (averaged, module))
    optimizer = torch.optim.AdamW(
        _parameter_groups(module, recipe), lr=recipe.learning_rate, fused=fused, foreach=not fused
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    best = _Best(averaged, validation, neutral, objective)
    for epoch in range(1, recipe.epochs + 1):
        module.train()
        kl_weight = recipe.kl_weight * min(1.0, epoch / max(1, recipe.kl_warmup))
        for x, visible, noise in _batches(module, rows, given, recipe, objective.draws, epoch, seed, generator):
            visible = masked(visible, neutral, recipe, generator)
            loss = objective.loss(module, x, visible, noise, kl_weight)
            optimizer.zero_grad()
            loss.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _hold_floor(module, floor)
            with torch.no_grad():
                torch._foreach_lerp_(old, new, 1 - recipe.average)
        schedule.step()
        if epoch == recipe.epochs or (validation is not None and epoch >= recipe.kl_warmup and epoch % 5 == 0):
            report(f"epoch {epoch}/{recipe.epochs}: {best.look(epoch, seed)}")
    module.load_state_dict(best.state)
    module.eval()
    return best.epoch


class _Best:
    """The averaged weights of the best epoch looked at so far."""

    def __init__(self, averaged: SpecModule, validation: Tensor | None, neutral: Tensor, objective: Objective) -> None:
        self.averaged, self.objective = averaged, objective
        self.validation, self.neutral = validation, neutral
        self.value, self.epoch, self.state = -float("inf"), 0, copy.deepcopy(averaged.state_dict())

    def look(self, epoch: int, seed: int) -> str:
        """Judge the weights as they are, keep them if they are the best, and say how good they are."""
        self.averaged.eval()
        value, text = 0.0, "done"
        if self.validation is not None:
            given = filled(self.validation, self.neutral)
            with torch.no_grad():
                value, text = self.objective.validate(self.averaged, self.validation, given, seed=seed)
        if value > self.value:
            self.value, self.epoch, self.state = value, epoch, copy.deepcopy(self.averaged.state_dict())
        return text


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every entry over the rows that have it, each in the shape of a row.

    The mean of an entry that no row has is 0. The standard deviation of one that does not vary is 1.
    """
    seen = ~rows.isnan()
    if bool(seen.all()):
        mean, std = rows.mean(0), rows.std(0)
    else:
        counts = seen.sum(0)
        mean = torch.where(seen, rows, 0).sum(0) / counts.clamp_min(1)
        std = (torch.where(seen, rows - mean, 0).square().sum(0) / (counts - 1).clamp_min(1)).sqrt()
    return mean, torch.where(std > CONSTANT * mean.abs().clamp_min(CONSTANT), std, 1.0)


def filled(rows: Tensor, neutral: Tensor) -> Tensor:
    """``rows`` with ``neutral``, in the shape of a row, where they hold NaN."""
    return torch.where(rows.isnan(), neutral, rows)


def masked(batch: Tensor, neutral: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """``batch``, or for some batches a copy in which a random share of each row's values is ``neutral``."""
    if torch.rand((), generator=generator) >= recipe.masked_batches:
        return batch
    share = recipe.masked_values * torch.rand(len(batch), *(1,) * (batch.ndim - 1), generator=generator)
    return torch.where(torch.rand(batch.shape, generator=generator) < share, neutral, batch)


def _batches(
    module: SpecModule,
    rows: Tensor,
    given: Tensor,
    recipe: Recipe,
    draws: int,
    epoch: int,
    seed: int,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of an epoch in random order: rows, what the encoder may see of them, and noise ``[draws, n, ...]``."""
    order = torch.randperm(len(rows), generator=generator)
    count = draws * len(rows)
    noise = latent_noise(module, count, seed=seed, start=(epoch - 1) * count, stream=TRAINING_STREAM)
    noise = noise.reshape(draws, len(rows), *noise.shape[1:])
    for indices, epsilon in zip(torch.split(order, recipe.batch), torch.split(noise, recipe.batch, 1), strict=True):
        yield rows[indices], given[indices], epsilon


def _parameter_groups(module: SpecModule, recipe: Recipe) -> list[dict[str, object]]:
    """Matrices and convolutions, which decay; biases and norms, which do not; a learned variance, which hurries.

    A log-variance has to move by several units while weights move by tenths.
    """
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "others": [], "variance": []}
    for name, parameter in module.named_parameters():
        variance = name == getattr(module.spec.likelihood, "name", None)
        groups["variance" if variance else "weights" if parameter.ndim > 1 else "others"].append(parameter)
    return [
        {"params": groups["weights"], "weight_decay": recipe.decay},
        {"params": groups["others"], "weight_decay": 0.0},
        {"params": groups["variance"], "weight_decay": 0.0, "lr": 10 * recipe.learning_rate},
    ]


def _hold_floor(module: SpecModule, floor: Tensor) -> None:
    name = getattr(module.spec.likelihood, "name", None)
    if name is not None:
        with torch.no_grad():
            logvar = module.get_parameter(name)
            logvar.copy_(torch.maximum(logvar, floor))
