"""Two processes on gloo against one, and what happens where one of them fails."""

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_vae import DeepGaussianVAE, LinearVAE
from sklearn_vae.training import loop as net
from sklearn_vae.training.batches import Batches, count_batches
from sklearn_vae.training.distributed import BETWEEN_SEEDS
from tests.deep.data import MODELS, SMALL
from tests.sharing import made_once
from tests.training.joint_fits import (
    SHARDS,
    SIZE,
    START,
    WEIGHTED,
    WEIGHTS,
    X,
    by_columns,
    told,
)

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow


def fit_jointly(folder):
    """Run the two processes, and write how the first one ended when the second was killed."""
    command = [sys.executable, "-W", "error", "-m", "tests.training.joint_fits"]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(SIZE)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert (folder / "killed").exists(), "\n".join(errors)
    seconds = time.time() - float((folder / "killed").read_text())
    end = seconds, processes[0].returncode, errors[0]
    (folder / "end.pickle").write_bytes(pickle.dumps(end))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Findings of the two processes, and how the first one ended when the second was killed."""
    folder = made_once(tmp_path_factory, "joint_fits", fit_jointly)
    *found, end = (
        pickle.loads((folder / f"{name}.pickle").read_bytes()) for name in (*range(SIZE), "end")
    )
    return found, end


@pytest.fixture
def found(run):
    return run[0]


def assert_same(one, other, rtol=0.0):
    """The same, in all that is told of two models."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[name], rtol)
        else:
            np.testing.assert_allclose(value, other[name], rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("i", range(len(MODELS)), ids=[str(model) for model in MODELS])
def test_all_processes_end_with_the_same_model(found, i):
    assert_same(found[0]["models"][i], found[1]["models"][i])


class BatchesOfAll:
    """Batches of two processes as one process would have them, with the noise of both."""

    def __init__(self, X, n_batches, noise_shape, generator, weights=None, antithetic=False):
        assert n_batches == count_batches(len(X), SMALL["batch_size"])
        self.X = X
        sizes = [len(rows) for rows in SHARDS]
        parts = 2 * [None]
        if weights is not None:
            sizes = [(WEIGHTS[:90] > 0).sum(), (WEIGHTS[90:] > 0).sum()]
            parts = weights.split(sizes)
        shards = X.split(sizes)
        n_batches = count_batches(max(sizes), SMALL["batch_size"])
        seeds = [generator.initial_seed() + rank * BETWEEN_SEEDS for rank in range(SIZE)]
        self.parts = [
            Batches(rows, n_batches, noise_shape, torch.Generator().manual_seed(s), w, antithetic)
            for rows, s, w in zip(shards, seeds, parts, strict=True)
        ]

    def __iter__(self):
        for chunks in zip(*self.parts, strict=True):
            yield [
                tuple(
                    torch.cat(part, int(i == 1)) for i, part in enumerate(zip(*pair, strict=True))
                )
                for pair in zip(*chunks, strict=True)
            ]


def assert_is_that_of_one_process(model, joint, weights=None):
    """The same parameters and history; to be called with `BatchesOfAll`."""
    expected = told(clone(model).fit(X, sample_weight=weights))
    joint = {**joint, "history": dict(joint["history"])}
    if getattr(model, "variational_family", None) == "sylvester":
        for history in (expected["history"], joint["history"]):
            del history["posterior_entropy"], history["active_dims"]  # of 64 rows of a chunk
    # What is told of the model in the end is of draws, which each process has its own of; of them
    # follows the noise variance in closed form.
    drawn = ["elbo_", "entropy_bound_", "noise_variance_", "likelihood.log_variance"]
    for name in (name for name in drawn if name in expected):
        np.testing.assert_allclose(joint[name], expected.pop(name), rtol=0.01, atol=0.02)
    assert_same(expected, {name: joint[name] for name in expected}, rtol=1e-6)


# Not those that hold out rows, whose first gradients are seen with other draws, or whose history is
# of some rows only.
PLAIN = [
    i
    for i, model in enumerate(MODELS)
    if not model.early_stopping and getattr(model, "init", None) != "ppca"
]


@pytest.mark.parametrize("i", PLAIN, ids=[str(MODELS[i]) for i in PLAIN])
def test_two_processes_do_what_one_does_with_the_batches_of_both(found, i, monkeypatch):
    monkeypatch.setattr(net, "Batches", BatchesOfAll)
    assert_is_that_of_one_process(MODELS[i], found[0]["models"][i])


@pytest.mark.parametrize("i", range(len(WEIGHTED)), ids=[str(model) for model in WEIGHTED])
def test_weights_of_two_processes_are_those_of_one(found, i, monkeypatch):
    assert_same(found[0]["weighted"][i], found[1]["weighted"][i])
    monkeypatch.setattr(net, "Batches", BatchesOfAll)
    assert_is_that_of_one_process(WEIGHTED[i], found[0]["weighted"][i], WEIGHTS)


def test_equal_weights_of_all_processes_are_none(found):
    assert_same(found[0]["equal weights"], found[0]["models"][0])


def test_a_weighted_start_is_ppca_of_all_rows(found):
    one = clone(START).fit(X, sample_weight=WEIGHTS)
    for name, expected in one.module_.state_dict().items():
        np.testing.assert_allclose(
            found[0]["weighted start"][name], expected, rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_weights_in_one_process_only_are_an_error(found):
    for part, own in zip(found, ("None", "'an array'"), strict=True):
        kind, text = part["differs"]["weights"]
        assert kind == "ValueError"
        assert f"has sample_weight={own}, unlike another process." in text


def test_a_matrix_may_lie_by_columns(found, monkeypatch):
    monkeypatch.setattr(net, "Batches", BatchesOfAll)
    model = DeepGaussianVAE(3, **SMALL, encoder=by_columns)
    assert_is_that_of_one_process(model, found[0]["by columns"])


def test_the_start_is_ppca_of_all_rows(found):
    for name, expected in clone(START).fit(X).module_.state_dict().items():
        np.testing.assert_allclose(found[0]["start"][name], expected, rtol=1e-6, atol=1e-6)
    assert found[0]["seen"] == found[1]["seen"]  # by Adam, of gradients of all


def test_weights_and_seed_are_those_of_the_first_process(found):
    assert_same(found[0]["no seed"], found[1]["no seed"])


def test_buffers_are_those_of_the_first_process(found):
    one, other = (part["batch norm"] for part in found)
    assert one["encoder.1.num_batches_tracked"] == 9
    assert_same(one, other)


def test_early_stopping_ends_all_processes_after_the_same_epoch(found):
    one, other = (part["early stopping"] for part in found)
    assert 3 < len(one["history"]["bound"]) < 50
    assert_same(one, other)


def test_snapshots_are_of_all_rows(found):
    one, other = (part["snapshots"] for part in found)
    assert sorted(one) == [1, 2]
    assert_same(one, other)
    np.testing.assert_array_equal(
        one[2]["history"]["kl"], found[0]["models"][0]["history"]["kl"][:2]
    )


def test_a_warm_start_goes_on_in_all_processes_with_draws_of_their_own(found):
    one, other = (part["warm start"] for part in found)
    assert len(one["history"]["bound"]) == 6
    assert_same(one, other)
    assert found[0]["draws"] != found[1]["draws"]


def test_sums_over_the_processes(found):
    for rank, part in enumerate(found):
        assert part["rank"] == (rank, SIZE)
        number, array = part["sum"]
        assert number == 3.0
        np.testing.assert_array_equal(array, [3.0, 3.0])


def test_a_fit_without_processes_is_that_of_its_own_process(found):
    for rows, part in zip(SHARDS, found, strict=True):
        expected = LinearVAE(2, solver="stochastic", max_iter=3, tol=1e3, random_state=0).fit(rows)
        np.testing.assert_array_equal(part["linear"], expected.loadings_)


def test_parameters_that_differ_are_an_error_in_every_process(found):
    for rank, part in enumerate(found):
        kind, text = part["differs"]["parameters"]
        assert kind == "ValueError"
        assert f"process {rank} has n_components={3 + rank}, unlike another process." in text


def test_models_that_differ_are_an_error_in_every_process(found):
    for name, part in zip(("DeepBernoulliVAE", "DeepGaussianVAE"), found, strict=True):
        assert part["differs"]["models"][0] == "ValueError"
        assert f"has model='{name}', unlike another process." in part["differs"]["models"][1]


def test_callbacks_and_names_that_differ_are_an_error_in_every_process(found):
    names = [f"x{i}" for i in range(X.shape[1])]
    told = {
        "feature names": (f"feature_names={names}", f"feature_names={names[::-1]}"),
        "checkpoint": ("checkpoint=None", "checkpoint='a folder'"),
        "snapshots": ("snapshots=[]", "snapshots=[[1]]"),
    }
    for rank, part in enumerate(found):
        for name, texts in told.items():
            kind, text = part["differs"][name]
            assert kind == "ValueError"
            assert f"process {rank} has {texts[rank][:50]}" in text


def test_processes_that_do_not_do_the_same_are_an_error_in_every_one(found):
    places = {
        "one fits": ("a sum of 2 numbers", "a sum of 1 numbers"),
        "stops": ("another epoch", "a sum of 1 numbers"),
    }
    for rank, part in enumerate(found):
        for name, at in places.items():
            kind, text = part["differs"][name]
            assert kind == "RuntimeError"
            assert text.startswith("Processes must call fit and sum in the same order")
            assert text.endswith(
                f"process {rank} of 2 is at {at[rank]} and others are at {at[1 - rank]}."
            )


def test_processes_with_too_few_rows_are_an_error_in_every_one(found):
    for part in found:
        kind, text = part["differs"]["few rows"]
        assert kind == "ValueError"
        assert "X must have at least 5 training samples in every process" in text
        assert "got [2, 150] samples" in text


def test_what_is_not_finite_in_one_process_ends_the_training_in_all(found):
    for part in found:
        kind, text = part["not finite"]
        assert kind == "FloatingPointError"
        assert "in epoch 2 the loss or a parameter became infinite or NaN" in text
        assert "The parameters after epoch 1 are kept" in text


def test_a_training_goes_on_from_the_checkpoints_of_all_processes(found):
    for rank, part in enumerate(found):
        whole, files = part["checkpoints"]["whole"], part["checkpoints"]
        for name, n_epochs in {"resumed": 2, "anew": 6}.items():
            model, trained, warned = files[name]
            assert_same(model, whole)
            assert_same(files[f"{name}, finished"], whole)
            assert trained == n_epochs
            expected = ["is not resumed"] * (name == "anew" and rank == 0)
            assert len(warned) == len(expected)
            assert all(text in w for text, w in zip(expected, warned, strict=True))


def test_an_error_in_one_process_is_one_in_the_others(found):
    assert "contains infinity" in found[1]["error"][1]
    assert found[1]["both know"]  # while the second one was within the context still
    kind, text = found[0]["error"]
    assert kind == "RuntimeError"
    assert text.startswith(
        "Process 0 of 2 has lost another process, which was killed, has raised an error"
    )


def test_after_an_error_the_processes_can_begin_again(found):
    assert_same(found[0]["after"], found[0]["models"][0])
    assert_same(found[0]["after"], found[1]["after"])


def test_an_interrupt_of_one_process_is_an_error_in_all(found):
    assert found[1]["interrupt"][1].startswith("This process was interrupted. The fit is discarded")
    assert found[0]["interrupt"][1].startswith("Process 0 of 2 has lost another process")
    assert not any(part["is fitted"] for part in found)


def test_a_process_that_is_silent_counts_as_lost(found):
    kind, text = found[0]["silent"]
    assert kind == "RuntimeError"
    assert "was silent for timeout=3 seconds" in text


def test_a_process_that_the_others_do_not_join_does_not_wait_for_ever(found):
    for part in found:
        kind, text = part["not joined"]
        assert kind == "RuntimeError"
        assert text.startswith("The processes have not found each other within timeout=1 seconds.")
        assert "All processes of the launcher must enter" in text


def test_a_killed_process_ends_the_others_with_an_error(run):
    seconds, status, error = run[1]
    assert status == 1
    assert "RuntimeError: Process 0 of 2 has lost another process, which was killed" in error
    assert seconds < 30
