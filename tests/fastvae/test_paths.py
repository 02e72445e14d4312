"""Paths between latents: exact ends, the sphere, and what has no direction."""

import numpy as np
import pytest
import torch

import fastvae
from fastvae.errors import InputError
from fastvae.paths import between
from tests.fastvae.support import mlp_spec, vae

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.randn(2, 6, 5, dtype=torch.float64, generator=GENERATOR)


def at(a: torch.Tensor, b: torch.Tensor, weight: float, path: str = "spherical") -> torch.Tensor:
    return between(a, b, torch.full((len(a),), weight, dtype=a.dtype), path)


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_exact(path: str, dtype: torch.dtype) -> None:
    a, b = A.to(dtype), B.to(dtype)
    assert torch.equal(at(a, b, 0.0, path), a)
    assert torch.equal(at(a, b, 1.0, path), b)
    assert at(a, b, 0.3, path).dtype == dtype


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
def test_spherical_is_the_formula_for_vectors_of_one_length(weight: float) -> None:
    a, b = (2 * torch.nn.functional.normalize(x) for x in (A, B))
    angle = ((a * b).sum(1, keepdim=True) / 4).arccos()
    expected = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / angle.sin()
    torch.testing.assert_close(at(a, b, weight), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(at(a, b, weight).norm(dim=1), torch.full((6,), 2.0, dtype=torch.float64))


def test_lengths_go_straight_and_angles_evenly() -> None:
    quarter, half = at(A, B, 0.25), at(A, B, 0.5)
    torch.testing.assert_close(half.norm(dim=1), (A.norm(dim=1) + B.norm(dim=1)) / 2)
    angles = [torch.cosine_similarity(x, y).arccos() for x, y in ((A, quarter), (quarter, half), (A, B))]
    torch.testing.assert_close(angles[0], angles[1])
    torch.testing.assert_close(4 * angles[0], angles[2])


def test_opposite_vectors_turn_through_a_right_angle() -> None:
    middle = at(A, -2 * A, 0.5)
    torch.testing.assert_close((middle * A).sum(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(middle.norm(dim=1), 1.5 * A.norm(dim=1))
    one = torch.ones(1, 1, dtype=torch.float64)
    assert at(one, -one, 0.5).abs().item() < 1e-15  # one dimension has no way around


def test_zeros_and_parallel_vectors_go_straight() -> None:
    zero = torch.zeros_like(A)
    for a, b in ((A, zero), (zero, B), (zero, zero), (A, A), (A, 3 * A)):
        torch.testing.assert_close(at(a, b, 0.3), at(a, b, 0.3, "linear"), rtol=0, atol=1e-14)


def test_latents_of_several_axes_are_one_vector() -> None:
    a, b = (x.reshape(3, 2, 5) for x in (A, B))
    flat = at(a.reshape(3, 10), b.reshape(3, 10), 0.4)
    torch.testing.assert_close(at(a, b, 0.4), flat.reshape(3, 2, 5))


def test_interpolate_decodes_the_path() -> None:
    model = vae(mlp_spec(), precision="float64")
    a, b = A[:, :3].numpy(), B[:, :3].numpy()
    line = model.interpolate(a, b, 5, space="latent", path="spherical")
    for step, weight in enumerate((0, 0.25, 0.5, 0.75, 1)):
        z = at(A[:, :3].contiguous(), B[:, :3].contiguous(), weight).numpy()
        np.testing.assert_allclose(line[:, step], model.decode(z), rtol=0, atol=1e-12)


def test_another_path_is_refused() -> None:
    z = np.zeros((1, 16), np.float32)
    with pytest.raises(InputError, match="path: expected 'linear' or 'spherical', got 'great circle'"):
        fastvae.load("digits").interpolate(z, z, 3, space="latent", path="great circle")  # type: ignore[arg-type]
