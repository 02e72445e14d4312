"""What every test runs under: the Triton interpreter where there is no GPU, fixed seeds, poisoned memory."""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is decorated, so before any is imported

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one thread a worker: more than there are cores cost far more than they bring

settings.register_profile("fastvae", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fastvae")


def _poisoned(empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`empty`, whose floating results are filled with NaN, so that an output nobody wrote is noticed."""

    def poisoned_empty(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = empty(*args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() and out.device.type != "meta" else out

    return poisoned_empty


@pytest.fixture(scope="session", autouse=True)
def poison_uninitialised_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries still use the global generator
    torch.manual_seed(0)
