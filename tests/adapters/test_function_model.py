"""Models from functions: forms of outputs, likelihoods, priors, covariates, hooks and errors."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import distributions

from sklearn_vae import PPCA
from sklearn_vae.adapters import FunctionModel, from_torch
from sklearn_vae.diagnostics import (
    active_units,
    collapse,
    collapse_curve,
    decompose_kl,
    diagnose,
    entropy_bound,
    kl_per_dimension,
    second_moments,
    tune_noise_variance,
)
from tests.adapters.models import PlainVAE, bits, rows
from tests.sharing import shared

FORMS = {
    "pair": "log_variance",
    "scale": "scale",
    "variance": "variance",
    "log scale": "log_scale",
    "normal": "log_variance",
    "independent": "log_variance",
    "z first": "log_variance",
    "z last": "log_variance",
    "mean as z first": "log_variance",
    "mean as z last": "log_variance",
    "z and normal": "log_variance",
    "mapping": "log_variance",
    "mapping of normal": "log_variance",
}


@shared
def ppca():
    return PPCA(2, noise_variance=0.5).fit(rows())


def functions(**options):
    """A pPCA as a model of functions of NumPy arrays."""
    model = ppca()
    defaults = {"noise_variance": 0.5, "spread": "variance"}
    return FunctionModel(
        lambda x: tuple(np.array(part) for part in model.posterior(x)),
        lambda z: model.conditional(z)[0],
        **{**defaults, **options},
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_encoder_gives_the_same_posterior(form):
    expected = from_torch(PlainVAE(), noise_variance=1.0).posterior(rows())
    module = PlainVAE(form=form)
    result = from_torch(module, noise_variance=1.0, spread=FORMS[form]).posterior(rows())
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_functions_of_numpy_arrays_give_the_numbers_of_the_model():
    X, model, adapted = rows(), ppca(), functions()
    np.testing.assert_allclose(adapted.score_samples(X), model.score_samples(X), rtol=1e-10)
    for function in (kl_per_dimension, second_moments):
        np.testing.assert_allclose(function(adapted, X), function(model, X), rtol=1e-10)
    for function in (collapse, active_units, collapse_curve, decompose_kl):
        expected = vars(function(model, X))
        for name, value in vars(function(adapted, X)).items():
            if not isinstance(value, str):
                np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-12)
    expected, result = entropy_bound(model, X), entropy_bound(adapted, X)
    assert result.bound == pytest.approx(expected.bound, abs=1e-9)
    numbers, expected = diagnose(adapted, X).numbers, diagnose(model, X).numbers
    for name in ("elbo", "reference", "reconstruction_error", "reference_noise_variance"):
        assert numbers[name] == pytest.approx(expected[name], abs=1e-9)


def test_sparse_rows_and_lists_are_accepted():
    X, adapted = rows(), functions()
    expected = adapted.score_samples(X)
    np.testing.assert_allclose(adapted.score_samples(sparse.csc_matrix(X)), expected)
    np.testing.assert_allclose(adapted.score_samples(X.tolist()), expected)
    np.testing.assert_allclose(adapted.score_samples(torch.from_numpy(X)), expected)


@pytest.mark.parametrize(
    ("encode", "error", "match"),
    [
        (lambda x: x[:, :2], TypeError, r"got a ndarray of shape \(150, 2\). If one tensor"),
        (lambda x: "text", TypeError, "got str"),
        (
            lambda x: (x[:5, :2], x[:5, :2]),
            ValueError,
            r"\(150, n_components\) for 150 .* \(5, 2\)",
        ),
        (lambda x: (x[:, :2], x[:, :3]), ValueError, r"spread .* \(150, 2\), got \(150, 3\)"),
        (lambda x: (x[:, 0], x[:, 0]), ValueError, r"got \(150,\)"),
        (lambda x: (x[:, :2].astype("f4"), x[:, :2]), ValueError, "dtype .*float64, got .*float32"),
        (lambda x: (x[:, :2].astype(int), x[:, :2]), ValueError, "float64, got torch.int64"),
        (lambda x: (x[:, :2] * np.nan, x[:, :2]), ValueError, "mean of 150 of 150 .* not finite"),
        (lambda x: (x[:, :2], -x[:, :2]), ValueError, "spread='variance', got .* Set spread"),
        (lambda x: (x[:, :2].tolist(), x[:, :2]), TypeError, "tensor, got list"),
        (lambda x: {"mu": x[:, :2]}, TypeError, "must have one of .* got mu"),
        (lambda x: {"rate": x[:, :2]}, TypeError, "must have one of .* got rate"),
        (
            lambda x: distributions.Gamma(torch.ones(150, 2), 1.0),
            TypeError,
            "a Normal .* got Gamma",
        ),
        (lambda x: torch.from_numpy(x[:, :6]).split(2, 1), ValueError, "unclear which .* a draw"),
        (
            lambda x: (torch.empty(150, 2, device="meta", dtype=torch.float64),) * 2,
            ValueError,
            "device of the inputs, cpu, got meta",
        ),
    ],
)
def test_wrong_outputs_of_an_encoder_are_named(encode, error, match):
    model = functions()
    model.encode = encode
    with pytest.raises(error, match=match):
        model.transform(rows())


@pytest.mark.parametrize(
    ("decode", "error", "match"),
    [
        (lambda z: z, ValueError, r"output of decode must have shape \(\d+, 8\), got \(\d+, 2\)"),
        (lambda z: np.zeros(8), ValueError, "got"),
        (lambda z: np.zeros((len(z), 8), "f4"), ValueError, "float64, got torch.float32"),
        (lambda z: None, TypeError, "must be an array or a tensor, got NoneType"),
        (lambda z: {"y": z}, TypeError, "must have one of reconstruction, .* got y"),
        (lambda z: (z, z, z), TypeError, "got a tuple of 3"),
        (
            lambda z: distributions.Poisson(torch.ones(len(z), 8)),
            TypeError,
            "does not fit likelihood='gaussian', got Poisson",
        ),
        (
            lambda z: distributions.Poisson(torch.ones(3, 8)),
            ValueError,
            r"must have the shape \(\d+, 8\), got \(3, 8\)",
        ),
    ],
)
def test_wrong_outputs_of_a_decoder_are_named(decode, error, match):
    model = functions()
    model.decode = decode
    with pytest.raises(error, match=match):
        model.score_samples(rows())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"noise_variance": 0.0}, ValueError, "positive float .* got 0.0"),
        ({"noise_variance": [1.0, np.nan]}, ValueError, "positive float"),
        ({"likelihood": "poisson"}, ValueError, "likelihood must be one of 'gaussian'"),
        ({"likelihood": "bernoulli"}, ValueError, "noise_variance must be None"),
        ({"spread": "sigma"}, ValueError, "spread must be one of"),
        ({"decoder_output": "logits"}, ValueError, "must be 'mean' with likelihood='gaussian'"),
        ({"prior": -1.0}, ValueError, "prior must be None, positive variances"),
        ({"prior": "mixture"}, ValueError, "got 'mixture'"),
        ({"n_covariates": -1}, ValueError, "n_covariates must be an integer >= 0"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of 'float32', 'float64'"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_wrong_parameters_are_named(options, error, match):
    with pytest.raises(error, match=match):
        functions(**options)


def test_functions_must_be_callable():
    with pytest.raises(TypeError, match="decode must be a function, got 3"):
        FunctionModel(len, 3)


def test_wrong_rows_are_named():
    model = functions()
    X = rows()
    with pytest.raises(ValueError, match="contains NaN"):
        model.transform(np.where(X > 5, np.nan, X))
    with pytest.raises(ValueError, match="Reshape images"):
        model.transform(X.reshape(-1, 2, 4))
    with pytest.raises(ValueError, match="at least one sample"):
        model.transform(X[:0])
    model.transform(X)
    with pytest.raises(ValueError, match=r"Z must have shape \(n_samples, 2\), got \(5, 3\)"):
        model.conditional(np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"noise_variance must have shape \(8,\), got \(3,\)"):
        functions(noise_variance=np.ones(3)).score(X)
    with pytest.raises(ValueError, match="noise_variance must be given"):
        functions(noise_variance=None).score(X)


def test_logits_that_look_like_probabilities_are_noticed():
    model = FunctionModel(
        lambda x: (x[:, :2], x[:, :2]),
        lambda z: np.full((len(z), 8), 0.3),
        likelihood="bernoulli",
    )
    with pytest.warns(UserWarning, match="set decoder_output='mean'"):
        model.score(bits())
    model = FunctionModel(
        model.encode,
        lambda z: np.full((len(z), 8), 3.0),
        likelihood="bernoulli",
        decoder_output="mean",
    )
    with pytest.raises(ValueError, match=r"must be in \[0, 1\] .* got 3 to 3"):
        model.score(bits())


def linear_parts(n_outputs, seed=0):
    rng = np.random.default_rng(seed)
    A, W = 0.3 * rng.normal(size=(8, 2)), rng.normal(size=(2, n_outputs))
    return lambda x: ((x - 5.0) @ A, np.full((len(x), 2), -1.0)), lambda z: z @ W


def monte_carlo_elbo(model, X, log_prob, log_prior=None, n=4000):
    """Average ELBO of rows from random draws, and its standard error."""
    mean, variance = model.posterior(X)
    rng = np.random.default_rng(1)
    totals = []
    for _ in range(n // 100):
        z = mean + np.sqrt(variance) * rng.standard_normal((100, *mean.shape))
        log_q = distributions.Normal(*map(torch.from_numpy, (mean, np.sqrt(variance))))
        log_q = log_q.log_prob(torch.from_numpy(z)).sum(-1).numpy()
        prior = distributions.Normal(0.0, 1.0).log_prob(torch.from_numpy(z)).sum(-1).numpy()
        prior = prior if log_prior is None else log_prior(torch.from_numpy(z)).numpy()
        totals.append((log_prob(z) + prior - log_q).mean())
    return np.mean(totals), np.std(totals) / np.sqrt(len(totals))


def test_categorical_features_have_the_bound_of_draws():
    X = (3 * (rows() > 5.0) - (rows() > 5.5)).astype(float)  # codes 0, 2, 3
    encode, linear = linear_parts(32)
    model = FunctionModel(
        encode, lambda z: linear(z).reshape(-1, 8, 4), likelihood="categorical", name="Words"
    )

    def log_prob(z):
        logits = torch.from_numpy(linear(z).reshape(*z.shape[:-1], 8, 4))
        codes = torch.from_numpy(X).expand(logits.shape[:-1])
        return distributions.Categorical(logits=logits).log_prob(codes).sum(-1).numpy()

    expected, error = monte_carlo_elbo(model, X, log_prob)
    # The fixed points of scores have an error of their own.
    assert model.score(X) == pytest.approx(expected, abs=5 * error + 0.05)
    result = entropy_bound(model, X)
    assert result.elbo == pytest.approx(model.score(X), abs=1e-9)
    assert result.elbo - result.bound == pytest.approx(result.gap.total, abs=1e-9)
    codes = model.inverse_transform(model.transform(X))
    assert set(np.unique(codes)) <= {0.0, 1.0, 2.0, 3.0}
    mean, variance = model.conditional(model.transform(X))
    p = np.exp(linear(model.transform(X)).reshape(-1, 8, 4))
    p /= p.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(mean, p @ np.arange(4))
    np.testing.assert_allclose(variance, p @ np.arange(4) ** 2 - mean**2)
    report = diagnose(model, X)
    assert "categorical" in str(report)
    assert report.estimator == "Words"
    assert report.numbers["elbo"] == pytest.approx(model.score(X))
    draws, _ = model.sample(50, random_state=0)
    assert set(np.unique(draws)) <= {0.0, 1.0, 2.0, 3.0}


def test_categorical_logits_need_an_axis_of_classes():
    encode, linear = linear_parts(32)
    model = FunctionModel(encode, linear, likelihood="categorical")
    with pytest.raises(ValueError, match=r"\(n_samples, n_features, n_classes\)"):
        model.score(bits())


def negative_binomial():
    encode, linear = linear_parts(8)

    def decode(z):
        return distributions.NegativeBinomial(4.0, logits=torch.from_numpy(0.3 * linear(z)))

    return FunctionModel(encode, decode, likelihood="distribution"), decode


def test_any_distribution_of_features_has_the_bound_of_draws():
    model, decode = negative_binomial()
    X = np.round(rows())

    def log_prob(z):
        return decode(z).log_prob(torch.from_numpy(X)).sum(-1).numpy()

    expected, error = monte_carlo_elbo(model, X, log_prob)
    assert model.score(X) == pytest.approx(expected, abs=5 * error + 0.05)
    assert len(kl_per_dimension(model, X)) == 2
    assert decompose_kl(model, X).mutual_information > 0
    with pytest.raises(ValueError, match="entropy is unknown"):
        entropy_bound(model, X)
    with pytest.raises(TypeError, match="FunctionModel has no noise_variance_"):
        tune_noise_variance(model, X)
    report = diagnose(model, X)
    assert report.healthy
    assert report.entropies is None
    assert "comparison with pPCA do not apply" in str(report)
    assert model.sample(3, random_state=0)[0].shape == (3, 8)


def test_a_distribution_is_wanted_with_likelihood_distribution():
    encode, linear = linear_parts(8)
    with pytest.raises(TypeError, match="must return a torch distribution"):
        FunctionModel(encode, linear, likelihood="distribution").score(rows())


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [
        ("gaussian", lambda a: distributions.Normal(a, 0.7)),
        ("gaussian", lambda a: distributions.Independent(distributions.Normal(a, 0.7), 1)),
        ("bernoulli", lambda a: distributions.Bernoulli(logits=a)),
    ],
)
def test_distributions_of_torch_are_read_as_what_they_are(likelihood, distribution):
    X = bits() if likelihood == "bernoulli" else rows()
    encode, linear = linear_parts(8)
    noise = {} if likelihood == "bernoulli" else {"noise_variance": 0.49}
    expected = FunctionModel(encode, linear, likelihood=likelihood, **noise)
    model = FunctionModel(
        encode, lambda z: distribution(torch.from_numpy(linear(z))), likelihood=likelihood
    )
    np.testing.assert_allclose(model.score_samples(X), expected.score_samples(X), rtol=1e-10)


def test_a_mixture_as_prior_has_the_bound_of_draws():
    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(torch.ones(2)),
        distributions.Independent(
            distributions.Normal(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double(), 1.0), 1
        ),
    )
    encode, linear = linear_parts(8)
    model = FunctionModel(encode, linear, noise_variance=1.0, prior=mixture)
    X = rows()

    def log_prob(z):
        return (
            distributions.Normal(torch.from_numpy(linear(z)), 1.0)
            .log_prob(torch.from_numpy(X))
            .sum(-1)
            .numpy()
        )

    expected, error = monte_carlo_elbo(model, X, log_prob, mixture.log_prob)
    assert model.score(X) == pytest.approx(expected, abs=5 * error + 0.05)
    # Those of the mixture: means -2, 2 and 0, 1.
    np.testing.assert_allclose(model.prior_variance, [5.0, 1.25], rtol=0.05)
    np.testing.assert_allclose(model.prior_mean, [0.0, 0.5], atol=0.1)
    report = diagnose(model, X)
    assert "The prior is not normal" in str(report)
    assert np.isfinite(report.numbers["elbo"])
    with pytest.raises(ValueError, match="need a normal prior"):
        entropy_bound(model, X)
    assert model.sample(5, random_state=0)[1].shape == (5, 2)


def test_a_sampler_as_prior_leaves_the_bound_unknown():
    encode, linear = linear_parts(8)

    def sampler(n):
        return torch.rand(n, 2) * 3.0

    model = FunctionModel(encode, linear, noise_variance=1.0, prior=sampler)
    X = rows()
    assert active_units(model, X).variance.shape == (2,)
    with pytest.raises(ValueError, match="density of the prior"):
        model.score(X)
    report = diagnose(model, X)
    assert np.isnan(report.numbers["elbo"])
    assert "the ELBO is unknown" in str(report)
    np.testing.assert_allclose(model.prior_mean, 1.5, atol=0.05)
    model.prior.sample = lambda n: torch.rand(n, 3)
    with pytest.raises(ValueError, match=r"prior must draw an array of shape \(4, 2\)"):
        model.sample(4)


def test_a_normal_prior_off_zero_changes_no_number_but_the_units():
    encode, linear = linear_parts(8)
    standard = FunctionModel(encode, linear, noise_variance=1.0)

    def shifted_encode(x):
        mean, log_variance = encode(x)
        return 2.0 * mean + 3.0, log_variance + np.log(4.0)

    prior = distributions.Normal(torch.full((2,), 3.0).double(), torch.full((2,), 2.0).double())
    shifted = FunctionModel(
        shifted_encode, lambda z: linear((z - 3.0) / 2.0), noise_variance=1.0, prior=prior
    )
    X = rows()
    np.testing.assert_allclose(shifted.score_samples(X), standard.score_samples(X), rtol=1e-10)
    expected, result = diagnose(standard, X), diagnose(shifted, X)
    for name, number in expected.numbers.items():
        assert result.numbers[name] == pytest.approx(number, rel=1e-8), name
    np.testing.assert_allclose(result.collapse.kl_per_dim, expected.collapse.kl_per_dim)


def conditional_model():
    """A model of rows whose mean depends on the last column, of -1 and 1."""
    A = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 2)))[0]
    return FunctionModel(
        lambda x, c: ((x - c) @ A, np.full((len(x), 2), -2.0)),
        lambda z, c: z @ A.T + c,
        noise_variance=1.0,
        n_covariates=1,
    )


def test_covariates_are_passed_through():
    model = conditional_model()
    X = rows()
    c = np.where(np.arange(len(X)) % 2, 1.0, -1.0)[:, None]
    with_covariates = np.hstack([X + c, c])
    encode, decode = model.encode, model.decode
    plain = FunctionModel(lambda x: encode(x, 0.0), lambda z: decode(z, 0.0), noise_variance=1.0)
    np.testing.assert_allclose(
        model.score_samples(with_covariates), plain.score_samples(X), rtol=1e-10
    )
    np.testing.assert_array_equal(model.observations(with_covariates), X + c)
    report = diagnose(model, with_covariates)
    assert report.n_features == 8
    assert report.numbers["reconstruction_error"] == pytest.approx(
        diagnose(plain, X).numbers["reconstruction_error"]
    )
    codes = model.with_covariates(model.transform(with_covariates), with_covariates)
    assert codes.shape == (150, 3)
    np.testing.assert_allclose(
        model.inverse_transform(codes), plain.inverse_transform(plain.transform(X)) + c
    )
    with pytest.raises(ValueError, match=r"\(n_samples, 3\) \(latent dimensions and covariates\)"):
        model.conditional(codes[:, :2])
    with pytest.raises(ValueError, match="sample needs covariates"):
        model.sample(3)
    with pytest.raises(ValueError, match="more columns than n_covariates=1"):
        model.transform(X[:, :1])


def test_hooks_change_the_units():
    encode, linear = linear_parts(8)
    X = rows()
    Y = 3.0 * X - 7.0
    plain = FunctionModel(encode, linear, noise_variance=1.0)
    in_units_of_networks = FunctionModel(
        encode, linear, noise_variance=1.0, preprocess=lambda y: (y + 7.0) / 3.0
    )
    in_units_of_data = FunctionModel(
        encode,
        linear,
        noise_variance=9.0,
        preprocess=lambda y: (y + 7.0) / 3.0,
        postprocess=lambda x: 3.0 * x - 7.0,
    )
    np.testing.assert_allclose(in_units_of_networks.observations(Y), X)
    np.testing.assert_allclose(in_units_of_data.observations(Y), Y)
    expected = diagnose(plain, X).numbers
    numbers = diagnose(in_units_of_networks, Y).numbers
    scaled = diagnose(in_units_of_data, Y).numbers
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, rel=1e-6), name
    assert scaled["elbo"] == pytest.approx(expected["elbo"] - 8 * np.log(3.0))
    assert scaled["elbo"] - scaled["reference"] == pytest.approx(
        expected["elbo"] - expected["reference"]
    )
    with pytest.raises(ValueError, match="preprocess must return 150 samples, got 3"):
        FunctionModel(encode, linear, noise_variance=1.0, preprocess=lambda x: x[:3]).score(X)
    spread = FunctionModel(encode, lambda z: (linear(z), linear(z)), postprocess=np.exp)
    with pytest.raises(TypeError, match="postprocess must be None"):
        spread.score(X)


def test_images_are_reshaped_for_the_functions():
    shapes = []
    encode, linear = linear_parts(8)

    def encode_images(x):
        shapes.append(x.shape[1:])
        return encode(x.reshape(len(x), 8))

    model = FunctionModel(
        encode_images,
        lambda z: linear(z).reshape(-1, 1, 2, 4),
        noise_variance=1.0,
        input_shape=(1, 2, 4),
    )
    expected = FunctionModel(encode, linear, noise_variance=1.0)
    np.testing.assert_allclose(model.score_samples(rows()), expected.score_samples(rows()))
    assert set(shapes) == {(1, 2, 4)}
    assert model.conditional(np.zeros((3, 2)))[0].shape == (3, 8)
    with pytest.raises(ValueError, match=r"X must have 8 features with input_shape=\(1, 2, 4\)"):
        model.transform(rows()[:, :6])


def test_a_function_that_fails_is_named_with_the_shape_of_its_input():
    convolution = torch.nn.Conv2d(1, 2, 3)
    model = FunctionModel(convolution, convolution, noise_variance=1.0, device="cpu")
    with pytest.raises(RuntimeError) as caught:
        model.transform(rows().astype(np.float32)[:5])
    assert "encode was called with an input of shape (5, 8)" in caught.value.__notes__[0]
    assert "set input_shape" in caught.value.__notes__[0]


def test_draws_have_the_moments_of_the_model():
    encode, linear = linear_parts(8)
    model = FunctionModel(encode, linear, noise_variance=0.5, prior=[1.0, 4.0])
    X, Z = model.sample(20_000, random_state=0)
    np.testing.assert_allclose(Z.var(axis=0), [1.0, 4.0], rtol=0.05)
    W = linear(np.eye(2))
    covariance = (W.T * [1.0, 4.0]) @ W + 0.5 * np.eye(8)
    np.testing.assert_allclose(np.cov(X.T), covariance, atol=0.05 * covariance.max())
    again, _ = model.sample(20_000, random_state=0)
    np.testing.assert_array_equal(again, X)
    with pytest.raises(ValueError, match="number of latent dimensions is unknown"):
        FunctionModel(encode, linear, noise_variance=0.5).sample(3)


def test_drawing_leaves_the_global_generator_alone():
    encode, linear = linear_parts(8)
    model = FunctionModel(encode, linear, noise_variance=0.5, prior=[1.0, 4.0])
    state = torch.random.get_rng_state()
    model.sample(3, random_state=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_repr_is_short():
    assert repr(functions()) == "FunctionModel(likelihood='gaussian')"


def test_full_covariances_are_diagonal():
    mean, covariance = functions().posterior(rows(), return_cov=True)
    variance = functions().posterior(rows())[1]
    np.testing.assert_array_equal(covariance[:, [0, 1], [0, 1]], variance)
    assert (covariance[:, 0, 1] == 0).all()
    assert mean.shape == (150, 2)
