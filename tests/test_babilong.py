"""BABILong: bAbI as published, its facts in order in long text, answered by a model that looks them up."""

import re

import numpy as np
import pytest
import torch
from small import small_settings
from test_niah import BYTES, SENTENCES, words

from titans_genomics.config import NiahConfig, parse_config
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.models.state import State
from titans_genomics.tasks import babilong as task
from titans_genomics.tasks.niah_samples import text_of_file

STORIES = """\
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Mary moved to the garden.
6 Where is Mary? \tgarden\t5
1 Sandra travelled to the office.
2 Where is Sandra? \toffice\t1
"""


@pytest.fixture
def babi(tmp_path):
    path = tmp_path / "qa1_single-supporting-fact_test.txt"
    path.write_text(STORIES)
    return path


class LooksUp(torch.nn.Module):
    """Keeps every byte, and answers where somebody is with where they went last; `always` whatever is asked, if given."""

    def __init__(self, always=None):
        super().__init__()
        self.always, self.head, self.unused = always, torch.nn.Identity(), torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, state=None):
        read = tokens if state is None else torch.cat([state.blocks[0], tokens], dim=1)
        before, logits = read.shape[1] - tokens.shape[1], torch.zeros(*tokens.shape, BYTES.vocab_size)
        for row, line in enumerate(read.tolist()):
            for i in range(tokens.shape[1]):
                logits[row, i, self.next(bytes(line[: before + i + 1]).decode())] = 9.0
        return logits, State([read])

    embed = forward

    def next(self, text):
        asked = list(re.finditer(r"Question: Where is (\w+)\?\nAnswer:", text))[-1:]
        if not asked:
            return ord("x")
        places = re.findall(rf"{asked[0][1]} (?:moved|went|travelled)(?: back)? to the (\w+)\.", text)
        answer, written = f" {self.always or places[-1]}.\n", text[asked[0].end() :]
        return ord(answer[len(written)]) if answer.startswith(written) and answer != written else ord("x")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("babilong")
    (folder / "verses.txt").write_text("\n".join(SENTENCES) + "\n")
    plain = small_settings(folder, reverse_complement=0)
    plain["data"] = {
        "sources": [{"path": str(folder / "verses.txt"), "kind": "text", "name": "verses"}],
        "tokenizer": {"kind": "byte"},
        "split": {"block": 1000, "validation": 0.2, "test": 0.2, "leaks": {"action": "off"}},
    }
    tokenize(parse_config(plain, "babilong"), folder / "tokens")
    return TokenStore(folder / "tokens")


def test_questions_know_what_was_told_before_them(babi):
    one, two, three = task.read_babi(babi)
    assert one == task.Question(
        ("Mary moved to the bathroom.", "John went to the hallway."), "Where is Mary?", "bathroom"
    )
    assert two.facts == (*one.facts, "Daniel went back to the hallway.", "Mary moved to the garden.")
    assert two.answer == "garden"
    assert three == task.Question(("Sandra travelled to the office.",), "Where is Sandra?", "office")


@pytest.mark.parametrize(
    ("content", "words_"),
    [
        ("1 Mary moved.\nno number here\n", "line 2: 'no number here' does not begin with a number"),
        ("1 Mary moved.\n2\n", "line 2"),
        ("1 Mary moved.\n2 Where is Mary?\t\t1\n", "line 2: the question has no answer"),
        ("1 Mary moved.\n", "no question in it"),
        ("", "no question in it"),
    ],
)
def test_lines_that_are_not_babi_are_named(content, words_, tmp_path):
    (tmp_path / "qa.txt").write_text(content)
    with pytest.raises(ValueError, match=re.escape(words_)) as error:
        task.read_babi(tmp_path / "qa.txt")
    assert "qa.txt" in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        task.read_babi(tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"1 Caf\xe9 \n")
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8 text \(byte 5\)"):
        task.read_babi(tmp_path / "latin.txt")


def test_facts_stand_in_order_in_the_text(babi, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(SENTENCES))
    haystack = text_of_file(tmp_path / "text.txt", BYTES)
    asked = task.read_babi(babi)[1]
    seen = set()
    for seed in range(8):
        prompt = task.scattered(np.random.default_rng(seed), BYTES, haystack, asked, 900, babi)
        text = words(prompt)
        assert len(text) == 900
        places = [text.index(fact) for fact in asked.facts]
        assert places == sorted(places)
        for place in places:
            assert text[:place].strip() == "" or text[:place].rstrip()[-1] == "."
        assert text.endswith("\nQuestion: Where is Mary?\nAnswer:")
        rest = text[: text.index("\nQuestion")]
        for fact in asked.facts:
            rest = rest.replace(f" {fact}", "", 1)
        assert rest in " ".join(SENTENCES) * 2
        seen.add(tuple(places))
    assert len(seen) == 8
    pieces = [prompt.read(at, min(77, 900 - at)) for at in range(0, 900, 77)]
    np.testing.assert_array_equal(np.concatenate(pieces), prompt.read(0, 900))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" garden.", True),
        (" The Garden\nbathroom", True),
        (" garden or bathroom", False),
        (" gardens", False),
        ("\n garden", True),
        ("", False),
        (" back garden", False),
    ],
)
def test_an_answer_names_one_choice_in_its_first_line(text, expected):
    assert task.named(text, "garden", ["garden", "bathroom", "back garden"]) is expected


def asked_of(babi, **changes):
    return NiahConfig(babilong={"files": [babi], "lengths": [300, 500], "samples": 9} | changes, piece=140)


def cells_of(model, settings, store):
    return task.babilong(model, settings, BYTES, *task.drawn(settings, store, 1), "bAbI")["cells"]


def test_a_model_that_looks_facts_up_answers_everything(babi, store):
    cells = cells_of(LooksUp(), asked_of(babi), store)
    assert [(cell["task"], cell["length"]) for cell in cells] == [(babi.name, 300), (babi.name, 500)]
    for cell in cells:
        assert cell["samples"] == cell["choices"] == 3
        assert cell["found"] == cell["chosen"] == 1
        assert cell["chance"] == pytest.approx(1 / 3)


def test_a_model_that_always_says_the_same_is_right_by_chance(babi, store):
    for cell in cells_of(LooksUp("garden"), asked_of(babi), store):
        assert cell["found"] == pytest.approx(1 / 3)
        assert cell["chosen"] == pytest.approx(1 / 3)
        assert cell["found_ci95"][0] < 1 / 3 < cell["found_ci95"][1]


def test_questions_are_spread_over_the_file(babi, store):
    (cell,) = cells_of(LooksUp("office"), asked_of(babi, samples=2, lengths=[400]), store)
    assert cell["samples"] == 2  # questions 1 and 2 of 3: no office among them
    assert cell["found"] == 0


def test_stories_that_do_not_fit_are_said_before_anything_is_read(babi, store):
    with pytest.raises(ValueError, match=r"niah.babilong.lengths: 100 tokens have no room for a story of .*qa1"):
        task.drawn(asked_of(babi, lengths=[100]), store, 1)
