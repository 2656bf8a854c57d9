"""A model for runtimes without torch: ONNX graphs, and all that a client of them needs, as plain files.

docs/export.md says what each file takes, gives and holds.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from ..common.extras import needs
from ..common.files import new_folder
from ..common.provenance import hash_of_file
from ..decoding_gram import heads, run_blocks
from ..layers_gram import has_hooks_between
from ..loading_gram import check_catalogue

FORMAT = 1  # counted up when a client of the files must be written anew
SETTINGS_FILE = "gram.json"
_LARGEST_FILE = 1 << 30  # bytes of weights; ONNX holds at most twice as many in one file


class PassageEncoder(nn.Module):
    """T5's encoder on padded passages (N, L): states (N, L, d), after its final norm, without passage position."""

    def __init__(self, model):
        super().__init__()
        self.encoder = model.encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class CrossMemory(nn.Module):
    """Keys and values (layers, 2, H, B, M, dk) of states (B, M, d) and the places (B, M) of their passages."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:  # noqa: D102
        states = states + F.embedding(places, self.model.passage_positions)
        attentions = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        of_layers = [[heads(of, linear(states)) for linear in (of.k, of.v)] for of in attentions]
        return torch.stack([torch.stack(both) for both in of_layers])


class DecoderStep(nn.Module):
    """Append a token to each of a user's prefixes, and score what may follow.

    Args of `forward`:
        tokens (B, W) int64: the start token, or the last tokens of W prefixes.
        parents (B, W) int64: which of the W' prefixes of the step before each goes on; 0 at the first step.
        past (layers, 2, B, W', T, H * dk): what the step before returned; (layers, 2, B, 1, 0, H * dk) at first.
        memory (layers, 2, H, B, M, dk): of `CrossMemory`.
        mask (B, M) bool: False where a user has fewer than M tokens to attend to.
        candidates (B, W, F) int64: tokens that may come next.
        legal (B, W, F) bool: False where there is no such candidate.

    Returns:
        Log-probabilities (B, W, F), -inf where not legal, over what `config.score_mode` says; and the past
        (layers, 2, B, W, T + 1, H * dk) of the next step.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, parents, past, memory, mask, candidates, legal) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: D102
        decoder, (batch_size, width) = self.model.decoder, tokens.shape
        rows = parents + torch.arange(batch_size)[:, None] * past.shape[3]  # (B, W)
        past = past.flatten(2, 3).index_select(2, rows.flatten())  # (layers, 2, B * W, T, H * dk)
        length, room = past.shape[3] + 1, past.new_zeros(*past.shape[1:3], 1, past.shape[4])  # for the new tokens
        # A tensor for each layer: a write into a part of one would copy all of it.
        slots = [torch.cat([of_layer, room], dim=2).flatten(1, 2) for of_layer in past]  # (2, B * W * (T + 1), H * dk)
        last = length * (torch.arange(batch_size * width).view(batch_size, width, 1) + 1) - 1
        bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)[0, :, -1]  # (H, T)
        bias = bias.flip(-1).T.expand(batch_size, width, length, -1)
        embedded, ancestors = decoder.embed_tokens(tokens), last - torch.arange(length)  # (B, W, T), itself first
        states = run_blocks(decoder, embedded, slots, ancestors, bias, list(memory.unbind()), ~mask[:, None])
        logits = self.model._logits(states).float()  # (B, W, V)
        chosen = logits.gather(-1, candidates).masked_fill(~legal, -torch.inf)
        over = chosen if self.model.config.score_mode == "trie" else logits
        log_probs = (chosen - over.logsumexp(dim=-1, keepdim=True)).masked_fill(~legal, -torch.inf)
        return log_probs, torch.stack(slots).unflatten(2, (batch_size, width, length))


def graphs(model) -> dict[str, tuple[nn.Module, dict[str, torch.Tensor], list[dict[int, Dim]], list[str]]]:
    """The parts of a model as `torch.export` takes them: module, inputs, which of their sizes may be any, outputs."""
    config, sizes = model.config, {name: Dim(name) for name in ("N", "L", "B", "M", "W", "V", "F")}
    sizes["T"] = Dim.DYNAMIC  # with a name, torch.export wants a proof of what is true of strides, and finds none
    layers, inner = config.num_decoder_layers, config.num_heads * config.d_kv

    def whole(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=torch.long)

    def axes(**places: int) -> dict[int, Dim]:
        return {place: sizes[name] for name, place in places.items()}

    passages = {"input_ids": whole(2, 3), "attention_mask": whole(2, 3)}
    attended = {"states": torch.zeros(2, 5, config.d_model), "places": whole(2, 5)}
    step = {
        "tokens": whole(2, 4),
        "parents": whole(2, 4),
        "past": torch.zeros(layers, 2, 2, 3, 2, inner),
        "memory": torch.zeros(layers, 2, config.num_heads, 2, 5, config.d_kv),
        "mask": whole(2, 5).bool(),
        "candidates": whole(2, 4, 6),
        "legal": whole(2, 4, 6).bool(),
    }
    prefixes, following = axes(B=0, W=1), axes(B=0, W=1, F=2)
    of_step = [prefixes, prefixes, axes(B=2, V=3, T=4), axes(B=3, M=4), axes(B=0, M=1), following, following]
    return {
        "encoder": (PassageEncoder(model), passages, [axes(N=0, L=1)] * 2, ["states"]),
        "memory": (CrossMemory(model), attended, [axes(B=0, M=1)] * 2, ["memory"]),
        "decoder": (DecoderStep(model), step, of_step, ["log_probs", "past_after"]),
    }


def export_onnx(model, tokenizer, folder: str | Path) -> list[Path]:
    """Write a model to a new folder as ONNX graphs, in float32, with all that a client needs; gives its files.

    `examples/recommend_with_onnx.py` is such a client.

    Raises:
        MissingPackageError: `onnx` or `onnxscript` is not installed.
        ValueError: there is something in the folder; a tokenizer of another
            catalogue; modules of the model have hooks, or weights that are no plain tensors.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    with needs("onnx", "the export"):
        import onnx  # noqa: F401 - before the work; torch asks for both in the midst of it
        import onnxscript  # noqa: F401
    check_catalogue(model, tokenizer, model.name_or_path or "the model")
    is_plain = all(type(weight) is nn.Parameter and not weight.is_meta for weight in model.parameters())
    is_quantised = any(type(module).__module__.startswith("torch.ao.") for module in model.modules())
    if not is_plain or is_quantised or has_hooks_between(model):
        raise ValueError("the model has hooks, or weights that are quantised or offloaded; export it without them")
    model = copy.deepcopy(model).cpu().float().eval()
    model.set_attn_implementation("eager")  # of SDPA's output torch.onnx may believe another layout than it has
    with new_folder(folder) as partial:
        for name, graph in graphs(model).items():
            _write_graph(*graph, partial / f"{name}.onnx")
        np.savez(partial / "trie.npz", **_arrays(model.item_trie))
        pq.write_table(_with_tokens(tokenizer), partial / "catalogue.parquet")
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        backend.save(str(partial / "tokenizer.json"))
        hashes = {path.name: hash_of_file(path) for path in sorted(partial.iterdir())}
        settings = json.dumps({**settings_of(model, tokenizer), "files": hashes}, indent=2, ensure_ascii=False)
        (partial / SETTINGS_FILE).write_text(settings + "\n", encoding="utf-8")
    return sorted(folder.iterdir())


def _write_graph(module: nn.Module, inputs: dict, shapes: list, outputs: list[str], path: Path) -> None:
    size = sum(weight.nbytes for weight in module.parameters())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=tuple(shapes))
        names = {"input_names": list(inputs), "output_names": outputs}
        torch.onnx.export(program, f=path, dynamo=True, **names, external_data=size > _LARGEST_FILE, verbose=False)


def _arrays(trie) -> dict[str, np.ndarray]:
    """A trie's tensors, and the parent of each node, 0 that of the root."""
    arrays = {name: buffer.numpy() for name, buffer in trie.named_buffers()}
    parents = np.searchsorted(arrays["offsets"], np.arange(trie.num_nodes), side="right") - 1
    return {**arrays, "parents": parents.clip(min=0).astype(np.int32)}


def _with_tokens(tokenizer) -> pa.Table:
    """The catalogue with token ids of its lexical IDs and item prompts."""
    tokens = pa.list_(pa.int32())
    table = tokenizer.catalogue.append_column("lexical_id_tokens", pa.array(tokenizer.lexical_ids, tokens))
    return table.append_column("item_prompt", pa.array(tokenizer.item_prompts, tokens))


def settings_of(model, tokenizer) -> dict:
    """What `gram.json` says: of prompts, search and the empty past of [`DecoderStep`].

    `user_prompt` is token ids: what begins it, what is between two lexical IDs, and what ends it.
    """
    config, penalty = model.config, model.generation_config.length_penalty
    begin, between, end = map(tokenizer.wording, ("What would user purchase after", ";", "?"))
    return {
        "format": FORMAT,
        "score_mode": config.score_mode,
        "length_penalty": 1.0 if penalty is None else penalty,
        "repeats": config.repeats,
        "max_history": tokenizer.max_history,
        "max_passage_length": tokenizer.max_passage_length,
        "user_prompt": [begin, between, end] if tokenizer.with_user_prompt else None,
        "with_item_prompts": tokenizer.with_item_prompts,
        "item_prompt_begins": tokenizer.wording("item:") + between,  # of an item that is in no catalogue
        "pad_token_id": config.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "past_shape": [config.num_decoder_layers, 2, 1, 1, 0, config.num_heads * config.d_kv],
    }
