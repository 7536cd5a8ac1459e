"""RIMs against the published equations in plain loops, and their own features beyond the call contract."""

import math

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from s2rm import RelationalMemory, RIMs


def softmax(scores):
    exponentials = [torch.exp(score) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def plain_rims(rims, inputs, state, selection="zero_row"):
    """One layer of RIMs, sequence by sequence, module by module and head by head. `inputs`: `(B, T, rows, size)`."""
    layer, M, S = rims.layers[0], rims.num_modules, rims.hidden_size // rims.num_modules
    lstm = len(state) == 2
    outputs, actives = [], []
    for b in range(len(inputs)):
        h = [state[0][0, b, m * S : (m + 1) * S] for m in range(M)]
        c = [state[-1][0, b, m * S : (m + 1) * S] for m in range(M)]
        steps = []
        for x in inputs[b]:
            K, D, V = layer.reading
            keys, values, query = (
                x @ layer.input_key,
                x @ layer.input_value,
                [h[m] @ layer.input_query[m] for m in range(M)],
            )
            scores = [
                [
                    [query[m][k * D : (k + 1) * D] @ row[k * D : (k + 1) * D] / math.sqrt(D) for row in keys]
                    for k in range(K)
                ]
                for m in range(M)
            ]
            read, rank = [[None] * K for _ in range(M)], []
            if selection == "zero_row":
                zero_row = []
                for m in range(M):
                    weights = [softmax([torch.zeros_like(scores[m][k][0]), *scores[m][k]]) for k in range(K)]
                    zero_row.append(float(sum(weight[0].detach() for weight in weights)) / K)
                    for k in range(K):
                        read[m][k] = weights[k][1:]
                rank = sorted(range(M), key=lambda m: zero_row[m])
            else:
                for k in range(K):
                    for row in range(len(x)):
                        for m, weight in enumerate(softmax([scores[m][k][row] for m in range(M)])):
                            read[m][k] = (read[m][k] or []) + [weight]
                interest = [float(sum(sum(read[m][k]) for k in range(K)).detach()) for m in range(M)]
                rank = sorted(range(M), key=lambda m: -interest[m])
            active = set(rank[: rims.num_active])
            for m in active:
                attended = torch.cat(
                    [
                        sum(w * value[k * V : (k + 1) * V] for w, value in zip(read[m][k], values, strict=True))
                        for k in range(K)
                    ]
                )
                cell = layer.cell
                gates_in = attended @ cell.weight_input[m] + cell.bias_input[m]
                gates_h = h[m] @ cell.weight_hidden[m] + cell.bias_hidden[m]
                if lstm:
                    i, f, g, o = (gates_in + gates_h).split(S)
                    c[m] = f.sigmoid() * c[m] + i.sigmoid() * g.tanh()
                    h[m] = o.sigmoid() * c[m].tanh()
                else:
                    (ir, iz, i_n), (hr, hz, hn) = gates_in.split(S), gates_h.split(S)
                    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
                    h[m] = (1 - z) * (i_n + r * hn).tanh() + z * h[m]
            K, D, V = layer.communication
            projected = [(h[m] @ layer.communication_in[m]).split(layer.communication.parts) for m in range(M)]
            q, k_, v = zip(*projected, strict=True)
            after = list(h)
            for m in active:
                heard = []
                for k in range(K):
                    d, e = slice(k * D, (k + 1) * D), slice(k * V, (k + 1) * V)
                    weights = softmax([q[m][d] @ k_[n][d] / math.sqrt(D) for n in range(M)])
                    heard.append(sum(w * v[n][e] for n, w in enumerate(weights)))
                after[m] = h[m] + torch.cat(heard) @ layer.communication_out[m]
            h = after
            steps.append(torch.cat(h))
            actives.append(active)
        outputs.append(torch.stack(steps))
    return torch.stack(outputs), actives


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("selection", ["zero_row", "across_modules"])
@pytest.mark.parametrize("rows", [1, 3])
def test_rims_are_the_published_equations(cell, selection, rows):
    rims = RIMs(
        7, 15, batch_first=True, num_modules=5, num_active=3, cell=cell, selection=selection, input_heads=2,
        input_key_size=3, input_value_size=4, communication_heads=2, communication_key_size=5,
        communication_value_size=2,
    ).double()  # fmt: skip
    inputs = torch.randn(2, 4, rows, 7, dtype=torch.float64, requires_grad=True)
    state = tuple(
        torch.randn(1, 2, 15, dtype=torch.float64, requires_grad=True) for _ in range(2 if cell == "lstm" else 1)
    )
    given = state if cell == "lstm" else state[0]
    outputs, _ = rims(inputs if rows > 1 else inputs.squeeze(2), given)
    plain, actives = plain_rims(rims, inputs, state, selection)
    torch.testing.assert_close(outputs, plain, rtol=1e-9, atol=1e-9)
    _, (trace,) = rims.trace(inputs if rows > 1 else inputs.squeeze(2), given)
    assert [set(row.nonzero()[:, 0].tolist()) for row in trace.active.flatten(0, 1)] == actives
    weights, leaves = torch.randn_like(plain), [inputs, *state, *rims.parameters()]
    for ours, expected in zip(
        torch.autograd.grad((outputs * weights).sum(), leaves),
        torch.autograd.grad((plain * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_inactive_modules_keep_their_state_and_pass_the_gradient():
    rims = RIMs(7, 15, batch_first=True, num_modules=5, num_active=2)
    state = tuple(torch.randn(1, 2, 15, requires_grad=True) for _ in range(2))
    inputs = torch.randn(2, 1, 7)
    outputs, (_, c) = rims(inputs, state)
    active = rims.trace(inputs, state)[1][0].active[:, 0].repeat_interleave(3, 1)
    assert active.sum(1).eq(6).all()
    assert torch.equal(outputs[:, 0][~active], state[0][0][~active])
    assert torch.equal(c[0][~active], state[1][0][~active])
    (gradient,) = torch.autograd.grad(c[0][~active].sum(), state[1])
    assert torch.equal(gradient[0], (~active).float())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("num_active", [1, 3, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_size", [8, 6])
def test_all_steps_at_once_equal_the_steps_one_by_one(cell, num_active, masked, value_size):
    torch.manual_seed(0)
    rims = RIMs(
        5, 12, batch_first=True, num_modules=4, num_active=num_active, cell=cell, communication_heads=2,
        communication_key_size=8, communication_value_size=value_size,
    ).double()  # fmt: skip
    inputs = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(1, 3, 12, dtype=torch.float64, requires_grad=True) for _ in range(1 + (cell == "lstm"))]
    mask = torch.rand(3, 7) < 0.7 if masked else None
    into = [inputs, *state, *rims.parameters()]

    def outcome():
        outputs, last = rims(inputs, state, mask)
        results = [outputs, *(last if isinstance(last, tuple) else [last])]
        total = sum((part * torch.arange(part.numel()).view_as(part).cos()).sum() for part in results)
        return [*results, *torch.autograd.grad(total, into)]

    at_once = outcome()
    for name, node in (("_LoopBackward", True), ("StackBackward0", False)):
        graph, seen = [rims(inputs, state, mask)[0].grad_fn], set()
        while graph:
            seen.add(graph[-1].name())
            graph += [function for function, _ in graph.pop().next_functions if function is not None]
        assert (name in seen) == node
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2rm.nn.rims.by_autograd", lambda device: True)
        torch.testing.assert_close(at_once, outcome(), rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(rims(inputs, state, mask)[0], at_once[0])


@pytest.mark.parametrize("frozen", ["inputs", "weights"])
def test_all_steps_at_once_need_not_learn_all(frozen):
    rims, inputs = RIMs(5, 12, batch_first=True, num_modules=4, num_active=3), torch.randn(2, 6, 5)
    if frozen == "weights":
        rims.requires_grad_(False)
        inputs.requires_grad_()
    rims(inputs)[0].square().sum().backward()
    learned = [inputs] if frozen == "weights" else [*rims.parameters()]
    assert all(part.grad is not None and part.grad.isfinite().all() for part in learned)


def test_a_trace_records_every_module_of_every_layer():
    rims = RIMs(7, 12, num_layers=2, bidirectional=True, num_modules=4, num_active=3)
    inputs = torch.randn(5, 2, 7)
    outputs, traces = rims.trace(inputs)
    torch.testing.assert_close(outputs, rims(inputs)[0])
    with pytest.MonkeyPatch.context() as patch:  # one step after the other, as a trace goes
        patch.setattr("s2rm.nn.rims.by_autograd", lambda device: True)
        assert torch.equal(outputs, rims(inputs)[0])
    assert len(traces) == 4
    for trace in traces:
        assert trace.active.shape == (2, 5, 4)
        assert trace.active.sum(-1).eq(3).all()
        assert trace.input_weights.shape == (2, 5, 1, 4, 2)
        assert trace.communication_weights.shape == (2, 5, 4, 4, 4)
        for weights in (trace.input_weights, trace.communication_weights):
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    # The backward direction of the first layer is a forward one over the reversed input.
    alone = RIMs(7, 12, num_modules=4, num_active=3)
    alone.layers[0].load_state_dict(rims.layers[1].state_dict())
    _, (turned,) = alone.trace(inputs.flip(0))
    assert torch.equal(turned.active.flip(1), traces[1].active)


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_module_is_active_at_a_step_that_is_not_there(batch_first):
    rims = RIMs(7, 12, bidirectional=True, batch_first=batch_first, num_modules=4, num_active=3)
    inputs, lengths = torch.randn(3, 5, 7), torch.tensor([2, 5, 3])
    there = torch.arange(5) < lengths[:, None]
    given = (inputs, there) if batch_first else (inputs.transpose(0, 1), there.T)
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    for traces in (rims.trace(given[0], mask=given[1])[1], rims.trace(packed)[1]):
        for trace in traces:
            assert torch.equal(trace.active.sum(-1), 3 * there)
    (trace, _) = rims.trace(inputs[0], mask=there[0])[1]
    assert trace.active.sum(-1).tolist() == [[3, 3, 0, 0, 0]]


def test_a_masked_module_is_never_active_and_never_read():
    rims = RIMs(7, 12, batch_first=True, num_modules=4, num_active=4)
    outputs, (trace,) = rims.trace(torch.randn(2, 5, 7), masked_modules=(1,))
    assert not trace.active[..., 1].any()
    assert trace.active[..., [0, 2, 3]].all()
    assert outputs[..., 3:6].eq(0).all()
    assert trace.communication_weights[..., 1].eq(0).all()


def test_attention_dropout_is_for_training_only():
    rims = RIMs(7, 12, batch_first=True, attention_dropout=0.5)
    inputs = torch.randn(2, 5, 7)
    assert not torch.equal(rims(inputs)[0], rims(inputs)[0])
    rims.eval()
    assert torch.equal(rims(inputs)[0], rims(inputs)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_active": 7}, "num_active must be in 1 to num_modules, 6, got 7"),
        ({"num_active": 0}, "num_active must be in 1 to num_modules, 6, got 0"),
        ({"hidden_size": 20}, "hidden_size must be a multiple of num_modules, 6, got 20; take 18"),
        ({"cell": "rnn"}, 'cell must be "lstm" or "gru", got \'rnn\''),
        ({"selection": "zero"}, 'selection must be "zero_row" or "across_modules", got \'zero\''),
        ({"num_layers": 0}, "num_layers must be at least 1, got 5, 18 and 0"),
    ],
)
def test_impossible_rims_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RIMs(**{"input_size": 5, "hidden_size": 18, **changes})


def test_without_heads_no_module_reads_from_another():
    """Outputs, gradients and traces are those of RIMs whose messages are zeros."""
    sizes = {"batch_first": True, "num_modules": 4, "num_active": 3}
    alone, silent = (RIMs(5, 12, communication_heads=heads, **sizes).double() for heads in (0, 2))
    silent.load_state_dict({**silent.state_dict(), **{
        name: weight for name, weight in alone.state_dict().items() if "communication" not in name
    }})  # fmt: skip
    with torch.no_grad():
        silent.layers[0].communication_out.zero_()
    inputs, found = torch.randn(2, 7, 5).double(), []
    for rims in (alone, silent):
        outputs, state = rims(inputs)
        outputs.square().sum().backward()
        layer = rims.layers[0]
        found.append([outputs, *state, layer.cell.weight_hidden.grad, layer.input_query.grad, layer.input_value.grad])
    torch.testing.assert_close(*found)
    assert torch.equal(alone.trace(inputs)[1][0].active, silent.trace(inputs)[1][0].active)


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_heads": 0},
        {"input_value_size": 0},
        {"input_key_size": -1},
        {"communication_heads": -1},
        {"communication_key_size": 0},
        {"communication_value_size": 0},
    ],
)
def test_heads_of_no_size_are_refused(wrong):
    with pytest.raises(ValueError, match="RIMs: heads and their key and value sizes must be at least 1"):
        RIMs(3, 12, **wrong)


@pytest.mark.parametrize("size", [0, -1])
def test_a_memory_with_keys_of_no_size_is_refused(size):
    with pytest.raises(ValueError, match="RelationalMemory: key_size must be at least 1"):
        RelationalMemory(3, 12, key_size=size)
