"""lm-eval: likelihoods and answers are those of reading each text alone from its beginning, whatever stands beside it."""

import importlib
import json
import math
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_settings

from titans_genomics.config import LmEvalConfig, TitansConfig, TokenizerConfig, parse_config
from titans_genomics.data.pieces import learn_bpe
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.data.tokenizers import make_tokenizer
from titans_genomics.models import Titans
from titans_genomics.models.titans import MIXERS
from titans_genomics.progress import Progress
from titans_genomics.tasks import lm_eval as task
from titans_genomics.tasks import lm_eval_read
from titans_genomics.tasks.lm_eval_generate import Ways, choose, generate, ways
from titans_genomics.tasks.lm_eval_model import TitansLM
from titans_genomics.tasks.lm_eval_read import score
from titans_genomics.training.export import save_model

SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6, "memory_expansion": 1.0}
NINE = ("wikitext", "lambada", "piqa", "hellaswag", "winogrande", "arc", "siqa", "super_glue")
WORDS = "In the beginning God created the heaven and the earth. And the earth was without form, and void; "


def model_of(vocab_size=259, variant="lmm"):
    torch.manual_seed(0)
    model = Titans(TitansConfig(variant=variant, vocab_size=vocab_size, **SHAPE)).eval()
    with torch.no_grad():
        model.head.weight.mul_(30)  # a fresh model is nearly uniform: make it say something
    return model


def naive(model, context, continuation):
    """One whole sequence, plain softmax in float64: log-likelihood, and whether all tokens are the likeliest."""
    tokens = torch.tensor([[*context, *continuation]], dtype=torch.int64)
    with torch.no_grad():
        logits = model(tokens)[0][0].double().log_softmax(-1)
    places = range(len(context) - 1, tokens.shape[1] - 1)
    total = sum(float(logits[i, tokens[0, i + 1]]) for i in places)
    return total, all(int(logits[i].argmax()) == int(tokens[0, i + 1]) for i in places)


def naive_text(model, prompt, until, limit):
    """Greedy, everything read again for each token; as bytes."""
    tokens, made = list(prompt), b""
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(torch.tensor([tokens]))[0][0, -1].argmax())
        tokens.append(token)
        made += bytes([token]) if token < 256 else b""
        if token == 258:
            break
        if any(stop in made for stop in until):
            return min((made.split(stop)[0] for stop in until), key=len)
    return made


def likeliest(model, context, count):
    """What greedy decoding goes on with, as tokens."""
    tokens = list(context)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    return tokens[len(context) :]


def byte_lm(model=None, **changes):
    return TitansLM(model or model_of(), make_tokenizer(TokenizerConfig(kind="byte")), **changes)


def requests_of(*arguments):
    return [SimpleNamespace(args=args, task_name="asked") for args in arguments]


def choices(rng, contexts, most):
    """Questions of several continuations each, some of one token, some alike, some empty."""
    pairs = []
    for length in contexts:
        context = rng.integers(0, 256, length)
        for _ in range(int(rng.integers(1, most))):
            pairs.append((context, rng.integers(0, 256, int(rng.integers(0, 12)))))
        pairs.append((context, np.array([7])))
        pairs.append((context, np.array([8])))
    return pairs


@pytest.mark.parametrize("variant", sorted(MIXERS))
def test_continuations_have_the_likelihood_of_reading_each_alone(variant):
    model, rng = model_of(variant=variant), np.random.default_rng(1)
    pairs = choices(rng, [1, 3, 30, 31, 31, 33, 50, 70], 8)
    pairs.append((pairs[-1][0], np.array(likeliest(model, pairs[-1][0], 3))))
    expected = [naive(model, *pair) for pair in pairs]
    found = score(model, pairs, piece=9, batch_tokens=100)
    np.testing.assert_allclose(found.log_likelihood, [total for total, _ in expected], atol=1e-4)
    assert found.greedy.tolist() == [greedy for _, greedy in expected]
    assert found.greedy[-1]
    assert not found.greedy.all()
    assert found.not_finite == 0


@pytest.mark.parametrize("share", [True, False], ids=["shared", "alone"])
def test_contexts_are_shared_or_not_with_the_same_result(share, monkeypatch):
    model, rng, read = model_of(), np.random.default_rng(2), []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda tokens, state: (read.append(tokens.numel()), embed(tokens, state))[1])
    context = rng.integers(0, 256, 200)
    pairs = [(context, rng.integers(0, 256, 6)) for _ in range(40)]
    found = score(model, pairs, share=share)
    np.testing.assert_allclose(found.log_likelihood, [naive(model, *pair)[0] for pair in pairs], atol=1e-4)
    assert sum(read[: -len(pairs)]) == (199 + 40 * 6 if share else 40 * 205)  # the last readings are the oracle's


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_order_company_pieces_and_batches_change_nothing(data):
    model = model_of()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    pairs = choices(rng, data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=5)), 6)
    whole = score(model, pairs)
    order = rng.permutation(len(pairs))
    other = score(
        model,
        [pairs[i] for i in order],
        piece=data.draw(st.integers(1, 80)),
        batch_tokens=data.draw(st.integers(1, 300)),
        share=data.draw(st.booleans()),
    )
    np.testing.assert_allclose(other.log_likelihood, whole.log_likelihood[order], atol=1e-4)


def test_empty_continuations_are_certain_and_empty_contexts_an_error():
    found = score(model_of(), [(np.array([5]), np.zeros(0, np.int64))])
    assert (found.log_likelihood.tolist(), found.greedy.tolist()) == ([0.0], [True])
    with pytest.raises(ValueError, match="request 0: the context has no token"):
        score(model_of(), [(np.zeros(0, np.int64), np.array([5]))])


def test_tokens_without_numbers_count_as_any_token_and_are_counted():
    model = model_of()
    with torch.no_grad():
        model.head.weight[3] = math.nan
    found = score(model, [(np.array([5, 6]), np.array([1, 2])), (np.array([9]), np.array([0]))])
    np.testing.assert_allclose(found.log_likelihood, [2 * math.log(1 / 259), math.log(1 / 259)], rtol=1e-6)
    assert not found.greedy.any()
    assert found.not_finite == 3


@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_documents_are_read_at_one_stretch_however_long_the_piece(variant):
    """The memory is carried through pieces: a document longer than a piece has the likelihood of one pass."""
    model = model_of(variant=variant)
    texts = [WORDS * 4, "", "a", "Grüße, 世界 🧬", WORDS]
    expected = [naive(model, [258], text.encode())[0] for text in texts]
    for piece in (16, 50, 4096):
        found = byte_lm(model, piece=piece, batch_tokens=300).loglikelihood_rolling(requests_of(*((t,) for t in texts)))
        np.testing.assert_allclose(found, expected, atol=1e-4 * len(WORDS) / 25)
    anew = sum(naive(model, [258], WORDS.encode())[0] for _ in range(4))
    assert abs(anew - expected[0]) > 1e-2  # windows with an empty memory would have been seen


def test_progress_counts_every_request_once():
    model, rng = model_of(), np.random.default_rng(6)
    pairs = choices(rng, [1, 30, 70, 200], 6)
    with Progress(len(pairs), "requests", "reading", interval=1e9) as progress:
        score(model, pairs, piece=16, batch_tokens=64, progress=progress)
    assert progress.done == pytest.approx(len(pairs))
    tokenizer = make_tokenizer(TokenizerConfig(kind="byte"))
    with Progress(3, "answers", "going on", interval=1e9) as progress:
        generate(model, tokenizer, [np.arange(5)] * 3, [Ways((), n) for n in (0, 2, 5)], progress=progress)
    assert progress.done == 3


def test_the_state_is_let_go_row_by_row(monkeypatch):
    """Rows that have ended are read no further."""
    model, shapes = model_of(), []
    embed = model.embed
    monkeypatch.setattr(
        model, "embed", lambda tokens, state: (shapes.append(tuple(tokens.shape)), embed(tokens, state))[1]
    )
    rng = np.random.default_rng(3)
    score(model, [(np.array([258]), rng.integers(0, 256, length)) for length in (95, 30, 10)], piece=32)
    assert shapes == [(3, 32), (1, 32), (1, 31)]


# ------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("variant", sorted(MIXERS))
def test_answers_are_those_of_reading_everything_again(variant):
    model, rng = model_of(variant=variant), np.random.default_rng(4)
    prompts = [rng.integers(0, 256, length) for length in (30, 1, 33, 12, 90, 31)]
    stops = [naive_text(model, prompts[0], (), 12)[4:6], b"\x01\x02\x03"]
    how = [Ways(tuple(stops), 12), Ways((), 5), Ways((), 0), Ways((stops[0],), 9), Ways((), 9), Ways((), 12)]
    expected = [naive_text(model, prompt, way.until, way.limit) for prompt, way in zip(prompts, how, strict=True)]
    tokenizer = make_tokenizer(TokenizerConfig(kind="byte"))
    assert generate(model, tokenizer, prompts, how, piece=7, batch_tokens=100) == expected
    assert generate(model, tokenizer, prompts, how) == expected
    assert expected[2] == b""
    assert len(expected[0]) < 5


def test_the_end_of_text_ends_an_answer():
    model = model_of()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[258] = model.embed(torch.tensor([[1, 2, 3]]))[0][0, -1]
    assert byte_lm(model).generate_until(requests_of(("\x01\x02\x03", {"until": [], "max_gen_toks": 9}))) == [""]


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_company():
    model, tokenizer = model_of(), make_tokenizer(TokenizerConfig(kind="byte"))
    prompts = [np.arange(length) for length in (20, 20, 24, 70)]
    how = [Ways((), 10, temperature=1.0)] * 4
    together = generate(model, tokenizer, prompts, how, seed=1)
    assert generate(model, tokenizer, prompts, how, seed=1, piece=5, batch_tokens=20) == together
    assert together[0] != together[1]
    assert generate(model, tokenizer, prompts, how, seed=2) != together
    greedy = generate(model, tokenizer, prompts, [Ways((), 10)] * 4)
    assert generate(model, tokenizer, prompts, [Ways((), 10, temperature=1.0, top_k=1)] * 4) == greedy


@pytest.mark.parametrize(
    ("way", "shares"),
    [
        (Ways(temperature=1.0), [0.5, 0.3, 0.2]),
        (Ways(temperature=0.5), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]),
        (Ways(temperature=1.0, top_k=2), [0.625, 0.375, 0]),
        (Ways(temperature=1.0, top_p=0.79), [0.625, 0.375, 0]),
        (Ways(temperature=1.0, top_p=0.4), [1, 0, 0]),
        (Ways(), [1, 0, 0]),
    ],
    ids=["all", "cooler", "top-k", "top-p", "top-p of one", "greedy"],
)
def test_tokens_are_drawn_in_their_proportions(way, shares):
    count = 4000
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(count, 3)
    picked = choose(logits, [way] * count, [np.random.default_rng(i) for i in range(count)])
    np.testing.assert_allclose(np.bincount(picked, minlength=3) / count, shares, atol=0.03)


def test_generation_settings_of_tasks_are_understood():
    assert ways({"until": "\n\n"}) == Ways((b"\n\n",), 256)
    assert ways({"until": ["é", ""], "max_new_tokens": 7, "do_sample": False, "temperature": 0.7}) == Ways(
        ("é".encode(),), 7
    )
    assert ways({"do_sample": True, "top_p": 0.9, "num_beams": 1}) == Ways(temperature=1.0, top_p=0.9)
    assert ways({"temperature": 0.5, "max_gen_toks": 3, "until": None}) == Ways((), 3, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 4}, "num_beams above 1"),
        ({"repetition_penalty": 1.2}, "'repetition_penalty' is not supported; known are until"),
        ({"max_gen_toks": -1}, "max_gen_toks -1"),
        ({"top_p": 0}, "top_p 0.0 must be above 0"),
    ],
)
def test_generation_settings_that_are_not_supported(given, message):
    with pytest.raises(ValueError, match=rf"lm_eval\.tasks: asked: .*{message}"):
        byte_lm().generate_until(requests_of(("a", given)))


# -------------------------------------------------------------------------------------- text, tokens


@pytest.fixture(scope="module")
def bpe():
    codes = np.frombuffer((WORDS * 30).encode(), np.uint8)
    return learn_bpe([codes], TokenizerConfig(kind="bpe", vocab_size=320), text=True)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_exactly_the_continuation_is_scored(bpe, context, continuation):
    lm = TitansLM(model_of(bpe.vocab_size), bpe)
    before, after = lm.pair(context, continuation)
    if context.rstrip():
        assert bpe.decode(before).tobytes() == context.rstrip().encode()
    else:
        assert before.tolist() == [bpe.eos]
    assert bpe.decode(after).tobytes() == (context[len(context.rstrip()) :] + continuation).encode()
    whole = lm.encode(context + continuation).tolist()
    if not context.rstrip() or whole[: len(before)] == before.tolist():
        assert [*before, *after][
            len(before) * (not context.rstrip()) :
        ] == whole  # as the harness splits them, where that can be


def test_a_token_over_the_border_is_not_lost(bpe):
    lm = TitansLM(model_of(bpe.vocab_size), bpe)
    assert len(lm.encode(" the")) == 1
    before, after = lm.pair("and th", "e earth")
    assert (lm.tok_decode(before), lm.tok_decode(after)) == ("and th", "e earth")


@pytest.mark.parametrize(
    "text", ["Grüße 世界", "🧬", "a\r\n\x00", "half \ud83d of a pair", "<eos> spells no token"], ids=repr
)
def test_any_text_is_encoded(bpe, text):
    for lm in (byte_lm(), TitansLM(model_of(bpe.vocab_size), bpe)):
        tokens = lm.tok_encode(text)
        assert lm.eot_token_id not in tokens
        assert lm.tok_decode([*tokens, lm.eot_token_id]) == text.encode("utf-8", "surrogatepass").decode(
            "utf-8", "replace"
        )


def test_likelihoods_of_text():
    model = model_of()
    pairs = [("The earth was ", "void"), ("", "void"), ("  ", "void"), ("void", ""), ("", ""), ("Grüße", " 世界 🧬")]
    found = byte_lm(model).loglikelihood(requests_of(*pairs))
    expected = [
        naive(model, b"The earth was", b" void"),
        naive(model, [258], b"void"),
        naive(model, [258], b"  void"),
        (0.0, True),
        (0.0, True),
        naive(model, "Grüße".encode(), " 世界 🧬".encode()),
    ]
    np.testing.assert_allclose([value for value, _ in found], [value for value, _ in expected], atol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_tokens_of_bases_are_refused():
    with pytest.raises(ValueError, match="lm-eval asks in text, and the tokens of this model are nucleotide"):
        TitansLM(model_of(8), make_tokenizer(TokenizerConfig()))


# ---------------------------------------------------------------------------------- the harness itself


DOCUMENTS = [WORDS * 3, "Grüße, 世界 🧬\n", "And God said, Let there be light"]
QUESTIONS = [
    {
        "question": f"{WORDS}Verse {i}: And God called the light",
        "choices": [" Day", " Night", " a", " été"],
        "gold": i % 4,
    }
    for i in range(6)
]
PROMPTS = [{"prompt": text, "answer": "light"} for text in ("And God said", "Grüße", "a")]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with a task of each request type, and their data."""
    folder = tmp_path_factory.mktemp("tasks")

    def write(name, rows, **keys):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}
        content = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **keys}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def mean(*names):
        return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]

    write(
        "own_choice", QUESTIONS, output_type="multiple_choice", doc_to_text="{{question}}", doc_to_choice="{{choices}}",
        doc_to_target="gold", target_delimiter="", metric_list=mean("acc", "acc_norm"),
    )  # fmt: skip
    write(
        "own_text", [{"page": text} for text in DOCUMENTS], output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{page}}", should_decontaminate=False,
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )  # fmt: skip
    write(
        "own_answer", PROMPTS, output_type="generate_until", doc_to_text="{{prompt}}", doc_to_target="{{answer}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 8, "do_sample": False}, metric_list=mean("exact_match"),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, tasks):
    """Config, store and two models of a run on text; untrained, for the harness does not mind."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "book.txt").write_text(WORDS * 300)
    config = small_settings(folder, reverse_complement=0)
    config["data"] = {
        "sources": [{"path": str(folder / "book.txt"), "name": "book", "kind": "text"}],
        "tokenizer": {"kind": "byte"},
        "split": {"block": 1000, "validation": 0.1, "test": 0.1},
    }
    config["model"] = dict(SHAPE)
    config["compare"] = {"mac": {"variant": "mac", "ff_expansion": 1.0}}
    config["lm_eval"] = {"tasks": ["own_choice", "own_text", "own_answer"], "include": str(tasks), "piece": 64}
    config = parse_config(config, "text")
    tokenize(config, folder / "tokens")
    store, models = TokenStore(folder / "tokens"), {}
    for name in ("titans", "mac"):
        model = model_of(variant="mac" if name == "mac" else "lmm")
        if name == "mac":
            torch.manual_seed(1)
            model = Titans(TitansConfig(variant="mac", vocab_size=259, **{**SHAPE, "ff_expansion": 1.0})).eval()
        (folder / name).mkdir()
        save_model(folder / name, name, model.config, model, store, 0)
        models[name] = folder / name
    return config, folder / "tokens", models


@pytest.fixture(scope="module", autouse=True)
def unasked():
    """The harness describes the machine at length, in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
        yield


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """What the harness says of both models."""
    out = tmp_path_factory.mktemp("out") / "lm_eval.json"
    result = task.lm_eval(*run, out)
    assert json.loads(out.read_text()) == result
    return result


def reread(folder):
    from titans_genomics.training import load_model

    return load_model(folder)


def test_a_model_is_loaded_from_its_folders(run):
    _, store, models = run
    lm = TitansLM.load(models["mac"], store / "tokenizer.json", piece=10)
    expected = byte_lm(reread(models["mac"])).loglikelihood_rolling(requests_of((WORDS,)))
    assert lm.loglikelihood_rolling(requests_of((WORDS,))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["titans", "mac"])
def test_rolling_perplexity_through_the_harness_is_that_of_brute_force(run, evaluated, name):
    model = reread(run[2][name])
    nats = -sum(naive(model, [258], text.encode())[0] for text in DOCUMENTS)
    size = sum(len(text.encode()) for text in DOCUMENTS)
    words = sum(
        len(re.split(r"\s+", text)) for text in DOCUMENTS
    )  # as the harness counts: nothing behind the last space too
    found = evaluated["models"][name]["own_text"]
    assert found["bits_per_byte"]["value"] == pytest.approx(nats / size / math.log(2), abs=1e-4)
    assert found["byte_perplexity"]["value"] == pytest.approx(math.exp(nats / size), rel=1e-4)
    assert math.log(found["word_perplexity"]["value"]) == pytest.approx(nats / words, abs=1e-3)


@pytest.mark.parametrize("name", ["titans", "mac"])
def test_choices_through_the_harness_are_those_of_brute_force(run, evaluated, name):
    model = reread(run[2][name])
    right, normed = [], []
    for row in QUESTIONS:
        own = np.array([naive(model, row["question"].encode(), c.encode())[0] for c in row["choices"]])
        right.append(own.argmax() == row["gold"])
        normed.append((own / [len(c) for c in row["choices"]]).argmax() == row["gold"])
    found = evaluated["models"][name]["own_choice"]
    assert found["acc"]["value"] == pytest.approx(np.mean(right))
    assert found["acc_norm"]["value"] == pytest.approx(np.mean(normed))
    assert found["acc"]["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))


def test_the_json_says_what_was_run(evaluated):
    assert (evaluated["package"], evaluated["limit"], evaluated["fewshot"]) == ("lm_eval", None, None)
    assert evaluated["tasks"] == ["own_choice", "own_text", "own_answer"]
    assert {task: row["documents"] for task, row in evaluated["details"].items()} == {
        "own_choice": 6,
        "own_text": 3,
        "own_answer": 3,
    }
    assert evaluated["not_finite"] == {"titans": 0, "mac": 0}
    assert evaluated["models"]["titans"]["own_answer"]["exact_match"]["value"] in (0, 1 / 3, 2 / 3, 1)


def test_requests_through_the_harness_have_the_likelihoods_of_brute_force(run, tasks):
    """Log-likelihoods and answers themselves, not only what metrics make of them."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = reread(run[2]["titans"])
    with task.quiet_logs():
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        names = ["own_choice", "own_text", "own_answer"]
        found = simple_evaluate(byte_lm(model, batch_tokens=700), tasks=names, task_manager=manager, bootstrap_iters=0)
    for sample in found["samples"]["own_choice"]:
        for (context, continuation), ((value, greedy),) in zip(sample["arguments"], sample["resps"], strict=True):
            expected = naive(model, context.encode(), continuation.encode())
            assert (value, greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1])
    for sample, text in zip(found["samples"]["own_text"], DOCUMENTS, strict=True):
        assert sample["resps"][0][0] == pytest.approx(naive(model, [258], text.encode())[0], abs=1e-3)
    for sample, row in zip(found["samples"]["own_answer"], PROMPTS, strict=True):
        expected = naive_text(model, row["prompt"].encode(), (b"\n",), 8).decode("utf-8", "replace")
        assert sample["resps"][0][0] == expected


def test_nothing_but_progress_is_shown(run, tmp_path, capfd, monkeypatch):
    config, store, models = run
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)  # no repository of git
    asked = config.lm_eval.model_copy(update={"tasks": ("own_text",), "limit": 2})
    result = task.lm_eval(
        config.model_copy(update={"lm_eval": asked}), store, {"titans": models["titans"]}, tmp_path / "x.json"
    )
    assert result["details"]["own_text"]["documents"] == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert [
        line for line in shown.err.splitlines() if not line.startswith(("lm-eval: loading: ", "lm-eval, titans: "))
    ] == []
    assert "2 documents" in shown.err


def test_what_was_measured_is_not_measured_again(run, tmp_path, monkeypatch):
    """Models of a run that was killed, and of one that is whole; other settings or weights make it anew."""
    import lm_eval

    config, store, models = run
    config = config.model_copy(update={"lm_eval": config.lm_eval.model_copy(update={"tasks": ("own_text",)})})
    models = {name: shutil.copytree(folder, tmp_path / name) for name, folder in models.items()}
    out, part, measured, evaluate = tmp_path / "lm.json", tmp_path / "lm.part.json", [], lm_eval.simple_evaluate

    def counted(model, **options):
        if len(measured) == 1 and model.name == "mac":
            measured.append("killed")
            raise KeyboardInterrupt
        measured.append(model.name)
        return evaluate(model, **options)

    monkeypatch.setattr(lm_eval, "simple_evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        task.lm_eval(config, store, models, out)
    assert not out.exists()
    assert list(json.loads(part.read_text())["models"]) == ["titans"]
    result = task.lm_eval(config, store, models, out)
    assert measured == ["titans", "killed", "mac"]
    assert not part.exists()
    assert json.loads(out.read_text()) == result
    assert [list(result[key]) for key in ("models", "weights", "not_finite")] == [["titans", "mac"]] * 3
    assert task.lm_eval(config, store, models, out) == result
    assert len(measured) == 3
    model = model_of()
    with torch.no_grad():
        model.head.weight.mul_(0.5)
    save_model(models["titans"], "titans", model.config, model, TokenStore(store), 1)
    other = task.lm_eval(config, store, models, out)
    assert measured[3:] == ["titans"]
    assert other["models"]["mac"] == result["models"]["mac"]
    assert other["models"]["titans"] != result["models"]["titans"]
    fewer = config.model_copy(update={"lm_eval": config.lm_eval.model_copy(update={"limit": 1})})
    assert task.lm_eval(fewer, store, models, out)["details"]["own_text"]["documents"] == 1
    assert measured[4:] == ["titans", "mac"]


def test_the_nine_tasks_of_the_paper_are_in_the_harness():
    from lm_eval import tasks
    from lm_eval.tasks import TaskManager

    folder = tasks.__path__[0]
    with task.quiet_logs():
        manager = TaskManager(include_path=[f"{folder}/{name}" for name in NINE], include_defaults=False)
    names = ["wikitext", "lambada_openai", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "social_iqa"]
    names += ["boolq"]
    assert [name for name in names if name not in manager.all_tasks] == []


# ------------------------------------------------------------------------------------------ bad input


@pytest.fixture
def only_include(monkeypatch):
    """The harness's own thousands of tasks are not read."""
    from lm_eval import tasks

    class Fewer(tasks.TaskManager):
        def __init__(self, include_path=None, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(tasks, "TaskManager", Fewer)


def test_a_task_that_does_not_exist_names_those_near(tasks, only_include):
    with pytest.raises(ValueError, match=r"no task 'own_chioce'; near it are own_choice"):
        task.find_tasks(LmEvalConfig(tasks=("own_text", "own_chioce"), include=tasks))
    with pytest.raises(ValueError, match="no task 'zzzzzz'; `lm-eval ls tasks` lists all"):
        task.find_tasks(LmEvalConfig(tasks=("zzzzzz",), include=tasks))


def test_patterns_stand_for_the_tasks_that_they_match(tasks, only_include):
    found = task.find_tasks(LmEvalConfig(tasks=("own_t*", "own_*"), include=tasks))[1]
    assert found == ["own_text", "own_answer", "own_choice"]


def test_a_task_file_that_cannot_be_read_is_named(tmp_path, only_include):
    (tmp_path / "mine.yaml").write_text("task: mine\n  bad: [\n")
    with pytest.raises(ValueError, match=r"no task 'mine'.*mine\.yaml cannot be read"):
        task.find_tasks(LmEvalConfig(tasks=("mine",), include=tmp_path))


def test_include_must_be_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lm_eval\.include: .*absent is no folder"):
        task.find_tasks(LmEvalConfig(tasks=("mine",), include=tmp_path / "absent"))


def test_without_a_network_the_message_says_what_to_do(tasks, monkeypatch):
    import datasets
    from lm_eval.tasks import TaskManager

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'baber/piqa' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    with pytest.raises(ValueError, match=r"data of own_text .*baber/piqa.*HF_DATASETS_OFFLINE=1.*lm_eval\.include"):
        task.load_task(manager, "own_text")


def test_a_task_that_cannot_be_set_up(tasks, tmp_path):
    from lm_eval.tasks import TaskManager

    content = yaml.safe_load((tasks / "own_text.yaml").read_text()) | {"task": "odd", "output_type": "divination"}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"lm_eval\.tasks: odd cannot be set up"):
        task.load_task(TaskManager(include_path=str(tmp_path), include_defaults=False), "odd")


def test_a_connection_that_fails_is_known_by_its_class(tasks, monkeypatch):
    import datasets
    from huggingface_hub.errors import HTTPError
    from lm_eval.tasks import TaskManager

    def unreachable(*args, **kwargs):
        raise HTTPError("no route to the host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"data of own_text could not be had \(no route.*HF_DATASETS_OFFLINE=1"):
        task.load_task(TaskManager(include_path=str(tasks), include_defaults=False), "own_text")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (None, {}, r"FileNotFoundError: Unable to find .*odd\.jsonl"),
        ('{"page": "a"}\nno JSON\n', {}, "ArrowInvalid: JSON parse error"),
        ('{"page": "a"}\n', {"test_split": "val"}, "its data has no split or column 'val'"),
        ('{"page": "a"}\n', {"test_split": None}, "must have valid or test docs"),
    ],
    ids=["no file", "broken file", "no such split", "no split"],
)
def test_data_that_cannot_be_read_is_no_matter_of_the_network(run, tasks, tmp_path, rows, changes, message):
    config, store, models = run
    path = tmp_path / "odd.jsonl"
    if rows is not None:
        path.write_text(rows)
    content = yaml.safe_load((tasks / "own_text.yaml").read_text()) | {"task": "odd"} | changes
    content["dataset_kwargs"] = {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(content))
    asked = LmEvalConfig(tasks=("odd",), include=tmp_path)
    with pytest.raises(ValueError, match=rf"lm_eval\.tasks: odd.*{message}") as caught:
        task.lm_eval(config.model_copy(update={"lm_eval": asked}), store, models, tmp_path / "x.json")
    assert "HF_DATASETS_OFFLINE" not in str(caught.value)


def test_more_examples_than_a_task_has(run, tmp_path):
    config, store, models = run
    asked = config.lm_eval.model_copy(update={"tasks": ("own_choice", "own_answer"), "fewshot": 4})
    with pytest.raises(ValueError, match=r"lm_eval\.tasks: own_answer: .*lm_eval\.fewshot is 4: give fewer"):
        task.lm_eval(config.model_copy(update={"lm_eval": asked}), store, models, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_without_the_package_the_message_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'titans-genomics\[lm-eval\]'"):
        task.lm_eval(*run, tmp_path / "x.json")


def test_importing_the_task_needs_no_harness(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    importlib.reload(task)


def test_a_run_on_bases_is_refused(small_config, small_store, small_model, tmp_path):
    config = small_config.model_copy(update={"lm_eval": LmEvalConfig(tasks=("piqa",))})
    with pytest.raises(ValueError, match="its tokens are nucleotide tokens of bases"):
        task.lm_eval(config, small_store, {"titans": small_model}, tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"lm_eval\.tasks is empty"):
        task.lm_eval(small_config, small_store, {"titans": small_model}, tmp_path / "x.json")


def test_models_of_another_config_are_refused(run, tmp_path):
    config, store, models = run
    other = config.model_copy(update={"model": config.model.model_copy(update={"chunk": 8})})
    with pytest.raises(ValueError, match=r"comes from another config \(model\.chunk"):
        task.lm_eval(other, store, models, tmp_path / "x.json")


@pytest.mark.parametrize("names", [["piqa", "piqa"], [" "]], ids=["twice", "empty"])
def test_bad_names_of_tasks(names):
    with pytest.raises(ValueError, match=r"twice|empty"):
        LmEvalConfig(tasks=names)


@pytest.mark.parametrize(
    ("given", "asked"),
    [("piqa, wikitext,", ("piqa", "wikitext")), (" , ", ()), (None, ("own_choice", "own_text", "own_answer"))],
    ids=["blanks", "none", "not given"],
)
def test_names_on_the_command_line(run, tmp_path, monkeypatch, given, asked):
    from titans_genomics.cli import lm_eval_tasks

    found = []
    monkeypatch.setattr(task, "lm_eval", lambda config, *others: found.append(config.lm_eval.tasks))
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(run[0].model_dump(mode="json")))
    lm_eval_tasks(tmp_path / "x.yaml", tasks=given)
    assert found == [asked]


def test_large_vocabularies_are_scored_in_parts(monkeypatch):
    model, rng = model_of(), np.random.default_rng(5)
    pairs = [(rng.integers(0, 256, 5), rng.integers(0, 256, 20)) for _ in range(4)]
    whole = score(model, pairs)
    monkeypatch.setattr(lm_eval_read, "BATCH_LOGITS", 3 * 259)
    np.testing.assert_allclose(score(model, pairs).log_likelihood, whole.log_likelihood, atol=1e-5)
