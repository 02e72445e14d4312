"""Models of every likelihood: what they score, decode and draw against SciPy; JSON; ONNX Runtime; what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from fastvae.cli import main
from fastvae.errors import InputError, UnsupportedError, WeightFormatError
from fastvae.formats import native
from fastvae.heads import Counts, NegativeBinomial, Poisson
from fastvae.likelihoods import OPERANDS, constants
from fastvae.plan import Target, build_plan
from fastvae.plan.verbs import translate
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.split_executor import WITHOUT_FORM, SplitExecutor
from fastvae.spec_json import spec_from_json, spec_to_json
from tests.fastvae.head_specs import HEADS, MIXED, OBSERVED, exact, log_density, rows_of, seen
from tests.fastvae.support import condition_for, inputs_of, mlp_spec, random_model, run_plan, vae

ROWS = 40


def parameters_of(model: fastvae.VAE, x: Any, condition: Any) -> dict[str, Any]:
    """The likelihood's parameters at the posterior means of x, in NumPy; of counts, with each row's own library."""
    z = torch.from_numpy(model.embed(x, condition=condition))
    given = None if condition is None else torch.from_numpy(condition)
    p = {k: v.numpy() for k, v in model._engine.head._named(model._engine.parameters(z, given)).items()}
    likelihood = model.spec.likelihood
    if isinstance(likelihood, Counts) and likelihood.library == "observed":
        p["location"] = p["location"] - np.log(likelihood.library_size) + np.log(x.sum(1, keepdims=True))
    return p


@pytest.mark.parametrize("name", [name for name in HEADS if name != "mixed"])
def test_scores_are_the_density(name: str) -> None:
    model, spec = exact(name), HEADS[name]
    x, condition = rows_of(spec, ROWS), condition_for(spec, ROWS)
    p = parameters_of(model, x, condition)
    logs = log_density(spec.likelihood.kind, p, x)
    found = model.score(x, condition=condition)
    np.testing.assert_allclose(found, -logs.reshape(ROWS, -1).sum(1), rtol=1e-11)
    elbo = model.score(x, "elbo", condition=condition)
    np.testing.assert_allclose(elbo, found + model.score(x, "kl", condition=condition), rtol=1e-12)


def test_a_mixed_score_is_the_sum_of_its_segments() -> None:
    model = exact("mixed")
    x = rows_of(model.spec, ROWS)
    parameters = model._engine.parameters(torch.from_numpy(model.embed(x)))
    total = np.zeros(ROWS)
    for (head, given), (segment, (low, high), _) in zip(
        model._engine.head._split(parameters), MIXED.spans(), strict=True
    ):
        p = {k: v.numpy() for k, v in head._named(given).items()}
        total -= log_density(segment.likelihood.kind, p, x[:, low:high]).reshape(ROWS, -1).sum(1)
    np.testing.assert_allclose(model.score(x), total, rtol=1e-11)


@pytest.mark.parametrize("name", HEADS)
def test_passes_keep_what_a_likelihood_makes(name: str) -> None:
    model, spec = random_model(HEADS[name]), HEADS[name]
    inputs = inputs_of(spec) | {"x": torch.from_numpy(rows_of(spec, 5)), "mask": torch.from_numpy(seen(name, 5))}
    targets: tuple[Target, ...] = ("reference", "onnx", "triton")
    for verb in ("parameters", "decode", "reconstruct", "score", "impute", "elbo"):
        if verb == "impute" and name in OBSERVED:
            continue
        narrow = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
        plain = run_plan(translate(model, verb), narrow)
        for target in targets:
            plan = build_plan(model, verb, target=target, dtype=torch.float64)
            for one, other in zip(run_plan(plan, inputs), plain, strict=True):
                torch.testing.assert_close(one.float(), other.float(), rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_importance_weights_are_densities(name: str) -> None:
    """With several draws at once, and their chunks cut as they may."""
    model, spec = exact(name), HEADS[name]
    x, condition = rows_of(spec, 7), condition_for(spec, 7)
    together = model.score(x, "iwae", samples=5, condition=condition)
    rows = [model.score(x[i : i + 1], "iwae", samples=5, start=i, condition=_row(condition, i)) for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(rows), rtol=1e-10)


def _row(condition: Any, i: int) -> Any:
    return None if condition is None else condition[i : i + 1]


@pytest.mark.parametrize("name", HEADS)
def test_spec_and_weights_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    spec = HEADS[name]
    text = spec_to_json(spec)
    assert spec_from_json(text) == spec
    assert spec_to_json(spec_from_json(text)) == text
    model = vae(spec)
    model.save(tmp_path / "model.safetensors")
    again = fastvae.load(tmp_path / "model.safetensors")
    x, condition = rows_of(spec, 3), condition_for(spec, 3)
    np.testing.assert_array_equal(again.score(x, condition=condition), model.score(x, condition=condition))
    assert native.read(tmp_path / "model.safetensors").spec == spec


# float32 against float64: parameters off by a few 1e-7 of their size, times counts of up to 100 in all.
NARROW = {"rtol": 2e-5, "atol": 1e-4}


@pytest.mark.parametrize("name", HEADS)
def test_onnx_runtime_agrees_with_the_reference(name: str) -> None:
    spec = HEADS[name]
    model, wide = vae(spec, impl="onnxruntime"), exact(name)
    x, condition = rows_of(spec, ROWS), condition_for(spec, ROWS)
    calls = {
        "decode": lambda m: m.decode(m.embed(x, condition=condition), condition=condition),
        "reconstruct": lambda m: m.reconstruct(x, condition=condition),
        "score": lambda m: m.score(x, condition=condition),
        "l2": lambda m: m.score(x, "l2", condition=condition),
        "iwae": lambda m: m.score(x, "iwae", samples=3, condition=condition),
        "generate": lambda m: m.generate(ROWS, condition=condition),
    }
    for verb, call in calls.items():
        np.testing.assert_allclose(call(model), call(wide), **NARROW, err_msg=verb)
    if name not in OBSERVED:
        z = torch.from_numpy(wide.embed(x, condition=condition))[None].repeat(2, 1, *[1] * len(spec.latent_shape))
        mask = torch.from_numpy(seen(name, ROWS))
        if name == "categorical":  # seen whole and none of them: nothing is left open
            x[0], mask[0] = 0.0, True
        given = None if condition is None else torch.from_numpy(condition)
        narrow = model._engine.impute(z.float(), torch.from_numpy(x).float(), mask=mask, condition=given)
        for one, other in zip(
            narrow, wide._engine.impute(z, torch.from_numpy(x), mask=mask, condition=given), strict=True
        ):
            np.testing.assert_allclose(one, other, **NARROW)


def test_only_counts_run_their_last_steps_in_pytorch() -> None:
    for name, spec in HEADS.items():
        executor = vae(spec, impl="onnxruntime")._engine.executors.of("elbo")
        counts = any(step.op in WITHOUT_FORM for step in executor.plan.steps)
        assert isinstance(executor, SplitExecutor if counts else OnnxExecutor), name


@pytest.mark.parametrize("name", HEADS)
def test_a_rows_bits_are_its_own_in_batch_invariant_mode(name: str) -> None:
    spec = HEADS[name]
    model = vae(spec, batch_invariant=True)
    x, condition = rows_of(spec, 70).astype(np.float32), condition_for(spec, 70)
    whole = model.score(x, condition=condition), model.reconstruct(x, condition=condition)
    for low, high in ((0, 1), (33, 35), (69, 70)):
        part = None if condition is None else condition[low:high]
        np.testing.assert_array_equal(model.score(x[low:high], condition=part), whole[0][low:high])
        np.testing.assert_array_equal(model.reconstruct(x[low:high], condition=part), whole[1][low:high])


@pytest.mark.parametrize("name", OBSERVED)
def test_a_library_that_is_the_rows_own_sum_refuses_holes(name: str) -> None:
    model, x = exact(name), rows_of(HEADS[name], 3)
    x[0, 0] = np.nan
    with pytest.raises(UnsupportedError, match=r"impute: the \w+ likelihood takes a row's own total"):
        model.impute(x, method="gibbs")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("poisson", -1.0, "x: this model's data are counts, whole numbers from 0 got -1; row 3"),
        ("zinb", 0.5, "x: this model's data are counts, whole numbers from 0 got 0.5; row 3"),
        ("multinomial", -2.0, "counts.* row 3"),
        ("continuous_bernoulli", 1.5, r"x: this model's data lie in \[0, 1\], got values from .* to 1.5.*; row 3"),
        ("categorical", 1.0, "x: this model's categories are one-hot columns.*; row 3"),
        ("categorical", 0.5, "one-hot columns, one of them 1 and the others 0 got .*; row 3"),
    ],
)
def test_values_outside_of_the_support_name_the_row(name: str, value: float, message: str) -> None:
    x = rows_of(HEADS[name], 6).astype(np.float32)
    if name == "categorical":
        x[3] = 0.0
        x[3, :2] = value
    x[3, 0] = value
    for model in (vae(HEADS[name]), exact(name)):
        for call in (model.score, model.embed, model.reconstruct):
            with pytest.raises(InputError, match=message):
                call(x)


def test_values_outside_of_a_segments_support_name_its_columns() -> None:
    model, x = exact("mixed"), rows_of(HEADS["mixed"], 5)
    x[2, 1:4] = 1.0
    with pytest.raises(InputError, match=r"one-hot.*, in columns 1 to 3, got 1, 1, 1; row 2"):
        model.score(x)
    x = rows_of(HEADS["mixed"], 5)
    x[4, 6] = 1.5
    with pytest.raises(InputError, match=r"\[0, 1\], got values from 1.5 to 1.5, in columns 6 to 6,.*; row 4"):
        model.score(x)
    x[4, 6] = 1.0
    x[1, 2] = np.nan
    with pytest.raises(InputError, match=r"one-hot.*; row 1"):
        model.impute(x)
    assert np.isnan(model.score(x, invalid="mask")[1])


@pytest.mark.parametrize("name", ["poisson", "nb", "categorical", "student_t"])
def test_extreme_rows_are_never_nan(name: str) -> None:
    model, x = vae(HEADS[name]), rows_of(HEADS[name], 4)
    if name != "categorical":
        x[0], x[1], x[2] = 0.0, 1e30, 1e6
    for metric in ("reconstruction", "elbo"):
        assert not np.isnan(model.score(x, metric)).any()


def test_an_empty_row_of_counts_has_a_library() -> None:
    for name in OBSERVED:
        for model in (vae(HEADS[name]), exact(name)):
            found = model.score(np.zeros((2, 6)))
            assert np.isfinite(found).all(), name


@pytest.mark.parametrize("name", ["zinb", "multinomial", "mixed"])
def test_kernels_score_what_references_do(name: str) -> None:
    """And a row has the same bits alone as among others."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = vae(HEADS[name], impl="triton", batch_invariant=True, device=device)
    x, condition = rows_of(HEADS[name], 5), condition_for(HEADS[name], 5)
    found = model.score(x, condition=condition)
    np.testing.assert_allclose(found, exact(name).score(x, condition=condition), **NARROW)
    np.testing.assert_array_equal(model.score(x[3:4], condition=_row(condition, 3)), found[3:4])


def test_the_page_of_likelihoods_shows_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "likelihoods.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    document = json.loads(spec_to_json(mlp_spec(features=2000)))
    document["decoder"] = [{"kind": "linear", "name": "h", "in_features": 3, "out_features": 128}]
    spec = spec_from_json(json.dumps(document | {"likelihood": json.loads(block)}))
    assert isinstance(spec.likelihood, NegativeBinomial)
    assert spec.tensors()["px_r"] == (2000,)
    for kind in OPERANDS:
        assert f"`{kind}`" in page


def test_counts_have_no_exported_score(tmp_path: Path) -> None:
    model = vae(HEADS["poisson"])
    model.export(tmp_path / "decode.onnx")
    with pytest.raises(UnsupportedError, match="the op 'poisson_nll' has no ONNX form"):
        model.export(tmp_path / "score.onnx", "elbo")


def test_positive_parameters_have_three_forms() -> None:
    raw = torch.linspace(0.1, 3, 6).double()
    for form, value in (("log", raw.exp()), ("softplus", raw.exp().log1p() + 0.5), ("identity", raw + 0.5)):
        text = spec_to_json(HEADS["nb"]).replace(
            '"dispersion": {"eps": 0.0, "form": "log"', f'"dispersion": {{"eps": 0.5, "form": "{form}"'
        )
        likelihood = spec_from_json(text).likelihood
        found = constants(likelihood, {"theta": raw})["log_dispersion"]
        torch.testing.assert_close(found.exp(), value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson("exp", "observed"), "library 'observed' needs link 'softmax'"),
        (lambda: Poisson("exp", "fixed", 3.0), "library_size 3.0 needs link 'softmax'"),
        (lambda: Poisson("softmax", "fixed", 0.0), "library_size must be positive"),
        (lambda: fastvae.heads.Fixed(-1.0), "value must be positive"),
        (lambda: fastvae.heads.Mixed(()), "needs a segment"),
        (lambda: fastvae.heads.Segment(0, fastvae.heads.Bernoulli()), "columns"),
        (lambda: random_model_of(NegativeBinomial(fastvae.heads.ByCondition("theta"))), "by condition, but the model"),
        (lambda: random_model_of(MIXED), "the segments take 18 flat features, found shape"),
    ],
)
def test_specs_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        make()


def test_inspect_shows_a_likelihoods_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in {"zinb": ("location", "zero_inflation"), "mixed": ("columns 0 to 0", "3 categorical")}.items():
        vae(HEADS[name]).save(tmp_path / f"{name}.safetensors")
        monkeypatch.setattr("sys.argv", ["fastvae", "inspect", str(tmp_path / f"{name}.safetensors")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        shown = capsys.readouterr().out
        assert all(word in shown for word in words), shown


def random_model_of(likelihood: Any) -> Any:
    return random_model(mlp_spec(likelihood))
