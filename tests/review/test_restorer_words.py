from __future__ import annotations

import pytest

from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.review.restorer_words import intensity_words, network_lines, restorer_lines


def card(**said: object) -> ModelCard:
    known = {"network": {"kind": "onnx", "channels": 1}, "stride_px": 4, "halo_px": 24, "min_size_px": 16} | said
    return ModelCard(name="it", role="restorer", **known)


def test_a_restorer_is_told_in_five_lines():
    assert restorer_lines(card()) == [
        ("Takes", "one channel of a plane, of at least 16 pixels along each axis"),
        ("Makes", "a plane of the same size"),
        ("Looks at", "24 pixels to each side; planes and tiles in steps of 4 pixels"),
        ("Intensities", "from the percentile 1 of the plane to 99.8"),
        ("Runs in", "float32"),
    ]
    assert network_lines(card()) == restorer_lines(card())[:3]


def test_colours_a_finer_grid_and_an_unbounded_reach_are_told():
    told = dict(network_lines(card(network={"channels": 3}, scale_factor=2, halo_px=None, stride_px=1, min_size_px=1)))
    assert told["Takes"] == (
        "one channel of a plane, of at least 1 pixel along each axis; "
        "made for 3 colours, it gets that channel as each of them"
    )
    assert told["Makes"] == "a plane of 2 times as many pixels along each axis"
    assert told["Looks at"] == "the whole plane, which is never cut; planes and tiles in steps of 1 pixel"


def test_volumes_are_told_apart_from_planes():
    said = {"axes": "ZYX", "stride_z": 1, "halo_z": 3, "min_size_z": 1}
    assert restorer_lines(card(**said)) == [
        ("Takes", "one channel of a volume, of at least 1 plane of 16 pixels along Y and X"),
        ("Makes", "a volume of the same size"),
        ("Looks at", "24 pixels to each side, and 3 planes up and down; tiles in steps of 4 pixels and 1 plane"),
        ("Intensities", "from the percentile 1 of the stack to 99.8"),
        ("Runs in", "float32"),
    ]
    unbounded = dict(restorer_lines(card(**said | {"halo_z": None, "halo_px": None})))
    assert unbounded["Looks at"].startswith("the whole volume, which is never cut; tiles in steps of")


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        (Normalisation(low_percentile=3, high_percentile=99), "from the percentile 3 of the plane to 99"),
        (Normalisation(kind="range"), "from the smallest value of the plane to the largest"),
        (Normalisation(kind="range", scope="stack"), "from the smallest value of the stack to the largest"),
        (Normalisation(kind="mean_std"), "less the mean of the plane, over its standard deviation"),
        (Normalisation(kind="fixed", offset=0.5, span=255), "less 0.5, over 255"),
    ],
)
def test_it_is_told_how_intensities_are_prepared(takes, words):
    assert intensity_words(takes) == words
    assert restorer_lines(card(takes=takes))[3] == ("Intensities", words)


def test_the_pixel_size_it_was_trained_at_is_told_where_it_is_known():
    assert "Trained at" not in dict(restorer_lines(card()))
    told = dict(restorer_lines(card(pixel_size={"y": 0.1, "x": 0.1, "unit": "micrometer"})))
    assert told["Trained at"] == "pixels of 0.1 × 0.1 micrometer"
