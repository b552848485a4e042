"""
Make the gallery of the README from seven examples
==================================================

Runs the examples and crops some axes of each figure. The images are 640 pixels wide, with few
colors, for large letters and small files.

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
WIDTH, COLORS, MARGIN = 640, 96, 0.06  # in pixels, per file, in inches

# Axes that are shown, given the variables of plot_NAME.py.
PICTURES = {
    "ppca_replaces_pca": lambda example: example["left"].axes,
    "stationary_points": lambda example: example["axes"][1:2],
    "deep_vae_digits": lambda example: example["left"].axes,
    "heteroscedastic_ring": lambda example: example["right"].axes,
    "grid_search_noise_variance": lambda example: example["figure"].axes,
    "missing_values": lambda example: example["axes"][:1],
    "diagnose_your_own_vae": lambda example: example["before"].axes,
}


def run(name, small):
    """Run an example, and return its variables."""
    script, argv = str(HERE / f"plot_{name}.py"), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, f"{name}.png")
        sys.argv = [script, "--output", str(picture), *(["--small"] if small else [])]
        try:
            variables = runpy.run_path(script, run_name="__main__")
        finally:
            sys.argv = argv
        if not (picture.is_file() and picture.stat().st_size):
            raise FileNotFoundError(f"{script} wrote no picture.")
        return variables


def crop(figure, axes):
    """Return an image of some axes of a figure with their labels."""
    box = Bbox.union([ax.get_tightbbox() for ax in axes])
    inches = box.transformed(figure.dpi_scale_trans.inverted()).padded(MARGIN)
    file = io.BytesIO()
    figure.savefig(file, dpi=(WIDTH + 0.5) / inches.width, bbox_inches=inches)
    with Image.open(file) as image:
        image = image.convert("RGB").crop((0, 0, WIDTH, image.height))
    return image.quantize(COLORS, kmeans=8, dither=Image.Dither.NONE)


def main():
    """Write all images."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "gallery", help="output folder")
    parser.add_argument("--small", action="store_true", help="run small versions of the examples")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, choose in PICTURES.items():
        example = run(name, arguments.small)
        path = arguments.output / f"{name}.png"
        crop(example["figure"], choose(example)).save(path, optimize=True)
        plt.close("all")
        print(f"-- {path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
