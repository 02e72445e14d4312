"""Rows come out of bands as they went in; memory goes back when they are released."""

from __future__ import annotations

import torch

from fastvae.runtime.tiling.store import Store


def test_rows_of_any_bands() -> None:
    image = torch.randn(1, 2, 9, 3)
    store = Store()
    for low, high in ((0, 4), (4, 5), (5, 9)):
        store.add(image[:, :, low:high])
    for first in range(9):
        for end in range(first + 1, 10):
            found = store.rows(first, end)
            assert found.is_contiguous()
            assert torch.equal(found, image[:, :, first:end])
    store.release(5)
    assert torch.equal(store.rows(5, 9), image[:, :, 5:])
    assert torch.equal(Store(image).rows(2, 3), image[:, :, 2:3])


def test_a_band_is_handed_out_as_it_is() -> None:
    store = Store()
    store.add(torch.ones(1, 2, 4, 3))
    assert store.rows(0, 4).data_ptr() == store.whole().data_ptr()


def test_results_are_written_where_they_belong() -> None:
    image, result = torch.randn(1, 2, 5, 3), torch.zeros(1, 2, 5, 3)
    store = Store(result, filled=False)
    store.add(image[:, :, :2])
    store.add(image[:, :, 2:])
    assert torch.equal(result, image)
    assert torch.equal(store.whole(), image)
