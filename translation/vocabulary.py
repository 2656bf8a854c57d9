"""A vocabulary of one's own, trained on the items' texts where no pretrained tokenizer is given."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import pyarrow as pa
import sentencepiece
from transformers import T5Tokenizer

PAD, EOS, UNK = 0, 1, 2  # ids, as in T5


def train_vocabulary(texts: Iterable[str], vocab_size: int = 8000) -> T5Tokenizer:
    """Train a unigram vocabulary with sentencepiece, and wrap it as a fast T5 tokenizer.

    The same texts in the same order give the same vocabulary. The ten digits are always in it. Each text is read
    again in lower case, as lexical IDs are named in lower case and need its words whole; and without punctuation,
    because a word that stands before a colon every time (`title:`) would otherwise be broken into letters.

    Args:
        texts: what the vocabulary must write well: the items' texts, and the wording of the prompts.
        vocab_size: the most pieces that it may have; a small corpus gives fewer.

    Returns:
        A tokenizer with `<pad>` = 0, `</s>` = 1, `<unk>` = 2, that appends `</s>` as T5's does.

    Raises:
        ValueError: no text, or a size too small for the characters that occur.

    Example:
        >>> words = train_vocabulary(["red shoe", "blue shoe"], 40)
        >>> words.decode(words("blue shoe")["input_ids"])
        'blue shoe</s>'
    """
    return tokenizer_of(train_pieces(texts, vocab_size))


def train_pieces(texts: Iterable[str], vocab_size: int = 8000) -> pa.Table:
    """The pieces of `train_vocabulary` by id: `piece` string, `score` float64."""
    texts = list(texts)
    texts += [text.lower() for text in texts]
    texts += [re.sub(r"[^\w\s]", " ", text) for text in texts]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("there is no text to train a vocabulary on; give the items' texts")
    characters = len(set().union(*texts))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            required_chars="0123456789",
            # Rare characters stay out only where there are too many of them, as in Chinese.
            character_coverage=1.0 if 4 * characters <= vocab_size else 0.9995,
            normalization_rule_name="identity",  # T5Tokenizer has no normalizer: read as it will be written
            max_sentence_length=1 << 20,  # bytes; longer texts would be skipped
            num_threads=1,  # the order of floating-point sums
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            bos_id=-1,
            pad_piece="<pad>",
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"vocab_size {vocab_size} does not fit these texts ({reason}); raise it") from None
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(trained.get_piece_size())
    return pa.table({"piece": [trained.id_to_piece(i) for i in ids], "score": [trained.get_score(i) for i in ids]})


def tokenizer_of(pieces: pa.Table) -> T5Tokenizer:
    """The fast T5 tokenizer of trained pieces."""
    return T5Tokenizer(
        vocab=list(zip(pieces["piece"].to_pylist(), pieces["score"].to_pylist(), strict=True)), extra_ids=0
    )
