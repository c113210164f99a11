"""How long a text may be: the model's table of positions is asked, and never the model's name."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoModel

from engine.model.capabilities import first_position, without_weights

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 60,
         "max_position_embeddings": 34, "pad_token_id": 1}  # fmt: skip
KINDS = {
    "Bert": {}, "Electra": {"embedding_size": 16}, "Roberta": {}, "XLMRoberta": {}, "Camembert": {}, "MPNet": {}, "Data2VecText": {},
    "Longformer": {"attention_window": 8}, "Xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "Esm": {"position_embedding_type": "absolute", "mask_token_id": 2}, "RobertaPreLayerNorm": {}, "Luke": {"entity_vocab_size": 5},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_the_limit_fits_and_a_longer_one_does_not(kind):
    config = getattr(transformers, f"{kind}Config")(**SIZES | KINDS[kind])
    limit = config.max_position_embeddings - first_position(without_weights(AutoModel, config))
    model = AutoModel.from_config(config).eval()

    def runs(length: int) -> bool:
        ids = torch.full((1, length), 5)
        try:
            return bool(torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]).all())
        except (IndexError, RuntimeError):
            return False

    assert runs(limit) and not runs(limit + 1), limit


def test_models_without_such_a_table_lose_no_position():
    for config in (transformers.LlamaConfig(num_hidden_layers=1), transformers.GPT2Config(n_layer=1), transformers.T5Config()):
        assert first_position(without_weights(AutoModel, config)) == 0
