"""The four variants, and the baselines beside them: any pieces give the whole, no output depends on a later token, rows of a batch are strangers."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from titans_genomics.models import NeuralMemory, Titans, TitansConfig, Transformer, load_state, pieces, save_state

VARIANTS = ["lmm", "mac", "mag", "mal"]
RECURRENT = ["gated_deltanet", "diagonal"]
BASELINES = ["transformer", *RECURRENT]
SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6, "persistent": 3}


def build(variant="lmm", kind=Titans, **options):
    torch.manual_seed(0)
    model = kind(TitansConfig(variant=variant, **{**SMALL, **options})).double()
    with torch.no_grad():  # away from the memory's starting point, so that forgetting and momentum matter
        for module in model.modules():
            if isinstance(module, NeuralMemory):
                module.to_gates.bias.add_(torch.randn_like(module.to_gates.bias))
                module.to_gates.weight.mul_(10)
    return model


def tokens(B=2, T=45):
    return torch.randint(0, 8, (B, T), generator=torch.Generator().manual_seed(1))


MODELS = [*((v, Titans) for v in [*VARIANTS, *BASELINES]), ("mag", Transformer)]
IDS = [*VARIANTS, *BASELINES, "beside-mag"]


@pytest.mark.parametrize(("variant", "kind"), MODELS, ids=IDS)
@pytest.mark.parametrize("training", [True, False])
def test_any_pieces_give_the_whole(variant, kind, training):
    model, x = build(variant, kind).train(training), tokens()
    whole, end = model(x)
    for cuts in ([1] * 45, [3, 5, 1, 9, 20, 7], [8] * 5 + [5], [44, 1]):
        state, parts = None, []
        for part in x.split(cuts, dim=1):
            logits, state = model(part, state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-11, rtol=0)
        after, _ = model(x[:, :10], state)
        torch.testing.assert_close(after, model(x[:, :10], end)[0], atol=1e-11, rtol=0)


@pytest.mark.parametrize(("variant", "kind"), MODELS, ids=IDS)
@pytest.mark.parametrize("training", [True, False])
def test_no_output_depends_on_a_later_token(variant, kind, training):
    model, x = build(variant, kind).train(training), tokens()
    y, _ = model(x)
    for t in (1, 4, 6, 8, 21, 44):
        changed = x.clone()
        changed[:, t] = (x[:, t] + 1) % 8
        z, _ = model(changed)
        torch.testing.assert_close(z[:, :t], y[:, :t], atol=1e-13, rtol=0)
        assert (z[:, t] - y[:, t]).abs().max() > 1e-6


@pytest.mark.parametrize("variant", [*VARIANTS, *RECURRENT])
def test_early_tokens_reach_late_outputs_through_the_memory(variant):
    """30 tokens after its window and segment are over, a token still counts: the memory is in use."""
    model, x = build(variant), tokens(1)
    changed = x.clone()
    changed[:, 2] = (x[:, 2] + 1) % 8
    difference = (model(x)[0] - model(changed)[0])[:, 40:].abs().max()
    assert difference > 1e-9


@pytest.mark.parametrize("variant", [*VARIANTS, *BASELINES])
def test_rows_of_a_batch_do_not_meet(variant):
    model, x = build(variant), tokens(3)
    together, _ = model(x)
    for row in range(3):
        torch.testing.assert_close(model(x[row : row + 1])[0], together[row : row + 1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory_layers": 1},
        {"memory_layers": 3},
        {"conv": 0},
        {"momentum": False},
        {"forgetting": False},
        {"persistent": 0},
    ],
    ids=["full", "linear", "deep", "no-conv", "no-momentum", "no-forgetting", "no-persistent"],
)
def test_every_switch_trains_and_streams(variant, options):
    """Gradients reach every parameter, and the ablated model still streams."""
    model, x = build(variant, **options).train(), tokens()
    logits, _ = model(x[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    state, parts = None, []
    for part in x.split([2, 13, 30], dim=1):
        part_logits, state = model(part, state)
        parts.append(part_logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(x)[0], atol=1e-11, rtol=0)


def test_switches_do_what_they_say():
    model = build("lmm", momentum=False, forgetting=False)
    model.train()(tokens())
    figures = model.statistics()
    assert figures["alpha/0"] == 0
    assert figures["eta/0"] == 0
    assert figures["theta/0"] > 0


def test_the_state_does_not_grow():
    for variant in [*VARIANTS, *BASELINES]:
        model = build(variant)
        state, sizes = None, []
        with torch.no_grad():
            for _ in range(6):
                _, state = model(tokens(1, 24), state)
                sizes.append(sum(leaf.numel() for _, leaf in state.leaves() if isinstance(leaf, torch.Tensor)))
        assert len(set(sizes)) == 1, variant


@pytest.mark.parametrize(("variant", "kind"), MODELS, ids=IDS)
def test_the_state_keeps_no_piece_alive(variant, kind):
    """Its tensors are no views of the activations of what was read."""
    model = build(variant, kind).float().eval()
    with torch.no_grad():
        _, state = model(tokens(T=333))
    for name, leaf in state.leaves():
        if isinstance(leaf, torch.Tensor):
            assert leaf.untyped_storage().nbytes() <= 2 * leaf.numel() * leaf.element_size() + 64, name


@pytest.mark.parametrize(("variant", "kind"), MODELS, ids=IDS)
def test_a_saved_state_goes_on_in_another_process(variant, kind, tmp_path):
    """Saved in the middle of a chunk, segment and window; read back by a fresh model; same logits to the bit."""
    model, x = build(variant, kind), tokens()
    with torch.no_grad():
        _, state = model(x[:, :21])
        wanted, _ = model(x[:, 21:], state)
        save_state(state, tmp_path / "state.safetensors")
        again = build(variant, kind)
        found, _ = again(x[:, 21:], load_state(again, tmp_path / "state.safetensors"))
    assert torch.equal(found, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_state_that_does_not_fit_is_named(tmp_path):
    model = build("mag")
    with torch.no_grad():
        save_state(model(tokens())[1], tmp_path / "state")
    with pytest.raises(FileNotFoundError, match="no such state"):
        load_state(model, tmp_path / "none")
    with pytest.raises(ValueError, match=r"another config.*only in one"):
        load_state(build("lmm"), tmp_path / "state")
    with pytest.raises(ValueError, match=r"another config: .*weights.0 is"):
        load_state(build("mag", memory_expansion=3), tmp_path / "state")
    (tmp_path / "cut").write_bytes((tmp_path / "state").read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut short"):
        load_state(model, tmp_path / "cut")


@pytest.mark.parametrize(("variant", "kind"), MODELS, ids=IDS)
def test_documents_of_different_lengths_are_read_as_if_alone(variant, kind):
    """Packed in rows with resets, and padded on the right."""
    model, x = build(variant, kind), tokens()
    starts = torch.zeros_like(x, dtype=torch.bool)
    cuts = [[0, 3, 4, 17, 45], [0, 30, 45]]
    for row, ends in enumerate(cuts):
        starts[row, ends[1:-1]] = True
    logits = model.packed(x, starts)
    for row, ends in enumerate(cuts):
        for a, b in pairwise(ends):
            alone, _ = model(x[row : row + 1, a:b])
            torch.testing.assert_close(logits[row : row + 1, a:b], alone, atol=1e-12, rtol=0)
    padded = x.clone()
    padded[0, 20:] = 5
    torch.testing.assert_close(model(padded)[0][:1, :20], model(x[:1, :20])[0], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="starts must be"):
        model.packed(x, starts[:1])


@pytest.mark.parametrize(("variant", "kind"), MODELS, ids=IDS)
def test_reading_in_checkpointed_pieces_changes_nothing(variant, kind, monkeypatch):
    """Asked for, and for inputs that are long; pieces cut chunks, segments and windows."""
    model, x = build(variant, kind).train(), tokens()
    gradients = []
    for asked, long in ((False, 1000), (True, 1000), (False, 12)):
        model.checkpoint_activations = asked
        monkeypatch.setattr(pieces, "LONG", long)
        monkeypatch.setattr(pieces, "PIECE", 11)
        model.zero_grad()
        state, loss = None, 0
        for part in x.split([20, 25], dim=1):
            logits, state = model(part, state)
            loss = loss + logits.square().mean()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, *others in zip(*gradients, strict=True):
        for other in others:
            torch.testing.assert_close(other, plain, atol=1e-12, rtol=0)


def test_transformer_has_the_size_of_titans():
    for variant in VARIANTS:
        config = TitansConfig(variant=variant)
        ratio = Transformer(config).parameter_count() / Titans(config).parameter_count()
        assert abs(ratio - 1) < 0.01, variant


def test_only_matrices_of_linear_layers_decay():
    kept = build("mac").no_decay()
    decayed = {n for n, _ in build("mac").named_parameters()} - kept
    assert all(
        name.endswith(("to_qkv.weight", "to_output.weight", "to_output_gate.weight", "to_hidden.weight", "head.weight"))
        for name in decayed
    )
    assert any("initial" in name for name in kept)
    assert any("persistent" in name for name in kept)


def test_autocast_keeps_the_state_in_float32():
    model = build("mac").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, state = model(tokens())
    assert logits.dtype == torch.float32
    memory = state.blocks[0].memory.memory
    assert {x.dtype for x in (*memory.weights, *memory.surprise)} == {torch.float32}
    wanted, _ = model(tokens())
    assert (logits - wanted).abs().max() < 0.1
    logits.sum().backward()


@pytest.mark.parametrize("variant", VARIANTS)
def test_watching_names_where_a_memory_became_nan(variant):
    model, x = build(variant), tokens()
    with torch.no_grad():
        model.blocks[1].mixer.memory.initial[0][1, 0, 0] = torch.inf
    assert not model(x)[0].isfinite().all()
    model.watch()
    with pytest.raises(ValueError, match=r"in layer 1, head 1, at token 0 of sequence 0 of this call"):
        model(x)
    model.watch(False)
    model(x)


def test_what_does_not_fit_is_named():
    model = build()
    with pytest.raises(ValueError, match="tokens must be"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="T > 0"):
        model(torch.zeros(2, 0, dtype=torch.int64))
    _, state = model(tokens(2))
    with pytest.raises(ValueError, match="batch of 2"):
        model(tokens(1), state)
    with pytest.raises(ValueError, match="another model"):
        build(n_layers=1)(tokens(2), state)
    for bad in ({"variant": "mac", "segment": 10}, {"n_heads": 3}, {"variant": "xyz"}, {"chunk": 0}, {"chunks": 3}):
        with pytest.raises(ValidationError):
            TitansConfig(**{**SMALL, **bad})


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_memories_of_every_depth_descend_steadily(layers):
    """The default largest step, keys nearly parallel as with four letters, little forgetting: bounded outputs after 4,096 tokens."""
    torch.manual_seed(0)
    memory = NeuralMemory(TitansConfig(d_model=16, n_heads=2, memory_layers=layers))
    with torch.no_grad():
        memory.to_gates.weight.zero_()
        memory.to_gates.bias.copy_(torch.tensor([-9.0, 1.0, 9.0]).repeat_interleave(2))
        x = torch.randn(1, 1, 16) + 0.1 * torch.randn(1, 4096, 16)
        y, state = memory(x, memory.begin(1))
    assert y.isfinite().all()
    assert all(w.isfinite().all() and w.norm() < 100 for w in state.memory.weights)
