"""Everything that runs on an accelerator, on one that is none: `on_other_device.py MODEL_FOLDER`, for a test.

The last line is JSON: what was found on the CPU and there.
"""

import json
import sys

import numpy as np
import torch
from accelerate.utils import send_to_device

from gram.collaborative.baselines import Popularity, TransitionGraph
from gram.common.provenance import hash_of_model
from gram.data import Interactions
from gram.evaluation.candidates import gram_candidates
from gram.item_cache_gram import ItemCache
from gram.modeling_gram import GramForConditionalGeneration
from gram.pipeline_gram import GenerativeRecommendationPipeline
from gram.serving.recommendation import Recommender
from gram.serving.similar import SimilarItems
from gram.tokenization_gram import GramTokenizer
from gram.training.distillation import Distillation
from gram.training.steps import TrainingSteps
from gram.trie_gram import ItemTrie
from tests.other_device import DEVICE, other_device

SEARCH = {"num_beams": 6, "num_return_sequences": 4, "return_dict_in_generate": True}


def everything(model, tokenizer, folder) -> dict:
    """Numbers of each way to use the model."""
    device, ids, found = model.device, tokenizer.item_ids, {}
    rows = [np.array([3, 7, 2]), np.array([5]), np.array([1, 2, 3, 4, 9, 11])]
    histories = [[ids[row] for row in user] for user in rows]
    inputs = tokenizer(histories=histories, return_tensors="pt").to(device)
    excluded = torch.tensor([[3, 7], [5, -1], [1, 2]], device=device)
    for name, options in {"plain": {}, "exact": {"exact": True}, "excluded": {"excluded_items": excluded}}.items():
        output = model.generate(**inputs, **{**SEARCH, **options})
        found[name] = [tokenizer.decode_items(output.sequences, 4), output.sequences_scores.tolist()]
    caches = [ItemCache.in_memory(model, tokenizer, dtype=dtype) for dtype in ("float32", "bfloat16", "int8")]
    short = tokenizer(histories=histories, item_prompts=False, return_tensors="pt").to(device)
    for cache in (*caches, model.encode_items(tokenizer, folder, progress=False)):
        output = model.generate(**short, **SEARCH, item_cache=cache)
        found[f"{cache.dtype} {len(found)}"] = [tokenizer.decode_items(output.sequences, 4)]
    found["explain"] = model.explain(output.item_indices, **short, item_cache=cache).attention_shares.tolist()
    others = {name: np.array([[8, 9], [8, -1], [2, 20]]) for name in ("all_items", "unseen_items")}
    candidates = gram_candidates(model, tokenizer, rows, num_beams=4, others=others, progress=False)
    found["candidates"] = [candidates["unseen_items"].items.tolist(), candidates["all_items"].scores.tolist()]
    recommended = Recommender(model, tokenizer).recommend(histories, top_k=3)
    found["recommended"] = [[item.item_id for item in user] for user in recommended]
    similar = SimilarItems(Recommender(model, tokenizer))
    found["similar"] = [
        [item.item_id, item.score] for what in (ids[3], {"title": "Silk balm"}) for item in similar.find(what)
    ]
    pipeline = GenerativeRecommendationPipeline(model=model, tokenizer=tokenizer, device=device)
    found["pipeline"] = [item["item_id"] for item in pipeline(histories[0], top_k=4, where=[], exclude=ids[:2])]
    found["hash"] = hash_of_model(model)
    model.train()
    model.config.dropout_rate = 0.0
    training = Interactions.from_sequences(["a", "b", "c"], rows)
    trie, teacher = ItemTrie.from_sequences(tokenizer.sequences), Popularity(training, len(ids))
    graph = TransitionGraph(training, np.eye(len(ids)))
    distil = Distillation(teacher, training, trie, 0.7, draws=2, graph=graph, graph_share=0.5, device=device)
    batches, num_tokens = TrainingSteps(training, tokenizer, 4, 4, 2, 0, 0, with_samples=True)[0]
    for batch in batches:
        soft = distil(batch.pop("samples"), batch["labels"])
        inputs = {**send_to_device(batch, device), "num_items_in_batch": num_tokens}
        model(**inputs).loss.backward()
        model(**{**inputs, **soft}).loss.backward()
    found["gradients"] = [float(weight.grad.abs().sum()) for weight in model.parameters()]
    return found


def main(model_folder: str, folder: str) -> None:
    """Twice, and compare."""
    tokenizer = GramTokenizer.from_pretrained(model_folder)
    models = [GramForConditionalGeneration.from_pretrained(model_folder, dropout_rate=0.0).eval() for _ in range(2)]
    expected = everything(models[0], tokenizer, folder)
    with other_device():
        found = everything(models[1].to(DEVICE), tokenizer, folder)
    print(json.dumps([expected, found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
