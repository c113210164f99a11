"""Drawn pictures with captions, and a small model to learn them: for where neither data nor a checkpoint can be had.

    a red circle in the top left        a green star at the bottom        a blue triangle in the middle

5 shapes, 6 colours, 9 places: 270 combinations. A fifth of the combinations is held out as a whole, so a caption of the
evaluation data has never been seen: the model has to put it together from what it has learned of shape, colour and place.
Size, place, shade and background vary. All of it is a function of a seed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from engine.data.cache import entry_or_temporary

VERSION = 1
SIZE, SEED = 48, 7
SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {"red": (214, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 210), "yellow": (235, 205, 40),
           "purple": (140, 50, 170), "black": (25, 25, 25)}  # fmt: skip
PLACES = ("in the top left", "at the top", "in the top right", "on the left", "in the middle", "on the right",
          "in the bottom left", "at the bottom", "in the bottom right")  # fmt: skip
HELD_OUT = 0.2
PER_COMBINATION = {"train": 12, "eval": 6}
Combination = tuple[str, str, str]

WIDTH, VOCABULARY, POSITIONS = 128, 8192, 128
POSITION_STD = 0.5  # as large as the patches': at ViT's own 0.02, colours and shapes are learned by heart before places


def combinations() -> dict[str, list[Combination]]:
    """Those of each split; no combination stands in both."""
    every = list(product(SHAPES, COLOURS, PLACES))
    order = np.random.default_rng(SEED).permutation(len(every))
    held = set(order[: round(HELD_OUT * len(every))].tolist())
    return {
        "train": [one for i, one in enumerate(every) if i not in held],
        "eval": [one for i, one in enumerate(every) if i in held],
    }


def caption_of(combination: Combination) -> str:
    shape, colour, place = combination
    return f"a {colour} {shape} {place}"


def drawn(split: str) -> tuple[list[bytes], list[str]]:
    """The pictures of a split as PNG files, and their captions."""
    pictures, captions = [], []
    for combination in combinations()[split]:
        for number in range(PER_COMBINATION[split]):
            seed = hashlib.sha256(f"{VERSION} {SEED} {split} {combination} {number}".encode()).digest()
            stream = BytesIO()
            draw(combination, np.random.default_rng(list(seed))).save(stream, "PNG")
            pictures.append(stream.getvalue())
            captions.append(caption_of(combination))
    return pictures, captions


def draw(combination: Combination, generator: np.random.Generator) -> Image.Image:
    """One picture of SIZE x SIZE points."""
    shape, colour, place = combination
    light = int(generator.integers(200, 256))
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(light + generator.integers(-12, 13)) for _ in range(3)))  # type: ignore[arg-type]
    row, column = divmod(PLACES.index(place), 3)
    third = SIZE / 3
    radius = generator.uniform(0.3, 0.48) * third
    x, y = ((at + 0.5) * third + generator.uniform(-0.14, 0.14) * third for at in (column, row))
    shade = tuple(int(np.clip(c + generator.integers(-22, 23), 0, 255)) for c in COLOURS[colour])
    ImageDraw.Draw(image).polygon(outline(shape, x, y, radius), fill=shade)
    return image


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a shape around (x, y) that fits in a circle of radius r."""

    def around(angles: Sequence[float], radii: Sequence[float]) -> list[tuple[float, float]]:
        return [(x + radius * math.sin(a), y - radius * math.cos(a)) for a, radius in zip(angles, radii, strict=True)]

    def turn(number: int, start: float = 0.0) -> list[float]:
        return [2 * math.pi * (i + start) / number for i in range(number)]

    if shape == "circle":
        return around(turn(40), [0.95 * r] * 40)
    if shape == "square":
        return around(turn(4, 0.5), [1.1 * r] * 4)
    if shape == "triangle":
        return around(turn(3), [1.1 * r] * 3)
    if shape == "star":
        return around(turn(10), [1.1 * r, 0.42 * r] * 5)
    arm = 0.34 * r
    quarter = [(-arm, -r), (arm, -r), (arm, -arm), (r, -arm), (r, arm), (arm, arm), (arm, r), (-arm, r), (-arm, arm), (-r, arm),
               (-r, -arm), (-arm, -arm)]  # fmt: skip
    return [(x + dx, y + dy) for dx, dy in quarter]


# ------------------------------------------------------------------------------------------------------ a small model


def small_captioner(captions: Sequence[str]) -> tuple[str, str]:
    """The folder of a small ViT with a small GPT-2, and what to call it; the same captions give the same one.

    The weights are random: a learning rate near 1e-3 suits it, not one for fine-tuning.
    """
    words = Counter(word for caption in captions for word in caption.split())
    kept = sorted(word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:VOCABULARY])
    digest = hashlib.sha256(repr((VERSION, SIZE, WIDTH, POSITIONS, POSITION_STD, kept)).encode()).hexdigest()[:16]
    folder = entry_or_temporary("models", f"captioner-{digest}", lambda folder: save_small_captioner(folder, kept))
    return str(folder), "a small ViT and GPT-2 with random weights, words of these captions (--learning-rate 1e-3 suits it)"


def save_small_captioner(folder: Path, words: Sequence[str]) -> None:
    """0.9 M parameters and a few words."""
    special = {"pad_token": "[PAD]", "bos_token": "[START]", "eos_token": "[END]", "unk_token": "[UNK]"}
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special.values(), *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=POSITIONS, **special)
    pad, start, end = tokenizer.convert_tokens_to_ids(["[PAD]", "[START]", "[END]"])
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = ViTModel(ViTConfig(**sizes, image_size=SIZE, patch_size=16))
        decoder = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=WIDTH, n_layer=2, n_head=4, n_inner=2 * WIDTH,
                       **off, bos_token_id=start, eos_token_id=end, pad_token_id=pad, add_cross_attention=True, is_decoder=True)
        )  # fmt: skip
        torch.nn.init.normal_(encoder.embeddings.position_embeddings, std=POSITION_STD)
        model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = start, end, pad
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
