from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from napari_maskcal.read import scratch
from napari_maskcal.read.scratch import allocate


@pytest.fixture
def small_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "_IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(("shape", "on_disk"), [((250,), False), ((251,), True), ((3, 0, 7), False), ((9, 8, 7), True)])
@pytest.mark.parametrize("fill", [0, 2])
def test_large_results_go_to_disk_and_small_ones_stay_in_memory(small_memory, shape, on_disk, fill):
    array = allocate(shape, np.float32, fill=fill)
    assert isinstance(array, np.memmap) == on_disk
    assert (array.shape, array.dtype) == (shape, np.float32)
    assert (array == fill).all()
    array[...] = 7
    assert (array == 7).all()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted by /proc")
def test_the_file_has_no_name_and_goes_with_the_array(small_memory, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    array = allocate((1000, 1000), np.uint8, fill=1)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) > before
    del array
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
