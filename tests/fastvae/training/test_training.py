from typing import Any

import numpy as np
import pytest
import torch

from fastvae import VAE, layers
from fastvae.errors import InputError, UnsupportedError
from fastvae.heads import Fixed, StudentT
from fastvae.model import Model
from fastvae.spec import Bernoulli, Condition, FixedGaussian, GaussianHead, ModelSpec, PerDimensionGaussian
from fastvae.training import ELBO, Recipe, SpecModule, fit, judge, reproducible, standardize, tabular_spec
from fastvae.training.loop import filled, moments


def table(n: int = 120, seed: int = 0) -> torch.Tensor:
    """Rows of five columns, in units far apart, that depend on two numbers."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 2))
    rows = z @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((n, 5))
    return torch.tensor(rows * [1e-3, 1, 10, 1e4, 1] + [0, 5, -100, 1e4, 0], dtype=torch.float32)


def trained(rows: torch.Tensor, validation: torch.Tensor | None = None, **settings: Any) -> SpecModule:
    recipe = Recipe(**({"epochs": 20, "batch": 16, "learning_rate": 5e-3, "average": 0.9} | settings))
    with reproducible(0, 1) as generator:
        module = SpecModule(tabular_spec(rows.shape[1], 2, (16,)))
        standardize(module, rows)
        fit(module, rows, validation, recipe, seed=0, generator=generator)
    return module


def test_training_raises_the_bound_of_rows_it_has_not_seen() -> None:
    rows, other = table()[:100], table()[100:]
    before, after = (judge(trained(rows, epochs=n, learning_rate=1e-2), other, seed=0, samples=8).elbo for n in (1, 40))
    assert after > before + 2


def test_the_best_epoch_on_validation_rows_is_kept() -> None:
    rows, validation = table()[:20], table(seed=1)
    lines: list[str] = []
    with reproducible(0, 1) as generator:
        module = SpecModule(tabular_spec(5, 2, (16,)))
        standardize(module, rows)
        recipe = Recipe(epochs=60, batch=8, learning_rate=2e-2, kl_warmup=0, average=0.5)
        best = fit(module, rows, validation, recipe, seed=0, generator=generator, report=lines.append)
    elbos = {int(line.split()[1].split("/")[0]): float(line.split("ELBO ")[1].split()[0]) for line in lines}
    assert best == max(elbos, key=lambda epoch: elbos[epoch])
    assert judge(module, validation, seed=0, samples=4).elbo == pytest.approx(elbos[best], abs=1e-3)


def test_without_validation_rows_the_last_epoch_stays() -> None:
    rows = table()
    with reproducible(0, 1) as generator:
        module = SpecModule(tabular_spec(5, 2, (16,)))
        assert fit(module, rows, None, Recipe(epochs=3), seed=0, generator=generator) == 3
    assert not module.training


def test_noise_has_the_draws_an_objective_asks_for_and_missing_entries_are_filled_for_the_encoder() -> None:
    rows = table(30)
    rows[::3, 1] = float("nan")
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    class Watched(ELBO):
        def loss(self, module: SpecModule, x: Any, given: Any, noise: Any, kl_weight: float) -> torch.Tensor:
            seen.append((x, given, noise))
            return super().loss(module, given, given, noise, kl_weight)

    with reproducible(0, 1) as generator:
        module = SpecModule(tabular_spec(5, 2, (8,)))
        fit(module, rows, None, Recipe(1, batch=16), seed=0, generator=generator, objective=Watched(draws=3))
    x, given, noise = seen[0]
    assert noise.shape == (3, 16, 2)
    assert noise.unique().numel() == noise.numel()
    missing = x.isnan()
    assert bool(missing.any())
    torch.testing.assert_close(given[missing], rows[:, 1].nanmean().expand_as(given[missing]))
    assert torch.equal(given[~missing], x[~missing])


def test_moments_are_those_of_the_entries_that_are_there() -> None:
    rows = table(50)
    rows[::2, 0] = float("nan")
    rows[:, 2] = 7.0
    rows[:, 3] = float("nan")
    mean, std = moments(rows)
    kept = rows[1::2, 0]
    torch.testing.assert_close(torch.stack((mean[0], std[0])), torch.stack((kept.mean(), kept.std())))
    assert mean[2:4].tolist() == [7.0, 0.0]
    assert std[2:4].tolist() == [1.0, 1.0]
    assert not filled(rows, mean).isnan().any()


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "gelu"])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("hidden", [(), (7, 4)])
def test_the_engine_computes_what_was_trained(likelihood: Any, activation: Any, hidden: tuple[int, ...]) -> None:
    module = SpecModule(tabular_spec(5, 2, hidden, likelihood=likelihood, activation=activation)).eval()
    rows = table() if likelihood == "gaussian" else torch.rand(20, 5)
    if likelihood == "gaussian":
        standardize(module, rows)
    vae = VAE(Model(module.spec, {name: value.detach() for name, value in module.state_dict().items()}))
    with torch.no_grad():
        mean, logvar = module.encode(rows)
        expected = -module.log_likelihood(rows, module.decode(mean))
    posterior = vae.encode(rows)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.logvar, logvar, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.score(rows), expected, rtol=1e-4, atol=1e-4)


def test_a_table_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="'gaussian' or 'bernoulli'"):
        tabular_spec(3, 1, likelihood="poisson")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'relu', 'tanh'"):
        tabular_spec(3, 1, activation="sin")  # type: ignore[arg-type]


def spec_of(**parts: Any) -> ModelSpec:
    head = GaussianHead("separate", mean=(layers.Linear("m", 4, 4),), scale=(layers.Linear("s", 4, 4),))
    given: dict[str, Any] = {"encoder": (), "posterior": head, "decoder": (), "likelihood": Bernoulli()}
    return ModelSpec(input_shape=(4,), latent_shape=(4,), **(given | parts))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"condition": Condition(2, encoder=False), "decoder": (layers.Linear("d", 6, 4),)}, "unconditional"),
        ({"likelihood": FixedGaussian()}, "likelihood 'gaussian_fixed'"),
        ({"likelihood": StudentT(Fixed(3.0))}, "likelihood 'student_t'"),
        ({"likelihood": PerDimensionGaussian(parametrization="std")}, "log-variances"),
        ({"decoder": (layers.Activation("selu"),)}, "selu"),
        ({"encoder": (layers.Reshape((1, 2, 2)), layers.GroupNorm("g", 1, 1), layers.Flatten())}, "group_norm"),
        ({"decoder": (layers.Activation("elu", 0.5),)}, "elu"),
        (
            {
                "posterior": GaussianHead(
                    "separate",
                    mean=(layers.Linear("m", 4, 4),),
                    scale=(layers.Linear("s", 4, 4),),
                    parametrization="std",
                )
            },
            "log-variance",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_by_name(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        SpecModule(spec_of(**parts))
