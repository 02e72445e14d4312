"""Training and judging one demo model in plain PyTorch: the loop, its augmentations, the held-out ELBO.

Every random number is a function of the seed: initial weights and augmentations come from seeded
generators, posterior noise from ``fastvae_kernels.sample_normal``. With the same seed, number of threads and
PyTorch build, two runs make the same bits.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.spec_module import SpecModule, kl_to_prior
from fastvae_kernels import sample_normal

TRAINING_STREAM, JUDGING_STREAM = 0, 1


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; shares lie in [0, 1].

    Attributes:
        kl_weight: weight of the KL term: above 1 posteriors fill the prior better, below 1 samples are sharper.
        kl_warmup: epochs over which that weight rises from 0.
        decay: AdamW's decoupled weight decay of matrices and convolutions.
        average: share of the old weights in the running average that is kept, per step.
        masked_batches: share of batches whose encoder input has values replaced by the training mean.
        masked_values: most of a row's values replaced so; each row's share is uniform up to it.
        min_std: floor of a learned standard deviation, in training standard deviations of the feature.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 1e-3
    kl_weight: float = 1.0
    kl_warmup: int = 10
    decay: float = 1e-2
    average: float = 0.99
    masked_batches: float = 0.0
    masked_values: float = 0.7
    min_std: float = 0.1

    def scaled(self, epochs: int) -> Recipe:
        """This recipe over another number of epochs, its KL warm-up scaled alike."""
        return replace(self, epochs=epochs, kl_warmup=self.kl_warmup * epochs // self.epochs)


@dataclass(frozen=True)
class Judgement:
    """Means over rows, in nats: ``elbo = reconstruction - kl``, over ``samples`` draws of z a row."""

    elbo: float
    reconstruction: float
    kl: float
    rows: int
    samples: int


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


def judge(module: SpecModule, rows: Tensor, *, seed: int, samples: int) -> Judgement:
    """The ELBO of ``rows`` ``[n, *input_shape]`` with ``samples`` draws of z from every row's posterior."""
    module.eval()
    with torch.no_grad():
        mean, logvar = module.encode(rows)
        likelihood = torch.zeros(len(rows), dtype=torch.float64)
        for k in range(samples):
            noise = _noise(rows, module, seed=seed, start=k * len(rows), stream=JUDGING_STREAM)
            features = module.decode(mean + torch.exp(0.5 * logvar) * noise)
            likelihood += module.log_likelihood(rows, features).double() / samples
        kl = kl_to_prior(mean, logvar).double()
    reconstruction, kl_mean = likelihood.mean().item(), kl.mean().item()
    return Judgement(reconstruction - kl_mean, reconstruction, kl_mean, len(rows), samples)


def fit(
    module: SpecModule,
    rows: Tensor,
    validation: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    generator: torch.Generator,
    report: Callable[[str], None],
) -> int:
    """Train ``module`` in place and leave it with the averaged weights of its best epoch; return that epoch.

    Best is the epoch, checked every few after the warm-up, with the highest ELBO on ``validation``.
    """
    module.to(memory_format=torch.channels_last)
    floor = _logvar_floor(rows, recipe.min_std)
    _hold_floor(module, floor)
    averaged = copy.deepcopy(module)
    optimizer = torch.optim.AdamW(_parameter_groups(module, recipe), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    neutral = rows.mean(0)
    best, best_epoch, best_state = -float("inf"), 0, copy.deepcopy(averaged.state_dict())
    for epoch in range(1, recipe.epochs + 1):
        module.train()
        kl_weight = recipe.kl_weight * min(1.0, epoch / max(1, recipe.kl_warmup))
        order = torch.randperm(len(rows), generator=generator)
        noise = _noise(rows, module, seed=seed, start=(epoch - 1) * len(rows), stream=TRAINING_STREAM)
        for indices, epsilon in zip(torch.split(order, recipe.batch), torch.split(noise, recipe.batch), strict=True):
            batch = rows[indices]
            mean, logvar = module.encode(masked(batch, neutral, recipe, generator))
            features = module.decode(mean + torch.exp(0.5 * logvar) * epsilon)
            loss = kl_weight * kl_to_prior(mean, logvar) - module.log_likelihood(batch, features)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            _hold_floor(module, floor)
            _follow(averaged, module, recipe.average)
        schedule.step()
        if epoch < recipe.epochs and (epoch < recipe.kl_warmup or epoch % 5):
            continue
        judgement = judge(averaged, validation, seed=seed, samples=4)
        report(f"epoch {epoch}/{recipe.epochs}: validation ELBO {judgement.elbo:.3f} (KL {judgement.kl:.3f})")
        if judgement.elbo > best:
            best, best_epoch, best_state = judgement.elbo, epoch, copy.deepcopy(averaged.state_dict())
    module.load_state_dict(best_state)
    module.eval()
    return best_epoch


def masked(batch: Tensor, neutral: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """``batch``, or for some batches a copy in which a random share of each row's values is ``neutral``."""
    if torch.rand((), generator=generator) >= recipe.masked_batches:
        return batch
    share = recipe.masked_values * torch.rand(len(batch), *(1,) * (batch.ndim - 1), generator=generator)
    return torch.where(torch.rand(batch.shape, generator=generator) < share, neutral, batch)


def _noise(rows: Tensor, module: SpecModule, *, seed: int, start: int, stream: int) -> Tensor:
    """Standard normal ``[n, *latent_shape]``, of rows' numbers from ``start``."""
    shape = module.spec.latent_shape
    noise = sample_normal(len(rows), math.prod(shape), seed=seed, start=start, stream=stream, impl="reference")
    return noise.reshape(-1, *shape)


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


def _logvar_floor(rows: Tensor, min_std: float) -> Tensor:
    return 2 * torch.log(min_std * rows.std(0).clamp_min(1e-12))


def _hold_floor(module: SpecModule, floor: Tensor) -> None:
    name = getattr(module.spec.likelihood, "name", None)
    if name is not None:
        with torch.no_grad():
            logvar = module.get_parameter(name)
            logvar.copy_(torch.maximum(logvar, floor))


def _follow(averaged: SpecModule, module: SpecModule, share: float) -> None:
    """Move the averaged weights and batch statistics a step towards the module's."""
    with torch.no_grad():
        for old, new in zip(averaged.state_dict().values(), module.state_dict().values(), strict=True):
            old.lerp_(new, 1 - share)
