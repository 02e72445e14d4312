"""Statistics gathered band after band are those of the whole, also around a large mean."""

from __future__ import annotations

import functools

import pytest
import torch

from fastvae.runtime.tiling.statistics import BLOCK, Statistics


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_bands_merge_to_the_whole(rows: int) -> None:
    x = 1e4 + torch.randn(1, 5, 20, 7, generator=torch.Generator().manual_seed(0))
    bands = [Statistics.of(x[:, :, low : low + rows]) for low in range(0, 20, rows)]
    found = functools.reduce(Statistics.merged, bands)
    exact = x[0].double().flatten(1)
    assert found.count == 140
    torch.testing.assert_close(found.mean, exact.mean(1), rtol=1e-15, atol=0)
    torch.testing.assert_close(found.squares / found.count, exact.var(1, correction=0), rtol=1e-10, atol=0)


def test_images_of_more_pixels_than_a_block() -> None:
    x = torch.randn(1, 3, 2, BLOCK, dtype=torch.float64)
    found = Statistics.of(x)
    torch.testing.assert_close(found.mean, x.mean((0, 2, 3)), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.squares / found.count, x.var((0, 2, 3), correction=0), rtol=1e-12, atol=0)
