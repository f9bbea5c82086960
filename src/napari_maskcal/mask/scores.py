"""Uncertainty without a trained mask network, in the form of one, so that it is usable wherever one is."""

from __future__ import annotations

from math import isfinite, lcm
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_maskcal.restore.asking import asks_restorer, uncertainty_of
from napari_maskcal.restore.kinds import VIEWS, make_network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from napari_maskcal.restore.asking import Restore

FLOOR = 1e-3
"""Added to each score, in shares of the plane's intensity range.

A score of 0 would be believed at every threshold, and u > 0 is what the trust mask min(threshold / u, 1) is
defined for. A thousandth of the range is less than any error that somebody sets a tolerance for. It is added and
not taken as a maximum: the order of pixels stays, so a binary mask is the one of the bare score, and no ties appear.
"""
_LARGEST_WINDOW_PX = 1023
_MOST_MEMBERS = 64
_AVERAGED = ("mask-unet", VIEWS, "residual")


class Constant(nn.Module):
    """An uncertainty of 1 everywhere: what any other has to do better than."""

    sees_restored = False
    stride_px, halo_px = 1, 0

    def forward(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Return ones, (N, 1, Y, X), for the restored image, (N, channels, Y, X)."""
        return torch.ones_like(restored[:, :1])


class Residual(nn.Module):
    """Mean of |restored - degraded|, over channels its norm, in a square window around each pixel.

    Parameters
    ----------
    window_px
        Side of the window, odd; 1 is the bare residual. At the border the mean is over what lies inside. In volumes it
        is a cube.
    floor
        See `FLOOR`.

    Notes
    -----
    A degraded image on a coarser grid is repeated onto the restored one, as for `MaskNetwork`; one of a single
    channel is compared with each channel of the restored one.
    """

    def __init__(self, *, window_px: int = 9, floor: float = FLOOR) -> None:
        super().__init__()
        self.window_px, self.floor = checked_window(window_px), _checked_floor(floor)
        self.stride_px, self.halo_px = 1, window_px // 2

    def forward(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Map two (N, C, Y, X) images, in normalised intensities, to the uncertainty, (N, 1, Y, X), above 0.

        Raises
        ------
        ValueError
            If the degraded image has several channels, and not those of the restored one.
        """
        if degraded.shape[1] not in (1, restored.shape[1]):
            raise ValueError(
                f"the degraded image has {degraded.shape[1]} channels and the restored one {restored.shape[1]}; the "
                "residual needs one to compare with each, or as many"
            )
        if degraded.shape[2:] != restored.shape[2:]:
            degraded = nn.functional.interpolate(degraded, size=restored.shape[2:], mode="nearest")
        residual = _norm(restored - degraded)
        pool: Any = nn.functional.avg_pool2d if residual.ndim == 4 else nn.functional.avg_pool3d
        # Without the batch axis: torch takes one channel for channels-last, and is ten times slower at that.
        mean = pool(
            residual.flatten(0, 1), self.window_px, stride=1, padding=self.halo_px, count_include_pad=False
        )  # fmt: skip
        return _above(self.floor, mean.reshape(residual.shape))


class _OfRestorers(nn.Module):
    """A score made from the outputs of restorers, its members; the restored image itself is not looked at.

    `members` are the `network` parts of their model cards; their weights are in the state dict, as
    ``members.0...``, ``members.1...``.
    """

    sees_restored = False

    def __init__(self, members: Sequence[dict[str, Any]], *, floor: float = FLOOR) -> None:
        super().__init__()
        if not 1 <= len(members) <= _MOST_MEMBERS:
            raise ValueError(f"there are {len(members)} members; give 1 to {_MOST_MEMBERS}")
        self.floor = _checked_floor(floor)
        networks: list[Any] = [make_network(spec, role="restorer") for spec in members]
        self.members = nn.ModuleList(networks)
        self.stride_px, self.halo_px = _common_geometry(networks)


class Spread(_OfRestorers):
    """Standard deviation over what several restorers make of an image: an ensemble.

    Parameters
    ----------
    members
        See `_OfRestorers`; at least two.
    floor
        See `FLOOR`.

    References
    ----------
    Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    NIPS 2017.
    """

    def __init__(self, members: Sequence[dict[str, Any]], *, floor: float = FLOOR) -> None:
        super().__init__(members, floor=floor)
        if len(members) == 1:
            raise ValueError("one member has no spread; give several")

    def forward(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Map (N, 1, Y, X), in normalised intensities, to the uncertainty, (N, 1, Y, X), above 0."""
        _check_grid(degraded, restored)
        return _above(self.floor, _deviation(member(degraded) for member in self.members))


class ViewSpread(nn.Module):
    """Standard deviation over what the restorer makes of turned views of an image: test-time augmentation.

    Each view is restored, and the answer turned back; the restored image itself is the first answer. The restorer is
    the one that restored the image, and comes with it: see `napari_maskcal.restore.asking`.

    Parameters
    ----------
    mirrors
        Whether the quarter turns are mirrored too: eight views, or else four.
    floor
        See `FLOOR`.

    Notes
    -----
    It is exact under tiling: tiles begin and end at multiples of the stride, and a turned piece whose sides are
    such multiples is cut into the same cells by a strided network as the turned plane is. It reaches as far as the
    restored image does, so it adds nothing to its halo.

    References
    ----------
    Wang et al., "Aleatoric uncertainty estimation with test-time augmentation for medical image segmentation with
    convolutional neural networks", Neurocomputing 338 (2019).
    """

    asks_restorer = True
    stride_px, halo_px = 1, 0

    def __init__(self, *, mirrors: bool = True, floor: float = FLOOR) -> None:
        super().__init__()
        if not isinstance(mirrors, bool):
            raise ValueError(f"mirrors is {mirrors!r}; it is true or false")
        self.mirrors, self.floor = mirrors, _checked_floor(floor)

    def forward(self, degraded: Tensor, restored: Tensor, restorer: Restore) -> Tensor:
        """Map the degraded image, (N, C, Y, X), and what `restorer` made of it to (N, 1, Y, X), above 0."""
        return _above(self.floor, _deviation(self._answers(degraded, restored, restorer)))

    def _answers(self, degraded: Tensor, restored: Tensor, restorer: Restore) -> Iterator[Tensor]:
        yield restored
        views = [(turn, mirror) for mirror in (False, True)[: 1 + self.mirrors] for turn in range(4)]
        for turn, mirror in views[1:]:
            yield _turned_back(restorer(_turned(degraded, turn, mirror)), turn, mirror)


class IntervalWidth(_OfRestorers):
    """Upper minus lower of two restorers that give quantiles; where they cross, the width is 0.

    Parameters
    ----------
    members
        The lower and the upper one; see `_OfRestorers`.
    floor
        See `FLOOR`.

    References
    ----------
    Angelopoulos et al., "Image-to-Image Regression with Distribution-Free Uncertainty Quantification and
    Applications in Imaging", ICML 2022.
    """

    def __init__(self, members: Sequence[dict[str, Any]], *, floor: float = FLOOR) -> None:
        super().__init__(members, floor=floor)
        if len(members) != 2:
            raise ValueError(f"an interval has a lower and an upper member, got {len(members)}")

    def forward(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Map (N, 1, Y, X), in normalised intensities, to the uncertainty, (N, 1, Y, X), above 0."""
        _check_grid(degraded, restored)
        lower, upper = (member(degraded) for member in self.members)
        return _above(self.floor, upper - lower)


class MaskEnsemble(nn.Module):
    """Geometric mean of what several uncertainties say: the mean of their logarithms.

    Parameters
    ----------
    members
        The `network` parts of their model cards, of kind ``mask-unet``, ``views`` or ``residual``; their weights are
        in the state dict, as ``members.0...``, ``members.1...``.
    """

    def __init__(self, members: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        if not 1 <= len(members) <= _MOST_MEMBERS:
            raise ValueError(f"there are {len(members)} members; give 1 to {_MOST_MEMBERS}")
        if others := sorted({repr(spec.get("kind")) for spec in members} - {repr(kind) for kind in _AVERAGED}):
            raise ValueError(
                f"an ensemble of masks has a member of kind {', '.join(others)}; give those of {', '.join(_AVERAGED)}"
            )
        networks: list[Any] = [make_network(spec, role="mask") for spec in members]
        self.members = nn.ModuleList(networks)
        self.asks_restorer = any(map(asks_restorer, networks))
        self.stride_px, self.halo_px = _common_geometry(networks)

    def forward(self, degraded: Tensor, restored: Tensor, restorer: Restore | None = None) -> Tensor:
        """Map two images, as `MaskNetwork` takes them, to the uncertainty, (N, 1, Y, X), above 0."""
        logs = [torch.log(uncertainty_of(member, degraded, restored, restorer)) for member in self.members]
        return torch.exp(torch.stack(logs).mean(dim=0))


def checked_window(window_px: int) -> int:
    """Return `window_px`, or say in a ValueError why it is none."""
    if not isinstance(window_px, int) or window_px % 2 == 0 or not 1 <= window_px <= _LARGEST_WINDOW_PX:
        raise ValueError(
            f"the residual's window is {window_px!r} pixels; give an odd number up to {_LARGEST_WINDOW_PX}, such as 9"
        )
    return window_px


def _common_geometry(networks: Sequence[Any]) -> tuple[int, int]:
    """Return the stride and the halo in pixels that do for all of them."""
    stride = lcm(*(network.stride_px for network in networks))
    return stride, -(-max(network.halo_px for network in networks) // stride) * stride


def _norm(difference: Tensor) -> Tensor:
    """Return the norm over channels, (N, 1, ...)."""
    if difference.shape[1] == 1:
        return difference.abs()
    norm: Tensor = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    return norm


def _deviation(answers: Iterable[Tensor]) -> Tensor:
    """Return the standard deviation over (N, C, Y, X) answers, over channels its norm, (N, 1, Y, X)."""
    # Welford's sums: one answer at a time in memory, and no difference of large squares.
    mean: Any = 0.0
    squares: Any = 0.0
    for count, answer in enumerate(answers, start=1):
        away = answer - mean
        mean = mean + away / count
        squares = squares + away * (answer - mean)
    return _norm((squares / count).clamp(min=0).sqrt())


def _turned(image: Tensor, turn: int, mirror: bool) -> Tensor:
    turned = torch.rot90(image, turn, dims=(-2, -1))
    return turned.flip(-1) if mirror else turned


def _turned_back(image: Tensor, turn: int, mirror: bool) -> Tensor:
    return torch.rot90(image.flip(-1) if mirror else image, -turn, dims=(-2, -1))


def _above(floor: float, score: Tensor) -> Tensor:
    return score.clamp(min=0) + floor


def _checked_floor(floor: float) -> float:
    if not (isfinite(floor) and floor > 0):
        raise ValueError(f"floor is {floor!r}; give a small number above 0, such as {FLOOR:g}")
    return float(floor)


def _check_grid(degraded: Tensor, restored: Tensor) -> None:
    if degraded.shape[-2:] != restored.shape[-2:]:
        raise ValueError(
            f"the degraded plane is {degraded.shape[-2]} × {degraded.shape[-1]} pixels and the restored one "
            f"{restored.shape[-2]} × {restored.shape[-1]}; scores made of restorers need both on one grid: "
            "take residual instead"
        )
