"""The ELBO of BernoulliPPCA, which the paper calls intractable, is exact and fast to maximize.

Lucas et al. (2019, appendix C.3) estimate E_q log p(x|z) of Bernoulli pPCA from draws. Here it is a
sum of one-dimensional integrals. The script has three parts:

- E softplus(a) for a ~ N(m, s^2) by a mixture of 16 normals, compared with fine sums and with
  Gauss-Hermite quadrature with 16 nodes. Claim: the mixture is exact to 1e-10 for every s, and
  Gauss-Hermite is not.
- The time of the ELBO and its gradient for a linear encoder, with tables, with the mixture for
  every entry, and with one draw per sample in torch. Claims: tables agree with the mixture to 1e-9
  nats, take less than a third of its time, and less than 4 times that of the draw.
- Fits with "linear" and "per_sample" inference. Claims: the ELBO of the second is higher; both are
  below the estimated log-likelihood and equal to their sum of entropies.

The data are scikit-learn's digits, or the images of `--data` with 256 levels. Pixels of at least
half the range count as 1.
"""

import time

import numpy as np
import torch
from common import Verdict, load_rows, paired_times, parse_arguments
from scipy.special import expit
from sklearn.datasets import load_digits

from sklearn_vae import BernoulliPPCA
from sklearn_vae.gaussian import softplus
from sklearn_vae.gaussian.bernoulli_elbo import BernoulliParameters, LinearBernoulliElbo

OPTIONS = {
    "components": {"type": int, "default": 8, "help": "number of components of the fits"},
    "rows": {"type": int, "default": 2000, "help": "number of samples of the fits, with --data"},
}


def by_fine_sum(m, s):
    """Compute E softplus, E sigmoid and E sigmoid' to 1e-13 by the trapezoidal rule."""
    h = min(0.2, 0.4 / s)
    t = h * np.arange(-int(9 / h), int(9 / h) + 1)
    a = m + s * t
    p = expit(a)
    weights = h * np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi)
    return np.stack([np.logaddexp(0, a), p, p * expit(-a)]) @ weights


def accuracy(verdict):
    """Print the largest errors for each standard deviation."""
    t, w = np.polynomial.hermite_e.hermegauss(16)
    w = w / w.sum()
    means = np.concatenate([np.linspace(-12, 12, 97), [-1e4, -100, 100, 1e4]])
    print("error of E softplus   mixture of 16, and its derivatives      table   Gauss-Hermite, 16")
    worst, others = 0.0, 0.0
    for s in (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0, 1000.0):
        exact = np.stack([by_fine_sum(m, s) for m in means], axis=1)
        mixture = np.stack(softplus.expected_softplus(means, s**2))
        errors = np.abs(mixture - exact).max(axis=1)
        many = np.tile(np.linspace(-12, 12, 97), 100)[None]
        table = softplus.expected_softplus_of_features(many, np.array([s**2]))[0][0, :97]
        hermite = np.logaddexp(0, means[:, None] + s * t) @ w
        hermite_error = np.abs(hermite - exact[0]).max()
        table_error = np.abs(table - exact[0, :97]).max()
        print(
            f"  s = {s:<7g} {errors[0]:18.1e} {errors[1]:9.1e} {errors[2]:9.1e} "
            f"{table_error:12.1e} {hermite_error:14.1e}"
        )
        worst, others = max(worst, *errors, table_error), max(others, hermite_error)
    verdict.claim(f"exact to 1e-10 for every s ({worst:.1e})", worst < 1e-10)
    verdict.claim(f"Gauss-Hermite is not ({others:.1e})", others > 1e-3)


def one_draw(X, p, seed=0):
    """Compute the ELBO and its gradient from one draw per sample with autograd."""
    torch.manual_seed(seed)
    W, mu, V, log_D = (torch.tensor(a, requires_grad=True) for a in (*p[:3], np.log(p.D)))
    M = (X - X.mean(0)) @ V.T
    Z = M + torch.exp(0.5 * log_D) * torch.randn_like(M)
    logits = torch.addmm(mu, Z, W.T)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, X, reduction="sum")
    kl = 0.5 * (M.square().sum() + len(X) * (log_D.exp() - 1 - log_D).sum())
    value = -(loss + kl) / len(X)
    value.backward()
    return value.item()


def evaluation(X, k, repeats, verdict):
    """Time the ELBO and its gradient."""
    rng = np.random.default_rng(0)
    n, d = X.shape
    W, V = rng.normal(size=(d, k)), 0.1 * rng.normal(size=(k, d))
    p = BernoulliParameters(W, rng.normal(size=d), V, rng.uniform(0.1, 1.0, k))
    bound, rows = LinearBernoulliElbo(np.ascontiguousarray(X.T)), torch.from_numpy(X)

    def directly():
        cost, softplus._TABLE_COST = softplus._TABLE_COST, np.inf
        try:
            return bound.value(p)
        finally:
            softplus._TABLE_COST = cost

    print(f"\none evaluation, {n} x {d}, k={k}: seconds")
    apart = abs(bound.value(p) - directly())
    draws = np.std([one_draw(rows, p, seed) for seed in range(10)])
    ours, mixture, ratio = paired_times(lambda: bound.value(p), directly, repeats)
    _, draw, against_draw = paired_times(lambda: bound.value(p), lambda: one_draw(rows, p), repeats)
    print(f"  tables {ours:.3f}, mixture {mixture:.3f}, one draw in torch {draw:.3f}")
    print(f"  one draw has a standard deviation of {draws:.3f} nats per sample")
    verdict.claim(f"tables and mixture differ by {apart:.1e} nats per sample", apart < 1e-9)
    verdict.claim(f"tables take {ratio:.2f} of the mixture's time", ratio < 1 / 3, timing=True)
    verdict.claim(
        f"tables take {against_draw:.2f} of the draw's time", against_draw < 4, timing=True
    )


def fits(X, k, tol, verdict):
    """Fit the same samples with both kinds of inference."""
    print(f"\nfits, {X.shape[0]} x {X.shape[1]}, k={k}, tol={tol}: nats per sample")
    print("              seconds  iterations       ELBO  log-likelihood       gap  entropies")
    models, tolerance = {}, 1e-3 if verdict.scale == "full" else 1e-2
    for inference in ("linear", "per_sample"):
        start = time.perf_counter()
        model = BernoulliPPCA(k, inference=inference, tol=tol, random_state=0).fit(X)
        took = time.perf_counter() - start
        likelihood = model.log_likelihood(X, n_samples=300).mean()
        gap = likelihood - model.elbo_
        print(
            f"  {inference:11s} {took:8.1f} {model.n_iter_:11d} {model.elbo_:10.4f} "
            f"{likelihood:15.4f} {gap:9.4f} {model.entropy_bound_:10.4f}",
            flush=True,
        )
        models[inference] = model
        verdict.claim(f"{inference}: the ELBO is below the estimated log-likelihood", gap > 0)
        apart = abs(model.entropy_bound_ - model.elbo_)
        verdict.claim(f"{inference}: ELBO and entropies differ by {apart:.1e}", apart < tolerance)
    linear, free = models.values()
    other = BernoulliPPCA(k, inference="per_sample")
    other.__dict__.update({**vars(linear), "inference": "per_sample"})
    del other.encoder_weights_, other.encoder_variance_
    gap = other.score(X) - linear.elbo_
    print(f"  amortization gap of the linear fit: {gap:.4f} nats per sample")
    verdict.claim("per-sample inference has the higher ELBO", free.elbo_ > linear.elbo_)
    verdict.claim("the amortization gap is positive", gap > 0)


def main():
    """Run the three parts."""
    arguments = parse_arguments(__doc__, **OPTIONS)
    verdict, full = Verdict(arguments.scale), arguments.scale == "full"
    accuracy(verdict)
    if arguments.data:
        X = (load_rows(arguments.data) >= 127.5).astype(float)
        few = X[: arguments.rows]
    else:
        X = few = (load_digits().data >= 8).astype(float)
        X = np.tile(X, (20 if full else 2, 1))
    evaluation(X, 20 if full else 4, arguments.repeats, verdict)
    if full:
        fits(few, arguments.components, 1e-6, verdict)
    else:
        fits(few[:400], min(arguments.components, 3), 1e-4, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
