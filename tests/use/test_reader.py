"""Opening a trained model: where its parts are looked for, what its readings begin with, and what is said when a part is missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from made_run import make_run, random_bases, write_fasta
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from titans_genomics.models.state import save_state
from titans_genomics.use.memorize import memorize
from titans_genomics.use.reader import MEMORY_KEY, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("results") / "run")


@pytest.fixture(scope="module")
def memory(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    memorize(open_run(run), write_fasta(folder / "genome.fa", random_bases(200)), folder / "memory.safetensors")
    return folder / "memory.safetensors"


def test_a_run_and_its_model_folder_are_the_same_model(run):
    by_run, by_folder = open_run(run), open_run(run / "train" / "titans", model="not looked at")
    assert by_run.name == by_folder.name == "titans"
    assert by_run.sha256 == by_folder.sha256
    assert by_run.stretch == by_folder.stretch == 32
    assert not by_run.model.training
    assert by_run.state(3) is None


def test_a_model_folder_is_found_from_within(run, monkeypatch):
    monkeypatch.chdir(run / "train" / "titans")
    assert open_run(".").stretch == 32


def test_a_run_without_evaluation_has_no_stretch(tmp_path):
    assert open_run(make_run(tmp_path / "run", stretch=None)).stretch is None


def test_lower_case_is_read_as_the_tokens_were(run, tmp_path):
    assert open_run(run).codes("acgtNR").tolist() == [0, 1, 2, 3, 4, 4]
    masked = shutil.copytree(run, tmp_path / "masked")
    (masked / "tokens" / "manifest.json").write_text(json.dumps({"config": {"data": {"soft_mask": "n"}}}))
    assert open_run(masked).codes("acGT").tolist() == [4, 4, 2, 3]


@pytest.mark.parametrize(
    "wrong", ["ACGX", np.array([0, 9], np.uint8), np.array([0, 1])], ids=["letter", "code", "dtype"]
)
def test_what_is_no_sequence_is_refused(run, wrong):
    with pytest.raises(ValueError, match=r"nucleotide|stands for no base|must be uint8"):
        open_run(run).codes(wrong)


def test_every_reading_begins_with_the_memory(run, memory):
    reader = open_run(run, memory=memory)
    state = reader.state(3)
    assert state.batch == 3
    tokens = torch.from_numpy(reader.codes(random_bases(20)).astype(np.int64))[None].expand(3, -1)
    with torch.inference_mode():
        together, _ = reader.model(tokens, state)
        alone, _ = reader.model(tokens[:1], reader.start)
        without, _ = reader.model(tokens[:1])
    torch.testing.assert_close(together, alone.expand(3, -1, -1), atol=1e-5, rtol=0)
    assert (alone - without).abs().max() > 1e-3
    assert reader.memory["bases"] == 200
    assert reader.memory["model"] == reader.sha256


def test_the_states_of_two_readings_do_not_meet(run, memory):
    reader = open_run(run, memory=memory)
    first = reader.state(2)
    for _, leaf in first.leaves():
        if isinstance(leaf, torch.Tensor):
            leaf.zero_()
    assert any(leaf.abs().sum() > 0 for _, leaf in reader.state(2).leaves() if isinstance(leaf, torch.Tensor))


def test_the_memory_of_other_weights_is_refused(run, memory, tmp_path):
    other = make_run(tmp_path / "other", seed=1)
    with pytest.raises(
        ValueError, match=r"memory\.safetensors: this memory is of the model .*titans-genomics memorize"
    ):
        open_run(other, memory=memory)


def test_the_memory_of_another_shape_is_refused(memory, tmp_path):
    wide = make_run(tmp_path / "wide", memory_expansion=2.0)
    with pytest.raises(ValueError, match="another config"):
        open_run(wide, memory=memory)


def test_a_state_of_no_genome_is_refused(run, tmp_path):
    save_state(open_run(run).model.begin(1).detach(), tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="no memory of a genome"):
        open_run(run, memory=tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"rubbish that is no file of tensors", "tensors"], ids=["empty", "rubbish", "no-state"]
)
def test_a_file_that_is_no_memory_is_refused(run, memory, tmp_path, content):
    path = tmp_path / "wrong.safetensors"
    if content == "tensors":
        save_file(load_file(memory), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong\.safetensors"):
        open_run(run, memory=path)


@pytest.mark.parametrize(
    ("removed", "error", "message"),
    [
        ("", FileNotFoundError, "no such run.*titans-genomics train"),
        ("train/titans/model.safetensors", FileNotFoundError, "titans-genomics train"),
        ("train/titans", FileNotFoundError, "no trained model 'titans'.*titans-genomics train"),
        ("tokens/tokenizer.json", FileNotFoundError, "titans-genomics tokenize"),
        ("tokens/tokenizer_config.json", ValueError, "no such file"),
    ],
    ids=["run", "weights", "model", "tokenizer", "tokenizer-settings"],
)
def test_a_missing_part_is_named_with_the_command_that_makes_it(run, tmp_path, removed, error, message):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / removed
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(error, match=message):
        open_run(copy)


def test_another_name_is_answered_with_those_that_there_are(run):
    with pytest.raises(FileNotFoundError, match=r"no trained model 'mac'.*it has titans"):
        open_run(run, model="mac")


def test_a_memory_whose_header_lacks_its_model_is_refused(run, memory, tmp_path):
    with safe_open(memory, "pt") as file:
        header = file.metadata() | {MEMORY_KEY: '{"bases": 3}'}
    save_file(load_file(memory), tmp_path / "odd.safetensors", header)
    with pytest.raises(ValueError, match="no memory of a genome"):
        open_run(run, memory=tmp_path / "odd.safetensors")


def test_a_missing_memory_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such state file"):
        open_run(run, memory=tmp_path / "none.safetensors")


def test_tokens_of_another_vocabulary_are_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "tokens")
    shutil.copytree(make_run(tmp_path / "kmers", tokenizer={"kind": "kmer", "k": 3}) / "tokens", copy / "tokens")
    with pytest.raises(ValueError, match="another vocabulary"):
        open_run(copy)


def test_a_device_that_is_not_there_is_refused(run):
    with pytest.raises(ValueError, match="device 'abacus'"):
        open_run(run, device="abacus")
