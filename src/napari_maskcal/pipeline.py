"""The stages in order: read -> restore -> mask -> (calibrated) threshold -> review. Start reading here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.certificate import Certificate, Fingerprint
from napari_maskcal.models import check_pair, matched
from napari_maskcal.read.image import Image, from_array
from napari_maskcal.read.scratch import allocate
from napari_maskcal.restore.events import (
    Cancelled,
    CancelToken,
    Done,
    Event,
    Failed,
    PlaneDone,
    PlaneReviewed,
    Started,
    Warned,
)
from napari_maskcal.restore.given import Given, check_given
from napari_maskcal.review.certificate_words import promise_words
from napari_maskcal.review.overlay import NOT_COMPUTED, mark_uncertain, masked_share
from napari_maskcal.settings import DEVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_maskcal.models import MaskModel, Restorer

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a user looks at.

    Attributes
    ----------
    image
        What was reviewed.
    first, last
        The box of planes the arrays cover, as first and last index along each leading axis.
    restored
        float32, in the intensity units of the image; leading axes as the box, then (factor Y, factor X).
    uncertainty
        float32, above 0; 0 where not computed.
    uncertain
        uint8: 0 trusted, 1 uncertain, 2 not computed.
    certificate
        The promise that `uncertain` keeps.
    scale_factor
        Restored pixels to a pixel of the image.
    planes_done, planes
        How many of the planes asked for are computed.
    """

    image: Image
    first: Index
    last: Index
    restored: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    uncertain: NDArray[np.uint8]
    certificate: Certificate
    scale_factor: int
    planes_done: int
    planes: int

    @property
    def complete(self) -> bool:
        """Whether every plane asked for is computed."""
        return self.planes_done == self.planes

    @property
    def masked_share(self) -> float:
        """Share of the computed pixels that are marked uncertain."""
        return masked_share(self.uncertain)

    def place(self, index: Index) -> Index:
        """Return where in the arrays the plane of the image at `index` lies."""
        return tuple(i - low for i, low in zip(index, self.first, strict=True))

    def summary(self) -> dict[str, Any]:
        """Return the certificate and what it was applied to, ready for JSON."""
        certificate: dict[str, Any] = json.loads(self.certificate.model_dump_json(exclude={"fields"}))
        return certificate | {
            "promise": promise_words(self.certificate),
            "limits": self.certificate.limits,
            "input": self.image.name,
            "masked_share": self.masked_share if self.planes_done else None,
            "planes_done": self.planes_done,
            "planes": self.planes,
            "complete": self.complete,
        }


def run(
    stack: Any,
    restorer: Restorer,
    mask_model: MaskModel,
    certificate: Certificate | None = None,
    *,
    restored: Any = None,
    uncertainty: Any = None,
    axes: str | None = None,
    channel: int | None = None,
    planes: Sequence[Index] | None = None,
    device: str = DEVICE.default,
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelToken | None = None,
) -> Review:
    """Restore a stack and mark what cannot be believed.

    Parameters
    ----------
    stack
        An `Image`, or an array together with `axes`.
    restorer, mask_model
        The networks, from `load_restorer` and `load_mask_model`.
    certificate
        The promise to keep; by default the mask model's own. Use ``certificate.at(...)`` for another tolerance.
    restored, uncertainty
        An `Image` or an array with the axes of `stack`: what another tool made, where `restorer` or `mask_model` is
        one that is given with the image. The restored image is in the intensity units of the stack.
    axes
        One letter an axis, such as ``"ZYX"``, when `stack` is a bare array.
    channel
        Which channel, when there is a channel axis.
    planes
        Indices along the leading axes; by default all.
    device
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"mps"``.
    on_event
        Called with each event of the run, for progress.
    cancel
        Set it from another thread to stop after the tile under way.

    Returns
    -------
    Review
        With `complete` False if it was cancelled.

    Raises
    ------
    ValueError
        If anything about image, networks or certificate does not fit; the message says what to do.
    MemoryError
        If the device has too little memory for the smallest tile.
    """
    if not isinstance(stack, Image):
        if axes is None:
            raise ValueError("an array does not say what its axes are; give axes, such as axes='ZYX'")
        stack = from_array(stack, axes=axes)
    for event in review(
        stack,
        restorer,
        mask_model,
        certificate,
        restored=_image_like(restored, stack, name="the restored image"),
        uncertainty=_image_like(uncertainty, stack, name="the uncertainty map"),
        channel=channel,
        planes=planes,
        device=device,
        cancel=cancel,
    ):
        if on_event is not None:
            on_event(event)
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done | Cancelled):
            result: Review = event.result
    return result


def review(
    image: Image,
    restorer: Restorer,
    mask_model: MaskModel,
    certificate: Certificate | None = None,
    *,
    restored: Image | None = None,
    uncertainty: Image | None = None,
    channel: int | None = None,
    planes: Sequence[Index] | None = None,
    device: str = DEVICE.default,
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Do what `run` does as a stream of events; it never raises, errors are events.

    The last event is `Done`, `Cancelled` or `Failed`.
    """
    result: Review | None = None
    try:
        from napari_maskcal.restore.engine import process  # torch: 2 s that a dock should not take to open

        restorer = matched(restorer, mask_model)
        promise = agreed_certificate(restorer, mask_model, certificate)
        asked = planes if planes is not None else check_channel(image, channel).planes(channel=channel)
        indices = list(dict.fromkeys(asked))
        height, width = (restorer.card.scale_factor * n for n in image.shape[-2:])
        promise.check_plane((height, width), name=image.name)
        if indices:  # stacks of one image are all as thick
            promise.check_stack(len(image.stack_of(indices[0])), name=image.describe(indices[0]))
        promise.check_pixel_size(image.pixel_size, name=image.name)
        given = Given(restored=restored, uncertainty=uncertainty)
        check_given(image, restorer, mask_model, given)
        image.check_in_memory(indices)
        given.check_in_memory(indices)
        result = _empty_review(image, indices, promise, restorer.card.scale_factor)
        if doubt := restorer.card.doubt(image.pixel_size, name=image.name):
            yield Warned(message=doubt)
        for event in process(image, indices, restorer, mask_model, given=given, device=device, cancel=cancel):
            match event:
                case PlaneDone(index=index):
                    result = _with_plane(result, event)
                    yield PlaneReviewed(index=index, result=result)
                case Started():
                    yield replace(event, result=result)
                case _:
                    yield event
        yield Done(result=result) if result.complete else Cancelled(result=result)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user has to be told
        yield Failed(error=error, result=result)


def _image_like(stack: Any, like: Image, *, name: str) -> Image | None:
    if stack is None or isinstance(stack, Image):
        return stack
    return from_array(stack, axes=like.axes, name=name)


def rethreshold(done: Review, certificate: Certificate) -> Review:
    """Return `done` marked for another tolerance or confidence; no network runs.

    Raises
    ------
    ValueError
        If the certificate is for other networks than those that made the uncertainty, for soft masks, or for larger
        planes.
    """
    certificate.check(done.certificate.fingerprint)
    certificate.check_plane((done.uncertain.shape[-2], done.uncertain.shape[-1]), name=done.image.name)
    certificate.check_drawn()
    uncertain = allocate(done.uncertain.shape, np.uint8, fill=NOT_COMPUTED)
    for place in np.ndindex(done.uncertain.shape[:-2]):
        if done.uncertain[place].flat[0] != NOT_COMPUTED:
            uncertain[place] = mark_uncertain(done.uncertainty[place], certificate.threshold)
    return replace(done, uncertain=uncertain, certificate=certificate)


def _with_plane(result: Review, event: PlaneDone) -> Review:
    place = result.place(event.index)
    result.restored[place] = event.restored
    result.uncertainty[place] = event.uncertainty
    result.uncertain[place] = mark_uncertain(event.uncertainty, result.certificate.threshold)
    return replace(result, planes_done=result.planes_done + 1)


def agreed_certificate(
    restorer: Restorer, mask_model: MaskModel, certificate: Certificate | None = None
) -> Certificate:
    """Return the promise that holds for this pair of networks.

    Raises
    ------
    ValueError
        If there is none, it was made for other networks, or it is for soft masks, which are not drawn.
    """
    promise = certificate or mask_model.certificate
    if promise is None:
        raise ValueError(f"{mask_model.card.name} has no certificate: calibrate it before it may draw a mask")
    promise.check(Fingerprint.of(restorer, mask_model.card, mask_model.sha256))
    for card in (restorer.card, mask_model.card):
        promise.check_foreign(card)
    check_pair(restorer, mask_model)
    promise.check_drawn()
    return promise


def check_channel(image: Image, channel: int | None) -> Image:
    """Return `image`, or say in a ValueError which channel has to be chosen."""
    if "C" not in image.axes:
        if channel is not None:
            raise ValueError(f"{image.name} has no channel axis, yet channel {channel} was chosen; leave it out")
        return image
    count = image.shape[image.axes.index("C")]
    if channel is None:
        raise ValueError(f"{image.name} has {count} channels; choose one, counted from 0: the network takes one")
    if not 0 <= channel < count:
        raise ValueError(f"{image.name} has channels 0 to {count - 1}; channel {channel} is not one of them")
    return image


def _empty_review(image: Image, indices: Sequence[Index], certificate: Certificate, factor: int) -> Review:
    if not indices:
        raise ValueError(f"{image.name} has no planes: its shape is {image.shape}")
    if missing := set(indices) - set(image.planes()):
        raise ValueError(f"{image.name} has no plane {min(missing)}: its shape is {image.shape}")
    first = tuple(min(axis) for axis in zip(*indices, strict=True))
    last = tuple(max(axis) for axis in zip(*indices, strict=True))
    box = [high - low + 1 for low, high in zip(first, last, strict=True)]
    shape = (*box, *(factor * n for n in image.shape[-2:]))
    return Review(
        image=image,
        first=first,
        last=last,
        restored=allocate(shape, np.float32),
        uncertainty=allocate(shape, np.float32),
        uncertain=allocate(shape, np.uint8, fill=NOT_COMPUTED),
        certificate=certificate,
        scale_factor=factor,
        planes_done=0,
        planes=len(indices),
    )
