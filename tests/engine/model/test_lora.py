"""LoRA: what is trained, what is saved and read back (peft and transformers as references), packed, and resumed."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
)

import run
import tasks
from bench.toys import tiny
from engine.build import build
from engine.checkpoint import store
from engine.config import TrainConfig
from engine.data.sources import Source, SourceConfig
from engine.errors import UsageError
from engine.finished import open_model
from engine.loop import train_step
from engine.model import lora
from engine.model.dropout import FastDropout
from engine.model.flops import count_flops
from tests.toys.cli import command, fails
from tests.toys.killed import lines_of
from tests.toys.pages import code_in
from tests.toys.parity import SETTINGS, assert_parameters_equal, run_ours, run_trainer

TEXTS = ["w0 w7 w9", "w3 w1 w44 w50 w6", "w2"]
FLAGS = ["--lora", "--learning-rate", "0.05"]


def gpt2() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 100, "pad_token_id": 0}
    return GPT2ForSequenceClassification(
        GPT2Config(num_labels=3, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2, **sizes)
    )


def albert() -> AlbertForSequenceClassification:
    """Its pooler is a bare layer, which gets an adapter."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    no_dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"), 0)
    return AlbertForSequenceClassification(
        AlbertConfig(vocab_size=100, max_position_embeddings=32, num_labels=3, **sizes, **no_dropout)
    )


@pytest.fixture(scope="module")
def runs(project, tmp_path_factory):
    """The same LoRA run, saved as an adapter and merged."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main(command(project, *FLAGS, *more, "--precision", "fp32", "--output-dir", str(folder / name))) == 0
    return folder


def logits(model, folder) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")).logits


MODELS = [lambda: tiny.bert(dropout=0.0), lambda: tiny.distilbert(dropout=0.0), gpt2]


@pytest.mark.parametrize(("make", "precision"), [
    *[(make, "fp32") for make in (*MODELS, albert)], *[pytest.param(make, "bf16", marks=pytest.mark.bf16) for make in MODELS],
])  # fmt: skip
def test_packed_batches_are_padded_ones_under_lora(make, precision):
    """Losses and gradient norms of each step, to the precision's rounding: the hooks find the model in peft's wrapper."""
    found = {}
    for batching in ("padded", "packed"):
        config = TrainConfig(batch_size=8, epochs=1, device="cpu", batching=batching, lora=True, lora_merge=True,
                             lora_dropout=0.0, learning_rate=1e-2, precision=precision)  # fmt: skip
        setup = build(tiny.TokenTask(), tiny.token_rows(40), config, make())
        assert setup.layout.kind == batching
        records = [train_step(setup.state, tiny.TokenTask(), m, config, setup.world) for _, m in setup.data.steps()]
        found[batching] = torch.tensor([[float(r.loss_sum), float(r.grad_norm)] for r in records])
    tolerance = {"fp32": 1e-4, "bf16": 2**-8}[precision]
    torch.testing.assert_close(found["packed"], found["padded"], rtol=tolerance, atol=tolerance)


def test_steps_equal_trainer_bitwise(tmp_path):
    """The reference is peft's own wrapper of the same model, trained by Trainer."""
    theirs, ours = tiny.bert(dropout=0.1), tiny.bert(dropout=0.1)
    torch.manual_seed(SETTINGS["seed"])  # as the engine does before the model is built
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, modules_to_save=["classifier"]))
    rows = tiny.token_rows(60)
    run_trainer(theirs, rows, tmp_path)
    assert len(run_ours(ours, rows, lora=True, lora_merge=True)) == 16
    assert_parameters_equal(ours, theirs.get_base_model())  # ours was wrapped in place


def test_only_adapter_and_head_are_trained():
    model = tiny.distilbert()
    before = copy.deepcopy(model.state_dict())
    config = TrainConfig(batch_size=8, device="cpu", lora=True, lora_merge=True, head_learning_rate=1e-2)
    setup = build(tiny.TokenTask(), tiny.token_rows(40), config, model)
    trained = {name for name, p in setup.state.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert {name.split(".")[2] for name in trained if "modules_to_save" in name} == {"pre_classifier", "classifier"}
    head = {id(p) for group in setup.state.optimizer.param_groups if group["lr"] == 1e-2 for p in group["params"]}
    assert head == {id(p) for n, p in setup.state.model.named_parameters() if p.requires_grad and "modules_to_save" in n}
    for _, micro_batches in setup.data.steps():
        train_step(setup.state, tiny.TokenTask(), micro_batches, config, setup.world)
    after = {
        n.replace(".base_layer", "").removeprefix("base_model.model."): t for n, t in setup.state.model.state_dict().items()
    }
    body = [name for name in before if name.startswith("distilbert.")]
    assert body and all(torch.equal(before[name], after[name]) for name in body)


def test_the_adapters_dropout_is_the_fast_one_where_batches_are_packed():
    for batching, kind in (("packed", FastDropout), ("padded", torch.nn.Dropout)):
        config = TrainConfig(lora=True, lora_merge=True, lora_dropout=0.1, batching=batching, device="cpu", precision="fp32")
        task = tiny.TokenTask(train=tiny.token_rows(8))
        model = build(task, task.examples()["train"], config, tiny.bert()).state.model
        kinds = {type(module) for name, module in model.named_modules() if "lora_dropout." in name}
        assert kinds == {kind}, batching


def test_a_language_models_head_is_not_new():
    from transformers import BertForMaskedLM, GPT2LMHeadModel

    assert lora.head_modules(GPT2LMHeadModel(gpt2().config)) == []
    assert lora.head_modules(BertForMaskedLM(tiny.bert().config)) == []
    assert lora.head_modules(tiny.bert()) == ["classifier"] and lora.head_modules(tiny.bert().bert) == []


def test_peft_takes_the_directory_as_it_is(runs, project):
    merged = AutoModelForSequenceClassification.from_pretrained(runs / "merged")
    expected = logits(merged, runs / "merged")
    base = AutoModelForSequenceClassification.from_pretrained(
        project / "model", config=AutoConfig.from_pretrained(runs / "adapter"), ignore_mismatched_sizes=True
    )
    untrained = logits(copy.deepcopy(base), runs / "merged")
    for model in (
        peft.PeftModel.from_pretrained(base, runs / "adapter"),
        peft.AutoPeftModel.from_pretrained(runs / "adapter", num_labels=3),
    ):
        torch.testing.assert_close(logits(model, runs / "adapter"), expected, atol=1e-5, rtol=0)
    assert (untrained - expected).abs().max() > 0.01, "training must have changed something"
    names = {path.name for path in (runs / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    weights = load_file(runs / "adapter/adapter_model.safetensors")
    assert sum(t.numel() for t in weights.values()) < sum(p.numel() for p in base.parameters()) / 2


def test_its_card_loads_it(runs, project, monkeypatch):
    text = (runs / "adapter/README.md").read_text()
    monkeypatch.chdir(runs)
    code = code_in(text, "python")
    assert str(project) not in text and "from_pretrained('model'" in code
    names: dict = {}
    exec(code.replace("'model'", repr(str(project / "model"))), names)
    expected = logits(AutoModelForSequenceClassification.from_pretrained(runs / "merged"), runs / "merged")
    torch.testing.assert_close(logits(names["model"], runs / "adapter"), expected, atol=1e-5, rtol=0)


def test_predict_and_evaluate_read_an_adapter(runs, tmp_path):
    both = {}
    for name in ("adapter", "merged"):
        task, model, layout = open_model(str(runs / name), tasks.find, device="cpu")
        assert layout.kind == "packed"
        both[name] = torch.tensor([list(row["probabilities"].values()) for row in task.predict(model, TEXTS, layout)])
        figures = json.loads((runs / name / "run.json").read_text())["metrics"]
        arguments = ["evaluate", "--model", str(runs / name), "--device", "cpu"]
        assert run.main([*arguments, "--output", str(tmp_path / "e.json")]) == 0
        assert json.loads((tmp_path / "e.json").read_text())["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-5)
    torch.testing.assert_close(both["adapter"], both["merged"], atol=1e-6, rtol=0)


def test_training_goes_on_from_an_adapter_but_not_beside_another(runs, project, tmp_path, capsys):
    arguments = command(project, "--output-dir", str(tmp_path / "further"))
    arguments[3] = str(runs / "adapter")
    code, line = fails([*arguments, "--lora"], capsys)
    assert code == 2 and "--lora-merge" in line
    assert run.main([*arguments, "--lora", "--lora-merge"]) == 0
    assert (tmp_path / "further/model.safetensors").exists()


def test_resuming_is_bitwise(project, tmp_path, monkeypatch):
    from engine.checkpoint import saver

    whole = [*FLAGS, "--max-steps", "8", "--save-steps", "3", "--log-steps", "1"]
    assert run.main(command(project, *whole, "--output-dir", str(tmp_path / "a"))) == 0
    commit = saver.commit

    def killed(*arguments):
        commit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(saver, "commit", killed)
    assert run.main(command(project, *whole, "--output-dir", str(tmp_path / "b"))) == 130
    monkeypatch.setattr(saver, "commit", commit)
    assert run.main(command(project, *whole, "--output-dir", str(tmp_path / "b"), "--resume")) == 0
    once, twice = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    files = store.newest(tmp_path / "b/checkpoints")
    assert len(files["model.safetensors"]) > (project / "model/model.safetensors").stat().st_size, "the whole model"


def test_an_ordinary_run_in_its_place_leaves_no_adapter(runs, project, tmp_path):
    arguments = command(project, "--output-dir", str(tmp_path / "run"))
    assert run.main([*arguments, *FLAGS]) == 0
    assert run.main([*arguments, "--overwrite"]) == 0
    assert not lora.is_adapter(tmp_path / "run") and not list((tmp_path / "run").glob("adapter*"))
    assert run.main([*arguments, *FLAGS, "--overwrite"]) == 0
    assert not (tmp_path / "run/model.safetensors").exists()


def test_what_is_refused(runs, project, tmp_path, capsys, monkeypatch):
    arguments = command(project, "--output-dir", str(tmp_path / "run"))
    code, line = fails([*arguments, "--lora", "--lora-targets", "quary"], capsys)
    assert code == 2 and "quary" in line and "--lora-targets" in line
    for flags in (["--lora-merge"], ["--lora-targets", "query"], ["--lora-rank", "4"], ["--lora-dropout", "0.5"]):
        code, line = fails([*arguments, *flags], capsys)
        assert code == 2 and line == f"error: {flags[0]} needs --lora"
    code, line = fails(["push", "--model", str(runs / "adapter"), "--repo", "org/mine"], capsys)
    assert code == 2 and "--lora-merge" in line
    with pytest.raises(UsageError, match="stands nowhere"):
        lora.add(tiny.bert(), TrainConfig(lora=True), None)
    with pytest.raises(UsageError, match="found Linear"):
        lora.add(torch.nn.Linear(2, 2), TrainConfig(lora=True), None)
    monkeypatch.setitem(sys.modules, "peft", None)
    for each in ([*arguments, "--lora"], ["predict", "--model", str(runs / "adapter"), "w0"]):
        code, line = fails(each, capsys)
        assert code == 2 and "pip install -c constraints.txt '.[lora]'" in line


def test_a_base_model_that_has_gone_is_one_line(runs, tmp_path, capsys):
    shutil.copytree(runs / "adapter", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    settings = json.loads((tmp_path / "run/adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "run/adapter_config.json").write_text(json.dumps(settings))
    code, line = fails(["predict", "--model", str(tmp_path / "run"), "w0"], capsys)
    assert code == 4 and "its base model is no longer in" in line
    (tmp_path / "run/adapter_config.json").write_text("{")
    code, line = fails(["predict", "--model", str(tmp_path / "run"), "w0"], capsys)
    assert code == 4 and "is not an adapter's" in line


def copied(runs, tmp_path, **settings) -> Path:
    """The adapter's directory, with other settings."""
    folder = tmp_path / "run"
    shutil.copytree(runs / "adapter", folder, ignore=shutil.ignore_patterns("checkpoints"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"lora_alpha": float("nan")}, "NaN"), ({"lora_alpha": float("inf")}, "Infinity"), ({"lora_alpha": "16"}, "lora_alpha"),
     ({"lora_alpha": 1e308}, "holds NaN or infinity"), ({"r": 0}, "r cannot be 0"), ({"r": 10**30}, "r cannot be"),
     ({"peft_type": "IA3"}, "peft_type is not LORA"), ({"target_modules": "(a|aa)+$"}, "names of modules alone"),
     ({"rank_pattern": {"(a|aa)+$": 4}}, "names of modules alone"), ({"alpha_pattern": {"query": "x"}}, "alpha_pattern.query"),
     ({"base_model_name_or_path": 3}, "base_model_name_or_path"), ({"target_modules": [3]}, "names of modules alone"),
     ({"target_modules": ["no_such"]}, "No modules were targeted"),
     ({"megatron_config": {"a": 1}, "megatron_core": "evil.core"}, "megatron_config is set"),
     ({"layer_replication": [[0, 10**9]]}, "layer_replication is set"), ({"base_model_name_or_path": "\ud800"}, "half a character")],
)  # fmt: skip
def test_an_adapter_with_strange_settings_is_refused(settings, words, runs, tmp_path, capsys):
    code, line = fails(["predict", "--model", str(copied(runs, tmp_path, **settings)), "w0"], capsys)
    assert code == 4 and words in line


def change_weights(folder, change) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


def first(weights, part: str) -> str:
    return next(name for name in weights if part in name)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda w: w[first(w, "lora_A")].fill_(float("nan")), "holds NaN or infinity"),
     (lambda w: w[first(w, "classifier")].fill_(float("inf")), "holds NaN or infinity"),
     (lambda w: w.pop(first(w, "lora_B")), "adapter_model.safetensors lacks"),
     (lambda w: [w.pop(name) for name in list(w) if "lora_" in name], "adapter_model.safetensors lacks"),
     (lambda w: w.pop(first(w, "classifier")), "base_model.model.classifier"),
     (lambda w: w.update(stray=torch.zeros(2)), "which has no place in the model"),
     (lambda w: w.update({first(w, "lora_A"): torch.zeros(3, 3)}), "size mismatch")],
)  # fmt: skip
def test_an_adapters_weights_have_the_checks_of_a_models(change, words, runs, project, tmp_path, capsys):
    folder = copied(runs, tmp_path)
    change_weights(folder, change)
    training = command(project, "--output-dir", str(tmp_path / "next"))
    training[3] = str(folder)
    for arguments in (["predict", "--model", str(folder), "w0"], ["evaluate", "--model", str(folder)], training):
        code, line = fails(arguments, capsys)
        assert code == 4 and words in line


def test_a_base_model_of_another_size_is_refused(runs, tmp_path, capsys):
    """Its embeddings would be made anew, at random, without a word."""
    folder = copied(runs, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 150}))
    code, line = fails(["predict", "--model", str(folder), "w0"], capsys)
    assert code == 4 and "lacks, or has in another size, bert.embeddings.word_embeddings.weight" in line


def test_an_adapters_pickle_is_never_opened(runs, tmp_path, capsys):
    folder = copied(runs, tmp_path)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    code, line = fails(["predict", "--model", str(folder), "w0"], capsys)
    assert code == 4 and "a pickle can run code and is never opened; if you trust it: cd" in line
    command = line[line.index("cd ") :].replace("&& python ", f"&& {sys.executable} ")
    subprocess.run(command, shell=True, check=True)  # what it says, taken
    assert run.main(["predict", "--model", str(folder), "w0"]) == 0
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        (folder / name).unlink()
    code, line = fails(["predict", "--model", str(folder), "w0"], capsys)
    assert code == 4 and "other files of weights are never opened" in line


def test_an_adapter_of_an_adapter_is_refused(runs, project, tmp_path, capsys):
    """transformers would load the one in the base model's folder by itself, a pickle, too."""
    base = shutil.copytree(project / "model", tmp_path / "base")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(runs / "adapter" / name, base)
    folder = copied(runs, tmp_path, base_model_name_or_path=str(base))
    code, line = fails(["predict", "--model", str(folder), "w0"], capsys)
    assert code == 4 and "is an adapter itself" in line


def test_a_base_model_that_was_replaced_is_refused(project, tmp_path, capsys):
    base = shutil.copytree(project / "model", tmp_path / "base")
    folder = tmp_path / "run"
    arguments = command(project, *FLAGS, "--output-dir", str(folder))
    arguments[3] = str(base)
    assert run.main(arguments) == 0
    assert len(json.loads((folder / "run.json").read_text())["base_model"]["weights"]) == 64
    assert run.main(["predict", "--model", str(folder), "w0"]) == 0
    capsys.readouterr()
    tiny.bert(seed=1).save_pretrained(base)
    code, line = fails(["predict", "--model", str(folder), "w0"], capsys)
    assert code == 4 and f"its base model {base} has other weights now" in line
    document = json.loads((folder / "run.json").read_text())
    del document["base_model"]["weights"]  # an older run does not say
    (folder / "run.json").write_text(json.dumps(document))
    assert run.main(["predict", "--model", str(folder), "w0"]) == 0


def test_the_work_is_counted_without_the_frozen_weights_gradients():
    """All but the two small products per target: forward twice a weight, and as much again for what it hands down."""
    model = tiny.bert()
    full = count_flops(model, "sequence")
    wrapped = lora.plain(lora.add(model, TrainConfig(lora=True, lora_merge=True), None))
    small = sum(p.numel() for name, p in wrapped.named_parameters() if "lora_" in name)
    first = wrapped.bert.encoder.layer[0].attention.self.query  # what comes into it has no gradient: the embeddings are frozen
    without = 2 * (first.base_layer.weight.numel() + first.lora_A["default"].weight.numel())
    assert count_flops(wrapped, "sequence").per_token == pytest.approx(full.per_token * 4 / 6 + 6 * small - without)


def test_an_adapters_source_may_be_a_relative_folder(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    arguments = command(project, *FLAGS, "--output-dir", str(tmp_path / "run"))
    arguments[3] = "model"
    assert run.main(arguments) == 0
    monkeypatch.chdir(tmp_path)
    assert run.main(["predict", "--model", "run", "w0"]) == 0
    assert lora.base_of("run") == str(project / "model")
    assert Source(SourceConfig(model="run")).model(None) == "run"


def test_a_pooler_that_the_checkpoint_lacks_is_saved_with_the_adapter(tmp_path, project, capsys):
    """As of a masked language model: new and random, it is trained, and without it the adapter would answer at random."""
    from transformers import BertForMaskedLM

    net = BertForMaskedLM(tiny.bert().config)
    tiny.save_model(tmp_path / "base", net)
    arguments = command(project, *FLAGS, "--max-steps", "2", "--precision", "fp32")
    arguments[arguments.index("--model") + 1] = str(tmp_path / "base")
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main([*arguments, *more, "--output-dir", str(tmp_path / name)]) == 0
    found = [open_model(str(tmp_path / name), tasks.find, device="cpu")[1] for name in ("adapter", "merged")]
    torch.testing.assert_close(*(logits(model, tmp_path / "adapter") for model in found))
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert "pooler" in settings["modules_to_save"]
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings | {"modules_to_save": ["classifier"]}))
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, tmp_path / "adapter/adapter_model.safetensors")  # as one that was saved without it
    code, line = fails(["predict", "--model", str(tmp_path / "adapter"), "--device", "cpu", *TEXTS], capsys)
    assert code == 4 and "lacks, or has in another size, bert.pooler" in line
