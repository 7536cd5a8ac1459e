"""RIMs and relational memory replace an `nn.LSTM`, and relational memory equals the published one."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from s2rm import RelationalMemory, RIMs

CORES = {
    "rims": lambda *a, **k: RIMs(*a, num_modules=3, num_active=2, **k),
    "memory": lambda *a, **k: RelationalMemory(*a, num_slots=2, num_heads=3, **k),
}


@pytest.fixture(params=CORES)
def make(request):
    return CORES[request.param]


class Classifier(nn.Module):
    """A user's PyTorch model, in which only the line that creates the core changes."""

    def __init__(self, core: nn.Module, directions: int):
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(11, 5), core, nn.Linear(12 * directions, 3)

    def forward(self, tokens):
        outputs, (h, c) = self.core(self.embed(tokens))
        assert h.shape == c.shape
        return self.head(outputs[:, -1])


def test_swapping_an_lstm_is_one_line(make):
    tokens, labels = torch.randint(11, (4, 6)), torch.tensor([0, 1, 2, 0])
    shared = {"num_layers": 2, "batch_first": True, "bidirectional": True, "dropout": 0.1}
    for core in (nn.LSTM(5, 12, **shared), make(5, 12, **shared)):
        model = Classifier(core, 2)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        losses = []
        for _ in range(20):
            loss = nn.functional.cross_entropy(model(tokens), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first"),
    [(1, False, False), (1, True, True), (3, False, True), (3, True, False)],
)
def test_shapes_are_those_of_an_lstm(make, layers, bidirectional, batch_first):
    shared = {"num_layers": layers, "batch_first": batch_first, "bidirectional": bidirectional}
    lstm, core = nn.LSTM(5, 12, **shared), make(5, 12, **shared)
    inputs = torch.randn(2, 4, 5)
    (theirs, (their_h, their_c)), (ours, (h, c)) = lstm(inputs), core(inputs)
    assert ours.shape == theirs.shape
    assert h.shape == their_h.shape
    assert c.shape == their_c.shape
    again, _ = core(inputs, (h, c))
    assert not torch.allclose(again, ours)
    single, (h, c) = core(inputs[0])
    theirs, (their_h, _) = lstm(inputs[0])
    assert single.shape == theirs.shape
    assert h.shape == their_h.shape
    core(inputs[0], (h, c))
    kept, _ = core(inputs[0], hx=(h, c), mask=torch.tensor([True, False, True, True])[: len(inputs[0])])
    assert kept[1].eq(0).all()
    core.flatten_parameters()


def test_the_state_carries_a_sequence_on(make):
    core, inputs = make(5, 12, batch_first=True, num_layers=2), torch.randn(2, 7, 5)
    whole, (h, c) = core(inputs)
    first, state = core(inputs[:, :3])
    second, (later_h, later_c) = core(inputs[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close((later_h, later_c), (h, c))
    torch.testing.assert_close(h[-1], whole[:, -1])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_and_padded_sequences_equal_each_alone(make, bidirectional, enforce_sorted):
    core = make(5, 12, batch_first=True, num_layers=2, bidirectional=bidirectional).double()
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 6, 1, 4]
    sequences = [torch.randn(length, 5, dtype=torch.float64) for length in lengths]
    alone = [core(sequence[None]) for sequence in sequences]
    packed, (h, c) = core(pack_sequence(sequences, enforce_sorted=enforce_sorted))
    outputs, out_lengths = pad_packed_sequence(packed, batch_first=True)
    assert out_lengths.tolist() == lengths
    padded = torch.full((4, 6, 5), torch.nan, dtype=torch.float64)
    for b, sequence in enumerate(sequences):
        padded[b, : lengths[b]] = sequence
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    masked, (masked_h, _) = core(padded, mask=mask)
    for b, (expected, (expected_h, expected_c)) in enumerate(alone):
        torch.testing.assert_close(outputs[b, : lengths[b]], expected[0])
        torch.testing.assert_close(masked[b, : lengths[b]], expected[0])
        assert masked[b, lengths[b] :].eq(0).all()
        torch.testing.assert_close(h[:, b], expected_h[:, 0])
        torch.testing.assert_close(c[:, b], expected_c[:, 0])
        torch.testing.assert_close(masked_h[:, b], expected_h[:, 0])
    gradients = [
        torch.autograd.grad(loss, list(core.parameters()))
        for loss in (masked.square().sum(), sum(expected.square().sum() for expected, _ in alone))
    ]
    torch.testing.assert_close(*gradients)


def test_packed_outputs_keep_the_order_of_the_input(make):
    core, lengths = make(5, 12), torch.tensor([3, 5, 5])
    packed = pack_padded_sequence(torch.randn(5, 3, 5), lengths, enforce_sorted=False)
    outputs, _ = core(packed)
    for one, other in zip(outputs[1:], packed[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda core, x: core([x[0], x[1, :2]]), "got a list; sequences of unequal length need .*pack_sequence.* mask"),
        (lambda core, x: core(x[..., :3]), r"expected inputs of \(batch, time, 5\) .* got \(2, 4, 3\)"),
        (lambda core, x: core(x[:, :0]), "at least one step"),
        (lambda core, x: core(x[0, 0]), r"expected inputs of \(batch, time, 5\) .* got \(5,\)"),
        (
            lambda core, x: core(x[None, None, None]),
            r"expected inputs of .* got \(1, 1, 1, 2, 4, 5\)",
        ),
        (lambda core, x: type(core)(5, 12, dropout=1.5), "dropout must be a probability from 0 to 1, got 1.5"),
        (lambda core, x: core(x.double()), "the weights are torch.float32 on cpu, the inputs torch.float64 on cpu"),
        (
            lambda core, x: core(x, mask=torch.ones(2, 3, dtype=torch.bool)),
            r"mask must be bool .*\(2, 4\), on cpu, got",
        ),
        (
            lambda core, x: core(x, (torch.zeros(1, 3, 12),) * 2),
            r"expected a state of 2 .*got \[\(1, 3, 12\)",
        ),
        (lambda core, x: core(x, torch.zeros(1, 2, 12)), r"expected a state of 2 .* got \[\(1, 2, 12\)\]"),
        (lambda core, x: core(x, (torch.zeros(1, 2, 12, device="meta"),) * 2), "on cpu.* on meta; leave it out"),
        (lambda core, x: core(x, (torch.zeros(1, 2, 12).double(),) * 2), "torch.float32 on cpu, got .*torch.float64"),
        (lambda core, x: core(pack_sequence([x[0]]), mask=x[..., 0] > 0), "already defines which steps are present"),
    ],
)
def test_bad_calls_are_refused_in_one_line(make, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(make(5, 12, batch_first=True), torch.randn(2, 4, 5))
    assert "\n" not in str(error.value)


def plain_memory(core, inputs, memory, gate_style, forget_bias, input_bias):
    """One step of the published relational memory for one sequence, row by row and head by head."""
    cell = core.layers[0].cell
    linear = lambda x, parameters: x @ parameters[0][0] + parameters[1][0]  # noqa: E731

    def norm(x, parameters):
        spread = ((x - x.mean()) ** 2).mean()
        return (x - x.mean()) / (spread + 1e-5).sqrt() * parameters[0][0] + parameters[1][0]

    row = linear(inputs, cell.project[0])
    rows = [*memory, row]
    heads, D, V = cell.num_heads, cell.key_size, cell.head_size
    split = [norm(linear(x, cell.qkv), cell.qkv_norm).split(2 * D + V) for x in rows]
    mixed = []
    for i, x in enumerate(rows):
        parts = []
        for k in range(heads):
            query = split[i][k][:D]
            scores = torch.stack([query @ other[k][D : 2 * D] / math.sqrt(D) for other in split])
            weights = torch.exp(scores) / torch.exp(scores).sum()
            parts.append(sum(weight * other[k][2 * D :] for weight, other in zip(weights, split, strict=True)))
        attended = norm(x + torch.cat(parts), cell.attended_norm)
        hidden = linear(attended, cell.mlp[0])
        for layer in list(cell.mlp)[1:]:
            hidden = linear(hidden.clamp(min=0), layer)
        mixed.append(norm(attended + hidden, cell.mlp_norm))
    after = []
    for slot, candidate in zip(memory, mixed, strict=False):
        if gate_style is None:
            after.append(candidate)
            continue
        gates = linear(row, cell.input_gate) + linear(slot.tanh(), cell.memory_gate)
        i, f = gates.split(len(gates) // 2)
        after.append((i + input_bias).sigmoid() * candidate.tanh() + (f + forget_bias).sigmoid() * slot)
    return torch.stack(after)


@pytest.mark.parametrize("gate_style", ["unit", "memory", None])
@pytest.mark.parametrize(("slots", "layers"), [(1, 1), (3, 2)])
def test_relational_memory_is_the_published_one(gate_style, slots, layers):
    core = RelationalMemory(
        5, slots * 2 * 7, batch_first=True, num_slots=slots, num_heads=2, key_size=3, gate_style=gate_style,
        forget_bias=0.7, input_bias=-0.3, attention_layers=layers,
    ).double()  # fmt: skip
    inputs = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    outputs, (h, c) = core(inputs)
    plain = []
    for sequence in inputs:
        memory, steps = torch.eye(slots, 14, dtype=torch.float64), []
        for x in sequence:
            memory = plain_memory(core, x, memory, gate_style, 0.7, -0.3)
            steps.append(memory.flatten())
        plain.append(torch.stack(steps))
    plain = torch.stack(plain)
    torch.testing.assert_close(outputs, plain, rtol=1e-9, atol=1e-9)
    assert torch.equal(h[0], outputs[:, -1])
    assert torch.equal(c, h)
    weights, leaves = torch.randn_like(plain), [inputs, *core.parameters()]
    for ours, expected in zip(
        torch.autograd.grad((outputs * weights).sum(), leaves),
        torch.autograd.grad((plain * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_relational_memory_starts_from_the_identity():
    cell = RelationalMemory(5, 12, num_slots=3, num_heads=2).layers[0].cell
    assert torch.equal(cell.initial_state(2)[1, 0], torch.eye(3, 4))
    assert torch.equal(RelationalMemory(5, 12, num_slots=4).layers[0].cell.initial_state(1)[0, 0], torch.eye(4, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slots": 6}, "expected at most 3 slots of 2 numbers, got 6, of which some would begin and stay equal"),
        ({"num_slots": 5}, "hidden_size must be a multiple of num_slots x num_heads, 5 x 1, got 12"),
        ({"num_heads": 7}, "1 x 7, got 12"),
        ({"attention_layers": 0}, "attention_layers must be at least 1, got 0"),
        ({"gate_style": "slot"}, "gate_style must be one of .* got 'slot'"),
        ({"input_size": 0}, "input_size, hidden_size and num_layers must be at least 1"),
    ],
)
def test_impossible_memories_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RelationalMemory(**{"input_size": 5, "hidden_size": 12, **changes})
