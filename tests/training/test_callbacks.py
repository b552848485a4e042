"""The standard callbacks of skorch, by name."""

import copy
import io
import json
import logging
import pickle
import sys
import threading
import types

import numpy as np
import pytest
import skorch.callbacks
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    Freezer,
    GradientNormClipping,
    Initializer,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    MlflowLogger,
    NeptuneLogger,
    ParamMapper,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
    SacredLogger,
    TensorBoard,
    TrainEndCheckpoint,
    Unfreezer,
    WandbLogger,
    WarmRestartLR,
)
from skorch.utils import freeze_parameter

from sklearn_vae import DeepAutoencoder, DeepGaussianVAE, Snapshot
from sklearn_vae.deep.callbacks import check_callbacks
from sklearn_vae.serialization import load, save
from sklearn_vae.training.callbacks import Progress
from tests.deep.data import MODELS, SMALL, fitted, make_rows, parameters_of
from tests.helpers import name_of

X = make_rows()
HELD_OUT = {**SMALL, "early_stopping": True}
N_TRAIN, N_VALID = 135, 15
BATCHES = [30] * 5


def gaussian(*callbacks, **params):
    return DeepGaussianVAE(3, **{**SMALL, **params}, callbacks=list(callbacks))


def fitted_callback(model, name):
    return dict(model.net_.callbacks_)[name]


def scaled(model):
    return (X - model.mean_) / model.scale_


def drawing_encoder(shape, n_outputs):
    return torch.nn.Sequential(
        torch.nn.Linear(shape[0], 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(8, n_outputs),
    )


def test_every_callback_of_skorch_is_in_this_file():
    assert set(skorch.callbacks.__all__) <= globals().keys()


# Files


def all_files(model, folder, prefix=""):
    """Nets with the files of a checkpoint loaded, and the history of these."""
    other = clone(model).set_params(callbacks=None, random_state=7).fit(X).net_
    files = {f"f_{name}": folder / f"{prefix}{name}.pt" for name in ("params", "optimizer")}
    other.load_params(**files, f_history=folder / f"{prefix}history.json")
    return other


@pytest.mark.some(4)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_train_end_checkpoint_leaves_files_that_load_params_reads(model, tmp_path):
    seen = []

    class Last(Callback):
        def on_train_end(self, net, **kwargs):
            seen.append(copy.deepcopy(net.module_.state_dict()))

    plain = fitted(model)
    model = clone(model).set_params(callbacks=[TrainEndCheckpoint(dirname=str(tmp_path)), Last()])
    model.fit(X)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(plain))
    net = all_files(model, tmp_path, "train_end_")
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, seen[0][name])
    assert [row["epoch"] for row in net.history] == [1, 2, 3]
    assert (tmp_path / "train_end_criterion.pt").exists()


def test_checkpoint_saves_the_best_epoch_and_loads_it(tmp_path):
    names = {"f_params": "{last_epoch[epoch]}-{last_batch[valid_batch_size]}.pt"}
    files = Checkpoint(dirname=str(tmp_path), load_best=True, **names)
    worse = LRScheduler("LambdaLR", lr_lambda=lambda epoch: 1.0 if epoch < 3 else 300.0)
    model = gaussian(worse, files, max_epochs=6, early_stopping=True, n_iter_no_change=9).fit(X)
    best = model.n_iter_  # the history is that of the best epoch
    assert 3 <= best < 6
    assert {f"{epoch}-15.pt" for epoch in range(1, best + 1)} <= {
        f.name for f in tmp_path.iterdir()
    }
    plain = clone(model).set_params(callbacks=None, max_epochs=best).fit(X)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(plain))
    assert model.history_["event_cp"].all()
    assert len(model.history_["bound"]) == best


def test_checkpoint_of_every_epoch_into_buffers_and_pickles(tmp_path):
    buffer = io.BytesIO()
    files = {"f_optimizer": None, "f_criterion": None, "f_history": None}
    every = Checkpoint(monitor=None, f_params=buffer, **files)
    net = Checkpoint(monitor="train_loss_best", dirname=str(tmp_path), f_pickle="net.pkl")
    model = gaussian(every, net).fit(X)
    assert buffer.tell() > 3 * 8 * 16 * 8  # the buffer given, not a copy of it
    with open(tmp_path / "net.pkl", "rb") as file:
        read = pickle.load(file)
    assert len(read.history) == 3
    rows = scaled(model)
    assert read.predict(rows).shape == rows.shape
    assert [len(row["batches"]) for row in model.net_.history] == [5, 5, 5]


def test_load_init_state_goes_on_from_the_files(tmp_path):
    files = TrainEndCheckpoint(dirname=str(tmp_path))
    model = gaussian(files, LoadInitState(files), noise_model="diagonal").fit(X)
    assert model.n_iter_ == 3
    again = clone(model).fit(X)
    assert again.n_iter_ == 6
    assert again.history_["noise_variance"].shape == (6, 8)
    np.testing.assert_array_equal(again.history_["bound"][:3], model.history_["bound"])
    assert again.history_["bound"][3] > model.history_["bound"][0]


# Scores


class Rows:
    """A score that keeps what it was given."""

    def __init__(self):
        self.seen = []

    def __deepcopy__(self, memo):
        return self

    def __call__(self, net, X, y):
        self.seen.append((y, net.predict(X)))
        return r2_score(y, self.seen[-1][1])


@pytest.mark.cover(1)
@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize("on_train", [True, False])
@pytest.mark.parametrize("model", [*MODELS[-3:], MODELS[0], MODELS[9]], ids=str)
def test_epoch_scoring_is_given_the_data_and_its_reconstruction(model, on_train, use_caching):
    score = Rows()
    options = {"on_train": on_train, "use_caching": use_caching, "lower_is_better": False}
    model = clone(model).set_params(early_stopping=True)
    plain = clone(model).fit(X)
    model.set_params(callbacks=[EpochScoring(score, name="r2", **options)]).fit(X)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(plain))
    assert len(score.seen) == model.n_iter_
    np.testing.assert_array_equal(model.history_["r2"], [r2_score(*pair) for pair in score.seen])
    assert model.history_["r2_best"][0] == 1
    rows = scaled(model).astype(X.dtype) if model.scale_ is not None else X
    for y, y_pred in score.seen:
        assert len(y) == len(y_pred) == (N_TRAIN if on_train else N_VALID)
        assert {row.tobytes() for row in y} <= {row.tobytes() for row in as_seen(model, rows)}
    if not on_train:  # with the parameters after the epoch
        best = int(np.argmin(model.net_.history[:, "valid_loss"]))
        y, y_pred = score.seen[best]
        if best + 1 == model.n_iter_ and type(model) is DeepAutoencoder:
            np.testing.assert_allclose(model.net_.predict(y), y_pred, rtol=1e-12)


def as_seen(model, rows):
    """Samples as the networks see them."""
    if hasattr(model, "binarize"):
        return (model.binarize < X).astype(X.dtype)
    return rows


def test_scores_by_a_name_of_scikit_learn():
    scores = EpochScoring("neg_mean_squared_error", lower_is_better=False, name="whole")
    batches = BatchScoring("neg_mean_squared_error", lower_is_better=False, name="parts")
    train = BatchScoring("r2", on_train=True, name="train")
    model = gaussian(scores, batches, train, early_stopping=True).fit(X)
    np.testing.assert_allclose(model.history_["whole"], model.history_["parts"], rtol=1e-6)
    assert np.isfinite(model.history_["train"]).all()
    rows = model.net_.history[-1, "batches", :, ("train_batch_size", "train")]
    assert [size for size, _ in rows] == [27] * 5


def test_scores_leave_batch_norm_and_dropout_alone():
    def r2(net, X, y):
        return r2_score(y, net.predict(X))

    model = gaussian(encoder=drawing_encoder)
    plain = clone(model).set_params(callbacks=None).fit(X)
    for score in (
        EpochScoring(r2, on_train=True),
        BatchScoring(r2, on_train=True),
    ):
        scored = clone(model).set_params(callbacks=[score]).fit(X)
        np.testing.assert_array_equal(parameters_of(scored), parameters_of(plain))
        np.testing.assert_array_equal(scored.transform(X), plain.transform(X))


def test_passthrough_scoring_averages_what_batches_record():
    train = PassthroughScoring("train_loss", on_train=True)
    model = gaussian(train, PassthroughScoring("valid_loss"), early_stopping=True)
    plain = clone(model).set_params(callbacks=None).fit(X)
    model.fit(X)
    for name in ("train_loss", "valid_loss"):
        averages = [row[name] for row in model.net_.history]
        np.testing.assert_allclose(averages, plain.net_.history[:, name], rtol=1e-12)
    assert model.net_.history[0, "valid_loss_best"]


# Times, tables and bars


def test_epoch_timer_records_durations():
    model = gaussian(EpochTimer()).fit(X)
    assert (model.history_["dur"] >= model.history_["seconds"]).all()


def test_print_log_prints_a_table(capsys):
    gaussian(PrintLog(), noise_model="diagonal").fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3
    assert lines[0].split()[0] == "epoch"
    assert "train_loss" in lines[0]
    assert "noise_variance" not in lines[0]  # one per feature
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]


def test_progress_bar_counts_the_batches_of_each_epoch():
    class Bar(ProgressBar):
        def on_epoch_end(self, net, **kwargs):
            counts.append((self.pbar_.n, self.pbar_.total))
            assert self.pbar_.postfix.startswith("train_loss=")
            super().on_epoch_end(net, **kwargs)

    counts = []
    model = gaussian(Bar()).fit(X)
    assert counts == [(5, 5)] * 3
    assert model.net_.history[-1, "batches", :, "train_batch_size"] == BATCHES
    gaussian(ProgressBar(batches_per_epoch="count"), early_stopping=True).fit(X)


# Schedules, gradients and parameters


def test_the_bar_of_verbose_counts_epochs_and_shows_their_last_values():
    net = types.SimpleNamespace(
        monitor=types.SimpleNamespace(shown=("bound", "kl")),
        history=[{"bound": 9.0}, {"bound": np.array([-1.0, -2.0]), "other": 3.0}],
    )
    bar = Progress(5, done=2)
    bar.on_train_begin(net)
    assert (bar.bar_.n, bar.bar_.total, bar.bar_.unit) == (2, 5, "epoch")
    bar.on_epoch_end(net)
    assert bar.bar_.n == 3
    assert bar.bar_.postfix == "bound=-1.5"
    copied = pickle.loads(pickle.dumps(bar))  # an open bar cannot be pickled
    assert vars(copied) == {"n_epochs": 5, "done": 2}
    bar.on_train_end(net)
    assert bar.bar_.disable
    copied.on_train_end(net)


def test_schedulers_set_the_rates_and_record_them():
    step = LRScheduler("StepLR", step_size=1, gamma=0.5)
    model = gaussian(step).fit(X)
    np.testing.assert_allclose(model.history_["event_lr"], [1e-3, 5e-4, 2.5e-4])
    batches = LRScheduler("StepLR", step_size=1, gamma=0.5, step_every="batch")
    model = gaussian(batches).fit(X)
    rates = [batch["event_lr"] for row in model.net_.history for batch in row["batches"]]
    np.testing.assert_allclose(rates, 1e-3 * 0.5 ** np.arange(15))
    restarts = LRScheduler(WarmRestartLR, min_lr=1e-5, max_lr=1e-2, base_period=1)
    rates = gaussian(restarts).fit(X).history_["event_lr"]
    np.testing.assert_allclose(rates, [1e-2, 1e-5, 1e-2])
    plateau = LRScheduler("ReduceLROnPlateau", patience=0, monitor="valid_loss", threshold=1e9)
    rates = gaussian(plateau, early_stopping=True, n_iter_no_change=9).fit(X).history_["event_lr"]
    np.testing.assert_allclose(rates, [1e-3, 1e-4, 1e-5])
    # A schedule may begin with a warm start.
    model = gaussian(warm_start=True).fit(X).set_params(callbacks=[step]).fit(X)
    assert model.history_["event_lr"][-1] < 1e-3


@pytest.mark.some(4)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_clipping_bounds_the_norm_of_the_gradient(model):
    class Norm(Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            gradients = [p.grad for _, p in named_parameters]
            norms.append(float(torch.sqrt(sum(g.square().sum() for g in gradients))))

    norms = []
    clone(model).set_params(callbacks=[GradientNormClipping(1e-3), Norm()]).fit(X)
    np.testing.assert_allclose(norms, 1e-3, rtol=1e-2)
    assert len(norms) == 15


def weights(model, network):
    part = getattr(model.module_, network)
    return np.concatenate([p.detach().numpy().ravel() for p in part.parameters()])


@pytest.mark.some(1)
@pytest.mark.parametrize("model", [MODELS[0], MODELS[7], MODELS[9], MODELS[-1]], ids=str)
def test_freezer_holds_parameters_and_unfreezer_releases_them(model):
    start = clone(model).set_params(learning_rate=1e-30, max_epochs=1).fit(X)
    frozen = clone(model).set_params(callbacks=[Freezer("decoder*")]).fit(X)
    np.testing.assert_array_equal(weights(frozen, "decoder"), weights(start, "decoder"))
    assert not np.allclose(weights(frozen, "encoder"), weights(start, "encoder"))
    later = clone(model).set_params(callbacks=[Freezer("decoder*"), Unfreezer("decoder*", at=3)])
    later.set_params(max_epochs=2).fit(X)
    np.testing.assert_array_equal(weights(later, "decoder"), weights(start, "decoder"))
    before = clone(later).set_params(max_epochs=3).fit(X)
    change = np.abs(weights(before, "decoder") - weights(start, "decoder"))
    assert 0 < change.max() <= 1.05 * 5 * before.learning_rate_  # first steps of Adam
    everything = clone(model).set_params(callbacks=[Freezer("*")]).fit(X)
    np.testing.assert_array_equal(weights(everything, "encoder"), weights(start, "encoder"))


def test_models_with_frozen_parameters_are_saved_and_pickled(tmp_path):
    model = gaussian(Freezer("decoder*"), GradientNormClipping(1.0), warm_start=True).fit(X)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(parameters_of(other.fit(X)), parameters_of(model.fit(X)))
    save(model.set_params(callbacks=None), tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(parameters_of(again), parameters_of(model))


def test_what_was_frozen_is_frozen_where_a_checkpoint_resumes(tmp_path):
    class Stop(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3 and threading.current_thread().name == "stopped":
                raise OSError("killed")

    threading.current_thread().name, name = "stopped", threading.current_thread().name
    try:
        model = gaussian(Freezer("decoder*"), Stop(), max_epochs=4)
        model.set_params(checkpoint=tmp_path, checkpoint_every=1)
        with pytest.raises(OSError, match="killed"):
            model.fit(X)
    finally:
        threading.current_thread().name = name
    model.fit(X)
    plain = clone(model).set_params(checkpoint=None).fit(X)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(plain))


def test_initializer_and_param_mapper_change_parameters():
    fill = Initializer("decoder*", fn=lambda p: torch.nn.init.constant_(p, 0.25))
    model = gaussian(fill, learning_rate=1e-30).fit(X)
    np.testing.assert_array_equal(weights(model, "decoder"), 0.25)
    mapper = ParamMapper(["encoder*", "decoder*"], fn=freeze_parameter, at=2)
    model = gaussian(mapper).fit(X)
    one = gaussian(max_epochs=1).fit(X)
    np.testing.assert_array_equal(weights(model, "encoder"), weights(one, "encoder"))


def test_early_stopping_stops_and_restores_the_best():
    stop = EarlyStopping("train_loss", patience=2, threshold=1e9, threshold_mode="abs")
    model = gaussian(stop, max_epochs=9).fit(X)
    assert model.n_iter_ == 3
    lines = []
    stop = EarlyStopping(patience=1, threshold=-1e9, sink=lines.append, load_best=True)
    worse = LRScheduler("LambdaLR", lr_lambda=lambda epoch: 1.0 if epoch < 2 else 300.0)
    stop.set_params(threshold=0.0)
    model = gaussian(worse, stop, max_epochs=9, early_stopping=True, n_iter_no_change=9).fit(X)
    assert model.n_iter_ == 3
    best = gaussian(max_epochs=2, early_stopping=True).fit(X)
    np.testing.assert_array_equal(weights(model, "encoder"), weights(best, "encoder"))
    assert len(lines) == 2


def test_early_stopping_has_restored_the_best_where_files_are_written(tmp_path):
    worse = LRScheduler("LambdaLR", lr_lambda=lambda epoch: 1.0 if epoch < 2 else 300.0)
    model = gaussian(worse, TrainEndCheckpoint(dirname=str(tmp_path)), early_stopping=True).fit(X)
    net = all_files(model, tmp_path, "train_end_")
    for name, value in model.module_.encoder.state_dict().items():
        assert torch.equal(net.module_.encoder.state_dict()[name], value)


# Loggers, with stand-ins for what they log to


class Run:
    """Takes what a logger logs, numbers only."""

    def __init__(self, path="", log=None):
        self.path, self.log_ = path, {} if log is None else log
        self.info = types.SimpleNamespace(run_id="run")
        self.lock = threading.Lock()  # a run cannot be copied

    def _add(self, name, value):
        assert np.ndim(value) == 0
        self.log_.setdefault(name, []).append(value)

    # Neptune
    def __getitem__(self, name):
        return Run(f"{self.path}{name}/", self.log_)

    def __setitem__(self, name, value):
        self.log_[f"{self.path}{name}"] = value

    def append(self, value):
        self._add(self.path, value)

    def stop(self):
        self.log_["stopped"] = True

    # Weights & Biases
    def watch(self, module):
        self.log_["watched"] = module

    def log(self, values):
        for name, value in values.items():
            self._add(name, value)

    # TensorBoard
    def add_scalar(self, tag, scalar_value, global_step):
        self._add(tag, scalar_value)

    def close(self):
        self.log_["closed"] = True

    # Sacred and MLflow
    def log_scalar(self, name, value, step=None):
        self._add(name, value)

    def log_metric(self, run_id, name, value, step):
        self._add(name, value)

    def log_artifact(self, run_id, path):
        self.log_[path.name] = path.read_bytes()

    def set_terminated(self, run_id):
        self.log_["terminated"] = True


@pytest.fixture
def packages(monkeypatch):
    neptune = types.ModuleType("neptune")
    handler, kinds = types.ModuleType("neptune.handler"), types.ModuleType("neptune.types")
    handler.Handler = type("Handler", (), {})
    kinds.File = types.SimpleNamespace(from_content=lambda text, extension: text)
    mlflow, tracking = types.ModuleType("mlflow"), types.ModuleType("mlflow.tracking")
    run = Run()
    mlflow.active_run, tracking.MlflowClient = lambda: run, lambda: run
    for module in (neptune, handler, kinds, mlflow, tracking):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return run


def fit_logged(callback, **params):
    return gaussian(callback, noise_model="diagonal", early_stopping=True, **params).fit(X)


def test_neptune_logger(packages):
    run = Run()
    model = fit_logged(NeptuneLogger(run, log_on_batch_end=True))
    np.testing.assert_array_equal(run.log_["training/bound/"], model.history_["bound"])
    assert len(run.log_["training/validation/epoch/loss/"]) == 3
    assert len(run.log_["training/train/batch/loss/"]) >= 15
    assert run.log_["stopped"]


def test_wandb_logger(tmp_path):
    run = Run()
    run.dir = tmp_path
    model = fit_logged(WandbLogger(run))
    np.testing.assert_array_equal(run.log_["bound"], model.history_["bound"])
    assert run.log_["watched"] is model.module_
    torch.load(tmp_path / "best_model.pth", weights_only=True)


def test_tensorboard():
    writer = Run()
    model = fit_logged(TensorBoard(writer))
    np.testing.assert_array_equal(writer.log_["bound"], model.history_["bound"])
    assert len(writer.log_["Loss/valid_loss"]) == 3
    assert writer.log_["closed"]
    assert not model.net_.history[-1, "batches"]  # nobody asks for them


def test_sacred_logger():
    run = Run()
    model = fit_logged(SacredLogger(run, log_on_batch_end=True))
    np.testing.assert_array_equal(run.log_["bound_epoch"], model.history_["bound"])
    assert len(run.log_["train_loss_batch"]) >= 15


@pytest.mark.parametrize("given", [True, False])
def test_mlflow_logger(packages, given):
    run = Run() if given else packages
    model = fit_logged(MlflowLogger(run, run) if given else MlflowLogger())
    np.testing.assert_array_equal(run.log_["bound"], model.history_["bound"])
    assert len(json.loads(run.log_["history.json"])) == 3
    assert {"params.pth", "optimizer.pth", "criterion.pth", "terminated"} <= run.log_.keys()


# What cannot work is refused before training


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (EarlyStopping(), "EarlyStopping, which monitors 'valid_loss'.* early_stopping=True"),
        (EarlyStopping, "EarlyStopping, which monitors 'valid_loss'.* early_stopping=True"),
        (("cp", Checkpoint()), "callbacks contains cp, .*'valid_loss_best'.* early_stopping=True"),
        (LRScheduler("ReduceLROnPlateau", monitor="valid_loss"), "early_stopping=True"),
        (EpochScoring("r2"), "early_stopping=True.*on_train=True"),
        (BatchScoring("r2"), "early_stopping=True.*on_train=True"),
        (PassthroughScoring("valid_loss"), "early_stopping=True.*on_train=True"),
        (WandbLogger(None), "early_stopping=True.*save_model=False"),
        (EpochScoring(None, on_train=True), "EpochScoring, which requires `scoring`"),
        (InputShapeSetter(), "InputShapeSetter, .*`encoder` and `decoder`"),
        (LoadInitState(Checkpoint(f_history=None)), "requires a checkpoint with `f_history`"),
    ],
    ids=name_of,
)
def test_what_cannot_work_is_refused_before_training(callback, message):
    model = gaussian(callback)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "net_")


@pytest.mark.parametrize(
    "callback",
    [
        EpochScoring("r2", on_train=True),
        BatchScoring("r2", on_train=True),
        PassthroughScoring("train_loss", on_train=True),
        WandbLogger(None, save_model=False),
        Checkpoint(monitor="train_loss_best"),
        Checkpoint(monitor=None),
        EarlyStopping(monitor="bound"),
        LRScheduler("ReduceLROnPlateau", monitor="train_loss"),
        LRScheduler("StepLR"),
        LoadInitState(Checkpoint(monitor=None)),
        LoadInitState,
        ("none", None),
    ],
    ids=name_of,
)
def test_what_needs_no_samples_held_out_is_accepted(callback):
    check_callbacks(types.SimpleNamespace(callbacks=[callback], early_stopping=False))


@pytest.mark.parametrize("callback", [Checkpoint(), EpochScoring("r2"), WandbLogger(None)])
def test_what_needs_samples_held_out_is_accepted_with_them(callback):
    check_callbacks(types.SimpleNamespace(callbacks=[callback], early_stopping=True))


@pytest.mark.parametrize(
    "callbacks", [3, "stop", EpochTimer(), [3], [("a",)], [(1, EpochTimer())], [int], [("a", 3)]]
)
def test_what_is_no_list_of_callbacks(callbacks):
    model = gaussian().set_params(callbacks=callbacks)
    assert not [name for name in model.get_params() if name.startswith("callbacks__")]
    with pytest.raises(ValueError, match="callbacks must be None or a list of skorch callbacks"):
        model.fit(X)


def test_a_callback_that_is_none_has_no_parameters():
    model = gaussian(("stop", None))
    with pytest.raises(ValueError, match="callbacks__stop is None and has no parameters to set"):
        model.set_params(callbacks__stop__patience=1)
    stop = EarlyStopping()
    assert model.set_params(callbacks__stop=stop).callbacks == [("stop", stop)]
    model.set_params(callbacks__stop__patience=3)
    assert stop.patience == 3
    by_class = gaussian(EarlyStopping).set_params(callbacks__EarlyStopping__patience=4)
    ((name, made),) = by_class.callbacks
    assert (name, made.patience) == ("EarlyStopping", 4)


# Copies, names and errors


class Logger(Callback):
    def __init__(self, file):
        self.file = file
        self.lock = threading.Lock()
        self.n_epochs_ = 0

    def on_epoch_end(self, net, **kwargs):
        with self.lock:
            self.n_epochs_ += 1
            self.file.write("epoch\n")


def test_a_callback_that_cannot_be_copied_is_used_as_it_is(tmp_path):
    with open(tmp_path / "log", "w") as file:
        logger, counted = Logger(file), Snapshot([1])
        model = gaussian(("log", logger), counted)
        text = "callbacks contains log, which cannot be copied"
        with pytest.warns(UserWarning, match=text) as caught:
            model.fit(X)
        assert caught[0].filename == __file__  # where the user calls fit
        assert logger.n_epochs_ == 3
        assert not hasattr(counted, "states_")
        assert model.net_.callbacks_[2] == ("log", logger)
        with pytest.warns(UserWarning, match="cannot be copied"):
            model.set_params(checkpoint=tmp_path / "files", checkpoint_every=1).fit(X)
    assert (tmp_path / "log").read_text() == 6 * "epoch\n"


def test_open_files_and_loggers_are_shared_with_copies():
    class Text(Callback):
        def __init__(self, file, logger):
            self.file, self.logger = file, logger

        def on_epoch_end(self, net, **kwargs):
            self.file.write("epoch\n")

    file = io.StringIO()
    gaussian(Text(file, logging.getLogger("training"))).fit(X)
    assert file.getvalue() == 3 * "epoch\n"


def test_callbacks_that_refer_to_each_other_are_copied_together(tmp_path):
    files = Checkpoint(monitor=None, dirname=str(tmp_path))
    model = gaussian(LoadInitState(files), files).fit(X)
    copies = dict(model.net_.callbacks_)
    assert copies["LoadInitState"].checkpoint is copies["Checkpoint"] is not files


def test_parameters_of_callbacks_are_set_by_name():
    clip, stop = GradientNormClipping(1.0), ("stop", EarlyStopping("train_loss"))
    model = gaussian(clip, stop, Snapshot([1]), Snapshot([2]), LRScheduler)
    names = {name for name in model.get_params() if name.count("__") == 1}
    assert names == {
        f"callbacks__{name}"
        for name in ("GradientNormClipping", "stop", "Snapshot_1", "Snapshot_2", "LRScheduler")
    }
    assert model.get_params()["callbacks__stop__patience"] == 5
    model.set_params(callbacks__stop__patience=7, callbacks__Snapshot_2__epochs=[3])
    assert stop[1].patience == 7
    model.set_params(callbacks__LRScheduler__policy="StepLR", callbacks__LRScheduler__step_size=1)
    model.fit(X)
    assert sorted(model.snapshots_) == [1, 3]
    assert model.history_["event_lr"][-1] < 1e-3
    assert fitted_callback(model, "stop").patience == 7
    model.set_params(callbacks__stop=None, callbacks__LRScheduler=EpochTimer()).fit(X)
    assert "stop" not in dict(model.net_.callbacks_)
    assert "dur" in model.history_
    assert clone(model).get_params().keys() == model.get_params().keys()
    for name in ("callbacks__none__patience", "callbacks__none"):
        with pytest.raises(ValueError, match=f"{name} is not a parameter of DeepGaussianVAE"):
            model.set_params(**{name: 1})
    with pytest.raises(ValueError, match="Invalid parameter 'none'"):
        model.set_params(callbacks__Snapshot_1__none=1)
    with pytest.raises(ValueError, match="callbacks must be None or a list"):
        gaussian().set_params(callbacks=[3]).set_params(callbacks__stop__patience=1)


def test_a_search_over_parameters_of_callbacks():
    model = gaussian(LRScheduler("StepLR", step_size=1, gamma=0.5), max_epochs=2)
    grid = {"callbacks__LRScheduler__gamma": [0.0, 1.0]}
    search = GridSearchCV(model, grid, cv=2).fit(X)
    assert search.best_params_ == {"callbacks__LRScheduler__gamma": 1.0}
    assert search.best_estimator_.callbacks[0].gamma == 1.0


class FailAtEnd(Callback):
    def on_train_end(self, net, **kwargs):
        raise OSError("disk full")


class End(Callback):
    def __init__(self, seen):
        self.seen = seen

    def on_train_end(self, net, **kwargs):
        self.seen.write("end")


@pytest.mark.some(1)
@pytest.mark.parametrize("model", [*MODELS[:1], *MODELS[5:7], MODELS[-1]], ids=str)
def test_an_error_at_the_end_of_training_keeps_the_model(model, tmp_path):
    plain, seen = clone(model).fit(X), io.StringIO()
    model = clone(model).set_params(callbacks=[FailAtEnd(), ("end", End(seen))])
    model.set_params(checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"FailAtEnd \(OSError: disk full\)"):
        model.fit(X)
    assert seen.getvalue() == "end"
    np.testing.assert_array_equal(parameters_of(model), parameters_of(plain))
    np.testing.assert_array_equal(model.score_samples(X), plain.score_samples(X))
    with pytest.raises(UserWarning, match="The trained model was kept"):  # an error by a filter
        clone(model).set_params(checkpoint=None).fit(X)
    again = clone(model).fit(X)  # of the checkpoint
    np.testing.assert_array_equal(parameters_of(again), parameters_of(plain))


def test_batches_are_recorded_only_where_a_callback_asks_for_them():
    quiet = [
        Snapshot([1]),
        EpochTimer(),
        LRScheduler("StepLR", step_size=1),
        EarlyStopping("train_loss"),
        GradientNormClipping(1.0),
        Freezer("decoder*"),
    ]
    model = gaussian(*quiet).fit(X)
    assert all(row["batches"] == [] for row in model.net_.history)
