"""The model card (README.md) of an exported model, written from what the run left."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

VARIANTS = {
    "lmm": "the neural long-term memory alone (LMM)",
    "mac": "memory as context (MAC)",
    "mag": "memory as gate (MAG)",
    "mal": "memory as layer (MAL)",
    "transformer": "a Transformer with sliding-window attention, the baseline",
    "gated_deltanet": "a linear memory with the gated delta rule, a baseline",
    "diagonal": "a diagonal linear recurrence, a baseline",
}


def model_card(
    description: dict[str, Any],
    manifest: dict[str, Any],
    *,
    name: str,
    text: bool,
    run: str | None = None,
    trained: dict[str, Any] | None = None,
    evaluated: dict[str, Any] | None = None,
    licence: str | None = None,
    language: str | None = None,
) -> str:
    """The card as Markdown with a YAML head that ``huggingface_hub.ModelCard`` parses.

    Parameters
    ----------
    description : model.json
    manifest : manifest.json of the token store
    name : the model's name, by which it is loaded: OWNER/NAME on the Hub, or the name of the folder
    text : whether tokens stand for bytes of text, not for bases
    run : the run's name; None: not said
    trained, evaluated : train.json and evaluate.json, where there are any
    licence, language : as the Hub writes them; None: not said
    """
    unit = "byte" if text else "base"
    figures = _figures(description["name"], evaluated)
    data = ModelCardData(
        language=language,
        license=licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["titans", "titans-genomics", "long-context"] + ([] if text else ["biology", "dna", "genomics"]),
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=source,
                dataset_name=source,
                dataset_split=evaluated["split"],
                metric_type=f"bits_per_{unit}",
                metric_name=f"bits per {unit}",
                metric_value=round(own["bits_per_base"], 6),
            )
            for source, own, _ in figures
        ]
        if evaluated
        else None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _what_it_is(description, run, text),
        _use(name, text),
        _data(manifest, unit),
        _training(trained),
        _evaluation(figures, evaluated, unit),
        _limits(text),
        _licence(licence, manifest),
        "## Citation\n\nThe architecture: Behrouz, Zhong and Mirrokni, *Titans: Learning to Memorize at Test Time*, arXiv 2501.00663. "
        "The implementation: titans-genomics.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(name: str, evaluated: dict[str, Any] | None) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Source, figures of the model and of the Markov model, for all sources that were measured."""
    found = []
    for source, part in (evaluated or {"sources": {}})["sources"].items():
        if name in part["models"]:
            found.append((source, part["models"][name], part["markov"]))
    return found


def _what_it_is(description: dict[str, Any], run: str | None, text: bool) -> str:
    shape = description["config"]
    variant = "transformer" if description["class"] == "transformer" else shape["variant"]
    memory = ""
    if variant in ("lmm", "mac", "mag", "mal"):
        layers = shape["memory_layers"]
        kind = "a linear map" if layers == 1 else f"an MLP of {layers} layers"
        memory = f" The memory of each head is {kind}, trained by gradient descent while a sequence is read."
    return (
        f"A language model of {'text' if text else 'DNA'}: {VARIANTS.get(variant, variant)}, {description['parameters']:,} parameters "
        f"in {shape['n_layers']} blocks of width {shape['d_model']} with {shape['n_heads']} heads, a vocabulary of {shape['vocab_size']:,} tokens.{memory} "
        f"What it remembers does not grow with the length of its input.\n\n"
        f"Made by titans-genomics {description['version']}, model `{description['name']}`{f' of the run `{run}`' if run else ''} after {description['step']:,} optimiser steps."
    )


def _use(name: str, text: bool) -> str:
    prompt = "In the beginning" if text else "ACGTTGCAACGT"
    return f"""## How to use it

```python
# pip install titans-genomics
import titans_genomics.hf  # registers the model with transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
inputs = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100, do_sample=True)[0]))
```

`trust_remote_code` is not needed. Batches of different lengths are padded on the left; padding is never read."""


def _data(manifest: dict[str, Any], unit: str) -> str:
    rows = [
        [
            source["name"],
            " ".join(str(source[key]) for key in ("species", "assembly") if source.get(key)) or "-",
            f"`{source.get('url') or source['path']}`",
            f"{source['bases']:,}",
            *(f"{source['tokens'].get(split, 0):,}" for split in ("train", "validation", "test")),
            f"`{source['sha256'][:12]}`",
        ]
        for source in manifest["sources"]
    ]
    unused = [source["name"] for source in manifest["sources"] if source.get("weight") == 0]
    header = ["source", "what", "file", f"{unit}s", "train tokens", "validation tokens", "test tokens", "SHA-256"]
    notes = [f"- {note}" for note in manifest.get("warnings", ())]
    notes += [f"- {', '.join(unused)}: measured only, not trained on (weight 0)"] if unused else []
    tokenizer = manifest["tokenizer"]
    return "\n\n".join(
        [
            f"## Data\n\nTokenizer: {tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens.",
            _table(header, rows),
            *(["\n".join(notes)] if notes else []),
        ]
    )


def _training(trained: dict[str, Any] | None) -> str:
    if trained is None:
        return ""
    hardware = trained.get("hardware", {})
    machine = (
        ", ".join(hardware.get("gpus") or []) or f"{hardware.get('cpu', 'CPU')}, {hardware.get('threads', '?')} threads"
    )
    versions = ", ".join(f"{key} {value}" for key, value in trained.get("versions", {}).items())
    rows = [
        ["optimiser steps", f"{trained['steps']:,}"],
        ["tokens", f"{trained['tokens']:,}"],
        ["seconds", f"{trained['seconds']:,.0f}"],
        ["steps skipped (not finite)", f"{trained['skipped_steps']:,}"],
        ["seed", str(trained["seed"])],
        ["hardware", machine],
        ["versions", versions or "-"],
    ]
    return "## Training\n\nNext-token training with AdamW.\n\n" + _table(["", ""], rows)


def _evaluation(figures: list[Any], evaluated: dict[str, Any] | None, unit: str) -> str:
    if not figures or evaluated is None:
        return "## Evaluation\n\nNothing was measured on held-out data."
    more = [key for key in ("perplexity_per_token", "perplexity_per_word") if all(key in own for _, own, _ in figures)]
    rows = [
        [
            source,
            f"{own['bits_per_base']:.4f}",
            _interval(own),
            f"{markov['bits_per_base']:.4f}",
            *(f"{own[key]:.2f}" for key in more),
        ]
        for source, own, markov in figures
    ]
    header = ["source", f"bits per {unit}", "95% interval", "Markov model", *(key.replace("_", " ") for key in more)]
    begun = f"the memory begins anew every {evaluated['stretch']:,} tokens" if evaluated.get("stretch") else ""
    return (
        f"## Evaluation\n\nBits per {unit} on the {evaluated['split']} split (lower is better){', ' + begun if begun else ''}, beside the best Markov "
        "model of the training split.\n\n" + _table(header, rows)
    )


def _interval(figures: dict[str, Any]) -> str:
    return f"{figures['ci95'][0]:.4f} to {figures['ci95'][1]:.4f}" if figures.get("ci95") else "-"


def _limits(text: bool) -> str:
    if text:
        own = (
            "It has learned from the texts above alone, follows no instructions, and repeats what stands in them, errors and "
            "prejudices included; what it writes is no statement of fact."
        )
    else:
        own = (
            "It has learned from the sequences above alone and knows little of other species. What it scores or generates is no "
            "evidence of function; it must not be used to decide on health, nor to design organisms or biological agents."
        )
    return (
        "## Intended use and limits\n\nFor research: likelihoods, embeddings, generation, and as the start of fine-tuning. "
        f"{own} The memory was trained on windows of limited length; the figures above say nothing of much longer inputs."
    )


def _licence(licence: str | None, manifest: dict[str, Any]) -> str:
    terms = f"The weights are under {licence}." if licence else "No licence was given for the weights."
    sources = ", ".join(source["name"] for source in manifest["sources"])
    return f"## Licence\n\n{terms} The data ({sources}) have terms of their own. The code is under Apache-2.0."


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
