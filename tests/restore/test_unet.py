from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.restore.unet import UNet, receptive_radius_px


def as_far_as_possible(network: torch.nn.Module) -> torch.nn.Module:
    """Make all weights positive, so that no activation hides that a pixel was reached."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.abs() + 1e-3)
    return network.double().eval()


def reach_px(network: UNet) -> int:
    """How far the change of one pixel is seen, over all places of a pixel within the stride."""
    size = (8 if network.dims == 2 else 3) * network.halo_px // network.stride_px * network.stride_px
    middle = size // 2 // network.stride_px * network.stride_px
    plane = torch.ones(1, 1, *[size] * network.dims, dtype=torch.float64)
    reach = 0
    with torch.inference_mode():
        before = network(plane)
        for shift in range(network.stride_px):
            changed = plane.clone()
            changed[(..., *[middle + shift] * network.dims)] += 1e6
            places = np.nonzero((network(changed) != before)[0, 0].numpy())
            assert places[0].min() > 0, "the plane is too small to see how far it goes"
            reach = max(reach, *(int(np.abs(i - middle - shift).max()) for i in places))
    return reach


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_halo_is_how_far_a_pixel_is_seen_and_hardly_more(levels):
    network = as_far_as_possible(UNet([2] * levels, residual=True))
    assert network.halo_px == receptive_radius_px(levels=levels)
    assert network.halo_px - network.stride_px < reach_px(network) <= network.halo_px


@pytest.mark.parametrize("levels", [1, 2])
def test_in_volumes_it_is_the_same_along_each_axis(levels):
    network = as_far_as_possible(UNet([2] * levels, dims=3))
    assert network.halo_px == receptive_radius_px(levels=levels)
    assert network.halo_px - network.stride_px < reach_px(network) <= network.halo_px


@pytest.mark.parametrize(("levels", "radius"), [(1, 2), (2, 10), (3, 24), (4, 56)])
def test_radii_are_multiples_of_the_stride(levels, radius):
    assert receptive_radius_px(levels=levels) == radius
    assert radius % (1 << (levels - 1)) == 0


def test_a_residual_network_adds_its_correction_to_the_image():
    network = UNet((2, 2), residual=True)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    plane = torch.rand(2, 1, 8, 12)
    assert torch.equal(network(plane), plane)
    network.residual = False
    assert network(plane).abs().max() == 0


@pytest.mark.parametrize("inputs", [1, 3, 4])
def test_a_residual_network_of_several_outputs_corrects_as_many_channels_or_the_only_one(inputs):
    network = UNet((2, 2), inputs=inputs, outputs=3, residual=True)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    image = torch.rand(2, inputs, 8, 8)
    assert torch.equal(network(image), image[:, :3].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 1}, "a network has 1 dimensions; give 2 for planes or 3 for volumes"),
        ({"inputs": 2, "outputs": 3, "residual": True}, "a residual network of 2 channels cannot have 3 outputs; give"),
    ],
)
def test_a_network_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UNet((2, 2), **options)


@pytest.mark.parametrize("options", [{"residual": True}, {"inputs": 3, "outputs": 2}])
def test_a_batch_gives_what_each_image_gives_alone(options):
    torch.manual_seed(0)
    network = UNet((4, 8), **options)
    images = 10 * torch.rand(3, options.get("inputs", 1), 16, 24)
    with torch.inference_mode():
        alone = torch.cat([network(image[None]) for image in images])
        assert torch.allclose(network(images), alone, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


def test_the_mask_network_reaches_as_far_as_its_trunk():
    network = MaskNetwork((2, 2, 2))
    assert (network.stride_px, network.halo_px) == (network.trunk.stride_px, network.trunk.halo_px) == (4, 24)
