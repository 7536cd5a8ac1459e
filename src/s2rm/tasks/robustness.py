"""What is left where views are dropped and modules are removed, in any world (S2RM, Figures 7, 8, 20 and 21)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from s2rm.files import Row
from s2rm.models.model import Model
from s2rm.models.s2rm import S2RM
from s2rm.report.figures import lines, side_by_side
from s2rm.report.page import More, Picture, Table, comparison, drawn
from s2rm.tasks.task import Task
from s2rm.tasks.worlds import Progress

DRAWS = 3
"""random choices of the modules that are removed, of each number"""
Trained = Mapping[str, Model]
"""models, by label"""
Score = Callable[[Trained, tuple[float, ...]], list[Row]]
"""the rows of models and of simple predictors, by the shares of views that are seen"""


def robustness(
    task: Task, models: Trained, score: Score, drop: Sequence[float], remove: Sequence[int], progress: Progress = iter
) -> list[Row]:  # fmt: skip
    """The metric of the task's headline with views dropped, and with modules removed at random from S2RMs, untrained.

    Rows have `predictor`, `dropped`, the share of views, `removed`, the number of modules, the headline's `across`, and
    its metric: with modules removed the mean over `DRAWS` choices, between `lowest` and `highest`.

    Args:
        task: whose headline says which metric.
        models: by label.
        score: scores models.
        drop: shares of the views, from 0 up to, but not, 1.
        remove: numbers of modules.
        progress: shows how far it is.

    Raises:
        ValueError: shares or numbers out of range, or modules to be removed where no model has any.
    """
    check(task, models, drop, remove)
    head, seen = task.headline, task.share or ""
    spatial = with_modules(models)
    shares = tuple(dict.fromkeys(1 - share for share in (0.0, *drop)))
    cuts = [(number, draw) for number in remove for draw in range(DRAWS if number else 1)]
    by_share: dict[float, list[Row]] = {}
    by_cut: dict[int, list[Row]] = {number: [] for number in remove}
    choose = random.Random(0)
    for case in progress([*shares, *cuts]):
        if isinstance(case, float):
            some = score(models, (case,))
            by_share[case] = [row for row in some if row[seen] == case and head.metric in row]
            continue
        number, _ = case
        smaller: Trained = {
            label: model.without_modules(*choose.sample(range(model.num_modules), number)) if number else model
            for label, model in spatial.items()
        }
        some = score(smaller, (1.0,))
        by_cut[number] += [row for row in some if row["predictor"] in spatial and row[seen] == 1]
    # Where fewer cases are scored with views dropped, all are compared on these.
    cases = [row[head.across] for row in by_share[shares[-1]]] if head.across != task.share else None
    rows = [
        _row(row, head.across, head.metric, 1 - share, 0)
        for share, some in by_share.items()
        for row in some
        if cases is None or row[head.across] in cases
    ]
    for number, some in by_cut.items():
        alike: dict[tuple[str, object], list[Row]] = {}
        for row in some:
            if head.metric in row and (cases is None or row[head.across] in cases):
                alike.setdefault((row["predictor"], row[head.across]), []).append(row)
        for draws in alike.values():
            values = [row[head.metric] for row in draws]
            whole = _row(draws[0], head.across, head.metric, 0.0, number)
            mean = sum(values) / len(values)
            rows.append({**whole, head.metric: mean, "lowest": min(values), "highest": max(values)})
    return rows


def with_modules(models: Trained) -> dict[str, S2RM]:
    """The models that have modules which can be removed."""
    return {label: model for label, model in models.items() if isinstance(model, S2RM)}


def check(task: Task, models: Trained, drop: Sequence[float], remove: Sequence[int]) -> None:
    """Refuse shares and numbers that cannot be taken away; arguments and errors as for `robustness`."""
    spatial = with_modules(models)
    if wrong := [share for share in drop if not 0 <= share < 1]:
        raise ValueError(f"evaluate: shares of views to drop must be at least 0 and below 1, got {wrong[0]}")
    if remove and not spatial:
        raise ValueError("evaluate: only S2RMs (s2gru, s2lstm, s2rmc) have modules to remove, got none; leave it out")
    for number in remove:
        for label, model in spatial.items():
            if not 0 <= number < model.num_modules:
                raise ValueError(
                    f"evaluate: {label} has {model.num_modules} modules, of which at least one stays, got {number} to "
                    "remove; remove fewer"
                )
    if drop and task.share is None:
        raise ValueError(f"evaluate: {task.name} has no views to drop; leave it out")


def _row(row: Row, across: str, metric: str, dropped: float, removed: int) -> Row:
    found = {"predictor": row["predictor"], "dropped": round(dropped, 6), "removed": removed}
    return {**found, across: row[across], metric: row[metric]}


def table(task: Task, rows: Sequence[Row]) -> Table:
    """The metric of the headline, its mean over what stands across it, by what was taken away."""
    head = task.headline
    heads: dict[object, str] = {}
    sums: dict[tuple[str, object], list[float]] = {}
    for row in rows:
        case = (row["dropped"], row["removed"])
        if row["removed"]:
            heads[case] = f"{row['removed']} module{'s' if row['removed'] > 1 else ''} removed"
        else:
            heads[case] = f"{row['dropped']:.0%} of views dropped" if row["dropped"] else "all views, all modules"
        sums.setdefault((row["predictor"], case), []).append(row[head.metric])
    flat = [{"predictor": name, "case": case, "x": sum(some) / len(some)} for (name, case), some in sums.items()]
    worth = (lambda value: -value) if head.lower else float
    sentence = (
        f"Means over {head.columns}; {'lower' if head.lower else 'higher'} is better. Views are dropped, and modules "
        f"removed, at random and without further training; modules in {DRAWS} random choices each."
    )
    name = head.metric.replace("_", " ")
    return comparison(flat, "x", "case", heads, "With views dropped and modules removed", name, sentence, ".3g", worth)


def picture(task: Task, rows: Sequence[Row]) -> Picture:
    """The metric against the share of views dropped, and against the number of modules removed."""
    parts = {
        heading: (key, [row for row in rows if not row[other]])
        for heading, key, other in (("views", "dropped", "removed"), ("modules", "removed", "dropped"))
        if len({row[key] for row in rows}) > 1
    }
    made = side_by_side(
        parts, lambda axes, part: lines(axes, part[1], part[0], task.headline.metric),
        task.headline.metric.replace("_", " "),
    )  # fmt: skip
    for axes, heading in zip(made.axes, parts, strict=True):
        axes.set_xlabel("share of views dropped" if heading == "views" else "modules removed")
    sentence = (
        f"Lines are means over {task.headline.columns}, bands their range. A flat line means that nothing is lost."
    )
    return drawn("With views or modules missing", made, sentence)


def more(task: Task, rows: Sequence[Row], verdict: Sequence[tuple[str, str]]) -> More:
    """What a report has beside its world's part: the verdict, and what is left where something is missing."""
    if not any(row["dropped"] or row["removed"] for row in rows):
        return More(verdict)
    return More(verdict, [table(task, rows)], [picture(task, rows)])
