from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_maskcal.distance.plugins import find_plugin
from napari_maskcal.distance.registry import known_distances, parse_distance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODULE = """
import numpy as np
from dataclasses import dataclass

def plain(restored, truth):
    return float(abs(restored - truth).max())

@dataclass(frozen=True)
class Own:
    factor: float = 1.0
    name = "a name of its own"
    sentence_name = "own error"
    monotone = True
    differentiable = True
    in_intensity_units = True
    identity = "v7"

    def between(self, trust, restored, truth):
        return np.full(len(trust), self.factor)

own = Own(2.0)
number = 3

def factory():
    return Own(4.0)

def wrong_factory():
    return 5

class NeedsMore:
    def __init__(self, argument):
        pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a package with entry points on the path, as pip would."""

    def put(package: str, entries: dict[str, str], version: str = "1.2") -> None:
        folder = tmp_path / package
        info = folder / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{package}_distances.py").write_text(MODULE)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"{name} = {package}_{target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[napari_maskcal.distances]", *lines]))
        monkeypatch.syspath_prepend(folder)
        find_plugin.cache_clear()

    yield put
    find_plugin.cache_clear()


@pytest.mark.parametrize(
    ("target", "expected"),
    [("own", 2), ("Own", 1), ("factory", 4), ("plain", 0.5)],
    ids=["a distance", "its class", "a factory", "a function of two images"],
)
def test_a_package_may_bring_a_distance_in_each_of_these_ways(install, target, expected):
    with pytest.raises(ValueError, match="no distance 'theirs'"):
        parse_distance("theirs")
    install("kind", {"theirs": f"distances:{target}"})
    distance = parse_distance("theirs")
    assert distance.between(np.ones((3, 2, 2)), np.full((1, 2, 2), 0.5), np.zeros((1, 2, 2))).tolist() == [expected] * 3


def test_it_has_the_announced_name_and_the_package_in_its_identity(install):
    install("kind", {"Theirs": "distances:own", "function": "distances:plain"}, version="3.4")
    distance = parse_distance("theirs")
    assert (distance.name, distance.sentence_name, distance.identity) == ("Theirs", "own error", "kind 3.4, v7")
    assert parse_distance(distance.name) == distance
    assert distance.monotone
    assert not distance.differentiable  # it says so, but has no loss
    assert parse_distance("function").identity.startswith("kind 3.4, code sha256:")


def test_a_built_in_name_cannot_be_shadowed(install):
    install("greedy", {"l1": "distances:own", "lpips": "distances:own", "more": "distances:own"})
    assert parse_distance("l1").sentence_name == "mean absolute error"
    assert "greedy" not in known_distances()["l1"]
    assert "lpips" not in known_distances()
    assert known_distances()["more"] == "from greedy 1.2"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere:own", "ModuleNotFoundError: No module named 'broken_nowhere'"),
        ("distances:absent", "AttributeError: .*absent"),
        ("distances:number", "TypeError: broken_distances:number is a int, neither a distance nor a function"),
        ("distances:wrong_factory", "TypeError: broken_distances:wrong_factory gave a int, not a distance"),
        ("distances:NeedsMore", "TypeError: .*argument"),
    ],
)
def test_a_broken_package_is_named_in_one_line_and_leaves_the_others_alone(install, target, message):
    install("broken", {"bad": target})
    install("whole", {"good": "distances:own"})
    with pytest.raises(ValueError, match=f"the distance bad of broken 1.2 cannot be loaded: {message}") as refusal:
        parse_distance("bad")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith("; update or uninstall that package")
    assert parse_distance("good").sentence_name == "own error"
    assert list(known_distances())[-2:] in (["bad", "good"], ["good", "bad"])


def test_a_name_that_two_packages_announce_is_refused(install):
    install("one", {"theirs": "distances:own"})
    install("two", {"THEIRS": "distances:own"})
    with pytest.raises(ValueError, match=r"the distance theirs is in one 1\.2 and in two 1\.2; uninstall all but one"):
        parse_distance("theirs")
    assert "from one 1.2 and from two 1.2" in known_distances().values()


def test_an_unknown_name_is_answered_with_all_that_are_known(install):
    install("kind", {"theirs": "distances:nonsense"})
    with pytest.raises(
        ValueError, match=r"no distance 'mse'; known are l1, l2, lP, linf, .*lpips-vgg, theirs; P is from 1 to 64"
    ):
        parse_distance("mse")


LIGHT = """
import json, sys
from napari_maskcal.distance.registry import known_distances, parse_distance
for name in ("l1", "linf-blur2", "ssim", "lpips", "lpips-vgg:/none"):
    distance = parse_distance(name)
    distance.name, distance.sentence_name, distance.monotone
known_distances()
print(json.dumps(sorted(m.partition(".")[0] for m in sys.modules)))
"""


def test_naming_and_listing_distances_loads_nothing_heavy(install, tmp_path):
    install("kind", {"theirs": "distances:own"})
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'kind')!r})\n{LIGHT}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603
    heavy = {"torch", "torchvision", "torchmetrics", "lpips", "skimage", "scipy", "kind_distances"}
    assert "numpy" in json.loads(text)
    assert not heavy & set(json.loads(text))
