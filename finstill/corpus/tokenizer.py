"""The tokenizer of a published checkpoint, in whichever files it comes, as one fast tokenizer."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from finstill.corpus.wordpiece import TOKENIZER_FILE
from finstill.errors import InputError
from finstill.files import digest, read_json

VOCABULARY_FILES = ("vocab.txt", "vocab.json", "*.model")
"""What a tokenizer can be made from where there is no `tokenizer.json`."""

CASED_SHARE = 0.01
"""Share of a vocabulary's words with a capital letter from which it is a cased one; an uncased one has none."""

PROBE = "a"
"""A text that every tokenizer knows, around which the special tokens show."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of the checkpoint in `folder`, which neither pads nor cuts.

    A published `tokenizer.json` is taken as it is: transformers 5 rebuilds some of its tokenizers from the vocabulary
    and their class's defaults, and would lower-case a cased one whose configuration is missing. Other forms
    (`vocab.txt`, `vocab.json` and `merges.txt`, SentencePiece's `*.model`) are converted by transformers. Where
    nothing says whether a WordPiece vocabulary is cased, the vocabulary itself decides.

    Raises:
        InputError: the folder has no tokenizer, a broken one, or one that transformers cannot make a fast tokenizer of.
    """
    file = folder / TOKENIZER_FILE
    tokenizer = _parsed(file) if file.is_file() else _converted(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _parsed(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    # The library has no class of its own for what it raises.
    except Exception as error:
        raise InputError(
            f"it is no tokenizer that the library tokenizers reads ({error})",
            where=file,
            remedy="Fetch or copy the checkpoint again",
        ) from error


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """Return the tokenizer in `folder`, set to cut at `max_length` tokens; see `read_tokenizer`."""
    tokenizer = read_tokenizer(folder)
    tokenizer.enable_truncation(max_length)
    return tokenizer


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id that stands for what the tokenizer does not know, or None where it has no such token."""
    names = (getattr(tokenizer.model, "unk_token", None), "<unk>", "[UNK]")
    found = (tokenizer.token_to_id(name) for name in names if name is not None)
    return next((position for position in found if position is not None), None)


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """Return 32 hexadecimal digits that change when the ids of any text could.

    The digest covers the normaliser, the pre-tokenizer, the model with its vocabulary, the added tokens, and the
    special tokens around a text, each in a canonical form. The decoder, padding, truncation, defaults that are written
    out or left out, the order of keys, and the way merges are written change no id and do not count.
    """
    return _identity_of(tokenizer.to_str())


# A stage asks a dozen times for the identity of one or two, and sorting a vocabulary takes a tenth of a second.
@lru_cache(maxsize=4)
def _identity_of(written: str) -> str:
    values = json.loads(written)
    model = {**values["model"]}
    if "merges" in model:
        model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    parts = [_canonical(values[name]) for name in ("normalizer", "pre_tokenizer", "added_tokens")]
    around = frame(Tokenizer.from_str(written))
    return digest(json.dumps([*parts, _canonical(model), around], sort_keys=True, ensure_ascii=False))


def frame(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the ids that stand before and after a text. What puts them there may be written in several ways."""
    framed, bare = tokenizer.encode(PROBE).ids, tokenizer.encode(PROBE, add_special_tokens=False).ids
    start = next(i for i in range(len(framed) + 1) if framed[i : i + len(bare)] == bare)
    return [framed[:start], framed[start + len(bare) :]]


def _canonical(value: Any) -> Any:
    """Return JSON data without what says nothing: keys that are null, or false, as they are where they are left out."""
    if isinstance(value, dict):
        return {
            key: _canonical(each)
            for key, each in value.items()
            # BERT's normaliser alone tells false from null: where it is null, accents go when case does.
            if each is not None and (each is not False or key == "strip_accents")
        }
    return [_canonical(each) for each in value] if isinstance(value, list) else value


def _converted(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    from finstill.quiet import quiet_transformers

    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    remedy = "A checkpoint needs tokenizer.json, or vocab.txt, or vocab.json and merges.txt, or a SentencePiece *.model"
    # Without any of them transformers makes an empty tokenizer, to which every word is unknown.
    if not any(fnmatch(name, pattern) for name in present for pattern in VOCABULARY_FILES):
        raise InputError(f"there is no tokenizer among the files {present}", where=folder, remedy=remedy)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **_casing(folder)
            )
    # Converters raise whatever the missing or broken file made them raise.
    except Exception as error:
        raise InputError(
            f"no tokenizer can be made from the files {present}: {str(error).strip().splitlines()[0]}",
            where=folder,
            remedy=remedy,
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} runs in Python alone, and Finstill needs a fast tokenizer",
            where=folder,
            remedy="Give a checkpoint with a tokenizer.json",
        )
    # Parsed anew: what is changed of it here does not reach an object that transformers keeps.
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def _casing(folder: Path) -> dict[str, bool]:
    """Return whether to lower case, where `vocab.txt` is all there is to tell: transformers would by default."""
    vocabulary, configuration = folder / "vocab.txt", folder / "tokenizer_config.json"
    said = read_json(configuration) if configuration.is_file() else {}
    if "do_lower_case" in said or not vocabulary.is_file():
        return {}
    words = [word for word in vocabulary.read_text(encoding="utf-8").split("\n") if word.strip("#").isalpha()]
    cased = sum(word != word.lower() for word in words)
    return {"do_lower_case": cased < CASED_SHARE * len(words)}
