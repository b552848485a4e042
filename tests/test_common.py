"""scikit-learn's own checks, for every public estimator."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_vae import PPCA

ESTIMATORS = [
    PPCA(n_components=2),
    PPCA(n_components=1, noise_variance=0.5),
    PPCA(n_components=2, coordinates="principal"),
    PPCA(n_components=2, coordinates="whitened"),
    PPCA(),
]


def expected_failed_checks(estimator):
    if estimator.n_components is not None:
        return {}
    return {
        "check_array_api_input": "its data have rank 8 of 10: with all components the likelihood "
        "is unbounded there, and score raises, as the contract says"
    }


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failed_checks)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
