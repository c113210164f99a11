"""Packed is the same as padded for the architectures that auto packs, and those that do not fit fall back with one line.

Every model here is small, random, and has large weights, so that attention is far from even and a leak between segments
would show in the first digit. Differences are measured in float32 with dropout off, over logits and all gradients.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    ElectraConfig,
    ErnieConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    Qwen2MoeConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from bench.architectures.shrink import shrunk
from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.data.cache import cache_folder
from engine.data.collate import Layout, arrange
from engine.errors import UsageError
from engine.loop import train_step
from engine.model import attention, layout, packing, packing_check
from engine.model.layout import choose_layout, why_not_packed
from engine.model.packing_check import TOLERANCE, check_kernel, compare_small_copy, largest_difference
from tasks.offline import packaged_minilm
from tests.toys.architectures import DECODER, DISTIL, ENCODER, GPT2, LLAMA, MODERN, NEOX, OPT, QWEN3, ROBERTA, strong

CPU = torch.device("cpu")
SEQUENCE, TOKEN, MASKED, CAUSAL, QUESTION = (
    AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForMaskedLM, AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
)  # fmt: skip
FITTING = {
    "Bert": (BertConfig(**ENCODER), SEQUENCE),
    "Bert, token head": (BertConfig(**ENCODER), TOKEN),
    "Bert, questions": (BertConfig(**ENCODER | {"num_labels": 2}), QUESTION),
    "Roberta, questions": (RobertaConfig(**ROBERTA | {"num_labels": 2}), QUESTION),
    "Bert, masked": (BertConfig(**ENCODER), MASKED),
    "DistilBert": (DISTIL, SEQUENCE),
    "DistilBert, masked": (DISTIL, MASKED),
    "Roberta": (RobertaConfig(**ROBERTA), SEQUENCE),
    "Roberta, masked": (RobertaConfig(**ROBERTA), MASKED),
    "XLM-R": (XLMRobertaConfig(**ROBERTA), SEQUENCE),
    "Camembert": (CamembertConfig(**ROBERTA), SEQUENCE),
    "ModernBert": (ModernBertConfig(**MODERN), SEQUENCE),
    "ModernBert, mean": (ModernBertConfig(**MODERN, classifier_pooling="mean"), SEQUENCE),
    "ModernBert, masked": (ModernBertConfig(**MODERN), MASKED),
    "Electra": (ElectraConfig(**ENCODER, embedding_size=32), SEQUENCE),
    "Albert": (AlbertConfig(**ENCODER, embedding_size=16), SEQUENCE),
    "Ernie": (ErnieConfig(**ENCODER), SEQUENCE),
    "GPT2": (GPT2, CAUSAL),
    "GPT2, classes": (GPT2, SEQUENCE),
    "Llama": (LLAMA, CAUSAL),
    "Llama, classes": (LLAMA, SEQUENCE),
    "Qwen3": (QWEN3, CAUSAL),
    "Qwen3, classes": (QWEN3, SEQUENCE),
    "Mistral, window 8": (MistralConfig(**DECODER, sliding_window=8), CAUSAL),
    "OPT": (OPT, CAUSAL),
    "OPT, classes": (OPT, SEQUENCE),
    "GPT-NeoX": (NEOX, CAUSAL),
    "Bert, no head": (BertConfig(**ENCODER), AutoModel),
    "XLM-R, no head": (XLMRobertaConfig(**ROBERTA), AutoModel),
    "ModernBert, no head": (ModernBertConfig(**MODERN), AutoModel),
    "Qwen3, no head": (QWEN3, AutoModel),
}
REFUSED = {
    "DebertaV2": (DebertaV2Config(**ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"]), "attention built in"),
    "MPNet": (MPNetConfig(**ROBERTA), "attention built in"),
    "XLNet": (XLNetConfig(vocab_size=200, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=3, pad_token_id=0), ""),
    "Qwen2Moe, a window in its mask alone": (
        Qwen2MoeConfig(
            **DECODER,
            use_sliding_window=True,
            sliding_window=128,
            max_window_layers=3,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=32,
        ),
        "differ",
    ),
}


def level_of(kind) -> str:
    return "sequence" if kind is SEQUENCE else "token"


@pytest.mark.parametrize("name", FITTING)
def test_packed_equals_padded(name):
    """On the model itself, and by the check that ``auto`` makes on its twin."""
    config, kind = FITTING[name]
    torch.manual_seed(0)
    model = strong(kind.from_config(config))
    assert compare_small_copy(model, level_of(kind)) is None
    assert largest_difference(model, level_of(kind)) < TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_padded_and_said(name, capsys):
    torch.manual_seed(0)
    config, reason = REFUSED[name]
    model = SEQUENCE.from_config(config)
    assert choose_layout("auto", model, "sequence", None, CPU, "fp32").kind == "padded"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("batching: padded, because ") and type(model).__name__ in said
    assert reason in said
    with pytest.raises(UsageError, match=r"--batching packed: .* use padded or bucketed"):
        choose_layout("packed", model, "sequence", None, CPU, "fp32")


PICKING = {  # architectures whose attention picks keys out of more than a row of the check has
    "deepseek_v32": ({"index_topk": 2048}, "packed attention has no indices"),
    "minimax_m3_vl_text": (
        {"layer_types": ["full_attention", "minimax_m3_sparse"], "index_head_dim": 8, "index_n_heads": 2, "rotary_dim": 8},
        "packed attention has no block_indices",
    ),
}


@pytest.mark.parametrize("name", PICKING)
def test_attention_to_some_keys_is_padded_although_short_rows_have_no_more(name):
    """Their packed and padded batches differ in long rows only."""
    own, reason = PICKING[name]
    kind = CONFIG_MAPPING[name]
    model = CAUSAL.from_config(kind.from_dict(shrunk(kind().to_dict(), own)))
    assert reason in compare_small_copy(model, "token")


@pytest.mark.parametrize(("given", "what"), [
    ({"attention_mask": torch.zeros(1, 1, 3, 3)}, "mask of the model's own"), ({"softcap": 30.0}, "softcap"),
    ({"position_bias": torch.zeros(1, 2, 3, 3)}, "position_bias"), ({"picked": torch.zeros(3)}, "picked"),
    ({"attention_mask": torch.zeros(1, 1, 1, 1), "softcap": None, "position_ids": torch.arange(3)[None], "deterministic": False}, None),
])  # fmt: skip
def test_what_packed_attention_does_not_know_is_refused_and_not_left_out(given, what):
    q = torch.randn(1, 2, 3, 8)
    packed = {"cu_seq_lens_q": torch.tensor([0, 3], dtype=torch.int32), "max_length_q": 3}
    arguments = packed | {"attention_mask": None} | given
    if what is None:
        assert packing.attention(nn.Module(), q, q, q, **arguments)[0].shape == (1, 3, 2, 8)
    else:
        with pytest.raises(NotImplementedError, match=f"packed attention has no {what}"):
            packing.attention(nn.Module(), q, q, q, **arguments)


def test_a_model_of_ones_own_is_padded(capsys):
    assert choose_layout("auto", nn.Linear(2, 2), "sequence", None, CPU, "fp32").kind == "padded"
    assert "Linear is not a transformers model" in capsys.readouterr().err


def test_a_task_can_have_batches_that_are_never_packed(capsys):
    assert choose_layout("auto", tiny.bert(), None, None, CPU, "fp32") == Layout(sides=("right",))
    assert capsys.readouterr().err == "batching: padded, because this task's batches hold more than text\n"


def test_real_minilm():
    """The weights and the size of a model that is in use."""
    path = packaged_minilm()
    assert path is not None, "the offline extra is part of the dev set-up"
    torch.manual_seed(0)
    model = SEQUENCE.from_pretrained(path, num_labels=2, dtype=torch.float32).eval()
    assert largest_difference(model, "sequence") < TOLERANCE


# ------------------------------------------------------------------------------------------ the check can fail


def leaking(q, k, v, offsets, longest, **options):
    return attention.attend(q, k, v, offsets[[0, -1]], q.shape[0], **options)


def test_the_check_notices_a_leak_between_segments(monkeypatch):
    monkeypatch.setattr(packing, "attend", leaking)
    assert "differ" in compare_small_copy(tiny.bert(), "sequence")


def test_the_check_notices_positions_that_do_not_restart(monkeypatch):
    monkeypatch.setattr(packing, "position_start", lambda model: 1)
    assert "differ" in compare_small_copy(tiny.bert(), "sequence")


def test_the_check_notices_a_head_that_reads_another_token(monkeypatch):
    real = packing_check.arrange

    def shifted(rows, layout, tokenizer):
        inputs, counts = real(rows, layout, tokenizer)
        if "segment_first" in inputs:
            inputs["segment_first"] = inputs["segment_first"] + 1
        return inputs, counts

    monkeypatch.setattr(packing_check, "arrange", shifted)
    assert "differ" in compare_small_copy(tiny.bert(), "sequence")


def test_the_check_notices_a_wrong_gradient_behind_right_logits(monkeypatch):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient / 2

    monkeypatch.setattr(
        packing, "attend", lambda q, k, v, *rest, **options: attention.attend(Halved.apply(q), k, v, *rest, **options)
    )
    assert "differ" in compare_small_copy(tiny.bert(), "sequence")


def test_a_failing_check_pads(monkeypatch, capsys):
    monkeypatch.setattr(packing, "attend", leaking)
    assert choose_layout("auto", tiny.bert(), "sequence", None, CPU, "fp32").kind == "padded"
    assert "packed and padded batches differ on a small BertForSequenceClassification" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- the verdict


def test_the_verdict_is_kept_and_asked_for_once(monkeypatch):
    calls = []
    monkeypatch.setattr(layout, "compare_small_copy", lambda model, level: calls.append(level))
    for _ in range(3):
        assert why_not_packed(tiny.bert(), "sequence", CPU, "fp32") is None
    assert calls == ["sequence"]
    why_not_packed(tiny.bert(), "token", CPU, "fp32")
    why_not_packed(tiny.distilbert(), "sequence", CPU, "fp32")
    assert len(calls) == 3, "another head or architecture is another question"
    monkeypatch.setattr(torch, "__version__", "9.9")
    why_not_packed(tiny.bert(), "sequence", CPU, "fp32")
    assert len(calls) == 4


def test_running_out_of_memory_is_no_verdict(monkeypatch):
    monkeypatch.setattr(packing_check, "small_copy", lambda model: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        why_not_packed(tiny.bert(), "sequence", CPU, "fp32")
    assert list((cache_folder() / "packing").iterdir()) == []


def test_the_kernel_is_checked_against_the_cpus(monkeypatch):
    """The CPU's in half precision stands for a GPU's: it agrees; one that leaks, or fails, is refused."""
    config = BertConfig(**ENCODER)
    assert check_kernel(config, CPU, "bf16") is None
    real = attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda q, *rest, **options: real(q, *rest, **options) * (1.0 + (q.dtype == torch.bfloat16))
    )
    assert "computes something else" in check_kernel(config, CPU, "bf16")

    def failing(*args, **options):
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setattr(attention, "attend", failing)
    assert check_kernel(config, CPU, "bf16").endswith("(no kernel image)")
    assert "heads of at most 256" in check_kernel(LlamaConfig(**DECODER | {"head_dim": 320}), CPU, "bf16")


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_verdict_is_made_again(damage):
    why_not_packed(tiny.bert(), "sequence", CPU, "fp32")
    [known] = (cache_folder() / "packing").glob("*/verdict.json")
    known.write_bytes(damage)
    assert why_not_packed(tiny.bert(), "sequence", CPU, "fp32") is None
    assert json.loads(known.read_text())["reason"] is None


def test_the_description_of_a_model_changes_with_each_field_of_its_configuration():
    """And with its class, its kind of attention, and the versions; not with its weights or the names of its labels."""
    for make in (tiny.bert, tiny.distilbert):
        found = {packing_check.described(make()), packing_check.described(make(seed=1))}
        assert len(found) == 1
        fields = make().config.to_dict().keys() & vars(make().config).keys()
        fields -= {"_name_or_path", "id2label", "label2id", "transformers_version"}
        for name in fields:
            model = make()
            vars(model.config)[name] = "another"
            found.add(packing_check.described(model))
        assert len(found) == 1 + len(fields) > 20
    model = tiny.bert()
    model.set_attn_implementation("eager")
    assert packing_check.described(model) != packing_check.described(tiny.bert())


def test_the_check_draws_nothing_and_leaves_the_model_alone():
    model = tiny.bert()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    compare_small_copy(model, "sequence")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("device", "precision", "why"), [("cuda", "fp32", "half precision only"), ("mps", "fp32", "there is none")]
)
def test_where_there_is_no_kernel_the_reason_says_so(device, precision, why):
    assert why in why_not_packed(tiny.bert(), "sequence", torch.device(device), precision)


def test_each_name_has_its_layout():
    assert choose_layout("padded", tiny.bert(), "sequence", 32, CPU, "fp32") == Layout(sides=("right",))
    assert choose_layout("bucketed", tiny.bert(), "sequence", 32, CPU, "fp32") == Layout(sides=("right",))
    assert choose_layout("max_length", tiny.bert(), "sequence", 32, CPU, "fp32") == Layout("max_length", 32, sides=("right",))
    assert choose_layout("auto", tiny.bert(), "sequence", 32, CPU, "fp32").kind == "packed"
    roberta = SEQUENCE.from_config(RobertaConfig(**ROBERTA))
    assert choose_layout("packed", roberta, "sequence", None, CPU, "fp32").position_start == 2
    with pytest.raises(UsageError, match="no length to pad to"):
        choose_layout("max_length", tiny.bert(), "sequence", None, CPU, "fp32")


# ---------------------------------------------------------------------------------------------------- whole steps


def trained(batching_name: str, make, accumulation: int = 1) -> tuple[nn.Module, list[float]]:
    rows = tiny.token_rows(96)
    config = TrainConfig(batch_size=8 // accumulation, accumulation_steps=accumulation, epochs=1, learning_rate=2e-5,
                         device="cpu", precision="fp32", batching=batching_name)  # fmt: skip
    setup = build(tiny.TokenTask(), rows, config, make(dropout=0.0))
    setup.state.model.train()
    norms = [
        float(train_step(setup.state, tiny.TokenTask(), batches, config, setup.world).grad_norm)
        for _, batches in setup.data.steps()
    ]
    return setup.state.model, norms


@pytest.mark.parametrize("make", [tiny.bert, tiny.distilbert])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_twelve_steps_stay_within_a_millionth(make, accumulation):
    """Dropout off; AdamW divides by the gradient's own size, so a rounding error can move a weight by a share of 2e-5."""
    padded, norms = trained("padded", make)
    packed, other_norms = trained("packed", make, accumulation)
    assert len(norms) == 12
    assert norms == pytest.approx(other_norms, rel=1e-4)
    gaps = [(a - b).abs().max().item() for a, b in zip(padded.parameters(), packed.parameters(), strict=True)]
    assert max(gaps) < 1e-6


@pytest.mark.parametrize("name", ["Llama, classes", "GPT2, classes", "Bert"])
def test_a_step_in_bf16(name):
    """On a CPU, with dropout, gradients of all weights: rotary models mix types under autocast."""
    config, kind = FITTING[name]
    config = copy.deepcopy(config)
    for dropout in ("attention_dropout", "attn_pdrop"):
        if hasattr(config, dropout):
            setattr(config, dropout, 0.1)
    settings = TrainConfig(batch_size=8, max_steps=1, device="cpu", precision="bf16", batching="packed")
    rows = tiny.token_rows(8)
    setup = build(tiny.TokenTask(), rows, settings, kind.from_config(config).train())
    [(_, batches)] = setup.data.steps()
    record = train_step(setup.state, tiny.TokenTask(), batches, settings, setup.world)
    assert torch.isfinite(record.loss_sum) and 0 < float(record.grad_norm) < 1e3


def test_a_decoder_whose_texts_end_with_the_token_that_pads():
    """Its padded forward pass reads the token before; so does the packed one."""
    config, kind = FITTING["Llama, classes"]
    torch.manual_seed(0)
    model = strong(kind.from_config(config))
    task, rows = tiny.TokenTask(), tiny.token_rows(3)
    some = [{"input_ids": np.append(rows[i]["input_ids"], [0] * i), "labels": 0} for i in range(3)]
    padded = model(**task.collate(some, Layout()).inputs).logits
    packed = model(**task.collate(some, layout.pack(model, "sequence")).inputs).logits
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-6)


def test_compiling_the_cpus_packed_attention_is_refused():
    with pytest.raises(UsageError, match="--compile on a CPU needs --batching padded"):
        build(tiny.TokenTask(), tiny.token_rows(8), TrainConfig(device="cpu", compile=True), tiny.bert())


def test_padded_batches_and_generate_work_on_a_model_that_takes_packed_ones():
    config, kind = FITTING["GPT2"]
    torch.manual_seed(0)
    model = strong(kind.from_config(config))
    prompt, options = torch.tensor([[5, 6, 7, 8]]), {"max_new_tokens": 6, "do_sample": False}
    before = model.generate(prompt, **options)
    rows = {"input_ids": torch.randint(5, 200, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.int64)}
    rows["attention_mask"][1, 5:] = 0
    logits = model(**rows).logits
    packing.enable(model, "token")
    torch.testing.assert_close(model(**rows).logits, logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.generate(prompt, **options), before)


def test_the_saved_model_names_no_attention_of_ours(tmp_path):
    model = tiny.bert()
    packing.enable(model, "sequence")
    model.save_pretrained(tmp_path)
    assert packing.NAME not in (tmp_path / "config.json").read_text()
    assert SEQUENCE.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_a_whole_step_is_one_graph_for_all_lengths():
    """torch.compile with a stand-in for the CUDA kernel, which is one operator: no break, no recompile for another T."""
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    @torch.library.custom_op("plainloop_tests::attend", mutates_args=())
    def operator(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return attention.attend(q, k, v, offsets, 32, dropout=0.0, scale=0.25, causal=False, window=-1).contiguous()

    operator.register_fake(lambda q, k, v, offsets: torch.empty_like(q, memory_format=torch.contiguous_format))
    operator.register_autograd(lambda ctx, g: (g, g, g, None), setup_context=lambda ctx, inputs, output: None)
    model = tiny.bert(dropout=0.0)
    packed = layout.pack(model, "sequence")
    fixed = Layout("packed", max_length=32, position_start=packed.position_start)
    task, rows = tiny.TokenTask(), tiny.token_rows(24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "attend", lambda q, k, v, offsets, longest, **options: operator(q, k, v, offsets))
        model.compile(backend=count, dynamic=True, fullgraph=True)
        for start, size in ((0, 4), (4, 4), (8, 5), (13, 6), (19, 5)):
            batch = task.collate([rows[i] for i in range(start, start + size)], fixed)
            task.loss(task.forward(model, batch), batch).backward()
    torch._dynamo.reset()
    assert len(graphs) == 1


def test_rounding_up_adds_segments_that_nobody_reads():
    """Logits stay, T is a multiple, and no segment of the tail is longer than the longest allowed."""
    model = tiny.bert(dropout=0.0).eval()
    layout.pack(model, "sequence")
    task, rows = tiny.TokenTask(), tiny.token_rows(5)
    some = [rows[i] for i in range(5)]
    plain = task.collate(some, Layout("packed"))
    rounded = task.collate(some, Layout("packed", max_length=24, round_to=64))
    assert rounded.executed_tokens % 64 == 0 and rounded.num_tokens == plain.num_tokens == plain.executed_tokens
    assert np.diff(rounded.inputs["cu_seq_lens_q"]).max() <= 24
    others = [task.collate([rows[i] for i in range(n)], Layout("packed", max_length=24, round_to=64)) for n in (1, 3, 4)]
    assert [len(b.inputs["cu_seq_lens_q"]) - b.num_examples for b in (rounded, *others)] == [4, 4, 4, 4], "3 in the tail"
    assert int(rounded.inputs["position_ids"].max()) < 24
    torch.testing.assert_close(model(**rounded.inputs).logits, model(**plain.inputs).logits, rtol=1e-5, atol=1e-6)


def left_padded():
    tokenizer = tiny.tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize("make", [tiny.bert, tiny.distilbert])
@pytest.mark.parametrize("name", ["padded", "max_length", "packed"])
def test_a_texts_answer_does_not_depend_on_its_neighbours_however_its_tokenizer_pads(make, name):
    """A model that looks up each position by its number is given the same ones beside a longer text."""
    model = make().eval()
    alone, beside = [], []
    layout = choose_layout(name, model, "sequence", 32, CPU, "fp32")
    rows = [{"input_ids": np.array([2, 9, 8, 3])}, {"input_ids": np.array([2, *range(10, 26), 3])}]
    with torch.no_grad():
        for found, some in ((alone, rows[:1]), (beside, rows)):
            inputs, _ = arrange(some, layout, left_padded())
            found.append(model(**inputs).logits[0])
    torch.testing.assert_close(alone[0], beside[0], rtol=1e-6, atol=1e-6)


def test_where_the_tokenizer_wants_it_a_model_with_relative_positions_is_padded_on_the_left():
    """XLNet's reads the last token's vector."""
    from transformers import XLNetConfig, XLNetForSequenceClassification

    model = XLNetForSequenceClassification(XLNetConfig(vocab_size=100, d_model=32, n_layer=1, n_head=2, d_inner=64))
    assert layout.padded(model, "sequence").sides == ("left",) and layout.padded(tiny.bert(), "sequence").sides == ("right",)
    inputs, _ = arrange(
        [{"input_ids": np.array([7])}, {"input_ids": np.array([8, 9])}], layout.padded(model, "sequence"), left_padded()
    )
    assert inputs["input_ids"].tolist() == [[0, 7], [8, 9]]
