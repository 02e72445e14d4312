"""Opening a data set: told of all its bytes as their rows are counted, and stopped in the middle."""

from pathlib import Path

import PIL.Image
import pytest

from fastvae.files import ReadOptions
from fastvae.files.dataset import open_dataset
from tests.fastvae.files.data_sets import KINDS

# Folders whose files are not known before they are listed.
LISTED = ("array", "group")


def _told(path: Path | list[Path], options: ReadOptions) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    open_dataset(path, options, told=lambda *counts: told.append(counts))
    return told


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


@pytest.mark.parametrize("name", KINDS)
def test_it_ends_with_all_bytes(tmp_path: Path, name: str) -> None:
    write, options, _ = KINDS[name]
    path = write(tmp_path / name)
    told = _told(path, options)
    assert told == sorted(told)
    assert told[-1][0] == _bytes(path)
    assert {total for _, total in told} == {0 if name in LISTED else _bytes(path)}


@pytest.mark.parametrize("name", ["c.csv", "t.tar", "parts", "group"])
def test_it_is_told_on_the_way(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvae.files.dataset._csv.CHUNK", 37)
    write, options, _ = KINDS[name]
    done = [count for count, _ in _told(write(tmp_path / name), options)]
    assert len({*done}) > 2
    assert 0 <= done[0] < done[-1] / 2


def test_bytes_of_several_folders_are_added_up(tmp_path: Path) -> None:
    options = ReadOptions(image_shape=(1, 2, 2))
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("L", (2, 2)).save(tmp_path / name)
    size = (tmp_path / "a/1.png").stat().st_size
    assert _told([tmp_path / "a", tmp_path / "b"], options) == [(size, 0), (2 * size, 0), (3 * size, 0)]


def test_beside_a_folder_that_is_listed_nobody_knows_all_bytes(tmp_path: Path) -> None:
    paths = [KINDS[name][0](tmp_path / name) for name in ("x.npy", "array")]
    told = _told(paths, KINDS["x.npy"][1])
    assert told[-1][0] == sum(map(_bytes, paths))
    assert {total for _, total in told} == {0}
