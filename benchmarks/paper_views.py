"""Views of the same scene, and how far a restorer's answers to them lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_maskcal.mask.scores import FLOOR
from paper_fields import stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from paper_fields import PaperField
    from paper_tasks import Task

    Map = NDArray[np.float32]
    View = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def spread_over(views: Sequence[View], task: Task, fields: Sequence[PaperField]) -> Sequence[Map]:
    """Return the spread of the task's restorer over views of each field's degraded image."""
    degraded = torch.from_numpy(stacked(fields, "degraded"))
    names = [f.name for f in fields]
    # All views in one call: a restorer that runs elsewhere takes its time to start.
    seen = [there(degraded) for there, _ in views]
    if len({view.shape for view in seen}) == 1:
        answers = task.restore(torch.cat(seen), names * len(views)).split(len(names))
    else:
        answers = tuple(task.restore(view, names) for view in seen)
    return spread(torch.stack([back(answer) for (_, back), answer in zip(views, answers, strict=True)]))


def _turn(turns: int, mirror: bool) -> View:
    def there(x: Tensor) -> Tensor:
        x = torch.rot90(x, turns, (-2, -1))
        return (x.flip(-1) if mirror else x).contiguous()

    def back(x: Tensor) -> Tensor:
        return torch.rot90(x.flip(-1) if mirror else x, -turns, (-2, -1))

    return there, back


def _mirror(axes: tuple[int, ...]) -> View:
    """Return a reflection that leaves even rows and columns even: of one pixel more, and one to be even again."""

    def there(x: Tensor) -> Tensor:
        for axis in axes:
            x = _one_more(_one_more(x, axis).flip(axis), axis)
        return x

    def back(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.narrow(axis, 0, x.shape[axis] - 1).flip(axis).narrow(axis, 0, x.shape[axis] - 2)
        return x

    return there, back


def _one_more(x: Tensor, axis: int) -> Tensor:
    return nn.functional.pad(x, (0, 1, 0, 0) if axis == -1 else (0, 0, 0, 1), mode="reflect")


QUARTERS = tuple(_turn(turns, mirror=False) for turns in range(4))
_TURNS = (*QUARTERS, *(_turn(turns, mirror=True) for turns in range(4)))
_MIRRORS = tuple(_mirror(axes) for axes in ((), (-1,), (-2,), (-1, -2)))
VIEWS: dict[str, Sequence[View]] = {"turns": _TURNS, "mirrors": _MIRRORS}
"""All views that there are, by what a task says of them: eight or four."""


def spread(outputs: Tensor) -> Sequence[Map]:
    """Return the standard deviation over (members, N, C, Y, X), its norm over channels, above 0."""
    return list((outputs.std(dim=0, correction=0).norm(dim=1) + FLOOR).numpy())
