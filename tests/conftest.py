"""What the tests share: small odd-sized models and views, in float64."""

import pytest
import torch

from s2rm import GQN, S2GRU, Views, WorldModel

VALUE_SHAPE, COORDINATES = (3, 5), 2
ARGUMENTS = {
    "value_shape": VALUE_SHAPE,
    "num_coordinates": COORDINATES,
    "embedding_dim": 12,
    "shortest": 7.0,
    "longest": 70.0,
    "codec": "mlp",
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make_s2gru(**changes) -> WorldModel:
    return S2GRU(**{**ARGUMENTS, "num_modules": 3, "hidden_size": 11, "truncation": 0.3, **changes})


def make_lstm(**changes) -> WorldModel:
    return GQN(**{**ARGUMENTS, "hidden_size": 13, **changes})


MODELS = {"s2gru": make_s2gru, "lstm": make_lstm}


@pytest.fixture(params=MODELS)
def model(request) -> WorldModel:
    return MODELS[request.param]().double()


def some_views(batch: int = 2, steps: int = 5, views: int = 7, *, value_shape=VALUE_SHAPE) -> Views:
    """Views in random places, about a third of them not there, none at all at step 1."""
    positions = 7 * torch.rand(batch, steps, views, COORDINATES, dtype=torch.float64)
    values = torch.rand(batch, steps, views, *value_shape, dtype=torch.float64).round()
    mask = torch.rand(batch, steps, views) < 0.7
    mask[:, 1] = False
    return Views(positions, values, mask)
