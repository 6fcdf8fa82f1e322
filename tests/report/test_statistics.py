"""Statistics against answers worked out by hand and against rliable's."""

import numpy as np
import pandas.util._decorators
import pytest
from rliable import metrics

from dapbench import curves
from dapbench.report import statistics

# rliable's bootstrap imports arch 7, which calls a private pandas decorator by its signature before pandas 3.
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pandas.util._decorators, "deprecate_kwarg", lambda *_, **__: lambda function: function)
    from rliable import library

HAND = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 7.0])]


def scores(runs: int = 7, tasks: int = 5, shift: float = 0.0) -> np.ndarray:
    """Scores of shape (runs, tasks), as rliable wants them."""
    return np.random.default_rng(3).normal(0.6 + shift, 0.3, size=(runs, tasks)) + np.arange(tasks) / 10


@pytest.mark.parametrize(
    ("statistic", "answer"),
    [
        (statistics.mean, 3.5),  # of 1.5 and 5.5
        (statistics.median, 3.5),
        (statistics.iqm, 3.5),  # of 2, 3, 4, 5
        (statistics.optimality_gap, 0.125),  # 1 - (0 + 7 * 1) / 8
    ],
)
def test_aggregates_by_hand(statistic, answer):
    assert statistic(HAND) == pytest.approx(answer)


def test_tasks_with_different_numbers_of_runs():
    ragged = [np.array([0.0]), np.array([1.0, 3.0]), np.array([10.0, 10.0, 10.0, 10.0])]
    assert statistics.mean(ragged) == pytest.approx(4.0)
    assert statistics.median(ragged) == pytest.approx(2.0)
    assert statistics.iqm(ragged) == pytest.approx((0 + 1 + 1 + 3 + 3 + 10) / 6)  # of 0 0 0 0 1 1 3 3 10 10 10 10


def test_probability_of_improvement_by_hand():
    first, second = [np.array([1.0, 2.0])], [np.array([0.0, 2.0])]
    assert statistics.probability_of_improvement(first, second) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert statistics.probability_of_improvement(first, first) == pytest.approx(0.5)


def test_performance_profile_by_hand():
    profile = statistics.performance_profile(HAND, np.array([-1.0, 0.0, 3.5, 7.0]))
    np.testing.assert_allclose(profile, [1, 7 / 8, 1 / 2, 0])


def test_normalized_score():
    reference = statistics.Reference(random=-10.0, expert=90.0, source="by hand")
    np.testing.assert_allclose(statistics.normalized(np.array([-10.0, 40.0, 90.0]), reference), [0, 0.5, 1])


def test_committed_references_lie_the_right_way_round():
    references = statistics.reference_scores()
    assert references["hopper"] == statistics.Reference(random=-20.272305, expert=3234.3, source="D4RL")
    assert all(reference.expert > reference.random for reference in references.values())


def test_alc_fills_epochs_in_which_no_episode_ended():
    curve = np.array([np.nan, 2.0, np.nan, 4.0, 100.0])
    np.testing.assert_allclose(curves.filled(curve), [2, 2, 2, 4, 100])
    assert curves.alc(curve, epochs=4) == pytest.approx(2.5)
    assert np.isnan(curves.alc(curve, epochs=6))
    assert np.isnan(curves.alc(np.full(3, np.nan), epochs=3))


def test_the_evaluation_curves_area_by_hand():
    epochs = [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert [epoch for epoch in range(130) if curves.is_evaluated(epoch)] == [*epochs, 60, 80, 100, 120]
    returns = dict(zip(epochs, [0.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 24.0], strict=True))
    # Eight strips of 5 epochs: 4, six of 8, and 16, their mean is 68 / 8.
    assert curves.alc_eval(returns) == pytest.approx(8.5)
    assert curves.alc_eval(returns | {3: 1e9, 60: 1e9}) == pytest.approx(8.5)
    uneven = dict(zip(epochs, np.random.default_rng(0).normal(size=9).tolist(), strict=True))
    assert curves.alc_eval(uneven) == pytest.approx(np.trapezoid(list(uneven.values()), epochs) / 40)
    assert np.isnan(curves.alc_eval(dict.fromkeys(epochs[:-1], 1.0)))
    assert np.isnan(curves.alc_eval(dict.fromkeys(epochs[1:], 1.0)))


def test_a_constant_has_an_interval_of_no_width_and_one_run_has_none():
    assert statistics.interval(statistics.mean, [np.full(3, 2.0)]) == (2.0, 2.0, 2.0)
    single = statistics.interval(statistics.mean, [np.array([2.0])])
    assert single.point == 2.0
    assert np.isnan([single.low, single.high]).all()
    assert not single.excludes_zero


def test_a_difference_from_a_single_run_has_no_interval():
    # The spread of the other method's runs says nothing of this one's.
    estimate = statistics.difference([np.array([9.0])], [np.array([1.0, 2.0, 3.0])])
    assert estimate.point == 7.0
    assert not estimate.excludes_zero


def test_pairs_are_resampled_together():
    # Each run of the first is 1 above its partner, on whatever draw both are.
    first, second = np.array([11.0, 101.0, 1001.0]), np.array([10.0, 100.0, 1000.0])
    assert statistics.difference([first], [second], paired=True) == (1.0, 1.0, 1.0)
    assert not statistics.difference([first], [second]).excludes_zero
    # Of two pairs with the differences 0 and 1 a quarter of the resamples have the mean 0, and a quarter 1.
    two = statistics.difference([np.array([5.0, 8.0])], [np.array([5.0, 7.0])], paired=True)
    assert two == (0.5, 0.0, 1.0)


def test_interval_of_two_runs_by_hand():
    # Resamples of (0, 1) have the means 0, 0.5, 1 with probability 1/4, 1/2, 1/4: both ends are within the 95 %.
    assert statistics.interval(statistics.mean, [np.array([0.0, 1.0])]) == (0.5, 0.0, 1.0)


def test_a_task_with_a_single_run_leaves_no_interval():
    estimate = statistics.interval(statistics.mean, [np.array([0.0, 1.0]), np.array([3.0])])
    assert estimate.point == 1.75
    assert np.isnan([estimate.low, estimate.high]).all()


def test_intervals_repeat():
    data = list(scores().T)
    assert statistics.interval(statistics.iqm, data) == statistics.interval(statistics.iqm, data)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    trials = [generator.normal(size=30) for _ in range(200)]
    estimates = [statistics.interval(statistics.mean, [trial], repetitions=500) for trial in trials]
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])
    assert 0.88 <= covered <= 0.98  # 95 %, less what the percentile bootstrap loses at 30 runs, within its error


def test_resampled_curves_stay_whole():
    curves = np.array([[0.0, 1.0], [10.0, 11.0]])  # epochs x runs
    (draw,) = statistics.resample([curves], 50, np.random.default_rng(0))
    assert draw.shape == (50, 2, 2)
    np.testing.assert_allclose(draw[:, 1] - draw[:, 0], 10)


AGAINST_RLIABLE = [
    (statistics.mean, metrics.aggregate_mean),
    (statistics.median, metrics.aggregate_median),
    (statistics.iqm, metrics.aggregate_iqm),
    (statistics.optimality_gap, metrics.aggregate_optimality_gap),
]


@pytest.mark.parametrize(("ours", "theirs"), AGAINST_RLIABLE)
def test_agrees_with_rliable(ours, theirs):
    data, repetitions = scores(), 2000
    mine = statistics.interval(ours, list(data.T), repetitions=repetitions)
    np.random.seed(0)  # noqa: NPY002 (rliable draws from the global generator)
    point, bounds = library.get_interval_estimates({"x": data}, lambda x: np.array([theirs(x)]), reps=repetitions)
    assert abs(mine.point - point["x"][0]) < 1e-9
    width = mine.high - mine.low
    np.testing.assert_allclose([mine.low, mine.high], bounds["x"][:, 0], atol=0.1 * width)


def test_probability_of_improvement_agrees_with_rliable():
    first, second = scores(), scores(runs=5, shift=-0.1).round(1)
    mine = statistics.interval(statistics.probability_of_improvement, list(first.T), list(second.T), repetitions=500)
    np.random.seed(0)  # noqa: NPY002 (rliable draws from the global generator)
    point, bounds = library.get_interval_estimates(
        {"x": (first, second)}, lambda *pair: np.array([metrics.probability_of_improvement(*pair)]), reps=500
    )
    assert abs(mine.point - point["x"][0]) < 1e-9
    np.testing.assert_allclose([mine.low, mine.high], bounds["x"][:, 0], atol=0.1 * (mine.high - mine.low))


def test_performance_profile_agrees_with_rliable():
    data, thresholds = scores(), np.linspace(0, 2, 21)
    mine = statistics.interval(
        lambda strata: statistics.performance_profile(strata, thresholds), list(data.T), repetitions=500
    )
    np.random.seed(0)  # noqa: NPY002 (rliable draws from the global generator)
    point, bounds = library.create_performance_profile({"x": data}, thresholds, reps=500)
    np.testing.assert_allclose(mine.point, point["x"], atol=1e-9)
    np.testing.assert_allclose([mine.low, mine.high], bounds["x"], atol=0.06)


def test_sample_efficiency_agrees_with_rliable_at_each_epoch():
    curves = np.random.default_rng(0).normal(size=(7, 5, 10)).cumsum(axis=-1)  # runs x tasks x epochs
    mine = statistics.sample_efficiency([curves[:, task].T for task in range(5)])
    expected = [metrics.aggregate_iqm(curves[..., epoch]) for epoch in range(10)]
    np.testing.assert_allclose(mine.point, expected, atol=1e-9)
    assert (mine.low <= mine.point).all()
    assert (mine.point <= mine.high).all()
