"""The runs of a benchmark that reproduces a paper: one that was killed goes on."""

import csv
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

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


def arguments_of(folder, *options):
    """Command line of the script, which takes the folder of its traces from the end."""
    script = folder / "three_runs.py"
    script.write_text(SCRIPT)
    paths = [script, "--output", folder / "out", "--device", "cpu", *options, folder]
    return [str(path) for path in paths]


def start(folder, *options, **keywords):
    """Start the script in a process of its own."""
    path = os.pathsep.join([str(BENCHMARKS), *sys.path])
    command = [sys.executable, *arguments_of(folder, *options)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **keywords)


def run(folder, *options):
    """Run the script in this process, with workers that find its modules."""
    if "--jobs" in options:
        get_reusable_executor().shutdown(wait=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setattr(sys, "argv", arguments_of(folder, *options))
        runpy.run_path(sys.argv[0], run_name="__main__")


def go_on(folder, *options):
    (folder / "go_on").touch()
    run(folder, *options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a study that is done: not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    go_on(folder)
    return folder


def begun(folder):
    path = folder / "runs_begun"
    return path.read_text() if path.exists() else ""


def kill_when(study, reached):
    while not reached():
        assert study.poll() is None
        time.sleep(0.01)
    study.kill()


@pytest.mark.slow
def test_a_killed_study_goes_on_with_the_runs_that_are_missing(tmp_path, capsys):
    killed = start(tmp_path)
    kill_when(killed, lambda: begun(tmp_path) == "12")
    killed.wait()
    go_on(tmp_path)
    assert "1 of 3 runs are done" in capsys.readouterr().out
    assert sorted(begun(tmp_path)) == ["1", "2", "2", "3"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a killed parent leaves its pipes otherwise")
def test_workers_of_a_killed_study_end_with_it_and_the_next_goes_on(tmp_path, capsys):
    killed = start(tmp_path, "--jobs", "2", stdout=subprocess.PIPE)
    # The first and the last run are done by one worker, and the second waits in the other.
    kill_when(killed, lambda: len(list(tmp_path.glob("out/runs/*.json"))) == 2)
    try:
        killed.communicate(timeout=300)  # until nobody has the pipe any more
    finally:
        (tmp_path / "go_on").touch()
    assert sorted(begun(tmp_path)) == ["1", "2", "3"]
    run(tmp_path)
    assert "2 of 3 runs are done" in capsys.readouterr().out
    assert sorted(begun(tmp_path)) == ["1", "2", "2", "3"]
    assert len(list(tmp_path.glob("out/runs/*.json"))) == 3


def test_after_its_minutes_a_study_leaves_with_a_status_of_its_own(tmp_path, capsys):
    before = signal.getsignal(signal.SIGALRM)
    try:
        with pytest.raises(SystemExit) as left:
            run(tmp_path, "--minutes", "0.005")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert left.value.code == 75
    assert "run the same command to resume" in capsys.readouterr().out


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


def test_a_finished_study_does_nothing_again_and_names_the_machines_of_its_runs(
    finished, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    first, *_ = sorted((tmp_path / "out" / "runs").glob("*.json"))
    record = json.loads(first.read_text())
    first.write_text(json.dumps({**record, "machine": "another one"}))
    go_on(tmp_path)
    assert "of 3 runs are done" not in capsys.readouterr().out
    assert sorted(begun(tmp_path)) == ["1", "2", "3"]
    told = (tmp_path / "out" / "three_runs.md").read_text().split("\n\n")[1]
    assert "another one" in told
    assert record["machine"] in told
