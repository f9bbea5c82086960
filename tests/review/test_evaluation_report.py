from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from napari_maskcal.calibrate.certificate import Pin
from napari_maskcal.calibrate.comparison import Comparison
from napari_maskcal.calibration import calibrate
from napari_maskcal.evaluation import evaluate
from napari_maskcal.mask.untrained import given_mask
from napari_maskcal.read.triplets import triplets_from_arrays
from napari_maskcal.review.calibration_figures import draw_coverage, draw_masked_share, draw_thresholds
from napari_maskcal.review.certificate_words import certificate_lines, percent
from napari_maskcal.review.comparison_table import HEADER, Beside, comparison_lines
from napari_maskcal.review.evaluation_report import (
    COLUMNS,
    evaluation_json,
    fields_csv,
    found_lines,
    report_html,
    write_evaluation,
)
from napari_maskcal.review.pins import earlier_pins
from napari_maskcal.review.remarks import remarks

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.read.parts import Triplets
    from napari_maskcal.review.held_out import Evaluation

MASK = given_mask("<a ramp>")
RAMP = np.arange(1, 65, dtype=np.float32).reshape(8, 8)
NASTY = ["=1+1", "<script>alert(1)</script>", '"; DROP, \nTABLE']


def fields(errors: list[float], *, seed: int, names: list[str] | None = None) -> Triplets:
    rng = np.random.default_rng(seed)
    truth = rng.integers(100, 200, (len(errors), 8, 8)).astype(np.float64)
    restored = truth + np.array(errors)[:, None, None]
    degraded = rng.integers(0, 1000, truth.shape).astype(np.uint16)
    ramps = np.broadcast_to(RAMP, truth.shape)
    names = names or [f"{seed} {i}" for i in range(len(errors))]
    return triplets_from_arrays(degraded, truth, restored=restored, uncertainty=ramps, names=names)


@pytest.fixture(scope="module")
def promise() -> Certificate:
    seen = fields([float(i) for i in range(1, 11)], seed=0)
    return calibrate(seen, MASK, tolerance=2.0, intensity="raw", device="cpu", note="a <note>")


def held_out(promise: Certificate, errors: list[float], names: list[str] | None = None) -> Evaluation:
    return evaluate(fields(errors, seed=1, names=names), MASK, certificate=promise, device="cpu")


@pytest.fixture(scope="module")
def evaluation(promise) -> Evaluation:
    return held_out(promise, [4.0, 16.0, 0.5], NASTY)


class Page(HTMLParser):
    """The texts, cells and addresses of a page; it notes what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_shows_the_numbers_computed_by_hand(evaluation):
    page = Page(report_html(evaluation))
    assert page.open == []
    # 12 of 64 pixels are believed, so errors of 4, 16 and 0.5 everywhere leave 0.75, 3 and 0.09375 outside the marks.
    rows = {row[0]: row[2:] for row in page.rows if len(row) == 7}
    assert rows[NASTY[0]] == ["4", "0.75", "yes", "33", "81.2 %"]
    assert rows[NASTY[1]][:3] == ["16", "3", "no"]
    assert rows[NASTY[2]] == ["0.5", "0.09375", "yes", "∞", "81.2 %"]
    assert [row[0] for row in page.rows if len(row) == 7][1] == NASTY[1]  # the worst comes first
    assert "2 of 3 held-out images (66.7 %; 95 % interval 9.42 % to 99.2 %)" in page.text
    assert "Distances are raw intensities." in page.text


def test_a_number_that_is_planted_is_the_one_that_is_shown(evaluation):
    planted = replace(evaluation.fields[0], trusted_distance=7.125, kept=False)
    text = report_html(replace(evaluation, fields=(planted, *evaluation.fields[1:])))
    assert "7.125" in text
    assert "7.125" not in report_html(evaluation)
    assert "1 of 3 held-out images" in text


def test_names_are_text_whatever_they_look_like(evaluation):
    html = report_html(evaluation)
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert NASTY[1] in page.text
    assert "“<a ramp>”" in page.text
    assert "a <note>" in page.text


def test_the_page_is_complete_in_itself(evaluation):
    page = Page(report_html(evaluation))
    images = [address for address in page.addresses if address.startswith("data:image/svg+xml;base64,")]
    assert len(images) == 3
    for image in images:
        svg = base64.b64decode(image.partition(",")[2]).decode()
        assert svg.rstrip().endswith("</svg>")
        assert "NaN" not in svg
    assert set(page.addresses) - set(images) == {"fields.csv", "evaluation.json"}
    outside = re.sub(r"data:image/svg\+xml;base64,[\w+/=]+", "", report_html(evaluation))
    assert not re.search(r"https?://|@import|url\(", outside)


def test_the_style_of_the_user_does_not_reach_the_page(evaluation):
    with mpl.rc_context({"axes.facecolor": "#123456", "text.color": "#123456"}):
        assert "#123456" not in _svgs(report_html(evaluation))
        assert mpl.rcParams["axes.facecolor"] == "#123456"
        drawn = io.StringIO()
        Figure().add_subplot().figure.savefig(drawn, format="svg")
        assert "#123456" in drawn.getvalue()


def _svgs(html: str) -> str:
    return "".join(base64.b64decode(one).decode() for one in re.findall(r"base64,([\w+/=]+)", html))


def test_at_most_two_hundred_fields_are_shown_and_all_are_in_the_table(promise):
    evaluation = held_out(promise, [3.0 + i / 100 for i in range(205)])
    page = Page(report_html(evaluation))
    shown = [row for row in page.rows if len(row) == 7][1:]
    assert len(shown) == 200
    assert "The 200 of 205 fields that are farthest from the truth outside the marks." in page.text
    assert {row[0] for row in shown} == {f"1 {i}" for i in range(5, 205)}
    assert len(list(csv.reader(io.StringIO(fields_csv(evaluation))))) == 206


def test_the_table_has_a_line_for_each_field_and_no_formulas(evaluation):
    rows = list(csv.DictReader(io.StringIO(fields_csv(evaluation), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["name"] for row in rows] == ["'=1+1", NASTY[1], NASTY[2]]
    assert [row["group"] for row in rows] == ["'=1+1", NASTY[1], NASTY[2]]
    assert [float(row["distance_outside_marks"]) for row in rows] == pytest.approx([0.75, 3, 0.09375])
    assert [row["kept"] for row in rows] == ["True", "False", "True"]
    assert float(rows[2]["image_threshold"]) == np.inf
    assert [float(row["masked_share"]) for row in rows] == [0.8125] * 3


@pytest.mark.parametrize("name", ["+1", "-1", "@x", "\t=1", "\r=1"])
def test_each_beginning_of_a_formula_gets_a_quote(evaluation, name):
    renamed = replace(evaluation, fields=tuple(replace(one, name=name) for one in evaluation.fields))
    assert list(csv.reader(io.StringIO(fields_csv(renamed), newline="")))[1][0] == f"'{name}"


def test_the_numbers_for_machines(evaluation, tmp_path):
    write_evaluation(evaluation, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "fields.csv", "report.html"]
    text = (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=pytest.fail)
    assert content == evaluation_json(evaluation)
    assert content["schema_version"] == 1
    assert content["coverage"]["kept"] == 2
    assert content["groups"] == dict.fromkeys(NASTY, 1)
    assert content["fields"][2]["image_threshold"] == "Infinity"
    assert content["fields"][1]["name"] == NASTY[1]
    assert content["certificate"]["tolerance"] == 2
    assert "fields" not in content["certificate"]
    assert content["promise"] == evaluation.certificate.sentence


def test_the_expected_guarantee_has_a_mean_in_place_of_a_share():
    seen = fields([float(i) for i in range(1, 11)], seed=0)
    promise = calibrate(seen, MASK, tolerance=2.0, intensity="raw", guarantee="expected", bound=8.0, device="cpu")
    evaluation = held_out(promise, [3.0, 4.0, 5.0])
    content = evaluation_json(evaluation)
    trusted = 1 - evaluation.fields[0].masked_share
    assert content["coverage"] is None
    assert content["mean_counted_distance"] == pytest.approx(4 * trusted)
    page = Page(report_html(evaluation))
    assert sum(address.startswith("data:") for address in page.addresses) == 2
    assert "on average" in page.text


def test_an_exploration_stands_out(evaluation):
    explored = replace(evaluation, certificate=evaluation.certificate.at(tolerance=4.0))
    text = Page(report_html(explored)).text
    assert "EXPLORATION" in text
    assert "What was asked for" in text
    assert "EXPLORATION" not in Page(report_html(evaluation)).text


def test_the_labels_of_an_exploration_speak_of_no_promise(evaluation):
    explored = replace(evaluation, certificate=evaluation.certificate.at(tolerance=4.0))
    labels = [label for label, _ in found_lines(explored)]
    assert labels[:3] == ["Held out", "Exploration", "As few or fewer, if what was explored holds"]
    assert [label for label, _ in found_lines(evaluation)][1:3] == ["Promise", "As few or fewer, if the promise holds"]
    lead = "Exploration, not a promise to quote: In at least 90 % of new images"
    for text in (Page(report_html(explored)).text, evaluation_json(explored)["promise"]):
        assert lead in text
    assert evaluation_json(evaluation)["promise"] == evaluation.certificate.sentence


def test_one_of_a_thing_is_not_called_several(promise):
    one, three = (dict(found_lines(held_out(promise, errors))) for errors in ([4.0], [4.0, 16.0, 0.5]))
    assert (one["Held out"], three["Held out"]) == ("1 field of 1 image", "3 fields of 3 images")
    assert one["Promise"].startswith("kept for 1 of 1 image (95 %")
    assert three["Promise"].startswith("kept for 2 of 3 images (95 %")


@pytest.mark.parametrize(("chance", "words"), [(1.5e-10, "less than 0.01 %"), (0.0123, "1.2 %"), (1e-4, "0.01 %")])
def test_a_chance_is_told_to_two_digits_or_as_next_to_none(evaluation, monkeypatch, chance, words):
    monkeypatch.setattr("napari_maskcal.review.evaluation_report.chance_of_as_few", lambda _: chance)
    assert dict(found_lines(evaluation))["As few or fewer, if the promise holds"] == f"in {words} of such sets"


# ---- the certificate in words


def lines(certificate: Certificate) -> dict[str, str]:
    return dict(certificate_lines(certificate))


def test_a_certificate_in_short(promise):
    told = lines(promise)
    assert told["Guarantee"] == (
        "marginal, tolerance 2 intensity units, confidence 90 %; all fields of a group count"
    )  # fmt: skip
    assert told["Distance"] == "l1, mean absolute error"
    assert told["Unit of errors"] == "raw intensities of the images"
    assert "10 fields of 10 images, each 8 × 8 pixels: 0 0 (1)" in told["Calibrated on"]
    assert told["Fields from"] == "a <note>"
    assert "numpy" in told["Made"]
    assert "nothing is marked in 0 % of the fields, everything in 0 %" in told["Masked share"]
    assert "Earlier pins" not in told
    pinned = promise.model_copy(update={"history": (Pin(tolerance=1.5, confidence=0.8, date="2026-01-02"),)})
    assert lines(pinned)["Earlier pins"] == "2026-01-02: tolerance 1.5 intensity units, confidence 80 %"
    assert "l1, mean absolute error, weights 7" in lines(
        promise.model_copy(update={"distance_identity": "weights 7"})
    )["Distance"]  # fmt: skip
    pac = lines(promise.model_copy(update={"guarantee": "pac", "delta": 0.1, "grouping": "one", "seed": 3}))
    assert "confidence 90 %, delta 10 %; one field of a group counts, drawn with seed 3" in pac["Guarantee"]


def test_many_groups_are_not_all_named(promise):
    many = promise.model_copy(update={"groups": {f"mouse {i}": 1 for i in range(40)}})
    assert lines(many)["Calibrated on"].endswith("mouse 11 (1), and 28 more")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1, "100 %"),
        (0.9996, "99.96 %"),
        (0.999999, "more than 99.99 %"),
        (0.5, "50 %"),
        (0, "0 %"),
        (2e-6, "0.0002 %"),
        (1e-9, "less than 0.0001 %"),
    ],
)
def test_only_all_is_all(share, text):
    assert percent(share) == text


def shares(promise: Certificate, masked: float, **update: Any) -> Certificate:
    records = tuple(record.model_copy(update={"masked_share": masked}) for record in promise.fields)
    return promise.model_copy(update={"fields": records, **update})


def test_a_mask_that_says_nothing_is_remarked_on(promise):
    assert remarks(promise) == []
    assert "everything is marked in 10 of 10 fields" in remarks(shares(promise, 1.0, tolerance=0.01))[0]
    assert "smallest distance without any mask is 1 intensity units of 0 0" in remarks(shares(promise, 1.0))[0]
    below = remarks(shares(promise, 0.7, tolerance=0.5))[0]
    assert "tolerance of 0.5 intensity units is below the smallest distance without any mask, 1 intensity" in below
    nothing = remarks(shares(promise, 0.0, tolerance=11.0))[0]
    assert "nothing is marked in any field: the tolerance of 11 intensity units is not below the largest" in nothing
    assert "10 intensity units of 0 9" in nothing
    assert "calibrate for a binary mask" in remarks(promise.model_copy(update={"mask": "soft"}))[0]


def test_pins_are_kept_of_the_same_measurements_only(promise):
    class Same:
        fingerprint, mask, intensity, fields = promise.fingerprint, promise.mask, promise.intensity, promise.fields
        distance = type("D", (), {"name": "l1", "identity": ""})

    pins = earlier_pins(promise, Same())
    assert [(pin.tolerance, pin.confidence, pin.date) for pin in pins] == [(2.0, 0.9, promise.created)]
    assert earlier_pins(promise.model_copy(update={"history": pins}), Same()) == (*pins, *pins)
    assert earlier_pins(promise.model_copy(update={"mask": "soft"}), Same()) == ()
    assert earlier_pins(promise.model_copy(update={"fields": promise.fields[1:]}), Same()) == ()


# ---- the plots


def axes() -> Any:
    return Figure().add_subplot()


def test_every_threshold_is_in_one_bar_and_the_chosen_one_is_where_it_belongs():
    ax = axes()
    thresholds = [0, 0, 0.01, 0.02, 0.02, 0.5, np.inf]
    draw_thresholds(ax, thresholds, 0.02)
    heights = [bar.get_height() for bar in ax.patches]
    assert sum(heights) == len(thresholds)
    assert heights[-2:] == [2, 1]  # those of 0 and of infinity
    assert ax.lines[0].get_xdata()[0] == pytest.approx(np.log10(0.02))
    assert [label.get_text() for label in ax.get_xticklabels()][0::5] == ["0", "∞"]
    draw_thresholds(ax, thresholds, 0.0)
    assert len(ax.lines) == 1
    assert ax.lines[0].get_xdata()[0] < np.log10(0.01)


@pytest.mark.parametrize("thresholds", [[np.inf] * 3, [0.0] * 3, [0.3] * 3, [0.3]])
@pytest.mark.parametrize("chosen", [0.0, 0.3, np.inf])
def test_thresholds_that_are_all_alike_are_drawn_too(thresholds, chosen):
    ax = axes()
    draw_thresholds(ax, thresholds, chosen)
    assert sum(bar.get_height() for bar in ax.patches) == len(thresholds)
    assert np.isfinite(ax.get_xlim()).all()


def test_what_is_not_known_is_left_out_of_the_lines():
    ax = axes()
    draw_coverage(ax, [0.9, 0.5, 0.7], [0.9, 0.5, 0.7], [np.nan, 0.6, 0.75], chosen=0.7, label="held out")
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["held out"].get_xdata().tolist() == [0.5, 0.7]
    assert drawn["held out"].get_ydata().tolist() == [0.6, 0.75]
    assert drawn["promised"].get_xdata().tolist() == [0.5, 0.7, 0.9]
    draw_masked_share(ax, [0.1, 0.01, 0.05], [np.nan, 0.9, 0.4], 0.05, unit="counts")
    assert ax.lines[0].get_xdata().tolist() == [0.01, 0.05]
    assert ax.get_xlabel() == "tolerance (counts)"


def test_plots_without_any_value_are_drawn_empty():
    for draw in (lambda ax: draw_thresholds(ax, [], 0.1), lambda ax: draw_coverage(ax, [], [], []),
                 lambda ax: draw_masked_share(ax, [], [], 0.1)):  # fmt: skip
        ax = axes()
        draw(ax)
        ax.figure.canvas.draw()


# ---- beside other uncertainties


def row(method: str, **changes: Any) -> Comparison:
    told: dict[str, Any] = {
        "method": method, "tolerance": 2.0, "confidence": 0.9, "n_calibration": 9, "n_test": 11, "coverage": 0.9012,
        "coverage_low": 0.6364, "coverage_high": 1.0, "masked_share": 0.4567, "untouched_share": 0.125,
        "correlation": 0.777,
    }  # fmt: skip
    return Comparison(**told | changes)


@pytest.fixture
def compared(evaluation) -> Evaluation:
    opt = row("opt", n_calibration=0, coverage=1.0, coverage_low=1.0, masked_share=0.0712)
    same = row("=the same", correlation=None, masked_share=1.0, untouched_share=0.0)
    return replace(evaluation, beside=Beside(rows=(row("<a ramp>"), same, opt), splits=200))


def test_the_table_of_uncertainties_is_on_the_page_and_in_the_terminal(compared, evaluation):
    page = Page(report_html(compared))
    assert page.open == []
    assert list(HEADER) in page.rows
    rows = {cells[0]: cells[1:] for cells in page.rows if len(cells) == len(HEADER)}
    assert rows["<a ramp>"] == ["45.7 %", "12.5 %", "90.1 %", "63.6 % to 100 %", "0.78"]
    assert rows["=the same"] == ["100 %", "0 %", "90.1 %", "63.6 % to 100 %", "not defined"]
    assert rows["opt"] == ["7.12 %", "12.5 %", "100 %", "", "0.78"]
    lines = comparison_lines(compared)
    assert [line.split("  ")[0] for line in lines[1:]] == [HEADER[0], "<a ramp>", "=the same", "opt"]
    assert lines[1].index(HEADER[1]) == lines[2].index("45.7 %")
    for text in (page.text, lines[0]):
        assert "calibrated on 9 of the 3 images held out here, drawn at random, and tested on the other 11" in text
        assert "tolerance 2 intensity units, confidence 90 %, for all fields together of a new image" in text
        assert "no binary mask can be smaller" in text
        assert "what is promised, the certificate says" in text
    nothing = replace(evaluation, beside=None)
    assert "Beside other uncertainties" not in Page(report_html(nothing)).text
    assert comparison_lines(nothing) == []


def test_the_table_of_uncertainties_is_a_file_of_its_own_without_formulas(compared, evaluation, tmp_path):
    write_evaluation(compared, tmp_path)
    text = (tmp_path / "comparison.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [one["method"] for one in rows] == ["<a ramp>", "'=the same", "opt"]
    assert [one["correlation"] for one in rows] == ["0.777", "", "0.777"]
    assert float(rows[0]["coverage_low"]) == 0.6364
    content = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["comparison"]
    assert [one["method"] for one in content["rows"]] == ["<a ramp>", "=the same", "opt"]
    assert (content["splits"], content["why_not"], content["rows"][1]["correlation"]) == (200, "", None)
    assert evaluation_json(replace(evaluation, beside=None))["comparison"] is None


def test_why_nothing_was_compared_is_said_in_a_line(evaluation, tmp_path):
    few = replace(evaluation, beside=Beside(why_not="3 held-out groups are too few"))
    assert comparison_lines(few) == ["Not compared with other uncertainties: 3 held-out groups are too few."]
    assert "Not compared with other uncertainties: 3 held-out groups" in Page(report_html(few)).text
    write_evaluation(few, tmp_path)
    assert not (tmp_path / "comparison.csv").exists()
    assert evaluation_json(few)["comparison"]["rows"] == []
