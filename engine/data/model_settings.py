"""What the settings files of a model may say, checked before a library reads them: anybody may have written them.

transformers believes them: it builds as many layers as they name, loads an attention kernel from the Hub if they name one,
takes any text file of this machine for a vocabulary, and passes over a file that is no JSON. Next: sources.py, which checks
each model before it loads anything of it.
"""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.checked import is_a, is_within, leads_within, levels, parse_object, read_bytes, shortened
from engine.data import hub
from engine.errors import ModelError
from engine.settings.fields import user_path

FILES = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json",
    "processor_config.json",
)  # fmt: skip
INDEX = "model.safetensors.index.json"
UNUSED = {  # keys that have a library load, fetch, ask or start something, and what; nothing here needs one
    "quantization_config": "weights that are quantised", "compression_config": "weights that are quantised",
    "transformers_weights": "weights of another name", "gguf_file": "another file", "backbone": "another model",
    "audio_tokenizer": "another model", "custom_generate": "code of its own", "compile_config": "a compiler",
}  # fmt: skip
NEVER_READ = (".py", ".md")
MAY_BE_PATHS = ("vocab", "merges")  # of a tokenizer, which reads a text as a path
# Of attention and experts: flash_attention_2 would be fetched from the Hub, as compiled code, where its package is not
# installed; flex_attention starts a compiler; any other name is one of a repository with compiled code.
IMPLEMENTATIONS = ("eager", "sdpa", "batched_mm", "grouped_mm")
MOST = {
    "layer": 1000,
    "depth": 1000,
    "expert": 10_000,
    "beam": 1000,
    "label": 1_000_000,
    "head": 1_000_000,
    "size": 10**8,
    "dim": 10**8,
}
NO_LIMIT = 10**300  # tokenizers say 10**30 for a length without one
TOKENIZER, MOST_TOKENIZER_BYTES = "tokenizer.json", 1 << 30
MAY_GROW = re.compile(rb'"(pattern|prepend)"\s*:\s*["{]|\\u00[2-7]')  # also with letters that are escaped; most files have none
MOST_GROWTH, MOST_PREPENDED = 1000, 10_000  # times that a text may become longer before it is cut into tokens; characters
LENGTHS = ("max_position_embeddings", "model_max_length")
LABELS = ("id2label", "label2id")  # their keys and values are the user's


def refuse_missing_model(name: str) -> None:
    """Raises ModelError for what reads as a folder, and is none: a path, not a name on the Hub."""
    folder = user_path(name)
    with suppress(OSError):  # a folder that may not be read: said by what opens it
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or (name.count("/") == 1 and folder.parent.is_dir())
        if is_path and not folder.is_dir():
            raise ModelError(f"--model {name}: there is no such directory")


def check_settings(model: str, find: Callable[[str], Path | None]) -> None:
    """Raises ModelError for settings that are damaged, absurd, or would have something loaded.

    ``find``: where one of FILES, or the index of its weights, lies; None: the model has none.
    """
    for name in (*FILES, INDEX, TOKENIZER):
        if (path := find(name)) is not None:
            try:
                if name == TOKENIZER:
                    check_growth(read_bytes(path, MOST_TOKENIZER_BYTES))
                    continue
                found = parse_object(read_bytes(path), constants=True)  # some models know no limit of a time
                check_index(found) if name == INDEX else check_values(found)
            except (OSError, ValueError) as error:
                raise ModelError(f"model {model}: {name} is damaged ({error}): fetch it again") from error


def check_values(found: Any, within: str = "") -> None:
    """Raises ValueError. ``within``: the key that the value stands under; that of a list is that of each of its values."""
    if within in LABELS:
        names = found.values() if isinstance(found, dict) else [found]
        if within == "id2label" and found is not None and not all(is_a(name, str) for name in names):
            raise ValueError("id2label must hold a name for each label")
        return
    if within in LENGTHS and not isinstance(found, int | float | None):
        raise ValueError(f"{within} cannot be {shortened(found)}")
    if within == "architectures" and not (found is None or is_a(found, str) or isinstance(found, list)):
        raise ValueError(f"architectures cannot be {shortened(found)}")
    if within in UNUSED and found:
        raise ValueError(f"{within} asks for {UNUSED[within]}, which is never loaded")
    if within in MAY_BE_PATHS and isinstance(found, str):
        raise ValueError(f"{within} cannot be {shortened(found)}")
    if isinstance(found, dict):
        for key, value in found.items():
            check_values(value, within if within.endswith("_implementation") else key)
    elif isinstance(found, list):
        for value in found:
            check_values(value, within)
    elif within.endswith("_implementation") and found not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"{within} is {str(found)[:60]!r}; known are {', '.join(IMPLEMENTATIONS)}")
    elif within.endswith("_token_id") and not (found is None or is_a(found, int)):
        raise ValueError(f"{within} cannot be {shortened(found)}")
    elif isinstance(found, int | float):
        words = {word.rstrip("s") for word in within.lower().split("_")}
        most = min((most for word, most in MOST.items() if word in words), default=NO_LIMIT)
        if abs(found) > most and not isinstance(found, float):
            raise ValueError(f"{within} is {shortened(found)}, and {most} is the most that is believed")


def check_growth(content: bytes) -> None:
    """Raises ValueError for a tokenizer by whose replacements a few letters would fill the memory, and Ctrl-C end nothing.

    Those of the normalizer, and of the decoder, work one after the other.
    """
    if MAY_GROW.search(content) is None:
        return
    found = parse_object(content, constants=True)
    times, prepended = 1.0, 0
    for level in levels({name: part for name, part in found.items() if name not in ("model", "added_tokens")}):
        for part in filter(lambda value: isinstance(value, dict), level):
            pattern, put, prepend = part.get("pattern"), part.get("content"), part.get("prepend")
            plain = pattern.get("String") if isinstance(pattern, dict) else pattern
            if isinstance(put, str) and "pattern" in part:
                times *= max(1.0, len(put) / max(len(plain) if isinstance(plain, str) else 1, 1))
            prepended += len(prepend) if isinstance(prepend, str) else 0
    if times > MOST_GROWTH or prepended > MOST_PREPENDED:
        raise ValueError(f"it makes a text up to {times:,.0f} times as long, and {prepended:,} characters longer")


def check_index(found: Mapping[str, Any]) -> None:
    """Raises ValueError for an index of weights that names a file elsewhere."""
    names = found.get("weight_map")
    for name in names.values() if isinstance(names, dict) else [names]:
        if not is_within(name):
            raise ValueError(f"weight_map cannot hold {shortened(name)}")


def conversion(folder: str, name: str) -> str:
    """How to make ``name.safetensors`` of the pickles ``name*.bin`` in the folder, for whoever trusts them: a command line."""
    old = {"model": "pytorch_model"}.get(name, name)
    code = (
        "import glob, torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() for f in "
        f"glob.glob('{old}*.bin') for k, v in torch.load(f, weights_only=True).items()}}, '{name}.safetensors', "
        "{'format': 'pt'})"
    )
    return f'a pickle can run code and is never opened; if you trust it: cd {shlex.quote(folder)} && python -c "{code}"'


def without_safetensors(path: str, error: Exception) -> str | None:
    """What to say of a model that has no model.safetensors; None: something else is wrong."""
    folder = Path(path)
    if folder.is_dir():
        is_pickled = any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors"))
        return f"has no model.safetensors: {conversion(path, 'model')}" if is_pickled else None
    if "use_safetensors" not in str(error):
        return None
    if not hub.reachable():
        return f"is not in the cache, and {hub.endpoint()} is not reachable: fetch it first (hf download), or give a folder"
    return f"has no model.safetensors; if its pytorch_model.bin is fetched into DIR: {conversion('DIR', 'model')}"


def check_layout(folder: Path, wanted: str) -> None:
    """Raises ModelError for a folder without config.json; ``wanted``: as the user called it."""
    if (folder / "config.json").exists():
        return
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"--model {wanted} holds an adapter, and peft leaves the rest out: put its model's config.json and "
            "tokenizer there, too (in Python: model.config.save_pretrained and tokenizer.save_pretrained)"
        )
    if (folder / "modules.json").exists():
        raise ModelError(
            f"--model {wanted} is an old layout of sentence-transformers, its transformer in a folder of its own: "
            f'save it anew: python -c "from sentence_transformers import SentenceTransformer as S; '
            f"S({str(folder)!r}).save_pretrained('NEW')\""
        )
    raise ModelError(f"--model {wanted} holds no config.json: it is not a model directory")


def check_files(folder: Path) -> None:
    """Raises ModelError for a pipe or a device in a model's folder, which may be read for ever, and for a link that leads out.

    A file that a tokenizer is made of is saved with the trained model, and pushed. Weights may lie elsewhere, in a file that is
    called so there, too; and code, which is not read unless the user names it.
    """
    for path in folder.iterdir():
        may_lead_out = path.suffix in NEVER_READ or path.suffix == path.resolve().suffix == ".safetensors"
        if path.is_symlink() and not may_lead_out and not leads_within(path):
            raise ModelError(f"model {folder}: {path.name} is a link that leads out of it: put the file there, if it is yours")
        if path.exists() and not (path.is_dir() or stat.S_ISREG(path.stat().st_mode)):
            raise ModelError(f"model {folder}: {path.name} is no regular file")
