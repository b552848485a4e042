"""Public names of the library and the modules of `sklearn_vae` that define them.

To add an estimator, list it here and in the imports for type checkers in `sklearn_vae/__init__.py`.
The package, the model files and the tests read these lists.
"""

ESTIMATORS = {
    "BernoulliPPCA": "linear.bernoulli",
    "DeepAutoencoder": "deep.autoencoder",
    "DeepBernoulliVAE": "deep.bernoulli_vae",
    "DeepGaussianVAE": "deep.gaussian_vae",
    "DensityPipeline": "preprocessing.density",
    "Dequantizer": "preprocessing.dequantizer",
    "FactorAnalysis": "linear.factor_analysis",
    "FactorAnalysisCV": "linear.factor_analysis_cv",
    "FactorAnalysisImputer": "linear.imputer",
    "GaussianImputer": "linear.gaussian_imputer",
    "LinearVAE": "linear.linear_vae",
    "LogitTransformer": "preprocessing.logit",
    "MixedFactorAnalysis": "linear.mixed_factor_analysis",
    "OutlierDetector": "outliers.detector",
    "PPCA": "linear.ppca",
    "PPCACV": "linear.ppca_cv",
    "PPCAImputer": "linear.imputer",
    "TabularVAE": "deep.tabular_vae",
}

# Classes whose instances are fully determined by the arguments of their constructor.
RECORDS = {
    "Certificate": "gaussian.certificate",
    "ConvDecoder": "nn.convolutional",
    "ConvEncoder": "nn.convolutional",
    "LowRankGaussian": "gaussian.lowrank",
    "Moments": "gaussian.moments",
    "PlainConvDecoder": "nn.convolutional",
    "PlainConvEncoder": "nn.convolutional",
    "ResidualDecoder": "nn.convolutional",
    "ResidualEncoder": "nn.convolutional",
    "Snapshot": "training.callbacks",
    "SoftThresholdDecoder": "nn.networks",
    "Stationarity": "gaussian.stationarity",
}

MODULES = {**ESTIMATORS, **RECORDS, "Processes": "training.distributed"}

# Pages of the documentation, to which the diagrams of estimators in notebooks link.
DOCUMENTATION = "https://sklearn-vae.readthedocs.io/en/stable"
