"""MIWAE's bound against its formula and closed forms, and what training by it leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from fastvae.training import ELBO, MIWAE, Recipe, SpecModule, fit, reproducible, standardize, tabular_spec
from fastvae.training.loop import filled, moments
from fastvae.training.objective import JUDGING_STREAM, latent_noise


def module_of(likelihood: str = "gaussian") -> SpecModule:
    torch.manual_seed(0)
    return SpecModule(tabular_spec(5, 2, (8,), likelihood=likelihood)).double()  # type: ignore[arg-type]


def rows_with_holes(n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    rows[torch.rand(n, 5, generator=generator) < 0.4] = torch.nan
    rows[0] = torch.nan
    return rows


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_loss_is_the_bound_of_the_observed_entries(likelihood: str) -> None:
    module, rows = module_of(likelihood), rows_with_holes()
    noise = torch.randn(7, len(rows), 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given = filled(rows, moments(rows)[0])
    found = MIWAE(7).loss(module, rows, given, noise, 1.0)
    mean, logvar = module.encode(given)
    posterior = Normal(mean, torch.exp(0.5 * logvar))
    for i, row in enumerate(rows):
        logs = []
        for k in range(7):
            z = mean[i] + torch.exp(0.5 * logvar[i]) * noise[k, i]
            terms = module.log_likelihood_terms(row.nan_to_num(0.3)[None], module.decode(z[None]))[0]
            log_q = posterior.log_prob(z)[i].sum()
            logs.append(terms[~row.isnan()].sum() + Normal(0, 1).log_prob(z).sum() - log_q)
        expected = torch.logsumexp(torch.stack(logs), 0) - math.log(7)
        torch.testing.assert_close(found[i], -expected)


def test_one_draw_of_complete_rows_is_on_average_the_elbo() -> None:
    module, rows = module_of(), rows_with_holes().nan_to_num(0.4)
    noise = torch.randn(400, 1, len(rows), 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        bound, elbo = (
            torch.stack([of.loss(module, rows, rows, part, 0.5).mean() for part in noise]) for of in (MIWAE(1), ELBO())
        )
    error = (bound - elbo).std() / len(noise) ** 0.5
    assert abs(float((bound - elbo).mean())) < 5 * error
    assert error < 0.05


def test_missing_entries_have_no_gradient_and_no_nan() -> None:
    module, rows = module_of(), rows_with_holes()
    given = filled(rows, moments(rows)[0])
    noise = torch.randn(3, len(rows), 2, dtype=torch.float64)
    MIWAE(3).loss(module, rows, given, noise, 1.0).mean().backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    hidden = rows.clone()
    hidden[:, 3] = torch.nan
    module.zero_grad()
    MIWAE(3).loss(module, hidden, given, noise, 1.0).mean().backward()
    assert float(module.get_submodule("decoder.standardized").weight.grad[3].abs().max()) == 0.0  # type: ignore[union-attr, index]


def test_training_by_it_raises_the_bound_of_incomplete_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
    rows[torch.rand(rows.shape, generator=generator) < 0.3] = torch.nan
    bounds = []
    for epochs in (1, 30):
        with reproducible(0, 1) as seeded:
            module = SpecModule(tabular_spec(5, 2, (16,)))
            standardize(module, rows)
            recipe = Recipe(epochs=epochs, learning_rate=1e-2, average=0.9)
            fit(module, rows, None, recipe, seed=0, generator=seeded, objective=MIWAE(5))
        with torch.no_grad():
            bound, text = MIWAE(5).validate(module, rows, filled(rows, moments(rows)[0]), seed=0)
        bounds.append(bound)
        assert text == f"validation bound {bound:.3f}"
    assert bounds[1] > bounds[0] + 0.5
    assert latent_noise(module, 3, seed=0, start=0, stream=JUDGING_STREAM).shape == (3, 2)
