"""What must hold on a GPU; skipped where there is none."""

import pytest
import torch

from conftest import MODELS, some_views
from s2rm import Episode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_computes_what_the_cpu_does(name):
    model, episode = MODELS[name]().double(), Episode(some_views())
    results = []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        loss = model.loss(episode.to(device))
        loss.backward()
        results.append([loss.detach().cpu(), *(parameter.grad.cpu() for parameter in model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_an_update_never_waits_for_the_gpu(name):
    model, episode = MODELS[name]().cuda(), Episode(some_views()).to("cuda", torch.float32)
    model.loss(episode).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(episode).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
