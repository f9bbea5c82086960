"""What a bioimage.io package does to an image before and after its network, as far as that can be done here."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, isfinite
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.card import Normalisation

if TYPE_CHECKING:
    from collections.abc import Iterable

_FLOATS = ("float32", "float64")
_LARGEST_EPS = 1e-4  # what is added to a span; more would change the image, and here nothing is added
_FIXED_EPS = 1e-6  # bioimageio.core adds it to a fixed standard deviation
_SAME = 1e-3
_NO_IMAGE = {
    "binarize": "a yes or no for each pixel",
    "softmax": "shares of classes",
    "stardist_postprocessing": "objects",
    "cellpose_flow_dynamics": "objects",
    "custom": "whatever its own code makes",
}


@dataclass(frozen=True, slots=True)
class Affine:
    """``gain * x + offset``."""

    gain: float = 1.0
    offset: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.gain == 1.0 and self.offset == 0.0

    def then(self, other: Affine) -> Affine:
        """Return this one followed by another."""
        return Affine(other.gain * self.gain, other.gain * self.offset + other.offset)

    def inverse(self) -> Affine:
        """Return what undoes it."""
        return Affine(1 / self.gain, -self.offset / self.gain)

    def undoes(self, other: Affine) -> bool:
        """Whether it brings back what `other` was given, to a thousandth of the other's own scale."""
        both = other.then(self)
        return isclose(both.gain, 1.0, rel_tol=_SAME) and abs(both.offset) <= _SAME * max(abs(self.gain), 1e-12)


@dataclass(frozen=True, slots=True)
class Clip:
    """Values below `low` or above `high` become these; None: no bound."""

    low: float | None
    high: float | None

    def after(self, affine: Affine) -> Clip:
        """Return the clip that does the same behind `affine`, whose gain is above 0."""
        low, high = (None if v is None else affine.gain * v + affine.offset for v in (self.low, self.high))
        return Clip(low, high)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """``1 / (1 + exp(-x))``."""


Pointwise = Affine | Clip | Sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done around a network.

    Attributes
    ----------
    normalisation
        What comes first; `napari_maskcal.restore.card.ModelCard` undoes it at the end.
    before, after
        What is done to each value by itself between that and the network, and behind it.
    """

    normalisation: Normalisation
    before: tuple[Pointwise, ...] = ()
    after: tuple[Pointwise, ...] = ()


def steps_of(image: Any, answer: Any, *, where: str) -> Steps:
    """Return what is done around the network of a package.

    Parameters
    ----------
    image, answer
        Its input and output, as bioimageio.spec describes them.
    where
        Names the package in messages.

    Raises
    ------
    ValueError
        If there is a step that cannot be done here: one that depends on the plane otherwise than a `Normalisation`
        does, or whose result is no image.
    """
    measured, affine, clips = _before(image, where)
    if measured is not None:
        own: tuple[Pointwise, ...] = tuple(clips) if affine.is_identity else (affine, *clips)
        return Steps(normalisation=measured, before=own, after=_after(answer, affine, undone=False, where=where))
    fixed = Normalisation(kind="fixed", offset=-affine.offset / affine.gain, span=1 / affine.gain)
    return Steps(
        normalisation=fixed, before=tuple(clips), after=_after(answer, affine, undone=True, where=where)
    )  # fmt: skip


def _before(image: Any, where: str) -> tuple[Normalisation | None, Affine, list[Clip]]:
    """Return what is measured, and what follows: one affine map and then clips."""
    measured: Normalisation | None = None
    affine, clips = Affine(), list[Clip]()
    for place, step in enumerate(image.preprocessing):
        kwargs = step.kwargs
        if step.id == "ensure_dtype":
            if kwargs.dtype not in _FLOATS and not (place == 0 and kwargs.dtype == image.dtype):
                raise ValueError(f"{where} turns its input into {kwargs.dtype}; only networks of float32 can be used")
        elif step.id in ("scale_range", "zero_mean_unit_variance"):
            _check_measured(step, image, where)
            # Measured before or behind the other step? Descriptions leave it open, and programs differ.
            if clips or measured is not None or not affine.is_identity:
                raise ValueError(
                    f"{where} changes intensities before it measures them by {step.id}; make it the first step"
                )
            measured = _measured(step)
        elif step.id == "clip":
            clips.append(_clip(kwargs, where))
        elif (own := _affine(step, where)) is not None:
            if own.gain <= 0:
                raise ValueError(f"{where} multiplies intensities by {own.gain:g}; only numbers above 0 can be undone")
            affine, clips = affine.then(own), [clip.after(own) for clip in clips]
        else:
            raise ValueError(f"{where} prepares its input by {step.id}, which cannot be undone behind the network")
    return measured, affine, clips


def _after(answer: Any, affine: Affine, *, undone: bool, where: str) -> tuple[Pointwise, ...]:
    """Return what is done behind the network.

    `affine` is what was done before it, and `undone` whether it is part of the normalisation, which is undone anyway.
    Steps that say so themselves, and do that, are done as they stand; without any the answer is in the network's units.
    """
    steps: list[Pointwise] = []
    total, said = Affine(), False
    for step in answer.postprocessing:
        if step.id == "ensure_dtype":
            if step.kwargs.dtype not in _FLOATS:
                raise ValueError(f"{where} turns its answer into {step.kwargs.dtype}; only float32 is an image here")
        elif step.id == "clip":
            steps.append(_clip(step.kwargs, where))
        elif step.id == "sigmoid":
            steps.append(Sigmoid())
        elif (own := _affine(step, where)) is not None:
            steps.append(own)
            total, said = total.then(own), said or not own.is_identity
        else:
            raise ValueError(f"{where} ends with {step.id}, {_why_not(step.id)}")
    if not said:
        return tuple(steps) if undone or affine.is_identity else (*steps, affine.inverse())
    if affine.is_identity:
        return tuple(steps)
    if not total.undoes(affine):
        raise ValueError(
            f"{where} prepares intensities as {affine.gain:g} x + {affine.offset:g}, but ends with {total.gain:g} x + "
            f"{total.offset:g}, which does not undo that, so the unit of its answer is not known"
        )
    return (*steps, affine) if undone else tuple(steps)


def _why_not(step: str) -> str:
    if step in _NO_IMAGE:
        return f"so it gives {_NO_IMAGE[step]} and no restored image"
    return "which depends on all of the answer, so tiles of a plane would not agree"


def _check_measured(step: Any, image: Any, where: str) -> None:
    """Refuse statistics that are not those of the whole plane, or volume, by itself."""
    axes = step.kwargs.axes
    spatial = {str(axis.id) for axis in image.axes if axis.type == "space"}
    if axes is not None:
        named = [str(axis) for axis in axes]
        if not spatial <= set(named):
            whole = "planes" if len(spatial) == 2 else "volumes"
            raise ValueError(f"{where}: its {step.id} is over the axes {', '.join(named)} and not over whole {whole}")
        if "batch" in named:
            raise ValueError(f"{where}: its {step.id} is over many images together; here each plane stands by itself")
    reference = getattr(step.kwargs, "reference_tensor", None)
    if reference is not None and str(reference) != str(image.id):
        raise ValueError(f"{where}: its {step.id} is measured on {reference}, another image than the one it changes")
    if step.kwargs.eps > _LARGEST_EPS:
        raise ValueError(
            f"{where}: its {step.id} adds eps = {step.kwargs.eps:g}; at most {_LARGEST_EPS:g} can be left out"
        )


def _measured(step: Any) -> Normalisation:
    if step.id == "zero_mean_unit_variance":
        return Normalisation(kind="mean_std")
    low, high = step.kwargs.min_percentile, step.kwargs.max_percentile
    if (low, high) == (0, 100):
        return Normalisation(kind="range")
    return Normalisation(kind="percentile", low_percentile=low, high_percentile=high)


def _affine(step: Any, where: str) -> Affine | None:
    """Return a step that is an affine map, or None if it is another."""
    if step.id == "scale_linear":
        gain, offset = (_one(getattr(step.kwargs, name), step.id, where) for name in ("gain", "offset"))
        return Affine(gain, offset)
    if step.id == "fixed_zero_mean_unit_variance":
        mean, std = (_one(getattr(step.kwargs, name), step.id, where) for name in ("mean", "std"))
        return Affine(1 / (std + _FIXED_EPS), -mean / (std + _FIXED_EPS))
    return None


def _one(value: float | Iterable[float], step: str, where: str) -> float:
    """Return the number that a step has, for all channels the same."""
    values = {float(value)} if isinstance(value, int | float) else set(map(float, value))
    if len(values) != 1:
        listed = ", ".join(f"{one:g}" for one in sorted(values))
        raise ValueError(f"{where}: its {step} has a number for each channel ({listed}); images here have one channel")
    (found,) = values
    if not isfinite(found):
        raise ValueError(f"{where}: its {step} has the number {found}")
    return found


def _clip(kwargs: Any, where: str) -> Clip:
    if getattr(kwargs, "min_percentile", None) is not None or getattr(kwargs, "max_percentile", None) is not None:
        raise ValueError(f"{where} clips at percentiles, which depend on all of the plane; it is not done here")
    return Clip(kwargs.min, kwargs.max)
