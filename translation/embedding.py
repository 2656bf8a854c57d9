"""Item vectors: of the built-in encoder, of any sentence-transformers model, or given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..common.devices import choose_device
from ..common.extras import needs
from ..common.processes import PartialState
from ..common.provenance import Provenance, hash_of_folder, hash_of_texts, table_or_arrays
from .settings import BUILT_IN_ENCODER

with needs("train"):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

SHARD_TEXTS = 16_384

_WORDS = r"(?u)\w+|[^\w\s\x00-\x7f]"  # words, and each emoji or other symbol beyond ASCII


def embed_texts(texts: Sequence[str], encoder: str = BUILT_IN_ENCODER, seed: int = 0, **kwargs) -> np.ndarray:
    """One vector per text, (N, d) float32, each row of length 1 (or 0, where the built-in encoder finds no word).

    Args:
        texts: N texts.
        encoder: `"tfidf-svd"`, which needs no download, or the name or path of a sentence-transformers model.
        seed: of the built-in encoder.
        kwargs: of `encode_in_shards`, which says what it raises.
    """
    return tfidf_svd(texts, seed=seed) if encoder == BUILT_IN_ENCODER else encode_in_shards(texts, encoder, **kwargs)


def encode_in_shards(
    texts: Sequence[str],
    name: str,
    prompt: str = "",
    max_length: int | None = None,
    append_eos: bool = False,
    trust_remote_code: bool = False,
    folder: str | Path | None = None,
    processes: PartialState | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Vectors of a sentence-transformers model: texts of like length together, shard after shard.

    Args:
        texts: N texts.
        name: name or path of the model.
        prompt: read before every text.
        max_length: the most tokens of a text; None: the model's own.
        append_eos: end every text with the model's end token, and pad behind it.
        trust_remote_code: let it run the code that comes with the model.
        folder: keeps finished shards, so that an interrupted run goes on where it was; None: nothing is kept.
        processes: each of them encodes its share of the shards, which pass through the folder.
        progress: show a bar with the time left.

    Returns:
        (N, d) float32, rows of length 1; the same for any number of processes.

    Raises:
        MissingPackageError: sentence-transformers is not installed.
        ValueError: it has no such model.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")[::-1]  # what needs most memory comes first
    shards = [order[start : start + SHARD_TEXTS] for start in range(0, len(order), SHARD_TEXTS)]
    first, step = (processes.process_index, processes.num_processes) if processes and folder else (0, 1)
    facts = {"encoder": name, "prompt": prompt, "max_length": max_length, "append_eos": append_eos}
    encoder, model = encoder_inputs(name), None

    def encode(some: list[str]) -> dict[str, np.ndarray]:
        nonlocal model
        model = model or _sentence_transformer(name, max_length, trust_remote_code)
        end = ""
        if append_eos:
            model.tokenizer.padding_side, end = "right", model.tokenizer.eos_token or model.tokenizer.sep_token
        sentences = [prompt + text + end for text in some]
        vectors = model.encode(sentences, show_progress_bar=False, convert_to_numpy=True)
        return {"vectors": unit_length(np.asarray(vectors, dtype=np.float64))}

    def vectors_of(number: int) -> np.ndarray:
        some = [texts[row] for row in shards[number]]
        provenance = Provenance("item vectors, shard", {"texts": hash_of_texts(some), **encoder}, facts)
        path = Path(folder) / f"vectors-{number:05d}-of-{len(shards):05d}.safetensors" if folder else None
        return table_or_arrays(path, provenance, lambda: encode(some))["vectors"]

    found: dict[int, np.ndarray] = {}
    with tqdm(total=len(texts), desc="item vectors", unit="item", disable=not progress) as bar:
        for number in range(first, len(shards), step):
            found[number] = vectors_of(number)
            bar.update(len(shards[number]))
    if step > 1:
        processes.wait_for_everyone()
        found = {number: found[number] if number in found else vectors_of(number) for number in range(len(shards))}
    vectors = np.zeros((len(texts), found[0].shape[1]), dtype=np.float32)
    for number, shard in enumerate(shards):
        vectors[shard] = found[number]
    return vectors


def encoder_inputs(name: str) -> dict[str, str]:
    """Of an encoder in a folder the hash of its files: under the same name there may be another one day."""
    return {"encoder": hash_of_folder(name)} if Path(name).is_dir() else {}


def tfidf_svd(texts: Sequence[str], dimensions: int = 128, seed: int = 0) -> np.ndarray:
    """Latent semantic analysis: TF-IDF of the texts' words, then a truncated singular value decomposition.

    Gives (N, d <= dimensions) float32, rows of length 1, or 0 for a text without words; d is lower where the texts
    span less.
    """
    vectorizer = TfidfVectorizer(token_pattern=_WORDS, sublinear_tf=True, dtype=np.float64)
    try:
        counts = vectorizer.fit_transform(texts)  # (N, words)
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 1), dtype=np.float32)
    with threadpool_limits(limits=1):  # sums in an order that does not depend on the number of cores
        if min(counts.shape) > dimensions:
            left, strengths, _ = randomized_svd(counts, dimensions, random_state=seed)
            vectors = left * strengths
        elif counts.shape[1] <= dimensions:
            vectors = counts.toarray()
        else:
            left, strengths, _ = np.linalg.svd(counts.toarray(), full_matrices=False)
            vectors = left * strengths
    return unit_length(vectors)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """(N, d) float32, rows of length 1, or 0 where they were."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32, order="C")  # as it is when it is read again


def _sentence_transformer(name: str, max_length: int | None, trust_remote_code: bool):
    with needs("sentence-transformers", f"encoder {name!r}"):
        from sentence_transformers import SentenceTransformer
    try:
        model = SentenceTransformer(name, device=str(choose_device()), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"encoder {name!r} cannot be loaded ({first_line}); give a model's name or path") from None
    if max_length is not None:
        model.max_seq_length = max_length
    return model
