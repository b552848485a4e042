import copy
import pickle

import pytest
import torch

from sklearn_vae.training import adam


def make_parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in [(3, 2), (4,), ()]]


def take_steps(optimizer, step, n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    parameters = optimizer.param_groups[0]["params"]
    for _ in range(n):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("kernel", [adam.KERNEL, None])
def test_steps_are_those_of_torch(kernel, monkeypatch):
    monkeypatch.setattr(adam, "KERNEL", kernel)
    ours = adam.Adam(make_parameters(), lr=0.1)
    theirs = torch.optim.Adam(make_parameters(), lr=0.1, fused=True)
    found, expected = take_steps(ours, ours.update, 5), take_steps(theirs, theirs.step, 5)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_state_is_that_of_torch_and_goes_both_ways():
    ours = adam.Adam(make_parameters(), lr=0.1)
    take_steps(ours, ours.update, 3)
    parameters = copy.deepcopy(ours.param_groups[0]["params"])
    theirs = torch.optim.Adam(parameters, lr=0.1, fused=True)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    again = adam.Adam(copy.deepcopy(parameters), lr=0.1)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    expected = take_steps(ours, ours.update, 2, seed=2)
    for other, step in ((theirs, theirs.step), (again, again.update)):
        for a, b in zip(take_steps(other, step, 2, seed=2), expected, strict=True):
            assert torch.equal(a, b)


def test_a_pickled_optimiser_goes_on():
    ours = adam.Adam(make_parameters(), lr=0.1)
    take_steps(ours, ours.update, 3)
    other = pickle.loads(pickle.dumps(ours))
    for a, b in zip(
        take_steps(ours, ours.update, 2), take_steps(other, other.update, 2), strict=True
    ):
        assert torch.equal(a, b)


def test_a_learning_rate_that_is_changed_is_used():
    ours = adam.Adam(make_parameters(), lr=0.1)
    before = take_steps(ours, ours.update, 1)
    ours.param_groups[0]["lr"] = 0.0
    for a, b in zip(take_steps(ours, ours.update, 1), before, strict=True):
        assert torch.equal(a, b)
