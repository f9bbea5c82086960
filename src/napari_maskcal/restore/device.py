"""Where networks run. `auto` takes nothing on trust: a device has to show that it computes."""

from __future__ import annotations

import torch


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: ``auto``, ``cpu``, ``cuda:N``, ``cuda`` or ``mps``.

    Raises
    ------
    ValueError
        If there is no such device, or it does not compute; the message names those that do.
    """
    if name == "auto":
        return next(device for device in _candidates() if _fault(device) is None)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {name!r}; {_usable()}") from None
    if fault := _fault(device):
        raise ValueError(f"device {name} does not work: {fault}; {_usable()}")
    return device


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; processors, Apple's GPUs and CUDA's libraries have no class of their own, only texts."""
    texts = ("out of memory", "not enough memory", "can't allocate memory", "_STATUS_ALLOC_FAILED", "std::bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


def _candidates() -> list[torch.device]:
    found = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return [*found, torch.device("cpu")]


def _fault(device: torch.device) -> str | None:
    """Run one small forward pass and compare it with the processor's; None if all is well."""
    if device.type == "cpu":
        return None
    image = torch.linspace(-1, 1, 16 * 16).reshape(1, 1, 16, 16)
    kernel = torch.linspace(-1, 1, 9).reshape(1, 1, 3, 3)
    try:
        there = torch.nn.functional.conv2d(image.to(device), kernel.to(device), padding=1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no common class for these
        return str(error).strip().splitlines()[0]
    here = torch.nn.functional.conv2d(image, kernel, padding=1)
    return None if torch.allclose(there, here, atol=1e-2) else "its results differ from the processor's"


def _usable() -> str:
    return "devices here: auto, " + ", ".join(str(d) for d in _candidates() if _fault(d) is None)
