"""The picture of photographs and their reconstructions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fastvae.formats import native
from fastvae.layers import Affine, Conv2d
from fastvae.model import Model
from fastvae.spec import FixedGaussian, ModelSpec, PointHead
from tools import sample_images


@pytest.mark.parametrize("pixel_range", [(-1.0, 1.0), None])
def test_an_identity_gives_the_photographs_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pixel_range: tuple[float, float] | None
) -> None:
    spec = ModelSpec(
        (3, 8, 8), (3, 8, 8), (), PointHead((Conv2d("e", 3, 3, (1, 1)),)), (Affine("d", (3,)),), FixedGaussian()
    )
    weights = {"e.weight": torch.eye(3)[:, :, None, None], "e.bias": torch.zeros(3)}
    weights |= {"d.scale": torch.full((3,), 0.99), "d.shift": torch.zeros(3)}
    native.write(Model(replace(spec, pixel_range=pixel_range), weights), tmp_path / "m.safetensors")
    assert sample_images.main([str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "o.png"), "--size", "24"]) == 0
    picture = np.asarray(PIL.Image.open(tmp_path / "o.png"), np.float32)
    assert picture.shape == (52, 52, 3)
    assert (picture[:, 24:28] == 255).all()
    assert (picture[24:28] == 255).all()
    picture = np.delete(picture, np.s_[24:28], axis=1)
    grey = 127.5 if pixel_range else 0.0  # what the decoder's 0.99 leaves where it is
    np.testing.assert_allclose(picture[28:] - grey, 0.99 * (picture[:24] - grey), atol=1.01)
    assert "latents 3x24x24" in capsys.readouterr().out


def test_the_committed_picture_is_small() -> None:
    path = Path(__file__).parents[2] / sample_images.OUT
    assert path.stat().st_size < 300_000
    assert PIL.Image.open(path).size == (2 * sample_images.SIZE + sample_images.GAP,) * 2
