"""Buffers: who shares memory, who lives when, where each lies in an arena, that predicted peaks are measured ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvae.plan import VERBS, Plan, Step, Target, assign_buffers, build_plan, plan_cost
from fastvae.plan.memory import ALIGNMENT, Lifetime, bases, lifetimes, row_bytes
from fastvae.plan.workspace import workspace_bytes
from fastvae.spec import Bernoulli, ModelSpec
from fastvae_kernels.reference.attention import SCORE_BYTES
from tests.fastvae.strategies import specs
from tests.fastvae.support import SPECS, mlp_spec, random_model

ROOT = Path(__file__).parents[3]


def in_use(plan: Plan, rows: int, element_bytes: int) -> list[dict[str, int]]:
    """For each step the bytes of every buffer that is needed during it, views aside, each rounded to the alignment."""
    sizes = row_bytes(plan, element_bytes)
    lives = lifetimes(plan).items()
    return [
        {
            name: -(-rows * sizes[name] // ALIGNMENT) * ALIGNMENT
            for name, life in lives
            if life.first <= step <= life.last
        }
        for step in range(len(plan.steps) + 1)
    ]


def written_in_place(plan: Plan, step: int, offsets: dict[str, int]) -> set[str]:
    """The operand that an elementwise step may share its place with, for it dies there."""
    if step == len(plan.steps) or plan.steps[step].op not in ("affine", "logvar"):
        return set()
    base = bases(plan)[str(plan.steps[step].inputs[0])]
    dies = lifetimes(plan)[base].last == step and base not in plan.inputs
    return {base} if dies and offsets[base] == offsets[plan.steps[step].outputs[0]] else set()


@given(
    spec=specs(),
    verb=st.sampled_from(VERBS),
    target=st.sampled_from(("reference", "triton")),
    rows=st.integers(1, 300),
    element_bytes=st.sampled_from((2, 4, 8)),
)
def test_no_two_live_buffers_overlap(spec: ModelSpec, verb: str, target: Target, rows: int, element_bytes: int) -> None:
    plan = build_plan(random_model(spec), verb, target=target)
    places = assign_buffers(plan, rows, element_bytes)
    least = 0
    for step, live in enumerate(in_use(plan, rows, element_bytes)):
        for name in written_in_place(plan, step, dict(places.offsets)):
            del live[name]
        ranges = sorted((places.offsets[name], places.offsets[name] + size) for name, size in live.items())
        assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
        assert all(start % ALIGNMENT == 0 for start, _ in ranges)
        assert all(end <= places.total_bytes for _, end in ranges)
        least = max(least, sum(live.values()))
    assert least <= places.total_bytes <= 1.5 * least, "greedy placement stays near what is needed at once"


@pytest.mark.parametrize("name", SPECS)
def test_arenas_of_plain_models_waste_at_most_a_fifth(name: str) -> None:
    for verb in VERBS:
        plan = build_plan(random_model(SPECS[name]), verb)
        total = assign_buffers(plan, 1000).total_bytes
        assert 0.8 * total <= max(sum(live.values()) for live in in_use(plan, 1000, 4)), verb


def test_buffers_of_a_chain_take_turns() -> None:
    shapes = dict.fromkeys("abcde", (64,))
    steps = tuple(Step("linear", (x, "w", None), (y,)) for x, y in zip("abcd", "bcde", strict=True))
    plan = Plan("chain", ("a",), ("e",), steps, {}, shapes)
    places = assign_buffers(plan, rows=1)
    assert places.total_bytes == 2 * 256
    assert places.offsets["a"] == places.offsets["c"] == places.offsets["e"]


def test_an_elementwise_step_works_in_place_unless_its_input_is_the_callers() -> None:
    shapes = dict.fromkeys("abc", (64,))
    steps = tuple(Step("affine", (x, "w", None), (y,)) for x, y in ("ab", "bc"))
    plan = Plan("chain", ("a",), ("c",), steps, {}, shapes)
    places = assign_buffers(plan, rows=1)
    assert places.offsets["b"] == places.offsets["c"] != places.offsets["a"]


def test_views_keep_what_they_look_at() -> None:
    plan = build_plan(random_model(mlp_spec()), "encode")
    base = bases(plan)
    mean, logvar = plan.outputs
    assert base[mean] == base[logvar] not in plan.outputs
    assert lifetimes(plan)[base[mean]].last == len(plan.steps)


def test_every_other_channel_of_an_image_is_copied_to_be_flat() -> None:
    shapes = {"x": (4, 3, 3), "a": (2, 3, 3), "b": (2, 3, 3), "flat": (18,)}
    split = Step("split", ("x",), ("a", "b"), {"layout": "interleaved"})
    reshape = Step("reshape", ("a",), ("flat",), {"shape": (18,)})
    plan = Plan("views", ("x",), ("flat", "b"), (split, reshape), {}, shapes)
    assert bases(plan) == {"x": "x", "a": "x", "b": "x", "flat": "flat"}
    chunked = replace(plan, steps=(replace(split, attributes={"layout": "chunked"}), reshape))
    assert bases(chunked)["flat"] == "x"


def test_row_sums_are_float32_and_masks_are_bytes() -> None:
    plan = build_plan(random_model(mlp_spec(Bernoulli())), "impute")
    sizes = row_bytes(plan, 2)
    assert (sizes["nll"], sizes["mask"], sizes["x"], sizes["output"]) == (4, 6, 12, 12)
    assert row_bytes(plan, 8)["nll"] == 8


def test_lifetimes_overlap_in_a_shared_step() -> None:
    assert Lifetime(0, 2).overlaps(Lifetime(2, 3))
    assert not Lifetime(0, 1).overlaps(Lifetime(2, 3))


def test_an_output_that_nothing_reads_is_released() -> None:
    plan = build_plan(random_model(mlp_spec()), "kl", target="triton")
    (step,) = [step for step in plan.steps if step.op == "gaussian_head"]
    assert plan.last_reads()[step.outputs[0]] == plan.steps.index(step)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from /proc")
@pytest.mark.parametrize(
    ("model", "verb", "rows"),
    [("mlp", "elbo", 65536), ("conv", "distance", 4096)],
)
def test_predicted_peak_memory_is_within_a_tenth_of_the_measured(model: str, verb: str, rows: int) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    command = [sys.executable, "-m", "tests.fastvae.plan.measured_peak", model, verb, str(rows)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    predicted, measured = map(int, result.stdout.split())
    assert predicted > 200 * 2**20
    assert abs(predicted - measured) <= 0.1 * measured


def test_workspace_counts_in_the_peak_of_references_alone() -> None:
    plan = build_plan(random_model(mlp_spec(Bernoulli())), "score")
    with_reference, with_kernels = plan_cost(plan).peak_bytes, plan_cost(plan, workspace=False).peak_bytes
    assert with_kernels == 4 * (3 + 6 + 8 + 6), "z, x, hidden layer and logits"
    assert with_reference == 4 * (3 + 6 + 6 + 1 + 2 * 6), "z, x, logits, score, and two temporaries of the score"


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "element_bytes", "expected"),
    [
        ("group_norm", {"groups": 2}, (4, 5, 5), 4, 4 * 100),
        ("group_norm", {"groups": 2, "activation": "gelu"}, (4, 5, 5), 8, 8 * 100),
        ("group_norm", {"groups": 2}, (4, 5, 5), 2, 4 * (2 * 100 + 100)),
        ("attention", {"heads": 2}, (4, 5, 5), 4, 4 * (2 * 25 * 25 + 2 * 100)),
        ("attention", {"heads": 1}, (4, 80, 80), 4, SCORE_BYTES + 4 * 2 * 25_600),
        ("attention", {"heads": 1}, (4, 80, 80), 8, SCORE_BYTES + 8 * 2 * 25_600),
        ("attention", {"heads": 1}, (4, 80, 80), 2, SCORE_BYTES + 4 * (4 + 2) * 25_600),
    ],
)
def test_workspace_of_image_ops(
    op: str, attributes: dict[str, object], shape: tuple[int, ...], element_bytes: int, expected: int
) -> None:
    """Squares, or scores up to a block, scaled queries and a block's result; float32 copies of what is narrower."""
    inputs = ("q", "k", "v") if op == "attention" else ("x",)
    step = Step(op, inputs, ("y",), attributes)
    plan = Plan("decode", inputs, ("y",), (step,), {}, dict.fromkeys((*inputs, "y"), shape))
    assert workspace_bytes(plan, step, element_bytes) == expected
