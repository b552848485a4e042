"""Likelihood of probabilistic PCA around a stationary point."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.gaussian import Moments, Spectrum, StationaryPoint
from sklearn_vae.gaussian.arrays import to_device_of
from sklearn_vae.plot.base import DIVERGING, Array, Display, check_methods, on_host
from sklearn_vae.validation import check_integer, check_real, is_integer, refuse_dask

# Number of contours, with equal area between neighbours of the same sign.
LEVELS = 16


@dataclass(eq=False, repr=False)
class LikelihoodSurfaceDisplay(Display):
    """Log-likelihood gained by moving one column of a stationary point W.

    The column moves in the plane of two eigenvectors of the covariance of the data. The point is
    a dot where nothing in that plane raises the likelihood, a cross where something does, and a
    star where it keeps one of the two eigenvectors: then `kind` is None.

    Parameters
    ----------
    surface : ndarray of shape (n_a, n_b)
        Nats per sample, 0 at the point.
    a, b : ndarray of shape (n_a,) and (n_b,)
        Distances along the first and the second eigenvector, in the units of the data.
    point : StationaryPoint
    column : int
        Index of the column that moved.
    directions : (int, int)
        Indices of the eigenvectors, 0 for the leading one; the picture counts them from 1.

    Attributes
    ----------
    contours_ : matplotlib QuadContourSet
    colorbar_ : matplotlib Colorbar

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), figure 1.
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
        """Set the last column of a fitted PPCA to zero, move it, and draw the likelihood.

        The other columns keep the leading eigenvectors, as far as their eigenvalues exceed the
        noise variance.

        Parameters
        ----------
        estimator : PPCA or the like
            Gives k and, unless that is set, the noise variance.
        X : array-like of shape (n_samples, n_features), default=None
            Samples whose likelihood is drawn. None: those of the fit, by `moments_` of the
            estimator.
        noise_variance : float, default=None
            None: that of the estimator.
        directions, radius, n_grid
            As in `from_results`.
        ax : matplotlib Axes, default=None
        **options
            Options of matplotlib's `contourf`.
        """
        check_methods(estimator, cls.__name__, "fit")
        needed = ["n_components_", "noise_variance_"] + ["moments_"] * (X is None)
        missing = [name for name in needed if not hasattr(estimator, name)]
        if missing:
            hint = " Give it X." if missing == ["moments_"] else ""
            raise TypeError(
                f"{cls.__name__} needs a fitted PPCA, and {type(estimator).__name__} has no "
                f"{' and no '.join(missing)}.{hint}"
            )
        refuse_dask(cls.__name__, X)
        moments = estimator.moments_ if X is None else Moments.of(on_host(X))
        spectrum = Spectrum.from_moments(moments)
        k = int(estimator.n_components_)
        if k < 1:
            raise ValueError(f"{cls.__name__} moves a column of W, and n_components_ is {k}.")
        sigma2 = estimator.noise_variance_ if noise_variance is None else noise_variance
        above = int(np.sum(on_host(spectrum.eigenvalues) > float(sigma2)))
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
        """Move a column of a stationary point, and draw the likelihood.

        Parameters
        ----------
        point : StationaryPoint
        column : int, default=None
            The column of W that is moved; None: the last.
        directions : (int, int), default=None
            Indices of two eigenvectors; None: the two leading ones that the point does not keep.
        radius : float, default=None
            Distance that the column moves to each side, in the units of the data. None: 1.3 times
            the root of the larger eigenvalue, which leaves no maximum outside.
        n_grid : int, default=101
            Points on each side.
        ax : matplotlib Axes, default=None
        **options
            Options of matplotlib's `contourf`.
        """
        d = point.spectrum.n_features
        if directions is None:
            free = [j for j in range(d) if j not in point.kept]
            if len(free) < 2:
                raise ValueError(
                    f"{cls.__name__} needs two eigenvectors that the point does not keep, and it "
                    f"keeps {len(point.kept)} of {d}. Set directions, or keep fewer."
                )
            directions = (free[0], free[1])
        check_integer("n_grid", n_grid, at_least=3)
        column = point.n_components - 1 if column is None else column
        if not (is_integer(column) and 0 <= column < point.n_components):
            raise ValueError(f"column must be from 0 to {point.n_components - 1}, got {column!r}.")
        p, q = directions
        if not (p != q and 0 <= p < d and 0 <= q < d):
            raise ValueError(f"directions must be two indices from 0 to {d - 1}, got {directions}.")
        values = on_host(point.spectrum.eigenvalues)
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
        """ "minimum", "saddle" or "maximum" in the plane; None if it keeps an eigenvector of it."""
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
        where = (self.a, self.b, values, levels)
        self.contours_ = ax.contourf(*where, **{"colors": colors, **options})
        ax.contour(*where, colors="k", linewidths=0.3, linestyles="solid")
        marker = {"maximum": "o", None: "*"}.get(self.kind, "X")
        style = {"color": "black", "markeredgecolor": "white", "markersize": 8, "linestyle": ""}
        ax.plot(0.0, 0.0, marker, **style)
        p, q = self.directions
        lambdas = on_host(self.point.spectrum.eigenvalues)
        ax.set(
            xlabel=rf"moved along $u_{{{p + 1}}}$  ($\lambda_{{{p + 1}}}$ = {lambdas[p]:.3g})",
            ylabel=rf"moved along $u_{{{q + 1}}}$  ($\lambda_{{{q + 1}}}$ = {lambdas[q]:.3g})",
            box_aspect=1,
        )
        kind = "" if self.kind is None else f": a {self.kind} in this plane"
        ax.set_title(rf"$\sigma^2$ = {self.point.noise_variance:.4g}{kind}", fontsize="medium")
        beside = ax.inset_axes((1.04, 0.0, 0.05, 1.0))  # as high as the axes, in any figure
        self.colorbar_ = ax.figure.colorbar(self.contours_, cax=beside, spacing="uniform")
        zero, every = int(np.argmin(np.abs(levels))), max(1, len(levels) // 7)
        ticks = levels[zero % every :: every]
        labels = [f"{tick:.3g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
        self.colorbar_.set_ticks(ticks, labels=labels)
        self.colorbar_.set_label("log-likelihood gained (nats per sample)")


def _levels(surface: Array) -> tuple[Array, Array]:
    """Levels of contours, 0 among them, and places of the bands between them in a map of colours.

    Levels are quantiles of each sign: the surface may be a steep hole in a plain, or a plain with
    low hills.
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
    """Evenly spaced shades for the values, from pale to full."""
    return (np.arange(len(values)) + 0.5) / max(len(values), 1)


def _surface(
    point: StationaryPoint, column: int, directions: tuple[int, int], grid: Array
) -> Array:
    """Log-likelihood gained at each point of the grid.

    Columns that neither move nor keep one of the two eigenvectors add the same everywhere. They
    are left out, so that the cost does not depend on k.
    """
    kept = [j for i, j in enumerate(point.kept) if i == column or j in directions]
    moves_zero = column >= len(point.kept)
    small = StationaryPoint(
        point.spectrum, kept, len(kept) + moves_zero, noise_variance=point.noise_variance
    )
    own = len(kept) if moves_zero else kept.index(point.kept[column])
    at = to_device_of(point.spectrum.eigenvalues, grid)
    return on_host(small.surface(own, directions, at, at)) - small.log_likelihood
