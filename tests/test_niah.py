"""Needles in text: RULER's wording at the length and depth that were asked for, read as a stream, and found by a model that remembers."""

import re
import shutil
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_settings

from titans_genomics.config import NiahConfig, TitansConfig, parse_config
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.data.tokenizers import Bytes
from titans_genomics.files import read_json, write_json
from titans_genomics.models import Titans
from titans_genomics.models.state import State
from titans_genomics.report import task_tables
from titans_genomics.report.niah_plot import by_length, heat_map, rows
from titans_genomics.report.plots import Look
from titans_genomics.tasks import niah as task
from titans_genomics.tasks import niah_read, niah_samples, niah_tune
from titans_genomics.tasks.niah_samples import KINDS, Haystack, draw, encode, noise, text_of_file, text_of_store
from titans_genomics.training import build_model, load_model, model_config, with_vocabulary
from titans_genomics.training.export import save_model
from titans_genomics.training.logs import versions

BYTES = Bytes()
TOLD = re.compile(r"magic (?:number|uuid)s for (\S+) is: (\S+)\.")
ASKED = re.compile(r"magic (?:number|uuid) for (\S+) mentioned in the provided text is")


class Finds(torch.nn.Module):
    """Keeps the last `kept` bytes, and answers a question with what they say of its key; writes full stops else."""

    def __init__(self, kept=10**9):
        super().__init__()
        self.kept, self.head, self.unused = kept, torch.nn.Identity(), torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, state=None):
        read = tokens if state is None else torch.cat([state.blocks[0], tokens], dim=1)
        before, logits = read.shape[1] - tokens.shape[1], torch.zeros(*tokens.shape, BYTES.vocab_size)
        for row, line in enumerate(read.tolist()):
            for i in range(tokens.shape[1]):
                text = bytes(line[max(0, before + i + 1 - self.kept) : before + i + 1]).decode()
                logits[row, i, self.next(text)] = 50.0
        return logits, State([read[:, -self.kept :]])

    embed = forward

    @staticmethod
    def next(text):
        question = list(ASKED.finditer(text))[-1:]
        if question:
            value = next((f" {v}" for key, v in TOLD.findall(text) if key == question[0][1]), "")
            written = text[question[0].end() :]
            if value.startswith(written) and value != written:
                return ord(value[len(written)])
        return ord(".")


SENTENCES = [f"Verse {i} of the {word} was read aloud." for i in range(120) for word in ("morning", "evening", "night")]


@pytest.fixture(scope="module")
def text_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("niah")
    (folder / "verses.txt").write_text("\n".join(SENTENCES) + "\n")
    plain = small_settings(folder, reverse_complement=0, context=360)
    plain["data"] = {
        "sources": [{"path": str(folder / "verses.txt"), "kind": "text", "name": "verses"}],
        "tokenizer": {"kind": "byte"},
        "split": {"block": 1000, "validation": 0.2, "test": 0.2, "leaks": {"action": "off"}},
    }
    plain["compare"] = {"attention": {"variant": "transformer", "window": 64}}
    plain["niah"] = {
        "kinds": ["pk", "w"], "lengths": [400, 700], "depths": [0, 0.5, 1], "samples": 2, "answer": 12, "piece": 150,
        "start": "fresh", "fit": {"steps": 2, "batch_size": 2, "checkpoint_every": 1}, "fits": {"attention": {"steps": 3}},
    }  # fmt: skip
    return parse_config(plain, "niah")


@pytest.fixture(scope="module")
def text_store(text_config):
    tokenize(text_config, text_config.folder / "tokens")
    return text_config.folder / "tokens"


@pytest.fixture(scope="module")
def haystack(text_store):
    return text_of_store(TokenStore(text_store), "test")


def asked(**changes):
    return NiahConfig(
        **{"kinds": ["pk", "n", "w"], "lengths": [400], "depths": [0, 0.5, 1], "samples": 2, "piece": 97, **changes}
    )


def words(prompt):
    return BYTES.decode(prompt.read(0, prompt.length)).tobytes().decode()


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_have_rulers_wording_and_the_length_asked_for(kind, haystack):
    prompt = draw(np.random.default_rng(0), BYTES, noise(BYTES) if kind == "pk" else haystack, kind, 600, 0.4)
    text, sort = words(prompt), "uuid" if kind == "w" else "number"
    assert len(text) == 600
    assert text.startswith(
        f"A special magic {sort} is hidden within the following text. Make sure to memorize it. I will quiz you about the {sort} afterwards.\n"
    )
    ((key, value),) = TOLD.findall(text)
    assert f"One of the special magic {sort}s for {key} is: {value}." in text
    assert text.endswith(
        f"\nWhat is the special magic {sort} for {key} mentioned in the provided text? "
        f"The special magic {sort} for {key} mentioned in the provided text is"
    )
    assert text.count(value) == 1
    assert value == prompt.value
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" if kind == "w" else r"[1-9]\d{6}", value)
    assert BYTES.decode(prompt.answer).tobytes().decode() == f" {value}"
    assert prompt.counted.tolist() == [False] + [True] * len(value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.7, 1.0])
def test_needles_stand_at_their_depth_where_a_sentence_begins(kind, depth, haystack):
    own = noise(BYTES) if kind == "pk" else haystack
    for seed in range(5):
        prompt = draw(np.random.default_rng(seed), BYTES, own, kind, 2000, depth)
        (_, intro), (place, needle), (_, question) = prompt.fixed
        text = words(prompt)
        assert text[:place].rstrip()[-1] in ".!?"
        room = 2000 - len(intro) - len(needle) - len(question)
        assert 0 <= place - len(intro) <= room
        assert abs(place - len(intro) - depth * room) <= 2 * max(map(len, SENTENCES)) + len(own.around[0]) + 90
        assert prompt.distance == 2000 - place - len(needle)
        assert text.index("One of the special") == place + len(own.around[0])


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(0, 5), st.floats(0, 1, allow_subnormal=False))
@settings(max_examples=30)
def test_a_prompt_read_in_pieces_is_the_prompt(pieces, seed, depth):
    prompt = draw(np.random.default_rng(seed), BYTES, noise(BYTES), "pk", 600, depth)
    whole, read, at = prompt.read(0, 600), [], 0
    for size in [*pieces, 600]:
        size = min(size, 600 - at)
        read.append(prompt.read(at, size))
        at += size
    np.testing.assert_array_equal(np.concatenate(read), whole)


@pytest.mark.parametrize("cuts", [[0], [3], [0, 4, 9], [2, 5]])
def test_cuts_repeat_with_the_haystack(cuts):
    own = Haystack(np.arange(10, dtype=np.uint8), np.array(cuts), ("", ""))
    endless = [turn * 10 + cut for turn in range(8) for cut in cuts]
    for place in range(10, 40):
        for most in range(place, 45):
            behind = [cut for cut in endless if place <= cut <= most]
            expected = behind[0] if behind else [cut for cut in endless if cut <= most][-1]
            assert own.cut(place, most) == expected
    np.testing.assert_array_equal(own.read(7, 25), [i % 10 for i in range(7, 32)])


def test_the_haystack_of_a_run_is_its_split_and_that_of_a_file_the_file(text_store, tmp_path):
    store = TokenStore(text_store)
    parts = [BYTES.decode(part).tobytes() for part in store.documents("test", "verses")]
    assert BYTES.decode(text_of_store(store, "test").tokens).tobytes() == b"".join(parts)
    (tmp_path / "own.txt").write_text("First sentence. Second one? No end")
    own = text_of_file(tmp_path / "own.txt", BYTES)
    assert own.cuts.tolist() == [15, 27]
    assert BYTES.decode(own.tokens).tobytes() == b"First sentence. Second one? No end"


def test_no_more_of_a_haystack_is_read_than_is_kept(monkeypatch):
    read = []

    def pieces(size):
        for _ in range(3):
            read.append(size)
            yield np.full(6, 65, np.uint8)

    store = SimpleNamespace(tokenizer=BYTES, runs=lambda split: [SimpleNamespace(pieces=pieces)] * 4)
    monkeypatch.setattr(niah_samples, "MOST", 10)
    assert len(text_of_store(store, "test").tokens) == 10
    assert len(read) == 2


def test_a_model_that_remembers_finds_every_needle(haystack):
    needles = {"pk": noise(BYTES), "n": haystack, "w": haystack}
    found = task.measure(Finds(), asked(), BYTES, needles, 3, "finds")
    assert len(found["cells"]) == 9
    for cell in found["cells"]:
        assert cell["found"] == cell["accuracy"] == cell["exact"] == 1
        assert cell["bits"] < 1e-9
        assert cell["samples"] == 2
    assert [row["found_ci95"][1] for row in found["lengths"]] == [1, 1, 1]
    assert found["lengths"][0]["samples"] == 6


def test_a_model_that_forgets_finds_the_needles_that_it_still_holds(haystack):
    kept = 430
    settings_ = asked(kinds=["w"], lengths=[700], depths=[0, 0.25, 0.5, 0.75, 1], samples=3, answer=40)
    found = task.measure(Finds(kept), settings_, BYTES, {"w": haystack}, 5, "forgets")
    distances = [
        draw(np.random.default_rng([5, 2, 700, number, sample]), BYTES, haystack, "w", 700, depth).distance
        for number, depth in enumerate(settings_.depths)
        for sample in range(3)
    ]
    needle = len("One of the special magic uuids for a-b is: .") + 36
    for cell, own in zip(found["cells"], np.array(distances).reshape(5, 3), strict=True):
        assert cell["distance"] == round(own.mean())
        if own.max() < kept - needle - 80:
            assert cell["found"] == 1
        elif own.min() > kept:
            assert cell["found"] == 0
    assert {cell["found"] for cell in found["cells"]} == {0.0, 1.0}


def test_pieces_change_nothing(haystack):
    model = tiny_model()
    results = []
    for piece in (1000, 111):
        settings_ = asked(kinds=["n"], piece=piece, answer=6)
        results.append(task.measure(model, settings_, BYTES, {"n": haystack}, 1, "pieces")["cells"])
    for one, other in zip(*results, strict=True):
        assert one["bits"] == pytest.approx(other["bits"], rel=1e-4)
        assert one["accuracy"] == other["accuracy"]


def tiny_model(variant="lmm"):
    torch.manual_seed(0)
    shape = TitansConfig(
        vocab_size=259, d_model=16, n_layers=1, n_heads=2, chunk=8, window=16, segment=16, variant=variant
    )
    model = Titans(shape).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # fresh weights are nearly indifferent between tokens
    return model


@pytest.mark.parametrize("variant", ["lmm", "mac", "transformer"])
def test_answers_are_those_of_the_whole_sequence_read_again_for_every_token(variant, haystack):
    model = tiny_model(variant)
    prompts = [draw(np.random.default_rng(i), BYTES, haystack, "n", 400, i / 2) for i in range(3)]
    logits, state = niah_read.read(model, prompts, 130)
    bits, right = niah_read.forced(model, logits, state, [prompt.answer for prompt in prompts])
    texts = niah_read.generate(model, logits, state, BYTES, 9, lambda row, text: False)
    for row, prompt in enumerate(prompts):
        tokens = torch.from_numpy(prompt.read(0, 400))[None]
        answer = torch.from_numpy(prompt.answer.astype(np.int64))[None]
        with torch.inference_mode():
            full = model(torch.cat([tokens, answer], 1))[0][0, 399:-1]
            expected = F.cross_entropy(full, answer[0], reduction="none") / np.log(2)
            for _ in range(9):
                tokens = torch.cat([tokens, model(tokens)[0][:, -1:].argmax(-1)], 1)
        np.testing.assert_allclose(bits[row], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(right[row], full.argmax(-1) == answer[0])
        assert texts[row] == niah_read.text_of(BYTES, tokens[0, 400:].tolist())


def test_writing_ends_at_end_of_text_when_found_and_at_the_limit():
    class Spells(torch.nn.Module):
        """Row 0 writes ab and ends; row 1 writes c for ever; state counts."""

        def forward(self, tokens, state):
            logits = torch.zeros(2, 1, BYTES.vocab_size)
            logits[0, 0, b"ab"[state + 1] if state < 1 else BYTES.eos] = 1
            logits[1, 0, ord("c")] = 1
            return logits, state + 1

    first = torch.zeros(2, 1, BYTES.vocab_size)
    first[0, 0, ord("a")] = first[1, 0, ord("c")] = 1
    assert niah_read.generate(Spells(), first, 0, BYTES, 5, lambda row, text: False) == ["ab", "ccccc"]
    assert niah_read.generate(Spells(), first, 0, BYTES, 5, lambda row, text: text == "cc") == ["ab", "cc"]


def test_answers_of_different_lengths_do_not_meet():
    model = tiny_model()
    short, long = (np.frombuffer(text, np.uint8) for text in (b" 7", b" 1234567"))
    logits, state = model(torch.full((2, 5), 65))
    bits, right = niah_read.forced(model, logits[:, -1:], state, [short, long])
    alone, _ = niah_read.forced(
        model, *niah_read.repeated(logits[:1, -1:], State([_first(state.blocks[0])]), 1), [short]
    )
    assert bits.shape == right.shape == (2, 8)
    np.testing.assert_allclose(bits[0, :2], alone[0], rtol=1e-4)
    assert not bits[0, 2:].any()
    assert not right[0, 2:].any()


def _first(block):
    from titans_genomics.models.state import map_leaves

    return map_leaves(lambda _, leaf: leaf[:1] if isinstance(leaf, torch.Tensor) else leaf, block)


def test_logits_that_are_no_numbers_are_a_guess():
    bits, right = niah_read.forced(None, torch.full((1, 1, 259), torch.nan), None, [np.array([3])])
    assert bits[0, 0] == pytest.approx(np.log2(259))
    assert right[0, 0] == 0


@pytest.mark.parametrize(
    ("found", "count", "expected"), [(0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (50, 100, (0.4038, 0.5962))]
)
def test_intervals_are_wilsons(found, count, expected):
    assert niah_read.interval(found, count) == pytest.approx(expected, abs=1e-4)


def test_long_lengths_have_fewer_samples():
    settings_ = asked(lengths=[1000, 100_000], samples=20, max_tokens=1_000_000)
    assert [task.samples(settings_, n) for n in (1000, 100_000, 10**7)] == [20, 3, 1]


@pytest.mark.parametrize("context", [300, 700])
def test_training_windows_ask_for_the_needle_before(context, haystack):
    haystacks = {"pk": noise(BYTES), "n": haystack, "w": haystack}
    window, given_ = niah_tune.windows(np.random.default_rng(4), BYTES, haystacks, context, 12)
    assert window.shape == given_.shape == (12, context + 1)
    asked_for = 0
    for row, mask in zip(window, given_, strict=True):
        text = BYTES.decode(row).tobytes().decode()
        expected = np.zeros(context + 1, bool)
        for question in ASKED.finditer(text):
            (key, value) = TOLD.findall(text[: question.start()])[-1]
            assert key == question[1]
            assert text[question.end() :].startswith(f" {value}.\n")
            expected[question.end() : question.end() + 1 + len(value)] = True
            asked_for += 1
        np.testing.assert_array_equal(mask, expected)
    assert asked_for >= 12
    again, _ = niah_tune.windows(np.random.default_rng(4), BYTES, haystacks, context, 12)
    np.testing.assert_array_equal(window, again)


def test_windows_of_copies_tell_values_again(haystack):
    window, given_ = niah_tune.windows(np.random.default_rng(4), BYTES, {"n": haystack}, 72, 9, copies=1.0)
    for row, mask in zip(window, given_, strict=True):
        text = BYTES.decode(row).tobytes().decode()
        values = re.findall(r" (\d{7})\.", text)
        assert values[:4] == values[:1] * 4
        assert values[4:8] == values[4:5] * 4
        for at in range(len(text)):
            told, within = divmod(at, 9)
            assert mask[at] == (told % 4 > 0 and within < 8)


def test_copies_of_uuids_need_room(haystack):
    short, _ = niah_tune.copied(np.random.default_rng(0), BYTES, haystack, "w", 72, 0)
    long, given_ = niah_tune.copied(np.random.default_rng(0), BYTES, haystack, "w", 400, 0)
    assert re.fullmatch(r"( \d{7}\.)+", BYTES.decode(short).tobytes().decode())
    assert re.fullmatch(r"( [0-9a-f-]{36}\.)\1{3}", BYTES.decode(long).tobytes().decode())
    assert given_.sum() == 3 * 37


def test_copies_have_haystack_between_them(haystack):
    distances = []
    for seed in range(40):
        tokens, given_ = niah_tune.copied(np.random.default_rng(seed), BYTES, haystack, "n", 400, 48)
        text = BYTES.decode(tokens).tobytes().decode()
        told = list(re.finditer(r" (\d{7})\.", text))
        assert len({match[1] for match in told}) == 1
        expected = np.zeros(len(text), bool)
        for match in told[1:]:
            expected[match.start() : match.end() - 1] = True
        np.testing.assert_array_equal(given_, expected)
        distances += np.diff([match.start() for match in told]).tolist()
    assert min(distances) == 9
    assert 40 < max(distances) <= 9 + 48


def test_windows_grow_to_the_training_context():
    stages = [niah_tune.stage(step, 100, 512) for step in range(100)]
    sizes, copies, gaps = zip(*stages, strict=True)
    assert list(sizes) == sorted(sizes)
    assert set(sizes) > {*niah_tune.COPIED, niah_tune.SHORTEST, 512}
    assert list(copies) == sorted(copies, reverse=True)
    assert set(copies) == {1.0, 0.5, 0.0}
    assert list(gaps) == sorted(gaps)
    assert stages[0] == (niah_tune.COPIED[0], 1.0, 0)
    assert niah_tune.stage(50, 100, 60)[:2] == (60, 0.0)
    assert niah_tune.stage(25, 100, 512, least=300)[:2] == (300, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_the_least_room_have_questions(kind, haystack):
    own = noise(BYTES) if kind == "pk" else haystack
    least = niah_tune.least_room(BYTES, own, kind)
    assert niah_tune.windows(np.random.default_rng(1), BYTES, {kind: own}, least, 20)[1].any(1).all()
    assert not niah_tune.windows(np.random.default_rng(1), BYTES, {kind: own}, least // 2, 20)[1].any()


def test_windows_without_a_question_do_not_spoil_the_loss(text_config, text_store, tmp_path):
    config = changed(text_config, fit={"steps": 12, "batch_size": 1}, kinds=["w"])
    training = task.niah(config, text_store, "titans", None, tmp_path)["training"]
    assert training["skipped"] == 0
    assert all(np.isfinite(row["loss"]) for row in training["curve"])


@pytest.fixture(scope="module")
def results(text_config, text_store):
    folder = text_config.folder / "niah"
    return folder, {name: task.niah(text_config, text_store, name, None, folder / name) for name in text_config.models}


def test_a_run_trains_measures_and_keeps_its_models(results, text_config, text_store):
    folder, found = results
    for name, result in found.items():
        assert read_json(folder / name / "result.json", "niah") == result
        assert result["training"]["steps"] == {"titans": 2, "attention": 3}[name]
        assert len(result["cells"]) == 2 * 2 * 3
        assert result["parameters"] == pytest.approx(found["titans"]["parameters"], rel=0.02)
        model = load_model(folder / name)
        needles = task.haystacks(text_config.niah, TokenStore(text_store), "test")
        again = task.measure(model, text_config.niah, BYTES, needles, text_config.seed, name)
        assert again["cells"] == result["cells"]


def test_what_was_trained_is_not_trained_again(results, text_config, text_store, tmp_path):
    folder, found = results
    shutil.copytree(folder / "titans", tmp_path / "titans")
    (tmp_path / "titans" / "result.json").unlink()
    again = task.niah(text_config, text_store, "titans", None, tmp_path / "titans")
    assert again["training"] == found["titans"]["training"]  # seconds, too: nothing was trained
    assert again["cells"] == found["titans"]["cells"]


def test_what_was_measured_with_the_same_settings_is_given_back(results, text_config, text_store, tmp_path):
    made = read_json(results[0] / "titans" / "result.json", "niah")
    shutil.copytree(results[0] / "titans", tmp_path / "titans")
    write_json(tmp_path / "titans" / "result.json", made | {"cells": "those of before"})
    same = changed(text_config, piece=77)  # the same figures
    assert task.niah(same, text_store, "titans", None, tmp_path / "titans")["cells"] == "those of before"
    other = task.niah(changed(text_config, samples=1), text_store, "titans", None, tmp_path / "titans")
    assert [cell["samples"] for cell in other["cells"]] == [1] * 12


def test_the_weights_of_train_are_part_of_what_was_measured(text_config, text_store, tmp_path):
    config = changed(text_config, start="trained", fit={"steps": 0}, fits={}, kinds=["pk"], lengths=[400], samples=1)
    store = TokenStore(text_store)
    (tmp_path / "train").mkdir()
    bits = []
    for seed in (1, 2, 2):
        torch.manual_seed(seed)
        shape = model_config(with_vocabulary(config, store), "titans")
        save_model(tmp_path / "train", "titans", shape, build_model("titans", shape), store, 1)
        bits.append(task.niah(config, text_store, "titans", tmp_path / "train", tmp_path / "out")["cells"][0]["bits"])
    assert bits[0] != bits[1] == bits[2]


@pytest.mark.parametrize(
    "changes",
    [{"samples": 1}, {"fits": {"attention": {"steps": 4}}}, {"context": 350}],
    ids=["samples", "fit", "context"],
)
def test_the_table_refuses_what_was_measured_otherwise(changes, results, text_config, text_store, tmp_path):
    folder = shutil.copytree(results[0], tmp_path / "niah")
    with pytest.raises(ValueError, match=r"result\.json: measured with other settings .*titans-genomics niah --model"):
        task.table(changed(text_config, **changes), text_store, folder)


def test_the_table_holds_every_model_and_misses_those_not_measured(results, text_config, text_store, tmp_path):
    folder, found = results
    made = task.table(text_config, text_store, folder)
    assert read_json(folder / "niah.json", "niah") == made
    assert made["models"] == found
    assert made["hardware"] == found["titans"]["hardware"]
    assert made["versions"] == found["titans"]["versions"] == versions()
    write_json(tmp_path / "titans" / "result.json", found["titans"])
    with pytest.raises(FileNotFoundError, match="niah --model attention"):
        task.table(text_config, text_store, tmp_path)


def test_plots_show_every_cell(results, text_config, text_store):
    made = task.table(text_config, text_store, results[0])
    ET.fromstring(heat_map(made, "pk", {"titans": "A & <B>"}))
    text = "".join(ET.fromstring(heat_map(made, "w", figure="accuracy")).itertext())
    for model in made["models"].values():
        for cell in model["cells"]:
            if cell["kind"] == "w":
                assert f"{100 * cell['accuracy']:.0f}" in text
    looks = {"titans": Look("Titans LMM", "#0f8b8d"), "attention": Look("attention", "#d17a00")}
    text = "".join(ET.fromstring(by_length(made, looks, "accuracy")).itertext())
    assert "Titans LMM" in text
    assert "attention" in text


def test_the_table_shows_every_share_with_its_interval(results, text_config, text_store):
    made = task.table(text_config, text_store, results[0])
    heading, *lines = rows(made, labels={"titans": "Titans LMM"})
    assert heading == ["model", "kind", "400", "700"]
    assert [line[:2] for line in lines] == [[m, k] for m in ("Titans LMM", "attention") for k in ("pk", "w")]
    row = next(row for row in made["models"]["attention"]["lengths"] if (row["kind"], row["length"]) == ("w", 700))
    low, high = row["found_ci95"]
    assert lines[3][3] == f"{100 * row['found']:.0f} ({100 * low:.0f}-{100 * high:.0f})"
    assert rows(made, "accuracy")[4][3] == f"{100 * row['accuracy']:.0f}"


def test_the_report_shows_prompts_intervals_and_tokens(results, text_config, text_store):
    made = task.table(text_config, text_store, results[0])
    table = task_tables.niah(made, {"titans": "Titans LMM"})[1]
    assert table.header == ["model", "400 (6)", "700 (6)"]
    row = next(row for row in made["models"]["titans"]["lengths"] if (row["kind"], row["length"]) == ("w", 700))
    low, high = row["found_ci95"]
    shown = f"{100 * row['found']:.1f}% ({100 * low:.0f}–{100 * high:.0f}); {100 * row['accuracy']:.1f}%"
    assert table.rows[0][::2] == ["Titans LMM", shown]


def changed(config, **changes):
    return config.model_copy(update={"niah": NiahConfig.model_validate(config.niah.model_dump() | changes)})


@pytest.mark.parametrize(
    ("changes", "error", "words_"),
    [
        ({"lengths": [200]}, ValueError, "niah.lengths: 200 tokens have no room"),
        (
            {"context": 100},
            ValueError,
            "niah.context: windows of 100 tokens have no room for a needle and its question, about",
        ),
        ({"haystack": "absent.txt"}, FileNotFoundError, "absent.txt: no such file"),
        (
            {"fits": {"absent": {"steps": 3}}},
            ValueError,
            "niah.fits: 'absent' is not a model of this run (titans, attention)",
        ),
        (
            {"babilong": {"files": ["qa.txt"], "lengths": [30]}},
            ValueError,
            "niah.babilong.lengths: 30 tokens have no room",
        ),
        ({"start": "trained"}, FileNotFoundError, "niah.start is trained"),
        ({"start": "trained", "kinds": [], "fit": {"steps": 0}, "fits": {}}, ValueError, "niah.kinds is empty"),
    ],
    ids=["length", "context", "haystack", "fits", "babilong", "no-model", "nothing-asked"],
)
def test_what_cannot_be_done_is_said_before_any_work(
    changes, error, words_, text_config, text_store, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qa.txt").write_text("1 Mary went to the garden.\n2 Where is Mary?\tgarden\t1\n")
    monkeypatch.setattr(niah_tune, "learn", lambda *_: pytest.fail("trained first"))
    with pytest.raises(error, match=re.escape(words_)):
        task.niah(changed(text_config, **changes), text_store, "titans", None, tmp_path)


def test_an_empty_haystack_is_said(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"empty\.txt: no text"):
        text_of_file(tmp_path / "empty.txt", BYTES)


def test_bases_are_not_text(small_config, small_store, tmp_path):
    config = small_config.model_copy(update={"niah": asked()})
    with pytest.raises(ValueError, match="needles are text"):
        task.niah(config, small_store, "titans", None, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words_"),
    [
        ({"depths": [1.5]}, "from 0 to 1"),
        ({"depths": [0.5, 0.5]}, "0.5 stands here twice"),
        ({"lengths": [600, 600]}, "600 stands here twice"),
        ({"lengths": [600, 0]}, "numbers must be 1 or more"),
        ({"lengths": [-3]}, "numbers must be 1 or more"),
        ({"kinds": ["pk", "pk"]}, "pk stands here twice"),
        ({"babilong": {"files": ["a.txt"], "lengths": [600, 600]}}, "600 stands here twice"),
        ({"babilong": {"files": ["a.txt"], "lengths": [0]}}, "numbers must be 1 or more"),
        ({"babilong": {"files": ["x/a.txt", "y/a.txt"]}}, "a.txt stands here twice"),
        (
            {"kinds": [], "babilong": {"files": ["a.txt"]}, "fit": {"steps": 3}},
            "niah.fit.steps 3: training is on needles",
        ),
        ({"kinds": [], "fits": {"attention": {"steps": 4}}}, "niah.fits.attention.steps 4: training is on needles"),
        ({"kinds": ["q"]}, "pk"),
        ({"start": "fresh"}, "new weights know nothing"),
        ({"fits": {"attention": {"steps": -1}}}, "niah.fits.attention.steps"),
        ({"fits": {"attention": {"setps": 1}}}, "niah.fits.attention.setps"),
        ({"start": "fresh", "kinds": [], "fit": {"steps": 5}}, "new weights know nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words_):
    with pytest.raises(ValueError, match=words_):
        asked(**changes)


def test_a_needle_is_encoded_by_itself():
    assert encode(BYTES, "ab").tolist() == [97, 98]
