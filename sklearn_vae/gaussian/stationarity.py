"""Certificate of an iterative fit: how far it may be from the maximum of its objective."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn_vae.gaussian.notebook_text import NotebookText


@dataclass(frozen=True)
class Stationarity(NotebookText):
    """Distance of an iterative fit from a maximum of its objective.

    Parameters
    ----------
    remaining_gain : float
        Nats per sample by which the objective can still rise. It is exact if `is_exact`, and
        otherwise a prediction from the derivatives or the progress at the last iteration.
    gradient_norm : float
        Norm of the gradient of the objective in nats per sample, with respect to the parameters
        in the units that the estimator documents.
    converged : bool
        Whether the fit ended by its own criterion. If not, a ConvergenceWarning was raised.
    is_exact : bool
        Whether the maximum is known in closed form.
    objective : str
        Name of the objective, "ELBO" or "log-likelihood".

    See Also
    --------
    Certificate : Bounds on the distance of a fit in closed form from the exact solution.

    Examples
    --------
    >>> from sklearn_vae import Stationarity
    >>> print(Stationarity(0.16, 0.3, converged=False, is_exact=True, objective="ELBO"))
    Not converged: the ELBO is 0.16 nats per sample below its maximum (gradient norm 0.3).
    """

    remaining_gain: float
    gradient_norm: float
    converged: bool
    is_exact: bool
    objective: str

    def __str__(self) -> str:
        state = "Converged" if self.converged else "Not converged"
        gain = f"{self.remaining_gain:.2g} nats per sample"
        if self.is_exact:
            distance = f"is {gain} below its maximum"
        else:
            distance = f"can rise by about {gain} to the nearest maximum"
        return f"{state}: the {self.objective} {distance} (gradient norm {self.gradient_norm:.2g})."
