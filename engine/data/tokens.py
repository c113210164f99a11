"""Tokenised text: one flat array of token ids for all rows, made once and kept in a cache.

Tokenising 25,000 texts takes seconds, a million takes minutes: so the result is stored under a fingerprint of the
texts, the tokenizer and the length (cache.py), and memory-mapped when it is used again. Delete the folder to clear it; it is
``$PLAINLOOP_CACHE``, else ``$XDG_CACHE_HOME/plainloop``, else ``~/.cache/plainloop``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers

from engine.checked import parse_object, read_bytes
from engine.console import note, progress_bar
from engine.data.cache import entry
from engine.data.tables import RowName, plain_row
from engine.errors import DataError
from engine.settings.own import code_fingerprint

CHUNK_ROWS = 1000


@dataclass(frozen=True)
class Tokens:
    """The token ids of N rows: ``ids`` [sum of lengths] int32, ``offsets`` [N + 1] int64, ``types`` like ids or None.

    ``num_truncated`` rows had more tokens than fit; ``cut``: which, [N] bool; None: it is not kept.
    """

    ids: np.ndarray
    offsets: np.ndarray
    types: np.ndarray | None
    num_truncated: int
    cut: np.ndarray | None = None

    @classmethod
    def of_rows(cls, ids: Sequence[np.ndarray], types: Sequence[np.ndarray] = (), cut: np.ndarray | None = None) -> Tokens:
        """From the token ids of each row, [T] int32, and their types, [T] int8, if they have any."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
        num_truncated = 0 if cut is None else int(cut.sum())
        return cls(np.concatenate(ids), offsets, np.concatenate(types) if types else None, num_truncated, cut)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row: [N]."""
        return np.diff(self.offsets)


class TokenDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows ``{"input_ids": [T], "token_type_ids": [T] (if the tokenizer has them), <column>: value, <token column>: [T]}``.

    ``columns`` have a value for each row ([N], or [N, ...]); ``token_columns`` one for each token ([sum of lengths]), as the
    ids have: labels of tokens, say. ``row_name``: what errors call a row, from 0; None: by its place (tables.py: called).
    """

    def __init__(
        self,
        tokens: Tokens,
        columns: dict[str, np.ndarray] | None = None,
        token_columns: dict[str, np.ndarray] | None = None,
        row_name: RowName | None = None,
    ):
        self.row_name = row_name
        self.tokens, self.columns, self.token_columns = tokens, columns or {}, token_columns or {}
        assert all(len(column) == len(tokens.offsets) - 1 for column in self.columns.values()), "a value for each row"
        assert all(len(column) == tokens.offsets[-1] for column in self.token_columns.values()), "a value for each token"

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        start, stop = self.tokens.offsets[row], self.tokens.offsets[row + 1]
        item: dict[str, Any] = {"input_ids": self.tokens.ids[start:stop]}
        if self.tokens.types is not None:
            item["token_type_ids"] = self.tokens.types[start:stop]
        item |= {name: column[start:stop] for name, column in self.token_columns.items()}
        return item | {name: column[row] for name, column in self.columns.items()}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row: [N]."""
        return self.tokens.lengths

    def fingerprint(self) -> str:
        """Hash of everything a row can hold: two data sets with the same one train the same."""
        digest = hashlib.sha256()
        types = self.tokens.types if self.tokens.types is not None else np.empty(0, np.int8)
        for name, array in {
            "ids": self.tokens.ids,
            "offsets": self.tokens.offsets,
            "types": types,
            **self.columns,
        }.items():
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        if not self.token_columns:
            return digest.hexdigest()
        of_tokens = hashlib.sha256(digest.hexdigest().encode())
        for _, array in sorted(self.token_columns.items()):
            of_tokens.update(np.ascontiguousarray(array).data)
        return of_tokens.hexdigest()


def tokenize(
    texts: Sequence[str], tokenizer: Any, max_length: int, pairs: Sequence[str] | None = None, *, name: str = "texts",
    row_name: RowName = plain_row, as_targets: bool = False,
) -> Tokens:  # fmt: skip
    """Token ids of each text (and its pair), special tokens included, cut to ``max_length``; from the cache if there.

    ``name`` and ``row_name``: what the texts, and a row of them, are called. ``as_targets``: the texts are what a model is to
    write, for which some tokenizers have other pieces (Marian), or other special tokens. Raises DataError for a row without
    any token.
    """
    key = tokens_fingerprint(texts, pairs, tokenizer, max_length, as_targets=as_targets)

    def write(folder: Path) -> None:
        with closing(encode(texts, pairs, tokenizer, max_length, name, row_name, as_targets=as_targets)) as pieces:
            store(pieces, folder)

    folder = None if key is None else entry("tokens", key, write)
    if folder is not None:
        return load(folder)
    return tokenize_now(texts, pairs, tokenizer, max_length, name, row_name, as_targets=as_targets)


def tokens_fingerprint(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, max_length: int, *, as_targets: bool = False
) -> str | None:
    """Changes with any text, their order, all that makes up the tokenizer, the limit, and this module's format.

    None for a tokenizer that cannot be told from others, as it cannot be saved.
    """
    state = tokenizer_state(tokenizer)
    if state is None:
        return None
    digest = hashlib.sha256(f"{max_length} {pairs is not None};{'targets;' if as_targets else ''}".encode() + state)
    for column in (texts, pairs or ()):
        for text in cells_of(column):
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    return digest.hexdigest()[:32]


def tokenizer_state(tokenizer: Any) -> bytes | None:
    """A hash of every file that it saves, of its plain attributes, and of the versions that read them; None if it saves none.

    Some settings are in the files only (merges, normalizers), others in memory only (split_special_tokens).
    """
    kind = type(tokenizer)
    plain = {name: value for name, value in vars(tokenizer).items() if isinstance(value, str | int | float | None)}
    plain |= {"model_input_names": tokenizer.model_input_names, "name_or_path": None}
    versions = transformers.__version__, tokenizers.__version__
    digest = hashlib.sha256(
        repr((kind.__module__, kind.__qualname__, code_fingerprint(kind), sorted(plain.items()), versions)).encode()
    )
    try:
        with tempfile.TemporaryDirectory() as folder, left_as_found(tokenizer):
            if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:  # what an earlier call has left behind
                backend.no_truncation()
                backend.no_padding()
            tokenizer.save_pretrained(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(f"{path.relative_to(folder)} {path.stat().st_size};".encode())
                    digest.update(path.read_bytes())
    except Exception as error:  # one of its own making may know nothing of saving
        note(f"tokens: not cached, the tokenizer cannot be saved ({type(error).__name__}: {error})")
        return None
    return digest.digest()


def cells_of(column: Sequence[Any]) -> Iterator[Any]:
    """The cells of a column one after the other; of a data set's a thousand are in memory at a time."""
    for start in range(0, len(column), CHUNK_ROWS):
        yield from column[start : start + CHUNK_ROWS]


def tokenize_now(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, max_length: int, name: str,
    row_name: RowName = plain_row, *, as_targets: bool = False,
) -> Tokens:  # fmt: skip
    """Tokenise in memory, without the cache."""
    pieces = list(encode(texts, pairs, tokenizer, max_length, name, row_name, as_targets=as_targets))
    types = [piece.types for piece in pieces if piece.types is not None]
    lengths = np.concatenate([piece.lengths for piece in pieces])
    return Tokens(
        ids=np.concatenate([piece.ids for piece in pieces]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        types=np.concatenate(types) if types else None,
        num_truncated=sum(piece.num_truncated for piece in pieces),
        cut=np.concatenate([piece.cut for piece in pieces if piece.cut is not None]),
    )


@contextmanager
def left_as_found(tokenizer: Any) -> Iterator[None]:
    """A fast tokenizer keeps, and saves, how its last call cut and padded; what is saved must not depend on the cache."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = (backend.truncation, backend.padding) if backend is not None else (None, None)
    try:
        yield
    finally:
        if backend is not None:
            backend.no_truncation() if found[0] is None else backend.enable_truncation(**found[0])
            backend.no_padding() if found[1] is None else backend.enable_padding(**found[1])


def encode(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, max_length: int, name: str,
    row_name: RowName = plain_row, *, as_targets: bool = False,
) -> Generator[Tokens]:  # fmt: skip
    """The work itself: a thousand rows at a time, with a bar for many."""
    if not len(texts):
        raise DataError(f"{name}: there is no row")
    starts = range(0, len(texts), CHUNK_ROWS)
    with left_as_found(tokenizer):
        for start in progress_bar(starts, desc=f"tokenizing {name}", unit="k rows", hidden=len(starts) <= 10):
            chunk = slice(start, start + CHUNK_ROWS)
            given = {"text_target": list(texts[chunk])} if as_targets else {}
            some = () if as_targets else (list(texts[chunk]), list(pairs[chunk]) if pairs is not None else None)
            encoded = tokenizer(*some, truncation=True, max_length=max_length, **given)
            lengths = [len(ids) for ids in encoded["input_ids"]]
            if 0 in lengths:
                where = f"{name}, {row_name(start + lengths.index(0))}"
                raise DataError(f"{where}: there is no token (its text is empty): remove or fill it")
            yield Tokens.of_rows(
                [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]],
                [np.asarray(row, dtype=np.int8) for row in encoded.get("token_type_ids") or ()],
                which_cut(encoded, lengths, tokenizer, some, given, max_length),
            )


def which_cut(
    encoded: Any, lengths: Sequence[int], tokenizer: Any, some: Sequence[Any], given: Mapping[str, Any], max_length: int
) -> np.ndarray:
    """[N] bool: rows that had more tokens. A tokenizer in Python does not say: those of full length are made again, uncut.

    ``some``, ``given``: lists of texts, or None, as the tokenizer was given them.
    """
    if encoded.encodings is not None:
        return np.array([bool(encoding.overflowing) for encoding in encoded.encodings])
    found = np.zeros(len(lengths), dtype=bool)
    full = [i for i, length in enumerate(lengths) if length >= max_length]
    if not full:
        return found
    long, longer = (
        [column and [column[i] for i in full] for column in some],
        {n: [x[i] for i in full] for n, x in given.items()},
    )
    uncut = tokenizer(*long, **longer, truncation=False, verbose=False)
    found[full] = [len(ids) > max_length for ids in uncut["input_ids"]]
    return found


class NpyWriter:
    """A one-dimensional .npy file written piece by piece; its header leaves room for the length, which comes last."""

    def __init__(self, path: Path, dtype: type[np.generic]):
        self.stream, self.dtype, self.length = open(path, "wb"), np.dtype(dtype), 0  # noqa: SIM115 - closed in close()
        self._header()

    def _header(self) -> None:
        self.stream.seek(0)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.stream, header)  # type: ignore[no-untyped-call]

    def append(self, piece: np.ndarray) -> None:
        assert piece.dtype == self.dtype
        self.stream.write(np.ascontiguousarray(piece).data)
        self.length += len(piece)

    def close(self) -> None:
        with self.stream:
            self._header()


def store(pieces: Iterable[Tokens], folder: Path) -> None:
    """Write them into a folder, piece by piece."""
    lengths: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
    num_truncated = 0
    with ExitStack() as files:
        ids = files.enter_context(closing(NpyWriter(folder / "ids.npy", np.int32)))
        types = None
        for piece in pieces:
            ids.append(piece.ids)
            if piece.types is not None:
                types = types or files.enter_context(closing(NpyWriter(folder / "types.npy", np.int8)))
                types.append(piece.types)
            lengths.append(piece.lengths)
            num_truncated += piece.num_truncated
    np.save(folder / "offsets.npy", np.cumsum(np.concatenate(lengths)))
    (folder / "meta.json").write_text(json.dumps({"num_truncated": num_truncated}))


def load(folder: Path) -> Tokens:
    """Memory-mapped: pages are read when a row is."""
    return Tokens(
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        offsets=np.load(folder / "offsets.npy"),
        types=np.load(folder / "types.npy", mmap_mode="r") if (folder / "types.npy").exists() else None,
        num_truncated=parse_object(read_bytes(folder / "meta.json"))["num_truncated"],
    )
