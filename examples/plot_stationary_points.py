"""
A collapsed dimension is stable if the noise exceeds the variance it could explain
==================================================================================

At a stationary point of the likelihood of PPCA, columns of W that are zero stay zero under gradient
ascent. Their stability depends on the noise variance alone. This is figure 1 of Lucas, Tucker,
Grosse and Norouzi, "Don't Blame the ELBO!" (NeurIPS 2019), for handwritten digits.

    python examples/plot_stationary_points.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sklearn_vae.gaussian import StationaryPoint, sample_spectrum
from sklearn_vae.plot import LikelihoodSurfaceDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="stationary_points.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use a coarser grid")
arguments = parser.parse_args()

# %%
# Three of the eight columns are the leading eigenvectors. The others are zero. One zero column
# moves in the plane of the fifth and the seventh eigenvector.
X = load_digits().data
spectrum = sample_spectrum(X)
values = spectrum.eigenvalues
fifth, seventh = 4, 6
panels = {
    r"$\sigma^2 < \lambda_7 < \lambda_5$": 0.6 * values[seventh],
    r"$\lambda_7 < \sigma^2 < \lambda_5$": (values[fifth] * values[seventh]) ** 0.5,
    r"$\lambda_7 < \lambda_5 < \sigma^2$": 1.4 * values[fifth],
}

# %%
# Plot the likelihood. In this plane, the stationary point is a minimum, a saddle or a maximum.
radius = 1.3 * np.sqrt(values[fifth])
figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
print("noise variance   curvature along u5   along u7   stable in the plane   in all directions")
for axis, (title, sigma2) in zip(axes, panels.items(), strict=True):
    point = StationaryPoint(spectrum, [0, 1, 2], n_components=8, noise_variance=sigma2)
    curvatures = point.curvature(7, fifth), point.curvature(7, seventh)
    stable = max(curvatures) <= 0
    print(
        f"{sigma2:14.1f}   {curvatures[0]:18.1e}   {curvatures[1]:8.1e}   "
        f"{'yes' if stable else 'no':>19s}   {'yes' if point.is_stable else 'no':>17s}"
    )
    display = LikelihoodSurfaceDisplay.from_results(
        point,
        column=7,
        directions=(fifth, seventh),
        radius=radius,
        n_grid=25 if arguments.small else 101,
        ax=axis,
    )
    display.colorbar_.set_label("")  # see the title of the figure
    axis.set_title(
        f"{title}: a {display.kind},\n{'stable' if stable else 'unstable'} in this plane"
    )
figure.suptitle("Gain in log-likelihood (nats per image) as a zero column of W moves")
figure.savefig(arguments.output, dpi=120)
print(f"Figure written to {arguments.output}")

# %%
# From left to right, the noise variance increases beyond both eigenvalues. The zero column changes
# from a minimum in this plane to a saddle and then to a maximum, where the dimension stays collapsed.
