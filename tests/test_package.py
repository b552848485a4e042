import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_vae

README = Path(__file__).parents[1] / "README.md"


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_ppca_does_not_import_torch():
    done = run_python(
        "import sys\n"
        "from sklearn_vae import PPCA, PPCACV, PPCAImputer, Moments, LowRankGaussian\n"
        "from sklearn_vae import BernoulliPPCA, LinearVAE\n"
        "LinearVAE(1).fit([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])\n"
        "PPCA(1).fit([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]).score([[0.0, 1.0]])\n"
        "assert 'sklearn_vae.linear.ppca' in sys.modules\n"
        "heavy = {'torch', 'skorch', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_loads_and_is_listed():
    assert "PPCA" in sklearn_vae.__all__
    for name in sklearn_vae.__all__:
        assert getattr(sklearn_vae, name) is not None
        assert name in dir(sklearn_vae)
    with pytest.raises(AttributeError, match="no attribute 'PCCA'"):
        _ = sklearn_vae.PCCA


def test_readme_opens_with_code_that_runs():
    blocks = [part.split("```")[0] for part in README.read_text().split("```python\n")[1:]]
    assert len(blocks[0].strip().splitlines()) <= 10
    # The blocks after it go on with what it has.
    for code in (blocks[0], "".join(blocks)):
        done = run_python(code)
        assert done.returncode == 0, done.stderr
        assert done.stdout
