"""Further inputs of a mask network that were tried beside the two images; they come as channels of the degraded one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from paper_fields import stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from paper_fields import PaperField
    from paper_tasks import Task

WINDOWS_PX = (9, 33, 65)  # the network itself looks 24 pixels around
_AT_ONCE = 16


def with_features(task: Task) -> Task | None:
    """Return the task with what the restorer computes right before its answer; None where it was not trained here."""
    if not task.restorer_groups:
        return None
    network: Any = task.networks[0]
    unet = getattr(network, "unet", network)
    return _with_more(task, "features", lambda degraded, _: _before_the_head(network, unet.head, degraded))


def with_scales(task: Task) -> Task:
    """Return the task with means of the restored image and of the residual over windows of three sizes."""
    return _with_more(task, "scales", _coarser)


def _with_more(task: Task, what: str, more: Callable[[Tensor, Tensor], Tensor]) -> Task:
    parts = {part: _added(getattr(task, part), more) for part in ("training", "validation", "held_out")}
    return replace(task, name=f"{task.name} with {what}", **parts)


@torch.inference_mode()
def _added(fields: Sequence[PaperField], more: Callable[[Tensor, Tensor], Tensor]) -> tuple[PaperField, ...]:
    degraded, restored = (torch.from_numpy(stacked(fields, image)) for image in ("degraded", "restored"))
    parts = zip(degraded.split(_AT_ONCE), restored.split(_AT_ONCE), strict=True)
    added = torch.cat([torch.cat((_on_the_grid(d, r), more(d, r)), dim=1) for d, r in parts])
    return tuple(
        replace(one, degraded=np.ascontiguousarray(own)) for one, own in zip(fields, added.numpy(), strict=True)
    )  # fmt: skip


def _on_the_grid(degraded: Tensor, restored: Tensor) -> Tensor:
    return nn.functional.interpolate(degraded, size=restored.shape[-2:], mode="nearest")


def _before_the_head(network: nn.Module, head: nn.Module, degraded: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(degraded)
    hook.remove()
    return seen[0]


def _coarser(degraded: Tensor, restored: Tensor) -> Tensor:
    residual = (restored - _on_the_grid(degraded, restored)).norm(dim=1, keepdim=True)
    images = torch.cat((restored, residual), dim=1)
    return torch.cat([_mean(images, window) for window in WINDOWS_PX], dim=1)


def _mean(images: Tensor, window_px: int) -> Tensor:
    return nn.functional.avg_pool2d(images, window_px, stride=1, padding=window_px // 2, count_include_pad=False)
