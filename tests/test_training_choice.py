"""Which uncertainty goes into the bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import napari_maskcal.training as stage
from napari_maskcal.bundle import read_bundle, write_bundle
from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.mask.scores import Spread
from napari_maskcal.models import Restorer, load_restorer
from napari_maskcal.restore.events import CancelToken
from napari_maskcal.restore.kinds import make_network
from napari_maskcal.training_choice import (
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
from training_triplets import TINY, triplets


class Told:
    """A judge whose answers are known before."""

    def __init__(self, *shares: float) -> None:
        self.answers = iter(shares)

    def shares(self, module: torch.nn.Module) -> tuple[float, float]:
        assert not module.training
        return next(self.answers), 0.25


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


def chosen(plan: TrainingPlan, *shares: float, cancel: CancelToken | None = None) -> tuple[Choice | None, list[Any]]:
    stream = choose(plan, Told(*shares), network(), device="cpu", cancel=cancel or CancelToken())
    events = []
    while True:
        try:
            events.append(next(stream))
        except StopIteration as end:
            return end.value, events


def test_the_spread_is_a_candidate_where_a_bundle_can_hold_the_restorer(restorer):
    names = [one.name for one in candidates(plan_for(restorer), network())]
    assert names == [TRAINED, TURNED, SPREAD, SMOOTHED, BARE]
    finer = replace(restorer, card=restorer.card.model_copy(update={"scale_factor": 2}))
    foreign = replace(restorer, card=restorer.card.model_copy(update={"network": {"kind": "onnx"}}))
    for other in (finer, foreign, None):
        assert [one.name for one in candidates(plan_for(other), network())] == [TRAINED, SMOOTHED, BARE]


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ((0.5, 0.5, 0.5, 0.5, 0.5), TRAINED),
        ((0.5, 0.46, 0.46, 0.46, 0.46), TRAINED),  # less, but not clearly
        ((0.5, 0.45, 0.45, 0.45, 0.45), TURNED),
        ((0.5, 0.45, 0.42, 0.41, 0.405), BARE),  # 0.405 is nine tenths of 0.45, the best at that time
        ((0.5, 0.45, 0.30, 0.28, 0.28), SPREAD),
        ((0.5, 0.9, 0.9, 0.2, 0.19), SMOOTHED),
        ((0.0, 0.0, 0.0, 0.0, 0.0), TRAINED),
        ((1.0, 1.0, 1.0, 1.0, 1.0), TRAINED),
    ],
)
def test_another_takes_the_place_of_the_trained_network_only_where_it_masks_clearly_less(restorer, shares, kept):
    assert MARGIN == 0.9
    choice, events = chosen(plan_for(restorer), *shares)
    assert choice is not None
    assert choice.kept.name == kept
    assert choice.judged == tuple(events)
    assert [(event.done, event.total, event.masked_share) for event in events] == [
        (i + 1, 5, share) for i, share in enumerate(shares)
    ]


def test_whoever_asks_for_the_papers_loss_gets_its_network(restorer):
    plan = plan_for(restorer, recipe=replace(TINY, loss="paper"))
    choice, events = chosen(plan, 0.9, 0.1, 0.1, 0.1)
    assert choice is not None
    assert choice.kept.name == TRAINED
    assert choice.kept.part.spec == network().spec
    assert [event.name for event in events] == [TRAINED, SPREAD, SMOOTHED, BARE]


def test_a_comparison_that_is_stopped_has_no_choice():
    cancel = CancelToken()
    cancel.cancel()
    assert chosen(plan_for(None), cancel=cancel) == (None, [])


def test_the_spread_beside_the_network_is_their_geometric_mean_before_the_budget(restorer):
    plan = plan_for(restorer, distance="l2")
    turned = next(one for one in candidates(plan, network()) if one.name == TURNED)
    made: Any = turned.part.network()
    torch.manual_seed(1)
    degraded, restored = torch.rand(2, 1, 1, 64, 64)
    spec = {"kind": "spread", "turns": True, "mirrors": False, "members": [restorer.card.network]}
    spread = make_network(spec, role="mask").eval()
    assert isinstance(spread, Spread)
    spread.members[0].load_state_dict(restorer.network.state_dict())
    with torch.inference_mode():
        mean = (network()(degraded, restored) * spread(degraded, restored)).sqrt()
        torch.testing.assert_close(made.of(degraded, restored), mean)
        assert (made(degraded, restored) != made.of(degraded, restored)).any()
    assert made.power == plan.power == 4
    assert made.halo_px >= spread.halo_px


def test_four_views_are_the_quarter_turns(restorer):
    torch.manual_seed(2)
    image = torch.rand(1, 1, 64, 64)
    part = next(one.part for one in candidates(plan_for(restorer), network()) if one.name == SPREAD)
    with torch.inference_mode():
        answers = [restorer.network(image.rot90(turn, (-2, -1))).rot90(-turn, (-2, -1)) for turn in range(4)]
        expected = torch.stack(answers).std(dim=0, correction=0) + 1e-3
        torch.testing.assert_close(part.network()(image, image), expected)


def test_a_candidate_survives_its_bundle(restorer, tmp_path):
    plan = plan_for(restorer)
    for candidate in candidates(plan, network()):
        model = stage._mask_model(plan, candidate, [], notes="")
        path = tmp_path / "mask.maskcal"
        write_bundle(path, model.network, model.card, None)
        again = read_bundle(path)
        assert again.sha256 == model.sha256
        torch.manual_seed(3)
        images = torch.rand(2, 1, 1, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(again.network(*images), model.network(*images))


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


def test_a_bundle_with_the_restorers_spread_knows_the_restorers_specimens(restorer):
    card = restorer.card.model_copy(update={"trained_on": ("cell line 7",), "trained_on_sha256": ("ab" * 32,)})
    plan = plan_for(replace(restorer, card=card))
    of_part = {one.name: stage._mask_model(plan, one, [], notes="").card for one in candidates(plan, network())}
    for name, made in of_part.items():
        assert set(plan.split.training) <= set(made.trained_on)
        assert ("cell line 7" in made.trained_on) == (name in (TURNED, SPREAD))
        assert made.trained_on_sha256 == ("ab" * 32,)
