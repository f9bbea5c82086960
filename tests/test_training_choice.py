"""Which uncertainty goes into the bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import napari_maskcal.training as stage
from napari_maskcal.bundle import read_bundle, write_bundle
from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.models import GIVEN_RESTORER, Restorer, load_restorer
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.engine import process
from napari_maskcal.restore.events import CancelToken, PlaneDone, UncertaintyJudged, Warned
from napari_maskcal.restore.given import Given
from napari_maskcal.training_choice import (
    ALL,
    BARE,
    MARGIN,
    SMOOTHED,
    SPREAD,
    TRAINED,
    TURNED,
    Choice,
    candidates,
    choose,
)
from napari_maskcal.training_plan import TrainingPlan, plan_training
from napari_maskcal.training_validation import Judge, uncertainty_map
from small_models import noisy_planes
from training_fields import training_fields
from training_triplets import TINY, triplets


class Told:
    """A judge whose answers are known before."""

    def __init__(self, *shares: float | Exception) -> None:
        self.answers = iter(shares)

    def shares(
        self, module: torch.nn.Module, *, device: torch.device, cancel: CancelToken
    ) -> tuple[float, float] | None:
        assert not module.training
        assert device.type == "cpu"
        if cancel.cancelled:
            return None
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer, 0.25


def network() -> MaskNetwork:
    torch.manual_seed(0)
    return MaskNetwork((4, 8), head="quantile")


def plan_for(restorer: Restorer | None, **options: Any) -> TrainingPlan:
    these = triplets(12)
    if restorer is not None:
        these = replace(these, items=tuple(replace(one, restored=None) for one in these))
    return plan_training(these, restorer, **{"recipe": TINY, **options})


@pytest.fixture
def restorer(trained) -> Restorer:
    return load_restorer(trained.restorer_path)


def chosen(
    plan: TrainingPlan, *shares: float | Exception, cancel: CancelToken | None = None
) -> tuple[Choice | None, list[Any]]:
    stream = choose(plan, Told(*shares), network(), device="cpu", cancel=cancel or CancelToken())
    events = []
    while True:
        try:
            events.append(next(stream))
        except StopIteration as end:
            return end.value, events


def test_the_spread_is_a_candidate_where_the_restorer_can_be_asked(restorer):
    names = [one.name for one in candidates(plan_for(restorer), network())]
    assert names == [TRAINED, TURNED, ALL, SPREAD, SMOOTHED, BARE]
    assert [one.name for one in candidates(plan_for(None), network())] == [TRAINED, SMOOTHED, BARE]


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), TRAINED),
        ((0.5, 0.46, 0.46, 0.46, 0.46, 0.46), TRAINED),  # less, but not clearly
        ((0.5, 0.45, 0.45, 0.45, 0.45, 0.45), TURNED),
        ((0.5, 0.45, 0.40, 0.40, 0.40, 0.40), ALL),
        ((0.5, 0.45, 0.44, 0.42, 0.41, 0.405), BARE),  # 0.405 is nine tenths of 0.45, the best at that time
        ((0.5, 0.45, 0.45, 0.30, 0.28, 0.28), SPREAD),
        ((0.5, 0.46, 0.46, 0.44, 0.44, 0.44), SPREAD),  # against the one kept so far, not the best that was seen
        ((0.5, 0.9, 0.9, 0.9, 0.2, 0.19), SMOOTHED),
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), TRAINED),
        ((1.0, 1.0, 1.0, 1.0, 1.0, 1.0), TRAINED),
    ],
)
def test_another_takes_the_place_of_the_trained_network_only_where_it_masks_clearly_less(restorer, shares, kept):
    assert MARGIN == 0.9
    choice, events = chosen(plan_for(restorer), *shares)
    assert choice is not None
    assert choice.kept.name == kept
    assert choice.judged == tuple(events)
    assert [(event.done, event.total, event.masked_share) for event in events] == [
        (i + 1, 6, share) for i, share in enumerate(shares)
    ]


def test_whoever_asks_for_the_papers_loss_gets_its_network(restorer):
    plan = plan_for(restorer, recipe=replace(TINY, loss="paper"))
    choice, events = chosen(plan, 0.9, 0.1, 0.1, 0.1)
    assert choice is not None
    assert choice.kept.name == TRAINED
    assert choice.kept.part.spec == network().spec
    assert [event.name for event in events] == [TRAINED, SPREAD, SMOOTHED, BARE]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), ValueError("7 values that are NaN"), MemoryError()]
)
def test_a_candidate_that_cannot_be_judged_is_left_out_and_the_training_is_not_lost(restorer, error):
    choice, events = chosen(plan_for(restorer), 0.5, error, error, 0.45, error, 0.44)
    assert choice is not None
    assert choice.kept.name == SPREAD
    assert [one.name for one in choice.judged] == [TRAINED, SPREAD, BARE]
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert [message.partition(" could")[0] for message in warned] == [f"the {name}" for name in (TURNED, ALL, SMOOTHED)]
    with pytest.raises(type(error)):
        chosen(plan_for(restorer), error)


@pytest.mark.parametrize("distance", ["l1", "ssim"])
def test_what_is_not_finite_somewhere_is_no_candidate(restorer, distance):
    """A walk along thresholds would take NaN for trusted."""

    class Broken(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            answer = restorer.network(image)
            if image.stride(-1) != 1:  # a turned view
                answer[..., 5, 7] = torch.nan
            return answer

    plan = plan_for(replace(restorer, network=Broken()), distance=distance)
    judge = Judge(plan, training_fields(2, shape=(64, 64)))
    stream = choose(plan, judge, network(), device="cpu", cancel=CancelToken())
    told = [event.name if isinstance(event, UncertaintyJudged) else event.message for event in stream]
    assert [name for name in told if name in (TRAINED, TURNED, ALL, SPREAD, SMOOTHED, BARE)] == [
        TRAINED,
        SMOOTHED,
        BARE,
    ]
    assert sum("values that are NaN or infinite" in message for message in told) == 3


def test_a_comparison_can_be_stopped_between_two_fields():
    plan, cancel, seen = plan_for(None), CancelToken(), []

    class Slow(torch.nn.Module):
        stride_px, halo_px = 1, 0

        def forward(self, degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
            seen.append(cancel.cancel())
            return torch.ones_like(restored)

    judge = Judge(plan, training_fields(4))
    assert judge.shares(Slow(), cancel=cancel) is None
    assert len(seen) == 1


def test_fields_in_which_nothing_is_masked_are_counted():
    """Of four fields three are without error, and the map knows it."""
    plan = plan_for(None, tolerance=0.05)
    fields = training_fields(4)
    good = [replace(one, restored=one.truth) for one in fields[1:]]
    judge = Judge(plan, [fields[0], *good])

    class Knows(torch.nn.Module):
        stride_px, halo_px = 1, 0

        def forward(self, degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
            wrong = torch.from_numpy(np.abs(fields[0].restored - fields[0].truth))[None]
            return 1e-3 + wrong * torch.equal(restored[0], torch.from_numpy(fields[0].restored))

    share, untouched = judge.shares(Knows())
    assert 0 < share < 0.25
    assert untouched == 0.75


@pytest.mark.parametrize("place", range(6))
def test_what_is_chosen_is_what_the_bundle_holds_and_the_certificate_is_for(restorer, monkeypatch, tmp_path, place):
    monkeypatch.setattr("napari_maskcal.training_choice.preferred", lambda shares: place)
    plan = plan_for(restorer, tolerance=0.3)
    result = list(stage.training(plan, device="cpu"))[-1].result
    names = (TRAINED, TURNED, ALL, SPREAD, SMOOTHED, BARE)
    assert result.kept == names[place]
    network = result.mask_model.card.network
    assert (network["kind"], network.get("of", {}).get("kind"), network.get("window_px")) == [
        ("budget", "mask-unet", None), *[("budget", "mask-ensemble", None)] * 2, ("views", None, None),
        ("residual", None, 9), ("residual", None, 1),
    ][place]  # fmt: skip
    titles = {TRAINED: "mask network for", TURNED: "mask network and spread for",
              ALL: "mask network, spread and residual for"}  # fmt: skip
    title = titles.get(result.kept, f"{result.kept} for")
    assert result.mask_model.card.name.startswith(title)
    assert ("beside a mask network" in result.mask_model.card.citation) == (place > 2)
    assert result.certificate.fingerprint.mask_sha256 == result.mask_model.sha256
    result.save(tmp_path / "mine.maskcal")
    assert read_bundle(tmp_path / "mine.maskcal").card == result.mask_model.card


def test_a_comparison_that_is_stopped_has_no_choice():
    cancel = CancelToken()
    cancel.cancel()
    assert chosen(plan_for(None), cancel=cancel) == (None, [])


def spread_over_turns(restorer: Restorer, image: torch.Tensor) -> torch.Tensor:
    """By torch's own deviation over the four answers."""
    answers = [restorer.network(image.rot90(turn, (-2, -1))).rot90(-turn, (-2, -1)) for turn in range(4)]
    return torch.stack(answers).std(dim=0, correction=0) + 1e-3


def test_four_views_are_the_quarter_turns(restorer):
    torch.manual_seed(2)
    image = torch.rand(1, 1, 64, 64)
    made = next(one.part.network() for one in candidates(plan_for(restorer), network()) if one.name == SPREAD)
    with torch.inference_mode():
        found = made(image, restorer.network(image), restorer.network)
        torch.testing.assert_close(found, spread_over_turns(restorer, image))


def test_the_spread_beside_the_network_is_their_geometric_mean_before_the_budget(restorer):
    plan = plan_for(restorer, distance="l2")
    made: Any = next(one.part.network() for one in candidates(plan, network()) if one.name == TURNED)
    torch.manual_seed(1)
    degraded = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        restored = restorer.network(degraded)
        mean = (network()(degraded, restored) * spread_over_turns(restorer, degraded)).sqrt()
        torch.testing.assert_close(made.of(degraded, restored, restorer.network), mean)
        assert (made(degraded, restored, restorer.network) != mean).any()
        every: Any = next(one.part.network() for one in candidates(plan, network()) if one.name == ALL)
        three = (mean**2 * ((restored - degraded).abs() + 1e-3)) ** (1 / 3)
        torch.testing.assert_close(every.of(degraded, restored, restorer.network), three)
    assert made.power == every.power == plan.power == 4


@pytest.mark.parametrize("factor", [1, 2])
def test_the_judge_asks_the_restorer_in_tiles_as_the_engine_does(restorer, monkeypatch, factor):
    """Of a field that is several tiles wide, against the whole plane at once."""

    class Finer(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return restorer.network(image).repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    own = replace(restorer, network=Finer(), card=restorer.card.model_copy(update={"scale_factor": factor}))
    torch.manual_seed(4)
    degraded = torch.rand(1, 1, 96, 400)
    made = next(one.part.network() for one in candidates(plan_for(own), network()) if one.name == SPREAD)
    with torch.inference_mode():
        restored = own.network(degraded)
        expected = made(degraded, restored, own.network)[0, 0].numpy()
    images = degraded[0, 0].numpy(), restored[0, 0].numpy()
    monkeypatch.setattr("napari_maskcal.training_validation._LARGEST_TILE_PX", 160 * factor)
    np.testing.assert_allclose(uncertainty_map(made, *images, own), expected, rtol=1e-4, atol=1e-6)
    uncut = replace(own, card=own.card.model_copy(update={"halo_px": None}))
    np.testing.assert_allclose(uncertainty_map(made, *images, uncut), expected, rtol=1e-4, atol=1e-6)
    blind = replace(own, card=own.card.model_copy(update={"halo_px": 0}))
    assert np.abs(uncertainty_map(made, *images, blind) - expected).max() > 1e-4


def test_a_candidate_survives_its_bundle_and_says_the_same_in_the_engine(restorer, tmp_path):
    plan = plan_for(restorer)
    for candidate in candidates(plan, network()):
        model = stage._mask_model(plan, candidate, [], notes="")
        path = tmp_path / "mask.maskcal"
        write_bundle(path, model.network, model.card, None)
        again = read_bundle(path)
        assert again.sha256 == model.sha256
        assert again.card.asks_restorer == (candidate.name in (TURNED, ALL, SPREAD))
        (plane,) = noisy_planes(1, 96, 128)
        done = [
            event
            for event in process(from_array(plane[None], axes="ZYX", name="cells"), [(0,)], restorer, again)
            if isinstance(event, PlaneDone)
        ]
        direct = model.uncertainty(plane, restorer(plane), restorer)
        np.testing.assert_allclose(done[0].uncertainty, direct, rtol=1e-4, atol=1e-5)


def test_what_asks_for_the_restorer_is_refused_without_one(restorer):
    plan = plan_for(restorer)
    for candidate in candidates(plan, network()):
        if candidate.name not in (TURNED, ALL, SPREAD):
            continue
        model = stage._mask_model(plan, candidate, [], notes="")
        (plane,) = noisy_planes(1, 96, 128)
        with pytest.raises(ValueError, match="asks the restorer again, for turned views: give the restorer"):
            model.uncertainty(plane, restorer(plane))
        given = Given(restored=from_array(restorer(plane)[None], axes="ZYX", name="restored cells"))
        with pytest.raises(ValueError, match="given restored image cannot be asked; choose the restorer itself"):
            list(process(from_array(plane[None], axes="ZYX", name="cells"), [(0,)], GIVEN_RESTORER, model, given=given))


def test_the_card_names_what_trained_and_chose_whatever_is_kept(restorer):
    plan = plan_for(restorer)
    for candidate in candidates(plan, network()):
        card = stage._mask_model(plan, candidate, [], notes="").card
        assert set(card.trained_on) == {*plan.split.training, *plan.split.validation}


def test_the_trained_network_itself_is_not_changed_by_being_compared(restorer):
    one = network()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    for candidate in candidates(plan_for(restorer), one):
        made = candidate.part.network()
        for weight in made.parameters():
            assert not weight.requires_grad
    assert one.training
    assert all(weight.requires_grad for weight in one.parameters())
    assert all((tensor == before[name]).all() for name, tensor in one.state_dict().items())
