from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_maskcal import pipeline
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.device import pick_device
from small_models import noisy_planes

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_device_that_computes_is_taken(name):
    device = pick_device(name)
    assert torch.ones(2, device=device).sum().item() == 2
    assert name == "auto" or device == torch.device(name)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "CPU", "tpu:0"])
def test_a_name_that_is_no_device_is_refused_with_those_that_are(name):
    with pytest.raises(ValueError, match=rf"no device '{name}'; devices here: auto, .*cpu"):
        pick_device(name)


@pytest.mark.parametrize("name", ["meta", pytest.param("cuda", marks=without_cuda), "cuda:99"])
def test_a_device_that_does_not_compute_is_refused_in_one_line_with_those_that_do(name):
    with pytest.raises(ValueError, match=rf"device {name} does not work: .*; devices here: auto, .*cpu") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_what_the_processor_gives_and_leaves_the_networks_on_it(trained):
    image = from_array(noisy_planes(2, 200, 300), axes="ZYX")
    there, here = (pipeline.run(image, trained.restorer, trained.mask_model, device=d) for d in ("cuda", "cpu"))
    span = float(np.ptp(here.restored))
    np.testing.assert_allclose(there.restored, here.restored, atol=1e-4 * span)
    np.testing.assert_allclose(there.uncertainty, here.uncertainty, rtol=1e-3)
    assert {p.device.type for p in trained.restorer.network.parameters()} == {"cpu"}
