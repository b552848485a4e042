"""A matrix too large for memory: samples of a pPCA model in a .npy file, and their moments."""

import os
from functools import cached_property

import numpy as np

# Number of entries in a block, and number of blocks between two checkpoints.
BLOCK, CHECKPOINT = 2**24, 16


class BigMatrix:
    """Seeded float32 samples W z + mean + noise, written to `folder` block by block.

    The mean of a feature is many standard deviations, so an uncentered scatter loses digits. The
    moments are summed in float64 while the file is written. An interrupted write resumes, and any
    block can be made on its own.

    Parameters
    ----------
    folder : Path
        Folder of the file.
    n_bytes : int
        Size of the entries, rounded down to whole samples.
    n_features, n_components, seed : int
        Size and seed of the model.

    Attributes
    ----------
    path : Path
        The .npy file.
    shape : tuple (n_samples, n_features)
        Shape of the matrix.
    mean, loadings, noise_variance : array of shape (d,), array of shape (d, k), float
        Parameters of the model.
    """

    noise_variance = 0.25

    def __init__(self, folder, n_bytes, n_features=784, n_components=20, seed=0):
        self.path, self._state = folder / "big_matrix.npy", folder / "big_matrix.npz"
        self.shape = (n_bytes // (4 * n_features), n_features)
        self._key = np.array([*self.shape, n_components, seed, BLOCK])
        self._seed, self._size = seed, BLOCK // n_features
        rng = np.random.default_rng([seed, 2**32])  # not the number of any block
        directions = np.linalg.qr(rng.normal(size=(n_features, n_components)))[0]
        self.loadings = directions * np.geomspace(10, 1, n_components)
        self.mean = 10 * rng.normal(size=n_features)

    @property
    def n_blocks(self):
        """Number of blocks."""
        return -(-self.shape[0] // self._size)

    def rows_of(self, block):
        """Return the slice of samples in a block."""
        return slice(block * self._size, min((block + 1) * self._size, self.shape[0]))

    @cached_property
    def _model(self):
        return self.loadings.T.astype(np.float32), self.mean.astype(np.float32)

    def make(self, block):
        """Make the samples of one block, always the same."""
        rng, rows = np.random.default_rng([self._seed, block]), self.rows_of(block)
        n, (decoder, mean) = rows.stop - rows.start, self._model
        Z = rng.standard_normal((n, len(decoder)), dtype=np.float32)
        X = rng.standard_normal((n, self.shape[1]), dtype=np.float32)
        X *= self.noise_variance**0.5
        X += Z @ decoder
        X += mean
        return X

    def write(self):
        """Write the missing blocks; return the mean and covariance of all samples in float64."""
        sums = FloatSums(self.mean)
        begun, done = self._resumed(sums)
        if done == self.n_blocks:
            return sums.result()
        mode = {"mode": "r+"} if begun else {"mode": "w+", "dtype": np.float32, "shape": self.shape}
        X = np.lib.format.open_memmap(self.path, **mode)
        for block in range(done, self.n_blocks):
            rows = X[self.rows_of(block)]
            rows[:] = self.make(block)
            sums.add(rows)
            if (block + 1) % CHECKPOINT == 0 or block + 1 == self.n_blocks:
                X.flush()  # before the checkpoint counts the blocks
                self._keep(block + 1, sums)
        return sums.result()

    def _resumed(self, sums):
        """Return whether the file exists and how many blocks are written and in `sums`."""
        if not (self.path.exists() and self._state.exists()):
            return False, 0
        with np.load(self._state) as state:
            header = np.load(self.path, mmap_mode="r")
            if header.shape != self.shape or not np.array_equal(state["key"], self._key):
                raise SystemExit(f"{self.path} holds another matrix. Choose another --folder.")
            sums.n, sums.total, sums.products = (state[name] for name in ("n", "total", "products"))
            return True, int(state["done"])

    def _keep(self, done, sums):
        new = self._state.with_suffix(".new.npz")
        np.savez(new, key=self._key, done=done, n=sums.n, total=sums.total, products=sums.products)
        os.replace(new, self._state)


def moments_of_file(path):
    """Compute the mean and covariance of a .npy file in float64."""
    X = np.load(path, mmap_mode="r")
    sums, size = FloatSums(X[:1000].mean(axis=0, dtype=np.float64)), max(BLOCK // X.shape[1], 1)
    for start in range(0, len(X), size):
        sums.add(X[start : start + size])
    return sums.result()


class FloatSums:
    """Sums in float64 of samples minus a vector near their mean, and of their products."""

    def __init__(self, near):
        self._near = near
        self.n, self.total = 0, np.zeros(len(near))
        self.products = np.zeros((len(near), len(near)))

    def add(self, rows):
        """Add samples of any float dtype."""
        R = rows - self._near
        self.n += len(R)
        self.total += R.sum(axis=0)
        self.products += R.T @ R

    def result(self):
        """Return the mean and the covariance with divisor n."""
        error = self.total / self.n
        return self._near + error, self.products / self.n - np.outer(error, error)
