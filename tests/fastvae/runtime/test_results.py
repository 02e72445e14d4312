"""Recycled memory: used again only when nobody can see it any more."""

import gc
import threading

import numpy as np
import pytest
import torch

import fastvae
from fastvae.runtime.results import LEAST_BYTES, MOST_BYTES, Results

LARGE = (LEAST_BYTES // 4, 1)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_of_an_array_that_is_gone_serves_the_next():
    results = Results()
    first = results.empty(LARGE)
    where = address(first)
    del first
    assert address(results.empty(LARGE)) == where


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array[5:7],
        lambda array: array.T[::2],
        lambda array: array.view(np.uint32),
        lambda array: torch.from_numpy(array)[3:],
        lambda array: memoryview(array),
        lambda array: np.asarray(memoryview(array))[1:],
        lambda array: iter(array),
    ],
)
def test_memory_is_not_used_while_anything_of_it_is_in_use(keep):
    results = Results()
    array = results.empty(LARGE)
    array[:] = 1
    where, kept = address(array), keep(array)
    del array
    gc.collect()
    assert address(results.empty(LARGE)) != where
    del kept
    assert where in [address(results.empty(LARGE)) for _ in range(2)]


@pytest.mark.parametrize(("rows", "same"), [(LARGE[0] * 2, True), (LARGE[0], True), (LARGE[0] * 2 + 1, False)])
def test_a_block_serves_results_of_half_its_size_up_to_its_size(rows, same):
    results = Results()
    block = results.empty((LARGE[0] * 2, 1))
    where = address(block)
    del block
    assert (address(results.empty((rows, 1))) == where) is same


def test_small_results_and_those_beyond_what_is_kept_are_ordinary_arrays():
    results = Results(2 * LEAST_BYTES)
    assert results.empty((3, 4)).flags.owndata
    assert results.empty((2 * LARGE[0] + 1, 1)).flags.owndata
    assert not results.empty(LARGE).flags.owndata
    assert results.empty((0, 7)).shape == (0, 7)


def test_no_more_is_kept_than_allowed_and_the_oldest_goes_first():
    results = Results(2 * LEAST_BYTES)
    arrays = [results.empty(LARGE) for _ in range(3)]
    places = [address(array) for array in arrays]
    for _ in places:
        del arrays[0]
    assert len(results._idle) == 2
    found = [results.empty(LARGE) for _ in range(2)]
    assert {address(array) for array in found} == set(places[1:])


@pytest.mark.parametrize("end", [Results.clear, Results.close])
def test_what_is_idle_can_be_freed(end):
    results = Results()
    kept = results.empty(LARGE)
    results.empty(LARGE)
    end(results)
    assert not results._idle
    del kept
    assert len(results._idle) == (end is Results.clear)


def test_threads_never_share_memory():
    results, wrong = Results(8 * LEAST_BYTES), []

    def work(number):
        for _ in range(20):
            array = results.empty(LARGE)
            array[::1024] = number
            if (array[::1024] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("arena", [True, False])
@pytest.mark.parametrize("batch_invariant", [True, False])
def test_a_large_result_stays_as_it_is_when_the_next_is_made(arena, batch_invariant):
    with fastvae.load("digits", arena=arena, batch_invariant=batch_invariant, impl="reference") as vae:
        rows = LEAST_BYTES // 4 // 64
        first = vae.generate(rows, seed=1)
        before = first.copy()
        vae.generate(rows, seed=2)
        part = first[5:]
        del first
        again = vae.generate(rows, seed=2)
        np.testing.assert_array_equal(part, before[5:])
        assert again.flags.owndata is False
        idle = vae._engine.results
        del again
        assert bool(idle._idle) is arena
    assert not idle._idle
    np.testing.assert_array_equal(part, before[5:])


def test_most_bytes_are_enough_for_a_large_run_of_small_images():
    assert MOST_BYTES >= 65_536 * 784 * 4
