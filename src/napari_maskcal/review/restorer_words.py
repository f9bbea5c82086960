"""How a restorer is used, as labelled lines, for whoever has to decide whether it is the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_maskcal.restore.card import ModelCard, Normalisation


def restorer_lines(card: ModelCard) -> list[tuple[str, str]]:
    """Return all of how a restorer is used: (label, words), in the order to be read."""
    trained_at = [("Trained at", f"pixels of {card.pixel_size}")] if card.pixel_size else []
    return [*network_lines(card), ("Intensities", intensity_words(card.taken)), *trained_at, ("Runs in", card.dtype)]


def network_lines(card: ModelCard) -> list[tuple[str, str]]:
    """Return what a trial run can show of a restorer: (label, words), in the order to be read."""
    channels = card.network.get("channels", 1)
    colours = f"; made for {channels} colours, it gets that channel as each of them" if channels != 1 else ""
    finer = f"{card.scale_factor} times as many pixels along each axis" if card.scale_factor > 1 else "the same size"
    if card.of_volumes:
        return _volume_lines(card, colours)
    reach = "the whole plane, which is never cut" if card.halo_px is None else f"{_pixels(card.halo_px)} to each side"
    return [
        ("Takes", f"one channel of a plane, of at least {_pixels(card.min_size_px)} along each axis{colours}"),
        ("Makes", f"a plane of {finer}"),
        ("Looks at", f"{reach}; planes and tiles in steps of {_pixels(card.stride_px)}"),
    ]


def _volume_lines(card: ModelCard, colours: str) -> list[tuple[str, str]]:
    reach = "the whole volume, which is never cut"
    if card.halo_px is not None and card.halo_z is not None:
        reach = f"{_pixels(card.halo_px)} to each side, and {_planes(card.halo_z)} up and down"
    size = f"{_planes(card.min_size_z)} of {_pixels(card.min_size_px)} along Y and X"
    return [
        ("Takes", f"one channel of a volume, of at least {size}{colours}"),
        ("Makes", "a volume of the same size"),
        ("Looks at", f"{reach}; tiles in steps of {_pixels(card.stride_px)} and {_planes(card.stride_z)}"),
    ]


def intensity_words(taken: Normalisation) -> str:
    """Return how the intensities of an image are prepared."""
    return {
        "percentile": f"from the percentile {taken.low_percentile:g} of the {taken.scope} to {taken.high_percentile:g}",
        "range": f"from the smallest value of the {taken.scope} to the largest",
        "mean_std": f"less the mean of the {taken.scope}, over its standard deviation",
        "fixed": f"less {taken.offset:g}, over {taken.span:g}",
    }[taken.kind]


def _planes(count: int) -> str:
    return f"{count} plane" if count == 1 else f"{count} planes"


def _pixels(count: int) -> str:
    return f"{count} pixel" if count == 1 else f"{count} pixels"
