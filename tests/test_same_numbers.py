"""A run with the same seed ends with the loss that it had before.

Those of worlds are of commit 925ff78, before the packages were rebuilt, but that of railways of the change by which
training clips end with their episodes; that of a table is of the change by which positions enter a forecaster as
rotations. They were computed on an AMD EPYC in one thread. Other processors round
differently, hence the tolerance.
"""

import json

import pytest

from s2rm.models.named import SPATIAL
from s2rm.runs import TASKS, Run
from s2rm.sensors import FieldWorld, Fit, Forecaster
from s2rm.settings import Settings
from s2rm.training import Training

LOSSES = {
    ("balls", "s2gru"): 0.6777976155281067,
    ("balls", "rims"): 0.628217339515686,
    ("skirmish", "s2gru"): 2.8781049251556396,
    ("railways", "s2gru"): 0.6790157556533813,
}


@pytest.mark.parametrize(("task", "model"), LOSSES)
def test_a_world_gives_the_same_loss(task, model, tmp_path):
    if task == "railways":
        pytest.importorskip("flatland")
    training = Training(
        learning_rate=1e-3, epochs=2, unit_variance=task == "skirmish", batch_size=16 if task == "railways" else 32
    )
    settings = Settings(model, inject_positions=True, batch_norm=model in SPATIAL, training=training)
    run = Run.create(tmp_path / "run", settings, task, TASKS[task].preset("tiny"))
    assert run.train(progress=False).summary()["val_loss"] == pytest.approx(LOSSES[task, model], rel=1e-4)


def test_a_table_gives_the_same_loss(tmp_path):
    reports = FieldWorld(num_stations=8, num_movers=2, num_steps=150).reports()
    training = Training(learning_rate=1e-3, batch_size=16, epochs=2, gradient_norm=1.0, average=0.9)
    how = Fit(hidden_size=8, num_modules=4, context=12, horizon=6, training=training)
    Forecaster.fit(reports, tmp_path, how, progress=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["val_loss"] == pytest.approx(1.6326051950454712, rel=1e-4)
