"""The studies of representations and samples: what they compute, where the answer is known."""

import numpy as np
import pytest

from bench import generation, representation


def test_frechet_distance_of_known_distributions() -> None:
    x = np.random.default_rng(0).standard_normal((5000, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T  # exactly N(0, I)'s moments
    assert generation.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert generation.frechet(x, 2 * x + [1, 0, 2]) == pytest.approx(5 + 3)  # each std 1 and 2: (2 - 1)^2
    turned = x @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    assert generation.frechet(x * [3, 1, 1], turned * [1, 3, 1]) == pytest.approx(2 * 4)


def test_embeddings_beat_guessing_and_have_their_dimensions() -> None:
    found = representation.study("digits", seeds=1)
    kinds = found["features"]
    assert {kind: row["dims"] for kind, row in kinds.items()} == {
        "embedding": 16,
        "PCA 16": 16,
        "PCA 5": 5,
        "pixels": 64,
    }
    assert all(0.7 < row["accuracy"] < 1 and 0.2 < row["ari"][0] < 1 for row in kinds.values())
    assert found["active"] == 5


def test_samples_are_judged_beside_real_rows() -> None:
    found = generation.study("digits", seeds=1)
    assert found["classifier accuracy"] > 0.9
    assert found["training rows"]["frechet"][0] < found["mean"]["frechet"][0]
    assert all(1 < found[source]["classes"][0] <= 10 for source in ("training rows", "mean", "sample", "PCA"))
