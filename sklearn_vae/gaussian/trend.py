"""Trend of a bound at the end of training, and the rise that more steps would bring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.gaussian.arrays import Array

# Minimum number of steps from which a slope is estimated, and shares of the steps at the end and
# about the middle at which it is.
MIN_STEPS = 10
LAST_SHARE = 0.2
MIDDLE = (0.3, 0.6)

# A slope is above 0 if it exceeds this multiple of its standard error. The slope of the middle must
# do so, too, to be used in the extrapolation.
SIGNIFICANT = 2.0

# Range of the power p by which the slope falls, as t^-p, over the steps t.
POWERS = (0.0, 4.0)


@dataclass(frozen=True)
class Trend:
    """Trend of a bound at the end of training, in nats per sample.

    Attributes
    ----------
    n_steps : int
        Number of steps.
    slope, error : float
        Rise of the bound per step over the last fifth of the steps, and its standard error. Over
        the last half if the slope of the last fifth is not significant. NaN if there are too few
        steps.
    noise : float
        Standard deviation of the bound about this line.
    expected : float
        Expected rise of the bound if the number of steps is doubled. The slope is extrapolated as
        a power of the number of steps.
    uncertainty : float
        Standard error of `expected` that follows from that of the slope.
    fall : float
        Highest median of a tenth of the steps minus that of the last tenth.
    """

    n_steps: int
    slope: float
    error: float
    noise: float
    expected: float
    uncertainty: float
    fall: float

    @property
    def is_known(self) -> bool:
        """Whether there are enough steps."""
        return math.isfinite(self.slope)

    @property
    def rises(self) -> bool:
        """Whether the slope is above 0."""
        return self.is_known and self.slope > SIGNIFICANT * self.error

    @property
    def possible(self) -> float:
        """Largest plausible rise if the number of steps is doubled."""
        return max(0.0, self.expected) + SIGNIFICANT * self.uncertainty


def trend_of(history: Any) -> Trend:
    """Compute the trend of a bound from its values at consecutive steps."""
    values = np.asarray(history, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n < MIN_STEPS:
        return Trend(n, *6 * (math.nan,))
    width = max(MIN_STEPS // 2, round(LAST_SHARE * n))
    slope, error, noise = _line(values[-width:])
    if slope <= SIGNIFICANT * error:
        width = n // 2  # more steps show a slope that is small compared with the noise
        slope, error, noise = _line(values[-width:])
    middle = values[int(MIDDLE[0] * n) : int(MIDDLE[1] * n)]
    earlier, earlier_error = _line(middle)[:2] if len(middle) > 2 else (math.nan, math.nan)
    power = 1.0  # the gain of each doubling is the same
    rises = slope > SIGNIFICANT * error
    if rises and earlier > SIGNIFICANT * earlier_error:
        ratio = (1.0 - 0.5 * width / n) / (0.5 * sum(MIDDLE))
        power = float(np.clip(math.log(earlier / slope) / math.log(ratio), *POWERS))
    elif rises and math.isfinite(earlier):  # training gains speed
        power = POWERS[0]
    # The slope is that of the middle of its window.
    factor = n * (1.0 - 0.5 * width / n) ** power * _integral(power)
    tenths = np.array([np.median(part) for part in np.array_split(values, MIN_STEPS)])
    fall = float(tenths.max() - tenths[-1])
    return Trend(n, slope, error, noise, slope * factor, error * factor, fall)


def _integral(power: float) -> float:
    """Integrate t^-power from 1 to 2."""
    if abs(power - 1.0) < 1e-9:
        return math.log(2.0)
    return (2.0 ** (1.0 - power) - 1.0) / (1.0 - power)


def _line(values: Array) -> tuple[float, float, float]:
    """Fit a line; return its slope, the standard error, and the deviation of the values."""
    m = len(values)
    t = np.arange(m) - 0.5 * (m - 1)
    squares = float(t @ t)
    slope = float(t @ values) / squares
    residuals = values - values.mean() - slope * t
    noise = math.sqrt(float(residuals @ residuals) / max(m - 2, 1))
    # Values of neighboring steps may depend on each other.
    lag = float(residuals[1:] @ residuals[:-1]) / max(float(residuals @ residuals), 1e-300)
    inflation = math.sqrt((1.0 + max(lag, 0.0)) / (1.0 - min(max(lag, 0.0), 0.9)))
    return slope, inflation * noise / math.sqrt(squares), noise
