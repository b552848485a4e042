"""Display of the likelihood of probabilistic PCA around a stationary point."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.gaussian import Spectrum, StationaryPoint, sample_spectrum
from sklearn_vae.gaussian.arrays import to_device_of
from sklearn_vae.plot.base import DIVERGING, Array, Display, as_float64
from sklearn_vae.protocol import check_methods
from sklearn_vae.validation import check_integer, check_real, is_integer, refuse_dask

# Number of contour levels. Areas between neighboring levels of one sign are equal.
LEVELS = 16


@dataclass(eq=False, repr=False)
class LikelihoodSurfaceDisplay(Display):
    """Contour plot of the likelihood of probabilistic PCA around a stationary point.

    One column of W moves in the plane of two eigenvectors of the data covariance. The point is
    marked by a dot if it is a maximum in this plane, and by a cross if the likelihood increases in
    some direction. It is marked by an asterisk if W already contains one of the two eigenvectors.

    Parameters
    ----------
    surface : ndarray of shape (n_a, n_b)
        Log-likelihood minus the log-likelihood of the point, in nats per sample.
    a : ndarray of shape (n_a,)
        Distances along the first eigenvector, in units of the data.
    b : ndarray of shape (n_b,)
        Distances along the second eigenvector, in units of the data.
    point : StationaryPoint
        Stationary point.
    column : int
        Index of the column of W that moves.
    directions : tuple of int
        Indices of the two eigenvectors, counted from 0. The axis labels count from 1.

    Attributes
    ----------
    contours_ : matplotlib QuadContourSet
        Contours.
    colorbar_ : matplotlib Colorbar
        Scale of the contours.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    sklearn_vae.gaussian.StationaryPoint : Stationary point of the likelihood.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), figure 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import LikelihoodSurfaceDisplay
    >>> X = load_iris().data
    >>> LikelihoodSurfaceDisplay.from_estimator(PPCA(2).fit(X), X, n_grid=21).kind
    'minimum'
    """

    _size = (1.0, 1.05)

    surface: Array
    a: Array
    b: Array
    _: KW_ONLY
    point: StationaryPoint
    column: int
    directions: tuple[int, int]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        noise_variance: float | None = None,
        directions: tuple[int, int] | None = None,
        radius: float | None = None,
        n_grid: int = 101,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Plot the likelihood around a stationary point whose last column of W is zero.

        The other columns are the leading eigenvectors whose eigenvalues exceed the noise variance.

        Parameters
        ----------
        estimator : PPCA
            Fitted model. It determines the number of columns and the noise variance.
        X : array-like of shape (n_samples, n_features), default=None
            Data. By default, the training data, summarized by `moments_` of the estimator or, after
            `fit`, by `spectrum_`. The latter contains only the eigenvectors of the model, from
            which `directions` must then be chosen.
        noise_variance : float, default=None
            Noise variance. By default, `noise_variance_` of the estimator.
        directions : tuple of int, default=None
            Indices of the two eigenvectors, by default the first two that W does not contain.
        radius : float, default=None
            Half width of the plane in units of the data. By default, it is chosen to show the
            maxima.
        n_grid : int, default=101
            Number of grid points per axis, at least 3.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the `contourf`.

        Returns
        -------
        LikelihoodSurfaceDisplay
            The plotted display.
        """
        check_methods(estimator, cls.__name__, "fit")
        attributes = ["n_components_", "noise_variance_"] + ["spectrum_"] * (X is None)
        missing = [name for name in attributes if not hasattr(estimator, name)]
        if missing:
            hint = " Pass X." if missing == ["spectrum_"] else ""
            raise TypeError(
                f"{cls.__name__} requires a fitted PPCA, but {type(estimator).__name__} has no "
                f"{' or '.join(missing)}.{hint}"
            )
        refuse_dask(cls.__name__, X)
        spectrum = _spectrum(estimator) if X is None else sample_spectrum(as_float64(X))
        k = int(estimator.n_components_)
        if k < 1:
            raise ValueError(
                f"{cls.__name__} needs at least one component, but n_components_ is {k}."
            )
        sigma2 = estimator.noise_variance_ if noise_variance is None else noise_variance
        above = int(np.sum(as_float64(spectrum.eigenvalues) > float(sigma2)))
        point = StationaryPoint(spectrum, range(min(k - 1, above)), k, float(sigma2))
        return cls.from_results(
            point, directions=directions, radius=radius, n_grid=n_grid, ax=ax, **options
        )

    @classmethod
    def from_results(  # type: ignore[override]
        cls,
        point: StationaryPoint,
        *,
        column: int | None = None,
        directions: tuple[int, int] | None = None,
        radius: float | None = None,
        n_grid: int = 101,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Plot the likelihood around a stationary point.

        Parameters
        ----------
        point : StationaryPoint
            Stationary point of the likelihood.
        column : int, default=None
            Index of the column of W that moves, by default the last one.
        directions : tuple of int, default=None
            Indices of the two eigenvectors, by default the first two that W does not contain.
        radius : float, default=None
            Half width of the plane in units of the data. The default is 1.3 times the root of the
            larger eigenvalue, which includes all maxima.
        n_grid : int, default=101
            Number of grid points per axis, at least 3.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the `contourf`.

        Returns
        -------
        LikelihoodSurfaceDisplay
            The plotted display.
        """
        r = point.spectrum.eigenvalues.shape[0]
        if directions is None:
            others = [j for j in range(r) if j not in point.kept]
            if len(others) < 2:
                is_all = r == point.spectrum.n_features
                remedy = "use fewer components" if is_all else "pass X for the others"
                raise ValueError(
                    f"{cls.__name__} needs two eigenvectors that the point does not keep, but it "
                    f"keeps {len(point.kept)} of the {r} in its spectrum. Set directions, or "
                    f"{remedy}."
                )
            directions = (others[0], others[1])
        check_integer("n_grid", n_grid, at_least=3)
        column = point.n_components - 1 if column is None else column
        if not (is_integer(column) and 0 <= column < point.n_components):
            raise ValueError(f"column must be from 0 to {point.n_components - 1}, got {column!r}.")
        p, q = directions
        if not (p != q and 0 <= p < r and 0 <= q < r):
            raise ValueError(f"directions must be two indices from 0 to {r - 1}, got {directions}.")
        values = as_float64(point.spectrum.eigenvalues)
        if radius is None:
            largest = max(values[p], values[q])
            radius = 1.3 * math.sqrt(largest if largest > 0.0 else point.column_variances[column])
        check_real("radius", radius, above=0.0)
        grid = np.linspace(-radius, radius, n_grid)
        surface = _surface(point, column, directions, grid)
        display = cls(surface, grid, grid, point=point, column=column, directions=directions)
        return display.plot(ax, **options)

    @property
    def kind(self) -> str | None:
        """Kind of the point in this plane: "minimum", "saddle", "maximum" or None if unknown."""
        if set(self.directions) & set(self.point.kept):
            return None
        signs = [self.point.curvature(self.column, j) > 0.0 for j in self.directions]
        return "minimum" if all(signs) else "saddle" if any(signs) else "maximum"

    def _draw(self, axes: Array, **options: Any) -> None:
        from matplotlib.pyplot import get_cmap

        ax = axes[0, 0]
        levels, shades = _levels(self.surface)
        colors = get_cmap(options.pop("cmap", DIVERGING))(shades)
        values = np.clip(self.surface.T, levels[0], levels[-1])
        surface = (self.a, self.b, values, levels)
        self.contours_ = ax.contourf(*surface, **{"colors": colors, **options})
        ax.contour(*surface, colors="k", linewidths=0.3, linestyles="solid")
        marker = {"maximum": "o", None: "*"}.get(self.kind, "X")
        style = {"color": "black", "markeredgecolor": "white", "markersize": 8, "linestyle": ""}
        ax.plot(0.0, 0.0, marker, **style)
        p, q = self.directions
        lambdas = as_float64(self.point.spectrum.eigenvalues)
        ax.set(
            xlabel=rf"distance along $u_{{{p + 1}}}$  ($\lambda_{{{p + 1}}}$ = {lambdas[p]:.3g})",
            ylabel=rf"distance along $u_{{{q + 1}}}$  ($\lambda_{{{q + 1}}}$ = {lambdas[q]:.3g})",
            box_aspect=1,
        )
        kind = "" if self.kind is None else f": a {self.kind} in this plane"
        ax.set_title(rf"$\sigma^2$ = {self.point.noise_variance:.4g}{kind}", fontsize="medium")
        colorbar_axes = ax.inset_axes((1.04, 0.0, 0.05, 1.0))  # as high as the axes
        self.colorbar_ = ax.figure.colorbar(self.contours_, cax=colorbar_axes, spacing="uniform")
        zero, step = int(np.argmin(np.abs(levels))), max(1, len(levels) // 7)
        ticks = levels[zero % step :: step]
        labels = [f"{tick:.3g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
        self.colorbar_.set_ticks(ticks, labels=labels)
        self.colorbar_.set_label("gain in log-likelihood (nats per sample)")


def _spectrum(estimator: Any) -> Spectrum:
    """Return the spectrum of the training data, with all eigenpairs if the estimator has them."""
    if hasattr(estimator, "moments_"):
        return Spectrum.from_moments(estimator.moments_)
    return estimator.spectrum_


def _levels(surface: Array) -> tuple[Array, Array]:
    """Compute contour levels, including 0, and the shades between them.

    Levels are quantiles of each sign, because the surface may have a steep minimum, or be flat with
    low maxima.
    """
    rounding = 1e-9 * float(np.abs(surface).max())
    down, up = surface[surface < -rounding], surface[surface > rounding]
    if down.size + up.size == 0:
        return np.array([-1.0, 0.0, 1.0]), np.array([0.5, 0.5])
    sides = []
    for values in (-down, up):
        n = max(3, round(LEVELS * values.size / (down.size + up.size))) if values.size else 0
        shares = np.linspace(0.0, 1.0, n + 1)[1:]
        sides.append(np.unique(np.quantile(values, shares)) if n else np.array([]))
    below, above = sides
    shades = [0.5 - 0.45 * _evenly(below)[::-1], 0.5 + 0.45 * _evenly(above)]
    return np.concatenate([-below[::-1], [0.0], above]), np.concatenate(shades)


def _evenly(values: Array) -> Array:
    """Return evenly spaced shades, one per value, from light to dark."""
    return (np.arange(len(values)) + 0.5) / max(len(values), 1)


def _surface(
    point: StationaryPoint, column: int, directions: tuple[int, int], grid: Array
) -> Array:
    """Compute the gain in log-likelihood at each point of the grid.

    Columns that neither move nor keep one of the two eigenvectors contribute a constant. They are
    omitted, so the cost does not depend on k.
    """
    kept = [j for i, j in enumerate(point.kept) if i == column or j in directions]
    moves_zero_column = column >= len(point.kept)
    small = StationaryPoint(
        point.spectrum, kept, len(kept) + moves_zero_column, noise_variance=point.noise_variance
    )
    new_column = len(kept) if moves_zero_column else kept.index(point.kept[column])
    distances = to_device_of(point.spectrum.eigenvalues, grid)
    surface = small.surface(new_column, directions, distances, distances)
    return as_float64(surface) - small.log_likelihood
