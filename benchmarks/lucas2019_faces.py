"""Convolutional VAEs of color faces: images, networks and what the models decode."""

import numpy as np
from lucas2019_faces_picture import as_text
from sklearn.datasets import load_sample_images
from study import load_images

from sklearn_vae.datasets import fetch_celeba64
from sklearn_vae.nn.convolutional import ConvDecoder, ConvEncoder

# Of the logits; the paper does not give it for faces. Papamakarios et al. use it for color images.
ALPHA = 0.05
N_RECONSTRUCTED, N_SIDE = 8, 5


def conv(channels, dense):
    """Return the networks "conv" of Higgins et al. with other channels and a dense layer."""
    networks = {"channels": channels, "dense": dense}
    return {"encoder": ConvEncoder(**networks), "decoder": ConvDecoder(**networks)}


def decoded(model, rows):
    """Return reconstructions, and the latent plane through three images, of a fitted pipeline."""
    latent = model.transform(rows[:N_RECONSTRUCTED])
    t = np.linspace(0.0, 1.0, N_SIDE)
    right, down = latent[1] - latent[0], latent[2] - latent[0]
    plane = latent[0] + t[:, None] * right + t[:, None, None] * down
    return {
        "reconstructed": as_text(model.inverse_transform(latent)),
        "plane": as_text(model.inverse_transform(plane.reshape(N_SIDE**2, -1))),
    }


def patches(n, size=16):
    """Return flat tiles of scikit-learn's two photographs at half their size, and their shape."""
    tiles = []
    for photo in load_sample_images().images:
        half = photo[::2, ::2]
        height, width = (length // size for length in half.shape[:2])
        grid = half[: height * size, : width * size].reshape(height, size, width, size, 3)
        tiles.append(grid.transpose(0, 2, 4, 1, 3).reshape(height * width, -1))
    rows = np.concatenate(tiles)
    return rows[np.random.default_rng(0).permutation(len(rows))[:n]], (3, size, size)


def load_faces(arguments, n):
    """Return the first n flat images as levels, their shape and a description."""
    folder = arguments.data[0] if arguments.data and arguments.data[0].is_dir() else None
    if arguments.data and not folder:
        X, shape = load_images(arguments.data)
        return X[:n], shape, "given faces"
    if arguments.scale == "smoke" and not folder:
        return *patches(n), "patches of photographs"
    faces = fetch_celeba64(data_home=folder)
    return faces.data[:n], faces.image_shape, "CelebA"
