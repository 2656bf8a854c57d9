"""Batches for transformers' `Trainer` and `Seq2SeqTrainer`, of rows of a `datasets.Dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from ..data.interactions import Interactions
from ..data.samples import PrefixGroup
from .batches import GroupedBatches, Ragged, tokenized
from .distillation import Distillation

if TYPE_CHECKING:
    from ..tokenization_gram import GramTokenizer


@dataclass(eq=False)
class GramDataCollator(TrainerCallback):
    """Makes rows of item ids into inputs of [`GramForConditionalGeneration`], with labels.

    What the target column holds decides the form. Where it is an item id, a batch is in the plain form: `input_ids`,
    `attention_mask` (B, P, L), `labels` (B, T). Where it is a list of item ids, each of which comes after those before
    it too, a batch is in the grouped form: the model encodes each item of the batch once, and folds the samples of a
    row. Both give the same loss and gradients; the grouped form is faster, and for training alone.

    [`gram.data.samples_of`] makes such rows. Give `remove_unused_columns=False` to the TrainingArguments: without it
    the Trainer drops the columns before they get here.

    Args:
        tokenizer: the model's.
        distillation: a teacher; `labels` and `soft_targets` are then what it makes of the samples. A batch with a row
            without a place is not taught. If it draws further targets, the rows must be for the grouped form, and the
            Trainer needs the collator as a callback too, `callbacks=[collator]`, which tells it the epoch.
        exclude_seen: add `excluded_items` (B, E) to batches in the plain form, so that `generate` recommends nothing of
            a user's history; to the loss they mean nothing.
        history_column: item ids before the target, oldest first, one or more.
        target_column: an item id, or a list of them.
        place_column: of the first target in the interactions that the teacher was given; null where there is none.

    Raises:
        ValueError: when it is called: a row lacks a column, has an empty history, no target or an item that is not in
            the catalogue; the teacher has another item in a row's place, or draws and cannot.

    Example:
        >>> collate = GramDataCollator(tokenizer)
        >>> batch = collate([{"history": ["B0003", "B0007"], "target": "B0001"}])
        >>> batch["input_ids"].shape[:2], tokenizer.decode_items(batch["labels"])
        (torch.Size([1, 3]), [['B0001']])
        >>> batch = collate([{"history": ["B0003"], "target": ["B0007", "B0001"]}])
        >>> tokenizer.decode_items(batch["labels"], num_return_sequences=1)
        [['B0007'], ['B0001']]
    """

    tokenizer: GramTokenizer
    distillation: Distillation | None = None
    exclude_seen: bool = False
    history_column: str = "history"
    target_column: str = "target"
    place_column: str = "place"
    epoch: int | None = field(default=None, init=False)

    def __post_init__(self):
        tokenized(self.tokenizer)  # once, and not in every worker of a loader

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Note the epoch: the teacher draws other items in each."""
        if args.dataloader_persistent_workers and self.distillation is not None and self.distillation.draws:
            raise ValueError("the teacher draws by the epoch; persistent workers never learn of it, and cannot be")
        self.epoch = int(state.epoch)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some rows."""
        histories, targets, is_grouped = [], [], False
        for number, row in enumerate(rows):
            history, target = (self._column(row, name) for name in (self.history_column, self.target_column))
            place, one = f"row {number} of the batch, column ", isinstance(target, str)
            histories.append(self.tokenizer.history_rows(history, f"{place}{self.history_column!r}: "))
            place, is_grouped = f"{place}{self.target_column!r}: ", is_grouped or not one
            targets.append(self.tokenizer.rows_of([target] if one else target, place, "a target"))
            if not targets[-1]:
                raise ValueError(f"{place}there is no target; give at least one item id")
        pairs = zip(histories, targets, strict=True)
        sequences = Interactions.from_sequences(range(len(rows)), [history + target for history, target in pairs])
        if is_grouped:
            groups = [PrefixGroup(row, len(of), len(sequences[row])) for row, of in enumerate(histories)]
            batch = GroupedBatches(sequences, self.tokenizer)(groups)
            samples = batch.pop("samples").numpy()
        else:
            samples = sequences.offsets[1:] - 1
            labels, _ = tokenized(self.tokenizer)[1].take(sequences.items[samples]).padded(-100)
            batch = {**self.tokenizer(rows=histories, return_tensors="pt"), "labels": torch.from_numpy(labels)}
            if self.exclude_seen:
                batch["excluded_items"] = torch.from_numpy(Ragged.of(histories).padded(-1)[0])
        if self.distillation is not None:
            places = [self._column(row, self.place_column) for row in rows]
            if None not in places:
                starts = np.array(places) - [len(history) for history in histories]  # of the rows in the teacher's
                batch |= self._taught(sequences, samples, starts, batch["labels"], is_grouped)
        return batch

    def _column(self, row: Mapping[str, Any], name: str) -> Any:
        if name not in row:
            raise ValueError(
                f"a row has no column {name!r}, only {', '.join(map(repr, row))}; tell the collator the names of "
                "yours, and give `remove_unused_columns=False` to the TrainingArguments, or the Trainer drops them"
            )
        return row[name]

    def _taught(
        self, sequences: Interactions, samples: np.ndarray, starts: np.ndarray, labels: torch.Tensor, is_grouped: bool
    ) -> dict:
        """What the teacher makes of samples (N,), which are places in `sequences.items`."""
        if self.distillation.draws and not is_grouped:
            raise ValueError("the teacher draws targets; give rows of several targets (`prefixes_per_group`) to it")
        if self.distillation.draws and self.epoch is None:
            raise ValueError("the teacher draws other items in every epoch; give `callbacks=[collator]` to the Trainer")
        places = samples + (starts - sequences.offsets[:-1]).repeat(sequences.lengths)[samples]  # (N,)
        own, wrong = self.distillation.interactions.items, places >= len(self.distillation.interactions.items)
        wrong |= own[places * ~wrong] != sequences.items[samples]
        if wrong.any():
            item = self.tokenizer.item_ids[sequences.items[samples[wrong.argmax()]]]
            raise ValueError(
                f"the teacher has another item than {item!r} in place {places[wrong.argmax()]}; make the rows of the "
                "data that it was fitted on, with the catalogue of the tokenizer"
            )
        return self.distillation(torch.from_numpy(places), labels, self.epoch or 0)
