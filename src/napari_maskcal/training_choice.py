"""Which uncertainty goes into the bundle: the trained network, or what masks clearly less of the validation fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_maskcal.mask.untrained import WINDOW_PX
from napari_maskcal.restore.events import UncertaintyJudged, Warned
from napari_maskcal.training_validation import as_used

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from napari_maskcal.mask.composed import Composed
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.restore.events import CancelToken, Event
    from napari_maskcal.training_plan import TrainingPlan
    from napari_maskcal.training_validation import Judge

TRAINED = "trained network"
TURNED = "trained network with the restorer's spread"
ALL = "trained network with the restorer's spread and the residual"
SPREAD = "restorer's spread"
SMOOTHED = "smoothed residual"
BARE = "bare residual"
MARGIN = 0.9
"""A later candidate has to mask at most this share of what the one kept so far masks.

Those after the first cost more, or say less where the errors are; and two trainings that differ in nothing but
their seed differ by a tenth.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """An uncertainty that could go into the bundle."""

    name: str
    part: Composed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """What was chosen, and what it was chosen from."""

    kept: Candidate
    judged: tuple[UncertaintyJudged, ...]


def candidates(plan: TrainingPlan, network: MaskNetwork) -> Iterator[Candidate]:
    """Yield what can be had for a plan, in the order of preference.

    The spread is that of the restorer over quarter turns, which costs three more of its passes for each plane. In the
    benchmark, mirrored views beside them changed the masks by a few percent. Restorers of volumes have no turned views.
    """
    from napari_maskcal.mask.composed import budget_of, mean_of, of_network, of_residual, of_views

    yield Candidate(name=TRAINED, part=as_used(network, power=plan.power))
    if plan.restorer.can_be_asked:
        spread = of_views(mirrors=False)
        if plan.power is not None:
            together = [of_network(network), spread]
            yield Candidate(name=TURNED, part=budget_of(mean_of(together), power=plan.power))
            together.append(of_residual(window_px=1))
            yield Candidate(name=ALL, part=budget_of(mean_of(together), power=plan.power))
        yield Candidate(name=SPREAD, part=spread)
    yield Candidate(name=SMOOTHED, part=of_residual(window_px=WINDOW_PX))
    yield Candidate(name=BARE, part=of_residual(window_px=1))


def choose(
    plan: TrainingPlan, judge: Judge, network: MaskNetwork, *, device: str, cancel: CancelToken
) -> Generator[Event, None, Choice | None]:
    """Judge all candidates on the validation fields and return the one to keep; None if it was stopped.

    Whoever asks for the paper's loss gets the network that it trains; the others are only told of. A candidate that
    cannot be judged, such as one whose restorer does not take turned planes, is left out: the training must not be
    lost for it.
    """
    from napari_maskcal.restore.device import pick_device

    found, where = list(candidates(plan, network)), pick_device(device)
    judged: list[UncertaintyJudged] = []
    for done, candidate in enumerate(found, start=1):
        try:
            shares = judge.shares(candidate.part.network(), device=where, cancel=cancel)
        except (RuntimeError, ValueError, MemoryError) as error:
            if candidate.name == TRAINED:
                raise
            told = " ".join(str(error).split())[:200]
            yield Warned(message=f"the {candidate.name} could not be compared, and is left out: {told}")
            continue
        if shares is None:
            return None
        judged.append(UncertaintyJudged(
            done=done, total=len(found), name=candidate.name, masked_share=shares[0], untouched_share=shares[1]
        ))  # fmt: skip
        yield judged[-1]
    best = 0 if plan.recipe.loss == "paper" else preferred([one.masked_share for one in judged])
    kept = next(candidate for candidate in found if candidate.name == judged[best].name)
    return Choice(kept=kept, judged=tuple(judged))


def preferred(shares: Sequence[float]) -> int:
    """Return the place of the one to keep, of masked shares in the order of preference."""
    kept = 0
    for place, share in enumerate(shares):
        if share < shares[kept] and share <= MARGIN * shares[kept]:
            kept = place
    return kept
