"""The commands that need truth: calibrate, evaluate, and what info says of their results."""

from __future__ import annotations

import json
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import napari_maskcal.calibration as calibration
import napari_maskcal.evaluation as evaluation
from command_line import Ended, caller, failed
from napari_maskcal.models import load_mask_model, load_restorer
from napari_maskcal.read.cache import Cache
from napari_maskcal.read.facts import content_hash
from napari_maskcal.read.tiff import read_tiff
from napari_maskcal.read.triplets import read_triplets
from napari_maskcal.restore.loaders.native import write_restorer
from small_models import noisy_planes
from triplet_files import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

TOLERANCE = 0.095  # a little less than the distance of most fields


@pytest.fixture
def maskcal(monkeypatch, capsys, tmp_path) -> Callable[..., Ended]:
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))
    return caller(monkeypatch, capsys)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy plane, and the clean one."""
    rng = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[:64, :64]
    clean = 60 + 40 * np.sin(x / 9 + rng.uniform(0, 6)) * np.cos(y / 7 + rng.uniform(0, 6))
    return rng.poisson(clean).astype(np.uint16), clean.astype(np.float32)


def write_pairs(folder: Path, seeds: Iterable[int]) -> Path:
    for seed in seeds:
        for part, plane in zip(("low", "high"), pair(seed), strict=True):
            write(folder / part / f"mouse{seed}.tif", plane)
    return folder


@pytest.fixture
def seen(tmp_path) -> Path:
    return write_pairs(tmp_path / "seen", range(10))


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "mine.maskcal"


@pytest.fixture
def calibrate(maskcal, trained, seen, target) -> Callable[..., Ended]:
    """`maskcal calibrate` with what is right; options that are given count more."""

    def call(*options: object, folder: Path = seen, out: Any = target, tolerance: Any = TOLERANCE) -> Ended:
        given = ["--degraded", folder / "low", "--truth", folder / "high", "--restorer", trained.restorer_path]
        given += ["--device", "cpu"]
        given += ["--tolerance", tolerance] if tolerance is not None else []
        given += ["--out", out] if out is not None else []
        return maskcal("calibrate", *given, *options)

    return call


@pytest.fixture
def new(tmp_path) -> Path:
    return write_pairs(tmp_path / "new", range(20, 26))


@pytest.fixture
def evaluate(maskcal, trained, target, new, tmp_path) -> Callable[..., Ended]:
    def call(*options: object, folder: Path = new, out: Any = tmp_path / "report", bundle: Any = target) -> Ended:
        where = ["--degraded", folder / "low", "--truth", folder / "high", "--restorer", trained.restorer_path]
        return maskcal("evaluate", bundle, *where, "--out", out, "--device", "cpu", *options)

    return call


def stopped(ended: Ended) -> None:
    """It said so, on a line of its own: after the ^C that a terminal shows."""
    assert (ended.code, ended.out, ended.err.strip()) == (1, "", "maskcal: stopped; nothing was written")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def faulty(ended: Ended, *words: str) -> None:
    """It listed what is wrong as a table, and ended with one line; nothing was printed as a result."""
    lines = ended.err.splitlines()
    assert (ended.code, ended.out) == (1, "")
    assert lines[0].split() == ["FILE", "FAULT", "REMEDY"]
    assert lines[-1].startswith("maskcal: ")
    assert sum(line.startswith("maskcal: ") for line in lines) == 1
    for word in words:
        assert word in ended.err


# ---- calibrate


def test_a_bundle_is_written_that_the_review_opens(calibrate, maskcal, trained, seen, target, tmp_path):
    ended = calibrate("--note", "mice of 2026")
    assert (ended.code, ended.err) == (0, "")
    assert names_in(target.parent) == ["mine.maskcal"]
    mask_model = load_mask_model(target)
    certificate = mask_model.certificate
    restorer = load_restorer(trained.restorer_path)
    triplets = read_triplets(seen / "low", seen / "high")
    expected = calibration.calibrate(
        triplets,
        load_mask_model("residual", restorer),
        restorer,
        tolerance=TOLERANCE,
        device="cpu",
        note="mice of 2026",
    )
    assert certificate.threshold == expected.threshold
    assert certificate.fields == expected.fields
    assert 0 < certificate.masked.mean < 1
    for words in (expected.sentence, expected.limits, "mice of 2026", f"Written to {target}"):
        assert words in ended.out
    stack = write(tmp_path / "new.tif", noisy_planes(2, 64, 64), metadata={"axes": "ZYX"})
    models = ["--restorer", trained.restorer_path, "--mask-model", target]
    assert maskcal("run", stack, "--out", tmp_path / "reviewed", *models, "--device", "cpu").code == 0
    uncertain = read_tiff(tmp_path / "reviewed" / "uncertain.tif").data
    assert set(np.unique(uncertain)) <= {0, 1}


def test_json_has_the_certificate_and_where_it_is(calibrate, target):
    told = json.loads(calibrate("--json").out)
    certificate = load_mask_model(target).certificate
    assert (told["bundle"], told["tolerance"], told["n_fields"]) == (str(target), TOLERANCE, 10)
    assert told["threshold"] == certificate.threshold
    assert told["promise"] == certificate.sentence
    assert told["remarks"] == []


def test_every_choice_reaches_the_certificate(calibrate, target):
    ended = calibrate(
        "--distance", "l2", "--guarantee", "pac", "--delta", 0.5, "--confidence", 0.8, "--intensity", "raw",
        "--grouping", "one", "--seed", 5, "--mask", "soft", "--field-px", 32, "--tolerance", 25,
        "--group", r"(mouse\d)", "--mask-model", "residual:5",
    )  # fmt: skip
    assert ended.code == 0
    assert "the mask is soft, and Review draws binary ones only" in ended.err
    certificate = load_mask_model(target).certificate
    expected = {"distance": "l2", "guarantee": "pac", "delta": 0.5, "confidence": 0.8, "intensity": "raw",
                "grouping": "one", "seed": 5, "mask": "soft", "tolerance": 25}  # fmt: skip
    assert {name: getattr(certificate, name) for name in expected} == expected
    assert (certificate.field_shape, certificate.n_fields, certificate.grouped) == ((32, 32), 40, True)
    assert certificate.uncertainty == "residual, mean over 5 × 5 pixels"


def test_without_a_tolerance_some_are_suggested_and_nothing_is_written(calibrate, target):
    ended = calibrate(tolerance=None)
    assert (ended.code, ended.err) == (0, "")
    assert names_in(target.parent) == []
    told = json.loads(calibrate("--json", tolerance=None, out=None).out)
    assert [round(one["share_of_fields_without_mask"], 1) >= share for one, share in
            zip(told["tolerances"], (0.3, 0.6, 0.8), strict=True)] == [True] * 3  # fmt: skip
    for one in told["tolerances"]:
        assert told["distances"]["smallest"] <= one["tolerance"] <= told["distances"]["largest"] * 1.1
        assert one["share"] == one["tolerance"]
        assert f"--tolerance {one['tolerance']:g} (" in ended.out
    assert "was not fixed beforehand" in ended.out


def test_suggestions_call_groups_what_they_are(calibrate):
    assert calibrate(tolerance=None).out.startswith("Measured: 10 fields of 10 images. Without any mask")
    grouped = calibrate("--group", "mous(e)", tolerance=None)
    assert grouped.out.startswith("Measured: 10 fields of 1 specimen. Without any mask")


def test_suggestions_are_in_both_units_and_agree(calibrate):
    share, raw = (
        json.loads(calibrate("--json", "--intensity", unit, tolerance=None).out)["tolerances"][1]
        for unit in ("share", "raw")
    )
    span = np.median([np.subtract(*np.sort(pair(i)[0], axis=None)[[round(4095 * 0.998), round(4095 * 0.01)]])
                      for i in range(10)])  # fmt: skip
    assert share["counts"] == pytest.approx(share["tolerance"] * span)
    assert raw["counts"] == raw["tolerance"]
    assert raw["share"] == pytest.approx(raw["tolerance"] / span)
    assert raw["counts"] == pytest.approx(share["counts"], rel=0.1)


def test_a_table_names_files_and_groups(calibrate, maskcal, trained, seen, target):
    rows = [f"low/mouse{i}.tif,high/mouse{i}.tif,animal {i // 2}" for i in range(10)]
    table = seen / "table.csv"
    table.write_text("degraded,truth,group\n" + "\n".join(rows), encoding="utf-8")
    given = ["--manifest", table, "--restorer", trained.restorer_path, "--tolerance", TOLERANCE, "--device", "cpu"]
    assert maskcal("calibrate", *given, "--confidence", 0.8, "--out", target).code == 0
    assert load_mask_model(target).certificate.groups == {f"animal {i}": 2 for i in range(5)}
    faulty(maskcal("calibrate", *given, "--out", target), "of 5 groups, and 9 are needed")


def test_images_of_another_tool_take_the_place_of_models(maskcal, seen, target, trained, monkeypatch):
    for i in range(10):
        rng = np.random.default_rng(i)
        low, _ = pair(i)
        write(seen / "theirs" / f"mouse{i}.tif", low.astype(np.float32) + rng.normal(0, 1, low.shape).astype("f4"))
        write(seen / "maps" / f"mouse{i}.tif", rng.uniform(1, 9, low.shape).astype(np.float32))
    folders = ["--degraded", seen / "low", "--truth", seen / "high", "--restored", seen / "theirs"]
    folders += ["--uncertainty", seen / "maps", "--tolerance", 0.062, "--out", target, "--device", "cpu"]
    ended = maskcal("calibrate", *folders)
    assert (ended.code, ended.err) == (0, "")
    certificate = load_mask_model(target).certificate
    assert certificate.fingerprint.restorer_sha256 == "given"
    assert certificate.uncertainty == "given uncertainty"
    monkeypatch.setattr(calibration, "survey_plan", lambda *_, **__: pytest.fail("the work began"))
    failed(maskcal("calibrate", *folders, "--restorer", trained.restorer_path),
           "mouse0 comes with a restored image, as do 9 more",
           "but random restorer 0 makes its own; leave out either")  # fmt: skip
    failed(maskcal("calibrate", *folders, "--mask-model", "residual"), "mouse0 comes with an uncertainty map",
           "as do 9 more", "but residual, mean", "makes its own; leave out either")  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "high/mouse3.tif").unlink(), ["low/mouse3.tif", "has no truth of the same name"]),
        (lambda f: (f / "low/extra.jpg").write_text("x"), ["low/extra.jpg", "is of a format that is not read"]),
        (lambda f: (f / "low/mouse3.tif").write_bytes(b"II*\0 no TIFF"), ["low/mouse3.tif"]),
        (lambda f: write(f / "high/mouse3.tif", np.zeros((64, 60), "f4")), ["high/mouse3.tif", "is 64 x 60 pixels"]),
        (lambda f: write(f / "high/mouse3.tif", with_nan()), ["high/mouse3.tif", "has 1 NaN or", "(4, 5)"]),
        (lambda f: write(f / "low/mouse3.tif", np.full((64, 64), 7, "u2")), ["low/mouse3.tif", "is constant"]),
        (lambda f: [shutil.copy(f / p / "mouse3.tif", f / p / "mouse4.tif") for p in ("low", "high")],
         ["low/mouse4.tif", "has the same pixels as low/mouse3.tif"]),
        (lambda f: [(f / p / f"mouse{i}.tif").unlink() for p in ("low", "high") for i in (1, 2)],
         ["the fields", "are of 8 groups, and 9 are needed"]),
        (lambda f: write(f / "high/mouse3.tif", pair(3)[0]), ["high/mouse3.tif", "same pixels as low/mouse3.tif"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_told_by_its_name(calibrate, seen, target, damage, words):
    damage(seen)
    target.write_text("mine")
    faulty(calibrate(), *words)
    assert target.read_text() == "mine"
    assert names_in(target.parent) == ["mine.maskcal"]


def with_nan() -> np.ndarray:
    plane = pair(3)[1]
    plane[4, 5] = np.nan
    return plane


def test_all_faults_are_in_one_table(calibrate, seen):
    (seen / "high/mouse1.tif").unlink()
    write(seen / "low/mouse2.tif", np.full((64, 64), 7, "u2"))
    ended = calibrate()
    faulty(ended, "low/mouse1.tif", "low/mouse2.tif", "faults in the triplets")
    assert len(ended.err.splitlines()) == 1 + 3 + 1  # two files, and then there are too few groups


def test_one_group_only_is_told(calibrate):
    faulty(calibrate("--group", "mouse"), "are 10 of one group, 'mouse', and 9 groups are needed")


def test_a_truth_that_is_the_restored_image_is_told(maskcal, seen, target):
    shutil.copytree(seen / "high", seen / "theirs")
    folders = ["--degraded", seen / "low", "--truth", seen / "high", "--restored", seen / "theirs"]
    ended = maskcal("calibrate", *folders, "--tolerance", 0.1, "--out", target)
    faulty(ended, "high/mouse0.tif", "has the same pixels as theirs/mouse0.tif", "high/mouse9.tif")
    assert not target.exists()


def test_content_that_trained_a_network_is_told_under_any_name(calibrate, trained, tmp_path, target):
    card = trained.restorer.card.model_copy(update={"trained_on_sha256": (content_hash(pair(3)[1]),)})
    taught = tmp_path / "taught.safetensors"
    write_restorer(taught, trained.restorer.network, card)
    faulty(calibrate("--restorer", taught), "high/mouse3.tif", "was used to train", "1 fault in")
    named = card.model_copy(update={"trained_on_sha256": (), "trained_on": ("mouse4",)})
    write_restorer(taught, trained.restorer.network, named)
    failed(calibrate("--restorer", taught), "random restorer 0 was trained on mouse4", "leave these groups out")
    assert not target.exists()


def test_a_mask_of_everything_is_written_and_said(calibrate, target):
    suggested = json.loads(calibrate("--json", tolerance=None).out)
    smallest, largest = suggested["distances"]["smallest"], suggested["distances"]["largest"]
    for tolerance in (round(smallest / 4000, 7), 1e-12):
        ended = calibrate(tolerance=tolerance)
        assert ended.code == 0
        assert "maskcal: everything is marked in 10 of 10 fields" in ended.err
        assert "smallest distance without any mask is" in ended.err
        assert load_mask_model(target).certificate.masked.quartiles[1] == 1
    ended = calibrate(tolerance=round(largest * 1.2, 2))
    assert ended.code == 0
    assert "maskcal: nothing is marked in any field" in ended.err
    assert "is not below the largest distance without any mask" in ended.err
    assert load_mask_model(target).certificate.threshold == np.inf
    assert calibrate(tolerance=TOLERANCE).err == ""


@pytest.mark.parametrize("where", ["survey", "measure", "write"])
def test_an_interruption_leaves_what_was_there(calibrate, target, monkeypatch, where):
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    if where == "survey":
        monkeypatch.setattr(calibration, "survey_plan", interrupted)
    elif where == "measure":
        monkeypatch.setattr(calibration, "measure_fields", after_two(calibration.measure_fields))
    else:
        monkeypatch.setattr("napari_maskcal.bundle.write_atomically", half_written)
    target.write_text("mine")
    stopped(calibrate())
    assert (target.read_text(), names_in(target.parent)) == ("mine", ["mine.maskcal"])


def after_two(function: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        for number, one in enumerate(function(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield one

    return interrupted


def half_written(path: Path, content: bytes) -> None:
    import napari_maskcal.read.atomic as atomic

    class Half:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Half:
            return self

        def write(self, content: bytes) -> None:
            self.file.write(content[:100])
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            self.file.close()

    with pytest.MonkeyPatch.context() as patch:
        fdopen = atomic.os.fdopen
        patch.setattr(atomic.os, "fdopen", lambda *arguments: Half(fdopen(*arguments)))
        atomic.write_atomically(path, content)


def test_what_was_measured_before_the_interruption_is_not_measured_again(calibrate, monkeypatch, target):
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "measure_fields", after_two(calibration.measure_fields))
        assert calibrate().code == 1
    measured = []
    original = calibration.measure_fields

    def counted(*arguments: Any, **options: Any) -> Any:
        for one in original(*arguments, **options):
            measured.append(one.name)
            yield one

    monkeypatch.setattr(calibration, "measure_fields", counted)
    assert calibrate().code == 0
    assert len(measured) == 8
    assert calibrate("--tolerance", 0.09).code == 0
    assert len(measured) == 8
    assert calibrate("--no-cache").code == 0
    assert len(measured) == 18


def test_no_cache_keeps_nothing(calibrate, tmp_path):
    assert calibrate("--no-cache").code == 0
    assert not (tmp_path / "cache").exists()
    assert calibrate().code == 0
    assert (tmp_path / "cache").exists()


def test_a_damaged_cache_is_told_and_does_no_harm(calibrate, tmp_path, target):
    Cache(tmp_path / "cache").put("a", b"b")
    (tmp_path / "cache" / "results.sqlite").write_bytes(b"no database" * 100)
    ended = calibrate()
    assert ended.code == 0
    assert "maskcal: the next calibration of these files will start anew: " in ended.err
    assert target.exists()
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "cache" / "results.sqlite").execute("SELECT 1 FROM entries")


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (calibration, evaluation):
        monkeypatch.setattr(module, "survey_plan", lambda *_, **__: pytest.fail("the work began"))


def test_a_target_that_cannot_be_written_is_told_before_the_work(calibrate, monkeypatch, tmp_path, target):
    no_work(monkeypatch)
    failed(calibrate(out="/proc/mine.maskcal"), "/proc/mine.maskcal cannot be written", "choose another place")
    failed(calibrate(out=tmp_path / "none" / "x.maskcal"), f"there is no folder {tmp_path / 'none'}")
    failed(calibrate(out=tmp_path / "x.zip"), "x.zip does not end in .maskcal")
    (tmp_path / "folder.maskcal").mkdir()
    failed(calibrate(out=tmp_path / "folder.maskcal"), "folder.maskcal is a folder")
    target.write_text("mine")
    target.chmod(0o444)
    failed(calibrate(), f"{target} is write-protected; nothing was changed")
    assert target.read_text() == "mine"


def test_an_earlier_pin_of_the_same_fields_is_kept_in_the_history(calibrate, maskcal, seen, target):
    assert calibrate().code == 0
    first = load_mask_model(target).certificate
    assert calibrate("--confidence", 0.8, "--tolerance", 0.09).code == 0
    second = load_mask_model(target).certificate
    assert [(pin.tolerance, pin.confidence, pin.date) for pin in second.history] == [(TOLERANCE, 0.9, first.created)]
    assert "Earlier pins: " in maskcal("info", target).out
    write_pairs(seen, [10])  # another set of fields: a calibration of its own
    assert calibrate().code == 0
    assert load_mask_model(target).certificate.history == ()
    target.write_text("something else")
    assert calibrate().code == 0
    assert load_mask_model(target).certificate.history == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tolerance", 0], "tolerance is 0; give a number above 0"),
        (["--tolerance", "nan"], "tolerance is nan;"),
        (["--confidence", 1], "confidence is 1;"),
        (["--guarantee", "pac"], "delta is None; the pac guarantee takes a number"),
        (["--delta", 0.1], "delta is 0.1, but the marginal guarantee has none"),
        (["--guarantee", "expected"], "bound is None; the expected guarantee takes"),
        (["--distance", "l0"], "there is no distance 'l0'"),
        (["--mask-model", "residual:4"], "odd number"),
        (["--restorer", "/nowhere.safetensors"], "/nowhere.safetensors does not exist"),
        (["--degraded", "/nowhere"], "/nowhere"),
        (["--group", "("], "'(' is not a regular expression"),
        (["--field-px", 0], "field size is 0 pixels; give a whole number"),
        (["--field-px", 65], "too small for a field of 65"),
        (["--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused_in_one_line(calibrate, target, options, words):
    failed(calibrate(*options), words)
    assert not target.exists()


@pytest.mark.parametrize(
    "arguments",
    [["calibrate"], ["calibrate", "--degraded", "a"], ["calibrate", "--manifest", "a", "--truth", "b"],
     ["calibrate", "--manifest", "a", "--group", "b"],
     ["calibrate", "--degraded", "a", "--truth", "b", "--tolerance", "1"],
     ["calibrate", "--degraded", "a", "--truth", "b", "--guarantee", "often"],
     ["calibrate", "--degraded", "a", "--truth", "b", "--mask", "grey"],
     ["evaluate", "x.maskcal", "--degraded", "a", "--truth", "b"], ["evaluate", "--out", "x"],
     ["evaluate", "x.maskcal", "--out", "x"]],
)  # fmt: skip
def test_wrong_use_ends_with_code_two(maskcal, arguments):
    ended = maskcal(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Error: " in ended.err


def test_help_tells_the_choices(maskcal):
    text = maskcal("calibrate", "--help").out
    for words in ("[marginal|pac|expected]", "[binary|soft]", "[default: residual]", "--no-cache", "--field-px"):
        assert words in text
    assert "report.html" in maskcal("evaluate", "-h").out


# ---- info


def test_info_tells_what_is_new_in_a_certificate(calibrate, maskcal, target):
    assert calibrate("--guarantee", "pac", "--delta", 0.5, "--confidence", 0.8, "--note", "mice").code == 0
    lines = maskcal("info", target).out.splitlines()
    labels = [line.partition(": ")[0] for line in lines[3:]]
    assert labels == ["Guarantee", "Distance", "Unit of errors", "Threshold", "Uncertainty", "Calibrated on",
                      "Masked share", "Leave-one-out", "Fields from", "Made", "Trained on"]  # fmt: skip
    text = "\n".join(lines)
    for words in ("pac, tolerance 9.5 % of", "delta 50 %", "l1, mean absolute error", "shares of the plane's intensity",
                  "10 fields of 10 images, each 64 × 64 pixels", "numpy", "torch"):  # fmt: skip
        assert words in text


# ---- evaluate


def test_a_held_out_set_gives_a_folder_with_three_files(calibrate, evaluate, tmp_path, target):
    calibrate()
    ended = evaluate()
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "report"
    assert names_in(folder) == ["evaluation.json", "fields.csv", "report.html"]
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert content["conclusion"] in ended.out
    assert (content["n_fields"], content["coverage"]["of"]) == (6, 6)
    assert content["coverage"]["kept"] == sum(one["kept"] for one in content["fields"])
    assert "No groups were named" in ended.out
    assert f"Written to {folder}" in ended.out
    printed = json.loads(evaluate("--json", out=tmp_path / "again").out)
    assert printed == json.loads((tmp_path / "again" / "evaluation.json").read_text(encoding="utf-8"))
    assert names_in(tmp_path) == ["again", "cache", "new", "out", "report", "seen"]


def test_the_report_is_about_what_the_review_would_draw(calibrate, evaluate, new, target, trained, tmp_path):
    calibrate()
    evaluate()
    row = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))["fields"][0]
    mask_model, restorer = load_mask_model(target), load_restorer(trained.restorer_path)
    low, high = pair(20)
    restored = restorer(low)
    uncertainty = mask_model.uncertainty(low, restored)
    _, span = restorer.card.normalisation.measure(low)
    marked = uncertainty > mask_model.certificate.threshold
    error = np.abs(restored.astype(float) - high) / span
    assert row["name"] == "mouse20"
    assert row["distance"] == pytest.approx(error.mean(), rel=1e-5)
    assert row["distance_outside_marks"] == pytest.approx(error[~marked].sum() / error.size, rel=1e-4)
    assert row["masked_share"] == pytest.approx(marked.mean(), abs=1e-3)
    assert row["intensity_range"] == span


def test_fields_that_were_calibrated_on_are_refused_by_name(calibrate, evaluate, seen, new, tmp_path):
    calibrate()
    faulty(evaluate(folder=seen), "low/mouse0.tif", "was used to calibrate, as mouse0", "10 faults")
    for part in ("low", "high"):
        shutil.copy(seen / part / "mouse7.tif", new / part / "other.tif")
    faulty(evaluate(), "low/other.tif", "was used to calibrate, as mouse7", "1 fault in")
    assert "report" not in names_in(tmp_path)


def test_other_uncertainties_are_compared_in_every_form_of_the_report(calibrate, evaluate, new, tmp_path):
    calibrate()
    write_pairs(new, range(26, 32))
    ended = evaluate("--against", "residual:1", "--against", "constant")
    assert (ended.code, ended.err) == (0, "")
    assert names_in(tmp_path / "report") == ["comparison.csv", "evaluation.json", "fields.csv", "report.html"]
    rows = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))["comparison"]["rows"]
    names = ["residual, mean over 9 × 9 pixels", "residual, mean over 1 × 1 pixels", "the same everywhere", "opt"]
    assert [row["method"] for row in rows] == names
    assert rows[3]["masked_share"] < min(row["masked_share"] for row in rows[:3])
    assert rows[2]["correlation"] is None
    for name in names:
        assert any(line.startswith(f"{name}  ") for line in ended.out.splitlines())
    plain = evaluate(out=tmp_path / "plain")  # what is evaluated is the smoothed residual itself
    assert "Each uncertainty was calibrated" in ended.out
    assert "Each uncertainty was calibrated" not in plain.out
    assert names_in(tmp_path / "plain") == ["evaluation.json", "fields.csv", "report.html"]


def test_what_cannot_be_compared_is_said_before_the_work(calibrate, evaluate, monkeypatch, tmp_path):
    calibrate()
    few = evaluate("--against", "residual:1")
    assert few.code == 0
    assert "Not compared with other uncertainties: 6 held-out groups are too few" in few.out
    assert "Not compared" not in evaluate("--against", "none", out=tmp_path / "none").out
    no_work(monkeypatch)
    failed(evaluate("--against", "/nowhere.maskcal", out=tmp_path / "x"), "/nowhere.maskcal does not exist")
    failed(evaluate("--against", "residual:4", out=tmp_path / "x"), "the residual's window is 4 pixels")
    failed(evaluate("--against", "given", out=tmp_path / "x"), "makes no map itself, and 6 triplets, the first mouse20")
    wrong = evaluate("--against", "none", "--against", "constant", out=tmp_path / "x")
    assert wrong.code == 2
    assert "--against none is for no comparison; leave the others out" in wrong.err
    assert "x" not in names_in(tmp_path)


def test_an_exploration_is_marked_in_the_report(calibrate, evaluate, tmp_path):
    calibrate()
    ended = evaluate("--tolerance", 0.09, "--confidence", 0.8)
    assert "EXPLORATION" in ended.out
    certificate = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))["certificate"]
    assert (certificate["tolerance"], certificate["confidence"], certificate["exploration"]) == (0.09, 0.8, True)


def test_groups_are_named_for_both_commands_or_for_none(calibrate, evaluate, monkeypatch):
    calibrate()
    group = ["--group", r"mouse\d+"]
    failed(evaluate(*group), "maskcal: the promise is about images; leave the groups out")
    calibrate(*group)
    failed(evaluate(), "the promise is about specimens, and no groups were named; give --group, or a table with a")
    assert evaluate(*group).code == 0


def test_an_existing_report_is_never_touched(calibrate, evaluate, tmp_path, monkeypatch):
    calibrate()
    no_work(monkeypatch)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine").write_text("mine")
    failed(evaluate(), f"output folder {tmp_path / 'report'} exists; nothing was changed")
    failed(evaluate(out="/proc/report"), "output folder /proc/report cannot be made")
    assert names_in(tmp_path / "report") == ["mine"]


@pytest.mark.parametrize("where", ["survey", "field", "write"])
def test_an_interrupted_evaluation_leaves_nothing(calibrate, evaluate, tmp_path, monkeypatch, where):
    calibrate()

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    name = {"survey": "napari_maskcal.evaluation.survey_plan",
            "field": "napari_maskcal.evaluation_against.image_threshold",
            "write": "napari_maskcal.review.evaluation_report.report_html"}[where]  # fmt: skip
    monkeypatch.setattr(name, interrupted)
    stopped(evaluate())
    assert names_in(tmp_path) == ["cache", "new", "out", "seen"]


def test_what_does_not_fit_the_certificate_is_refused_in_one_line(calibrate, evaluate, tmp_path, new, trained):
    calibrate("--field-px", 32)
    ended = evaluate("--json", out=tmp_path / "cut")
    assert json.loads(ended.out)["n_fields"] == 24  # planes of 64 x 64 are cut into four
    for part in ("low", "high"):
        for seed in range(20, 26):
            write(new / part / f"mouse{seed}.tif", pair(seed)[part == "high"][:30])
    failed(evaluate(), "planes of 30 × 64 pixels, smaller than the calibrated fields of 32 × 32")
    failed(evaluate("--restorer", "demo"), "does not hold here: the restorer")
    failed(evaluate(bundle="residual"), "has no certificate; calibrate it before it is evaluated")
    failed(evaluate(bundle="/nowhere.maskcal"), "/nowhere.maskcal does not exist")
    failed(evaluate("--tolerance", 0), "tolerance is 0;")
