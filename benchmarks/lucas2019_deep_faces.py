"""Convolutional VAEs of faces: too much noise collapses the posterior, and all faces become one.

Tables 3 and 5 of Lucas et al. (2019): CelebA, 64 x 64 color pixels, 500 latent dimensions, sigma2
fixed or learned by gradient from many values, in the space of logits (table 3) and of pixels (table 5),
without annealing. `lucas2019_kl_annealing.py --networks conv` has the figures 9 to 13, with annealing. The claims are about the training images, in nats per image:

- A larger fixed sigma2 gives a smaller KL. The largest collapses more dimensions than the others.
- The largest sigma2 has the largest error, and is not the best after sigma2 is tuned.
- Learned sigma2 ends within a factor of 2 for all starts from which Adam can reach it.
- The published rows of table 5 with fixed sigma2 are copies of table 3, and higher than any density
  of pixels with that noise can be.

With other faces only the trends can be compared. Beyond the paper, the script runs closed-form
sigma2, and pPCA with the same number of components at the same sigma2. (In training, closed-form
sigma2 stays at or below that of pPCA, which is nearly 0 with 500 components of a few hundred images.)

    python benchmarks/lucas2019_deep_faces.py --scale full --device cuda [--data FOLDER]  CelebA
    python benchmarks/lucas2019_deep_faces.py --data FACES.npz [--scale cpu] any aligned faces
    python benchmarks/lucas2019_deep_faces.py --scale smoke                  patches of two photographs

CelebA is read from FOLDER or from the folder of `fetch_celeba64`. The networks are "conv", those of
Higgins et al., with half the channels at cpu scale. The paper does not give alpha of the logits (here
0.05, as in Papamakarios et al. for color images), the batch size (128; cpu: 16) and the epochs on
CelebA (here 100). The data are centered and scaled by one number for the networks, and sigma2 is in
units of the space. The data are in memory four times in float32, 32 GB per job for the 162770 images
of CelebA.
"""

import math
from dataclasses import dataclass

import numpy as np
from lucas2019_deep import (
    DIVERGED,
    NEARLY,
    NOISE_VARIANCES,
    RATES,
    comparison,
    fit,
    held,
    in_front,
    learned,
    measures,
    pick,
    published,
    references,
    searched,
)
from lucas2019_faces import ALPHA, conv, decoded, load_faces
from lucas2019_faces_picture import (
    Decoded,
    chosen_of,
    draw_planes,
    draw_reconstructions,
    draw_tables,
)
from scipy.stats import spearmanr
from study import Claims, Study, Table, write_report

from sklearn_vae import DensityPipeline

MEASURED = (
    *("elbo", "tuned_elbo", "tuned_noise_variance", "collapsed_percent", "kl"),
    "noise_variance",
)
FACE = (3, 64, 64)
# Images for pPCA in float64. They outnumber the 12288 dimensions, so more change little.
MOST_FOR_PPCA = 20000


@dataclass(frozen=True)
class Scale:
    """Settings of a scale; `channels` None are those of "conv", from Higgins et al."""

    n_images: int | None
    channels: tuple | None
    dense: int
    n_components: int
    epochs: int
    batch_size: int
    rates: tuple
    trials: int
    logit: dict
    unit: dict


SCALES = {
    "smoke": Scale(
        112,
        (8, 16),
        64,
        32,
        24,
        16,
        (4e-3,),
        1,
        {"fixed": (30.0, 1.0, 0.01), "learned": (1.0, 0.1), "closed form": (1.0,)},
        {"fixed": (1.0, 0.01), "learned": (0.1,), "closed form": (0.1,)},
    ),
    "cpu": Scale(
        600,
        (16, 16, 32, 32),
        256,
        500,
        40,
        16,
        (3e-3,),
        1,
        {
            "fixed": (30.0, 3.0, 1.0, 0.3, 0.1, 0.01),
            "learned": (30.0, 1.0, 0.1, 0.01),
            "closed form": (1.0,),
        },
        {"fixed": (1.0, 0.1, 0.01, 0.001), "learned": (1.0, 0.01), "closed form": (1.0,)},
    ),
    "full": Scale(
        None,
        None,
        256,
        500,
        100,
        128,
        RATES,
        5,
        *2
        * (
            {
                "fixed": NOISE_VARIANCES,
                "learned": NOISE_VARIANCES,
                "closed form": (30.0, 1.0, 0.001),
            },
        ),
    ),
}


def train_on_images(X, *, device, checkpoint, channels, dense, **setting):
    """Train a setting; return measures, reconstructions, and the plane through three images."""
    try:
        model, rows = fit(
            X, device=device, checkpoint=checkpoint, **conv(channels, dense), **setting
        )
    except FloatingPointError:
        return DIVERGED
    return {**measures(model, rows), **decoded(model, rows)}


def settings_of(scale, shape, space):
    """Return the settings of the runs by (kind, sigma2)."""
    common = {
        "channels": scale.channels,
        "dense": scale.dense,
        "image_shape": list(shape),
        "n_components": scale.n_components,
        "max_epochs": scale.epochs,
        "batch_size": scale.batch_size,
        "space": space,
        "alpha": ALPHA,
    }
    ways = {
        "fixed": held,
        "learned": learned,
        "closed form": lambda start: learned(start, "closed_form"),
    }
    return {
        (kind, noise): {**common, **ways[kind](noise)}
        for kind, noises in getattr(scale, space).items()
        for noise in noises
    }


def fixed_claims(claims, rows, number):
    """Check the claims about fixed sigma2."""
    names = ("kl", "tuned_elbo", "tuned_noise_variance", "nearly_collapsed_percent")
    noises, kl, tuned, error, collapsed = pick(rows, "fixed", *names)
    paper = [row for (kind, _), row in published(3).items() if kind == "fixed"]
    known = number == 3

    def of_paper(name, form):
        return form(np.array([row[name] for row in paper])) if known else "none: see below"

    order = spearmanr(noises, kl).statistic
    claims.add(
        f"table {number}: the KL decreases with fixed sigma2, rank correlation",
        of_paper("kl_mean", lambda v: f"{spearmanr(NOISE_VARIANCES, v).statistic:.2f}"),
        f"{order:.2f}",
        order < -0.9,
    )
    claims.add(
        f"table {number}: dimensions collapsed at {NEARLY:g} nats (published: at 0.01), with the "
        "largest sigma2, and the maximum over the others",
        of_paper("collapsed_percent", lambda v: f"{v[0]:.0f} %, {v[1:].max():.0f} %"),
        f"{collapsed[0]:.0f} %, {collapsed[1:].max():.0f} %",
        collapsed[0] > collapsed[1:].max(),
        decides=known,
    )
    claims.add(
        f"table {number}: the best tuned bound is that of sigma2 =",
        of_paper("tuned_elbo_mean", lambda v: f"{NOISE_VARIANCES[v.argmax()]:g}"),
        f"{noises[tuned.argmax()]:g}, of {', '.join(f'{noise:g}' for noise in noises)}",
        noises[0] > noises[tuned.argmax()],
    )
    claims.add(
        f"table {number}: mean squared error (tuned sigma2) with the largest sigma2, and the "
        "maximum over the others",
        of_paper("tuned_noise_variance", lambda v: f"{v[0]:.3f}, {v[1:].max():.3f}"),
        f"{error[0]:.4f}, {error[1:].max():.4f}",
        error[0] > error[1:].max(),
    )


def learned_claims(claims, rows, number, n_steps):
    """Check the claims about learned sigma2."""
    paper = published(number)
    names = ("noise_variance", "tuned_noise_variance", "elbo", "rate")
    starts, noise, tuned, elbo, rates = pick(rows, "learned", *names)
    reach = np.abs(np.log(starts / tuned)) < 0.5 * rates * n_steps
    theirs = np.array(
        [row["final_noise_variance"] for (kind, _), row in paper.items() if kind == "learned"]
    )
    if reach.sum() > 1:
        claims.add(
            f"table {number}: range of the final sigma2 for starts within half of Adam's reach",
            f"{theirs.min():.3f}, {theirs.max():.3f}, all starts",
            f"{noise[reach].min():.4f}, {noise[reach].max():.4f}, {reach.sum()} of {len(starts)}",
            noise[reach].max() < 2.0 * noise[reach].min(),
        )
    (_, fixed), (_, closed) = (pick(rows, kind, "elbo") for kind in ("fixed", "closed form"))
    best = {
        kind: max(row["elbo_mean"] for (of, _), row in paper.items() if of == kind)
        for kind in ("learned", "fixed")
    }
    claims.add(
        f"table {number}: the best bound with sigma2 learned by gradient, and fixed",
        f"{best['learned']:.0f}, {best['fixed']:.0f}" if number == 3 else f"{best['learned']:.0f}",
        f"{elbo.max():.0f}, {fixed.max():.0f}",
        elbo.max() > fixed.max(),
        decides=False,
    )
    claims.add(
        f"table {number}: the best bound with closed-form sigma2, and fixed",
        "not in the paper",
        f"{closed.max():.0f}, {fixed.max():.0f}",
        closed.max() > fixed.max(),
        decides=False,
    )


def paper_claims(claims, log_det, what, shape):
    """Check the claims about the published numbers."""
    three, five = published(3), published(5)
    held_rows = [key for key in three if key[0] == "fixed"]
    same = [key for key in held_rows if three[key] == five[key]]
    claims.add(
        "the published rows of table 5 with fixed sigma2 are copies of table 3, a mistake",
        f"{len(same)} of {len(held_rows)} rows are the same in all columns",
        "not shown for table 5",
        len(same) == len(held_rows),
        decides=False,
    )
    d = math.prod(FACE)
    most = {
        noise: -0.5 * d * math.log(2.0 * math.pi * noise) - d * math.log(256.0)
        for _, noise in held_rows
    }
    above = [noise for noise in most if five["fixed", noise]["elbo_mean"] > most[noise]]
    claims.add(
        "they cannot belong to table 5: no density of pixels with this noise is that high, at "
        + ", ".join(f"{noise:g}" for noise in above),
        f"{five['fixed', 30.0]['elbo_mean']:.0f} at sigma2 = 30",
        f"at most {most[30.0]:.0f}",
        30.0 in above,
        decides=False,
    )
    if shape != FACE:
        return
    implied = []
    for (kind, noise), row in three.items():
        sigma2 = noise if kind == "fixed" else row["final_noise_variance"]
        misfit = np.log(2.0 * np.pi * sigma2) + row["tuned_noise_variance"] / sigma2
        implied.append(row["elbo_mean"] + 0.5 * d * misfit + row["kl_mean"])
    claims.add(
        "log-determinant of the logits implied by the rows of table 3 (nats), and ours",
        f"{np.median(implied):.0f}, the median of {len(implied)} rows",
        f"{log_det:.0f}, {what}, alpha = {ALPHA:g}",
        abs(log_det / np.median(implied) - 1.0) < 0.05,
        decides=False,
    )


def main():
    """Run both tables, check the claims and draw the pictures."""
    study = Study(__doc__)
    scale = SCALES[study.arguments.scale]
    X, shape, what = load_faces(study.arguments, scale.n_images)
    claims, tables, found, references_of = Claims(study.arguments.scale), {}, {}, {}
    n_steps = scale.epochs * -(-len(X) // scale.batch_size)
    for space, number in (("logit", 3), ("unit", 5)):
        settings = settings_of(scale, shape, space)
        trials = searched(
            study, train_on_images, list(settings.values()), scale.rates, scale.trials, X
        )
        rows = found[space] = [(*key, t) for key, t in zip(settings, trials, strict=True)]
        noises = getattr(scale, space)["fixed"]
        cases = [(0, None), (scale.n_components, None)]
        cases += [(scale.n_components, noise) for noise in noises]
        # One run each, because a decomposition of 12288 dimensions takes minutes.
        runs = [{"space": space, "alpha": ALPHA, "cases": [case]} for case in cases]
        of_ppca = study.runs(references, runs, X[:MOST_FOR_PPCA])
        references_of[space] = {case: of for case, (of,) in zip(cases, of_ppca, strict=True)}
        tables[f"table_{number}"] = comparison(rows, paper_of(number, shape), MEASURED)
        tables[f"pPCA_beside_table_{number}"] = ppca_table(references_of[space])
        fixed_claims(claims, rows, number)
        learned_claims(claims, rows, number, n_steps)
    maps = DensityPipeline(in_front("logit", alpha=ALPHA)).fit(X[:MOST_FOR_PPCA])
    paper_claims(claims, float(maps.log_abs_det_jacobian(X[:MOST_FOR_PPCA]).mean()), what, shape)
    write_report(study, claims, **tables)
    told = f"{len(X)} {what}, {scale.epochs} epochs, {scale.n_components} latent dimensions"
    papers = {number: paper_of(number, shape) for number in (3, 5)}
    study.save(draw_tables(found, references_of, papers, told))
    images = {space: Decoded(chosen_of(rows), X, shape) for space, rows in found.items()}
    study.save(draw_reconstructions(images, told), f"{study.name}_reconstructions.png")
    study.save(draw_planes(images, told), f"{study.name}_planes.png")
    claims.exit()


def paper_of(number, shape):
    """Return the published rows to compare with: those of faces, and only learned in table 5."""
    rows = published(number) if shape == FACE else {}
    return {key: row for key, row in rows.items() if number == 3 or key[0] == "learned"}


def ppca_table(found):
    """Return a table of pPCA of the same data."""
    table = Table("k", "sigma2", "log-likelihood", "sigma2 at the end", "zero columns %", "KL")
    for (k, noise), of in found.items():
        measured = (of[n] for n in ("elbo", "noise_variance", "collapsed_percent", "kl"))
        table.add(k, "ML" if noise is None else f"{noise:g}", *measured)
    return table


if __name__ == "__main__":
    main()
