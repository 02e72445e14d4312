"""Explanations: names of devices, times by hand, and totals that are the sums of their steps."""

from __future__ import annotations

import pytest
import torch

from fastvae.errors import InputError, UnsupportedError
from fastvae.plan import VERBS, Explanation, build_plan, explain, plan_cost
from fastvae.plan.roofs import LAUNCH_SECONDS, roofs
from fastvae.spec import Bernoulli
from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import best_tile, predicted_seconds
from tests.fastvae.support import SPECS, mlp_spec, random_model, vae


def explained(verb: str = "elbo", *, rows: int = 4096, device: str = "H100", precision: str = "bf16") -> Explanation:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    return explain(
        build_plan(random_model(mlp_spec(Bernoulli())), verb, target="triton", dtype=dtype), rows, device, precision
    )


@pytest.mark.parametrize("name", ["H100", "h200", "sm_90", "H100, H200"])
def test_a_gpu_goes_by_any_of_its_names(name: str) -> None:
    if "," in name:
        with pytest.raises(InputError, match=r"expected cpu or one of A100 \(sm_80\), H100, H200 \(sm_90\), B200"):
            roofs(name, "bf16")
    else:
        assert roofs(name, "bf16").part is PARTS["sm_90"]


def test_every_part_can_be_explained() -> None:
    for target in PARTS:
        for precision in ("ieee", "tf32", "bf16", "fp16"):
            assert explained(device=target, precision=precision).microseconds > 0


def test_a_gpu_without_a_rate_says_so() -> None:
    with pytest.raises(UnsupportedError, match="A100 has rates for ieee, tf32, bf16, fp16, not for 'float64'"):
        vae(mlp_spec(), precision="float64").explain(device="a100")


def test_times_by_hand() -> None:
    """A product takes what its tile is predicted to take; anything else its traffic; both a launch more."""
    plan = build_plan(random_model(mlp_spec(Bernoulli(), features=700)), "score", dtype=torch.bfloat16)
    found = explain(plan, 65536, "H100", "bf16")
    part = PARTS["sm_90"]
    tile = best_tile("linear", 700, 8, "bf16", part)
    assert [step.op for step in found.steps] == ["linear", "linear", "bernoulli_nll"]
    expected = predicted_seconds(tile, 65536, 700, 8, "bf16", part) + LAUNCH_SECONDS
    assert found.steps[1].microseconds == pytest.approx(1e6 * expected)
    moved = 65536 * (2 * (700 + 700) + 4)
    assert found.steps[2].bytes == moved
    assert found.steps[2].microseconds == pytest.approx(1e6 * (moved / part.copy_bandwidth + LAUNCH_SECONDS))


def test_fused_steps_are_predicted_as_their_products() -> None:
    found = explained("elbo", rows=65536)
    assert [step.op for step in found.steps] == ["linear", "bottleneck", "linear_score"]
    part = PARTS["sm_90"]
    products = [(6, 8), (8, 3)]
    computing = sum(predicted_seconds(best_tile("linear", *p, "bf16", part), 65536, *p, "bf16", part) for p in products)
    assert found.steps[1].microseconds == pytest.approx(1e6 * (computing + LAUNCH_SECONDS))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", SPECS)
def test_totals_are_sums_and_views_are_free(name: str, verb: str) -> None:
    model = vae(SPECS[name], precision="bf16")
    found = model.explain(verb, rows=100, device="B200")
    for total in ("flops", "bytes", "microseconds"):
        assert getattr(found, total) == pytest.approx(sum(getattr(step, total) for step in found.steps))
    assert sum(step.share for step in found.steps) == pytest.approx(1)
    for step in found.steps:
        assert (step.microseconds == 0) == (step.op in ("reshape", "split", "narrow"))
    assert found.arena_bytes > 0


def test_a_gpu_gets_the_fused_plan_and_a_cpu_the_layers() -> None:
    model = vae(mlp_spec(Bernoulli()))
    on_gpu, on_cpu = (model.explain("elbo", 64, device) for device in ("H100", "cpu"))
    assert "bottleneck" in [step.op for step in on_gpu.steps]
    assert "bottleneck" not in [step.op for step in on_cpu.steps]
    assert on_cpu.peak_bytes == 64 * plan_cost(build_plan(random_model(mlp_spec(Bernoulli())), "elbo")).peak_bytes


def test_this_cpu_is_measured_and_says_so() -> None:
    found = roofs("CPU", "ieee")
    assert "measured" in found.name
    assert found.flops > 1e8
    assert found.bandwidth > 1e8
    assert 0 < found.launch < 0.1


def test_auto_is_the_models_own_device() -> None:
    assert "this CPU" in vae(mlp_spec(), device="cpu").explain().device


def test_the_table_reads_well() -> None:
    text = str(explained("kl", rows=1000))
    lines = text.splitlines()
    assert lines[0] == "kl, 1,000 rows, bf16, predicted for H100, H200 (sm_90)"
    assert lines[1].split() == ["op", "shapes", "flops", "bytes", "us", "share"]
    assert lines[2].startswith("linear         6 -> 8")
    assert lines[3].startswith("gaussian_head  8 -> 3 + 1")
    assert lines[-2].startswith("total")
    assert lines[-1].startswith("memory: ")
    assert max(map(len, lines)) < 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows: expected an integer from 1"),
        ({"device": "abacus"}, "device: expected cpu or one of"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vae(mlp_spec()).explain(**arguments)  # type: ignore[arg-type]


def test_an_unknown_verb_is_told() -> None:
    with pytest.raises(UnsupportedError, match="expected one of encode"):
        vae(mlp_spec()).explain("dream")
