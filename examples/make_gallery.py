"""
The pictures of the README: what six examples draw, cut to the size of a page
=============================================================================

Runs the examples and takes the axes of one or two Displays from each, 640 pixels wide and in few
colours, so that letters are large and files small.

    python examples/make_gallery.py [--output FOLDER] [--small]
"""

import argparse
import io
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.transforms import Bbox
from PIL import Image

HERE = Path(__file__).parent
WIDTH, COLORS, MARGIN = 640, 96, 0.06  # pixels, in a file, inches

# What is shown of plot_NAME.py, by the names of its variables.
PICTURES = {
    "ppca_replaces_pca": lambda example: example["right"].axes,
    "stationary_points": lambda example: example["axes"][1:2],
    "deep_vae_digits": lambda example: example["left"].axes,
    "heteroscedastic_ring": lambda example: example["right"].axes,
    "grid_search_noise_variance": lambda example: example["figure"].axes,
    "missing_values": lambda example: example["axes"][:1],
}


def run(name, small):
    """The variables of an example after it has run; its own picture is thrown away."""
    script, argv = str(HERE / f"plot_{name}.py"), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [script, "--output", f"{folder}/{name}.png", *(["--small"] if small else [])]
        try:
            return runpy.run_path(script, run_name="__main__")
        finally:
            sys.argv = argv


def cut(figure, axes):
    """An image of some axes of a figure, with all that is written about them."""
    around = Bbox.union([ax.get_tightbbox() for ax in axes])
    inches = around.transformed(figure.dpi_scale_trans.inverted()).padded(MARGIN)
    file = io.BytesIO()
    figure.savefig(file, dpi=(WIDTH + 0.5) / inches.width, bbox_inches=inches)
    with Image.open(file) as image:
        image = image.convert("RGB").crop((0, 0, WIDTH, image.height))
    return image.quantize(COLORS, kmeans=8, dither=Image.Dither.NONE)


def main():
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "gallery", help="the folder")
    parser.add_argument("--small", action="store_true", help="passed to the examples: a trial")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, choose in PICTURES.items():
        example = run(name, arguments.small)
        path = arguments.output / f"{name}.png"
        cut(example["figure"], choose(example)).save(path, optimize=True)
        plt.close("all")
        print(f"-- {path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
