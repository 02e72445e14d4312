"""Formats of shards: other tools read them, the same rows give the same checksum, and damage is noticed."""

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import webdataset
import zarr

import fastvae
from fastvae import bulk
from fastvae.bulk.folder import Folder
from fastvae.bulk.job import Job
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.table import Column
from fastvae.errors import InputError, JobError, UnsupportedError
from tests.fastvae.bulk.fakes import assert_whole, columns_of, contents, drive, made_job
from tests.fastvae.image_specs import image_spec
from tests.fastvae.support import vae

IMAGES = Column("sample", "uint8", (3, 2, 4))
SEVERAL = (Column("mean", "float32", (2, 3)), Column("half", "float16", (5,)), Column("one", "float32", ()), IMAGES)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_the_same_rows_in_the_same_bytes(tmp_path: Path, format: str) -> None:
    npy = drive(made_job(n=25, shard_size=25, columns=(IMAGES,)), tmp_path / "npy")
    job = made_job(n=25, shard_size=7, format=format, columns=(IMAGES,))
    assert drive(job, tmp_path / "one").content == npy.content
    drive(job, tmp_path / "two", workers=2)
    assert_whole(job, tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    nothing = made_job(n=0, format=format, columns=(IMAGES,))
    assert drive(nothing, tmp_path / "none").content == "0" * 16
    assert bulk.verify(tmp_path / "none").ok


@pytest.mark.parametrize("format", ["parquet", "parquet-bytes", "zarr", "webdataset"])
def test_several_columns(tmp_path: Path, format: str) -> None:
    job = made_job(n=10, format=format, columns=SEVERAL)
    drive(job, tmp_path)
    assert_whole(job, tmp_path)
    indices, columns = FORMATS[format].read(job, 1, tmp_path, [1, 3])
    np.testing.assert_array_equal(indices, [5, 7])
    for column in SEVERAL:
        np.testing.assert_array_equal(columns[column.name], columns_of(job, 4, 8)[column.name][[1, 3]])


@pytest.mark.filterwarnings("ignore:Object at")  # the job's own files, where the group is listed
def test_a_zarr_group_of_all_rows(tmp_path: Path) -> None:
    job = made_job(n=10, format="zarr", columns=SEVERAL)
    drive(job, tmp_path)
    group = zarr.open_group(tmp_path, mode="r")
    assert sorted(group.array_keys()) == ["half", "index", "mean", "one", "sample"]
    assert group.attrs["fastvae"] == {"job": job.id}
    np.testing.assert_array_equal(group["index"][:], np.arange(10))
    for column in SEVERAL:
        array: Any = group[column.name]
        assert array.dtype == column.dtype
        assert array.chunks == (4, *column.shape)
        np.testing.assert_array_equal(array[:], columns_of(job, 0, 10)[column.name])
    assert zarr.open_array(tmp_path / "one", mode="r")[9] == columns_of(job, 9, 10)["one"]


def test_a_zarr_job_smaller_than_its_shard_is_not_filled_up(tmp_path: Path) -> None:
    job = made_job(n=3, shard_size=10**5, format="zarr")
    drive(job, tmp_path)
    assert (tmp_path / "sample" / "c.0.0").stat().st_size == 3 * job.columns[0].bytes
    assert_whole(job, tmp_path)


def test_zarr_metadata_are_there_before_any_shard_and_again_after_a_loss(tmp_path: Path) -> None:
    job = made_job(format="zarr")
    folder = Folder(tmp_path)
    with folder.locked():
        folder.prepare(job)
    assert zarr.open_group(tmp_path, mode="r")["sample"].shape == (10, 3)  # type: ignore[union-attr]
    drive(job, tmp_path)
    expected = contents(tmp_path)
    for name, damage in {"zarr.json": Path.unlink, "sample/zarr.json": lambda path: path.write_text("{}")}.items():
        damage(tmp_path / name)
        found = bulk.verify(tmp_path)
        assert found.shards == 0
        assert "cannot be read" in found.problems[0]
        drive(job, tmp_path)
        assert contents(tmp_path) == expected


def test_webdataset_reads_the_tars(tmp_path: Path) -> None:
    job = made_job(n=10, format="webdataset", columns=SEVERAL)
    drive(job, tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{index:09d}" for index in range(10)]
    expected = columns_of(job, 0, 10)
    for index, sample in enumerate(samples):
        for name in ("mean", "half", "one"):
            np.testing.assert_array_equal(sample[f"{name}.npy"], expected[name][index])
        np.testing.assert_array_equal(sample["sample.png"].transpose(2, 0, 1), expected["sample"][index])
    with tarfile.open(urls[0]) as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in tar} == {
            (0, 0, 0, "", 0o644)
        }


def test_a_tar_is_the_same_however_often_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made_job(n=9, format="webdataset", block_rows=2)
    drive(job, tmp_path / "once")
    monkeypatch.setattr("fastvae.bulk.shards._webdataset.CHUNK", 1)
    drive(job, tmp_path / "often")
    assert contents(tmp_path / "once") == contents(tmp_path / "often")


def test_images_in_a_range_of_their_own(tmp_path: Path) -> None:
    """The pixels of means; draws may lie outside of the range."""
    model = vae(replace(image_spec(), pixel_range=(-1.0, 1.0)))
    bulk.generate(model, 5, tmp_path / "npy", format="npy", dtype="uint8")
    invariant = fastvae.VAE(model._model, replace(model._engine.settings, batch_invariant=True))
    pixels = invariant.generate(5, output="uint8")
    assert np.ptp(pixels) > 50
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / "shard-000000000.npy"), np.moveaxis(pixels, -1, 1))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 3, 8, 8), np.float32))
    bulk.reconstruct(model, tmp_path / "x.npy", tmp_path / "png", format="png", dtype="uint8")
    found = [np.asarray(PIL.Image.open(path)) for path in sorted((tmp_path / "png").glob("*/*.png"))]
    expected = invariant.reconstruct(np.load(tmp_path / "x.npy"), output="uint8")
    np.testing.assert_array_equal(np.stack(found), expected)
    with pytest.raises(InputError, match="dtype: uint8 needs outputs in"):
        bulk.generate(model, 5, tmp_path / "draws", dtype="uint8", output="sample")


def test_images_of_a_model(tmp_path: Path) -> None:
    model = fastvae.load("digits", impl="reference", batch_invariant=True)
    expected = np.rint(model.generate(20) * 255).astype(np.uint8)
    reports = [
        bulk.generate(model, 20, tmp_path / format, shard_size=8, format=format, dtype="uint8")  # type: ignore[arg-type]
        for format in ("png", "webdataset")
    ]
    assert reports[0].content == reports[1].content
    images = sorted((tmp_path / "png").glob("*/*.png"))
    assert [str(path.relative_to(tmp_path / "png")) for path in images[7:9]] == [
        "shard-000000000/000000007.png",
        "shard-000000001/000000008.png",
    ]
    np.testing.assert_array_equal(np.stack([np.asarray(PIL.Image.open(path)) for path in images]), expected[:, 0])
    (sample, *_) = webdataset.WebDataset(str(tmp_path / "webdataset/shard-000000001.tar"), shardshuffle=False)
    assert sample["__key__"] == "000000008"
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(sample["png"]))), expected[8, 0])
    for format in ("png", "webdataset"):
        found = bulk.verify(tmp_path / format, model, rows=20)
        assert (found.problems, found.rows) == ((), 20)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: (shard / "000000005.png").unlink(), r"shard-000000001/ has [\d,]+ bytes instead of"),
        (lambda shard: (shard / "000000005.txt").touch(), "has another SHA-256"),
        (lambda shard: (shard / "000000005.png").rename(shard / "000000009.png"), "has another SHA-256"),
        (lambda shard: shard.rename(shard.with_name("elsewhere")), "is missing"),
    ],
)
def test_a_damaged_folder_of_images(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    job = made_job(format="png")
    drive(job, tmp_path)
    expected = contents(tmp_path)
    damage(tmp_path / job.stem(1))
    found = bulk.verify(tmp_path)
    assert (found.ok, found.shards, len(found.problems)) == (False, 2, 1)
    with pytest.raises(AssertionError, match=message):
        assert found.problems[0] == ""
    for path in (tmp_path / job.stem(1), tmp_path / "elsewhere"):
        shutil.rmtree(path, ignore_errors=True)
    drive(job, tmp_path)
    assert contents(tmp_path) == expected


def unreadable(job: Job, folder: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        FORMATS[job.format].read(job, 1, folder, [0, 3])


def test_shards_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    for format in ("zarr", "webdataset", "png"):
        job = made_job(n=8, format=format, columns=(IMAGES,))
        folder = tmp_path / format
        drive(job, folder)
        unreadable(replace(job, columns=(replace(IMAGES, shape=(3, 4, 2)),)), folder)
        unreadable(job, tmp_path / "nowhere")
        if format != "png":
            unreadable(replace(job, columns=(replace(IMAGES, dtype="float32"),)), folder)
    image = tmp_path / "png" / "shard-000000001" / "000000007.png"
    for data in (b"", b"\x89PNG\r\n", image.read_bytes()[:45]):
        image.write_bytes(data)
        unreadable(made_job(n=8, format="png", columns=(IMAGES,)), tmp_path / "png")
    tar = tmp_path / "webdataset" / "shard-000000001.tar"
    whole = tar.read_bytes()
    for data in (b"", b"no tar" * 500, whole[:3000], whole.replace(b"000000004.png", b"00000000x.png")):
        tar.write_bytes(data)
        unreadable(made_job(n=8, format="webdataset", columns=(IMAGES,)), tmp_path / "webdataset")
    drive(made_job(n=8, format="zarr"), tmp_path / "cut")
    chunk = tmp_path / "cut" / "index" / "c.1"
    chunk.write_bytes(chunk.read_bytes()[:-8])
    assert FORMATS["zarr"].count(made_job(n=8, format="zarr"), 1, tmp_path / "cut") == 3
    (image.parent / "000000006.png").unlink()
    assert FORMATS["png"].count(made_job(n=8, format="png", columns=(IMAGES,)), 1, tmp_path / "png") == 3


@pytest.mark.parametrize(
    ("format", "columns", "message"),
    [
        ("png", SEVERAL, "'png' holds one column, and these are 4"),
        (
            "png",
            (replace(IMAGES, dtype="float32"),),
            "'png' holds uint8 images of 1 or 3 channels, not",
        ),
        ("png", (replace(IMAGES, shape=(2, 8, 8)),), "1 or 3 channels"),
        ("png", (replace(IMAGES, shape=(3,)),), "1 or 3 channels"),
        ("npy", SEVERAL, "'npy' holds one column"),
        ("npy", (Column("id", "text", ()),), "'npy' holds numbers only, and id text are none"),
        ("zarr", (Column("id", "text", ()),), "'zarr' holds numbers only"),
        ("zarr", (Column("../x", "float32", ()),), "names are words, not '../x'"),
        ("webdataset", (Column("id", "text", ()),), "'webdataset' holds numbers only"),
    ],
)
def test_columns_that_a_format_cannot_hold(format: str, columns: tuple[Column, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FORMATS[format].check(columns)


@pytest.mark.parametrize(
    ("format", "package", "message"),
    [
        ("zarr", "zarr", r'.zarr shards need the package zarr: pip install "fastvae-engine\[bulk\]"'),
        ("png", "PIL", "png shards need the package pillow"),
        ("webdataset", "PIL", "images in .tar shards need the package pillow"),
    ],
)
def test_a_package_that_is_missing(
    format: str, package: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.delitem(__import__("sys").modules, "PIL.Image")
    with pytest.raises(UnsupportedError, match=message):
        FORMATS[format].check((IMAGES,))


def test_png_needs_bytes(tmp_path: Path, model: fastvae.VAE) -> None:
    with pytest.raises(InputError, match=r"use dtype='uint8' with a model of images"):
        bulk.generate(model, 10, tmp_path / "job", format="png")
    assert not (tmp_path / "job").exists()


def test_another_format_is_another_job(tmp_path: Path) -> None:
    drive(made_job(), tmp_path)
    with pytest.raises(JobError, match="format npy, not zarr"):
        drive(made_job(format="zarr"), tmp_path)
