"""What an evaluation computes: metrics against hand-worked values, intervals, temperature and threshold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from catdog.contract import Contract
from catdog.errors import ModelError, TrainingError
from catdog.prediction import decide
from catdog.training.calibration import fit_neither_threshold, fit_temperature, fit_threshold, fit_thresholds
from catdog.training.charts import draw_curves, draw_reliability, label_marks
from catdog.training.evaluate import find_float_weights
from catdog.training.metrics import (
    count_answered,
    count_trials,
    estimate_intervals,
    measure,
    measure_coverage,
    measure_groups,
    measure_refusal,
    measure_reliability,
    wilson_interval,
)

NAMES = ("cat", "dog")
PETS = Contract(class_names=NAMES, input_size=64)


def binary(dog: list[float]) -> Tensor:
    """Probabilities (N, 2) from those of the second class."""
    second = torch.tensor(dog)
    return torch.stack([1 - second, second], 1)


def sure_of(confidence: list[float], right: list[bool]) -> tuple[Tensor, Tensor, Contract]:
    """Answers "dog" of these confidences, labels that make them right or wrong, and a contract of the two classes."""
    return binary(confidence), torch.tensor(right).long(), PETS


def test_ranking_by_hand() -> None:
    # Dogs at 0.9, 0.6, 0.3 and cats at 0.7, 0.2: of the 6 pairs, 0.6 < 0.7 and 0.3 < 0.7 are the wrong way round.
    numbers = measure(binary([0.9, 0.6, 0.3, 0.7, 0.2]), torch.tensor([1, 1, 1, 0, 0]), NAMES)
    assert numbers["roc_auc"] == pytest.approx(4 / 6)
    dog = (1 / 1 + 2 / 3 + 3 / 4) / 3  # precision at each dog, from the surest on
    cat = (1 / 1 + 2 / 4) / 2
    assert numbers["average_precision"] == pytest.approx((dog + cat) / 2)


def test_a_tie_is_half_a_win() -> None:
    same = binary([0.5, 0.5, 0.5, 0.5])
    assert measure(same, torch.tensor([1, 0, 1, 0]), NAMES)["roc_auc"] == pytest.approx(0.5)
    # In whatever order tied photos come: the pairs are (0.8, 0.5), (0.8, 0.5), (0.5, 0.5), (0.5, 0.5).
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        probabilities, labels = binary([0.8, 0.5, 0.5, 0.5])[order], torch.tensor([1, 1, 0, 0])[order]
        assert measure(probabilities, labels, NAMES)["roc_auc"] == pytest.approx(3 / 4)


def test_log_loss_and_brier_by_hand() -> None:
    numbers = measure(binary([0.8, 0.3, 0.0]), torch.tensor([1, 1, 1]), NAMES)
    assert numbers["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.3) + math.log(1e-7)) / 3, rel=1e-5)
    assert numbers["brier"] == pytest.approx(2 * (0.2**2 + 0.7**2 + 1) / 3, rel=1e-5)


def test_calibration_error_of_constructed_answers() -> None:
    # 10 answers at 0.75 of which 6 are right, 10 at 0.95 of which all are: (0.15 + 0.05) / 2.
    probabilities, labels, _ = sure_of([0.75] * 10 + [0.95] * 10, [True] * 6 + [False] * 4 + [True] * 10)
    assert measure(probabilities, labels, NAMES)["ece"] == pytest.approx(0.1, abs=1e-6)
    rows = measure_reliability(probabilities, labels)
    assert [(row["photos"], row["accuracy"]) for row in rows] == [(10, 0.6), (10, 1.0)]
    assert rows[0]["low"] == pytest.approx(11 / 15)


def test_the_bins_of_the_chart_are_those_of_the_calibration_error() -> None:
    torch.manual_seed(0)
    probabilities = (torch.randn(500, 3) * 2).softmax(1)
    probabilities[:30] = torch.tensor([1.0, 0.0, 0.0])
    probabilities[30:60] = torch.tensor([0.6, 0.4, 0.0])  # exactly on an edge, 9/15
    labels = torch.randint(0, 3, (500,))
    rows = measure_reliability(probabilities, labels)
    assert sum(row["photos"] for row in rows) == 500
    assert rows[-1]["high"] == 1
    ece = sum(row["photos"] / 500 * abs(row["accuracy"] - row["confidence"]) for row in rows)
    assert measure(probabilities, labels, ("a", "b", "c"))["ece"] == pytest.approx(ece, abs=1e-6)


def test_three_classes_are_one_against_the_rest() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    numbers = measure(probabilities, torch.tensor([0, 1, 2, 1]), ("a", "b", "c"))
    # a: 0.7 over 0.1, 0.2, 0.6. b: 0.8 and 0.3 over 0.2 and 0.3, with one tie. c: 0.5 over the rest.
    assert numbers["roc_auc"] == pytest.approx((1 + 3.5 / 4 + 1) / 3)
    assert numbers["accuracy"] == 0.75


def test_photos_of_one_class_have_no_ranking_and_say_so() -> None:
    probabilities, labels = binary([0.9, 0.8, 0.4]), torch.tensor([1, 1, 1])
    numbers = measure(probabilities, labels, NAMES)
    assert numbers["roc_auc"] is None
    assert numbers["average_precision"] is None
    assert numbers["errors"] == 1
    assert numbers["per_class"]["cat"] == {"precision": None, "recall": None, "f1": None}
    assert numbers["recall"] == pytest.approx(2 / 3), "the mean over classes that have photos"
    bounds = estimate_intervals(probabilities, labels, NAMES, resamples=20)
    assert bounds["roc_auc"] is None
    assert bounds["per_class"]["cat"]["recall"] is None
    assert bounds["per_class"]["dog"]["recall"] == list(wilson_interval(2, 3))


def test_intervals_hold_the_measured_value_and_repeat() -> None:
    torch.manual_seed(1)
    labels = torch.randint(0, 2, (200,))
    probabilities = (torch.randn(200, 2) + 1.5 * torch.eye(2)[labels]).softmax(1)
    numbers, bounds = (
        measure(probabilities, labels, NAMES),
        estimate_intervals(probabilities, labels, NAMES, resamples=200),
    )
    for name in ("accuracy", "f1", "roc_auc", "average_precision", "log_loss", "brier"):
        low, high = bounds[name]
        assert low < numbers[name] < high, name
    assert bounds["accuracy"] == numbers["accuracy_95"]
    # The standard error of a mean, times 1.96: what the bootstrap of the log loss has to come to.
    losses = -probabilities.gather(1, labels[:, None]).log()
    width = 2 * 1.96 * losses.std().item() / math.sqrt(200)
    assert bounds["log_loss"][1] - bounds["log_loss"][0] == pytest.approx(width, rel=0.2)
    assert estimate_intervals(probabilities, labels, NAMES, resamples=200) == bounds
    assert estimate_intervals(probabilities, labels, NAMES, resamples=200, seed=1) != bounds


def test_copies_of_a_picture_are_no_new_evidence() -> None:
    torch.manual_seed(2)
    labels = torch.randint(0, 2, (60,))
    probabilities = (torch.randn(60, 2) + torch.eye(2)[labels]).softmax(1)
    once = estimate_intervals(probabilities, labels, NAMES, resamples=100)
    clusters = [str(i // 4) for i in range(240)]
    copied = (probabilities.repeat_interleave(4, 0), labels.repeat_interleave(4))
    together = estimate_intervals(*copied, NAMES, clusters, resamples=100)
    assert together["log_loss"] == pytest.approx(once["log_loss"], rel=1e-5)
    apart = estimate_intervals(*copied, NAMES, resamples=100)
    assert apart["log_loss"][1] - apart["log_loss"][0] < 0.7 * (once["log_loss"][1] - once["log_loss"][0])


def test_coverage_counts_what_prediction_would_answer() -> None:
    probabilities, labels, _ = sure_of([0.6, 0.75, 0.75, 0.9], [False, False, True, True])
    confidence, photos, wrong = count_answered(probabilities, labels, PETS)
    assert confidence.tolist() == pytest.approx([0.6, 0.75, 0.9])
    assert (photos.tolist(), wrong.tolist()) == ([4, 3, 1], [2, 1, 0])
    rows = measure_coverage(
        probabilities, labels, PETS, [0.5, 0.75, 0.76, 0.95]
    )  # 0.75 is exact in binary, so "at least" counts
    assert [(row["answered"], row["errors"]) for row in rows] == [(4, 2), (3, 1), (1, 0), (0, 0)]
    assert rows[1]["coverage"] == 0.75
    assert rows[1]["error_95"] == list(wilson_interval(1, 3))
    assert rows[3]["error"] is None


def test_accuracy_by_source() -> None:
    rows = measure_groups(binary([0.9, 0.9, 0.1, 0.9]), torch.tensor([1, 0, 0, 1]), ["b", "b", "a", "a"])
    assert list(rows) == ["a", "b"]
    assert (rows["b"]["photos"], rows["b"]["errors"], rows["b"]["accuracy_95"]) == (2, 1, list(wilson_interval(1, 2)))


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("form", ["logits", "log probabilities"])
def test_temperature_recovers_a_known_scale(scale: float, form: str) -> None:
    torch.manual_seed(3)
    logits = torch.randn(20_000, 3) * 2
    labels = torch.multinomial(logits.softmax(1), 1).squeeze(1)  # so that softmax(logits) is the truth
    given = logits * scale + 7
    found = fit_temperature(given if form == "logits" else given.softmax(1).log(), labels)
    assert found == pytest.approx(scale, rel=0.03)


def test_the_temperature_is_where_the_loss_is_smallest() -> None:
    torch.manual_seed(4)
    logits, labels = torch.randn(50, 2, dtype=torch.float64) * 3, torch.randint(0, 2, (50,))
    found = fit_temperature(logits, labels)

    def loss(t: float) -> float:
        return torch.nn.functional.cross_entropy(logits / t, labels).item()

    assert loss(found) <= min(loss(found * 0.999), loss(found * 1.001))


def test_a_temperature_that_nothing_is_known_of_is_1() -> None:
    assert fit_temperature(torch.tensor([[3.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])) == 1  # all right
    assert fit_temperature(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])) == 1  # all the same


def test_a_temperature_stays_within_its_bounds() -> None:
    wrong = torch.tensor([[5.0, 0.0]] * 4)
    assert fit_temperature(wrong, torch.tensor([1, 1, 1, 1])) == pytest.approx(20)
    hardly = torch.tensor([[1e-4, 0.0]] * 99 + [[0.0, 1e-4]])
    assert fit_temperature(hardly, torch.zeros(100, dtype=torch.long)) == pytest.approx(0.05)


def test_temperature_of_probabilities_that_underflow() -> None:
    log_p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4], [1.0, 0.0]]).log()
    found = fit_temperature(log_p, torch.tensor([0, 1, 1, 1]))
    assert 1 < found <= 20
    with pytest.raises(TrainingError, match="no numbers"):
        fit_temperature(log_p * torch.nan, torch.tensor([0, 1, 1, 1]))


def test_the_threshold_of_a_model_that_is_always_right_answers_all() -> None:
    assert fit_threshold(*sure_of([0.51, 0.7, 0.99], [True] * 3)) == 0.5
    third = torch.full((4, 3), 1 / 3)
    assert fit_threshold(third, torch.zeros(4, dtype=torch.long), PETS) == pytest.approx(1 / 3)


def test_the_threshold_rises_just_over_the_mistakes() -> None:
    confidence = [0.52, 0.613, 0.6181] + [0.9] * 97
    found = fit_threshold(*sure_of(confidence, [True, False, True] + [True] * 97))
    assert found == 0.618, "as few decimals as do"  # at 0.613 still, one of 99 would be wrong
    assert measure_coverage(*sure_of(confidence, [True, False, True] + [True] * 97), [found])[0]["answered"] == 98


def test_the_threshold_stops_at_97_percent_coverage() -> None:
    confidence = [0.50 + i / 1000 for i in range(1, 101)]
    never = [i % 2 == 0 for i in range(100)]
    found = fit_threshold(*sure_of(confidence, never))
    row = measure_coverage(*sure_of(confidence, never), [found])[0]
    assert row["answered"] == 97
    assert found == 0.504  # the fourth confidence, of the first photo that stays


def test_tied_confidences_are_answered_together_or_not_at_all() -> None:
    # A wrong answer shares its confidence with 3 right ones: leaving them all out would cost too much coverage.
    confidence = [0.6] * 4 + [0.9] * 96
    assert fit_threshold(*sure_of(confidence, [False] + [True] * 99)) == 0.5
    # With 2 right ones it doesn't: exactly 97 of 100 stay.
    confidence = [0.6] * 3 + [0.9] * 97
    assert fit_threshold(*sure_of(confidence, [False] + [True] * 99)) in (0.89, 0.9)


def test_one_in_five_hundred_is_good_enough() -> None:
    assert fit_threshold(*sure_of([0.6] + [0.9] * 499, [False] + [True] * 499)) == 0.5
    assert fit_threshold(*sure_of([0.6] + [0.9] * 498, [False] + [True] * 498)) > 0.6


@pytest.mark.parametrize(
    ("refusal", "found"),
    [
        ([0.001] * 199 + [0.61], 0.2),  # one of 200 may be refused, and under 0.2 no threshold is believed
        ([0.001] * 198 + [0.61, 0.7], 0.62),  # a threshold of 0.61 would refuse two
        ([0.001] * 99 + [0.61], 0.62),  # of 100 none may be
        ([0.95] * 10, 0.9),
    ],
)
def test_the_threshold_of_neither_refuses_few_pets(refusal: list[float], found: float) -> None:
    assert fit_neither_threshold(torch.tensor(refusal)) == found


def test_photos_of_neither_have_no_say_in_the_thresholds() -> None:
    contract = Contract(class_names=("cat", "dog", "neither"), input_size=64)
    pets = torch.tensor([[0.9, 0.08, 0.02]] * 100)
    others = torch.tensor([[0.6, 0.1, 0.3]] * 50)
    labels = torch.tensor([0] * 100 + [2] * 50)
    fitted = fit_thresholds(contract, torch.cat([pets, others]), labels)
    assert fitted == fit_thresholds(contract, pets, labels[:100])
    assert fitted.neither_threshold == 0.2


def test_no_number_leaves_its_range() -> None:
    """float32 sums came out at 1.0000000596, and under 0 at -6.9e-18."""
    dice = torch.Generator().manual_seed(0)
    for size in (7, 19, 64, 301):
        labels = torch.randint(0, 2, (size,), generator=dice)
        sure = torch.rand(size, generator=dice) ** 0.01
        probabilities = torch.stack([torch.where(labels == c, sure, 1 - sure) for c in (0, 1)], 1)
        numbers = measure(probabilities, labels, NAMES) | estimate_intervals(probabilities, labels, NAMES, resamples=30)
        for name in ("precision", "recall", "f1", "roc_auc", "average_precision", "ece"):
            for value in numbers[name] or []:
                assert 0 <= value <= 1, name
        assert min(numbers["log_loss"] or [0]) >= 0


def test_a_perfect_score_is_not_certain() -> None:
    probabilities, labels = binary([0.1] * 9 + [0.9] * 9), torch.tensor([0] * 9 + [1] * 9)
    bounds = estimate_intervals(probabilities, labels, NAMES, resamples=50)
    assert bounds["accuracy"] == list(wilson_interval(18, 18))
    for name in ("precision", "recall", "f1", "roc_auc", "average_precision"):
        assert bounds[name] == list(wilson_interval(9, 9)), name
    assert bounds["log_loss"] is None, "all resamples gave the same"


def test_copies_count_once_in_every_interval() -> None:
    probabilities, labels, _ = sure_of([0.8] * 8, [True] * 6 + [False] * 2)
    clusters = [str(i // 2) for i in range(8)]
    expected = list(wilson_interval(3, 4))
    assert measure(probabilities, labels, NAMES, clusters)["accuracy_95"] == expected
    assert estimate_intervals(probabilities, labels, NAMES, clusters, resamples=9)["accuracy"] == expected
    assert measure_groups(probabilities, labels, ["a"] * 8, clusters)["a"]["accuracy_95"] == expected
    assert measure_reliability(probabilities, labels, clusters)[0]["accuracy_95"] == expected
    assert measure_coverage(probabilities, labels, PETS, [0.5], clusters)[0]["error_95"] == list(wilson_interval(1, 4))


def test_labels_of_neighbouring_thresholds_share_a_place() -> None:
    """From 0.5 to 0.7 they were written over one another."""
    marks: list[dict[str, Any]] = [
        {"threshold": threshold, "answered": answered, "coverage": answered / 1000, "error": error}
        for threshold, answered, error in ((0.5, 1000, 0.01), (0.6, 998, 0.0099), (0.7, 995, 0.0097), (0.9, 900, 0.004))
    ]
    marks += [{"threshold": 0.99, "answered": 0, "coverage": 0.0, "error": None}]
    assert label_marks(marks, 0.01) == [("0.5 to 0.7", (1.0, 0.01)), ("0.9", (0.9, 0.004))]
    assert label_marks(marks[-1:], 0.01) == []
    for mark, coverage in zip(marks, (1.0, 0.999, 0.998, 0.995), strict=False):
        mark |= {"coverage": coverage, "error": 0.0}
    assert label_marks(marks, 0.01) == [("0.5 to 0.9", (1.0, 0.0))], "of a model that is sure and right"


def test_nothing_lies_over_the_points_of_the_only_epoch(tmp_path: Path) -> None:
    row = {"epoch": 1, "train_loss": 0.5, "val_loss": 0.3, "train_accuracy": 0.7, "val_accuracy": 0.8}
    draw_curves([row], 1, tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    charts = pixels[: len(pixels) * 8 // 10]  # the legend is below
    middle = charts.shape[1] // 2
    for colour in ([0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2]):
        inside = abs(charts - colour).sum(2) < 60
        points = [int(half.sum()) for half in (inside[:, :middle], inside[:, middle:])]
        assert min(points) > 20, "half hidden"
        assert max(points) < 60, "more than a point"


def test_nothing_lies_over_what_the_reliability_chart_measured(tmp_path: Path) -> None:
    """The legend hid the lower right corner, and there a bar of a sure bin that is often wrong."""
    row = {"low": 0.9, "high": 1.0, "photos": 9, "confidence": 0.97, "accuracy": 0.7, "accuracy_95": [0.5, 0.8]}
    draw_reliability([row], 0.5, "t", tmp_path / "chart.png")
    pixels = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB")).astype(int)
    blue = (abs(pixels[: len(pixels) * 2 // 3] - [0x00, 0x72, 0xB2]).sum(2) < 60).sum(0)
    bar = np.flatnonzero(abs(pixels[: len(pixels) * 2 // 3, blue.argmax()] - [0x00, 0x72, 0xB2]).sum(1) < 60)
    assert len(bar) > 100
    assert (np.diff(bar) == 1).all(), "the bar is whole"


def test_refusal_is_measured_on_both_kinds_of_photos() -> None:
    refusal = torch.tensor([0.01, 0.02, 0.03, 0.6, 0.9, 0.7, 0.02, 0.95])
    is_other = torch.tensor([False] * 4 + [True] * 4)
    verdicts = ["cat", "dog", "unsure", "neither", "neither", "neither", "cat", "unsure"]
    measured = measure_refusal(refusal, is_other, verdicts)
    assert measured["auroc"] == pytest.approx((16 - 2.5) / 16)  # 0.02 is under 0.03 and 0.6, and level with 0.02
    assert measured["fpr_95"] == 0.25  # 95% of the first kind are at 0.51 or less, as is 0.02
    kinds = ("refused", "others_refused", "others_answered")
    shares = {name: tuple(measured[name][key] for key in ("photos", "found", "share")) for name in kinds}
    assert shares == {"refused": (4, 1, 0.25), "others_refused": (4, 2, 0.5), "others_answered": (4, 1, 0.25)}
    low, high = measured["refused"]["share_95"]
    assert (low, high) == wilson_interval(1, 4)


def test_refusal_of_one_kind_of_photos_has_no_curve() -> None:
    measured = measure_refusal(torch.tensor([0.1, 0.2]), torch.tensor([False, False]), ["cat", "neither"])
    assert (measured["auroc"], measured["fpr_95"]) == (None, None)
    assert measured["others_refused"] == {"photos": 0, "found": 0, "share": None, "share_95": None}


def test_an_interval_ends_exactly_where_a_share_can_not_go_beyond() -> None:
    """``share_95`` began with 2.8e-17."""
    for trials in (*range(1, 400), 2075, 0.5, 1.7, 40.3):
        low, high = wilson_interval(0, trials)
        assert low == 0 < high < 1, trials
        low, high = wilson_interval(trials, trials)
        assert 0 < low < 1 == high, trials
    hits = torch.tensor([False] * 7)
    assert measure_refusal(torch.zeros(7), hits, ["cat"] * 7)["refused"]["share_95"][0] == 0


def test_a_share_s_interval_is_as_wide_as_the_bootstrap_of_clusters_says() -> None:
    """With one trial a cluster, one picture with many copies seemed to be worth no more than any other."""
    dice = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1] * 150 + [5] * 30 + [40] * 3)
    cluster = torch.arange(len(sizes)).repeat_interleave(sizes)
    assert count_trials(cluster) == pytest.approx(420**2 / (150 + 30 * 25 + 3 * 1600))
    assert count_trials(torch.arange(9)) == 9
    hits = (torch.rand(len(sizes), generator=dice) < 0.8)[cluster]  # copies are answered alike
    shares = []
    for _ in range(2000):
        times = torch.bincount(torch.randint(len(sizes), (len(sizes),), generator=dice), minlength=len(sizes))[cluster]
        shares.append(((times * hits).sum() / times.sum()).item())
    low, high = np.quantile(shares, [0.025, 0.975])
    probabilities, labels, _ = sure_of([0.9] * len(hits), hits.tolist())
    bounds = measure(probabilities, labels, NAMES, [str(c) for c in cluster.tolist()])["accuracy_95"]
    assert bounds[1] - bounds[0] == pytest.approx(high - low, rel=0.15)


def test_what_is_answered_at_a_threshold_is_what_prediction_answers() -> None:
    """A pet that was likeliest "neither", under that class's threshold, was counted as answered, and wrongly."""
    contract = Contract(class_names=("cat", "dog", "neither"), input_size=64, neither_threshold=0.7)
    dice = torch.Generator().manual_seed(1)
    probabilities = (torch.randn(400, 3, generator=dice) * 2).softmax(1)
    labels = torch.randint(0, 2, (400,), generator=dice)
    likeliest = probabilities.argmax(1) == 2
    assert (likeliest & (probabilities[:, 2] < 0.7)).sum() > 20
    assert (~likeliest & (probabilities[:, 2] >= 0.3)).sum() > 20
    for refusing in (contract, contract.with_(neither_threshold=0.3)):
        for threshold in (0.0, 0.4, 0.55, 0.8, 1.0):
            (row,) = measure_coverage(probabilities, labels, refusing, [threshold])
            verdicts = [p.label for p in decide([""] * 400, probabilities.numpy(), refusing, threshold)]
            pets = [
                (verdict, NAMES[label]) for verdict, label in zip(verdicts, labels, strict=True) if verdict in NAMES
            ]
            assert (row["answered"], row["errors"]) == (len(pets), sum(said != true for said, true in pets))
        confidence, photos, wrong = count_answered(probabilities, labels, refusing)
        rows = measure_coverage(probabilities, labels, refusing, confidence.tolist())
        assert [(row["answered"], row["errors"]) for row in rows] == list(
            zip(photos.tolist(), wrong.tolist(), strict=True)
        )


def test_pets_that_seem_to_be_neither_make_no_threshold_rise() -> None:
    """Two of 100 were taken for wrong answers, and a threshold of 0.61 silenced one; both are unsure at any."""
    contract = Contract(class_names=("cat", "dog", "neither"), input_size=64)
    probabilities = torch.tensor([[0.62, 0.38, 0.0]] * 98 + [[0.3, 0.1, 0.6], [0.2, 0.15, 0.65]])
    fitted = fit_thresholds(contract, probabilities, torch.zeros(100, dtype=torch.long))
    assert fitted.neither_threshold == 0.65, "which float32 is just under"
    assert fitted.threshold == pytest.approx(1 / 3)
    nothing = torch.tensor([[0.1, 0.0, 0.9]] * 4)
    assert fit_threshold(nothing, torch.zeros(4, dtype=torch.long), contract) == pytest.approx(1 / 3)
    few = torch.tensor([[0.9, 0.1, 0.0]] * 2 + [[0.1, 0.0, 0.9]] * 8)
    assert fit_threshold(few, torch.zeros(10, dtype=torch.long), contract) == pytest.approx(1 / 3), "97% can't be had"


def test_float_weights_of_the_embedded_model_lie_in_a_checkout_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(
        ModelError, match=r"embedded --float: .* name their folder, which is models/embedded in a checkout"
    ):
        find_float_weights("embedded", tmp_path)
    with pytest.raises(ModelError, match="run --float: has no float weights"):
        find_float_weights(str(run))
    with pytest.raises(ModelError, match=r"model\.onnx --float: has no float weights"):
        find_float_weights("model.onnx")
    (run / "model.safetensors").touch()
    assert find_float_weights(str(run)) == run
    assert find_float_weights("x.safetensors") == Path("x.safetensors")
    run.rename(tmp_path / "embedded")
    (tmp_path / "models").mkdir()
    (tmp_path / "embedded").rename(tmp_path / "models/embedded")
    assert find_float_weights("embedded", tmp_path) == tmp_path / "models/embedded"
