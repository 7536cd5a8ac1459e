"""The speed of the recurrent cores, as ratios to the time of their matrix products alone."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from unittest.mock import patch

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from common import in_turn, save
from s2rm import S2GRU, S2RMC, RelationalMemory, RIMs
from s2rm.models.s2rm import S2RM
from s2rm.nn.over_time import map_state
from s2rm.training import keep_freed_memory

Products = list[tuple[int, int, int, int]]
"""(number, rows, inner size, columns) of the matrix products of one step"""


SMALL = (
    (60, 1, 50), (60, 32, 50), (60, 64, 50), (128, 1, 50), (128, 32, 50), (128, 64, 50), (128, 32, 20), (128, 32, 200),
)  # fmt: skip
"""hidden size, batch and steps"""


@dataclass(frozen=True)
class Benchmark:
    """The cores of the family, forward and training step."""

    batch: int = 32
    """sequences"""
    steps: int = 50
    """time steps"""
    repeats: int = 7
    """interleaved runs; the median counts"""
    threads: int | None = None
    """number of threads; all cores if not given"""
    out: Path | None = None
    """where to write the times as JSON"""
    small: bool = False
    """instead, cores of the sizes that people try first, beside an nn.LSTM of as many parameters"""
    sizes: tuple[tuple[int, int, int], ...] = SMALL
    """hidden size, batch and steps of the small cores"""
    compare: Path | None = None
    """a Python file whose `make(input_size, hidden_size)` returns a module called like nn.LSTM, batch first"""


@dataclass(frozen=True)
class Core:
    """A core to be timed: its run, the run of its reference, its parameters and its matrix products."""

    run: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    module: nn.Module
    products: Products


def plainly(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same run with all gradients computed by autograd."""

    def plain() -> Tensor:
        with ExitStack() as patches:
            for module in ("nn.over_time", "nn.rims", "nn.memory", "models.s2rm"):
                patches.enter_context(patch(f"s2rm.{module}.by_autograd", lambda device: True))
            return run()

    return plain


def s2rm_reference(model: S2RM, embedded: Tensor, encodings: Tensor, mask: Tensor) -> Tensor:
    """The loop of section 4 as written: everything at every step, attention without a fast path."""
    state = model.initial_state(len(embedded))
    states = []
    for step in range(embedded.shape[1]):
        hidden, between = model.cell.message(state), model.modules_on_sphere.between().expand(len(embedded), -1, -1)
        local = model.modules_on_sphere(embedded[:, step])
        inputs = model.input_attention(hidden, encodings[:, step], local, mask[:, step])
        state = model.cell(inputs, model.intercell_attention(hidden, hidden, between), state)
        states.append(state)
    return model.cell.message(map_state(lambda *parts: torch.stack(parts, 1), *states))


def spatial(make: Callable[..., S2RM], benchmark: Benchmark, views: int = 10) -> Core:
    """An S2RM without its codec: ten modules of 128, ten encoded views per step."""
    model = make(value_shape=(2,), num_coordinates=2, codec="mlp", shortest=24.0, longest=384.0)
    B, T, M, H, A = benchmark.batch, benchmark.steps, model.num_modules, model.hidden_size, views
    embedded = model.embedding(24 * torch.rand(B, T, A, 2))
    encodings = torch.randn(B, T, A, H)
    mask = torch.ones(B, T, A, dtype=torch.bool)
    parts = nn.ModuleList([model.input_attention, model.intercell_attention, model.cell, model.modules_on_sphere])
    products = [
        (1, B * A, H, 2 * 16 + 2 * H), (1, B * M, H, 2 * 16 + 2 * 4 * 16), (1, B * M, H, 4 * H), (3, B * M, H, 64),
        (2 * B, M, 16, A), (B, M, 2 * A, H), (B, M, A, H), (4 * B, M, 16, M), (B, M, 4 * M, H), (B, M, M, H),
    ]  # fmt: skip
    if make is S2GRU:
        products += [(2 * M, B, H, 3 * H)]
    else:
        products += [
            (2 * M, B, H, 256), (M, B * 6, 256, 4 * (64 * 3)), (2 * M, B * 6, 256, 256), (M, B, 256, 512),
            (M, B * 4, 256, 512), (M, B, 1024, H), (4 * B * M, 6, 64, 6), (4 * B * M, 6, 6, 64),
        ]  # fmt: skip
    return Core(
        lambda: model.cell.message(model.unroll(embedded, encodings, mask, model.initial_state(B))),
        plainly(lambda: s2rm_reference(model, embedded, encodings, mask)),
        parts,
        products,
    )


def sequential(core: RIMs | RelationalMemory, benchmark: Benchmark, products: Products) -> Core:
    """RIMs or a relational memory over a sequence of vectors."""
    inputs = torch.randn(benchmark.batch, benchmark.steps, core.input_size)
    return Core(lambda: core(inputs)[0], plainly(lambda: core(inputs)[0]), core, products)


def cores(benchmark: Benchmark) -> dict[str, Core]:
    """The cores of the family, at the sizes of the papers."""
    B = benchmark.batch
    rims = RIMs(512, 600, batch_first=True, num_modules=6, num_active=4)
    memory = RelationalMemory(512, 512, batch_first=True, num_heads=4)
    return {
        "S2GRU": spatial(S2GRU, benchmark),
        "S2RMC": spatial(S2RMC, benchmark),
        "RIMs": sequential(rims, benchmark, [
            (1, B, 512, 64 + 400), (6, B, 100, 64), (6, B, 400, 400), (6, B, 100, 400), (6, B, 100, 3 * 128),
            (6, B, 128, 100), (4 * B, 6, 32, 6), (4 * B, 6, 6, 32),
        ]),
        "RMC": sequential(memory, benchmark, [
            (1, B, 512, 512), (1, 2 * B, 512, 4 * 3 * 128), (2, 2 * B, 512, 512), (2, B, 512, 1024),
            (4 * B, 2, 128, 2), (4 * B, 2, 2, 128),
        ]),
    }  # fmt: skip


def floor(products: Products, steps: int, train: bool) -> Callable[[], None]:
    """The products alone, step by step; in training also those of the inputs' gradients, and each weight's in one."""
    made = []
    for count, rows, inner, columns in products:
        given, weight = torch.randn(count, rows, inner), torch.randn(count, inner, columns)
        out, back = torch.empty(count, rows, columns), torch.empty(count, rows, inner)
        # A product of two activations has a gradient at each step; a weight's is one product over all steps.
        shared = count < 64
        joined = [torch.randn(count, rows * steps, size) for size in (inner, columns)] if train and shared else None
        made.append((given, weight, out, back, torch.empty_like(weight), joined))

    def run() -> None:
        for _ in range(steps):
            for given, weight, out, *_ in made:
                torch.bmm(given, weight, out=out)
        if train:
            for _ in range(steps):
                for given, weight, out, back, gradient, joined in made:
                    torch.bmm(out, weight.mT, out=back)
                    if joined is None:
                        torch.bmm(given.mT, out, out=gradient)
            for *_, gradient, joined in made:
                if joined is not None:
                    torch.bmm(joined[0].mT, joined[1], out=gradient)

    return run


def lstm_of_equal_size(module: nn.Module, inputs: int = 512) -> nn.LSTM:
    """An LSTM with inputs of this size and as many parameters."""
    wanted = sum(parameter.numel() for parameter in module.parameters())
    size = next(size for size in range(1, 10_000) if 4 * size * (inputs + size + 2) >= wanted)
    return nn.LSTM(inputs, size, batch_first=True)


def one_pass(run: Callable[[], Tensor | None], train: bool) -> Callable[[], None]:
    """A forward pass, or forward and backward."""

    def training() -> None:
        result = run()
        if result is not None:
            result.sum().backward()

    return training if train else torch.no_grad()(run)


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest amount of memory that the tensors created in a run took at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes), default=0)


def measure(benchmark: Benchmark, core: Core, train: bool) -> dict[str, float]:
    """Seconds of the core and of its competitors, and the core's peak of memory."""
    inputs, lstm = torch.randn(benchmark.batch, benchmark.steps, 512), lstm_of_equal_size(core.module)
    runs: dict[str, Callable[[], Tensor | None]] = {
        "ours": core.run,
        "reference": core.reference,
        "lstm": lambda: lstm(inputs)[0],
        "floor": floor(core.products, benchmark.steps, train),
    }
    if benchmark.compare:
        theirs = runpy.run_path(str(benchmark.compare))["make"](512, lstm.hidden_size)
        runs["compare"] = lambda: theirs(inputs)[0]
    medians = in_turn({name: one_pass(run, train) for name, run in runs.items()}, benchmark.repeats)
    return {**medians, "peak_bytes": peak_bytes(one_pass(core.run, train))}


def small_cores(
    hidden: int, views: int = 10
) -> dict[str, tuple[nn.Module, Callable[[int, int], Callable[[], Tensor]]]]:
    """Cores with inputs of 32, and what makes a run of a batch and a number of steps."""
    modules = 6 if hidden % 6 == 0 else 4
    rims = RIMs(32, hidden, batch_first=True, num_modules=modules, num_active=modules - 2)
    memory = RelationalMemory(32, hidden, batch_first=True, num_heads=4)
    size = {"value_shape": (2,), "num_coordinates": 2, "codec": "mlp", "shortest": 24.0, "longest": 384.0}
    model = S2GRU(**size, num_modules=4, hidden_size=hidden // 4)
    parts = nn.ModuleList([model.input_attention, model.intercell_attention, model.cell, model.modules_on_sphere])

    def sequence(core: RIMs | RelationalMemory) -> Callable[[int, int], Callable[[], Tensor]]:
        def given(batch: int, steps: int) -> Callable[[], Tensor]:
            inputs = torch.randn(batch, steps, 32)
            return lambda: core(inputs)[0]

        return given

    def seen(batch: int, steps: int) -> Callable[[], Tensor]:
        embedded = model.embedding(24 * torch.rand(batch, steps, views, 2))
        encodings, mask = torch.randn(batch, steps, views, hidden // 4), torch.ones(batch, steps, views).bool()
        return lambda: model.cell.message(model.unroll(embedded, encodings, mask, model.initial_state(batch)))

    return {"RIMs": (rims, sequence(rims)), "RMC": (memory, sequence(memory)), "S2GRU": (parts, seen)}


def time_small(benchmark: Benchmark) -> None:
    """Time training steps of small cores, print, write JSON."""
    table = Table(title="training step of small cores; times as long as an nn.LSTM with as many parameters")
    for head in ("core", "hidden", "batch", "steps", "threads", "ms", "/ nn.LSTM"):
        table.add_column(head, justify="right")
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for hidden, batch, steps in benchmark.sizes:
            for name, (module, given) in small_cores(hidden).items():
                lstm, inputs = lstm_of_equal_size(module, 32), torch.randn(batch, steps, 32)
                runs = {"ours": given(batch, steps), "lstm": lambda lstm=lstm, inputs=inputs: lstm(inputs)[0]}
                times = in_turn({key: one_pass(run, True) for key, run in runs.items()}, benchmark.repeats)
                sizes = {"hidden": hidden, "batch": batch, "steps": steps, "threads": threads}
                rows.append({"core": name, **sizes, **times})
                ratio = f"{times['ours'] / times['lstm']:.1f}"
                table.add_row(name, *map(str, sizes.values()), f"{1e3 * times['ours']:.1f}", ratio)
    Console().print(table)
    save(benchmark.out, rows)


def main(benchmark: Benchmark) -> None:
    """Time everything, print ratios, write JSON."""
    torch.manual_seed(0)
    keep_freed_memory()  # as training does
    if benchmark.threads:
        torch.set_num_threads(benchmark.threads)
    if benchmark.small:
        time_small(benchmark)
        return
    compared = ["ours", "reference", "lstm", *(["compare"] if benchmark.compare else [])]
    table = Table(title=f"batch {benchmark.batch}, {benchmark.steps} steps; ratios to the floor")
    for head in ("core", "pass", "floor", *compared):
        table.add_column(head, justify="right")
    rows = []
    for name, core in cores(benchmark).items():
        for train in (False, True):
            times = measure(benchmark, core, train)
            rows.append({"core": name, "pass": "train" if train else "forward", **times})
            ratios = [f"{times[key] / times['floor']:.2f}" for key in compared]
            table.add_row(name, rows[-1]["pass"], f"{1e3 * times['floor']:.0f} ms", *ratios)
    Console().print(table)
    save(benchmark.out, rows)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
