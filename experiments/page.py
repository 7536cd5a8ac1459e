"""Write the pages of numbers, and the tables in the README and the sensors' page, from `results/` and `templates/`.

`--check` only compares.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd
from tabulate import tabulate

import claims
import claims_sensors
import claims_sequences
from claims import Result

ROOT, HERE = Path(__file__).parent.parent, Path(__file__).parent
PAGES = ("results", "sensors-results", "agents-results", "rims-results", "speed")
ANCHORED = {
    "README.md": ("results",), "docs/sensors.md": ("packing", "rain", "known ahead", "scenarios", "how well"),
    "docs/worlds.md": ("springs", "traffic", "planning", "variational"),
}  # fmt: skip
"""files with tables, each between `<!-- name -->` and `<!-- end -->`, and those names"""
WITHHELD = {"held out": "withheld"}
"""the name on pages of the stations that no model sees"""
HEADS = {
    "balls": claims.moving,
    "lead": "+{}".format,
    "reporting": "{:.0%}".format,
    "learning_rate": "{:g}".format,
    "metric": lambda name: claims.BATTLES.get(name, name),
}
"""how the values of a column are written as heads"""


def read(file: str, content: Mapping[str, Any]) -> Result:
    """A result from the content of its file."""
    about = {name: value for name, value in content.items() if name not in ("runs", "rows")}
    return Result(file, about, *(pd.json_normalize(content[name], sep="_") for name in ("runs", "rows")))


def results() -> dict[str, Result]:
    """All results by name; those of the shipped weights are `pretrained`."""
    paths = {path.stem: path for path in sorted((ROOT / "results").glob("*.json"))}
    paths["pretrained"] = ROOT / "src" / "s2rm" / "pretrained" / "scores.json"
    return {
        name: read(str(path.relative_to(ROOT)), json.loads(path.read_text()))
        for name, path in paths.items()
        if path.is_file()
    }


def pivot(
    rows: pd.DataFrame,
    columns: str,
    metric: str,
    *,
    index: str = "predictor",
    digits: int | Mapping[str, int] = 3,
    best: Literal["max", "min"] | None = "max",
    across: bool = False,
    missing: str = "",
) -> pd.DataFrame:
    """A metric by row and column, as text: the mean and, where there are several seeds, their range.

    Args:
        rows: of a result.
        columns: whose values are the columns.
        metric: what stands in the cells.
        index: whose values are the rows; simple predictors come last.
        digits: after the point, for all columns or for each.
        best: which mean of a column is in bold, the oracle's aside.
        across: the best of each row instead.
        missing: what stands where there is no number.
    """
    names = sorted(rows[index].unique(), key=lambda name: name in claims.TRIVIAL)
    heads = rows[columns].unique() if rows[columns].dtype.kind not in "if" else sorted(rows[columns].unique())
    groups = rows.groupby([index, columns], sort=False)[metric]
    stats = groups.agg(["mean", "min", "max", "count"]).unstack()
    mean, low, high, count = (stats[how].reindex(names, columns=heads) for how in ("mean", "min", "max", "count"))
    places = {head: digits if isinstance(digits, int) else digits.get(head, 3) for head in heads}
    shown, top = mean.round(places), None
    if best:
        rivals = shown if across else shown.drop("TTO", errors="ignore")
        top = rivals.agg(best, axis="columns" if across else "index")

    def cell(name: object, head: object) -> str:
        if not count.at[name, head] > 0:
            return missing
        text, *ends = (f"{part.at[name, head]:,.{places[head]}f}" for part in (mean, low, high))
        text += f" ({' to '.join(ends)})" if count.at[name, head] > 1 else ""
        return f"**{text}**" if best and shown.at[name, head] == top[name if across else head] else text

    text = [[cell(name, head) for head in heads] for name in names]
    return pd.DataFrame(text, names, heads).rename(columns=HEADS.get(columns, str))


def table(text: pd.DataFrame, head: str) -> str:
    """A pivot as Markdown, with what stands over its first column."""
    align = ("left", *["right"] * text.shape[1])
    return tabulate(text, [head, *text.columns], tablefmt="pipe", disable_numparse=True, colalign=align)


def listing(rows: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """A table of rows as they are: for each head a format of the row's fields."""
    cells = [[form.format(**row) for form in columns.values()] for row in rows.to_dict("records")]
    align = ["left" if cell[:1].isalpha() else "right" for cell in cells[0]]
    return tabulate(cells, list(columns), tablefmt="pipe", disable_numparse=True, colalign=align)


def span(value: float | list[float]) -> str:
    """A figure, or the two between which it lies; nothing where there is none."""
    parts = value if isinstance(value, list) else [value]
    return " to ".join(f"{part:.2f}" for part in parts if not pd.isna(part))


def trained(*runs: pd.DataFrame) -> str:
    """On what, at which commits and by which commands runs were trained."""
    all_ = pd.concat(runs)
    commands = ", ".join(f"`{one}`" for one in all_["command"].unique())
    gpus = all_["accelerator"] if "accelerator" in all_ else pd.Series(index=all_.index, dtype=object)
    machines = " and ".join(gpus.fillna(all_["hardware"]).unique())
    return f"{machines} at commit {', '.join(all_['commit'].unique())} by {commands}"


def skill(mae: pd.DataFrame, other: str) -> pd.DataFrame:
    """S2GRU's MAE, another's and the skill, by value and lead: a row a value, a column a lead."""
    rows = mae[["S2GRU", other]].dropna().reset_index()
    rows["cell"] = [
        f"{ours:.2f} / {theirs:.2f} ({1 - ours / theirs:+.0%})"
        for ours, theirs in zip(rows["S2GRU"], rows[other], strict=True)
    ]
    return rows.pivot(index="value", columns="lead", values="cell").rename(columns=HEADS["lead"])


def ways_over_the_obvious(result: Result) -> pd.DataFrame:
    """Of each way, table, group of stations and seed, the mean over values and lead times of the errors, over those of
    the best simple predictor."""
    rows = result.rows.assign(seed=result.rows["seed"].fillna(-1))
    parts = []
    for (data, seed), tried in rows[rows["seed"] >= 0].groupby(["data", "seed"], sort=False):
        simple = rows[(rows["data"] == data) & (rows["seed"] < 0)].assign(seed=seed)
        for metric in ("mae", "crps"):
            ratio = claims_sensors.against_the_obvious(Result("", {}, result.runs, pd.concat([simple, tried])), metric)
            mean = ratio.groupby("sensors").mean().stack().rename("ratio").reset_index()
            parts.append(mean.assign(data=data, case=metric.upper() + ", " + mean["sensors"].replace(WITHHELD)))
    return pd.concat(parts)


def render(name: str, found: Mapping[str, Result]) -> str:
    """A page, or the table for an anchor, from its template and the results that are there."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["table"] = table
    papers = json.loads((HERE / "published.json").read_text())
    published = {key: pd.DataFrame(part["rows"]) for key, part in papers.items()}
    sources = {key: part["source"] for key, part in papers.items()}
    names = (pivot, listing, span, trained, skill, ways_over_the_obvious)
    written = environment.get_template(f"{name}.md.j2").render(
        results=found,
        published=published,
        sources=sources,
        claims=claims,
        sequences=claims_sequences,
        measured=claims_sensors,
        concat=pd.concat,
        **{one.__name__: one for one in names},
    )
    return re.sub(r"\n{3,}", "\n\n", written).rstrip() + "\n"


def filled(text: str, anchor: str, content: str) -> str:
    """A text with this content between its anchors, where it has them."""
    between = rf"(?<=<!-- {anchor} -->\n).*?(?=<!-- end -->)"
    return re.sub(between, lambda _: f"\n{content.strip()}\n\n", text, flags=re.DOTALL)


def wanted() -> dict[Path, str]:
    """What each file should hold."""
    found = results()
    pages = {ROOT / "docs" / f"{name}.md": render(name, found) for name in PAGES}
    for file, anchors in ANCHORED.items():
        text = (ROOT / file).read_text()
        for anchor in anchors:
            text = filled(text, anchor, render(f"{anchor.replace(' ', '-')}-table", found))
        pages[ROOT / file] = text
    return pages


def main(check: bool) -> None:
    """Write what is not as it should be, or exit where something is not."""
    for path, text in wanted().items():
        if path.is_file() and path.read_text() == text:
            continue
        if check:
            sys.exit(f"{path} is not what results/ says; run make results-page")
        path.write_text(text)


if __name__ == "__main__":
    main("--check" in sys.argv)
