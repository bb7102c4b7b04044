"""The models among the tools of transformers: files, losses, heads, adapters, Trainer, pipeline."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from titans_genomics.data.tokenizers import Bytes
from titans_genomics.hf import (
    TitansForCausalLM,
    TitansForSequenceClassification,
    TitansModel,
    TitansPretrainedConfig,
    modeling,
)
from titans_genomics.models import Titans

CLOSE = {"atol": 5e-6, "rtol": 0}
TOKENS = torch.randint(2, 20, (3, 21), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_written_and_read_again(variant, build, tmp_path):
    model = build(variant)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is TitansForCausalLM
    assert again.config.shape == model.config.shape
    for (name, one), (other_name, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, **CLOSE)
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(bare) is TitansModel
    torch.testing.assert_close(bare(TOKENS).last_hidden_state, model.model(TOKENS).last_hidden_state, **CLOSE)


@torch.no_grad()
def test_the_logits_are_those_of_the_plain_model(variant, build):
    model = build(variant)
    plain = Titans(model.config.shape).eval()
    weights = {name.removeprefix("model.core."): w for name, w in model.state_dict().items()}
    plain.load_state_dict({name.replace("lm_head", "head"): w for name, w in weights.items()})
    torch.testing.assert_close(model(TOKENS).logits, plain(TOKENS)[0], **CLOSE)


@torch.no_grad()
def test_shards_dtype_and_device_map(build, tmp_path):
    model = build("mac")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, **CLOSE)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_bfloat16_reads_and_generates(variant, build, prompts):
    model, (tokens, mask) = build(variant).to(torch.bfloat16), prompts
    whole = model(tokens, attention_mask=mask).logits
    assert whole.dtype == torch.float32
    exact = build(variant)(tokens, attention_mask=mask).logits
    assert (whole - exact)[mask == 1].abs().mean() < 0.1 * exact[mask == 1].abs().mean()
    assert model.generate(tokens, attention_mask=mask, max_new_tokens=6).shape == (4, 29)


def test_the_config_has_the_names_of_transformers_and_all_keys_on_disk(tmp_path):
    config = TitansPretrainedConfig(variant="mag", hidden_size=24, num_attention_heads=3, n_layers=5, vocab_size=11)
    assert (config.d_model, config.n_heads, config.num_hidden_layers) == (24, 3, 5)
    assert config.max_position_embeddings > 10**9
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(type(config.shape).model_fields) < set(written)
    assert AutoConfig.from_pretrained(tmp_path).shape == config.shape
    for wrong, message in (({"variant": "rnn"}, "variant"), ({"hidden_size": 7}, "not a multiple")):
        with pytest.raises(ValueError, match=message):
            TitansPretrainedConfig(**wrong)


def test_a_new_model_is_that_of_its_modules_and_weights_that_a_file_lacks_are_made(build, tmp_path):
    config = build("lmm").config
    torch.manual_seed(5)
    expected = Titans(config.shape).state_dict()
    torch.manual_seed(5)
    model = TitansForCausalLM(config)
    for name, weight in model.model.core.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    weights = {k: w for k, w in model.state_dict().items() if "blocks.1" not in k}
    torch.manual_seed(6)
    again, report = TitansForCausalLM.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    assert {key for key in report["missing_keys"] if "blocks.1" not in key} == set()
    for name, weight in again.state_dict().items():
        if name in weights:
            assert torch.equal(weight, weights[name])
        else:
            assert weight.isfinite().all()
            usual = expected[name.removeprefix("model.core.")].std().item()
            assert weight.std().item() == pytest.approx(usual, rel=0.5, abs=1e-6)


@pytest.mark.parametrize("variant", ["lmm", "mal"])
def test_the_loss_is_that_of_the_next_token_and_leaves_padding_out(variant, build, prompts):
    model, (tokens, mask) = build(variant), prompts
    loss = model(tokens, attention_mask=mask, labels=tokens).loss
    parts = []
    for row, real in zip(tokens, mask, strict=True):
        own = row[real == 1][None]
        parts.append(F.cross_entropy(model(own).logits[0, :-1], own[0, 1:], reduction="none"))
    torch.testing.assert_close(loss, torch.cat(parts).mean())
    labels = TOKENS.clone()
    labels[:, 5:] = -100
    logits = model(TOKENS).logits
    expected = F.cross_entropy(logits[:, :4].flatten(0, 1), TOKENS[:, 1:5].flatten())
    torch.testing.assert_close(model(TOKENS, labels=labels).loss, expected)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_hidden_states_and_embeddings(variant, build, prompts, use_cache):
    model, (tokens, mask) = build(variant), prompts
    options = {"attention_mask": mask, "use_cache": use_cache}
    output = model(tokens, output_hidden_states=True, **options)
    assert [tuple(h.shape) for h in output.hidden_states] == [(4, 23, 16)] * 3
    real = mask == 1
    torch.testing.assert_close(output.hidden_states[0][real], model.get_input_embeddings()(tokens)[real], **CLOSE)
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1])[real], output.logits[real], **CLOSE)
    block = model.model.core.blocks[1]
    own = tokens[:1]
    hidden = model(own, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.model.core.norm(block(hidden[1])[0]), hidden[2], **CLOSE)
    given = model(inputs_embeds=model.get_input_embeddings()(tokens), **options)
    torch.testing.assert_close(given.logits, model(tokens, **options).logits, **CLOSE)
    kept = model(tokens, logits_to_keep=2, **options).logits
    torch.testing.assert_close(kept[0], output.logits[0, -2:], **CLOSE)
    assert isinstance(model(tokens, return_dict=False, **options), tuple)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_long_inputs_are_read_in_turn(variant, build, prompts, monkeypatch):
    model, (tokens, mask) = build(variant), prompts
    options = {"attention_mask": mask, "output_hidden_states": True}
    for use_cache in (True, False):
        whole = model(tokens, use_cache=use_cache, **options)
        with monkeypatch.context() as patch:
            patch.setattr(modeling, "LONG", 8)
            patch.setattr(modeling, "PIECE", 5)
            parts = model(tokens, use_cache=use_cache, **options)
        torch.testing.assert_close(parts.logits, whole.logits, **CLOSE)
        torch.testing.assert_close(parts.hidden_states[1], whole.hidden_states[1], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_classification_reads_the_last_token_of_each_row(variant, build, prompts, side):
    tokens, mask = prompts
    if side == "right":
        tokens, mask = (torch.stack([row.roll(int(n)) for row, n in zip(x, mask.sum(1), strict=True)]) for x in prompts)
        assert mask[1].tolist() == [1] * 18 + [0] * 5
    model = build(variant, TitansForSequenceClassification, num_labels=3)
    found = model(tokens, attention_mask=mask).logits
    for row in range(4):
        own = model(tokens[row][mask[row] == 1][None]).logits
        torch.testing.assert_close(found[row : row + 1], own, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(tokens).logits, found, **CLOSE)  # padding is known by its id
    loss = model(tokens, attention_mask=mask, labels=torch.tensor([0, 2, 1, 1])).loss
    torch.testing.assert_close(loss, F.cross_entropy(found, torch.tensor([0, 2, 1, 1])))
    with pytest.raises(ValueError, match="no token but padding"):
        model(tokens, attention_mask=mask * torch.tensor([[1], [1], [1], [0]]))


def test_a_classifier_begins_with_the_weights_of_a_language_model(build, tmp_path):
    model = build("lmm")
    model.save_pretrained(tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=4)
    for name, weight in classifier.model.state_dict().items():
        assert torch.equal(weight, model.model.state_dict()[name])
    assert classifier.score.weight.shape == (4, 16)
    assert 0 < classifier.score.weight.std() < 0.1
    regression = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert regression(TOKENS, labels=torch.rand(3)).loss.isfinite()


def test_activations_computed_again_give_the_same_gradients(build):
    model = build("mag").train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.gradient_checkpointing_enable()
    assert model.model.core.checkpoint_activations
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_low_rank_adapters(variant, build, tmp_path):
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model

    base = build(variant)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    before = base(TOKENS).logits
    settings = LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, settings)
    torch.testing.assert_close(model(input_ids=TOKENS).logits, before, **CLOSE)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimiser.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimiser.step()
    model.eval()
    trained = model(input_ids=TOKENS).logits.detach()
    assert (trained - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
        torch.testing.assert_close(again(input_ids=TOKENS).logits, trained, atol=1e-5, rtol=0)
        one_by_one = [again(input_ids=TOKENS[:1, :1], use_cache=True)]  # the kernel for one token knows no adapters
        for t in range(1, 6):
            one_by_one.append(again(input_ids=TOKENS[:1, t : t + 1], cache=one_by_one[-1].cache))
        found = torch.cat([output.logits for output in one_by_one], 1)
        torch.testing.assert_close(found, trained[:1, :6], atol=1e-4, rtol=0)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(TOKENS).logits, trained, atol=1e-4, rtol=0)


def test_trainer_takes_steps(build, tmp_path):
    model = build("lmm")
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    before = model(TOKENS, labels=TOKENS).loss.item()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=3, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, eval_strategy="steps", eval_steps=4, optim="adamw_torch",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.1
    assert trainer.predict(rows).predictions.shape == (3, 21, 20)


def test_accelerate_prepares_and_steps(build):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = build("mac").train()
    model, optimiser = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    losses = []
    for _ in range(4):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_pipeline_writes_text(build):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Bytes().definition(), pad_token="<pad>", eos_token="<eos>", padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    model = build("lmm", vocab_size=259, pad_token_id=256, bos_token_id=257, eos_token_id=258)
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    prompts = ["In the beginning God created", "And"]
    options = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    together = write(prompts, batch_size=2, **options)
    for prompt, found in zip(prompts, together, strict=True):
        (one,) = write(prompt, **options)
        assert one["generated_text"] == found[0]["generated_text"] != ""


@torch.no_grad()
def test_tables_of_tokens_can_grow(build):
    model = build("lmm")
    before = model(TOKENS).logits
    model.resize_token_embeddings(25, mean_resizing=False)
    after = model(TOKENS).logits
    assert after.shape[-1] == model.config.vocab_size == 25
    torch.testing.assert_close(after[..., :20], before, **CLOSE)
