"""scikit-learn's own checks, for every public estimator."""

import inspect

import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import sklearn_vae
from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    DensityPipeline,
    Dequantizer,
    FactorAnalysis,
    FactorAnalysisCV,
    FactorAnalysisImputer,
    GaussianImputer,
    LinearVAE,
    LogitTransformer,
    MixedFactorAnalysis,
    OutlierDetector,
    PPCAImputer,
    TabularVAE,
    public,
)

SMALL = {"hidden_layer_sizes": (8,), "max_epochs": 2}

ESTIMATORS = [
    DeepGaussianVAE(2, **SMALL),
    DeepBernoulliVAE(2, **SMALL, binarize=0.0),
    DeepAutoencoder(2, **SMALL),
    TabularVAE(2, **SMALL),
    PPCA(n_components=2),
    PPCACV([1, 2], noise_variance=[None, 0.5], cv=3),
    BernoulliPPCA(2, binarize=0.0),
    FactorAnalysis(2),
    FactorAnalysisCV([1], cv=2),
    MixedFactorAnalysis(2),
    LinearVAE(2),
    PPCAImputer(),
    FactorAnalysisImputer(1, n_fits=0),
    GaussianImputer(n_fits=2),
    OutlierDetector(PPCA(1), level=0.1, cv=0.5),
    Dequantizer(),
    LogitTransformer(),
    DensityPipeline([("scale", StandardScaler()), ("vae", LinearVAE(1, noise_variance=0.5))]),
]
# Other parameters of the same classes.
VARIANTS = [
    DeepGaussianVAE(2, **SMALL, noise_model="heteroscedastic", prior="learned_variance"),
    PPCA(n_components=1, noise_variance=0.5),
    PPCA(n_components=2, coordinates="whitened"),
    PPCA(n_components=2, svd_solver="randomized"),
    PPCA(),
    BernoulliPPCA(1, binarize=0.0, inference="per_sample"),
    FactorAnalysis(noise_variance=0.5),
    FactorAnalysisCV([0, 1], cv=2),
    LinearVAE(2, solver="adam", max_iter=20, tol=1e3),
    LinearVAE(2, solver="stochastic", max_iter=2, tol=1e3, batch_size=16),
    PPCAImputer(1, missing_values=-1.0, add_indicator=True, keep_empty_features=True),
    OutlierDetector(),
    FactorAnalysisImputer(n_fits=2),
    DeepGaussianVAE(2, **SMALL, noise_model="diagonal", noise_update="gradient"),
    DeepGaussianVAE(2, **SMALL, noise_variance=0.5, early_stopping=True, kl_warmup_epochs=1),
    DeepGaussianVAE(2, **SMALL, variational_family="sylvester"),
    DeepGaussianVAE(2, **SMALL, objective="iwae", n_mc_samples=3),
    PPCA(n_components=2, coordinates="posterior"),
    PPCA(n_components=2, svd_solver="full"),
    PPCA(n_components=2, svd_solver="covariance_eigh"),
    PPCA(n_components=1, svd_solver="arpack"),
    PPCA(coordinates="posterior"),
    PPCACV(cv=2),
    FactorAnalysis(1, rotation="varimax"),
    LinearVAE(1, noise_variance=0.5, parametrization="unit_encoder"),
]


# Those with rows of any real numbers; tests/test_preprocessing.py passes them in its interval.
OUTSIDE_UNIT_INTERVAL = [
    "check_array_api_input",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
]


def expected_failed_checks(estimator):
    if isinstance(estimator, LogitTransformer):
        return dict.fromkeys(OUTSIDE_UNIT_INTERVAL, "its rows must lie in [0, 1]")
    if isinstance(estimator, DensityPipeline):
        checks = ["check_dont_overwrite_parameters", "check_estimators_overwrite_params"]
        return dict.fromkeys(checks, "every Pipeline fits the steps that it is given")
    if isinstance(estimator, LinearVAE) and estimator.solver == "stochastic":
        reason = "its draws differ for repeated samples: only their expectation is the same"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    if isinstance(estimator, MixedFactorAnalysis):
        # tests/linear/test_mixed_factor_analysis.py checks it with given types.
        reason = "types are inferred from the samples with a weight, each counted once"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    if isinstance(estimator, OutlierDetector):
        reason = "copies of a sample fall into different folds, a sample with a weight into one"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    if isinstance(estimator, DeepGaussianVAE | DeepBernoulliVAE | TabularVAE):
        # tests/deep/test_sample_weights.py checks it with the same draws for all copies.
        reason = (
            "training is stochastic: each copy of a sample has its own draws of z, and weights "
            "equal repetition only in expectation"
        )
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    if not isinstance(estimator, PPCA) or estimator.n_components is not None:
        return {}
    unbounded = (
        "its data have rank 8 of 10: with all components the likelihood is unbounded there, and "
        "score raises, as the contract says"
    )
    arbitrary = (
        "its data have rank 8 of 15: directions without variance are arbitrary, as in PCA, and "
        "samples of zero weight are not orthogonal to them"
    )
    failing = dict.fromkeys(["check_array_api_input", "check_array_api_mixed_inputs"], unbounded)
    if estimator.coordinates == "posterior":
        return failing
    weights = "check_sample_weight_equivalence_on"
    return failing | dict.fromkeys([f"{weights}_dense_data", f"{weights}_sparse_data"], arbitrary)


PUBLIC = [getattr(sklearn_vae, name) for name in public.ESTIMATORS]


def test_every_public_estimator_is_checked():
    assert {type(estimator) for estimator in ESTIMATORS} == set(PUBLIC)


@pytest.mark.parametrize("estimator", PUBLIC)
def test_no_parameter_carries_the_name_of_a_public_method(estimator):
    # Set by __init__, it would shadow the method.
    methods = {name for name in dir(estimator) if callable(getattr(estimator, name))}
    assert not methods & set(inspect.signature(estimator).parameters)


pytestmark = [
    pytest.mark.filterwarnings("ignore:The noise variance of feature"),  # Heywood cases
    pytest.mark.filterwarnings("ignore:level=.* is out of reach"),  # outlier detectors, few samples
]


# Which depend on the values of parameters; the others would repeat what one instance of a class proves.
OF_VALUES = {
    "check_all_zero_sample_weights_error",
    "check_array_api_input",
    "check_array_api_mixed_inputs",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimator_sparse_array",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_pipeline_consistency",
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_transformer_general",
    "check_transformer_n_iter",
    "check_transformer_preserve_dtypes",
}


# Checks of containers and of attributes that all classes of a kind share; slow but for one of each kind.
OF_KINDS = {
    "check_dtype_object",
    "check_estimators_fit_returns_self",
    "check_f_contiguous_array_estimator",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_score_takes_y",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_not_overwritten",
    "check_sample_weights_pandas_series",
    "check_sample_weights_shape",
    "check_transformer_data_not_an_array",
}
ONE_OF_EACH_KIND = (DeepGaussianVAE, PPCA, FactorAnalysis, LinearVAE, PPCAImputer)
ONE_OF_EACH_KIND += (OutlierDetector, DensityPipeline)


def each_check(estimators, names=None):
    """Decorator of a test that takes each estimator with each check, or those of these names."""
    cases = []
    for estimator in estimators:
        text = str(estimator)  # once: scikit-learn's own decorator asks for it for each check
        expected = expected_failed_checks(estimator)
        for case in estimator_checks_generator(
            estimator, expected_failed_checks=expected, mark="xfail"
        ):
            values, marks = getattr(case, "values", case), getattr(case, "marks", ())
            name, options = values[1].func.__name__, values[1].keywords
            if names is None or name in names:
                words = ",".join([name, *(f"{key}={value}" for key, value in options.items())])
                if name in OF_KINDS and not isinstance(estimator, ONE_OF_EACH_KIND):
                    marks = [*marks, pytest.mark.slow]
                cases.append(pytest.param(*values, marks=marks, id=f"{text}-{words}"))
    return pytest.mark.parametrize(("estimator", "check"), cases)


@each_check(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@each_check(VARIANTS, OF_VALUES)
def test_scikit_learn_checks_with_other_parameters(estimator, check):
    check(estimator)
