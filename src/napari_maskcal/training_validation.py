"""What a mask network is judged by while it trains: how much it masks at the promise that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import THRESHOLD_GRID, prefix_threshold, walk
from napari_maskcal.calibrate.guarantee import marginal_rank
from napari_maskcal.calibrate.threshold import is_exact, threshold_curve
from napari_maskcal.mask.recipe import Validation
from napari_maskcal.restore.asking import asks_restorer, uncertainty_of, with_units
from napari_maskcal.restore.tiles import plan_tiles, smallest_tile_px

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray
    from torch import nn

    from napari_maskcal.distance.registry import Distance
    from napari_maskcal.mask.composed import Composed
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.mask.recipe import TrainingField
    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.card import ModelCard
    from napari_maskcal.restore.events import CancelToken
    from napari_maskcal.restore.tiles import Plan
    from napari_maskcal.training_plan import TrainingPlan

    Map = NDArray[Any]

PERCENTILES = (30, 60, 80)  # of the distances: what networks are judged at where no tolerance is asked for
MOST_PIXELS = 2**24  # that are looked at in each validation
_SHOWN = 75  # percentile of the distances of the field that previews show
_LARGEST_TILE_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preview:
    """One validation field, in normalised intensities, as the network of the moment masks it.

    `degraded` may be coarser; the others are (Y, X) on the restored grid.
    """

    name: str
    degraded: NDArray[np.float32]
    restored: NDArray[np.float32]
    truth: NDArray[np.float32]
    uncertain: NDArray[np.bool_]


def validation_thresholds(
    uncertainties: Sequence[Map],
    restored: Sequence[Map],
    truths: Sequence[Map],
    distance: Distance,
    tolerances: Sequence[float],
    *,
    confidence: float,
) -> list[float]:
    """Return the threshold of a binary mask that these very fields give, at each tolerance.

    Parameters
    ----------
    uncertainties, restored, truths
        Of each field, (Y, X), or (C, Y, X) of the images.
    distance, tolerances
        See `image_threshold`.
    confidence
        The threshold is the k-th smallest of the fields' own, with the rank of `conformal_threshold`; where there are
        too few fields for a rank, the smallest.
    """
    of_fields = _image_thresholds(uncertainties, restored, truths, distance, tolerances)
    rank = max(1, marginal_rank(len(uncertainties), confidence))
    return [float(t) for t in np.sort(of_fields, axis=0)[rank - 1]]


def masked_shares(uncertainties: Sequence[Map], thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Return (fields, thresholds), the share of each field's pixels that a binary mask marks."""
    return np.array([[(u > threshold).mean() for threshold in thresholds] for u in uncertainties])


def _image_thresholds(
    uncertainties: Sequence[Map],
    restored: Sequence[Map],
    truths: Sequence[Map],
    distance: Distance,
    tolerances: Sequence[float],
) -> NDArray[np.float64]:
    """Return (fields, tolerances), from one sort or one walk of each field."""
    fields = list(zip(uncertainties, restored, truths, strict=True))
    if is_exact(distance):
        curves = [threshold_curve(*field, distance=distance, tolerances=tolerances, mask="binary") for field in fields]
        return np.array(curves)
    named = ((f"field {i}", *field) for i, field in enumerate(fields))
    walked = np.array(list(walk(named, distance, mask="binary", stop_above=max(tolerances))))
    return np.stack([prefix_threshold(walked, THRESHOLD_GRID, t) for t in tolerances], axis=1)


def judged_tolerances(
    distances: NDArray[np.float64], *, tolerance: float | None, confidence: float
) -> tuple[tuple[float, ...], str]:
    """Return the tolerances that networks are judged at, and why they are not the one that was asked for, if so.

    Raises
    ------
    ValueError
        If no field is wrong at all.
    """
    if not (distances > 0).any():
        raise ValueError("the restored validation images are their truths: there is no error to learn")
    spread = tuple(float(t) for t in np.percentile(distances[distances > 0], PERCENTILES))
    if tolerance is None:
        return spread, ""
    rank = max(1, marginal_rank(len(distances), confidence))
    if np.count_nonzero(distances > tolerance) >= rank:
        return (tolerance,), ""
    told = ", ".join(f"{t:.3g}" for t in spread)
    return spread, (
        f"at the tolerance {tolerance:g} nothing need be masked in {100 * confidence:g} % of the validation fields; "
        f"networks are compared at {told} instead"
    )


class Judge:
    """Judges networks on the validation fields of a plan; made once, called at each validation.

    Attributes
    ----------
    fields
        At most `MOST_PIXELS` of them.
    tolerances, remark
        See `judged_tolerances`.
    """

    def __init__(self, plan: TrainingPlan, fields: Sequence[TrainingField]) -> None:
        self.plan, self.fields = plan, thinned(fields)
        self.restored = [field.restored[0] for field in self.fields]
        self.truths = [field.truth[0] for field in self.fields]
        self._distances = np.array(
            [_distance(plan.distance, *images) for images in zip(self.restored, self.truths, strict=True)]
        )
        self.tolerances, self.remark = judged_tolerances(
            self._distances, tolerance=plan.tolerance, confidence=plan.confidence
        )
        wanted = np.percentile(self._distances, _SHOWN)
        self._shown = int(np.abs(self._distances - wanted).argmin())

    def __call__(self, network: MaskNetwork) -> Validation:
        """Return what a network in training masks, used as it will be used."""
        maps = self._maps(as_used(network, power=self.plan.power).network()) or []
        thresholds = self._thresholds(maps)
        threshold = thresholds[len(thresholds) // 2]
        shown = self.fields[self._shown]
        preview = Preview(
            name=shown.name, degraded=shown.degraded[0], restored=shown.restored[0], truth=shown.truth[0],
            uncertain=maps[self._shown] > threshold,
        )  # fmt: skip
        return Validation(masked_share=float(masked_shares(maps, thresholds).mean()), preview=preview)

    def shares(
        self, module: nn.Module, *, device: torch.device | str = "cpu", cancel: CancelToken | None = None
    ) -> tuple[float, float] | None:
        """Return the masked share of any uncertainty, and the share of the fields that it leaves alone.

        Both are means over fields and tolerances; None where it was stopped.

        Raises
        ------
        ValueError
            If the uncertainty of a field is not finite.
        """
        restorer = self.plan.restorer.network if asks_restorer(module) else None
        try:
            for network in (module, restorer):
                if network is not None:
                    network.to(device)
            maps = self._maps(module, cancel)
        finally:
            if restorer is not None:
                restorer.to("cpu")  # it is the caller's, who may use it on the processor next
        if maps is None:
            return None
        shares = masked_shares(maps, self._thresholds(maps))
        return float(shares.mean()), float((shares == 0).mean())

    def _maps(self, module: nn.Module, cancel: CancelToken | None = None) -> list[Map] | None:
        """Return the map of each field; None where it was stopped."""
        maps: list[Map] = []
        for field in self.fields:
            if cancel is not None and cancel.cancelled:
                return None
            maps.append(
                uncertainty_map(module, field.degraded[0], field.restored[0], self.plan.restorer, field.prepared)
            )
            # A walk along thresholds would take NaN for trusted, and flatter whatever gives it.
            if count := int(np.count_nonzero(~np.isfinite(maps[-1]))):
                raise ValueError(f"its uncertainty of {field.label} has {count} values that are NaN or infinite")
        return maps

    def _thresholds(self, maps: Sequence[Map]) -> list[float]:
        return validation_thresholds(
            maps, self.restored, self.truths, self.plan.distance, self.tolerances, confidence=self.plan.confidence
        )


def thinned(fields: Sequence[TrainingField], most_pixels: int = MOST_PIXELS) -> list[TrainingField]:
    """Return as many fields as have `most_pixels` together, at least one, of each group in turn."""
    turns: dict[str, int] = {}
    ranked = []
    for place, field in enumerate(fields):
        turn = turns[field.group] = turns.get(field.group, -1) + 1
        ranked.append((turn, place))
    chosen: list[int] = []
    pixels = 0
    for _, place in sorted(ranked):
        pixels += fields[place].restored.size
        if chosen and pixels > most_pixels:
            break
        chosen.append(place)
    return [fields[place] for place in sorted(chosen)]


def as_used(network: MaskNetwork, *, power: float | None) -> Composed:
    """Return the network as a bundle holds it: inside an error budget of that power; None: bare."""
    from napari_maskcal.mask.composed import budget_of, of_network

    part = of_network(network)
    return part if power is None else budget_of(part, power=power)


def uncertainty_map(
    module: nn.Module,
    degraded: Map,
    restored: Map,
    restorer: Restorer,
    prepared: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Return the uncertainty of a (Y, X) plane, of any size; the networks are on one device.

    See `napari_maskcal.restore.asking.with_units` for `prepared`.
    """
    import torch

    from napari_maskcal.restore.engine import exact_float32

    factor = restored.shape[0] // degraded.shape[0]
    weight = next(module.parameters(), torch.empty(0))
    asked, card = None, None
    if asks_restorer(module) and restorer.network is not None:
        asked, card = with_units(restorer.network, prepared), restorer.card
        weight = next(restorer.network.parameters(), weight)
    plan = _tiles(module, degraded, factor, card)
    images = [_padded(degraded, plan, 1), _padded(restored, plan, factor)]
    out = np.empty([factor * n for n in plan.padded_shape], np.float32)
    with torch.inference_mode(), exact_float32(weight.device):
        for tile in plan.tiles:
            low, high = (
                torch.from_numpy(image[..., *_times(tile.read, scale)]).to(weight.device)
                for image, scale in zip(images, (1, factor), strict=True)
            )
            made = uncertainty_of(module, low, high, asked).cpu().numpy()
            out[tile.target(factor)] = made[0, 0][tile.keep(factor)]
    return out[: restored.shape[0], : restored.shape[1]]


def _tiles(module: Any, degraded: Map, factor: int, asked: ModelCard | None) -> Plan:
    """Return tiles on the degraded grid; where the restorer is asked again, its own reach is added."""
    stride = module.stride_px // gcd(module.stride_px, factor)
    own = -(-module.halo_px // factor)
    halo: int | None = own
    if asked is not None:
        stride = lcm(stride, asked.stride_px)
        halo = None if asked.halo_px is None else own + asked.halo_px
    # Where the grid is finer or the reach long, tiles of a fixed size would be little but halo.
    worth = 0 if halo is None else smallest_tile_px(halo_px=halo, stride_px=stride)
    return plan_tiles(
        (degraded.shape[0], degraded.shape[1]), max_tile_px=max(_LARGEST_TILE_PX // factor, worth), halo_px=halo,
        stride_px=stride,
    )  # fmt: skip


def _padded(image: Map, plan: Plan, factor: int) -> Map:
    padding = [(0, factor * (padded - n)) for padded, n in zip(plan.padded_shape, plan.shape, strict=True)]
    return np.pad(image, padding, mode="reflect")[None, None]


def _times(spans: tuple[slice, slice], factor: int) -> tuple[slice, slice]:
    y, x = (slice(factor * span.start, factor * span.stop) for span in spans)
    return y, x


def _distance(distance: Distance, restored: Map, truth: Map) -> float:
    """Return how far a whole restored image is from its truth."""
    trust = np.ones((1, *restored.shape))
    return float(distance.between(trust, restored[None], truth[None])[0])
