from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_maskcal.distance.registry import parse_distance

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import paper
import paper_methods
import paper_outputs
import paper_pretrained
import paper_rows
from napari_maskcal.restore.unet import UNet
from napari_maskcal.training_choice import ALL, BARE, SMOOTHED, SPREAD, TURNED
from paper_adapted import quantile_regression
from paper_fields import GroupSplit, PaperField, crop, drawn_fields, n_calibration, training_fields
from paper_inputs import with_features, with_scales
from paper_methods import Maps, Workshop
from paper_outputs import as_csv, as_markdown, draw, mean_ratio, summary, write_all
from paper_pretrained import Compact, bayer_samples, fill_bayer, load_compact
from paper_rows import KEYS, PERCENTILES, Bench, shown
from paper_tasks import Task
from paper_trained import Learned
from paper_views import QUARTERS, VIEWS

if TYPE_CHECKING:
    from paper_rows import Row

METHODS = ("constant", "residual", "residual_smooth", "tta", "ensemble")
RUN = {"command": "python paper.py", "seed": 3, "date": "2022-11-24", "machine": "one"}


class Blurred(nn.Module):
    """A restorer that is no better than its window."""

    def __init__(self, window_px: int) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d((1, window_px), 1, padding=(0, window_px // 2), count_include_pad=False)

    def forward(self, degraded: torch.Tensor) -> torch.Tensor:
        return self.mean(degraded)


def task(*, groups: int = 14, restorer_groups: tuple[str, ...] = ("other",), validation: int = 0) -> Task:
    """Return noise of different strength in each group, on ramps, blurred."""
    rng = np.random.default_rng(0)
    networks = (Blurred(3), Blurred(5))

    def field(group: int, i: int) -> PaperField:
        truth = np.linspace(0, 1, 32, dtype=np.float32) * np.ones((1, 32, 1), np.float32)
        noise = rng.normal(0, rng.uniform(0.02, 0.2), truth.shape) * (rng.random(truth.shape) < 0.3)
        degraded = (truth + noise).astype(np.float32)
        restored = networks[0](torch.from_numpy(degraded)[None])[0].numpy()
        return PaperField(group=f"g{group}", name=f"g{group} {i}", degraded=degraded, restored=restored, truth=truth)

    return Task(
        name="ramps", training=(), held_out=tuple(field(g, i) for g in range(groups) for i in (0, 1)),
        validation=tuple(field(100 + g, i) for g in range(validation) for i in (0, 1)),
        restore=lambda degraded, _: networks[0](degraded), networks=networks, restorer_groups=restorer_groups,
        training_seconds=(0.0, 2.0),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def default(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (paper_rows, paper_outputs):
        monkeypatch.setattr(module, "DEFAULT", "residual_smooth")


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(cache=tmp_path, seed=0, say=lambda _: None)


@pytest.fixture
def rows(workshop: Workshop) -> list[Row]:
    bench = Bench.of(task(), parse_distance("l1"), seed=0)
    return [row | {"seed": 3} for row in bench.rows(workshop, METHODS)]


def test_each_method_has_a_row_of_all_keys_for_each_tolerance(rows: list[Row]) -> None:
    assert [row["method"] for row in rows] == [name for name in ("opt", *METHODS) for _ in PERCENTILES]
    assert all(tuple(row) == KEYS for row in rows)
    assert [row["tolerance_percentile"] for row in rows[:3]] == list(PERCENTILES)
    assert {row["default"] for row in rows if row["method"] == "residual_smooth"} == {True}
    assert {row["default"] for row in rows if row["method"] != "residual_smooth"} == {False}
    assert {row["train_s"] for row in rows if row["method"] == "ensemble"} == {2.0}


def test_the_oracle_masks_least_and_coverage_is_what_was_promised(rows: list[Row]) -> None:
    best = {row["tolerance"]: row["masked_share"] for row in rows if row["method"] == "opt"}
    for row in rows:
        assert row["masked_share"] >= best[row["tolerance"]] > 0
        assert row["coverage"] > 0.87
    assert all(row["n_calibration"] == 9 and row["n_test"] == 5 for row in rows if row["method"] != "opt")


def test_a_map_that_knows_the_error_is_beaten_by_none_and_the_constant_is_the_worst(
    rows: list[Row], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(question: Any) -> Maps:
        fields = question.task.held_out
        return Maps(held_out=[np.abs(f.restored - f.truth)[0] + np.float32(1e-4) for f in fields])

    monkeypatch.setitem(paper_methods.METHODS, "told", told)
    informed = Bench.of(task(), parse_distance("l1"), seed=0).rows(workshop, ["told"])[-3:]
    for place, row in enumerate(informed):
        others = [other for other in rows if other["tolerance_percentile"] == PERCENTILES[place]]
        shares = {other["method"]: other["masked_share"] for other in others}
        assert shares["opt"] <= row["masked_share"] < min(shares[name] for name in METHODS)
        assert max(shares.values()) == shares["constant"]


def test_the_default_keeps_what_masks_least_of_the_validation_fields(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(nn.Module):
        """A trained network that has learned nothing."""

        def forward(self, degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
            return torch.full_like(restored[:, :1], 0.1)

    found = Learned(network=Blind(), train_s=7.0, figure=1.0, weight=1.0)  # type: ignore[arg-type]
    monkeypatch.setattr(paper_methods, "learned", lambda *_: found)
    own = task(validation=4)
    rows = Bench.of(own, parse_distance("l1"), seed=0).rows(workshop, ["residual", "residual_smooth", "tta", "chosen"])
    of = {name: [row for row in rows if row["method"] == name] for name in ("residual", "residual_smooth", "chosen")}
    assert {row["kept"] for row in of["residual"]} == {""}
    assert all(row["train_s"] >= 7 for row in of["chosen"])
    for place, row in enumerate(of["chosen"]):
        assert row["kept"] in (TURNED, ALL, SPREAD, SMOOTHED, BARE)
        if row["kept"] == BARE:
            assert row["masked_share"] == of["residual"][place]["masked_share"]
    # The same, where the validation fields are told to prefer another one.
    monkeypatch.setattr(
        paper_methods, "validation_shares", lambda maps, q: dict.fromkeys(q.tolerances, (1, 1, 1, 1, 0.5, 1))
    )
    smoothed = Bench.of(own, parse_distance("l1"), seed=0).rows(workshop, ["chosen"])[-3:]
    assert {row["kept"] for row in smoothed} == {SMOOTHED}
    assert [row["masked_share"] for row in smoothed] == [row["masked_share"] for row in of["residual_smooth"]]


def test_maps_that_depend_on_the_tolerance_give_what_each_alone_would(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (paper_methods.METHODS[name] for name in ("residual", "residual_smooth"))

    def mixed(question: Any) -> Maps:
        first, *rest = question.tolerances
        return Maps(held_out={first: one(question).held_out} | dict.fromkeys(rest, other(question).held_out))

    monkeypatch.setitem(paper_methods.METHODS, "mixed", mixed)
    found = Bench.of(task(), parse_distance("l1"), seed=0).rows(workshop, ["residual", "residual_smooth", "mixed"])
    shares = [row["masked_share"] for row in found[3:]]
    assert shares[6:] == [shares[0], *shares[4:6]] != shares[:3]


def test_a_distance_that_is_walked_sees_two_fields_of_each_group(workshop: Workshop) -> None:
    source = task(groups=10)
    more = replace(source, held_out=(*source.held_out, *(replace(f, name=f"{f.name} again") for f in source.held_out)))
    walked = Bench.of(more, parse_distance("ssim"), seed=0)
    assert len(Bench.of(more, parse_distance("l1"), seed=0).chosen) == 40
    assert sorted(f.group for f in walked.fields) == sorted(f.group for f in source.held_out)
    row = walked.rows(workshop, ["residual"])[-1]
    assert 0 < row["masked_share"] < 1


def test_the_results_are_a_list_a_table_and_sentences(rows: list[Row], tmp_path: Path) -> None:
    write_all(rows, RUN, tmp_path)
    read = json.loads((tmp_path / "paper.json").read_text())
    assert isinstance(read, list)
    assert [row["method"] for row in read] == [row["method"] for row in rows]
    assert json.loads((tmp_path / "paper_run.json").read_text())["seed"] == 3
    lines = list(csv.DictReader(as_csv(rows).splitlines()))
    assert len(lines) == len(rows)
    assert set(lines[0]) == set(KEYS)
    (tmp_path / "ramps.png").touch()
    page = as_markdown(rows, RUN | {"tasks": {"ramps": task().facts()}}, tmp_path)
    assert "## ramps\n" in page
    assert "### l1\n" in page
    assert "Held out: 28 fields of 14 groups." in page
    assert "](ramps.png)" in page
    assert page.count("\n| **residual_smooth** | ") == 1
    assert page.count("\n| opt | ") == 1
    assert any(line.startswith("- `residual`: ") and "at most 0.70" in line for line in summary(rows))


def test_ratios_are_averaged_geometrically_where_both_were_measured() -> None:
    def row(method: str, percentile: int, share: float) -> dict[str, Any]:
        return {"task": "t", "distance": "l1", "method": method, "tolerance_percentile": percentile,
                "masked_share": share}  # fmt: skip

    rows = [row("a", 30, 0.4), row("b", 30, 0.1), row("a", 60, 0.1), row("b", 60, 0.1), row("a", 80, 0.9)]
    assert mean_ratio(rows, "a", "b") == pytest.approx(2.0)
    assert mean_ratio(rows, "a", "c") is None


def test_a_picture_is_small_and_shows_each_panel(workshop: Workshop, tmp_path: Path) -> None:
    bench = Bench.of(task(), parse_distance("l1"), seed=0)
    draw(shown(bench, workshop, ["residual_smooth", "tta"]), tmp_path / "ramps.png")
    content = (tmp_path / "ramps.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150_000


def test_a_group_that_straddles_is_refused() -> None:
    names = {"restorer": ("a",), "training": ("b",), "validation": ("c",), "held_out": ("d", "e")}
    GroupSplit(**names)
    with pytest.raises(ValueError, match="group a is in restorer and in held_out"):
        GroupSplit(**(names | {"held_out": ("d", "a")}))
    task(restorer_groups=("other",))
    with pytest.raises(ValueError, match="group g5 is in restorer and in held_out"):
        task(restorer_groups=("other", "g5"))
    with pytest.raises(ValueError, match="group g0 is in training and in held_out"):
        replace(task(), training=task().held_out[:1])


def test_a_drawn_split_takes_each_group_once_and_follows_its_seed() -> None:
    groups = [f"g{i}" for i in range(54)]
    split, same, other = (GroupSplit.draw(groups, np.random.default_rng(seed)) for seed in (0, 0, 1))
    parts = (split.restorer, split.training, split.validation, split.held_out)
    assert sorted(name for part in parts for name in part) == sorted(groups)
    assert [len(part) for part in parts] == [11, 11, 5, 27]
    assert split == same != other
    assert (n_calibration(27), n_calibration(25)) == (19, 9)


def test_fields_are_cut_in_step_from_a_coarser_image() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((1, 256, 264)).astype(np.float32)
    coarse = truth[:, ::4, ::4]
    drawn = drawn_fields({"a": [truth]}, lambda plane, _: (coarse, plane), rng)
    cut = training_fields({"a": [truth]}, lambda plane, _: (coarse, plane), rng, total=5)
    assert (len(drawn), len(cut)) == (4, 5)
    for pair in (*drawn, *cut):
        assert pair.truth.shape == (1, 128, 128)
        np.testing.assert_array_equal(pair.degraded, pair.truth[:, ::4, ::4])
    shifted = crop("a", "a", coarse, truth, (slice(4, 132), slice(0, 128)))
    assert not np.array_equal(shifted.degraded, coarse[:, :32, :32])


def test_mirrored_views_keep_the_mosaic_and_come_back() -> None:
    samples = bayer_samples(8, 12)
    assert not torch.equal(samples.flip(-1), samples)
    image = torch.rand(2, 3, 8, 12)
    for there, back in VIEWS["mirrors"]:
        seen = there(samples[None])[0]
        assert torch.equal(seen, bayer_samples(*seen.shape[1:]))
        assert torch.equal(back(there(image)), image)
    turns = VIEWS["turns"]
    seen = [there(image) for there, _ in turns]
    assert all(torch.equal(back(view), image) for view, (_, back) in zip(seen, turns, strict=True))
    assert len({view.numpy().tobytes() for view in seen}) == 8
    assert turns[:4] == QUARTERS


def test_a_filled_mosaic_keeps_its_samples() -> None:
    image = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    filled, measured = fill_bayer(image), bayer_samples(8, 8).numpy() > 0
    assert measured.sum(axis=0).min() == measured.sum(axis=0).max() == 1
    np.testing.assert_array_equal(filled[measured], image[measured])
    assert np.abs(filled - image)[~measured].min() > 0
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (3, 8, 8)).copy()
    np.testing.assert_allclose(fill_bayer(ramp)[:, 1:-1, 1:-1], ramp[:, 1:-1, 1:-1], rtol=1e-6)


def ncnn_file(network: Compact) -> bytes:
    """Return the weights as ncnn writes them: in float16 after a mark, what is no kernel in float32."""
    parts = []
    for i, layer in enumerate(network.convolutions):
        kernel = layer.weight.detach().numpy().astype("<f2").tobytes()
        parts += [(0x01306B47).to_bytes(4, "little"), kernel, layer.bias.detach().numpy().tobytes()]
        parts += [network.slopes[i].weight.detach().numpy().tobytes()] if i < len(network.slopes) else []
    return b"".join(parts)


def test_weights_of_ncnn_are_read_in_the_order_of_the_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, image = Compact(), torch.rand(1, 3, 4, 4)
    content = ncnn_file(written)
    monkeypatch.setattr(paper_pretrained, "read_member", lambda *_: content)
    read = load_compact(tmp_path)
    assert not torch.allclose(Compact()(image), written(image), atol=1e-3)
    torch.testing.assert_close(read(image), written(image), atol=1e-3, rtol=0)
    monkeypatch.setattr(paper_pretrained, "read_member", lambda *_: b"\0" * len(content))
    with pytest.raises(ValueError, match=r"no weights in float16 at byte 0; take version 2\.0\.0"):
        load_compact(tmp_path)


def test_a_finished_task_is_read_back_and_a_part_never_replaces_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(paper, "ROOT", tmp_path)
    monkeypatch.setattr(paper, "TASKS", {"ramps": lambda *places: made.append(places[-1]) or task(), "other": None})
    arguments = ["--tasks", "ramps", "--distances", "l1", "--methods", "residual_smooth", "--cache", tmp_path / "cache"]

    def run(*more: object) -> list[Row]:
        words = [*arguments, "--json", tmp_path / "rows.json", *more]
        monkeypatch.setattr(sys, "argv", ["paper.py", *map(str, words)])
        paper.main()
        return json.loads((tmp_path / "rows.json").read_text())

    first = run()
    assert (len(first), made) == (6, [0])
    assert run() == first
    assert made == [0]
    assert {row["seed"] for row in run("--seed", 1)} == {1}
    assert made == [0, 1]
    assert (tmp_path / "cache" / "results" / "paper.md").is_file()
    assert not (tmp_path / "docs").exists()
    with pytest.raises(SystemExit, match="there is no task ramp; there are ramps, other"):
        run("--tasks", "ramp")


# ---- what was tried beside the table


def test_trials_are_run_where_they_are_named_and_are_not_part_of_the_whole_table(monkeypatch, tmp_path):
    def asked(*options: str) -> paper.Run:
        monkeypatch.setattr(sys, "argv", ["paper.py", "--cache", str(tmp_path), *options])
        return paper._asked(paper._parse())

    whole = asked()
    assert not set(whole.methods) & set(paper_methods.TRIALS)
    assert whole.out == paper.ROOT / "docs" / "results"
    named = asked("--methods", ",".join(paper_methods.TRIALS))
    assert named.methods == paper_methods.TRIALS
    assert named.out == tmp_path / "results"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_regressed_quantile_leaves_its_share_of_the_aims_below(share):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 2))
    aims = 1 + features @ [2, -1] + rng.exponential(size=400)
    weights = quantile_regression(features, aims, share=share)
    assert np.mean(aims < weights[0] + features @ weights[1:]) == pytest.approx(share, abs=0.01)
    np.testing.assert_allclose(weights, [1 - np.log(1 - share), 2, -1], atol=0.2)


def test_further_inputs_come_as_channels_of_the_degraded_image_and_leave_the_rest_as_it_was():
    training = tuple(replace(one, group="t") for one in task(groups=1).held_out)
    network = UNet((4, 8), residual=True).eval()
    plain = replace(task(validation=2), training=training, networks=(network,))
    for more, channels in ((with_features(plain), 1 + 4), (with_scales(plain), 1 + 3 * 2)):
        for part in ("training", "validation", "held_out"):
            for before, after in zip(getattr(plain, part), getattr(more, part), strict=True):
                assert after.degraded.shape == (channels, 32, 32)
                np.testing.assert_array_equal(after.degraded[:1], before.degraded)
                assert after.restored is before.restored
        assert np.ptp(more.held_out[0].degraded[1:], axis=(1, 2)).max() > 0
    assert with_features(replace(plain, restorer_groups=())) is None
