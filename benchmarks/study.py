"""Shared code of the scripts that reproduce papers: stored runs, claims, tables and pictures."""

import csv
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import sklearn
from common import Verdict, parse_arguments
from joblib.externals.loky import get_reusable_executor

from sklearn_vae.datasets import load_digit_images

# EX_TEMPFAIL: the same command resumes the study.
NOT_DONE = 75

OPTIONS = {
    "data": {"type": Path, "nargs": "+", "help": ".npz files with images or samples in X"},
    "device": {"default": "auto", "help": "device of the training; auto: a GPU if there is one"},
    "output": {"type": Path, "help": "folder of the runs, tables and the picture"},
    "minutes": {
        "type": float,
        "help": f"stop after this time with status {NOT_DONE}; the same command resumes",
    },
    "jobs": {"type": int, "default": 1, "help": "number of parallel runs"},
}


class Study:
    """Runs of one script, each of which is stored when it is done and not repeated.

    A run is a function of arrays and settings. Its record is a JSON file, identified by the name of
    the function, the settings and a checksum of the arrays. The script can be killed at any time,
    and the same command resumes. Changes of the code are not detected: remove the folder then.
    Within a run, the `checkpoint` folder of the estimator has the same purpose.

    Parameters
    ----------
    doc : str
        Docstring of the script.
    **options : dict
        Further command line options.

    Attributes
    ----------
    arguments : Namespace
        Command line arguments.
    name : str
        Name of the script.
    folder : Path
        --output, or by default benchmark_results/NAME/SCALE. It is temporary at smoke scale.
    machines : dict
        Descriptions of the machines of the runs, in order, as keys.
    """

    def __init__(self, doc, **options):
        self.arguments = parse_arguments(doc, ("cpu", "smoke", "full"), **OPTIONS, **options)
        self.name = Path(sys.argv[0]).stem
        self.folder = self.arguments.output
        if self.folder is None and self.arguments.scale == "smoke":
            self._temporary = tempfile.TemporaryDirectory()
            self.folder = Path(self._temporary.name)
        elif self.folder is None:
            self.folder = Path("benchmark_results") / self.name / self.arguments.scale
        self.folder.mkdir(parents=True, exist_ok=True)
        self.machines = {}
        # joblib sets missing variables in its workers. torch takes the largest of them, and waiting
        # threads of OpenBLAS occupy the cores.
        if threads := os.environ.get("OMP_NUM_THREADS"):
            os.environ.setdefault("MKL_NUM_THREADS", threads)
            os.environ.setdefault("OPENBLAS_NUM_THREADS", threads)
        if self.arguments.minutes:
            signal.signal(signal.SIGALRM, self._leave)
            signal.setitimer(signal.ITIMER_REAL, 60.0 * self.arguments.minutes)

    def runs(self, function, settings, *arrays):
        """Return function(*arrays, device=, checkpoint=, **setting) for each setting.

        Settings and results are dicts that JSON can represent.
        """
        data = [_checksum(array) for array in arrays]
        paths = [self._path(function, each, data) for each in settings]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        if missing:
            print(f"{function.__name__}: {len(paths) - len(missing)} of {len(paths)} runs are done")
        start = time.perf_counter()
        run = joblib.delayed(functools.partial(_run, function, self.arguments.device, os.getpid()))
        parallel = joblib.Parallel(self.arguments.jobs, return_as="generator_unordered")
        for n, index in enumerate(parallel(run(i, paths[i], settings[i], arrays) for i in missing)):
            left = (time.perf_counter() - start) / (n + 1) * (len(missing) - n - 1) / 60.0
            record = json.loads(paths[index].read_text())
            each = settings[index].items()
            setting = ", ".join(
                f"{name}={value}" for name, value in each if not isinstance(value, dict)
            )
            print(
                f"  [{n + 1}/{len(missing)}] {record['seconds']:.0f} s, {left:.1f} min left: "
                f"{setting}",
                flush=True,
            )
        records = [json.loads(path.read_text()) for path in paths]
        self.machines |= dict.fromkeys(record["machine"] for record in records)
        return [record["result"] for record in records]

    def write(self, name, text):
        """Write a text file to the folder."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")

    def save(self, figure, name=None):
        """Save a picture to the folder."""
        path = self.folder / (name or f"{self.name}.png")
        if self.arguments.scale == "smoke":
            figure.set_layout_engine("none")  # to arrange takes longer than to draw
        figure.savefig(path, dpi=110)
        print(f"written: {path}")

    def _path(self, function, settings, data):
        text = json.dumps([function.__name__, settings, data], sort_keys=True)
        key = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        return self.folder / "runs" / f"{function.__name__}-{key}.json"

    def _leave(self, *_):
        print("time is up; run the same command to resume", flush=True)
        if self.arguments.jobs == 1:
            sys.exit(NOT_DONE)
        get_reusable_executor().shutdown(kill_workers=True)
        os._exit(NOT_DONE)


def _run(function, device, owner, index, path, settings, arrays):
    """Do one run, store its record and remove its checkpoints."""
    if os.getpid() != owner:
        _end_with(owner)
    checkpoint = path.parents[1] / "checkpoints" / path.stem
    start = time.perf_counter()
    result = function(*arrays, device=device, checkpoint=checkpoint, **settings)
    record = {
        "settings": settings,
        "result": result,
        "seconds": time.perf_counter() - start,
        "machine": machine(device),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(record, default=_plain))
    os.replace(draft, path)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return index


@functools.cache
def _end_with(owner):
    """End this worker when the script has ended, because the next script repeats the run."""

    def watch():
        while os.getppid() == owner:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _plain(value):
    return value.tolist()  # NumPy arrays and scalars


def _checksum(array):
    array = np.ascontiguousarray(array)
    text = hashlib.blake2b(array.view(np.uint8).reshape(-1), digest_size=12).hexdigest()
    return [array.dtype.str, list(array.shape), text]


def machine(device):
    """Describe this machine."""
    import torch  # here, since it takes seconds and a study that is done needs none

    on_gpu = torch.cuda.is_available() and str(device) != "cpu"
    processor = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, CPU"
    return (
        f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    )


class Table:
    """Table that is written as CSV with all digits and as Markdown with six."""

    def __init__(self, *head):
        self.head, self.rows = head, []

    def add(self, *cells):
        """Add a row."""
        if len(cells) != len(self.head):
            raise ValueError(f"a row needs {len(self.head)} cells, got {len(cells)}.")
        self.rows.append(cells)

    def markdown(self):
        """Return the table as Markdown."""
        rows = [self.head, ["---"] * len(self.head), *([_short(c) for c in r] for r in self.rows)]
        escaped = ([str(cell).replace("|", r"\|") for cell in row] for row in rows)
        return "".join(f"| {' | '.join(row)} |\n" for row in escaped)

    def write_csv(self, path):
        """Write the table as a CSV file."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.head, *self.rows])


def _short(cell):
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


class Claims(Verdict):
    """Statements with the published value, our value and the verdict."""

    def __init__(self, scale):
        super().__init__(scale)
        self.table = Table("statement", "published", "ours", "verdict")

    def add(self, statement, published, ours, holds, *, decides=True, timing=False):
        """Add a statement, which can fail the script only if it `decides`."""
        self.table.add(statement, published, ours, "holds" if holds else "differs")
        if decides:
            self.claim(f"{statement}: {ours} (published: {published})", holds, timing=timing)
        else:
            print(f"  {'yes ' if holds else 'no  '}  {statement}: {ours} (published: {published})")


def write_report(study, claims, **tables):
    """Write NAME.md with the command, machines, claims and tables, and the tables as CSV files.

    Paths in the command are shortened to file names.
    """
    shortened = (re.sub(r"(^|=).*/(?=[^/])", r"\1", argument) for argument in sys.argv[1:])
    command = " ".join([f"python benchmarks/{study.name}.py", *shortened])
    machines = "; ".join(study.machines or [machine(study.arguments.device)])
    lines = [f"# {study.name}, scale {study.arguments.scale}\n", f"`{command}`, on"]
    lines += [f"{machines}.\n", claims.table.markdown()]
    for name, table in {"claims": claims.table, **tables}.items():
        table.write_csv(study.folder / f"{study.name}_{name}.csv")
        if table is not claims.table:
            lines += [f"## {name.replace('_', ' ')}\n", table.markdown()]
    study.write(f"{study.name}.md", "\n".join(lines))


def figure(*args, **keywords):
    """Call `matplotlib.pyplot.subplots` without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(*args, layout="constrained", **keywords)


def load_images(paths=None):
    """Return images of shape (n_samples, channels * height * width) and (channels, height, width).

    The .npz files have X of shape (n, height, width) or (n, height, width, channels). By default
    the images are scikit-learn's digits, 8 x 8 with 17 levels instead of 256.
    """
    if not paths:
        digits = load_digit_images()
        return digits.data, digits.image_shape
    X = np.concatenate([np.load(path)["X"] for path in paths])
    X = X[:, None] if X.ndim == 3 else X.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(X.reshape(len(X), -1)), X.shape[1:]
