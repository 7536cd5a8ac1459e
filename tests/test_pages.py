"""The page on battles and railways, from small invented records."""

from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
METRICS = ("unit_type_f1", "friendly_f1", "negative_mse", "log_likelihood")
ABOUT = {
    "learning_rate": 1e-3, "parameters": 1_234, "minutes": 15.0, "updates": 567, "val_loss": 0.5, "commit": "abc",
    "command": "python some.py", "hardware": "a machine",
}  # fmt: skip


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import page
    import page_agents

    def write(**results):
        return page_agents.page(results.get, page.markdown, page.runs_table, page.origin)

    return page_agents, write


def fought(**scores):
    """Records of predictors, each with `(score at 20 %, score at 100 %)` for each seed, the same on every metric."""
    rows = [
        {"predictor": name.replace("_", " "), "scenario": scenario, "reporting": share, "seed": seed,
         **dict.fromkeys(METRICS, score)}
        for name, seeds in scores.items()
        for seed, (few, all_of_them) in enumerate(seeds)
        for scenario, share, score in (
            ("validation", 0.2, few), ("validation", 1.0, all_of_them), ("3s5z", 1.0, all_of_them),
            ("1s2z", 1.0, all_of_them), ("5s3z", 1.0, all_of_them),
        )
    ]  # fmt: skip
    models = [name for name in scores if name not in ("nobody_moves", "last_seen")]
    runs = [{"label": name, "seed": seed, **ABOUT} for name in models for seed, _ in enumerate(scores[name])]
    return {"runs": runs, "command": "python skirmish.py", "rows": rows}


TRIVIAL = {"nobody_moves": [(0.2, 0.3)], "last_seen": [(0.3, 0.4)]}


def line(text, start):
    found = [row for row in text.splitlines() if row.startswith(f"| {start}")]
    assert len(found) == 1, found
    return found[0]


def test_sections_without_results_are_left_out(pages):
    _, write = pages
    text = write()
    assert text.startswith("# Battles and railways, results")
    assert "## " not in text
    assert "## Railways" not in write(skirmish=fought(S2GRU=[(0.6, 0.7)], **TRIVIAL))


def test_ours_stand_beside_the_papers(pages):
    _, write = pages
    text = write(skirmish=fought(S2GRU=[(0.6, 0.7), (0.7, 0.9)], LSTM=[(0.1, 0.5)], **TRIVIAL))
    assert "**The paper's numbers are on\nStarCraft II, not on the same data**" in text
    new = text[text.index("### New scenarios") : text.index("### As agents")]
    first = new[: new.index("| 5s3z")]
    assert line(first, "S2GRU").startswith(
        "| S2GRU | 0.800 (0.700 to 0.900) | 0.7488 | 0.800 (0.700 to 0.900) | 0.8627"
    )
    assert line(first, "RMC").startswith("| RMC | not run | 0.6839 | not run | 0.8597 |")
    assert line(first, "last seen").startswith("| last seen | 0.400 |  |")
    names = [row.split(" | ")[0][2:] for row in first.splitlines() if row.startswith("| ")][2:]
    assert names == ["S2GRU", "LSTM", "RMC", "S2RMC", "TTO", "nobody moves", "last seen"]
    assert "| 5s3z | unit-type macro F1, ours | the paper's |" in new
    silent = text[text.index("### As agents") : text.index("??? note")]
    assert "| log-likelihood, agents that report | 20% | 100% |" in silent
    assert "| *S2GRU, the paper's* | -0.142 | -0.070 |" in silent
    assert "| LSTM | 0.100 | 0.500 |" in silent
    assert "| *TTO, the paper's* | -0.0142 | -0.0064 |" in silent
    assert "    | friendly-marker F1 | 3s5z | 1s2z, new | 5s3z, new |" in text
    assert "trained on a machine at commit abc by `python some.py`; written by `python skirmish.py`" in text
    for name in ("skirmish-reporting", "skirmish-from-above"):
        assert f"(figures/{name}.png)" in text


def test_claims_on_battles_are_decided_by_the_numbers(pages):
    page_agents, _ = pages

    def decided(decide, **scores):
        try:
            return decide(fought(**scores, **TRIVIAL))
        except KeyError as missing:
            return missing.args[0]

    least = page_agents.loses_least("log_likelihood")
    assert decided(least, S2GRU=[(0.8, 0.9), (0.7, 0.85)], RMC=[(0.5, 0.9)], LSTM=[(0.1, 0.35)]) == (
        "holds", "lost: S2GRU 0.125, RMC 0.400, LSTM 0.250; not above the better trivial predictor with all agents: "
        "LSTM",
    )  # fmt: skip
    assert decided(least, S2GRU=[(0.6, 0.9)], RMC=[(0.7, 0.9)]) == (
        "does not hold", "lost: S2GRU 0.300, RMC 0.200; RMC lost less",
    )  # fmt: skip
    assert decided(least, S2GRU=[(0.8, 0.9)], RMC=[(0.5, 0.9), (0.85, 0.9)])[0] == "not decided", "the seeds overlap"
    assert decided(least, S2GRU=[(0.8, 0.9)]) == "other models"
    assert decided(least, RMC=[(0.8, 0.9)]) == "S2GRU"
    trivial = page_agents.above_trivial("5s3z")
    verdict, because = decided(trivial, S2GRU=[(0.5, 0.6)])
    assert verdict == "holds"
    assert "unit-type macro F1 +0.2000 over last seen" in because
    assert decided(trivial, S2GRU=[(0.3, 0.35)])[1].startswith("it is not above last seen on unit-type macro F1 (-0.05")
    assert decided(trivial, S2GRU=[(0.5, 0.6), (0.3, 0.35)])[0] == "not decided", "one seed is below"
    baselines = page_agents.above_baselines("1s2z")
    assert decided(baselines, S2GRU=[(0.5, 0.6)], S2RMC=[(0.8, 0.9)], RMC=[(0.4, 0.5)])[0] == "holds", "of the family"
    assert decided(baselines, S2GRU=[(0.5, 0.6)]) == "others"


def test_the_railway_is_told(pages):
    _, write = pages
    names = ("f1", "f1_trains", "f1_other_trains", "log_likelihood")
    scores = {"S2GRU": (0.9, 0.8, 0.4, -0.1), "mean view": (0.5, 0.1, 0.1, -0.4), "last seen": (0.7, 0.6, 0.5, -0.2)}
    rows = [{"predictor": who, "seed": 0, **dict(zip(names, line, strict=True))} for who, line in scores.items()]
    world = {"grid": 60, "num_trains": 10, "num_steps": 128, "train_episodes": 200, "test_episodes": 40}
    text = write(railways={
        "run": {"label": "S2GRU", **ABOUT}, "seed": 0, "world": world, "rows": rows, "command": "python railways.py",
        "neighbours_of_each_module": [2, 3, 4], "cells_that_some_module_sees": 0.93,
    })  # fmt: skip
    assert "## Skirmishes" not in text
    assert "| last seen | 0.7000 | 0.6000 | 0.5000 | -0.2000 |" in text
    assert "on F1 of trains | **holds** | the least margin is +0.2000, over last seen |" in text
    assert "on F1 of other trains | **does not hold** | the least margin is -0.1000, over last seen |" in text
    assert "93% of the cells are seen by some of its 3 modules; a module hears 2 to 4 of the others." in text
    assert "`results/railways.json`: trained on a machine at commit abc" in text
