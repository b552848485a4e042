"""KL annealing of convolutional VAEs of faces: temporary relief at fixed sigma2, lasting if learned.

Figures 9 to 13 of Lucas et al. (2019), and figures 7 and 8 of its workshop version: bounds in training,
collapse against epsilon with sigma2 fixed and learned, each with and without KL annealing, and
reconstructions and latent planes of the annealed models. The claims are those of
`lucas2019_kl_annealing.py`; at smoke scale, where 40 steps are too few, they do not decide.

    python benchmarks/lucas2019_faces_annealing.py --scale full --device cuda [--data FOLDER]  CelebA
    python benchmarks/lucas2019_faces_annealing.py --data FACES.npz [--scale cpu] any aligned faces
    python benchmarks/lucas2019_faces_annealing.py --scale smoke                  patches of two photographs

Images, networks and space are those of `lucas2019_deep_faces.py`, with 500 latent dimensions.
"""

from lucas2019_faces import ALPHA, load_faces
from lucas2019_faces_picture import Decoded, draw_planes, draw_reconstructions
from lucas2019_kl_annealing import Scale, report
from study import Study

SCALES = {
    "smoke": Scale(
        64, {"channels": [8, 16], "dense": 32}, 16, 10, 16, (30.0,), (30.0,), (30.0,), 3e-3
    ),
    "cpu": Scale(
        400,
        {"channels": [16, 16, 32, 32], "dense": 256},
        500,
        50,
        16,
        (30.0, 3.0, 0.3),
        (30.0, 1.0),
        (30.0,),
        3e-3,
    ),
    "full": Scale(
        None,
        {"channels": None, "dense": 256},
        500,
        100,
        128,
        (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        (30.0, 10.0, 3.0),
    ),
}


def main():
    """Report on faces and draw what the annealed models decode."""
    study = Study(__doc__)
    scale = SCALES[study.arguments.scale]
    X, shape, _ = load_faces(study.arguments, scale.n_images)
    decides = study.arguments.scale != "smoke"
    runs, claims, title = report(
        study, scale, X, {"alpha": ALPHA}, decides, image_shape=list(shape)
    )
    annealed = {
        f"{noise:g}, {kind}": run.result for (kind, noise, with_it), run in runs.items() if with_it
    }
    images = {"logit": Decoded(annealed, X, shape)}
    study.save(draw_reconstructions(images, title), f"{study.name}_reconstructions.png")
    study.save(draw_planes(images, title), f"{study.name}_planes.png")
    claims.exit()


if __name__ == "__main__":
    main()
