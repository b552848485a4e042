"""The runs of a benchmark that reproduces a paper: one that was killed goes on."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SCRIPT = '''"""A script of three runs, of which the second waits for a file."""

import os, sys, time
import numpy as np
from study import Claims, Study, Table, write_report


def train(X, device, checkpoint, size):
    with open(WORK + "/runs_begun", "a") as file:
        file.write(f"{size}")
    while size == 2 and not os.path.exists(WORK + "/go_on"):
        time.sleep(0.01)
    return {"total": X.sum() * size, "parts": np.arange(size), "device": device}


WORK = sys.argv.pop()
study = Study(__doc__)
results = study.runs(train, [{"size": size} for size in (1, 2, 3)], np.ones(4))
claims = Claims(study.arguments.scale)
claims.add("a|b", 24.0, results[-1]["total"] + results[1]["total"] + results[0]["total"], True)
table = Table("size", "parts")
for result in results:
    table.add(result["total"] / 3, result["parts"])
write_report(study, claims, parts=table)
'''


def command_in(folder):
    """The command of the script, but for the folder, which it is given last."""
    script = folder / "three_runs.py"
    script.write_text(SCRIPT)
    return [sys.executable, script, "--output", folder / "out", "--device", "cpu"]


@pytest.fixture
def command(tmp_path):
    return command_in(tmp_path), tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a study that is done: not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    go_on(command_in(folder), folder)
    return folder


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}


def begun(folder):
    path = folder / "runs_begun"
    return path.read_text() if path.exists() else ""


def go_on(command, folder, *options):
    (folder / "go_on").touch()
    ran = subprocess.run(
        [*command, *options, folder],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("options", [(), pytest.param(("--jobs", "2"), marks=pytest.mark.slow)])
def test_a_killed_study_goes_on_with_the_runs_that_are_missing(command, options):
    command, folder = command
    killed = subprocess.Popen([*command, folder], env=environment())
    while begun(folder) != "12":
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    out = go_on(command, folder, *options)
    assert "1 of 3 runs are done" in out
    assert sorted(begun(folder)) == ["1", "2", "2", "3"]


@pytest.mark.skipif(sys.platform == "win32", reason="a killed parent leaves its pipes otherwise")
def test_workers_of_a_killed_study_end_with_it(command):
    command, folder = command
    options = ("--jobs", "2", folder)
    killed = subprocess.Popen([*command, *options], env=environment(), stdout=subprocess.PIPE)
    while "2" not in begun(folder):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    try:
        killed.communicate(timeout=30)  # until nobody has the pipe any more
    finally:
        (folder / "go_on").touch()


def test_after_its_minutes_a_study_leaves_with_a_status_of_its_own(command):
    command, folder = command
    ran = subprocess.run(
        [*command, "--minutes", "0.1", folder],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 75, ran.stderr
    assert "run the same command to resume" in ran.stdout


def test_what_a_study_writes(finished):
    folder, out = finished, finished / "out"
    lines = (out / "three_runs_claims.csv").read_text().splitlines()
    assert list(csv.reader(lines)) == [
        ["statement", "published", "ours", "verdict"],
        ["a|b", "24.0", "24.0", "holds"],
    ]
    text = (out / "three_runs.md").read_text()
    assert "three_runs.py --output out --device cpu`, on" in text
    assert str(folder.parent) not in text
    assert r"| a\|b | 24 | 24 | holds |" in text
    assert "| 1.33333 | [0] |" in text
    assert (out / "three_runs_parts.csv").read_text().splitlines()[1] == "1.3333333333333333,[0]"
    record = json.loads(next((out / "runs").glob("*.json")).read_text())
    assert record["result"]["device"] == "cpu"
    assert record["seconds"] > 0.0
    assert not (out / "checkpoints").exists()
    assert f"{record['machine']}.\n" in text


def test_a_finished_study_does_nothing_again_and_names_the_machines_of_its_runs(command, finished):
    command, folder = command
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    first, *_ = sorted((folder / "out" / "runs").glob("*.json"))
    record = json.loads(first.read_text())
    first.write_text(json.dumps({**record, "machine": "another one"}))
    assert "0 of 3" not in go_on(command, folder)
    assert sorted(begun(folder)) == ["1", "2", "3"]
    told = (folder / "out" / "three_runs.md").read_text().split("\n\n")[1]
    assert "another one" in told
    assert record["machine"] in told
