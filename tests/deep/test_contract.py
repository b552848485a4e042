"""What every deep model does."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, DeepAutoencoder, DeepBernoulliVAE, DeepGaussianVAE, Snapshot
from sklearn_vae.deep.vae import DeepVAE
from tests.deep.data import MODELS, OF_EACH_KIND, SMALL, each_of, fitted, make_rows, parameters_of
from tests.helpers import PeakMemory, remembered_names

X = make_rows()

# Of each estimator one, with convolutions and options of its own.
BY_PROCESSES = [MODELS[0], *MODELS[-3:]]

each_model = each_of(MODELS)
# For what the kind of noise or objective has no part in.
each_kind = each_of(OF_EACH_KIND)


@pytest.mark.some(4)
@each_kind
def test_the_same_seed_gives_the_same_model_bit_for_bit(model):
    one, two, other = fitted(model), clone(model).fit(X), clone(model)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(two))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    other.set_params(random_state=1).fit(X)
    assert not np.array_equal(parameters_of(one), parameters_of(other))


@pytest.mark.some(3)
@each_model
def test_global_generators_are_left_alone(model):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    model = clone(model).fit(X)
    model.score(X)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()
    # And what they hold does not matter.
    torch.manual_seed(6)
    np.testing.assert_array_equal(parameters_of(clone(model).fit(X)), parameters_of(model))


def test_networks_that_draw_are_reproducible_and_leave_the_global_generators_alone():
    def encoder(shape, n_outputs):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(shape[0], n_outputs))

    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = DeepGaussianVAE(3, **SMALL, encoder=encoder).fit(X)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    two = DeepGaussianVAE(3, **SMALL, encoder=encoder).fit(X)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(two))
    np.testing.assert_array_equal(one.score_samples(X), one.score_samples(X))
    models = [DeepGaussianVAE(3, **SMALL, encoder=encoder) for _ in range(4)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda model: model.fit(X), models):
            np.testing.assert_array_equal(parameters_of(found), parameters_of(one))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.some(3)
@each_kind
def test_fits_in_threads_are_those_of_one_alone(model):
    expected = parameters_of(fitted(model))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda model: model.fit(X), [clone(model) for _ in range(2)]):
            np.testing.assert_array_equal(parameters_of(found), expected)


@pytest.mark.some(4)
@each_kind
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_scores_depend_on_neither_order_nor_company_of_rows(model, dtype):
    rows = X.astype(dtype)
    model = fitted(model) if dtype == np.float64 else clone(model).fit(rows)
    scores = model.score_samples(rows)
    order = np.random.default_rng(0).permutation(len(X))
    tolerance = {"rtol": 1e-11} if dtype == np.float64 else {"rtol": 1e-5}
    np.testing.assert_allclose(model.score_samples(rows[order]), scores[order], **tolerance)
    alone = np.concatenate([model.score_samples(rows[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, scores[:20], **tolerance)
    np.testing.assert_array_equal(model.score_samples(rows), scores)
    assert model.score(rows) == pytest.approx(scores.mean())


@pytest.mark.some(3)
@each_model
def test_blocks_of_rows_do_not_show(model, monkeypatch):
    model = fitted(model)
    whole = model.transform(X), model.score_samples(X), model.inverse_transform(X[:, :3])
    monkeypatch.setattr("sklearn_vae.deep.evaluation.SAMPLES_PER_BLOCK", 50)
    blocks = model.transform(X), model.score_samples(X), model.inverse_transform(X[:, :3])
    for a, b in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


@pytest.mark.some(3)
@each_of([model for model in MODELS if not isinstance(model, DeepBernoulliVAE)])
def test_units_of_the_data_do_not_matter(model):
    # Powers of two change no digit.
    scale, d = 2.0**13, X.shape[1]
    factor = {
        name: value * scale**2
        for name in ("noise_variance", "noise_variance_init")
        if (value := model.get_params().get(name)) is not None
    }
    one, other = fitted(model), clone(model).set_params(**factor).fit(X * scale)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(other))
    np.testing.assert_array_equal(one.transform(X), other.transform(X * scale))
    moved = one.score(X) - d * np.log(scale)
    if isinstance(model, DeepAutoencoder):
        moved = one.score(X) * scale**2
    assert other.score(X * scale) == pytest.approx(moved, rel=1e-12)
    np.testing.assert_allclose(
        other.inverse_transform(one.transform(X)),
        one.inverse_transform(one.transform(X)) * scale,
        rtol=1e-12,
    )


@pytest.mark.some(4)
@each_kind
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_extreme_units_and_offsets_are_finite(model, scale):
    model = (
        clone(model).set_params(noise_variance=None)
        if "noise_variance" in model.get_params()
        else clone(model)
    )
    rows = (X + 1e3) * scale
    model.fit(rows)
    assert np.isfinite(model.score_samples(rows)).all()
    assert np.isfinite(model.transform(rows)).all()


@pytest.mark.some(3)
@each_kind
def test_data_frames_in_and_out(model):
    names = [f"x{j}" for j in range(X.shape[1])]
    frames = pd.DataFrame(X, columns=names), pl.DataFrame(X, schema=names)
    expected = fitted(model).transform(X)
    prefix = type(model).__name__.lower()
    for frame, container in zip(frames, ("pandas", "polars"), strict=True):
        of_frame = clone(model).set_output(transform=container).fit(frame)
        assert list(getattr(of_frame, "feature_names_in_", [])) == remembered_names(frame)
        found = of_frame.transform(frame)
        assert isinstance(found, type(frame))
        assert list(found.columns) == [f"{prefix}{h}" for h in range(3)]
        np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-12)
        assert of_frame.score(frame) == pytest.approx(fitted(model).score(X), rel=1e-12)


@pytest.mark.some(3)
@each_kind
def test_rows_are_not_written_to_and_may_be_read_only(model):
    rows = X.copy()
    rows.flags.writeable = False
    found = clone(model).fit(rows)
    found.score(rows)
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(parameters_of(found), parameters_of(fitted(model)))
    ordered = clone(model).fit(np.asfortranarray(X))
    np.testing.assert_allclose(parameters_of(found), parameters_of(ordered), rtol=1e-9)


@pytest.mark.some(3)
@each_model
def test_single_precision_stays(model):
    rows = X.astype(np.float32)
    model = clone(model).fit(rows)
    assert model.transform(rows).dtype == np.float32
    assert model.inverse_transform(model.transform(rows)).dtype == np.float32
    assert next(model.module_.parameters()).dtype == torch.float32
    wide = clone(model).set_params(precision="float64").fit(rows)
    assert next(wide.module_.parameters()).dtype == torch.float64


# With init="ppca" the rate falls at the end of each fit: see tests/deep/test_ppca_start.py.
@pytest.mark.some(3)
@each_of([model for model in MODELS if getattr(model, "init", None) != "ppca"])
def test_a_warm_start_goes_on(model):
    whole = clone(model).set_params(max_epochs=6, early_stopping=False)
    if isinstance(model, DeepVAE):
        whole.set_params(kl_warmup_epochs=0)
    noise = model.get_params().get("noise_model", "heteroscedastic")
    if noise != "heteroscedastic" and model.noise_update == "closed_form":
        whole.set_params(noise_variance=0.5)  # else each fit ends at its optimum
    halves = clone(whole).set_params(max_epochs=3, warm_start=True)
    whole.fit(X)
    halves.fit(X)
    first = halves.net_
    halves.fit(X)
    assert halves.net_ is first
    assert halves.n_iter_ == whole.n_iter_ == 6
    np.testing.assert_array_equal(parameters_of(halves), parameters_of(whole))
    np.testing.assert_array_equal(halves.history_["bound"], whole.history_["bound"])


@pytest.mark.some(3)
@each_model
def test_a_warm_start_goes_on_in_its_own_precision(model):
    model = clone(model).set_params(warm_start=True).fit(X)
    model.fit(X.astype(np.float32))
    assert next(model.module_.parameters()).dtype == torch.float64
    assert model.n_iter_ == 6


@each_model
def test_a_fitted_model_stays_what_it_is_when_parameters_are_set(model):
    model = copy.deepcopy(fitted(model))
    Z, score = model.transform(X), model.score(X)
    model.set_params(n_components=2, hidden_layer_sizes=(4,))
    np.testing.assert_array_equal(model.transform(X), Z)
    assert model.score(X) == score
    assert model.n_components_ == 3
    assert len(model.get_feature_names_out()) == 3


def test_a_warm_start_takes_the_learning_rate_of_the_day():
    model = DeepAutoencoder(3, **SMALL, warm_start=True).fit(X)
    before = parameters_of(model)
    model.set_params(learning_rate=1e-30).fit(X)
    np.testing.assert_allclose(parameters_of(model), before, rtol=1e-12)


@pytest.mark.parametrize(
    "changed",
    [{"n_components": 2}, {"hidden_layer_sizes": (16, 8)}, {"noise_variance": 2.0}],
)
def test_a_warm_start_with_other_networks_is_refused(changed):
    model = DeepGaussianVAE(3, **SMALL, warm_start=True).fit(X)
    before = parameters_of(model)
    (name, value), *_ = changed.items()
    model.set_params(**changed)
    with pytest.raises(
        ValueError, match=rf"which had {name}=.*, got .*{value}.*\. Set warm_start=False"
    ):
        model.fit(X)
    np.testing.assert_array_equal(parameters_of(model), before)
    model.set_params(warm_start=False).fit(X)


def test_a_warm_start_takes_the_parameters_of_training_of_the_day():
    model = DeepGaussianVAE(3, **SMALL, warm_start=True).fit(X)
    model.set_params(free_bits=0.5, n_mc_samples=3, kl_weight=0.5, batch_size=50).fit(X)
    assert model.history_["beta"].tolist() == [1, 1, 1, 0.5, 0.5, 0.5]
    assert model.net_.noise_shape == (3, 3)
    assert model.net_.options == {"free_bits": 0.5}


def test_x_is_copied_once():
    rows = np.random.default_rng(0).normal(size=(20_000, 50))
    model = DeepGaussianVAE(2, **SMALL, early_stopping=True).set_params(max_epochs=1)
    model.set_params(batch_size=5000)
    model.fit(rows[:100])  # imports
    with PeakMemory() as memory:
        model.fit(rows)
    assert memory.peak < 1.6 * rows.nbytes


def test_a_warm_start_wants_the_same_features():
    model = DeepAutoencoder(3, **SMALL, warm_start=True).fit(X)
    with pytest.raises(ValueError, match="X has 5 features, but DeepAutoencoder is expecting 8"):
        model.fit(X[:, :5])
    assert np.isfinite(model.score(X))


@pytest.mark.some(3)
@each_kind
def test_pipelines_and_grid_search(model):
    pipeline = make_pipeline(StandardScaler(), clone(model))
    name = type(model).__name__.lower()
    grid = [{f"{name}__n_components": [1]}, {f"{name}__learning_rate": [1e-2]}]
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X)
    assert np.isfinite(alone.score(X))
    assert np.isfinite(alone.cv_results_["mean_test_score"]).all()


# Slow, since each process imports torch. In one test, linear models too, since these are the same
# processes then.
@pytest.mark.slow
def test_processes_of_joblib_give_what_one_gives():
    grid = [{"n_components": [1]}, {"learning_rate": [1e-2]}]
    for model in BY_PROCESSES:
        alone, search = (GridSearchCV(model, grid, cv=2, n_jobs=n).fit(X) for n in (None, 2))
        for i in range(2):
            scores = [each.cv_results_[f"split{i}_test_score"] for each in (alone, search)]
            np.testing.assert_array_equal(*scores, err_msg=str(model))
        assert search.best_params_ == alone.best_params_
        assert search.best_estimator_.score(X) == alone.best_estimator_.score(X)
    models = [clone(model).set_params(random_state=1) for model in MODELS[:2]]
    found = Parallel(n_jobs=2)(delayed(model.fit)(X) for model in models)
    for there, model in zip(found, models, strict=True):
        np.testing.assert_array_equal(parameters_of(there), parameters_of(clone(model).fit(X)))
    pipeline, grid = make_pipeline(StandardScaler(), PPCA()), {"ppca__n_components": [1, 2, 3]}
    alone, search = (GridSearchCV(pipeline, grid, n_jobs=n).fit(X) for n in (None, 2))
    names = ("mean_test_score", "std_test_score")
    scores = [[each.cv_results_[name] for name in names] for each in (alone, search)]
    np.testing.assert_allclose(*scores, rtol=1e-12)
    models = Parallel(n_jobs=2)(delayed(PPCA(k).fit)(X) for k in (1, 2, 3))
    expected = [PPCA(k).fit(X).score(X) for k in (1, 2, 3)]
    assert [model.score(X) for model in models] == pytest.approx(expected, rel=1e-12)
    scores = Parallel(n_jobs=2)(delayed(model.score)(X) for model in models)
    assert scores == pytest.approx(expected, rel=1e-12)


def test_grid_search_over_the_noise_variance():
    rows = make_rows(n=300, noise=0.5)
    grid = {"noise_variance": [0.01, 1.0, 300.0]}
    model = DeepGaussianVAE(3, **SMALL).set_params(max_epochs=20, learning_rate=0.03)
    search = GridSearchCV(model, grid, cv=2).fit(rows)
    assert search.best_params_ == {"noise_variance": 1.0}
    collapsed = clone(model).set_params(noise_variance=300.0).fit(rows).collapsed_dims_
    np.testing.assert_array_equal(collapsed, [0, 1, 2])


@pytest.mark.some(3)
@pytest.mark.filterwarnings("ignore:The model overfits")
@each_kind
def test_early_stopping_takes_back_the_best_and_waits_for_the_warm_up(model):
    model = clone(model).set_params(
        early_stopping=True, max_epochs=200, n_iter_no_change=2, learning_rate=0.03
    )
    if "kl_warmup_epochs" in model.get_params():
        model.set_params(kl_warmup_epochs=6)
    model.fit(X)
    objective = -np.array(model.net_.history[:, "valid_loss"])
    assert len(objective) == model.n_iter_ < 200
    after = 5 if "kl_warmup_epochs" in model.get_params() else 0
    best = after + int(np.argmax(objective[after:]))
    assert model.n_iter_ >= after + 1 + 2
    assert best < model.n_iter_ - 1
    # What is left is the model of the best epoch.
    recorded = clone(model).set_params(callbacks=[Snapshot([best + 1])]).fit(X)
    found = recorded.snapshots_[best + 1].transform(X)
    np.testing.assert_array_equal(found, model.transform(X))


@pytest.mark.some(3)
@each_of([model for model in MODELS if model.encoder == "mlp"])
def test_networks_may_be_linear_and_sizes_one_number(model):
    linear = clone(model).set_params(hidden_layer_sizes=()).fit(X)
    assert len(linear.module_.encoder.layers) == 1
    one = clone(model).set_params(hidden_layer_sizes=16).fit(X)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(fitted(model)))


@pytest.mark.some(3)
@each_kind
def test_progress_is_shown_where_asked_for_only(model, capsys):
    clone(model).fit(X)
    assert capsys.readouterr() == ("", "")
    clone(model).set_params(verbose=1).fit(X)
    shown = capsys.readouterr()
    assert not shown.out
    assert "3/3" in shown.err
    assert "bound=" in shown.err
    if isinstance(model, DeepGaussianVAE):
        assert all(f"{name}=" in shown.err for name in ("kl", "active_dims"))


def test_copies_of_one_model_share_nothing():
    model = DeepGaussianVAE(3, **SMALL, warm_start=True).fit(X)
    other = copy.deepcopy(model)
    before = parameters_of(model)
    other.fit(X)
    np.testing.assert_array_equal(parameters_of(model), before)
