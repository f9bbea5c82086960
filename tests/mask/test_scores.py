from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from napari_maskcal.bundle import write_bundle
from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.mask.scores import FLOOR, IntervalWidth, MaskEnsemble, Residual, Spread, ViewSpread
from napari_maskcal.mask.untrained import (
    augmentation_mask,
    constant_mask,
    ensemble_mask,
    given_mask,
    interval_mask,
    is_words,
    residual_mask,
)
from napari_maskcal.models import GIVEN_RESTORER, MaskModel, Restorer, load_mask_model, load_restorer
from napari_maskcal.pipeline import run
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.asking import uncertainty_of
from napari_maskcal.restore.engine import Pair, process
from napari_maskcal.restore.events import PlaneDone
from napari_maskcal.restore.kinds import make_network
from napari_maskcal.restore.loaders.native import build_network
from napari_maskcal.restore.unet import UNet
from small_models import WIDTHS, noisy_planes, random_restorer

if TYPE_CHECKING:
    from pathlib import Path

UNET = {"kind": "unet", "widths": list(WIDTHS), "residual": True}
NAMES = ["residual", "residual:1", "augmentation", "ensemble", "interval", "constant"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    return [random_restorer(folder, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def members(files) -> list[Restorer]:
    return [load_restorer(file) for file in files]


@pytest.fixture
def make(trained, files):
    """Make a mask model from words, as the command line does."""

    def from_words(name: str) -> MaskModel:
        some = ",".join(str(file) for file in files[:2])
        words = f"{name}:{some}" if name in ("ensemble", "interval") else name
        return load_mask_model(words, trained.restorer)

    return from_words


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def computed(restorer: Restorer, mask: MaskModel, planes: np.ndarray) -> PlaneDone:
    image = from_array(planes, axes="ZYX", name="cells")
    (done,) = (e for e in process(image, [(0,)], restorer, mask, device="cpu") if isinstance(e, PlaneDone))
    return done


# ---- what each score is


def test_the_bare_residual_is_the_absolute_difference_above_the_floor():
    degraded, restored = images(2, 1, 6, 8), images(2, 1, 6, 8, seed=2)
    torch.testing.assert_close(Residual(window_px=1)(degraded, restored), (restored - degraded).abs() + FLOOR)
    assert (Residual(window_px=1)(degraded, degraded) == np.float32(FLOOR)).all()


@pytest.mark.parametrize("window_px", [3, 9])
def test_the_residual_is_averaged_over_what_of_the_window_lies_inside(window_px):
    degraded, restored = images(1, 1, 20, 24), images(1, 1, 20, 24, seed=2)
    found = Residual(window_px=window_px)(degraded, restored)[0, 0].numpy() - FLOOR
    bare = (restored - degraded).abs()[0, 0].numpy()
    shares = uniform_filter(np.ones_like(bare), window_px, mode="constant")
    np.testing.assert_allclose(found, uniform_filter(bare, window_px, mode="constant") / shares, rtol=1e-4)
    assert np.abs(found - bare).max() > 0.1


def test_a_coarser_degraded_image_is_repeated_before_the_residual_is_taken():
    degraded, restored = images(1, 1, 4, 5), images(1, 1, 8, 10)
    repeated = degraded.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(Residual()(degraded, restored), Residual()(repeated, restored))


def test_the_residual_of_several_channels_is_their_norm_and_one_grey_channel_is_compared_with_each():
    degraded, restored = images(2, 1, 6, 8), images(2, 3, 6, 8, seed=2)
    found = Residual(window_px=1)(degraded, restored)
    expected = (restored - degraded).square().sum(dim=1, keepdim=True).sqrt() + FLOOR
    assert found.shape == (2, 1, 6, 8)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, Residual(window_px=1)(degraded.expand(-1, 3, -1, -1), restored))
    smoothed = Residual(window_px=3)(degraded, restored)[0, 0, 2, 2]
    torch.testing.assert_close(smoothed, expected[0, 0, 1:4, 1:4].mean())


def test_the_residual_of_channels_that_do_not_go_together_is_refused():
    with pytest.raises(
        ValueError, match="the degraded image has 3 channels and the restored one 1; the residual needs"
    ):
        Residual()(images(1, 3, 8, 8), images(1, 1, 8, 8))


def test_the_residual_of_a_volume_is_averaged_over_a_cube():
    degraded, restored = images(1, 1, 6, 7, 8), images(1, 1, 6, 7, 8, seed=2)
    found = Residual(window_px=3)(degraded, restored)
    bare = (restored - degraded).abs()
    torch.testing.assert_close(found[0, 0, 3, 3, 3], bare[0, 0, 2:5, 2:5, 2:5].mean() + FLOOR)


def test_the_constant_is_one_for_all_images():
    constant = make_network({"kind": "constant"}, role="mask")
    found = constant(images(2, 1, 4, 4), images(2, 3, 8, 8))
    assert torch.equal(found, torch.ones(2, 1, 8, 8))
    assert not constant.state_dict()
    assert (constant.stride_px, constant.halo_px) == (1, 0)


MASK_UNETS = [
    {"kind": "mask-unet", "widths": [4, 8], "head": "exponential"},
    {"kind": "mask-unet", "widths": [4, 4, 8], "head": "sigmoid"},
]


def test_an_ensemble_of_masks_is_the_geometric_mean_of_their_uncertainties():
    ensemble, image = (
        make_network({"kind": "mask-ensemble", "members": MASK_UNETS}, role="mask").eval(),
        images(1, 1, 8, 8),
    )
    with torch.inference_mode():
        ensemble.members[0].trunk.head.bias += 3  # apart, so that it matters which mean is taken
        first, second = (member(image, 1 - image) for member in ensemble.members)
        found = ensemble(image, 1 - image)
    torch.testing.assert_close(found, (first * second).sqrt())
    assert (found - (first + second) / 2).abs().min() > 0.1
    assert (ensemble.stride_px, ensemble.halo_px) == (4, 24)
    assert {name.partition(".")[2][:1] for name in ensemble.state_dict()} == {"0", "1"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "there are 0 members; give 1 to 64"),
        (
            [{"kind": "spread"}],
            "an ensemble of masks has a member of kind 'spread'; give those of",
        ),
        (
            [MASK_UNETS[0], {"widths": [4]}],
            "an ensemble of masks has a member of kind None; give those of",
        ),
    ],
)
def test_an_ensemble_of_masks_that_cannot_be_is_refused(members, message):
    with pytest.raises(ValueError, match=message):
        MaskEnsemble(members)


def eight_views(restorer: Restorer, image: torch.Tensor) -> np.ndarray:
    """The restorer's answers to all flips and quarter turns, turned back by numpy."""
    plane, answers = image[0, 0].numpy(), []
    for turn, mirror in itertools.product(range(4), [False, True]):
        seen = np.rot90(plane[::-1] if mirror else plane, turn)
        with torch.inference_mode():
            answer = restorer.network(torch.from_numpy(seen.copy())[None, None])[0, 0].numpy()
        back = np.rot90(answer, -turn)
        answers.append(back[::-1] if mirror else back)
    return np.stack(answers)


def test_augmentation_is_the_spread_over_all_eight_views(trained):
    image = images(1, 1, 24, 32)
    views = eight_views(trained.restorer, image)
    with torch.inference_mode():
        network = trained.restorer.network
        found = augmentation_mask(trained.restorer).network(image, network(image), network)[0, 0].numpy()
    np.testing.assert_allclose(found - FLOOR, views.std(axis=0), atol=2e-6)
    assert views.std(axis=0).mean() > 100 * 2e-6
    assert len(np.unique(views.reshape(8, -1), axis=0)) == 8


def test_the_spread_of_colours_is_the_norm_of_that_of_each():
    """Of a restorer that gives each quarter turn another colour."""
    image, angle = images(1, 1, 8, 8), iter(range(1, 4))

    def restore(_: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 1.0, 3.0])[None, :, None, None].expand(1, 3, 8, 8) * next(angle)

    found = ViewSpread(mirrors=False)(image, torch.zeros(1, 3, 8, 8), restore)
    deviation = np.std([0, 1, 2, 3])
    expected = deviation * np.sqrt(1 + 9) + FLOOR
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8), float(expected)))


def test_an_ensembles_uncertainty_is_the_standard_deviation_of_its_members(members):
    image = images(2, 1, 16, 24)
    with torch.inference_mode():
        outputs = np.stack([member.network(image).numpy() for member in members])
        found = ensemble_mask(members).network(image, image).numpy()
    np.testing.assert_allclose(found - FLOOR, outputs.std(axis=0), rtol=1e-3, atol=1e-6)


def test_an_interval_is_upper_minus_lower_and_nothing_where_they_cross(members):
    image = images(1, 1, 32, 32)
    lower, upper = members[:2]
    with torch.inference_mode():
        low, high = lower.network(image), upper.network(image)
        found = interval_mask(lower, upper).network(image, image)
        turned = interval_mask(upper, lower).network(image, image)
    for width, difference in ((found, high - low), (turned, low - high)):
        torch.testing.assert_close(width, difference.clamp(min=0) + FLOOR)
        assert (width[difference < 0] == np.float32(FLOOR)).all()
    assert (high != low).any()  # so that they cross one way or the other


class Plus(torch.nn.Module):
    """A restorer whose answer is known."""

    def __init__(self, amount: torch.Tensor) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.amount


def test_where_quantiles_cross_the_width_is_the_floor_and_not_their_distance():
    score, image = IntervalWidth([UNET, UNET]), images(1, 1, 2, 2)
    lower, upper = torch.tensor([[0.0, 0.3], [-0.5, 0.0]]), torch.tensor([[0.25, -0.2], [0.5, 0.0]])
    score.members = torch.nn.ModuleList([Plus(lower), Plus(upper)])
    expected = torch.tensor([[[[0.25, 0.0], [1.0, 0.0]]]]) + FLOOR
    torch.testing.assert_close(score(image, image), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_score_is_positive_even_where_nothing_differs(make, name):
    flat = torch.full((1, 1, 16, 16), 0.3)
    with torch.inference_mode():
        uncertainty = uncertainty_of(make(name).network, flat, flat, lambda image: image)
    assert (uncertainty >= np.float32(FLOOR)).all()


# ---- wherever a mask network is


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(203, 310), (333, 97)])
def test_tiles_give_what_the_whole_plane_gives(trained, make, set_effort, name, shape):
    planes, mask = noisy_planes(1, *shape, seed=2), make(name)
    set_effort(max_tile_px=4096, batch=1)
    whole = computed(trained.restorer, mask, planes)
    set_effort(max_tile_px=160, batch=2)
    tiled = computed(trained.restorer, mask, planes)
    np.testing.assert_allclose(tiled.uncertainty, whole.uncertainty, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "augmentation", "interval"])
def test_with_too_small_a_halo_the_same_check_fails(trained, make, set_effort, name):
    planes, mask = noisy_planes(1, 300, 300), make(name)
    set_effort(max_tile_px=4096, batch=1)
    whole = computed(trained.restorer, mask, planes)
    set_effort(max_tile_px=160, batch=2)
    cards = [model.card.model_copy(update={"halo_px": 0}) for model in (trained.restorer, mask)]
    seamed = computed(replace(trained.restorer, card=cards[0]), replace(mask, card=cards[1]), planes)
    assert np.abs(seamed.uncertainty - whole.uncertainty).max() > 3e-3


def test_a_turned_tile_is_exact_only_at_multiples_of_the_stride(trained):
    mask, restore, plane = augmentation_mask(trained.restorer), trained.restorer.network, images(1, 1, 200, 200)

    def spread(image: torch.Tensor) -> torch.Tensor:
        return mask.network(image, restore(image), restore)

    with torch.inference_mode():
        whole = spread(plane)[..., 80:100, 80:100]
        aligned = spread(plane[..., 20:180, 20:180])[..., 60:80, 60:80]
        shifted = spread(plane[..., 21:181, 21:181])[..., 59:79, 59:79]
    torch.testing.assert_close(aligned, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shifted, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_direct_call_gives_what_the_engine_gives(trained, make, name):
    (plane,) = noisy_planes(1, 72, 96)
    done = computed(trained.restorer, make(name), plane[None])
    direct = make(name).uncertainty(plane, trained.restorer(plane), trained.restorer)
    np.testing.assert_allclose(direct, done.uncertainty, rtol=1e-4, atol=1e-5)


def test_the_reach_of_members_is_not_added_to_that_of_the_restorer(trained, make):
    halo = trained.restorer.card.halo_px
    assert Pair(trained.restorer, make("augmentation")).halo_px == halo
    assert Pair(trained.restorer, make("residual")).halo_px == halo + 4
    assert Pair(trained.restorer, trained.mask_model).halo_px == 2 * halo


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_calibrated_saved_read_and_run_like_a_mask_network(trained, make, tmp_path, name):
    mask = make(name)
    assert mask.certificate is None
    rng, fields = np.random.default_rng(0), []
    for i in range(10):
        done = computed(trained.restorer, mask, noisy_planes(1, 64, 64, seed=i + 1))
        error = rng.normal(0, 0.3, (64, 64)).astype(np.float32) * done.uncertainty
        fields.append(CalibrationField(
            name=f"field {i}", group=f"specimen {i}", uncertainty=done.uncertainty,
            restored=done.restored, truth=done.restored + error,
        ))  # fmt: skip
    fingerprint = Fingerprint.of(trained.restorer, mask.card, mask.sha256)
    tolerance = float(np.median([np.abs(f.restored - f.truth).mean() for f in fields]))
    certificate = certify(fields, distance="l1", tolerance=tolerance, confidence=0.9, fingerprint=fingerprint)
    path = tmp_path / "score.maskcal"
    write_bundle(path, mask.network, mask.card, certificate)
    again = load_mask_model(path)
    assert (again.card, again.sha256) == (mask.card, mask.sha256)
    plane = noisy_planes(1, 64, 72, seed=40)
    review = run(plane, trained.restorer, again, axes="ZYX", device="cpu")
    np.testing.assert_allclose(
        review.uncertainty[0], computed(trained.restorer, mask, plane).uncertainty, rtol=1e-5
    )  # fmt: skip
    whole = review.masked_share in (0, 1)
    assert whole == (name == "constant")


def test_every_setting_and_every_member_changes_the_hash(trained, members):
    restorer = trained.restorer
    models = [
        residual_mask(restorer), residual_mask(restorer, window_px=1), augmentation_mask(restorer),
        augmentation_mask(members[0]), ensemble_mask(members), ensemble_mask(members[:2]),
        interval_mask(*members[:2]), interval_mask(*members[1::-1]), given_mask(), given_mask("posterior"),
    ]  # fmt: skip
    assert len({model.sha256 for model in models}) == len(models)
    assert ensemble_mask(members).sha256 == ensemble_mask(members).sha256


def test_a_mask_model_may_not_be_calibrated_on_what_its_members_were_trained_on(members):
    taught = []
    for i, member in enumerate(members[:2]):
        seen = {"trained_on": (f"specimen {i}", "both"), "trained_on_sha256": (f"{i}" * 64,)}
        taught.append(replace(member, card=member.card.model_copy(update=seen)))
    card = ensemble_mask(taught).card
    assert card.trained_on == ("both", "specimen 0", "specimen 1")
    assert card.trained_on_sha256 == ("0" * 64, "1" * 64)


def test_the_members_are_copies_so_the_restorer_stays_as_it_is(members):
    mask = ensemble_mask(members)
    own = {tensor.data_ptr() for member in members for tensor in member.network.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in mask.network.state_dict().values()}


def test_what_asks_the_restorer_keeps_nothing_of_it(trained):
    mask = augmentation_mask(trained.restorer)
    assert mask.card.asks_restorer
    assert not mask.network.state_dict()
    computed(trained.restorer, mask, noisy_planes(1, 64, 64))
    assert not any(isinstance(module, UNet) for module in mask.network.modules())


def test_scores_of_other_restorers_need_one_grid_and_the_rest_does_not(trained, members):
    degraded, restored = images(1, 1, 16, 16), images(1, 1, 32, 32)
    with pytest.raises(ValueError, match="degraded plane is 16 × 16 pixels and the restored one 32 × 32"):
        ensemble_mask(members).network(degraded, restored)
    finer = torch.nn.Upsample(scale_factor=2, mode="bilinear")
    with torch.inference_mode():
        spread = augmentation_mask(trained.restorer).network(degraded, finer(degraded), finer)
    torch.testing.assert_close(spread, torch.full_like(spread, FLOOR), atol=1e-5, rtol=0)  # all views give the same
    assert residual_mask(trained.restorer).network(degraded, restored).shape == restored.shape


# ---- words, and what is refused


def test_words_name_the_same_models_as_the_functions(trained, files, members, tmp_path):
    restorer = trained.restorer
    ensemble, interval = (f"{word}:{files[0]}, {files[1]}" for word in ("ensemble", "interval"))
    for words, expected in [
        ("residual", residual_mask(restorer)),
        ("residual:5", residual_mask(restorer, window_px=5)),
        ("augmentation", augmentation_mask(restorer)),
        ("constant", constant_mask(restorer)),
        (ensemble, ensemble_mask(members[:2], beside=restorer)),
        (interval, interval_mask(*members[:2], beside=restorer)),
        ("given", given_mask()),
        ("given:posterior", given_mask("posterior")),
    ]:
        assert is_words(words)
        assert load_mask_model(words, restorer).sha256 == expected.sha256
    assert load_restorer("given") is GIVEN_RESTORER
    for path in ("residual.maskcal", "C:\\masks\\residual", str(tmp_path / "ensemble"), "demo"):
        assert not is_words(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("residual:4", "residual's window is 4 pixels; give an odd number"),
        ("residual:0", "window is 0 pixels"),
        ("residual:99999", "window is 99999 pixels; give an odd number up to 1023"),
        ("residual:-3", "'residual:-3': after residual: comes an odd number of pixels, such as residual:5"),
        ("augmentation:4", "augmentation takes nothing after the word"),
        ("constant:1", "constant takes nothing after the word"),
        ("ensemble", "an ensemble has at least 2 restorers, got 0"),
        ("ensemble:FILE", "an ensemble has at least 2 restorers, got 1"),
        ("ensemble:FILE,FILE", "random restorer 1 and random restorer 1 are the same network"),
        ("ensemble:FILE,given", "given restored image is no network that could be asked again"),
        ("interval:FILE", "after interval: come two files, lower and upper, with a comma between"),
        ("interval:FILE,nowhere.safetensors", "nowhere.safetensors does not exist"),
    ],
)
def test_words_that_name_no_model_are_refused_with_what_is_missing(trained, files, words, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_mask_model(words.replace("FILE", str(files[0])), trained.restorer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["residual", "augmentation", "constant"])
def test_scores_of_the_restorer_need_the_restorer(words):
    with pytest.raises(ValueError, match=f"mask model '{words}' is made from the restorer; give that too"):
        load_mask_model(words)


def test_the_residual_of_given_images_needs_no_network_and_their_spread_is_refused():
    assert load_mask_model("residual", GIVEN_RESTORER).card.stride_px == 1
    with pytest.raises(ValueError, match="given restored image is no network that could be asked again; choose a file"):
        load_mask_model("augmentation", GIVEN_RESTORER)


def test_members_that_normalise_otherwise_are_refused(members):
    other = members[1].card.normalisation.model_copy(update={"low_percentile": 5.0})
    odd = replace(members[1], card=members[1].card.model_copy(update={"normalisation": other}))
    with pytest.raises(ValueError, match="random restorer 2 normalises intensities otherwise than random restorer 1"):
        ensemble_mask([members[0], odd])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "residual", "window_px": 8}, "window is 8 pixels"),
        ({"kind": "residual", "window_px": "9"}, "window is '9' pixels"),
        ({"kind": "residual", "floor": 0}, "floor is 0; give a small number above 0"),
        ({"kind": "residual", "floor": float("nan")}, "floor is nan"),
        ({"kind": "spread", "members": []}, "there are 0 members; give 1 to 64"),
        ({"kind": "spread", "members": [UNET] * 65}, "there are 65 members"),
        ({"kind": "spread", "members": [UNET]}, "one member has no spread; give several"),
        ({"kind": "spread", "members": [{"kind": "spread"}] * 2}, "kind 'spread' as its restorer; those are unet"),
        ({"kind": "spread", "members": [{"kind": "vit"}] * 2}, "network of kind 'vit'; known are unet"),
        ({"kind": "spread", "members": 3}, "do not fit the model card"),
        ({"kind": "views", "mirrors": "false"}, "mirrors is 'false'; it is true or false"),
        ({"kind": "interval", "members": [UNET] * 3}, "a lower and an upper member, got 3"),
        ({"kind": "unet"}, "x has a network of kind 'unet' as its mask; those are mask-unet, residual"),
        ({"kind": "given", "colour": 1}, "has no weights and no arguments"),
    ],
)
def test_a_card_that_names_no_such_score_is_refused_in_one_line(spec, message):
    card = given_mask().card.model_copy(update={"network": spec, "halo_px": 64, "stride_px": 4})
    with pytest.raises(ValueError, match=message) as caught:
        build_network(card, {}, source="x")
    assert "\n" not in str(caught.value)


def test_a_mask_is_no_restorer(trained):
    card = trained.restorer.card.model_copy(update={"network": {"kind": "residual"}})
    with pytest.raises(ValueError, match="kind 'residual' as its restorer; those are unet"):
        build_network(card, {}, source="x")


def test_the_geometry_of_a_score_is_that_of_its_members():
    assert (Residual().stride_px, Residual().halo_px, Residual(window_px=1).halo_px) == (1, 4, 0)
    wide, narrow = {"kind": "unet", "widths": [2, 2, 2]}, {"kind": "unet", "widths": [2, 2]}
    for score in (Spread([narrow, wide]), IntervalWidth([wide, narrow])):
        assert (score.stride_px, score.halo_px) == (4, 24)
