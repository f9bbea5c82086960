from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import betabinom, binom, spearmanr, t

from napari_maskcal.calibrate import image_threshold
from napari_maskcal.calibrate.comparison import candidates, compare, opt_shares
from napari_maskcal.calibration import calibrate
from napari_maskcal.evaluation import evaluate
from napari_maskcal.mask.untrained import given_mask, residual_mask
from napari_maskcal.models import GIVEN_RESTORER, MaskModel, load_mask_model, matched
from napari_maskcal.read.facts import content_hash
from napari_maskcal.read.faults import FaultyTriplets
from napari_maskcal.read.triplets import triplets_from_arrays
from napari_maskcal.restore.events import CancelToken, FieldMeasured, FieldSurveyed
from napari_maskcal.review.comparison_table import comparison_words
from napari_maskcal.review.evaluation_words import conclusion, notes
from napari_maskcal.review.held_out import chance_of_as_few, kept_over_confidence, masked_over_tolerance

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.read.parts import Triplets
    from napari_maskcal.review.held_out import Evaluation

SIZE = 8
MASK = given_mask("a ramp")
SPECIMENS = [f"mouse {i}" for i in range(10)]
# 64 pixels, uncertainties 1, 2, ..., 64: a threshold of t trusts t of them.
RAMP = np.arange(1, SIZE * SIZE + 1, dtype=np.float32).reshape(SIZE, SIZE)


def fields(errors: list[Any], *, seed: int, groups: list[str] | None = None, maps: Any = None) -> Triplets:
    """Fields in raw intensities whose restored image is off by `errors`, under one ramp of uncertainty each."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(100, 200, (len(errors), SIZE, SIZE)).astype(np.float64)
    restored = truth + np.array([np.broadcast_to(error, (SIZE, SIZE)) for error in errors])
    ramps = np.broadcast_to(RAMP, truth.shape) if maps is None else maps
    degraded = rng.integers(0, 1000, truth.shape).astype(np.uint16)
    names = [f"{'held out' if seed else 'seen'} {i}" for i in range(len(errors))]
    return triplets_from_arrays(degraded, truth, restored=restored, uncertainty=ramps, groups=groups, names=names)


def certificate(groups: list[str] | None = None, **options: Any) -> Certificate:
    """Ten fields with errors 1, 2, ..., 10 everywhere: at tolerance 2 they may trust 64 * 2 / error pixels."""
    asked = {"tolerance": 2.0, "confidence": 0.9, "intensity": "raw", "device": "cpu"} | options
    return calibrate(fields(list(range(1, 11)), seed=0, groups=groups), MASK, **asked)


def held_out(promise: Certificate, triplets: Triplets, **options: Any) -> Evaluation:
    return evaluate(triplets, MASK, certificate=promise, device="cpu", **options)


@pytest.fixture(scope="module")
def promise() -> Certificate:
    return certificate()


def test_the_numbers_of_a_field_are_those_computed_by_hand(promise):
    # The worst calibration field has error 10 everywhere, so 12 of its 64 pixels may be trusted: 10 * 12 / 64 < 2.
    assert 12 <= promise.threshold < 13
    steep = np.where(RAMP <= 6, 20.0, 1.0)
    found = held_out(promise, fields([4.0, steep, 0.5], seed=1)).fields
    assert [one.distance for one in found] == pytest.approx([4, (6 * 20 + 58) / 64, 0.5])
    assert [one.trusted_distance for one in found] == pytest.approx([4 * 12 / 64, (6 * 20 + 6) / 64, 0.5 * 12 / 64])
    assert [one.masked_share for one in found] == [52 / 64] * 3
    assert [one.kept for one in found] == [True, True, True]
    # 4 t / 64 <= 2 for t up to 32; 120 + (t - 6) <= 128 for t up to 14; the third passes whole.
    assert [np.floor(one.threshold) for one in found] == [32, 14, np.inf]
    assert [one.group for one in found] == ["held out 0", "held out 1", "held out 2"]


def test_a_field_that_is_worse_where_the_mask_believes_it_is_not_kept(promise):
    evaluation = held_out(promise, fields([4.0, np.where(RAMP <= 6, 22.0, 1.0)], seed=1))
    assert [one.kept for one in evaluation.fields] == [True, False]
    assert evaluation.fields[1].trusted_distance == pytest.approx((6 * 22 + 6) / 64)
    assert evaluation.fields[1].threshold < promise.threshold <= evaluation.fields[0].threshold
    assert (evaluation.coverage.kept, evaluation.coverage.of) == (1, 2)
    assert evaluation.masked.mean == 52 / 64


def test_the_soft_mask_weighs_each_pixel():
    promise = certificate(mask="soft")
    one = held_out(promise, fields([3.0], seed=1)).fields[0]
    trust = np.minimum(promise.threshold / RAMP.astype(float), 1)
    assert one.trusted_distance == pytest.approx(float((3 * trust).mean()))
    assert one.masked_share == pytest.approx(1 - trust.mean())
    assert 0 < one.masked_share < 1


@pytest.mark.parametrize(("grouping", "kept"), [("worst", 1), ("one", None)])
def test_all_fields_of_a_group_have_to_be_kept_or_the_one_that_is_drawn(grouping, kept):
    promise = certificate(SPECIMENS, grouping=grouping)
    bad = np.where(RAMP <= 6, 22.0, 1.0)
    groups = ["a", "a", "a", "a", "b", "b", "b", "b"]
    evaluation = held_out(promise, fields([4.0, bad, 4.1, 4.2, 4.3, 4.4, 4.5, 4.6], seed=1, groups=groups))
    assert sum(evaluation.counted) == (8 if grouping == "worst" else 2)
    drawn_bad = evaluation.counted[1]
    assert evaluation.coverage.kept == (kept if grouping == "worst" else 2 - drawn_bad)
    assert evaluation.coverage.of == 2
    assert len(evaluation.fields) == 8


def test_the_drawn_field_follows_the_seed():
    triplets = fields([float(i) for i in range(1, 9)], seed=1, groups=["a"] * 8)
    drawn = {
        held_out(certificate(SPECIMENS, grouping="one", seed=seed), triplets).counted.index(True) for seed in range(8)
    }
    assert len(drawn) > 1


def test_the_expected_guarantee_is_judged_by_its_mean():
    promise = certificate(guarantee="expected", bound=4.0)
    evaluation = held_out(promise, fields([1.0, 2.0, 60.0], seed=1))
    trusted = 1 - evaluation.fields[0].masked_share
    assert evaluation.counted_losses.tolist() == pytest.approx([trusted, 2 * trusted, min(60 * trusted, 4)])
    assert "counted as at most 4 intensity units" in conclusion(evaluation)
    assert "at most 2 intensity units" in conclusion(evaluation)
    losses = replace_losses(evaluation, [1.9, 2.0, 2.1])
    assert chance_of_as_few(losses) == pytest.approx(0.5)
    # Both the 3 held-out fields and the 10 calibrated ones vary: 0.1 * sqrt(1 / 3 + 1 / 10) is 0.0658.
    above = replace_losses(evaluation, [1.9 + 0.0658, 2.0 + 0.0658, 2.1 + 0.0658])
    assert chance_of_as_few(above) == pytest.approx(t.sf(1, 2), rel=1e-3)
    assert chance_of_as_few(replace_losses(evaluation, [2.9, 3.0, 3.1])) < 0.01


def replace_losses(evaluation: Evaluation, losses: list[float]) -> Evaluation:
    changed = [replace(one, trusted_distance=loss) for one, loss in zip(evaluation.fields, losses, strict=True)]
    return replace(evaluation, fields=tuple(changed))


def test_the_chance_is_that_of_a_calibration_that_keeps_its_promise(promise):
    evaluation = held_out(promise, fields([3.0 + i / 10 for i in range(20)], seed=1))
    for kept in (20, 17, 14):
        some = replace_losses(evaluation, [0.1] * kept + [9.0] * (20 - kept))
        assert chance_of_as_few(some) == pytest.approx(betabinom.cdf(kept, 20, 10, 1))
    # 14 of 20 happen often enough when 10 fields were calibrated; with a binomial they would seem a refutation.
    assert binom.cdf(14, 20, 0.9) < 0.012 < 0.05 < chance_of_as_few(some)
    assert "does not speak against the promise, and 20 specimens cannot prove it" in conclusion(named(some))
    few = named(replace_losses(evaluation, [0.1] * 5 + [9.0] * 15))
    assert "5 of 20 held-out specimens (25 %; 95 % interval 8.65 % to 49.2 %)" in conclusion(few)
    assert "as few or fewer would come about with a probability of 0.01 % if the promise held here" in conclusion(few)


def named(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, grouped=True)


def test_the_chance_under_pac_is_binomial():
    promise = certificate(guarantee="pac", delta=0.5, confidence=0.8)
    evaluation = held_out(promise, fields([3.0 + i / 10 for i in range(10)], seed=1))
    some = replace_losses(evaluation, [0.1] * 7 + [9.0] * 3)
    assert chance_of_as_few(some) == pytest.approx(binom.cdf(7, 10, 0.8))


def test_simulated_calibrations_agree_with_that_chance():
    rng = np.random.default_rng(0)
    calibrated, new = rng.random((4000, 10)).min(axis=1), rng.random((4000, 20))
    kept = (new >= calibrated[:, None]).sum(axis=1)
    for count in (10, 15, 18):
        assert (kept <= count).mean() == pytest.approx(betabinom.cdf(count, 20, 10, 1), abs=0.02)


def test_the_rank_correlation_is_spearmans_and_none_where_nothing_varies(promise):
    rng = np.random.default_rng(3)
    maps = RAMP * rng.uniform(0.2, 2, (8, 1, 1)).astype(np.float32)
    evaluation = held_out(promise, fields(rng.uniform(1, 5, 8).tolist(), seed=1, maps=maps))
    shares, distances = ([getattr(one, name) for one in evaluation.fields] for name in ("masked_share", "distance"))
    assert evaluation.rank_correlation == pytest.approx(spearmanr(shares, distances).statistic)
    assert held_out(promise, fields([3.0, 4.0, 5.0], seed=1)).rank_correlation is None


def test_curves_agree_with_the_field_by_field_numbers_where_they_meet(promise):
    bad = np.where(RAMP <= 6, 22.0, 1.0)
    evaluation = held_out(promise, fields([4.0, bad, 9.0, 10.0], seed=1))
    confidences, kept = kept_over_confidence(evaluation)
    coverage = evaluation.coverage
    assert kept[np.flatnonzero(confidences == 0.9)[0]] == coverage.kept / coverage.of == 0.75
    assert np.isnan(kept[confidences > 0.91]).all()  # ten fields do not answer there
    assert not np.isnan(kept[confidences <= 0.9]).any()
    tolerances, shares = masked_over_tolerance(evaluation)
    middle = int(np.argmin(abs(tolerances - promise.tolerance)))
    assert shares[middle] == pytest.approx(evaluation.masked.mean, abs=0.02)
    assert (np.diff(shares) <= 0).all()


def test_a_walked_distance_is_computed_at_the_very_threshold(monkeypatch):
    class Jumpy:
        name = sentence_name = "jumpy"
        monotone = differentiable = in_intensity_units = False
        identity = "1"

        def between(self, trust, restored, truth):
            error = np.abs(trust * (np.asarray(restored) - truth)).mean(axis=(1, 2))
            return np.asarray(error)

    import napari_maskcal.calibration as calibration_module
    import napari_maskcal.evaluation as evaluation_module

    rule = Jumpy()
    monkeypatch.setattr(calibration_module, "parse_distance", lambda name: rule)
    monkeypatch.setattr(evaluation_module, "parse_distance", lambda name: rule)
    maps = np.broadcast_to(RAMP / 64, (10, SIZE, SIZE))
    seen = fields(list(range(1, 11)), seed=0, maps=maps)
    promise = calibrate(seen, MASK, distance="jumpy", tolerance=0.004, confidence=0.9, device="cpu")
    assert promise.intensity == "none"
    triplets = fields([4.0, 30.0], seed=1, maps=maps[:2])
    evaluation = held_out(promise, triplets)
    for one, triplet in zip(evaluation.fields, triplets, strict=True):
        trust = maps[0] <= promise.threshold
        expected = abs(triplet.restored.read() - triplet.truth.read())[trust].sum() / 64 / one.span
        assert one.trusted_distance == pytest.approx(expected)
        assert one.kept == (expected <= 0.004)
    assert [one.kept for one in evaluation.fields] == [True, False]


def test_fields_that_were_seen_are_refused_whatever_they_are_called(promise):
    again = fields(list(range(1, 11)), seed=0)
    renamed = replace(again, items=tuple(replace(item, name=f"new {item.name}", group="new") for item in again.items))
    with pytest.raises(FaultyTriplets, match=r"10 faults .* was used to calibrate, as seen 0; evaluate on"):
        held_out(promise, renamed)


def test_a_specimen_that_was_seen_is_refused_where_groups_were_named():
    promise = certificate(SPECIMENS)
    new = fields([3.0, 4.0], seed=1, groups=["mouse 3", "mouse 11"])
    with pytest.raises(FaultyTriplets, match=r"1 fault .* is of mouse 3, which was used to calibrate") as refused:
        held_out(promise, new)
    assert len(refused.value.faults) == 1
    assert held_out(promise, fields([3.0], seed=1, groups=["mouse 11"])).coverage.of == 1


def test_images_are_not_counted_against_a_promise_about_specimens_nor_the_reverse(promise, monkeypatch):
    specimens = certificate(SPECIMENS)
    named, unnamed = (fields([3.0, 4.0], seed=1, groups=groups) for groups in (["a", "b"], None))
    assert held_out(specimens, named).group_word == "specimens"
    assert held_out(promise, unnamed).group_word == "images"
    monkeypatch.setattr("napari_maskcal.evaluation.survey_plan", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(
        ValueError, match=r"about specimens, and no groups were named; give --group, or a table with a c"
    ):
        held_out(specimens, unnamed)
    with pytest.raises(ValueError, match=r"the promise is about images; leave the groups out$"):
        held_out(promise, named)


def test_files_of_the_same_name_and_other_content_are_only_mentioned(promise):
    new = fields([3.0, 4.0], seed=1)
    same = replace(new, items=tuple(replace(item, group=f"seen {i}") for i, item in enumerate(new.items)))
    assert any("2 images, the first seen 0, have the name of a calibrated one" in note
               for note in notes(held_out(promise, same)))  # fmt: skip
    assert not any("the name of" in note for note in notes(held_out(promise, new)))
    one = replace(same, items=same.items[:1])
    assert "seen 0 has the name of a calibrated one and other content" in notes(held_out(promise, one))[-1]


def test_a_specimen_that_trained_a_network_is_refused(promise):
    card = MASK.card.model_copy(update={"trained_on": ("held out 1",)})
    trained = replace(MASK, card=card)
    with pytest.raises(FaultyTriplets, match=r"is of held out 1, which a ramp was trained on"):
        evaluate(fields([3.0, 4.0], seed=1), trained, certificate=promise, device="cpu")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("group", "folder"), [("set1/S3", "new"), ("new", "S3")])
def test_a_specimen_that_trained_a_network_is_known_by_any_folder_of_its_name(tmp_path, which, group, folder):
    networks = [MASK, matched(GIVEN_RESTORER, MASK)]
    promise, named = certificate(SPECIMENS), fields([3.0, 4.0], seed=1, groups=[group, "other"])
    (tmp_path / folder).mkdir()
    np.save(tmp_path / folder / "a.npy", named[0].truth.read())
    truth = replace(named[0].truth, origin=str(tmp_path / folder / "a.npy"), index=())
    new = replace(named, items=(replace(named[0], truth=truth), named[1]))
    assert evaluate(new, *networks, promise, device="cpu").coverage.of == 2
    card = networks[which].card.model_copy(update={"trained_on": ("s3",)})
    networks[which] = replace(networks[which], card=card)
    with pytest.raises(FaultyTriplets, match=f"1 fault .* is of .*S3, which {card.name} was trained on"):
        evaluate(new, *networks, promise, device="cpu")


def test_fields_have_to_be_of_the_calibrated_size(promise):
    rng = np.random.default_rng(1)

    def planes(*shape: int) -> Triplets:
        truth = rng.integers(100, 200, shape).astype(np.float64)
        return triplets_from_arrays(
            rng.integers(0, 1000, shape).astype(np.uint16), truth, restored=truth + 4.0,
            uncertainty=rng.uniform(1, 64, shape).astype(np.float32),
        )  # fmt: skip

    with pytest.raises(ValueError, match=r"planes of 8 × 7 pixels, smaller than the calibrated fields of 8 × 8"):
        held_out(promise, planes(2, 8, 7))
    cut = held_out(promise, planes(2, 17, 24))
    assert len(cut.fields) == 2 * 2 * 3
    assert cut.fields[1].name == "field 0 y0 x8"
    assert any("up to 6 fields, the calibrated ones up to 1" in note for note in notes(cut))
    assert cut.warnings == (
        "Planes of 17 × 24 pixels were cut into fields of 8 × 8; not used are 1 row at the bottom; "
        "the range of intensities is that of the larger plane.",
    )
    assert held_out(promise, planes(2, 8, 8)).warnings == ()
    assert (
        "not used are 2 rows at the bottom and 3 columns at the right"
        in held_out(promise, planes(1, 10, 11)).warnings[0]
    )
    alike = promise.model_copy(update={"plane_shape": (16, 16)})
    assert held_out(alike, planes(1, 16, 16)).warnings == ("Planes of 16 × 16 pixels were cut into fields of 8 × 8.",)
    oblong = promise.model_copy(update={"field_shape": (8, 6)})
    with pytest.raises(ValueError, match=r"has 17 × 24 pixels, larger than the calibrated fields of 8 × 6; cut"):
        held_out(oblong, planes(2, 17, 24))


def test_the_certificate_has_to_be_for_these_models(promise):
    new = fields([3.0], seed=1)
    with pytest.raises(ValueError, match="a ramp has no certificate; calibrate it before it is evaluated"):
        evaluate(new, MASK, device="cpu")
    with pytest.raises(ValueError, match="does not hold here: the mask network"):
        evaluate(new, given_mask("another"), certificate=promise, device="cpu")
    with pytest.raises(
        ValueError, match=r"the distance l1 \(without version\) is another than the calibrated l1 \(2\); give that one"
    ):
        held_out(promise.model_copy(update={"distance_identity": "2"}), new)


def test_an_exploration_is_said_to_be_one(promise):
    new = fields([3.0, 4.0], seed=1)
    explored = held_out(promise.at(tolerance=4.0), new)
    assert notes(explored)[0].startswith("EXPLORATION")
    assert "the exploration asked for at least 90 %" in conclusion(explored)
    assert "does not speak against what was explored, and 2 images cannot prove it" in conclusion(explored)
    assert "promise" not in conclusion(explored)
    pinned = held_out(promise, new)
    assert not any("EXPLORATION" in note for note in notes(pinned))
    assert "does not speak against the promise, and" in conclusion(pinned)


def test_one_image_is_not_called_several(promise):
    kept, missed = (held_out(promise, fields([error], seed=1)) for error in (3.0, 60.0))
    assert conclusion(kept).startswith("1 of 1 held-out image (100 %")
    assert "and 1 image cannot prove it" in conclusion(kept)
    assert conclusion(missed).startswith("0 of 1 held-out image (0 %")
    assert conclusion(held_out(promise, fields([3.0, 4.0], seed=1))).startswith("2 of 2 held-out images (100 %")
    assert "of 1 held-out image" in conclusion(replace(kept, certificate=promise.at(tolerance=4.0)))


def test_a_chance_that_is_next_to_none_is_not_given_to_the_last_digit(promise):
    none = replace_losses(held_out(promise, fields([3.0 + i / 10 for i in range(20)], seed=1)), [9.0] * 20)
    assert 0 < chance_of_as_few(none) < 1e-7
    assert "with a probability of less than 0.01 % if the promise held here" in conclusion(none)


def test_a_confidence_is_never_rounded_up(promise):
    new = fields([3.0, 4.0], seed=1)
    evaluation = replace(held_out(promise, new), certificate=promise.model_copy(update={"confidence": 0.6666666}))
    assert "the promise is at least 66.6 %:" in conclusion(evaluation)


def test_all_faults_come_at_once_and_before_the_work(promise, monkeypatch):
    import napari_maskcal.evaluation as module

    monkeypatch.setattr(module, "fields_of", lambda *_, **__: pytest.fail("the work began"))
    new = fields([3.0, 4.0, 5.0], seed=1)
    broken = [item.truth.read() for item in new]
    broken[1][2, 3] = np.nan
    seen = fields(list(range(1, 11)), seed=0)[4]
    parts = {name: np.stack([item.parts()[name].read() for item in new]) for name in ("degraded", "restored")}
    damaged = triplets_from_arrays(
        parts["degraded"], np.stack(broken), restored=parts["restored"], uncertainty=np.stack([RAMP] * 3)
    )
    with pytest.raises(FaultyTriplets) as refused:
        held_out(promise, replace(damaged, items=(*damaged.items, seen)))
    told = [str(fault) for fault in refused.value.faults]
    assert len(told) == 2
    assert "truth of layers, field 1 has 1 NaN or infinite values" in told[0]
    assert "was used to calibrate, as seen 4" in told[1]


def test_progress_is_told_and_a_stop_leaves_nothing(promise):
    events: list[Any] = []
    new = fields([3.0, 4.0], seed=1)
    held_out(promise, new, on_event=events.append)
    assert [(type(event), event.done, event.total) for event in events] == [
        (FieldSurveyed, 1, 2), (FieldSurveyed, 2, 2), (FieldMeasured, 1, 2), (FieldMeasured, 2, 2)
    ]  # fmt: skip
    cancel = CancelToken()
    with pytest.raises(InterruptedError, match="stopped; nothing was written"):
        held_out(promise, new, cancel=cancel, on_event=lambda event: cancel.cancel())


# ---- beside other uncertainties


def noisy(count: int, *, seed: int = 5, groups: list[str] | None = None) -> Triplets:
    """Fields whose error is as large as the map that comes with them says, and hardly to be seen in the residual."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(100, 200, (count, SIZE, SIZE))
    maps = rng.gamma(1, 4, truth.shape) + 0.1
    restored = truth + maps * rng.normal(size=truth.shape) * rng.lognormal(0, 0.4, (count, 1, 1))
    degraded = np.round(restored + rng.normal(0, 20, truth.shape)).clip(0)
    return triplets_from_arrays(
        degraded.astype(np.uint16), truth, restored=restored, uncertainty=maps.astype(np.float32), groups=groups
    )


def without_maps(triplets: Triplets) -> Triplets:
    return replace(triplets, items=tuple(replace(item, uncertainty=None) for item in triplets.items))


def others(*words: str) -> list[MaskModel]:
    return [load_mask_model(word, matched(GIVEN_RESTORER, MASK)) for word in words]


BARE, THIRD, SMOOTH = (f"residual, mean over {n} × {n} pixels" for n in (1, 3, 9))


@pytest.mark.parametrize("mask", ["binary", "soft"])
def test_uncertainties_are_compared_as_on_the_arrays_themselves(mask):
    promise, new = certificate(mask=mask), noisy(20)
    evaluation = held_out(promise, new, against=others("residual:1", "residual:3"))
    table = evaluation.beside
    assert (table.splits, table.why_not) == (200, "")
    assert [row.method for row in table.rows] == ["a ramp", BARE, THIRD, "opt"]
    assert {(row.tolerance, row.confidence) for row in table.rows} == {(2.0, 0.9)}
    names = ("uncertainty", "restored", "truth")
    maps, restored, truths = ([item.parts()[name].read() for item in new] for name in names)
    (own,) = candidates("a ramp", maps, restored, truths, "l1", [2.0], mask=mask)
    distances = np.array([one.distance for one in evaluation.fields])
    expected = compare(own, groups=[item.group for item in new], distances=distances, confidence=0.9, n_calibration=9)
    for name, value in asdict(table.rows[0]).items():
        assert value == (value if name == "method" else pytest.approx(asdict(expected)[name], rel=1e-3))
    ours, bare, smooth, opt = (row.masked_share for row in table.rows)
    assert opt == pytest.approx(opt_shares(restored, truths, "l1", [2.0])[0].mean(), rel=1e-6)
    assert opt < ours < min(bare, smooth) - 0.02


def test_fields_are_asked_at_their_own_threshold_and_half_of_them_calibrate():
    promise, new = certificate(), noisy(12)
    evaluation = held_out(promise, new)
    for one, item in zip(evaluation.fields, new, strict=True):
        images = (item.parts()[name].read() for name in ("uncertainty", "restored", "truth"))
        assert one.threshold == image_threshold(*images, "l1", 2.0, "binary")
    assert [row.method for row in evaluation.beside.rows] == ["a ramp", SMOOTH, "opt"]
    assert [(row.n_calibration, row.n_test) for row in evaluation.beside.rows] == [(9, 3), (9, 3), (0, 12)]


def test_the_smoothed_residual_is_the_bar_unless_it_is_what_is_evaluated():
    residual, new = residual_mask(GIVEN_RESTORER), noisy(12)
    bare = without_maps(new)
    promise = calibrate(without_maps(noisy(10, seed=6)), residual, tolerance=2.0, intensity="raw", device="cpu")

    def methods(triplets: Triplets, **options: Any) -> list[str] | None:
        beside = evaluate(triplets, residual, certificate=promise, device="cpu", **options).beside
        return beside and [row.method for row in beside.rows]

    assert methods(bare) is None
    assert methods(bare, against=others("residual", "residual:1")) == [SMOOTH, BARE, "opt"]
    # Maps that come with the images can be compared too, though the network makes its own.
    assert methods(new, against=[MASK]) == [SMOOTH, "a ramp", "opt"]
    with pytest.raises(ValueError, match=r"a ramp makes no map itself, and 12 triplets, the first field 0, bring none"):
        methods(bare, against=[MASK])
    with pytest.raises(ValueError, match="comes with an uncertainty map"):
        methods(new, against=others("residual:1"))


def test_nothing_is_compared_where_nothing_is_wanted_or_groups_are_too_few(monkeypatch):
    promise = certificate()
    assert held_out(promise, noisy(12), against=[]).beside is None
    monkeypatch.setattr("napari_maskcal.evaluation.rivals", lambda *_: pytest.fail("they were compared"))
    few = held_out(promise, noisy(9))
    assert few.beside.rows == ()
    assert few.beside.why_not.startswith("9 held-out groups are too few to compare at a confidence of 0.9: 9 have to")
    assert few.coverage.of == 9  # the rest comes


def test_who_was_trained_on_a_held_out_specimen_is_not_compared():
    promise, new = certificate(SPECIMENS), noisy(12, groups=[f"rat {i}" for i in range(12)])
    (other,) = others("residual")

    def trained(**on: Any) -> list[MaskModel]:
        return [replace(other, card=other.card.model_copy(update=on))]

    with pytest.raises(FaultyTriplets, match=f"1 fault .* is of rat 3, which {SMOOTH} was trained on; compare with"):
        held_out(promise, new, against=trained(trained_on=("Rat 3",)))
    with pytest.raises(FaultyTriplets, match=f"1 fault .*field 5 was used to train {SMOOTH}; compare with others"):
        held_out(promise, new, against=trained(trained_on_sha256=(content_hash(new[5].degraded.read()),)))
    rows = held_out(promise, new, against=trained(trained_on=("mouse 3",), trained_on_sha256=("0",))).beside.rows
    assert rows[0].n_test == 3


def test_two_of_one_name_are_told_apart_and_one_that_normalises_otherwise_is_refused():
    promise, new = certificate(), noisy(12)
    first, second = others("residual:1", "residual:3")
    same = replace(second, card=second.card.model_copy(update={"name": BARE}))
    rows = held_out(promise, new, against=[first, same, first]).beside.rows
    assert [row.method for row in rows] == ["a ramp", BARE, f"{BARE} (2)", "opt"]
    normalisation = first.card.normalisation.model_copy(update={"low_percentile": 7.0})
    other = replace(first, card=first.card.model_copy(update={"normalisation": normalisation}))
    with pytest.raises(ValueError, match=f"{BARE} normalises intensities otherwise than given restored image does"):
        held_out(promise, new, against=[other])


def test_progress_goes_on_over_all_uncertainties_and_a_stop_leaves_nothing():
    promise, new = certificate(), noisy(12)
    events: list[Any] = []
    held_out(promise, new, against=others("residual", "residual:1"), on_event=events.append)
    assert [(e.done, e.total) for e in events if isinstance(e, FieldMeasured)] == [(i, 36) for i in range(1, 37)]
    cancel = CancelToken()

    def stop(event: Any) -> None:
        if isinstance(event, FieldMeasured) and event.done == 15:
            cancel.cancel()

    with pytest.raises(InterruptedError, match="stopped; nothing was written"):
        held_out(promise, new, cancel=cancel, on_event=stop)


def test_a_walked_distance_is_compared_too(monkeypatch):
    class Jumpy:
        name = sentence_name = "jumpy"
        monotone = differentiable = in_intensity_units = False
        identity = "1"

        def between(self, trust, restored, truth):
            return np.abs((trust * (np.asarray(restored) - truth)).mean(axis=(1, 2)))

    exact = held_out(certificate(), noisy(12))
    for module in ("calibration", "evaluation"):
        monkeypatch.setattr(f"napari_maskcal.{module}.parse_distance", lambda name: Jumpy())
    seen, new = noisy(10, seed=6), noisy(12)
    scaled = [replace(one, items=tuple(replace(item, uncertainty=None) for item in one.items)) for one in (seen, new)]
    residual = residual_mask(GIVEN_RESTORER)
    promise = calibrate(scaled[0], residual, distance="jumpy", tolerance=0.001, confidence=0.8, device="cpu")
    evaluation = evaluate(scaled[1], residual, certificate=promise, device="cpu", against=others("residual:1"))
    rows = evaluation.beside.rows
    assert [row.method for row in rows] == [SMOOTH, BARE, "opt"]
    assert all(0 < row.masked_share <= 1 for row in rows[:2])
    assert rows[2].masked_share < min(row.masked_share for row in rows[:2])
    assert "here others may mask less" in comparison_words(evaluation)
    assert "no binary mask can be smaller" in comparison_words(exact)
