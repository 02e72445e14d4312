import numpy as np
import pytest

from bench import datasets

SHAPES = {"digits": ((1442, 1, 8, 8), (355, 1, 8, 8)), "breast_cancer": ((456, 30), (113, 30))}


@pytest.mark.parametrize("name", SHAPES)
def test_split_has_fixed_sizes_and_dtypes(name: str) -> None:
    data = datasets.load(name)
    assert (data.train.shape, data.held_out.shape) == SHAPES[name]
    assert data.train.dtype == data.held_out.dtype == np.float32
    assert data.train_labels.dtype == data.held_out_labels.dtype == np.int64
    assert len(data.train_labels) == len(data.train)
    assert len(data.held_out_labels) == len(data.held_out)


def test_mnist_is_5000_images_split_evenly_by_class() -> None:
    data = datasets.load("mnist")
    assert data.train.shape == (4000, 1, 28, 28)
    assert np.bincount(data.held_out_labels).tolist() == [100] * 10
    assert (data.train.min(), data.train.max()) == (0, 1)


@pytest.mark.parametrize("name", SHAPES)
def test_every_class_keeps_four_fifths_to_train_on(name: str) -> None:
    data = datasets.load(name)
    train, held_out = np.bincount(data.train_labels), np.bincount(data.held_out_labels)
    assert len(train) == len(data.classes)
    np.testing.assert_array_equal(held_out, (train + held_out) // 5)


def test_digits_lie_between_0_and_1_in_sixteenths() -> None:
    pixels = datasets.load("digits").train * 16
    np.testing.assert_array_equal(pixels, pixels.round())
    assert (pixels.min(), pixels.max()) == (0, 16)


def test_breast_cancer_is_in_raw_units_with_named_features() -> None:
    data = datasets.load("breast_cancer")
    assert len(data.features) == 30
    assert data.train[:, data.features.index("mean area")].mean() > 500
    assert data.classes == ("malignant", "benign")


def test_arrays_are_shared_and_read_only() -> None:
    data = datasets.load("digits")
    assert datasets.load("digits") is data
    with pytest.raises(ValueError, match="read-only"):
        data.train[0] = 0


def test_select_classes_acts_on_both_splits() -> None:
    digits = datasets.load("digits")
    data = datasets.select_classes(digits, exclude=[3])
    assert 3 not in data.train_labels
    assert 3 not in data.held_out_labels
    assert len(data.train) == np.sum(digits.train_labels != 3)
    only = datasets.select_classes(digits, only=[3, 4], exclude=[4])
    assert set(only.train_labels) == set(only.held_out_labels) == {3}


@pytest.mark.parametrize(("only", "exclude"), [([10], []), (None, [-1]), ([3], [3])])
def test_select_classes_refuses_labels_it_cannot_select(only: list[int] | None, exclude: list[int]) -> None:
    with pytest.raises(ValueError, match="digits"):
        datasets.select_classes(datasets.load("digits"), only=only, exclude=exclude)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="digits, mnist, breast_cancer"):
        datasets.load("cifar")


def test_each_nth_counts_within_a_class() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0])
    assert np.flatnonzero(datasets.each_nth_of_class(labels, 2)).tolist() == [2, 4, 5]
