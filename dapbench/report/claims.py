"""The claims of the paper, and ours, on trial: what these results say of each, and a verdict by a rule stated here.

Every claim comes down to a number and a threshold, and the number's 95 % bootstrap interval gives the verdict:

- *holds* if the whole interval is on the claim's side of the threshold,
- *does not hold* if the whole interval is on the other side,
- *not distinguishable* if the threshold lies within it, or if there is no interval (one seed),
- *not measured* if runs are missing without which nothing can be said.

The numbers are: how many tasks have a mean at or above (`count`), a difference of normalized means (`difference`), a
cost relative to PPO's (`cost`) and a mean of a monitor (`monitor`). docs/statistics.md says the same for readers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from dapbench.report import statistics, tables
from dapbench.report.items import Absent, table
from dapbench.report.results import AUTHORS, BASELINE, METRICS, SUBJECT, Results
from dapbench.report.statistics import Estimate
from dapbench.report.study_tables import overhead_ratios
from dapbench.report.style import INTERVAL, counted, digits, listed, logs_text, seeds_text, spread
from dapbench.report.tables import PAIRED, READINGS, difference_of, metric_text, numbers

HOLDS, FAILS, UNCLEAR, UNMEASURED = "holds", "does not hold", "not distinguishable", "not measured"
VERDICTS = (HOLDS, FAILS, UNCLEAR, UNMEASURED)
ON_POLICY = ("ppo", "ppg", "ppo_rnd")  # the paper's on-policy baselines
STRONGEST = "strongest"  # stands for the one of them with the highest mean on a task
SUBJECTS = (SUBJECT, "ppo_dap_warm", AUTHORS)
FULL_TRIAL = ("alc40", "alc40_eval", "final_return")
# The paper's costs relative to PPO's as it gives them: value and ±.
PAPER_COST = {"wall_seconds": (1.18, 0.04), "peak_memory_bytes": (1.05, 0.02)}
# Pairs of methods of which the first is claimed to be above the second.
GAUSSIAN, SAME_START, ADDED = (SUBJECT, "ppo_gap"), (SUBJECT, "ppo_bc"), ("ppo_dap_warm", "ppo_bc")
# What holds claim 8, in tests/test_ppo_dap.py.
ON_POLICY_TESTS = (
    "test_the_actors_terms_reach_neither_the_prior_nor_the_critic",
    "test_proposals_carry_no_graph",
    "test_without_its_terms_the_loss_is_ppos",
)
PLURAL = {HOLDS: "hold", FAILS: "do not hold", UNCLEAR: "are not distinguishable", UNMEASURED: "are not measured"}

NO_INTERVAL = np.array(np.nan)


@dataclass(frozen=True)
class Finding:
    """One number and its verdict.

    Attributes:
        label: tells it from the other findings of its claim; may be empty.
        metric: a metric of `METRICS`, or a column of curve.csv or of overhead.json.
        estimate: the number with its interval.
        threshold: what the interval is held against.
        verdict: one of `VERDICTS`.
        text: the number as shown.
        runs: how many runs stand behind it, in words.
    """

    label: str
    metric: str
    estimate: Estimate
    threshold: float
    verdict: str
    text: str
    runs: str


@dataclass(frozen=True)
class Claim:
    """A claim and what was found.

    Attributes:
        number: of the claim, with a letter where it has several lines.
        text: the claim in one sentence, without its full stop.
        source: who makes it.
        findings: the numbers that it is judged by.
        remark: what else is to be said of the numbers; may be empty.
    """

    number: str
    text: str
    source: str
    findings: tuple[Finding, ...]
    remark: str = ""

    def shown(self) -> list[tuple[str, Finding]]:
        """The findings with their labels, without the evaluation's reading of ALC@40 where it agrees."""
        readings = {(f.label, f.metric): f for f in self.findings if f.metric in READINGS}
        words = {f.metric for f in self.findings} - {"alc40_eval"}
        rows = []
        for finding in self.findings:
            name = "ALC@40" if len(words) > 1 else ""
            if finding.metric in READINGS:
                pair = [readings.get((finding.label, metric)) for metric in READINGS]
                if len({f.verdict for f in pair if f}) > 1:
                    name = metric_text(finding.metric)
                elif finding.metric == "alc40_eval":
                    continue
            elif len(words) > 1:
                name = metric_text(finding.metric) if finding.metric in METRICS else ""
            rows.append((", ".join(filter(None, [finding.label, name])), finding))
        return rows

    @property
    def verdict(self) -> str:
        """The one verdict of all findings that are shown, or each verdict with the labels of those that have it."""
        labels = {v: [label for label, f in self.shown() if f.verdict == v] for v in VERDICTS}
        parts = {verdict: f"{verdict} ({listed(own)})" for verdict, own in labels.items() if own}
        return next(iter(parts)) if len(parts) == 1 else "; ".join(parts.values())

    @property
    def measured(self) -> str:
        """The numbers, each with its label where there are several."""
        rows = [(label, f) for label, f in self.shown() if f.text]
        parts = [f"{label}: {f.text}" if label and len(self.shown()) > 1 else f.text for label, f in rows]
        return "; ".join([*parts, *filter(None, [self.remark])]) or "–"

    @property
    def runs(self) -> str:
        """The runs behind the numbers that are shown."""
        return "; ".join(dict.fromkeys(f.runs for _, f in self.shown() if f.runs)) or "–"


def judged(estimate: Estimate) -> str:
    """The verdict on "the number is above 0"."""
    return {"above": HOLDS, "below": FAILS}.get(tables.verdict(estimate), UNCLEAR)


def rival(results: Results, metric: str, task: str, against: str) -> str | None:
    """The method that ``against`` means on a task; None where a run of it or of a candidate for it is missing."""
    candidates = [m for m in results.profile["methods"] if m in ON_POLICY] if against == STRONGEST else [against]
    means = {m: s.mean() for m in candidates if len(s := results.scores(metric, task, m))}
    return max(means, key=lambda m: means[m]) if candidates and len(means) == len(candidates) else None


def pairs(results: Results, metric: str, first: str, against: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The scores of two methods by task, where both have runs; `Results.both_scores` says which runs count."""
    found = {}
    for task in results.asked(first):
        second = rival(results, metric, task, against)
        pair = results.both_scores(metric, task, first, second) if second else None
        if pair and all(map(len, pair)):
            found[task] = pair
    return found


def tasks_at_or_above(first: statistics.Strata, second: statistics.Strata, strictly: bool) -> np.ndarray:
    """On how many tasks the mean of ``first`` is at or above, or strictly above, that of ``second``."""
    differences = [a.mean(-1) - b.mean(-1) for a, b in zip(first, second, strict=True)]
    return np.sum([d > 0 if strictly else d >= 0 for d in differences], axis=0)


def count(results: Results, metric: str, first: str, against: str, share: float, strictly: bool = True) -> Finding:
    """How many of the profile's tasks have a mean (strictly) at or above the other's; holds from ``share`` of them on.

    The interval is of the count itself. A task without an interval of its own, or without runs, may count or not: the
    interval's upper end holds it, its lower end does not.
    """
    whole = [m for m in ON_POLICY if m in results.profile["methods"]] if against == STRONGEST else [against]
    tasks = results.asked(first, *whole) if whole else []
    found = {task: pair for task, pair in pairs(results, metric, first, against).items() if task in tasks}
    needed, missing = math.ceil(share * len(tasks)), len(tasks) - len(found)
    if not found:
        return unmeasured("", metric, needed)
    several = [pair for pair in found.values() if all(len(scores) > 1 for scores in pair)]
    counted_tasks = partial(tasks_at_or_above, strictly=strictly)
    point = counted_tasks(*map(list, zip(*found.values(), strict=True)))
    estimate = Estimate(point, NO_INTERVAL, NO_INTERVAL)
    if several:
        _, low, high = statistics.interval(counted_tasks, *map(list, zip(*several, strict=True)))
        estimate = Estimate(point, low, high + len(tasks) - len(several))
    verdict = UNCLEAR
    if several:
        verdict = HOLDS if estimate.low >= needed else FAILS if estimate.high < needed else UNCLEAR
    if missing and verdict == UNCLEAR:
        verdict = UNMEASURED
    own = [judged(statistics.difference([ours], [theirs])) for ours, theirs in found.values()]
    text = f"on {int(point)} of {counted(len(tasks), 'task')}" + (f" {_bounds(estimate)}" if several else "")
    told = [f"clearly above on {own.count(HOLDS)}", f"clearly below on {own.count(FAILS)}"] if several else []
    text += f" ({', '.join([*told, *([f'{missing} not measured'] if missing else [])])})" if told or missing else ""
    methods = [first, *whole]
    return Finding("", metric, estimate, needed, verdict, text, seeds_text(results, methods, list(found), metric))


def _bounds(estimate: Estimate) -> str:
    return f"[{float(estimate.low):g}, {float(estimate.high):g}]"


def difference(
    results: Results, metric: str, first: str, second: str, label: str = "", tasks: list[str] | None = None
) -> Finding:
    """The difference of two methods' normalized means, over the tasks that have runs of both (and are in ``tasks``)."""
    asked = [task for task in results.asked(first, second) if tasks is None or task in tasks]
    found = pairs(results, metric, first, second)
    used = [task for task in asked if task in found and task in results.references]
    if not used:
        return unmeasured(label, metric, 0.0)
    estimate = difference_of(results, metric, first, second, used, normal=True)
    text = f"{spread(estimate, 3)} over {_of_tasks(len(used), len(asked))}"
    runs = seeds_text(results, [first, second], used, metric)
    return Finding(label, metric, estimate, 0.0, judged(estimate), text, runs)


def _of_tasks(used: int, asked: int) -> str:
    """On how many tasks there are numbers, and of how many, where some lack them."""
    return counted(used, "task") if used >= asked else f"{used} of {counted(asked, 'task')}"


def cost(results: Results, column: str, subject: str) -> Finding:
    """Time or memory relative to PPO's in paired runs; holds up to the upper end of the paper's own ±."""
    value, margin = PAPER_COST[column]
    limit = value + margin
    ratios = overhead_ratios(results, subject, column)
    if not ratios:
        return unmeasured("", column, limit)
    estimate = statistics.interval(statistics.mean, list(ratios.values()))
    verdict = UNCLEAR
    if not np.isnan(estimate.low):
        verdict = HOLDS if estimate.high <= limit else FAILS if estimate.low > limit else UNCLEAR
    where = "" if np.isnan(estimate.low) else ", below theirs" if estimate.high < value - margin else ""
    asked = len(results.profile.get("overhead_tasks", []))
    text = f"{spread(estimate, 3)} over {_of_tasks(len(ratios), asked)}{where}"
    return Finding("", column, estimate, limit, verdict, text, counted(sum(map(len, ratios.values())), "pair"))


def monitor(results: Results, column: str, subject: str, label: str = "") -> Finding:
    """A column of the method's curves: the mean over a run's epochs, then over runs and tasks."""
    own = results.curves[results.curves.method == subject]
    own = own.dropna(subset=column) if column in own else own.head(0)
    if own.empty:
        return unmeasured(label, column, 0.0)
    means = own.groupby(["task", "seed"], sort=False)[column].mean()
    strata = [scores.to_numpy() for _, scores in means.groupby("task", sort=False)]
    estimate = statistics.interval(statistics.mean, strata)
    decimals = max(3, digits(float(value) for value in estimate))
    text = f"{spread(estimate, decimals)} over {_of_tasks(len(strata), len(results.asked(subject)))}"
    runs = seeds_text(results, [subject], list(dict.fromkeys(own.task)))
    return Finding(label, column, estimate, 0.0, judged(estimate), text, runs)


def unmeasured(label: str, metric: str, threshold: float) -> Finding:
    """The finding where runs are missing."""
    return Finding(label, metric, Estimate(NO_INTERVAL, NO_INTERVAL, NO_INTERVAL), threshold, UNMEASURED, "", "")


def paper_claims(results: Results, subject: str) -> Iterator[Claim]:
    """Claims 1 to 4, which are of PPO-DAP as a whole."""
    named = results.titles
    strongest = [named[m] for m in results.profile["methods"] if m in ON_POLICY]
    best = f"that of the strongest of {listed(strongest)}" if len(strongest) > 1 else f"{named[BASELINE]}'s"
    whose = {BASELINE: f"{named[BASELINE]}'s", STRONGEST: best}
    letters = iter("abcd")
    for source, share, where in (("abstract", 1.0, "every task"), ("an earlier abstract", 0.75, "3 of 4 tasks")):
        for against, theirs in whose.items():
            found = tuple(count(results, metric, subject, against, share) for metric in READINGS)
            yield Claim(f"1{next(letters)}", f"ALC@40 is above {theirs} on {where}", source, found)
    final = count(results, "final_return", subject, STRONGEST, 0.75, strictly=False)
    yield Claim("2", f"The final return is at or above {best} on 6 of 8 tasks", "abstract", (final,))
    costs = {"wall_seconds": "Wall-clock", "peak_memory_bytes": "Peak memory (theirs: of a GPU)"}
    for number, (column, what) in zip("34", costs.items(), strict=True):
        value, margin = PAPER_COST[column]
        text = f"{what} is {value:.2f} ± {margin:.2f} × PPO's, or less"
        yield Claim(number, text, "abstract", (cost(results, column, subject),))


def part_claims(results: Results) -> Iterator[Claim]:
    """Claims 5 and 6, which are of parts of the method."""
    for number, text, without in (
        ("5", "A frozen prior is worse", "ppo_dap_frozen"),
        ("6", "Without value guidance early learning is slower", "ppo_dap_unguided"),
    ):
        found = tuple(difference(results, metric, SUBJECT, without) for metric in READINGS)
        yield Claim(number, text, "an earlier abstract", found)


def monitored_claims(results: Results, subject: str) -> Iterator[Claim]:
    """Claims 7 and 8, by the monitors in curve.csv."""
    gain = monitor(results, "q_gain", subject)
    text = "Guided proposals concentrate where Q is high: Q of the kept ones exceeds that of the raw ones"
    yield Claim("7a", text, "an earlier abstract", (gain,))
    ranks = {"q_advantage_rank": "with the advantage", "q_td_rank": "with the TD error"}
    found = tuple(monitor(results, column, subject, label) for column, label in ranks.items())
    text = "Q is high where the return is: its rank correlation on a rollout that it has not seen is above 0"
    yield Claim("7b", text, "ours", found, "of the return itself see docs/findings.md")
    share = monitor(results, "pg_share", subject)
    told = f"PPO's share of the actor's gradient while the other terms are on: {share.text}" if share.text else ""
    finding = Finding("", "pg_share", share.estimate, math.nan, HOLDS, told, share.runs)
    text = "Strictly on-policy: no gradient of logs or proposals passes through PPO's estimator"
    tests = f"held by {counted(len(ON_POLICY_TESTS), 'test')} of tests/test_ppo_dap.py at every commit"
    yield Claim("8", text, "the authors' library", (finding,), tests)


def own_claims(results: Results) -> Iterator[Claim]:
    """Claims 9 to 11, which are ours."""
    lines = {
        "9": ("A diffusion prior beats a Gaussian one", GAUSSIAN),
        "10a": ("PPO-DAP beats a warm start on the same logs", SAME_START),
        "10b": ("After that warm start PPO-DAP still adds to it", ADDED),
    }
    for number, (text, pair) in lines.items():
        yield Claim(number, text, "ours", tuple(difference(results, metric, *pair) for metric in FULL_TRIAL))
    for letter, (number, (_, pair)) in zip("abc", lines.items(), strict=True):
        found = [
            difference(results, metric, *methods, label=quality, tasks=quality_tasks(results))
            for quality, methods in pairs_by_quality(results, pair).items()
            for metric in READINGS
        ]
        text = f"Claim {number} holds for each quality of the logs"
        yield Claim(f"11{letter}", text, "ours", tuple(found) or (unmeasured("", "alc40", 0.0),))


def pairs_by_quality(results: Results, pair: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """By each log quality that the profile asks for, two methods' variants on it; one that it does not: absent."""
    own = results.profile["log_quality"]
    first, second = (results.by_quality().get(method, {own: method}) for method in pair)
    return {q: (first.get(q, "absent"), second.get(q, "absent")) for q in first | second}


def quality_tasks(results: Results) -> list[str]:
    """The tasks on which methods ran on logs of several qualities, so that qualities compare like with like."""
    variants = [m for own in results.by_quality().values() for m in list(own.values())[1:]]
    return [task for task in results.asked() if any(task in results.asked(m) for m in variants)]


NOTE = (
    f"In brackets: {INTERVAL}. The verdict is the interval's: holds, if all of it is on the claim's side; does not"
    " hold, if all of it is on the other side; else not distinguishable; not measured, where runs are missing. Counts"
    " of tasks are of means, and have an interval of their own. Differences are of normalized means."
    f" {PAIRED} A claim about"
    " ALC@40 is judged by training and by evaluation; where both verdicts agree, the number of training is shown."
    " docs/statistics.md has the rules."
)


@table("claims", "The claims on trial")
def claims(results: Results) -> tuple:
    """A row for each claim: what was measured, and the verdict."""
    if results.summaries.empty:
        raise Absent("No run ended.")
    found = [*paper_claims(results, SUBJECT), *part_claims(results), *monitored_claims(results, SUBJECT)]
    found += own_claims(results)
    compared = dict.fromkeys(m for _, *pair, _, _ in comparisons(results) for m in pair if m != STRONGEST)
    return *_sentence_and_rows(found), tidy(found), f"{NOTE} {logs_text(results, compared)}"


def _sentence_and_rows(found: list[Claim]) -> tuple[str, pd.DataFrame]:
    parts = []
    for who, ours in (("Of the paper's", False), ("of our own", True)):
        verdicts = [claim.verdict for claim in found if (claim.source == "ours") == ours]
        told = [_told(n, verdict) for verdict in VERDICTS if (n := verdicts.count(verdict))]
        split = sum(verdict not in VERDICTS for verdict in verdicts)
        told += [f"on {split} the numbers disagree"] if split else []
        parts.append(f"{who} {counted(len(verdicts), 'line')} {listed(told)}")
    rows = [
        {
            "": claim.number,
            "Claim": claim.text,
            "Source": claim.source,
            "Measured here": claim.measured,
            "Runs": claim.runs,
            "Verdict": f"**{claim.verdict}**",
        }
        for claim in found
    ]
    return f"{', '.join(parts)}.", pd.DataFrame(rows)


def _told(number: int, verdict: str) -> str:
    """How many claims have a verdict, as it stands in a sentence."""
    plural = PLURAL[verdict]
    return f"{number} {plural if number > 1 else verdict if verdict in (HOLDS, FAILS) else plural.replace('are', 'is')}"


def tidy(found: list[Claim]) -> pd.DataFrame:
    """A row a finding, unrounded."""
    return pd.DataFrame(
        {
            "claim": claim.number,
            "label": finding.label,
            "metric": finding.metric,
            **numbers(finding.estimate),
            "threshold": finding.threshold,
            "runs": finding.runs,
            "verdict": finding.verdict,
        }
        for claim in found
        for finding in claim.findings
    )


@table("claims_of_variants", "The same claims of each configuration of PPO-DAP")
def claims_of_variants(results: Results) -> tuple:
    """Claims 1 to 4, 7 and 8 for PPO-DAP, with a warm start and with the authors' constants."""
    subjects = [m for m in SUBJECTS if m in results.methods]
    if len(subjects) < 2:
        raise Absent("There are no runs of another configuration of PPO-DAP.")
    found = {m: [*paper_claims(results, m), *monitored_claims(results, m)] for m in subjects}
    rows = []
    for of_all in zip(*found.values(), strict=True):
        cells = {results.titles[m]: f"{c.measured}: **{c.verdict}**" for m, c in zip(found, of_all, strict=True)}
        rows.append({"": of_all[0].number, "Claim": of_all[0].text} | cells)
    values = pd.concat([tidy(own).assign(method=method) for method, own in found.items()], ignore_index=True)
    changed = [c for c in range(len(rows)) if len({own[c].verdict for own in found.values()}) > 1]
    sentence = f"The configurations differ in the verdict on {len(changed)} of {counted(len(rows), 'claim')}."
    return sentence, pd.DataFrame(rows), values, f"{NOTE} {logs_text(results, subjects)}"


def comparisons(results: Results) -> Iterator[tuple[str, str, str, tuple[str, ...], list[str] | None]]:
    """What the claims compare: claim, first, second, metrics, and the tasks if not all."""
    yield "1", SUBJECT, BASELINE, tuple(READINGS), None
    yield "1", SUBJECT, STRONGEST, tuple(READINGS), None
    yield "2", SUBJECT, STRONGEST, ("final_return",), None
    yield "5", SUBJECT, "ppo_dap_frozen", tuple(READINGS), None
    yield "6", SUBJECT, "ppo_dap_unguided", tuple(READINGS), None
    for number, pair in (("9", GAUSSIAN), ("10", SAME_START), ("10", ADDED)):
        yield number, *pair, FULL_TRIAL, None
    for pair in (GAUSSIAN, SAME_START, ADDED):
        for methods in pairs_by_quality(results, pair).values():
            if "absent" not in methods:
                yield "11", *methods, tuple(READINGS), quality_tasks(results)


@table("claims_by_task", "The claims task by task")
def claims_by_task(results: Results) -> tuple:
    """Each difference that a claim is about, on each task, in returns."""
    shown: list[dict[str, str]] = []
    values: list[dict[str, object]] = []
    for number, first, against, metrics, only in comparisons(results):
        for metric in metrics:
            found = pairs(results, metric, first, against)
            found = {task: pair for task, pair in found.items() if only is None or task in only}
            if not found:
                continue
            title = "the strongest baseline" if against == STRONGEST else results.titles[against]
            row = {"": number, "Difference": f"{results.titles[first]} − {title}", "Metric": METRICS[metric]}
            for task in results.tasks:
                row[results.titles[task]] = "–"
            for task, pair in found.items():
                second = rival(results, metric, task, against) or against
                estimate = difference_of(results, metric, first, second, [task])
                verdict, text = judged(estimate), spread(estimate)
                row[results.titles[task]] = {HOLDS: f"**{text}**", UNCLEAR: f"{text} †"}.get(verdict, text)
                values.append({"claim": number, "first": first, "second": second})
                values[-1] |= {"metric": metric, "task": task, **numbers(estimate), "verdict": verdict}
                values[-1] |= {"runs_first": len(pair[0]), "runs_second": len(pair[1])}
            shown.append(row)
    if not shown:
        raise Absent("There are no runs of two methods that a claim compares.")
    told = [value["verdict"] for value in values]
    sentence = f"Of {counted(len(told), 'difference')} {told.count(HOLDS)} lie above zero, {told.count(FAILS)} below,"
    sentence += f" and {told.count(UNCLEAR)} are not distinguishable from it."
    compared = dict.fromkeys(str(value[side]) for value in values for side in ("first", "second"))
    note = f"Difference of means [{INTERVAL}]; bold: above zero, as the claim says; †: not distinguishable from zero."
    note += f" {PAIRED}"
    return sentence, pd.DataFrame(shown).fillna("–"), pd.DataFrame(values), f"{note} {logs_text(results, compared)}"
