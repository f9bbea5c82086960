"""What mask networks are trained with: each loss compares a network's raw outputs with the error that occurred.

Images are (N, C, Y, X) or (N, C, Z, Y, X) in normalised intensities, raw outputs what `MaskNetwork.logits` gives, and
each loss is a mean over the batch. |e| stands for the norm over channels of restored - truth.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from napari_maskcal.distance.lp import Lp
from napari_maskcal.distance.registry import is_built_in, parse_distance

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from napari_maskcal.distance.base import Distance
    from napari_maskcal.mask.recipe import Recipe

    LossOf = Callable[[Tensor, Tensor, Tensor], Tensor]

FLOOR = 1e-3
"""In normalised intensities: errors far below it are nobody's concern, and must not rule a logarithm."""
LOWER, UPPER = 0.05, 0.95


class Differentiable(Protocol):
    """What a distance needs to be trained with."""

    def loss(self, trust: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
        """Return the mean distance of a batch, with a gradient to the trust, (N, 1, Y, X)."""
        ...


def paper_loss(
    logits: Tensor, restored: Tensor, truth: Tensor, *, weight: float, distance: Differentiable | None = None
) -> Tensor:
    """Mean (1 - m)^2 + weight * d(m * restored, m * truth), with m = sigmoid(logits).

    Parameters
    ----------
    logits, restored, truth
        See above; of a network with a sigmoid head.
    weight
        It works in a narrow window: too small gives m = 1 everywhere, too large m = 0.
    distance
        d; by default the mean absolute error. For `Lp` it is mean (m |e|)^p.

    References
    ----------
    Kutiel et al., arXiv 2211.15211, section 4.
    """
    distance = Lp(1.0) if distance is None else distance
    if isinstance(distance, Lp):  # its error is the norm over channels, not one error for each
        restored, truth = _error(restored, truth), torch.zeros_like(restored[:, :1])
    apart = distance.loss(torch.sigmoid(logits), restored, truth)
    return torch.sigmoid(-logits).square().mean() + weight * apart


def score_loss(logits: Tensor, restored: Tensor, truth: Tensor, *, p: float = 1.0, floor: float = FLOOR) -> Tensor:
    """Mean (logits - log(|e|^p + floor^p))^2: log uncertainty is fitted to the log of the error that occurred.

    It is least where the uncertainty is the geometric mean of |e|^p; no weight has to be found, and nothing saturates.

    Parameters
    ----------
    logits, restored, truth
        See above; of a network with an exponential head.
    p
        Of the distance, at least 1.
    floor
        Above 0; keeps the logarithm of errors near 0 from ruling the loss.
    """
    target = torch.log(_error(restored, truth).pow(p) + floor**p)
    return (logits - target).square().mean()


def likelihood_loss(logits: Tensor, restored: Tensor, truth: Tensor, *, p: float = 1.0, floor: float = FLOOR) -> Tensor:
    """Mean (|e|^p + floor^p) / u + log u, with u = exp(logits): |e|^p is taken for exponentially distributed.

    It is least where the uncertainty is the arithmetic mean of |e|^p.

    Parameters
    ----------
    logits, restored, truth
        See above; of a network with an exponential head.
    p
        Of the distance, at least 1.
    floor
        Above 0; without it an error of exactly 0 would draw u to 0, and the loss had no end.

    References
    ----------
    Nix, Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994, with an
    exponential in place of the normal distribution.
    """
    error = _error(restored, truth).pow(p) + floor**p
    surprise: Tensor = error * torch.exp(-logits) + logits
    return surprise.mean()


def quantile_loss(offsets: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
    """Mean pinball loss of the quantiles 0.05 and 0.95 of truth - restored, both added.

    The pinball loss of a quantile q, with d = truth - restored - offset, is q d where d > 0 and (q - 1) d elsewhere.

    Parameters
    ----------
    offsets, restored, truth
        See above; of a network with a quantile head: the lower ends before the upper ones, one for each channel.

    References
    ----------
    Koenker, Bassett, "Regression quantiles", Econometrica 46 (1978). Angelopoulos et al., "Image-to-Image Regression
    with Distribution-Free Uncertainty Quantification and Applications in Imaging", ICML 2022.
    """
    lower, upper = offsets.chunk(2, dim=1)
    error = truth - restored
    return _pinball(error - lower, LOWER) + _pinball(error - upper, UPPER)


def loss_for(recipe: Recipe, *, dims: int = 2, size_px: int | None = None) -> LossOf:
    """Return the recipe's loss as a function of (raw outputs, restored, truth).

    Parameters
    ----------
    recipe
        Its loss, distance and weight count.
    dims, size_px
        Of the crops that it will get; a distance may be too coarse for them.

    Raises
    ------
    ValueError
        If the paper's loss is asked for with a distance that has no gradient, or that does not take such crops.
    """
    distance = parse_distance(recipe.distance)
    if recipe.loss == "paper":
        return partial(paper_loss, weight=recipe.weight, distance=_differentiable(distance, dims, size_px))
    if recipe.loss == "quantile":
        return quantile_loss
    chosen = score_loss if recipe.loss == "score" else likelihood_loss
    return partial(chosen, p=distance.p if isinstance(distance, Lp) else 1.0)


def _differentiable(distance: Distance, dims: int, size_px: int | None) -> Any:
    if not distance.differentiable:
        raise ValueError(
            f"the distance {distance.name} has no gradient to train with; train with l1, or with the loss quantile: "
            f"its masks can be calibrated for {distance.name} all the same"
        )
    if not is_built_in(distance) or isinstance(distance, Lp):
        return distance
    if dims != 2:
        raise ValueError(f"the distance {distance.name} is one of planes, and these are volumes; train with l1 or l2")
    smallest = _smallest_px(distance)
    if size_px is not None and size_px < smallest:
        raise ValueError(
            f"the distance {distance.name} needs crops of at least {smallest} pixels, and these have {size_px}; take "
            "larger crops or fields"
        )
    return distance


def _smallest_px(distance: Distance) -> int:
    from napari_maskcal.distance.lpips_ import Lpips
    from napari_maskcal.distance.lpips_weights import TRUNKS
    from napari_maskcal.distance.ssim import WINDOW_PX

    return TRUNKS[distance.network].smallest_px if isinstance(distance, Lpips) else WINDOW_PX


def _error(restored: Tensor, truth: Tensor) -> Tensor:
    error = restored - truth
    norm: Tensor = error.abs() if error.shape[1] == 1 else torch.linalg.vector_norm(error, dim=1, keepdim=True)
    return norm


def _pinball(above: Tensor, quantile: float) -> Tensor:
    return torch.maximum(quantile * above, (quantile - 1) * above).mean()
