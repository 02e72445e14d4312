"""The torch reader gives what torch.load(weights_only=True) gives, to the bit, without calling it."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvae.errors import InputError, WeightFormatError
from fastvae.formats._torch import read_torch, state_dict_of
from tests.fastvae.formats.crafted import Call, Storage, legacy, pickled, tensor

CHECKPOINTS = Path(__file__).resolve().parents[4] / "shared" / "checkpoints"
DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
WRITERS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip-protocol-4": {"pickle_protocol": 4},
    "zip-protocol-5": {"pickle_protocol": 5},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy-protocol-4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


def _tied() -> dict[str, torch.Tensor]:
    weight = torch.randn(4, 6)
    return {"a": weight, "same": weight, "part": weight[1:3], "transposed": weight.T, "flat": weight.view(-1)}


def _strided() -> dict[str, torch.Tensor]:
    base = torch.arange(120, dtype=torch.float64).reshape(2, 3, 4, 5)
    return {
        "steps": base[:, ::2, 1:, ::3],
        "permuted": base.permute(3, 1, 0, 2),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "narrow": base.narrow(3, 1, 2),
        "empty_slice": base[:, 3:],
    }


def _module() -> Any:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 2))
    return net.state_dict()


def _training() -> dict[str, Any]:
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.999))
    net(torch.randn(4, 3)).sum().backward()
    adam.step()
    return {
        "epoch": 7,
        "big": 2**62,
        "negative": -5,
        "loss": float("inf"),
        "name": "modèle",
        "flags": [True, False, None, 1.5],
        "nothing": [[], {}, (), ""],
        "shape": torch.Size([3, 2]),
        "dtype": torch.bfloat16,
        "state_dict": net.state_dict(),
        "optimizer": adam.state_dict(),
    }


GOOD: dict[str, Callable[[], Any]] = {
    "dtypes": lambda: {str(d): torch.randint(0, 2, (3, 5)).to(d) for d in DTYPES},
    "unsigned": lambda: {str(d): torch.arange(6).to(d).view(2, 3)[1:] for d in UNSIGNED},
    "values": lambda: {"nan": torch.tensor([float("nan"), -0.0, float("inf")]), "scalar": torch.tensor(3.5)},
    "zero-element": lambda: {"a": torch.empty(0), "b": torch.empty(2, 0, 3), "c": torch.empty(0, 7).bool()},
    "tied": _tied,
    "strided": _strided,
    "parameters": lambda: OrderedDict(w=torch.nn.Parameter(torch.randn(3)), b=torch.nn.Parameter(torch.ones(2))),
    "module": _module,
    "training": _training,
    "one tensor": lambda: torch.randn(3),
    "one number": lambda: 5,
    "many": lambda: {f"layer.{i}.weight": torch.full((2,), i) for i in range(400)},
}


def _assert_same(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert type(found) is torch.Tensor
        assert found.device.type == "cpu"
        assert not found.requires_grad
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.stride() == expected.stride()
        assert found.storage_offset() == expected.storage_offset()
        assert _bits(found) == _bits(expected.detach())
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        for key in expected:
            _assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is (list if isinstance(expected, list) else tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_same(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", GOOD)
def test_same_as_torch(name: str, writer: str, tmp_path: Path) -> None:
    path = tmp_path / "good.pt"
    value = GOOD[name]()
    torch.save(value, path, **WRITERS[writer])
    if not (name == "unsigned" and "legacy" in writer):  # torch.load cannot read that
        # Its safe mode does not know protocols 4 and 5; this file is ours.
        value = torch.load(path, weights_only="protocol" not in writer)
    _assert_same(read_torch(path), value)


@pytest.mark.parametrize("writer", WRITERS)
def test_tied_tensors_share_memory(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "tied.pt"
    torch.save(_tied(), path, **WRITERS[writer])
    found = state_dict_of(read_torch(path), path)
    assert found["a"] is found["same"]
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 1


def test_neither_torch_load_nor_the_unpickler_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("called")

    for writer in WRITERS:
        torch.save(_module(), tmp_path / writer, **WRITERS[writer])
    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, name, never)
    for writer in WRITERS:
        assert len(state_dict_of(read_torch(tmp_path / writer), writer)) == 9


@pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="needs the shared checkpoints")
@pytest.mark.parametrize(
    "name",
    [
        "disvae_mnist_vae/model.pt",
        "disvae_celeba_btcvae/model.pt",
        "taef2/taef2_decoder.pth",
        "taef2/taef2_encoder.pth",
    ],
)
def test_published_checkpoints(name: str) -> None:
    path = CHECKPOINTS / name
    found = read_torch(path)
    _assert_same(found, torch.load(path, weights_only=True))
    assert len(state_dict_of(found, path)) >= 24


def test_views_of_storages_in_old_files(tmp_path: Path) -> None:
    def view(offset: int, numel: int) -> Storage:
        return Storage(10, location="cuda:0", view=((f"v{offset}", offset, numel),))

    oldest = Call(torch._utils._rebuild_tensor, view(2, 2), 0, (2,), (1,))
    value = {
        "head": tensor(view(0, 4), 0, (2, 2), (2, 1)),
        "tail": tensor(view(4, 6), 1, (5,), (1,)),
        "oldest": oldest,
    }
    path = tmp_path / "views.pt"
    path.write_bytes(legacy(pickled(value), ("0",), _bits(torch.arange(10.0))))
    found = read_torch(path)
    assert isinstance(found, dict)
    assert found["head"].tolist() == [[0, 1], [2, 3]]
    assert found["tail"].tolist() == [5, 6, 7, 8, 9]
    assert found["oldest"].tolist() == [2, 3]


def test_python_2_strings(tmp_path: Path) -> None:
    raw = b"\x80\x02}q\x01(U\x05epochq\x02K\x03T\x04\x00\x00\x00lossq\x03G?\xf0\x00\x00\x00\x00\x00\x00u."
    path = tmp_path / "python2.pt"
    path.write_bytes(legacy(raw))
    assert read_torch(path) == {"epoch": 3, "loss": 1.0}


def test_devices_become_strings(tmp_path: Path) -> None:
    path = tmp_path / "device.pt"
    torch.save({"a": torch.device("cpu"), "b": torch.device("cuda", 1)}, path)
    assert read_torch(path) == {"a": "cpu", "b": "cuda:1"}


class TestStateDictOf:
    weights = {"w": torch.ones(2), "b": torch.zeros(1)}  # noqa: RUF012

    def test_flat(self) -> None:
        assert state_dict_of(self.weights, "x.pt") == self.weights

    @pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
    def test_wrapped(self, wrapper: str) -> None:
        assert state_dict_of({"epoch": 3, wrapper: self.weights}, "x.pt") == self.weights

    def test_a_tensor_called_model_is_a_tensor(self) -> None:
        assert state_dict_of({"model": torch.ones(1)}, "x.pt").keys() == {"model"}

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (torch.ones(2), "a Tensor"),
            ([], "a list"),
            (None, "a NoneType"),
            ({}, "an empty dict"),
            ({"model": {}}, "'model': dict"),
            ({0: torch.ones(1)}, "0: Tensor"),
            ({"w": torch.ones(1), "epoch": 3}, "'w': Tensor, 'epoch': int"),
            ({"state_dict": {"model": {"w": torch.ones(1)}}}, "'state_dict': dict"),
            ({f"k{i}": i for i in range(20)}, "a dict of 20 items .*'k7': int, ..."),
        ],
    )
    def test_anything_else(self, value: object, found: str) -> None:
        with pytest.raises(WeightFormatError, match=found) as caught:
            state_dict_of(value, "folder/x.pt")
        assert str(caught.value).startswith("folder/x.pt: expected a state dict")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pt"):
        read_torch(tmp_path / "absent.pt")
