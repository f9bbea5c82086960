"""Import torchvision, which `lpips` and `torchmetrics` want, where its compiled part does not fit torch."""

from __future__ import annotations

from functools import cache
from typing import Any

_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


@cache
def import_torchvision() -> Any:
    """Import torchvision; give what has to stay alive for it, if its compiled operators had to be stood in for.

    The torchvision of PyPI wants CUDA's libraries. Beside a torch for the processor alone its operators are not
    loaded, and its import fails over their missing declarations. No network here calls those operators.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            declared.define(schema)
        import torchvision  # noqa: F401

        return declared
    return None
