"""Tokenised once: the cached result equals the tokenizer's own, and any change of what goes in makes another entry.

Nothing about the cache may ever stop a run or change it: not an unwritable folder, not an entry that was left half-written.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import CTRLTokenizer, ProphetNetTokenizer

import run
from bench.toys import tiny
from engine.data import tokens as module
from engine.data.cache import cache_folder, say_once
from engine.data.tokens import TokenDataset, Tokens, load, tokenize, tokenize_now, tokens_fingerprint
from engine.errors import DataError
from tests.toys.cli import command

TEXTS = [text for text, _ in tiny.texts(40)]
LONG = " ".join(f"w{i}" for i in range(40))


class Counted:
    """A tokenizer that counts how often it is asked to tokenise."""

    def __init__(self, tokenizer=None):
        self.tokenizer, self.made = tokenizer or tiny.tokenizer(), []

    @property
    def calls(self):
        return len(self.made)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *arguments, **options):
        self.made.append(arguments)
        return self.tokenizer(*arguments, **options)


def entries():
    folder = cache_folder() / "tokens"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_same(one: Tokens, other: Tokens) -> None:
    assert (one.ids.tolist(), one.offsets.tolist(), one.num_truncated) == (
        other.ids.tolist(),
        other.offsets.tolist(),
        other.num_truncated,
    )
    assert (one.ids.dtype, one.offsets.dtype) == (other.ids.dtype, other.offsets.dtype) == (np.int32, np.int64)
    assert (one.types is None) == (other.types is None)
    assert one.types is None or one.types.tolist() == other.types.tolist()


def with_types():
    """As BERT's: which of two texts a token belongs to."""
    tokenizer = tiny.tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


# ----------------------------------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("make", [tiny.tokenizer, with_types])
@pytest.mark.parametrize("pairs", [None, TEXTS[::-1]])
def test_rows_equal_the_tokenizers_own(make, pairs, monkeypatch):
    """In chunks of 7, so that rows lie across them."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    rows = TokenDataset(tokenize(TEXTS, make(), 12, pairs), {})
    expected = make()(TEXTS, pairs, truncation=True, max_length=12)
    assert len(rows) == len(TEXTS)
    assert [rows[i]["input_ids"].tolist() for i in range(len(rows))] == expected["input_ids"]
    assert rows.lengths.tolist() == [len(ids) for ids in expected["input_ids"]]
    if make is with_types:
        assert [rows[i]["token_type_ids"].tolist() for i in range(len(rows))] == expected["token_type_ids"]
        assert ({1, 0} if pairs else {0}) == set(np.asarray(rows.tokens.types).tolist())
    else:
        assert "token_type_ids" not in rows[0]


@pytest.mark.parametrize("make", [tiny.tokenizer, with_types])
@pytest.mark.parametrize("pairs", [None, TEXTS[::-1]])
def test_the_cached_result_equals_the_uncached(make, pairs):
    uncached = tokenize_now(TEXTS, pairs, make(), 12, "texts")
    assert_same(tokenize(TEXTS, make(), 12, pairs), uncached)
    [entry] = entries()
    assert_same(tokenize(TEXTS, make(), 12, pairs), uncached)
    assert entries() == [entry]


def test_the_tokenizer_is_not_called_the_second_time():
    """As in a second process: each has loaded its tokenizer afresh."""
    first, second = Counted(), Counted()
    tokenize(TEXTS, first, 12)
    tokenize(TEXTS, second, 12)
    assert (first.calls, second.calls) == (1, 0)
    tokenize(TEXTS, second, 13)
    assert second.calls == 1, "counting works"


def test_a_tokenizer_that_has_been_used_finds_its_entry_again():
    """Each call leaves its truncation in the tokenizer's serialised form."""
    tokenizer = Counted()
    tokenize(TEXTS, tokenizer, 12)
    tokenize(TEXTS, tokenizer, 12)
    assert tokenizer.calls == 1


@pytest.mark.parametrize("before", [False, True])
def test_what_is_saved_of_a_tokenizer_does_not_depend_on_the_cache(before, tmp_path):
    """tokenizer.json holds how the last call cut: a resumed run, which finds the cache, would save another file."""
    tokenizer = tiny.tokenizer()
    if before:  # as MiniLM's
        tokenizer.backend_tokenizer.enable_truncation(7)
        tokenizer.backend_tokenizer.enable_padding(length=7)
    tokenizer.save_pretrained(tmp_path / "fresh")
    tokenize(TEXTS, tokenizer, 16)
    tokenizer.save_pretrained(tmp_path / "used")
    assert (tmp_path / "used/tokenizer.json").read_bytes() == (tmp_path / "fresh/tokenizer.json").read_bytes()


def test_a_second_run_finds_training_and_evaluation_data():
    """The first run tokenises the evaluation data with a used tokenizer, the second asks for them with a fresh one."""
    for calls in (2, 0):
        tokenizer = Counted()
        tokenize(TEXTS[:30], tokenizer, 12)
        tokenize(TEXTS[30:], tokenizer, 12)
        assert tokenizer.calls == calls


def test_truncated_rows_are_counted():
    exact = " ".join(tiny.WORDS[:6])
    tokens = tokenize([exact, LONG, "w1", LONG, f"{exact} w9"], tiny.tokenizer(), 8)
    assert tokens.num_truncated == 3
    assert tokens.lengths.tolist() == [8, 8, 3, 8, 8]
    assert tokenize([exact, LONG, "w1", LONG], tiny.tokenizer(), 8).num_truncated == 2


def test_truncated_pairs_are_counted_once_each():
    tokens = tokenize(["w1", "w1", LONG, LONG], tiny.tokenizer(), 10, ["w2", LONG, "w2", LONG])
    assert tokens.num_truncated == 3
    assert tokens.lengths.tolist() == [5, 10, 10, 10]


def test_counting_survives_the_cache_and_the_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    texts = ["w1", LONG, LONG, "w2", LONG]
    assert [tokenize(texts, tiny.tokenizer(), 8).num_truncated for _ in range(2)] == [3, 3]


def bare():
    """A tokenizer that adds no special tokens, as many of language models: an empty text has no token at all."""
    from tokenizers import processors

    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    return tokenizer


@pytest.mark.parametrize("empty", ["", "  "])
def test_a_row_without_any_token_is_refused_with_its_number(empty, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    with pytest.raises(DataError, match=r"train data, row 4: there is no token \(its text is empty\)"):
        tokenize(["w1", "w2", "w3", empty], bare(), 8, name="train data")
    assert entries() == []


def test_an_empty_text_between_special_tokens_is_a_row():
    assert tokenize(["", "w1"], tiny.tokenizer(), 8).ids.tolist() == [2, 3, 2, 6, 3]


def test_no_rows_at_all_are_refused():
    with pytest.raises(DataError):
        tokenize([], tiny.tokenizer(), 8)


# -------------------------------------------------------------------------------------------------- the fingerprints


def fingerprint(texts=TEXTS, pairs=None, tokenizer=None, max_length=12):
    return tokens_fingerprint(texts, pairs, tokenizer or tiny.tokenizer(), max_length)


def lowercased():
    from tokenizers import normalizers

    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def with_another_token():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["newword"])
    return tokenizer


@pytest.mark.parametrize(
    "change",
    [
        {"texts": ["W" + TEXTS[0][1:], *TEXTS[1:]]},
        {"texts": [TEXTS[0] + " ", *TEXTS[1:]]},
        {"texts": TEXTS[::-1]},
        {"texts": TEXTS[:-1]},
        {"texts": [TEXTS[0] + TEXTS[1], "", *TEXTS[2:]]},
        {"pairs": TEXTS},
        {"pairs": [""] * len(TEXTS)},
        {"max_length": 13},
        {"tokenizer": bare()},
        {"tokenizer": lowercased()},
        {"tokenizer": with_another_token()},
    ],
    ids=["a letter", "a blank", "order", "a row less", "where a row ends", "pairs", "empty pairs", "length",
         "special tokens", "normalizer", "vocabulary"],
)  # fmt: skip
def test_the_fingerprint_changes_with(change):
    assert fingerprint(**change) != fingerprint()


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Makes a tokenizer in Python from a vocabulary file, and whatever else it takes."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[X_SEP]", *tiny.WORDS, "W1"]))
    (folder / "vocab.json").write_text(json.dumps({"<unk>": 0, "w": 1, "1": 2, "w1</w>": 3, "w@@": 4, "1</w>": 5}))

    def make(merges: str | None = None, **options):
        if merges is None:
            return ProphetNetTokenizer(str(folder / "vocab.txt"), **options)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        return CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="<unk>")

    return make


def test_the_fingerprint_changes_with_each_plain_attribute_of_a_tokenizer(slow):
    """split_special_tokens is one: it stands in no file."""
    for make in (tiny.tokenizer, slow):
        plain = {n: v for n, v in vars(make()).items() if isinstance(v, str | int | float | None) and n != "name_or_path"}
        assert {"split_special_tokens", "truncation_side", "padding_side", "model_max_length"} <= {*plain}
        found = {fingerprint(tokenizer=make())}
        for name, value in plain.items():
            tokenizer = make()
            vars(tokenizer)[name] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "left"
            found.add(fingerprint(tokenizer=tokenizer))
        assert len(found) == 1 + len(plain), make


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    else:
        yield path, value


def test_the_fingerprint_changes_with_each_field_of_tokenizer_json():
    """All but how the last call cut and padded."""
    state = json.loads(tiny.tokenizer().backend_tokenizer.to_str())
    seen, kept = {fingerprint()}, 0
    for path, value in leaves(state):
        if path[0] in ("truncation", "padding", "version") or (
            path[:2] == ("model", "vocab") and path[-1] not in ("w3", "[UNK]")
        ):
            continue
        other = copy.deepcopy(state)
        part = other
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "w7"
        try:
            backend = Tokenizer.from_str(json.dumps(other))
        except Exception:  # a value that it does not take
            continue
        tokenizer = tiny.tokenizer()
        tokenizer._tokenizer = backend
        if backend.to_str() == tiny.tokenizer().backend_tokenizer.to_str():
            continue  # not taken over
        seen.add(fingerprint(tokenizer=tokenizer))
        kept += 1
    assert len(seen) == 1 + kept and kept > 20


def test_the_fingerprint_changes_with_the_options_and_files_of_a_slow_tokenizer(slow):
    options = [{}, {"do_lower_case": False}, {"do_basic_tokenize": False}, {"never_split": ["w1"]}, {"strip_accents": True},
               {"merges": "w 1</w>"}, {"merges": "w 2</w>"}]  # fmt: skip
    assert len({fingerprint(tokenizer=slow(**each)) for each in options}) == len(options)
    assert fingerprint(tokenizer=slow()) == fingerprint(tokenizer=slow())


def test_the_fingerprint_changes_with_the_versions(monkeypatch):
    found = {fingerprint()}
    for library in (module.transformers, module.tokenizers):
        with monkeypatch.context() as patch:
            patch.setattr(library, "__version__", "9.9")
            found.add(fingerprint())
    assert len(found) == 3


def test_the_fingerprint_knows_texts_from_pairs():
    assert fingerprint(TEXTS[:2], TEXTS[2:4]) != fingerprint(TEXTS[2:4], TEXTS[:2])
    assert fingerprint(TEXTS[:2], TEXTS[2:4]) != fingerprint(TEXTS[:4])


def test_the_fingerprint_of_the_same_is_the_same():
    assert fingerprint(list(TEXTS), None, tiny.tokenizer()) == fingerprint()
    assert fingerprint(["\ud800"]) == fingerprint(["\ud800"]), "a lone surrogate has one, too"


def test_the_side_of_truncation_makes_another_entry():
    left = tiny.tokenizer()
    left.truncation_side = "left"
    tokenize([LONG], tiny.tokenizer(), 5)
    assert tokenize([LONG], left, 5).ids.tolist() == left([LONG], truncation=True, max_length=5)["input_ids"][0]


def rows(texts=TEXTS, labels=None, **options):
    labels = np.arange(len(texts)) if labels is None else labels
    return TokenDataset(tokenize(texts, tiny.tokenizer(), 12, **options), {"labels": labels})


def test_the_data_sets_fingerprint_changes_with_everything_a_row_holds():
    base = rows().fingerprint()
    assert rows().fingerprint() == base
    other = np.arange(len(TEXTS))
    other[5] = -100
    ids = rows().tokens.ids.copy()
    ids[7] += 1
    types = np.zeros(len(ids), np.int8)
    changed = [
        rows(labels=other),
        rows(labels=np.arange(len(TEXTS)).astype(np.float32)),
        rows(texts=TEXTS[::-1]),
        rows(pairs=TEXTS),
        TokenDataset(Tokens(ids, rows().tokens.offsets, None, 0), {"labels": np.arange(len(TEXTS))}),
        TokenDataset(Tokens(rows().tokens.ids, rows().tokens.offsets, types, 0), {"labels": np.arange(len(TEXTS))}),
        TokenDataset(rows().tokens, {"targets": np.arange(len(TEXTS))}),
        TokenDataset(rows().tokens, {}),
    ]
    assert len({base, *(data.fingerprint() for data in changed)}) == 1 + len(changed)


def test_the_data_sets_fingerprint_does_not_depend_on_the_cache():
    tokens = tokenize_now(TEXTS, None, tiny.tokenizer(), 12, "texts")
    assert TokenDataset(tokens, {"labels": np.arange(len(TEXTS))}).fingerprint() == rows().fingerprint()


def test_a_column_of_another_length_is_a_defect():
    with pytest.raises(AssertionError, match="a value for each row"):
        TokenDataset(tokenize(TEXTS, tiny.tokenizer(), 12), {"labels": np.arange(3)})


# --------------------------------------------------------------------------------------------------- the cache folder


def test_the_folder_is_plainloops_own_else_the_systems_else_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PLAINLOOP_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "plainloop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "plainloop"


@pytest.mark.parametrize("home", ["file/home", "none/home", ""])
def test_a_home_that_cannot_be_entered_does_not_matter(project, tmp_path, monkeypatch, capsys, home):
    """All is trained, saved and predicted with: the cache alone goes without."""
    (tmp_path / "file").write_text("")
    for name in ("PLAINLOOP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / home) if home else "relative/home")
    monkeypatch.chdir(tmp_path)
    say_once.cache_clear()
    assert run.main(command(project, "--output-dir", str(tmp_path / "run"), "--max-steps", "1")) == 0
    assert run.main(["predict", "--model", str(tmp_path / "run"), "--device", "cpu", "w0"]) == 0
    assert capsys.readouterr().err.count("going on without it") == (home == "file/home")


def test_an_unwritable_cache_folder_is_said_and_does_not_matter(monkeypatch, tmp_path, capsys):
    """A file stands where the folder should be: root, too, cannot write there."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert_same(tokenize(TEXTS, tiny.tokenizer(), 12), tokenize_now(TEXTS, None, tiny.tokenizer(), 12, "texts"))
    assert capsys.readouterr().err.count("going on without it") == 1


def test_a_tokenizer_that_cannot_be_saved_is_said_and_goes_without_the_cache(monkeypatch, capsys):
    """It could not be told from another one."""
    tokenizer = tiny.tokenizer()
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(NotImplementedError("no")))
    assert_same(tokenize(TEXTS, tokenizer, 12), tokenize_now(TEXTS, None, tiny.tokenizer(), 12, "texts"))
    assert "cannot be saved (NotImplementedError: no)" in capsys.readouterr().err
    assert entries() == []


@pytest.mark.parametrize("failing", ["append", "save"])
def test_a_full_disk_is_said_and_leaves_nothing_behind(monkeypatch, capsys, failing):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    expected = tokenize_now(TEXTS, None, tiny.tokenizer(), 12, "texts")
    with monkeypatch.context() as patch:
        patch.setattr(module.NpyWriter if failing == "append" else module.np, failing, full)
        assert_same(tokenize(TEXTS, tiny.tokenizer(), 12), expected)
    assert "No space left on device" in capsys.readouterr().err
    assert entries() == []


def test_pieces_on_disk_are_the_whole_in_memory(tmp_path, monkeypatch):
    """Three pieces, with and without types; the file is one that numpy reads."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 15)
    for make in (tiny.tokenizer, with_types):
        whole = tokenize_now(TEXTS, None, make(), 12, "texts")
        (tmp_path / make.__name__).mkdir()
        module.store(module.encode(TEXTS, None, make(), 12, "texts"), tmp_path / make.__name__)
        assert_same(load(tmp_path / make.__name__), whole)
        assert np.load(tmp_path / make.__name__ / "ids.npy").tolist() == whole.ids.tolist()


@pytest.mark.parametrize("file", ["ids.npy", "offsets.npy", "types.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["flipped", "zeroed", "cut", "gone"])
def test_a_damaged_entry_is_made_again(file, damage):
    """Ids that are zeroed, or one bit of which has flipped, look like any others."""
    expected = tokenize_now(TEXTS, None, with_types(), 12, "texts")
    tokenize(TEXTS, with_types(), 12)
    path = cache_folder() / "tokens" / entries()[0] / file
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    elif damage == "zeroed":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content[:-1] if damage == "cut" else content)
    if damage == "gone":
        path.unlink()
    tokenizer = Counted(with_types())
    assert_same(tokenize(TEXTS, tokenizer, 12), expected)
    assert tokenizer.calls == 1


def test_a_loaded_entry_is_mapped_into_memory_and_cannot_be_written():
    tokens = tokenize(TEXTS, tiny.tokenizer(), 12)
    assert isinstance(tokens.ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens.ids[0] = 1
    [entry] = entries()
    meta = json.loads((cache_folder() / "tokens" / entry / "meta.json").read_text())
    assert meta == {"num_truncated": tokens.num_truncated}


def test_a_column_of_tokens_is_cut_as_the_ids_are_and_changes_the_fingerprint():
    """Labels of tokens, say: each row has as many as it has ids."""
    tokens = Tokens(np.arange(9, dtype=np.int32), np.array([0, 4, 9]), None, 0)
    labels = np.arange(10, 19, dtype=np.int32)
    rows = TokenDataset(tokens, {"kind": np.array([7, 8])}, {"labels": labels})
    assert rows[1]["input_ids"].tolist() == [4, 5, 6, 7, 8] and rows[1]["labels"].tolist() == [14, 15, 16, 17, 18]
    assert rows[1]["kind"] == 8
    plain = TokenDataset(tokens, {"kind": np.array([7, 8])})
    other = TokenDataset(tokens, {"kind": np.array([7, 8])}, {"labels": labels[::-1].copy()})
    assert len({rows.fingerprint(), plain.fingerprint(), other.fingerprint()}) == 3
    with pytest.raises(AssertionError, match="a value for each token"):
        TokenDataset(tokens, token_columns={"labels": labels[1:]})
