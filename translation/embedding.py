"""Item vectors: of the built-in encoder, of any sentence-transformers model, or given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from ..processes import this_process
from ..provenance import Provenance, hash_of_folder, hash_of_texts
from .artefacts import table_or_arrays
from .settings import BUILT_IN_ENCODER

SHARD_TEXTS = 16_384

_WORDS = r"(?u)\w+|[^\w\s\x00-\x7f]"  # words, and each emoji or other symbol beyond ASCII


def embed_texts(texts: Sequence[str], encoder: str = BUILT_IN_ENCODER, seed: int = 0, **kwargs) -> np.ndarray:
    """One vector per text.

    Args:
        texts: N texts.
        encoder: `"tfidf-svd"`, which needs no download, or the name or path of a sentence-transformers model.
        seed: of the built-in encoder.
        kwargs: of `encode_in_shards`, for a sentence-transformers model.

    Returns:
        (N, d) float32, each row of length 1 (or 0, where the built-in encoder finds no word in a text).

    Raises:
        ValueError: sentence-transformers is asked for but not installed, or has no such model.
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
        ValueError: sentence-transformers is not installed, or has no such model.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")[::-1]  # what needs most memory comes first
    shards = [order[start : start + SHARD_TEXTS] for start in range(0, len(order), SHARD_TEXTS)]
    first, step = (processes.process_index, processes.num_processes) if processes and folder else (0, 1)
    facts = {"encoder": name, "prompt": prompt, "max_length": max_length, "append_eos": append_eos}
    contents = [hash_of_texts(texts[row] for row in shard) for shard in shards]
    encoder = encoder_inputs(name)
    provenances = [Provenance("item vectors, shard", {"texts": content, **encoder}, facts) for content in contents]
    model = None

    def encode(shard: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal model
        model = model or _sentence_transformer(name, max_length, trust_remote_code, processes)
        end = ""
        if append_eos:
            model.tokenizer.padding_side, end = "right", model.tokenizer.eos_token or model.tokenizer.sep_token
        sentences = [prompt + texts[row] + end for row in shard]
        vectors = model.encode(sentences, show_progress_bar=False, convert_to_numpy=True)
        return {"vectors": _unit_length(np.asarray(vectors, dtype=np.float64))}

    def shard_file(number: int) -> Path | None:
        return Path(folder) / f"vectors-{number:05d}-of-{len(shards):05d}.safetensors" if folder else None

    found: dict[int, np.ndarray] = {}
    with tqdm(total=len(texts), desc="item vectors", unit="item", disable=not progress) as bar:
        for number in range(first, len(shards), step):
            arrays = table_or_arrays(shard_file(number), provenances[number], lambda n=number: encode(shards[n]))
            found[number] = arrays["vectors"]
            bar.update(len(shards[number]))
    if step > 1:
        processes.wait_for_everyone()
        for number in set(range(len(shards))) - set(found):
            found[number] = table_or_arrays(shard_file(number), provenances[number], dict)["vectors"]
    vectors = np.zeros((len(texts), found[0].shape[1]), dtype=np.float32)
    for number, shard in enumerate(shards):
        vectors[shard] = found[number]
    return vectors


def encoder_inputs(name: str) -> dict[str, str]:
    """Of an encoder in a folder the hash of its files: under the same name there may be another one day."""
    return {"encoder": hash_of_folder(name)} if Path(name).is_dir() else {}


def read_vectors(path: str | Path, item_ids: Sequence[str]) -> np.ndarray:
    """Given item vectors.

    Args:
        path: `.npy` or `.safetensors` with one array (N, d) in catalogue order, or `.parquet` with the columns
            `item_id` and `vector` in any order.
        item_ids: the catalogue.

    Returns:
        (N, d) float32, rows of length 1 (or 0).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: another kind of file, a wrong shape, a number that is not finite, or an item without vector.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one with the items' vectors")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: not a kind of file that vectors are read from; give {', '.join(readers)}")
    try:
        vectors = readers[path.suffix](path, item_ids)
    except (SafetensorError, pa.ArrowException, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())}); write it again") from None
    if vectors.ndim != 2 or len(vectors) != len(item_ids) or vectors.dtype.kind not in "iuf" or not vectors.size:
        shape = f"({len(item_ids)}, d)"
        raise ValueError(f"{path}: holds {vectors.dtype} of shape {vectors.shape}; it must be numbers, {shape}")
    vectors = vectors.astype(np.float64)
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise ValueError(f"{path}: the vector of item {item_ids[int(broken.argmax())]} is not finite; correct it")
    return _unit_length(vectors)


def _read_npy(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    try:
        vectors = np.load(path, allow_pickle=False)
        if isinstance(vectors, np.ndarray):
            return vectors
        said = "it is an archive of several"
    except ValueError as error:
        said = error
    raise ValueError(f"{path}: not a .npy file of numbers ({said}); write it with numpy.save") from None


def _read_safetensors(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    tensors = load_file(path)
    if len(tensors) != 1:
        raise ValueError(f"{path}: holds {len(tensors)} arrays; it must hold one, the vectors")
    (vectors,) = tensors.values()
    is_short = vectors.is_floating_point() and vectors.dtype.itemsize < 4  # numpy has no bfloat16
    return (vectors.float() if is_short else vectors).numpy()


def _read_parquet(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    table = pq.read_table(path)
    for name in ("item_id", "vector"):
        if table.column_names.count(name) != 1:
            raise ValueError(f"{path}: needs one column {name}; the columns must be item_id and vector")
    kind = table["vector"].type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ValueError(f"{path}: column vector holds {kind}; it must hold lists of numbers")
    ids = table["item_id"].cast(pa.string()).to_pylist()
    rows = {item: row for row, item in enumerate(ids)}
    if len(rows) < len(ids):
        twice = next(item for row, item in enumerate(ids) if rows[item] != row)
        raise ValueError(f"{path}: item {twice} has two vectors; keep one")
    missing = next((item for item in item_ids if item not in rows), None)
    if missing is not None:
        raise ValueError(f"{path}: item {missing} has no vector; add a row for it")
    column = table["vector"].combine_chunks()
    lengths = pc.list_value_length(column)
    if column.null_count or pc.min(lengths).as_py() != pc.max(lengths).as_py():
        raise ValueError(f"{path}: the vectors are not all of one length; correct the file")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)[[rows[item] for item in item_ids]]


def tfidf_svd(texts: Sequence[str], dimensions: int = 128, seed: int = 0) -> np.ndarray:
    """Latent semantic analysis: TF-IDF of the texts' words, then a truncated singular value decomposition.

    Args:
        texts: N texts.
        dimensions: of the vectors; fewer where the texts span fewer.
        seed: of the randomised decomposition.

    Returns:
        (N, d <= dimensions) float32, rows of length 1, or 0 for a text without words.
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
    return _unit_length(vectors)


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32, order="C")  # as it is when it is read again


def _sentence_transformer(name: str, max_length: int | None, trust_remote_code: bool, processes: PartialState | None):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"encoder {name!r} needs sentence-transformers; pip install 'gram-recommender[sentence-transformers]', "
            f"or choose {BUILT_IN_ENCODER!r}"
        ) from None
    try:
        device = str((processes or this_process()).device)
        model = SentenceTransformer(name, device=device, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"encoder {name!r} cannot be loaded ({first_line}); give a model's name or path") from None
    if max_length is not None:
        model.max_seq_length = max_length
    return model
