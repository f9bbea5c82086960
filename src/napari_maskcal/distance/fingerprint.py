"""What a function does, as a hash that changes when its text or the values it was made with change."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def code_sha256(function: Callable[..., Any]) -> str:
    """Return ``"code sha256:..."`` of a function's source, defaults and bound values; ``""`` if it shows neither.

    The source where it can be had, since that is the same for all versions of Python; else the bytecode. What the
    function calls is not followed.
    """
    described = _described(function, depth=0)
    return f"code sha256:{hashlib.sha256(described.encode()).hexdigest()}" if described else ""


def _described(value: Any, depth: int) -> str:
    """Return text that differs where `value` does; ``""`` for a function of which nothing can be seen."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if depth > 4:  # such as an object that holds itself
        return type(value).__qualname__
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, (tuple, list, set, frozenset)):
        parts = [_described(item, depth + 1) for item in value]
        return f"{type(value).__name__} {sorted(parts) if isinstance(value, (set, frozenset)) else parts}"
    if isinstance(value, dict):
        return f"dict {[(_described(k, depth + 1), _described(v, depth + 1)) for k, v in value.items()]}"
    return _described_callable(value, depth)


def _described_callable(value: Any, depth: int) -> str:
    """Return text for a function, and for objects: their class and what they hold."""
    if isinstance(value, functools.partial):
        return f"partial {[_described(part, depth + 1) for part in (value.func, value.args, value.keywords)]}"
    if inspect.ismethod(value):
        return f"method {[_described(part, depth + 1) for part in (value.__func__, value.__self__)]}"
    if inspect.isfunction(value):
        cells = [_described(cell.cell_contents, depth + 1) for cell in value.__closure__ or () if _is_filled(cell)]
        given = _described((value.__defaults__, value.__kwdefaults__), depth + 1)
        return f"function {_source(value) or _bytecode(value.__code__)} {given} {cells}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__} {_source(value)}"
    if inspect.isbuiltin(value) or isinstance(value, np.ufunc):
        return ""
    return f"{_described_callable(type(value), depth)} {_described(getattr(value, '__dict__', None), depth + 1)}"


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # typed into a console, or compiled
        return ""


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(c) if inspect.iscode(c) else repr(c) for c in code.co_consts]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"python {python} {code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
