"""The uncertainties that are compared: each a function from a task to one map for each held-out field.

``METHODS`` names them; ``DEFAULT`` is the one that the package offers first. What they learn, they learn from the
task's training and validation fields alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from napari_maskcal.mask.budget import budget_power
from napari_maskcal.mask.collapse import CollapsedError
from napari_maskcal.mask.untrained import WINDOW_PX
from napari_maskcal.training_choice import ALL, BARE, SMOOTHED, SPREAD, TRAINED, TURNED, preferred
from paper_adapted import adapted as adapt
from paper_choice import validation_shares
from paper_fields import stacked
from paper_inputs import with_features, with_scales
from paper_trained import budgets, learned, maps_of, residuals, smoothed
from paper_views import QUARTERS, VIEWS, spread, spread_over

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from paper_tasks import Task
    from paper_trained import Learned

    Map = NDArray[np.float32]
    Part = Literal["validation", "held_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all methods of one task share.

    Attributes
    ----------
    cache
        A folder for what is to outlast this run.
    seed
        Of all that is random.
    say
        Prints a line of progress.
    kept
        What one method or distance has made and the next one needs too.
    """

    cache: Path
    seed: int
    say: Callable[[str], None]
    kept: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, made once for each key."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a method: maps for one task, at one distance and some tolerances.

    `lpips` and the like come as the registry's distance; a method that trains with it may ask for its `loss`.
    """

    task: Task
    distance: Any
    tolerances: Sequence[float]
    workshop: Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """A method's answer.

    Attributes
    ----------
    held_out
        (Y, X), float32, above 0, for each held-out field of the task; one such list for all tolerances, or one for
        each (a threshold that is adapted to the field is its map divided by the prediction).
    train_s
        Seconds that training took, the restorer's left out; 0 for what needs none.
    infer_s
        Seconds for one field.
    kept
        What was chosen for each tolerance, where something was.
    """

    held_out: Sequence[Map] | Mapping[float, Sequence[Map]]
    train_s: float = 0.0
    infer_s: float = 0.0
    kept: Mapping[float, str] = field(default_factory=dict)

    def at(self, tolerance: float) -> Sequence[Map]:
        """Return the maps for one tolerance."""
        return self.held_out[tolerance] if isinstance(self.held_out, dict) else self.held_out  # type: ignore[index]


def constant(question: Question) -> Maps:
    """Return the same uncertainty everywhere: fields are believed whole, or not at all."""
    return Maps(held_out=[np.ones(f.truth.shape[1:], np.float32) for f in question.task.held_out])


def residual(question: Question) -> Maps:
    """Return |restored - degraded|, the norm over channels."""
    return _timed(lambda: residuals(question.task.held_out, 1))


def residual_smooth(question: Question) -> Maps:
    """Return the residual's mean over 9 x 9 pixels: what the package offers before anything is trained."""
    return _timed(lambda: residuals(question.task.held_out, WINDOW_PX))


def residual_budget(question: Question) -> Maps:
    """Return the error budget of the smoothed residual."""
    return _timed(lambda: _budgets(question, residuals(question.task.held_out, WINDOW_PX)))


def quantile(question: Question) -> Maps:
    """Return the width between two learned quantiles, as im2im-uq does."""
    return _learned(question, learned(question, "quantile"))


def paper(question: Question) -> Maps | None:
    """Return 1 - m of the paper's loss, trained with the very distance; None where every weight made it collapse."""
    try:
        return _learned(question, learned(question, "paper", distance=question.distance.name))
    except CollapsedError as error:
        question.workshop.say(str(error))
        return None


def score(question: Question) -> Maps:
    """Return what is fitted to the logarithm of the error, by squares."""
    return _learned(question, learned(question, "score"))


def likelihood(question: Question) -> Maps:
    """Return what is fitted to the error by the exponential likelihood: its mean."""
    return _learned(question, learned(question, "likelihood"))


def score_budget(question: Question) -> Maps:
    """Return the error budget of `score`."""
    return _learned(question, learned(question, "score"), after=_budgets)


def likelihood_budget(question: Question) -> Maps:
    """Return the error budget of `likelihood`."""
    return _learned(question, learned(question, "likelihood"), after=_budgets)


def budget(question: Question) -> Maps:
    """Return the error budget of `quantile`."""
    return _learned(question, learned(question, "quantile"), after=_budgets)


def budget_smooth(question: Question) -> Maps:
    """Return the error budget of `quantile`, smoothed before."""
    return _learned(question, learned(question, "quantile"), after=lambda q, maps: _budgets(q, smoothed(maps)))


def budget_half(question: Question) -> Maps:
    """Return the geometric mean of `quantile` and its error budget: a threshold that is adapted half the way."""
    return _learned(question, learned(question, "quantile"), after=lambda q, maps: _means(maps, _budgets(q, maps)))


def budget_pair(question: Question) -> Maps:
    """Return the error budget of two networks, `quantile` and `likelihood`: a small ensemble."""
    one, other = (learned(question, loss) for loss in ("quantile", "likelihood"))
    fields = question.task.held_out
    maps = _timed(lambda: _budgets(question, _means(*(maps_of(found.network, fields) for found in (one, other)))))
    return replace(maps, train_s=one.train_s + other.train_s)


def budget_features(question: Question) -> Maps | None:
    """Return `budget` of a network that also sees the restorer's last features; None where others trained that."""
    return _with_more(question, "features", with_features)


def budget_scales(question: Question) -> Maps | None:
    """Return `budget` of a network that also sees both images at three coarser scales."""
    return _with_more(question, "scales", with_scales)


def adapted(question: Question) -> Maps | None:
    """Return `quantile` over a threshold that is predicted for each field; None where thresholds are not exact."""
    if not question.distance.monotone:
        return None
    task, found = question.task, learned(question, "quantile")
    seen = [*task.training, *task.validation]
    known = question.workshop.once("adapted", lambda: maps_of(found.network, seen))
    maps = _timed(lambda: maps_of(found.network, task.held_out))
    of_tolerance = {
        t: adapt(maps.held_out, task.held_out, (known, seen), question.distance, t) for t in question.tolerances
    }
    return replace(maps, held_out=of_tolerance, train_s=found.train_s)


def _with_more(question: Question, what: str, add: Callable[[Task], Task | None]) -> Maps | None:
    task = question.workshop.once(what, lambda: add(question.task))
    return None if task is None else budget(replace(question, task=task))


def budget_turned(question: Question) -> Maps:
    """Return the error budget of `quantile` and `tta` together: eight passes of the restorer for each field."""
    found, turned = learned(question, "quantile"), tta(question)
    maps = _timed(lambda: _budgets(question, _means(maps_of(found.network, question.task.held_out), turned.held_out)))
    return replace(maps, train_s=found.train_s, infer_s=maps.infer_s + turned.infer_s)


def _learned(
    question: Question, found: Learned, *, after: Callable[[Question, Sequence[Map]], Sequence[Map]] | None = None
) -> Maps:
    maps = _timed(lambda: _after(question, maps_of(found.network, question.task.held_out), after))
    return replace(maps, train_s=found.train_s)


def _after(question: Question, maps: Sequence[Map], after: Any) -> Sequence[Map]:
    return maps if after is None else after(question, maps)


def _means(*maps: Sequence[Map]) -> Sequence[Map]:
    """Return the geometric mean of several maps of each field."""
    return [np.exp(np.mean(np.log(own), axis=0)) for own in zip(*maps, strict=True)]


def _budgets(question: Question, maps: Sequence[Map]) -> Sequence[Map]:
    return budgets(maps, power=budget_power(question.distance))


def ensemble(question: Question) -> Maps | None:
    """Return the spread of several restorers of other seeds; None where there is only the pretrained one."""
    task = question.task
    if len(task.networks) < 2:
        return None
    degraded = torch.from_numpy(stacked(task.held_out, "degraded"))

    @torch.inference_mode()
    def maps() -> Sequence[Map]:
        return spread(torch.stack([torch.cat([n(part) for part in degraded.split(16)]) for n in task.networks]))

    return replace(question.workshop.once("ensemble", lambda: _timed(maps)), train_s=task.training_seconds[1])


def tta(question: Question) -> Maps:
    """Return the spread of the restorer's answers to turned and mirrored views of the degraded image."""
    task = question.task
    return question.workshop.once("tta", lambda: _timed(lambda: spread_over(VIEWS[task.views], task, task.held_out)))


def chosen(question: Question) -> Maps:
    """Return what training puts into the bundle: of six uncertainties the one that the validation fields prefer.

    It is chosen for each tolerance, as for a user who asks for that one.
    """
    task, found, started = question.task, learned(question, "quantile"), time.perf_counter()
    spread_s = _quarters(question, "held_out").infer_s
    candidates: dict[str, tuple[Callable[[Part], Sequence[Map]], float]] = {
        TRAINED: (lambda part: _budgets(question, maps_of(found.network, getattr(task, part))), 0.0),
        TURNED: (lambda part: _budgets(question, _with_quarters(question, found, part)), spread_s),
        ALL: (lambda part: _budgets(question, _with_quarters(question, found, part, residual=True)), spread_s),
        SPREAD: (lambda part: _quarters(question, part).held_out, spread_s),
        SMOOTHED: (lambda part: residuals(getattr(task, part), WINDOW_PX), 0.0),
        BARE: (lambda part: residuals(getattr(task, part), 1), 0.0),
    }
    names = list(candidates)
    shares = validation_shares([candidates[name][0]("validation") for name in names], question)
    kept = {tolerance: names[preferred(own)] for tolerance, own in shares.items()}
    seconds = time.perf_counter() - started
    made = {}
    for name in dict.fromkeys(kept.values()):
        make, before = candidates[name]
        maps = _timed(lambda make=make: make("held_out"))  # type: ignore[misc]
        made[name] = replace(maps, infer_s=maps.infer_s + before)
    return Maps(
        held_out={tolerance: made[name].held_out for tolerance, name in kept.items()}, kept=kept,
        train_s=found.train_s + seconds, infer_s=float(np.mean([made[name].infer_s for name in kept.values()])),
    )  # fmt: skip


def _with_quarters(question: Question, found: Learned, part: Part, *, residual: bool = False) -> Sequence[Map]:
    fields = getattr(question.task, part)
    together: list[Any] = [maps_of(found.network, fields), _quarters(question, part).held_out]
    return _means(*together, *([residuals(fields, 1)] if residual else []))


def _quarters(question: Question, part: Part) -> Maps:
    """Return the spread over quarter turns, as the package makes it, also of a mosaic, of which they are no views."""
    task = question.task
    return question.workshop.once(
        ("quarters", part), lambda: _timed(lambda: spread_over(QUARTERS, task, getattr(task, part)))
    )


def _timed(make: Callable[[], Sequence[Map]]) -> Maps:
    started = time.perf_counter()
    maps = make()
    return Maps(held_out=maps, infer_s=(time.perf_counter() - started) / len(maps))


METHODS: dict[str, Callable[[Question], Maps | None]] = {
    "constant": constant,
    "residual": residual,
    "residual_smooth": residual_smooth,
    "residual_budget": residual_budget,
    "tta": tta,
    "ensemble": ensemble,
    "quantile": quantile,
    "paper": paper,
    "score": score,
    "likelihood": likelihood,
    "budget": budget,
    "score_budget": score_budget,
    "likelihood_budget": likelihood_budget,
    "budget_smooth": budget_smooth,
    "budget_half": budget_half,
    "budget_pair": budget_pair,
    "budget_turned": budget_turned,
    "chosen": chosen,
    "budget_features": budget_features,
    "budget_scales": budget_scales,
    "adapted": adapted,
}
DEFAULT = "chosen"
VARIANTS = ("residual_budget", "score_budget", "likelihood_budget", "budget_smooth", "budget_half", "budget_pair")
"""What was tried and is not kept: left out where time is short."""
TRIALS = ("budget_features", "budget_scales", "adapted")
"""What is run only where it is asked for by name; not in the kept table."""
