"""The command line, called in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_maskcal.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return what runs ``maskcal`` with arguments."""
    monkeypatch.setenv("MASKCAL_KEEP_MALLOC", "1")

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["maskcal", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Ended(code, *capsys.readouterr())

    return call


def failed(ended: Ended, *words: str) -> None:
    """It said why in one line, and nothing else."""
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("maskcal: ")
    assert ended.err.endswith("\n")
    assert len(ended.err.splitlines()) == 1
    for word in words:
        assert word in ended.err
