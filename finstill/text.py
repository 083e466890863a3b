"""What a text is: its normal form and the key that stands for it."""

from __future__ import annotations

import hashlib
import unicodedata

KEY_BYTES = 16


def normalise(text: str) -> str:
    """Return `text` in Unicode NFKC with each run of white space as one space and none at the ends.

    NFKC (Unicode Standard Annex 15) folds full-width digits, ligatures and no-break spaces, which differ between feeds
    that carry the same sentence. Case and punctuation stay: they carry meaning.
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def text_key(normalised: str) -> bytes:
    """Return the key of a normalised text: 128 bits of BLAKE2b (RFC 7693) over its UTF-8 bytes."""
    return hashlib.blake2b(normalised.encode("utf-8"), digest_size=KEY_BYTES).digest()
