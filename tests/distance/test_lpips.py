from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_maskcal.distance import lpips_weights
from napari_maskcal.distance.lpips_ import Lpips
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.restore.torchvision_import import import_torchvision

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def random_alexnet(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict as torchvision writes it, with a tensor that LPIPS has no use for."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {"classifier.1.weight": torch.zeros(2, 2)}
    for place, (out, into, side) in ALEX.items():
        scale = (2 / (into * side * side)) ** 0.5
        tensors[f"features.{place}.weight"] = torch.randn(out, into, side, side, generator=generator) * scale
        tensors[f"features.{place}.bias"] = torch.randn(out, generator=generator) * 0.1
    return tensors


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file(random_alexnet(), path)
    return path


@pytest.fixture
def distance(weights: Path) -> Lpips:
    return Lpips(weights=weights, device="cpu")


def fields(n: int, size: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    truth = rng.random((n, size, size))
    return rng.random(truth.shape), truth + 0.2 * rng.standard_normal(truth.shape), truth


def plain_lpips(network: str, trunk: dict[str, torch.Tensor] | None) -> torch.nn.Module:
    """The package's own network, made the package's own way."""
    import_torchvision()
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    if trunk is not None:
        own = module.net.state_dict()
        module.net.load_state_dict({name: trunk[f"features.{name.partition('.')[2]}"] for name in own})
    return module


def test_it_is_what_the_package_itself_gives_for_the_masked_images(distance, weights):
    module = plain_lpips("alex", load_file(weights))
    trust, restored, truth = fields(3)
    a, b = (torch.from_numpy(trust * image).float()[:, None].expand(-1, 3, -1, -1) for image in (restored, truth))
    with torch.inference_mode():
        expected = module(a, b, normalize=True).flatten().numpy()
    assert expected.min() > 1e-3
    np.testing.assert_allclose(distance.between(trust, restored, truth), expected, rtol=1e-4)


def test_vgg_is_what_the_package_itself_gives(tmp_path):
    module = plain_lpips("vgg", None)
    trunk = {f"features.{name.partition('.')[2]}": tensor for name, tensor in module.net.state_dict().items()}
    save_file(trunk, tmp_path / "vgg.safetensors")
    trust, restored, truth = fields(2, size=16)
    a, b = (torch.from_numpy(trust * image).float()[:, None].expand(-1, 3, -1, -1) for image in (restored, truth))
    with torch.inference_mode():
        expected = module(a, b, normalize=True).flatten().numpy()
    found = Lpips(network="vgg", weights=tmp_path / "vgg.safetensors", device="cpu").between(trust, restored, truth)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("size", [31, 48, 100])
def test_a_fields_distance_does_not_depend_on_those_it_is_computed_with(distance, size):
    images = fields(11, size)
    together = distance.between(*images)
    alone = np.concatenate([distance.between(*(image[i : i + 1] for image in images)) for i in range(11)])
    assert together.tolist() == alone.tolist()
    assert distance.between(*(image[[4, 0, 9]] for image in images)).tolist() == together[[4, 0, 9]].tolist()
    assert len(set(together)) == 11


def test_one_image_stands_for_all_trust_masks(distance):
    trust, restored, truth = fields(5)
    shared = distance.between(trust, restored[:1], truth[:1])
    repeated = distance.between(trust, *(np.repeat(image[:1], 5, axis=0) for image in (restored, truth)))
    assert shared.tolist() == repeated.tolist()
    assert distance.between(trust[:0], restored[:1], truth[:1]).shape == (0,)


def test_grey_images_are_three_equal_channels(distance):
    trust, restored, truth = fields(2)
    grey = distance.between(trust, restored, truth)
    three = [np.repeat(image[:, None], 3, axis=1) for image in (restored, truth)]
    assert distance.between(trust, *three).tolist() == grey.tolist()
    three[0][:, 2] = 0
    assert distance.between(trust, *three).tolist() != grey.tolist()


def test_equal_images_and_images_masked_whole_are_at_0_and_others_are_not(distance):
    trust, restored, truth = fields(2)
    assert distance.between(trust, truth, truth).tolist() == [0, 0]
    assert distance.between(np.zeros_like(trust, dtype=bool), restored, truth).tolist() == [0, 0]
    assert distance.between(np.ones_like(trust, dtype=bool), restored, truth).min() > 0


def test_intensities_beyond_the_range_are_not_clipped(distance):
    trust, _, truth = fields(1)
    bright = truth + 0.5
    assert distance.between(trust, bright, np.clip(bright, 0, 1))[0] > 0


def test_trusting_more_may_lower_it(distance):
    restored, truth = np.full((1, 64, 64), 0.9), np.full((1, 64, 64), 0.8)
    half = np.indices((64, 64))[1] < 32
    some, all_ = distance.between(np.stack([half, np.ones_like(half)]), restored, truth)
    assert some > 2 * all_  # the network sees the edge of the mask, and little of an even shift
    assert not distance.monotone


def test_its_loss_is_the_mean_distance_with_a_finite_gradient(distance):
    trust, restored, truth = (torch.from_numpy(image).float()[:, None] for image in fields(3))
    restored[:, :, :, 20:] = truth[:, :, :, 20:] = 0
    trust.requires_grad_()
    loss = distance.loss(trust, restored, truth)
    loss.backward()
    expected = distance.between(*(tensor.detach().numpy()[:, 0] for tensor in (trust, restored, truth))).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert trust.grad.isfinite().all()
    assert trust.grad.abs().max() > 0


def test_where_no_feature_responds_the_gradient_is_0_and_not_nan(tmp_path):
    silent = random_alexnet()
    silent |= {name: torch.full_like(t, -100) for name, t in silent.items() if name.endswith("bias")}
    save_file(silent, tmp_path / "silent.safetensors")
    trust, restored, truth = (torch.from_numpy(image).float()[:, None] for image in fields(1))
    trust.requires_grad_()
    Lpips(weights=tmp_path / "silent.safetensors").loss(trust, restored, truth).backward()
    assert trust.grad.abs().max() == 0


def test_a_first_use_without_gradients_does_not_bar_it_from_training(weights, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(weights.read_bytes())
    distance = Lpips(weights=tmp_path / "a.safetensors")
    with torch.inference_mode():
        assert distance.identity
    trust, restored, truth = (torch.from_numpy(image).float()[:, None] for image in fields(1))
    distance.loss(trust.requires_grad_(), restored, truth).backward()
    assert trust.grad is not None


def test_weights_that_were_never_downloaded_are_asked_for_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    expected = (
        r"LPIPS needs vgg16-397923af\.pth, the weights of VGG-16, which are not in .*checkpoints; download "
        r"https://download\.pytorch\.org/models/vgg16-397923af\.pth to there, or name a file: lpips-vgg:FILE$"
    )
    with pytest.raises(ValueError, match=expected):
        parse_distance("lpips-vgg").between(*fields(1))
    with pytest.raises(ValueError, match=expected):
        _ = parse_distance("lpips-vgg").identity


def test_a_named_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*none\.pth with the weights of AlexNet; they can be had"):
        Lpips(weights=tmp_path / "none.pth").between(*fields(1))


def test_the_weights_are_known_by_their_values_not_by_their_file(distance, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    downloaded = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    downloaded.parent.mkdir(parents=True)
    torch.save(random_alexnet(), downloaded)
    assert Lpips(device="cpu").identity == distance.identity
    assert distance.identity.startswith("lpips 0.1, trunk sha256:")
    torch.save(random_alexnet(seed=1), downloaded)  # in the same process: what was read before no longer counts
    assert Lpips(device="cpu").identity != distance.identity


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Trap()}, "trap.pth")
    with pytest.raises(ValueError, match=r"trap\.pth cannot be read: .*; download it again"):
        _ = Lpips(weights=Path("trap.pth")).identity
    assert not Path("sprung").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "empty.pth", "empty.safetensors"])
def test_a_damaged_file_is_refused(tmp_path, name):
    tensors, path = {"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: 0 if "empty" in name else 1000])
    with pytest.raises(ValueError, match=rf"{name} cannot be read: .*; download it again") as refusal:
        _ = Lpips(weights=path).identity
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.bias": None}, r"has no features\.3\.bias: it is not a state dict of torchvision's AlexNet"),
        ({"features.0.bias": torch.zeros(5)}, r"features\.0\.bias has the shape \(5,\), not \(64,\)"),
        ({"features.0.bias": torch.full((64,), torch.nan)}, r"features\.0\.bias has values that are NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    tensors = {name: tensor for name, tensor in (random_alexnet() | change).items() if tensor is not None}
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"other\.safetensors:? {message}"):
        _ = Lpips(weights=tmp_path / "other.safetensors").identity


def test_a_file_that_holds_no_dictionary_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds a list, not a state dict of AlexNet"):
        _ = Lpips(weights=tmp_path / "list.pth").identity


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((30, 40), r"LPIPS needs fields of at least 31 × 31 pixels, got 30 × 40; take larger fields"),
        ((2, 40, 40), r"LPIPS takes planes, \(N, Y, X\); the trust has shape \(1, 2, 40, 40\)"),
    ],
)
def test_fields_it_cannot_take_are_refused(distance, shape, message):
    images = (np.zeros((1, *shape)),) * 3
    with pytest.raises(ValueError, match=message):
        distance.between(*images)


def test_images_of_another_shape_or_of_two_channels_are_refused(distance):
    trust = np.ones((3, 40, 40))
    with pytest.raises(ValueError, match=r"an image has shape \(3, 40, 41\), the trust \(3, 40, 40\)"):
        distance.between(trust, np.zeros((3, 40, 41)), trust)
    with pytest.raises(ValueError, match=r"an image has shape \(2, 40, 40\), the trust \(3, 40, 40\)"):
        distance.between(trust, trust, trust[:2])
    with pytest.raises(ValueError, match="images of one or three channels, got 2; choose a channel"):
        distance.between(trust, np.zeros((3, 2, 40, 40)), np.zeros((3, 2, 40, 40)))


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_the_smallest_field_is_the_smallest_that_the_poolings_leave_a_pixel_of(network):
    smallest = lpips_weights.TRUNKS[network].smallest_px
    features = plain_lpips(network, None).net
    assert features(torch.zeros(1, 3, smallest, smallest))[-1].shape[-1] == 1
    with pytest.raises(RuntimeError, match="Output size is too small"):
        features(torch.zeros(1, 3, smallest - 1, smallest - 1))


def test_nothing_is_printed(weights, tmp_path, capsys):
    (tmp_path / "a.safetensors").write_bytes(weights.read_bytes())
    assert Lpips(weights=tmp_path / "a.safetensors").identity
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("lpips", Lpips(), "lpips-alex"),
        ("LPIPS-Alex", Lpips(), "lpips-alex"),
        ("lpips-vgg", Lpips(network="vgg"), "lpips-vgg"),
        ("lpips-vgg:/A/b c.PTH", Lpips(network="vgg", weights=Path("/A/b c.PTH")), "lpips-vgg:/A/b c.PTH"),
        ("lpips:C:x.pth", Lpips(weights=Path("C:x.pth")), "lpips-alex:C:x.pth"),
    ],
)
def test_it_is_found_by_its_name_and_has_that_name(text, expected, name):
    assert parse_distance(text) == expected
    assert expected.name == name
    assert parse_distance(name) == expected


def test_the_promise_names_the_network():
    assert Lpips().sentence_name == "LPIPS distance (AlexNet)"
    assert Lpips(network="vgg").sentence_name == "LPIPS distance (VGG-16)"
    with pytest.raises(ValueError, match="LPIPS has no network 'squeeze'; it is one of alex, vgg"):
        Lpips(network="squeeze")
