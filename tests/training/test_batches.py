import pytest
import torch

from sklearn_vae.training import batches
from sklearn_vae.training.batches import Batches, count_batches


def make(n=50, batch_size=8, noise_shape=(2, 3), seed=0):
    X, n_batches = torch.arange(float(n)).view(n, 1), count_batches(n, batch_size)
    return Batches(X, n_batches, noise_shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_every_row_comes_once_with_noise_of_its_own(at_once, monkeypatch):
    monkeypatch.setattr(batches, "BATCHES_AT_ONCE", at_once)
    found = make()
    chunks = list(found)
    assert max(map(len, chunks)) <= at_once
    pairs = [pair for chunk in chunks for pair in chunk]
    assert [len(x) for x, _ in pairs] == [8] + [7] * 6
    assert len(found) == len(pairs)
    assert all(noise.shape == (2, len(x), 3) for x, noise in pairs)
    rows = torch.cat([x for x, _ in pairs]).ravel()
    assert rows.tolist() != sorted(rows.tolist())
    assert sorted(rows.tolist()) == list(range(50))
    numbers = torch.cat([noise.ravel() for _, noise in pairs])
    assert len(set(numbers.tolist())) == 50 * 6


def test_antithetic_draws_are_pairs_of_opposite_noise():
    X = torch.arange(30.0).view(30, 1)
    generator = torch.Generator().manual_seed(0)
    for chunk in Batches(X, 4, (6, 2), generator, antithetic=True):
        for x, noise in chunk:
            assert noise.shape == (6, len(x), 2)
            rows = {tuple(draw.ravel().tolist()) for draw in noise}
            assert len(rows) == 6
            assert rows == {tuple(draw.ravel().tolist()) for draw in -noise}


def test_an_epoch_depends_on_the_generator_and_each_is_another():
    first, same, other = make(), make(), make(seed=1)
    for a, b in zip(next(iter(first))[0], next(iter(same))[0], strict=True):
        assert torch.equal(a, b)
    rows = next(iter(other))[0][0]
    assert not torch.equal(rows, next(iter(make()))[0][0])
    assert not torch.equal(next(iter(first))[0][0], next(iter(make()))[0][0])


def test_wide_rows_come_in_smaller_chunks():
    X = torch.zeros(64, 2**16 - 1)
    chunks = list(Batches(X, 8, (1, 1), torch.Generator()))  # 8 samples in each
    assert [len(chunk) for chunk in chunks] == [4, 4]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 25, 128, 129, 1797])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 128, 1000])
def test_sizes_are_as_large_as_they_may_be_and_differ_by_one(n, batch_size):
    sizes = make(n, batch_size).sizes
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    if batch_size > 1 and n > 1:
        assert min(sizes) >= 2
    if batch_size == 2 and n > 1:
        assert len(sizes) == n // 2  # one has three samples if n is odd
    else:
        assert max(sizes) <= batch_size
        assert len(sizes) == -(-n // batch_size)
