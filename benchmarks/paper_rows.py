"""From a task to the rows of the table: every method at the same distances and tolerances."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.comparison import candidates, compare, compare_opt
from napari_maskcal.calibrate.guarantee import conformal_threshold
from napari_maskcal.calibrate.oracle import OPT, opt_shares
from paper_fields import n_calibration
from paper_methods import DEFAULT, METHODS, Question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_maskcal.calibrate.comparison import Candidate, Comparison
    from paper_fields import PaperField
    from paper_methods import Maps, Workshop
    from paper_tasks import Task

    Row = dict[str, Any]

CONFIDENCE, SPLITS = 0.9, 1000
PERCENTILES = (30, 60, 80)
WALKED_PER_GROUP = 2  # fields of a group where each distance is a walk of up to fifty evaluations
KEYS = (
    "task", "distance", "method", "default", "tolerance", "tolerance_percentile", "confidence", "n_calibration",
    "n_test", "coverage", "coverage_low", "coverage_high", "masked_share", "untouched_share", "correlation",
    "ratio_to_opt", "train_s", "infer_s", "kept", "seed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a picture of a task is made from: one field, and two masks at the middle tolerance."""

    field: PaperField
    masks: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Those held-out fields of a task that one distance is measured on, and the tolerances.

    The tolerances are percentiles of the distances of all held-out fields. They do not change when fields change
    places, so fields of the calibration and of the test stay exchangeable, and coverage exact.
    """

    task: Task
    distance: Any
    chosen: tuple[int, ...]
    distances: NDArray[np.float64]
    tolerances: tuple[float, ...]

    @classmethod
    def of(cls, task: Task, distance: Any, *, seed: int) -> Bench:
        """Choose the fields and measure their distances, nothing masked."""
        chosen = range(len(task.held_out)) if distance.monotone else _some_of_each_group(task.held_out, seed)
        whole = np.ones((1, *task.held_out[0].truth.shape[1:]), bool)
        distances = np.array([
            float(distance.between(whole, f.restored[None], f.truth[None])[0])
            for f in (task.held_out[i] for i in chosen)
        ])  # fmt: skip
        tolerances = tuple(float(t) for t in np.percentile(distances, PERCENTILES))
        return cls(task=task, distance=distance, chosen=tuple(chosen), distances=distances, tolerances=tolerances)

    @property
    def fields(self) -> list[PaperField]:
        """The chosen fields."""
        return [self.task.held_out[i] for i in self.chosen]

    def rows(self, workshop: Workshop, methods: Sequence[str]) -> list[Row]:
        """Return the rows of the oracle and of all methods, the tolerances in order."""
        opt = self._opt()
        found = list(opt)
        for name in methods:
            started = time.perf_counter()
            question = Question(
                task=self.task, distance=self.distance, tolerances=self.tolerances, workshop=workshop
            )  # fmt: skip
            maps = METHODS[name](question)
            if maps is None:
                workshop.say(f"{self.task.name}, {short_name(self.distance)}: no {name} for this task")
                continue
            rows = self._rows_of(name, maps)
            for row, best in zip(rows, opt, strict=True):
                row["ratio_to_opt"] = _ratio(row["masked_share"], best["masked_share"])
            found += rows
            shares = " ".join(f"{row['masked_share']:.3f} ({row['coverage']:.3f})" for row in rows)
            workshop.say(
                f"{self.task.name}, {short_name(self.distance)}: {name} {shares}, {time.perf_counter() - started:.0f} s"
            )
        return [{key: row.get(key) for key in KEYS} for row in found]

    def _rows_of(self, name: str, maps: Maps) -> list[Row]:
        groups = [f.group for f in self.fields]
        compared = [
            compare(
                candidate, groups=groups, distances=self.distances, confidence=CONFIDENCE,
                n_calibration=n_calibration(len(set(groups))), splits=SPLITS, seed=0,
            )
            for candidate in self._answers(name, maps)
        ]  # fmt: skip
        times = {"train_s": round(maps.train_s, 1), "infer_s": round(maps.infer_s, 5)}
        kept = [{"kept": maps.kept.get(tolerance, "")} for tolerance in self.tolerances]
        rows = zip(PERCENTILES, compared, kept, strict=True)
        return [self._row(name, p, found) | times | what for p, found, what in rows]

    def _answers(self, name: str, maps: Maps) -> list[Candidate]:
        """Return a candidate for each tolerance; where the maps are the same for all, each field is walked once."""
        chosen = [[maps.at(t)[i] for i in self.chosen] for t in self.tolerances]
        if all(maps.at(t) is maps.at(self.tolerances[0]) for t in self.tolerances):
            return self._candidates(name, chosen[0], self.tolerances)
        return [
            found for t, own in zip(self.tolerances, chosen, strict=True) for found in self._candidates(name, own, [t])
        ]

    def _candidates(self, name: str, maps: Sequence[NDArray[Any]], tolerances: Sequence[float]) -> list[Candidate]:
        restored, truth = ([getattr(f, image) for f in self.fields] for image in ("restored", "truth"))
        return candidates(name, maps, restored, truth, self.distance, tolerances)

    def _row(self, name: str, percentile: int, compared: Comparison) -> Row:
        facts = {key: getattr(compared, key) for key in KEYS if hasattr(compared, key)}
        return facts | {
            "task": self.task.name, "distance": short_name(self.distance), "method": name,
            "default": name == DEFAULT, "tolerance_percentile": percentile, "confidence": CONFIDENCE,
        }  # fmt: skip

    def mask_of(self, place: int, maps: Sequence[NDArray[Any]], tolerance: float) -> NDArray[np.bool_]:
        """Return what is masked of one chosen field, with a threshold from the other groups."""
        (candidate,) = self._candidates("shown", [maps[i] for i in self.chosen], [tolerance])
        own = self.fields[place].group
        others = [i for i, f in enumerate(self.fields) if f.group != own]
        groups = [self.fields[i].group for i in others]
        threshold = conformal_threshold(candidate.thresholds[others], CONFIDENCE, groups=groups, grouping="one")
        return np.asarray(maps[self.chosen[place]] > threshold)

    def _opt(self) -> list[Row]:
        """Return the rows of the oracle: of each field the smallest mask that keeps it, by its true error."""
        shares = opt_shares(
            [f.restored for f in self.fields], [f.truth for f in self.fields], self.distance, self.tolerances
        )
        groups = [f.group for f in self.fields]
        compared = [
            compare_opt(own, groups=groups, distances=self.distances, tolerance=tolerance, confidence=CONFIDENCE)
            for own, tolerance in zip(shares, self.tolerances, strict=True)
        ]
        untimed = {"train_s": 0.0, "infer_s": 0.0, "ratio_to_opt": 1.0, "kept": ""}
        return [self._row(OPT, p, found) | untimed for p, found in zip(PERCENTILES, compared, strict=True)]


def short_name(distance: Any) -> str:
    """Return ``"lpips"`` for LPIPS with whatever weights, and the distance's own name else."""
    return "lpips" if distance.name.startswith("lpips") else str(distance.name)


def shown(bench: Bench, workshop: Workshop, methods: Sequence[str]) -> Shown:
    """Return a field that is about as wrong as the middle tolerance or more, and its masks at that tolerance."""
    tolerance = bench.tolerances[1]
    place = int(np.argmin(np.abs(bench.distances - 1.3 * tolerance)))
    masks = {}
    for name in methods:
        question = Question(task=bench.task, distance=bench.distance, tolerances=bench.tolerances, workshop=workshop)
        maps = METHODS[name](question)
        if maps is not None:
            masks[name] = bench.mask_of(place, maps.at(tolerance), tolerance)
    return Shown(field=bench.fields[place], masks=masks)


def _some_of_each_group(fields: Sequence[PaperField], seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(fields))
    members: dict[str, list[int]] = {}
    for i in order:
        members.setdefault(fields[i].group, []).append(int(i))
    return sorted(i for own in members.values() for i in own[:WALKED_PER_GROUP])


def _ratio(share: float, best: float) -> float | None:
    return round(share / best, 3) if best > 0 else None
