"""The gradients that the solvers of LinearVAE follow, against finite differences of the bound."""

import itertools

import pytest
import torch

from sklearn_vae.gaussian.linear_elbo import LinearElbo
from sklearn_vae.linear.gradient_solver import Options, _State

EIGENVALUES = torch.tensor([9.0, 2.0, 0.5, 0.01], dtype=torch.float64)
STEP = 1e-5


def make_state(**options):
    """A state away from the optimum, with variances that differ from 1 and from each other."""
    options = {"learn_noise": True, "unit_encoder": False, **options}
    state = _State(
        EIGENVALUES.sqrt(),
        Options(
            n_components=3, noise_variance=0.3, least_noise=1e-12, learning_rate=1e-3, max_iter=1,
            tol=0.0, batch_size=None, n_mc_samples=1, device="cpu", verbose=0, seed=0, **options,
        ),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for tensor in state.learned:
        tensor += 0.2 * torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
    return state


@pytest.mark.parametrize("learn_noise", [True, False])
@pytest.mark.parametrize("unit_encoder", [True, False])
@torch.no_grad()
def test_the_gradients_of_the_exact_solver_are_those_of_the_bound(unit_encoder, learn_noise):
    state = make_state(unit_encoder=unit_encoder, learn_noise=learn_noise)
    # More features than eigenvalues: the others have no variance.
    bound = LinearElbo(EIGENVALUES, n_features=6)
    p = state.parameters()
    state.set_gradients(p, bound.value_and_gradients(p)[1])
    assert len(state.learned) == 3 + learn_noise
    for tensor in state.learned:
        assert tensor.grad.shape == tensor.shape
        for index in itertools.product(*map(range, tensor.shape)):
            kept, values = tensor[index].clone(), []
            for sign in (1.0, -1.0):
                tensor[index] = kept + sign * STEP
                values.append(bound.value(state.parameters()))
            tensor[index] = kept
            slope = (values[0] - values[1]) / (2.0 * STEP)
            assert tensor.grad[index].item() == pytest.approx(-slope, rel=1e-6, abs=1e-7)
