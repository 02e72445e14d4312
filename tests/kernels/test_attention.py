"""The attention kernel by hand: tiles of every kind, memory around its output, views, and bits that have one cause."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae_kernels import attention
from fastvae_kernels.attention_tiling import AttentionConfig, attention_config, attention_tiles
from fastvae_kernels.parts import PARTS, part_of
from fastvae_kernels.triton import attention as module
from tests.kernels.support import CUDA, DEVICE, NARROW, assert_guards_stand, framed, guarded
from tests.kernels.test_images import attended, image, narrowing, weight_rounding

# Channels in several steps and values in several parts; the same at once; a block of keys that is hardly filled.
CONFIGS = [
    AttentionConfig(64, 16, 16, 16, 16, 4, 2),
    AttentionConfig(64, 16, 16, 64, 64, 4, 2),
    AttentionConfig(64, 32, 64, 32, 32, 4, 2),
]


def rows(n: int, pixels: int, channels: int, dtype: torch.dtype) -> Tensor:
    """[n, pixels, channels] in the middle of infinities."""
    return framed(n * pixels, channels, dtype)[None].unflatten(1, (n, pixels))[0]


def as_images(x: Tensor) -> Tensor:
    return x.mT[..., None]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.block_keys}-{c.block_channels}")
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(
    "sizes", [(2, 1, 1, 1, 1), (1, 19, 33, 20, 36), (2, 3, 16, 16, 32), (1, 5, 21, 33, 7)], ids=str
)
def test_its_output_is_written_and_nothing_else(
    sizes: tuple[int, int, int, int, int], dtype: torch.dtype, config: AttentionConfig
) -> None:
    heads, queries, keys, channels, values = sizes
    q, k = rows(2, queries, heads * channels, dtype), rows(2, keys, heads * channels, dtype)
    v = rows(2, keys, heads * values, dtype)
    out, memory = guarded(2, queries, heads * values, dtype=dtype)
    module.launch(q, k, v, out, heads, config=config)
    assert_guards_stand(memory)
    images = [as_images(x) for x in (q, k, v)]
    exact, bound = attended(*images, heads)
    bound += weight_rounding("triton", *images, heads)
    error = (as_images(out).double() - exact).abs()
    assert (error <= bound + narrowing("triton", dtype, exact.abs() + bound)).all()


def test_a_growing_largest_score_rescales_what_was_summed() -> None:
    """Scores that rise from block to block, then fall: each largest but one is overtaken."""
    slope = torch.cat([torch.arange(100.0), torch.arange(100.0, 0, -1)]).to(DEVICE) * 0.3
    q, k = torch.ones(1, 1, 1, 1, device=DEVICE), slope.view(1, 1, 1, 200)
    v = image(1, 3, 1, 200)
    exact, bound = attended(q, k, v, 1)
    assert ((attention(q, k, v, impl="triton").double() - exact).abs() <= bound).all()


def test_a_query_has_the_same_bits_anywhere() -> None:
    """In another order, and among fewer: where in a tile it lies shows in no bit."""
    q, k, v = image(1, 12, 1, 150), image(1, 12, 3, 15), image(1, 6, 3, 15)
    whole = attention(q, k, v, heads=2, impl="triton")
    order = torch.randperm(150, device=DEVICE)
    assert torch.equal(attention(q[..., order], k, v, heads=2, impl="triton"), whole[..., order])
    assert torch.equal(attention(q[..., 140:], k, v, heads=2, impl="triton"), whole[..., 140:])


def test_slices_of_one_projection_are_read_where_they_are() -> None:
    merged = image(2, 24, 4, 5, layout="channels_last")
    parts = merged.split(8, 1)
    assert all(module._pixels(part).data_ptr() == part.data_ptr() for part in parts)
    plain = attention(*(part.contiguous() for part in parts), heads=2, impl="triton")
    assert torch.equal(attention(*parts, heads=2, impl="triton"), plain)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_rows_far_apart(place: int) -> None:
    """Images whose distance does not fit int32: 4 GiB that no machine backs until they are touched."""
    if CUDA:
        memory = torch.zeros(2**31 + 256, dtype=torch.float16, device=DEVICE)
    else:
        memory = torch.from_numpy(np.zeros(2**31 + 256, dtype=np.float16))
    near = [image(2, 8, 2, 3, dtype=torch.float16) for _ in range(3)]
    far = memory.as_strided((2, 8, 2, 3), (2**31 + 8, 1, 24, 8)).copy_(near[place])
    y = attention(*near[:place], far, *near[place + 1 :], impl="triton")
    assert torch.equal(y, attention(*near, impl="triton"))


def test_nan_stays_in_its_query_and_in_its_channel() -> None:
    q, k, v = image(1, 4, 3, 3), image(1, 4, 2, 2), image(1, 4, 2, 2)
    clean = attention(q, k, v, impl="triton")
    q[0, 1, 1, 2] = v[0, 3, 0, 0] = float("nan")
    y = attention(q, k, v, impl="triton")
    assert y[:, :, 1, 2].isnan().all()
    assert y[:, 3].isnan().all()
    y[:, :, 1, 2], y[:, 3] = clean[:, :, 1, 2], clean[:, 3]
    assert torch.equal(y, clean)


@pytest.mark.parametrize("target", PARTS)
def test_tiles_come_in_order_and_hold_what_they_say(target: str) -> None:
    for tiles in attention_tiles(target).values():
        assert [tile.channels for tile in tiles] == sorted({tile.channels for tile in tiles})
        for tile in tiles:
            assert all(size & (size - 1) == 0 and size >= 16 for size in tile.tile(tile.channels, tile.channels))


@pytest.mark.parametrize(
    ("channels", "values", "served"),
    [
        (1, 1, 64),
        (64, 64, 64),
        (64, 66, 128),
        (512, 4, 512),
        (514, 2, 512),
        (2, 4096, 512),
        (512, 33, 64),
        (513, 512, 64),
    ],
)
def test_heads_get_the_narrowest_tile_that_holds_them(channels: int, values: int, served: int) -> None:
    """Those of odd numbers the first, which reads entry by entry."""
    config = attention_config(channels, values, "bf16", DEVICE)
    assert config in attention_tiles(part_of(DEVICE).target)["bf16"]
    assert config.channels == served


def test_steps_are_no_wider_than_a_head() -> None:
    config = AttentionConfig(64, 128, 32, 64, 256, 4, 2)
    assert config.tile(3, 40) == (128, 32, 16, 64)
    assert config.tile(500, 500) == (128, 32, 64, 256)
