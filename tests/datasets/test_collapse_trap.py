"""make_collapse_trap: its rows, what is known of them, and what training does on them."""

import numpy as np
import pytest
import torch

from sklearn_vae import PPCA, DeepGaussianVAE, SoftThresholdDecoder
from sklearn_vae.datasets import make_collapse_trap

X, Z, TRAP = make_collapse_trap(return_trap=True)
COLLAPSED = -4.734997051295227


def test_the_rows_are_those_of_the_paper_s_case():
    np.testing.assert_array_equal(X, [[-5, -2], [-3, -1], [-1, 0], [1, 0], [3, 1], [5, 2]])
    np.testing.assert_array_equal(Z[:, 0], [-3, -2, -1, 1, 2, 3])
    rows, latents = make_collapse_trap(3)
    np.testing.assert_array_equal(rows, np.tile(X, (3, 1)))
    np.testing.assert_array_equal(latents, np.tile(Z, (3, 1)))


def test_rows_are_the_thresholded_latents():
    rng = np.random.default_rng(0)
    W, z = rng.normal(size=(4, 2)), rng.normal(size=(30, 2))
    rows, latents, trap = make_collapse_trap(threshold=0.3, loadings=W, latents=z, return_trap=True)
    decoder = SoftThresholdDecoder(0.3)(2, (4,))
    with torch.no_grad():
        decoder.layer.weight.copy_(torch.from_numpy(W))
        decoder.layer.bias.zero_()
        expected = decoder.double()(torch.from_numpy(z))
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    np.testing.assert_array_equal(latents, z)
    np.testing.assert_array_equal(trap.solution.loadings, W)
    assert trap.elbo.value(trap.solution) > trap.elbo.value(trap.collapsed)
    assert trap.elbo.threshold == 0.3


def test_what_is_known_of_the_trap():
    assert TRAP.elbo.value(TRAP.collapsed) == pytest.approx(COLLAPSED, abs=1e-14)
    assert TRAP.elbo.value(TRAP.solution) > COLLAPSED + 1.0
    better = TRAP.elbo.best_posteriors(TRAP.solution)
    np.testing.assert_allclose(TRAP.solution.means, better.means, atol=1e-5)
    # Repeated rows have the same bounds.
    *_, trap = make_collapse_trap(2, return_trap=True)
    assert trap.elbo.value(trap.solution) == pytest.approx(TRAP.elbo.value(TRAP.solution))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"n_repeats": 0}, r"n_repeats must be an integer >= 1, got 0\."),
        ({"threshold": -1.0}, r"threshold must be a finite number >= 0, got -1\.0\."),
        ({"return_trap": 1}, "return_trap must be True or False, got 1"),
        ({"loadings": np.ones((3, 2))}, "latents must have 2 columns, like loadings, got 1"),
        ({"threshold": 6}, r"samples are equal with threshold=6 and a largest \|W z\| of 6\."),
        ({"loadings": [[np.nan]]}, "loadings contains NaN"),
    ],
)
def test_errors_name_what_is_wrong(parameters, text):
    with pytest.raises(ValueError, match=text):
        make_collapse_trap(**parameters)


def near_collapse(threshold):
    """A factory of decoders whose W is short, in the units of X."""

    def decoder(n_components, output_shape):
        unit = X.std()
        network = SoftThresholdDecoder(threshold / unit)(n_components, output_shape)
        with torch.no_grad():
            network.layer.weight.copy_(torch.tensor([[0.4], [0.2]]) / unit)
            network.layer.bias.zero_()
        return network

    return decoder


def trained(threshold, max_epochs=500):
    return DeepGaussianVAE(
        1,
        hidden_layer_sizes=(32,),
        activation="tanh",
        decoder=near_collapse(threshold),
        noise_update="gradient",
        noise_variance_init=X.var(),
        n_mc_samples=20,
        learning_rate=1e-2,
        max_epochs=max_epochs,
        batch_size=6,
        random_state=0,
    ).fit(X)


def test_training_near_collapse_leaves_it_with_a_linear_decoder_only():
    caught, free = trained(1.0, 120), trained(0.0, 120)
    assert list(caught.collapsed_dims_) == [0]
    assert list(free.collapsed_dims_) == []
    assert caught.elbo_ < COLLAPSED + 1e-6
    assert free.elbo_ > COLLAPSED + 0.3


@pytest.mark.slow
def test_training_near_collapse_stays_there_unless_the_decoder_is_linear():
    caught, free = trained(1.0), trained(0.0)
    ppca = PPCA(n_components=1).fit(X).score(X)
    assert caught.elbo_ == pytest.approx(COLLAPSED, abs=1e-3)
    assert caught.noise_variance_ == pytest.approx(20 / 3, rel=0.01)
    assert list(caught.collapsed_dims_) == [0]
    assert list(free.collapsed_dims_) == []
    assert ppca - 0.1 < free.elbo_ < ppca + 1e-6
