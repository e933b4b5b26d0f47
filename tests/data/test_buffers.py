"""A buffer is used again only when nothing refers to its batch any more."""

from __future__ import annotations

import torch
from torch import Tensor

from kws.data.buffers import BatchBuffers

CPU = torch.device("cpu")


def test_memory_is_used_again_only_when_every_view_of_it_is_gone() -> None:
    buffers = BatchBuffers(CPU, most_free=4)
    held = list[tuple[int, Tensor]]()
    for number in range(20):
        wave = buffers.take(3, 100 + number % 3)
        wave.fill_(number)
        # As consumers hold a batch: whole, a slice of it, or a numpy array of it.
        views = (wave, wave[1:], torch.from_numpy(wave.numpy()[1:2]), wave[:1].view(-1).unsqueeze(0))
        held.append((number, views[number % 4]))
        del wave, views
        if number % 5 == 4:
            del held[:3]
        assert all((tensor == value).all() for value, tensor in held)


def test_freed_memory_is_used_again_and_begins_at_a_cache_line() -> None:
    buffers = BatchBuffers(CPU, most_free=2)
    first = buffers.take(4, 1001)
    place = first.data_ptr()
    assert place % 64 == 0
    del first
    again = buffers.take(4, 999)
    assert again.data_ptr() == place
    assert again.shape == (4, 999)
    assert buffers.take(4, 999).data_ptr() != place


def test_larger_and_empty_batches_are_given_out() -> None:
    buffers = BatchBuffers(CPU, most_free=2)
    assert buffers.take(0, 100).shape == (0, 100)
    small = buffers.take(2, 10)
    del small
    assert buffers.take(50, 1000).fill_(1).sum() == 50_000
