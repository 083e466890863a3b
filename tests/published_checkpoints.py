"""Checkpoints as they are published, file for file, with small random weights and vocabularies of our own making."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors

TEXTS = (
    "Shares fell 12 points after the profit warning",
    "The annual meeting takes place in room 7",
    "Net profit rose 31 percent on strong orders from Größe société",
    "прибыль выросла на 15 процентов",
    "公司净利润同比下降",
    "会社の利益は増えた",
    "กำไรสุทธิเพิ่มขึ้น",
    "سود خالص افزایش یافت",
)

PROSUS = ("positive", "negative", "neutral")
TONE = ("Neutral", "Positive", "Negative")
ALPHABETICAL = ("negative", "neutral", "positive")
NAMELESS = ("LABEL_0", "LABEL_1", "LABEL_2")

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of words and characters of `TEXTS`, of what no vocabulary here knows, and of odd spacing."""
    draw = random.Random(seed)
    words = [word for text in TEXTS for word in text.split()]
    strange = ["Ünïcode", "🙂", "x" * 120, "12.5%", "don't", "AT&T", "…", "éclair", "[SEP]", "</s>", "q̈", "㍿"]
    pool = [*words, *(word.upper() for word in words), *strange]
    return [draw.choice([" ", "  ", ""]).join(draw.choices(pool, k=draw.randint(0, 20))) for _ in range(count)]


def wordpieces(*, cased: bool = False) -> list[str]:
    """Return a WordPiece vocabulary of the words and characters of `TEXTS`."""
    words = [word for text in TEXTS for word in (text if cased else text.lower()).split()]
    characters = sorted({character for word in words for character in word} | set(string.digits + string.punctuation))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *words, *characters, *(f"##{character}" for character in characters)]))


def write_vocab_txt(folder: Path, pieces: Sequence[str]) -> int:
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return len(pieces)


def write_bpe(folder: Path) -> int:
    """Write `vocab.json` and `merges.txt` of a byte-level BPE with RoBERTa's special tokens."""
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(TEXTS, vocab_size=500, min_frequency=1, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))
    return tokenizer.get_vocab_size()


def write_sentencepiece(folder: Path, file: str, **special: Any) -> int:
    """Write a Unigram model as the library SentencePiece does."""
    with (folder / file).open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.replace("[SEP]", "") for text in texts(800, seed=1)]),
            model_writer=model,
            vocab_size=300,
            character_coverage=1.0,
            hard_vocab_limit=False,
            minloglevel=2,
            **special,
        )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / file))
    return processor.vocab_size()


def write_wordpiece_json(folder: Path, special: Sequence[str], frame: tuple[str, str], *, lowercase: bool) -> int:
    """Write a `tokenizer.json` alone, as the library tokenizers saves one."""
    # The library's trainer for WordPiece orders its pieces otherwise each time, and the weights would be others too.
    pieces = list(dict.fromkeys([*special, *wordpieces(cased=not lowercase)[5:]]))
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=special[3]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(special))
    first, last = frame
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(token, ids[token]) for token in frame]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(pieces)


def write_model(
    folder: Path,
    config: transformers.PretrainedConfig,
    classes: Sequence[str],
    *,
    weights: str = "pickle",
    dtype: torch.dtype = torch.float32,
    changes: dict[str, Any] | None = None,
) -> None:
    """Write `config.json` and random weights.

    Args:
        weights: `pickle` (pytorch_model.bin), `shards` of that, or `safetensors`.
        changes: what config.json says otherwise than transformers would.
    """
    torch.manual_seed(0)
    config.id2label = dict(enumerate(classes))
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    # At the usual initial scale every text gets nearly the same logits.
    for name, parameter in model.named_parameters():
        if "classifier" in name and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.0)
    model.to(dtype)
    if weights == "safetensors":
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
        state = model.state_dict()
        names = list(state)
        half = len(names) // 2 if weights == "shards" else len(names)
        shards = [names[:half], names[half:]] if weights == "shards" else [names]
        where = {}
        for number, shard in enumerate(shards, start=1):
            file = f"pytorch_model-{number:05}-of-{len(shards):05}.bin" if len(shards) > 1 else "pytorch_model.bin"
            torch.save({name: state[name] for name in shard}, folder / file)
            where |= dict.fromkeys(shard, file)
        if len(shards) > 1:
            index = {"metadata": {"total_size": 1}, "weight_map": where}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    values = json.loads((folder / "config.json").read_text()) | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(values | (changes or {}), indent=2))


def bert(folder: Path, classes: Sequence[str], vocabulary: Sequence[str] | None = None, **options: Any) -> None:
    size = write_vocab_txt(folder, vocabulary or wordpieces())
    write_model(folder, transformers.BertConfig(**SIZES, vocab_size=size), classes, **options)


def prosus_finbert(folder: Path, **options: Any) -> None:
    """`ProsusAI/finbert`: no `tokenizer.json` and no safetensors."""
    bert(folder, PROSUS, **options)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def finbert_tone(folder: Path, **options: Any) -> None:
    """`yiyanghkust/finbert-tone`: three files, and nothing that says how to read the vocabulary."""
    bert(folder, TONE, **options)


def finbert_tone_chinese(folder: Path) -> None:
    """`yiyanghkust/finbert-tone-chinese`: the same three files, a vocabulary of characters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = sorted({character for text in TEXTS for character in text.lower() if not character.isspace()})
    bert(folder, TONE, [*special, *characters, *(f"##{character}" for character in characters if character < "z")])


def cased_bert(folder: Path) -> None:
    """A cased BERT with `vocab.txt` alone."""
    bert(folder, ALPHABETICAL, wordpieces(cased=True))


def roberta(folder: Path, classes: Sequence[str], **options: Any) -> None:
    size = write_bpe(folder)
    config = transformers.RobertaConfig(**SIZES, vocab_size=size, type_vocab_size=1, max_position_embeddings=514)
    write_model(folder, config, classes, **options)


def distilroberta(folder: Path) -> None:
    """`mrm8488/distilroberta-finetuned-financial-news-sentiment-analysis`: with a `tokenizer.json`."""
    roberta(folder, ALPHABETICAL)
    transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def financial_roberta_large(folder: Path) -> None:
    """`soleimanian/financial-roberta-large-sentiment`: `vocab.json` and `merges.txt` alone."""
    roberta(folder, PROSUS)


def financialbert(folder: Path) -> None:
    """`ahmedrachid/FinancialBERT-Sentiment-Analysis`."""
    bert(folder, ALPHABETICAL)


def xlm_roberta(folder: Path) -> None:
    """An XLM-R fine-tuning: `sentencepiece.bpe.model`, and classes without names."""
    # Its four special tokens stand before the model's own pieces, and the mask after them.
    size = write_sentencepiece(folder, "sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2) + 2
    config = transformers.XLMRobertaConfig(**SIZES, vocab_size=size, type_vocab_size=1, max_position_embeddings=514)
    write_model(folder, config, NAMELESS, changes={"id2label": None, "label2id": None, "num_labels": 3})


def deberta_v3(folder: Path) -> None:
    """A DeBERTa-v3 fine-tuning: `spm.model`, and classes without names."""
    size = write_sentencepiece(
        folder, "spm.model", pad_id=0, pad_piece="[PAD]", bos_id=1, bos_piece="[CLS]", eos_id=2, eos_piece="[SEP]",
        unk_id=3, unk_piece="[UNK]",
    )  # fmt: skip
    config = transformers.DebertaV2Config(
        **SIZES, vocab_size=size + 20, relative_attention=True, position_buckets=16, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    write_model(folder, config, NAMELESS)


def albert(folder: Path) -> None:
    """An ALBERT fine-tuning: `spiece.model`."""
    size = write_sentencepiece(
        folder, "spiece.model", pad_id=0, pad_piece="<pad>", unk_id=1, bos_id=-1, eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )  # fmt: skip
    write_model(folder, transformers.AlbertConfig(**SIZES, embedding_size=16, vocab_size=size), ALPHABETICAL)


def modernbert(folder: Path) -> None:
    """A ModernBERT fine-tuning: `tokenizer.json` and safetensors."""
    size = write_wordpiece_json(
        folder, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), ("[CLS]", "[SEP]"), lowercase=False
    )
    # Its first layer reads whole texts, the second what is near.
    config = transformers.ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 2},
        vocab_size=size, pad_token_id=1, cls_token_id=0, sep_token_id=2, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    write_model(folder, config, ALPHABETICAL, weights="safetensors")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def mpnet(folder: Path) -> None:
    """An MPNet fine-tuning: `tokenizer.json` and safetensors, relative positions."""
    size = write_wordpiece_json(folder, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), ("<s>", "</s>"), lowercase=True)
    write_model(
        folder,
        transformers.MPNetConfig(**SIZES, vocab_size=size, max_position_embeddings=514),
        ALPHABETICAL,
        weights="safetensors",
    )
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "MPNetTokenizer"}')


PUBLISHED: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        prosus_finbert,
        finbert_tone,
        finbert_tone_chinese,
        cased_bert,
        distilroberta,
        financial_roberta_large,
        financialbert,
        xlm_roberta,
        deberta_v3,
        albert,
        modernbert,
        mpnet,
    )
}
"""What is published, by a name of ours: a function that writes it into an empty folder."""


def trained_finbert(folder: Path, sentences: Sequence[str], labels: Sequence[str]) -> None:
    """Write finBERT's five files with weights that were trained on `sentences` for some seconds."""
    words = {word for text in sentences for word in text.casefold().replace(",", " ").split() if word.isalpha()}
    special, pieces = wordpieces()[:5], wordpieces()[5:]
    vocabulary = list(dict.fromkeys([*special, *sorted(words), *pieces]))
    prosus_finbert(folder)
    bert(folder, PROSUS, vocabulary)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    truth = torch.tensor([PROSUS.index(label) for label in labels])
    torch.manual_seed(0)
    for _ in range(12):
        for batch in torch.randperm(len(sentences)).split(32):
            some = [sentences[i] for i in batch.tolist()]
            encoded = tokenizer(some, padding=True, truncation=True, max_length=64, return_tensors="pt")
            loss = model(**encoded, labels=truth[batch]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    # The model may still read its first weights from the old file.
    torch.save(model.state_dict(), folder / "trained.bin")
    (folder / "trained.bin").replace(folder / "pytorch_model.bin")
