"""Languages that a tokenizer is told beside the texts: those of mBART, M2M100 and NLLB put a token for each.

    [eng_Latn] text [end]   to   [deu_Latn] text [end]     M2M100, NLLB, mBART-50: the language is the first token to be written
    text [end] [en_XX]      to   text [end] [de_DE]        mBART: the decoder starts with the language

Without them all texts would be taken for one language, and nobody would be told. Next: writer.py.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from engine.errors import ModelError, UsageError


class Languages(NamedTuple):
    """``begins``: what ``generate`` is told, so that a text begins as those do that are learned from."""

    source: str
    target: str
    begins: dict[str, int]


def tell(tokenizer: Any, source: str | None, target: str | None) -> Languages | None:
    """Let the tokenizer know both languages, and return them; None: it has none.

    One that is not asked for (None) is that with which the tokenizer has been saved, if it was told both then: a tokenizer that
    was told nothing has a source language all the same, English. Raises UsageError, ModelError.
    """
    asked = {"--source-lang": source, "--target-lang": target}
    model, kind = tokenizer.name_or_path, type(tokenizer).__name__
    if not hasattr(tokenizer, "set_src_lang_special_tokens"):  # FSMT has the names of two, and its model knows them
        if flag := next((flag for flag, language in asked.items() if language is not None), None):
            raise UsageError(
                f"{flag}: the tokenizer of {model} ({kind}) is told no language beside a text: leave it out; what a model is "
                "told in the text itself, as T5 is, --prefix gives"
            )
        return None
    if getattr(tokenizer, "tgt_lang", None) is not None:
        asked = {"--source-lang": source or tokenizer.src_lang, "--target-lang": target or tokenizer.tgt_lang}
    known = languages_of(tokenizer)
    for flag, language in asked.items():
        if language is None:
            raise UsageError(
                f"model {model}: its tokenizer ({kind}) is told the languages of the texts: {flag} CODE, such as "
                f"{' or '.join(known[:2])}"
            )
        if language not in known:
            raise UsageError(f"{flag} {language}: {model} knows no such language{near(language, known)}")
    tokenizer.src_lang, tokenizer.tgt_lang = first, second = asked.values()
    return Languages(str(first), str(second), begins_with(tokenizer))


def languages_of(tokenizer: Any) -> list[str]:
    """The codes that it has a token for."""
    codes = getattr(tokenizer, "lang_code_to_id", None)
    if codes is None:  # NLLB's
        codes = {str(token): tokenizer.convert_tokens_to_ids(str(token)) for token in tokenizer.extra_special_tokens}
    return sorted(code for code, number in codes.items() if number != tokenizer.unk_token_id)


def near(language: str, known: list[str]) -> str:
    """In words, the codes that it may have been meant for; or how many there are."""
    begins = [code for code in known if code.strip("_").lower().startswith(language[:2].lower())]
    alike = difflib.get_close_matches(language, known, n=3) or begins[:5]
    return f" (did you mean {' or '.join(alike)}?)" if alike else f"; it knows {len(known)}, such as {', '.join(known[:5])}"


def begins_with(tokenizer: Any) -> dict[str, int]:
    """Of a tokenizer that knows its languages. Raises ModelError for one that puts them elsewhere."""
    tokenizer.set_tgt_lang_special_tokens(tokenizer.tgt_lang)
    before, behind = list(tokenizer.prefix_tokens), list(tokenizer.suffix_tokens)
    tokenizer.set_src_lang_special_tokens(tokenizer.src_lang)
    end = tokenizer.eos_token_id
    if len(before) == 1 and behind == [end]:
        return {"forced_bos_token_id": before[0]}
    if not before and len(behind) == 2 and behind[0] == end:
        return {"decoder_start_token_id": behind[1]}
    raise ModelError(
        f"the tokenizer of {tokenizer.name_or_path} ({type(tokenizer).__name__}) puts the language of a text neither before it "
        "nor behind its end: take mBART, M2M100 or NLLB"
    )
