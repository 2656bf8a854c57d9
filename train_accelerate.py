"""Train GRAM: `accelerate launch train_accelerate.py --data DIR --output-dir DIR [--config FILE]`.

One process on a CPU, several, or GPUs: the same code, and the same samples in every optimizer step.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports: what one of them misses is one line too
    from gram.common.command_line import exit_code_of
    from gram.common.openmp import wait_briefly

    wait_briefly()

    def _program() -> None:
        from gram.train_accelerate import main

        main()

    raise SystemExit(exit_code_of(_program, "train_accelerate.py"))

import argparse
import logging
import math
import os
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from gram.common.extras import MissingPackageError, needs
from gram.common.files import check_outputs, locked, new_file, write_json
from gram.common.processes import keep_freed_memory, make_accelerator, precision, this_process
from gram.common.provenance import Provenance
from gram.common.settings import add_flags, settings_from
from gram.common.text import duration
from gram.data import RecommendationData, drawn_users, evaluation_histories, training_part
from gram.evaluation.candidates import gram_candidates, target_ranks
from gram.evaluation.rankings import ranking_metrics
from gram.hub.card_settings import CardSettings
from gram.hub.model_card import refresh_model_card
from gram.item_cache_gram import ITEM_CACHE_FOLDER
from gram.modeling_gram import GramForConditionalGeneration
from gram.serving.loading import MODEL_FILES
from gram.tokenization_gram import GramTokenizer
from gram.training.budget import round_ends, seconds_of, steps_within
from gram.training.checkpoints import (
    ADAPTER_FOLDER,
    CHECKPOINTS_FOLDER,
    FINISHED_FILE,
    WEIGHTS,
    checkpoints_in,
    differences_from,
    is_trained,
    move_files,
    provenance_of,
    save_checkpoint,
    save_model_folder,
)
from gram.training.distillation import distillation_of, sasrec_file
from gram.training.facts import run_facts
from gram.training.plot import plot_training
from gram.training.progress import LOG_EVERY, Progress
from gram.training.settings import TrainingSettings
from gram.training.sharding import check_launch, exchanges_always, shard, whole_model
from gram.training.start import (
    add_lora,
    build_model,
    data_of,
    optimizer_of,
    start_weights,
    tokenizer_of,
)
from gram.training.steps import SIZES, TrainingSteps, thinned
from gram.training.trackers import loggable, tracker_names
from gram.translation import SASREC_FILE, TranslationSettings

with needs("train"):
    from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, send_to_device, set_seed

logger = logging.getLogger(__name__)

LATE = 1.15  # times the seconds of a step that a budget was made for
PLOT_FILE, LOGS_FOLDER = "training.svg", "logs"
CHECKPOINT_NAME = re.compile(r"(step-\d+|partial|best|\.best\.partial)$")
_OF_WEIGHTS = (ADAPTER_FOLDER, ITEM_CACHE_FOLDER, "evaluation.json", "evaluation.parquet")


def train(settings: TrainingSettings, data: RecommendationData, tokenizer: GramTokenizer) -> None:
    """Train a GRAM and leave its folder at `settings.output_dir`: model, tokenizer, Hub code and `training.json`.

    An interrupted run goes on from its last checkpoint when it is called again with the same data and settings. A
    finished one is left as it is.

    Raises:
        ValueError: the folder holds a run with other data or settings, and `overwrite` is not set, a model that was
            not trained by this, or what the run reads; another process trains there; no user has two training items;
            or the loss or the weights are no longer finite.
    """
    check_folder(settings)
    with locked(settings.output_dir, inside=True, processes=this_process()):
        provenance = provenance_of(settings, data, tokenizer)
        if is_trained(settings, provenance):
            logger.info("%s is already trained on these data with these settings", settings.output_dir)
            return
        run = _Run(settings, data, tokenizer, provenance)
        run.resume()
        run.plan()
        run.fit()
        run.publish()


class _Run:
    """A training run's objects: accelerator, model, optimizer, progress."""

    def __init__(
        self, settings: TrainingSettings, data: RecommendationData, tokenizer: GramTokenizer, provenance: Provenance
    ):
        self.settings, self.data, self.tokenizer, self.provenance = settings, data, tokenizer, provenance
        self.output_dir = Path(settings.output_dir)
        self.checkpoints = self.output_dir / CHECKPOINTS_FOLDER
        self.is_late = False  # for its budget
        self.unseen_losses: list[torch.Tensor] = []  # of the last steps; to look at one makes a GPU wait
        self.training = training_part(data)
        self.validation = evaluation_histories(data, "validation")
        self.users = drawn_users(len(self.validation[1]), settings.validation_users or None, settings.seed)
        self.accelerator = make_accelerator(
            mixed_precision=precision(settings.mixed_precision),
            log_with=tracker_names(settings.report_to) or None,
            project_config=ProjectConfiguration(str(self.output_dir), logging_dir=str(self.output_dir / LOGS_FOLDER)),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        check_launch(self.accelerator, settings)
        device = self.accelerator.device.type
        self.is_pinned = device == "cuda"  # batches lie where the GPU fetches them from while the processor goes on
        self.workers = int(device != "cpu") if settings.workers is None else min(settings.workers, os.cpu_count() or 1)
        if device == "cpu":
            keep_freed_memory()
        set_seed(settings.seed)
        model = build_model(settings, tokenizer)
        where = self.accelerator.device if device == "cuda" else "cpu"  # not all devices know float64
        model.config.repeats = self.training.num_repeats > 0
        if settings.starts_random:
            start_weights(model, tokenizer, settings, data)
        self.is_target = model.item_trie.leaves.numpy(force=True) >= 0
        self.distillation = distillation_of(settings, data, model.item_trie, where)
        self.adapted = None if settings.lora is None else add_lora(model, settings)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if settings.compile:
            for block in (*model.encoder.block, *model.decoder.block):
                block.layer[-1].compile(dynamic=True)  # norm, activation, dropout and residual become one loop
        shard(self.accelerator, model)
        optimizer = optimizer_of(model, settings)
        if not len(self.steps(0)):
            raise ValueError(f"{settings.data}: no user has two items to train on; longer sequences are needed")
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.progress = Progress()
        self.accelerator.register_for_checkpointing(self.progress)
        set_seed(settings.seed, device_specific=True)  # every process drops out units of its own
        if settings.report_to:
            options = {name: {"name": self.output_dir.resolve().name} for name in ("wandb", "trackio")}
            self.accelerator.init_trackers("gram", config=loggable(asdict(settings)), init_kwargs=options)

    def steps(self, epoch: int) -> TrainingSteps:
        """The steps of an epoch, whose histories are those that the teacher takes samples of from now on."""
        settings, accelerator = self.settings, self.accelerator
        part = thinned(self.training, settings.interaction_dropout, settings.seed, epoch)
        if self.distillation is not None:
            self.distillation.read(part)
        return TrainingSteps(
            part,
            self.tokenizer,
            epoch=epoch,
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
            same_count=exchanges_always(accelerator),
            with_samples=self.distillation is not None,
            is_target=self.is_target,
            **{name: getattr(settings, name) for name in SIZES},
        )

    def plan(self) -> None:
        """Settle how many steps there are, which the learning rate depends on; what a checkpoint says of it stays."""
        settings, progress = self.settings, self.progress
        if settings.budget is None:
            self.total = sum(len(self.steps(epoch)) for epoch in range(settings.epochs))
        else:
            chosen = progress.budget = progress.budget or self._choose()
            self.total = chosen["steps"]
            text = f"a step takes {chosen['step_seconds']:.2g} s, {self.total:,} steps, {chosen['epochs']:.3g} epochs"
            validation = f"validation takes about {chosen['validation_seconds']:.2f} s"
            logger.info("budget %s: %s; %s", settings.budget, text, validation)
        epochs = (len(self.steps(epoch)) for epoch in count())
        self.ends = round_ends(epochs, self.total, settings.first_round)
        if len(self.ends) > 1:
            ends = ", ".join(f"{end:,}" for end in self.ends)
            logger.info("rounds end after %s steps, the training with the first that brings no better validation", ends)

    def _choose(self) -> dict[str, float]:
        """Time some steps and a validation, and choose how many fit; then all is as it was before."""
        budget, steps, device = seconds_of(self.settings.budget), self.steps(0), self.accelerator.device
        timed = range(min(len(steps), 30, 5 + int(budget / 20)))  # their order is random: they stand for all
        users = self.users[:: len(self.users) // (64 * self.accelerator.num_processes) or 1]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # no weight changes
        self.model.train()
        clock = [time.monotonic()]
        for places in (timed[:3], timed):  # the first are slow, and do not count
            losses = [self._update(*batch) for batch in self._batches(steps, places)]
            losses[-1].item()  # waits for a GPU
            clock.append(time.monotonic())
        for _ in range(2):
            self._ranks(whole_model(self.accelerator, self.model), users)
            clock.append(time.monotonic())
        self.optimizer.state.clear()
        set_seed(self.settings.seed, device_specific=True)
        taken = self.accelerator.gather(torch.tensor([np.diff(clock).tolist()], device=device)).amax(0).tolist()
        step, validation = taken[1] / len(timed), taken[3] * len(self.users) / len(users)
        total = steps_within(budget - sum(taken), step, validation, self.settings.validate_every * len(steps))
        return {"steps": total, "epochs": total / len(steps), "step_seconds": step, "validation_seconds": validation}

    def fit(self) -> None:
        """All epochs that are still to do."""
        settings, progress = self.settings, self.progress
        shown = {"desc": "training", "unit": "step", "disable": not self.accelerator.is_main_process}
        with tqdm(total=self.total, initial=progress.updates, **shown) as bar:
            while progress.updates < self.total and not progress.stopped_early:
                self._epoch(bar)
                progress.epoch, progress.step = progress.epoch + 1, 0
                if progress.epoch % settings.validate_every == 0 or progress.updates in self.ends:
                    self._validate(bar)
                self._save()
        if settings.report_to:
            self.accelerator.end_training()

    def _round(self, step: int) -> tuple[int, int]:
        """Before which step the round of this one begins and the next one does; the first step is 0."""
        place = bisect_right(self.ends, step)
        return (0, *self.ends)[place], self.ends[place]

    def _epoch(self, bar: tqdm) -> None:
        progress, steps = self.progress, self.steps(self.progress.epoch)
        last = min(len(steps), progress.step + self.total - progress.updates)
        self.model.train()
        started = time.monotonic()
        for micro_batches, num_tokens in self._batches(steps, range(progress.step, last)):
            self._set_learning_rate()
            self.unseen_losses.append(self._update(micro_batches, num_tokens))
            progress.samples += steps.num_samples(progress.step)
            progress.step += 1
            progress.updates += 1
            now = time.monotonic()
            progress.seconds, started = progress.seconds + now - started, now
            bar.update()
            if progress.updates % LOG_EVERY == 0:
                mean = self._look_at_losses()
                progress.add_loss(mean)
                self._log(bar, {"loss": mean, "lr": self.optimizer.param_groups[-1]["lr"]})
                self._look_at_the_clock()
            if progress.updates % self.settings.save_every == 0 and progress.step < last:
                self._look_at_losses()
                self._save()
                started = time.monotonic()
        self._look_at_losses()

    def _look_at_the_clock(self) -> None:
        """Say, once, that steps take longer than a budget was made for."""
        progress, chosen = self.progress, self.progress.budget
        step = progress.seconds / progress.updates
        if chosen and not self.is_late and progress.updates > self.total / 20 and step > LATE * chosen["step_seconds"]:
            self.is_late = True
            text = "a step now takes %.2g s: the run takes longer than its budget, about %s without validations"
            logger.warning(text, step, duration(step * self.total))

    def _batches(self, steps: TrainingSteps, places: Sequence[int]) -> DataLoader:
        return DataLoader(
            steps,
            batch_size=None,
            sampler=places,
            num_workers=self.workers,
            pin_memory=self.is_pinned,
            generator=torch.Generator(),  # the loader would draw from the generator that dropout uses
        )

    def _set_learning_rate(self) -> None:
        """Of the next step: it rises from 0 over the first steps of a round and falls to 0 over the others."""
        start, end = self._round(self.progress.updates)
        done, steps = self.progress.updates - start, end - start
        rising = round(self.settings.warmup_ratio * steps)
        share = done / rising if done < rising else (steps - done) / max(steps - rising, 1)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * share

    def _look_at_losses(self) -> float:
        """The mean loss of the last step, 0 where all have been looked at.

        Raises:
            ValueError: since the last look a step had a loss that is not finite, and names the step.
        """
        if not self.unseen_losses:
            return 0.0
        losses = self.accelerator.reduce(torch.stack(self.unseen_losses), "sum").tolist()
        self.unseen_losses.clear()
        for step, loss in enumerate(losses, start=self.progress.updates - len(losses) + 1):
            if not math.isfinite(loss):
                raise ValueError(self._diverged(f"the loss is {loss} at step {step}"))
        return losses[-1]

    def _diverged(self, what: str) -> str:
        rate = self.settings.learning_rate
        return (
            f"{self.output_dir}: {what}, nothing is published; train anew (--overwrite) with a lower --learning-rate "
            f"than {rate:g}, or a larger --warmup-ratio"
        )

    def _update(self, micro_batches: list[dict], num_tokens: int) -> torch.Tensor:
        """One optimizer step; returns this process's share of the mean loss of the step's target tokens."""
        accelerator, total = self.accelerator, torch.zeros((), device=self.accelerator.device)
        targets = 1 + (self.distillation.draws if self.distillation else 0)  # of a sample
        for place, micro_batch in enumerate(micro_batches, start=1):
            is_last = place == len(micro_batches)  # only then do processes exchange gradients
            accelerator.sync_gradients = is_last  # DeepSpeed does so, and takes its step, where this is set
            with nullcontext() if is_last else accelerator.no_sync(self.model):
                loss = self.model(**self._inputs(**micro_batch), num_items_in_batch=targets * num_tokens).loss
                # Gradients are averaged over processes; their sum belongs to the step's mean loss.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _inputs(self, samples: torch.Tensor | None = None, **inputs) -> dict:
        """A micro-batch on the device; where there is a teacher, with what it expects of the samples."""
        if self.distillation is not None:
            inputs |= self.distillation(samples, inputs["labels"], self.progress.epoch)
        return send_to_device(inputs, self.accelerator.device, non_blocking=self.is_pinned)

    def _validate(self, bar: tqdm) -> None:
        settings, progress, accelerator, users = self.settings, self.progress, self.accelerator, self.users
        model = whole_model(accelerator, self.model).eval()
        if not torch.stack([weight.isfinite().all() for weight in model.parameters()]).all():
            raise ValueError(self._diverged(f"some weights are not finite after step {progress.updates}"))
        ranks = self._ranks(model, users)
        gain = ranking_metrics(ranks, [10])["ndcg@10"]["mean"] * len(ranks) if len(ranks) else 0.0
        ndcg = accelerator.reduce(torch.tensor(gain, device=accelerator.device), "sum").item() / len(users)
        self._log(bar, {"ndcg@10": ndcg})
        if progress.add_validation(ndcg) and self.accelerator.is_main_process:
            save_model_folder(model, self.adapted, self.tokenizer, self.checkpoints / "best")
        if settings.first_round is None:
            progress.stopped_early = 0 < settings.patience <= progress.validations_since_best
        elif progress.updates in self.ends[:-1]:
            start, _ = self._round(progress.updates - 1)
            best = max(progress.validations, key=lambda validation: validation["ndcg@10"])
            progress.stopped_early = settings.patience > 0 and best["updates"] <= start

    def _ranks(self, model: GramForConditionalGeneration, users: np.ndarray) -> np.ndarray:
        """The places of the targets of this process's share of the users."""
        histories, targets = self.validation
        share = users[self.accelerator.process_index :: self.accelerator.num_processes]
        past, beams = [histories[user] for user in share], self.settings.validation_beams
        found = gram_candidates(model, self.tokenizer, past, ["all_items"], num_beams=beams)["all_items"]
        return target_ranks(found.items, targets[share])

    def _log(self, bar: tqdm, values: dict[str, float]) -> None:
        epoch = self.progress.epoch + (self.progress.step > 0)
        shown = {"epoch": epoch, "ndcg@10": max(self.progress.best_ndcg, 0.0), **values}
        bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items() if name != "lr"})
        if self.settings.report_to:
            self.accelerator.log(values, step=self.progress.updates)

    def _save(self) -> None:
        save_checkpoint(self.accelerator, self.provenance, self.checkpoints, self.progress.updates)

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one; otherwise make room for the first."""
        found = checkpoints_in(self.checkpoints)
        fits = found and not differences_from(found[-1], self.provenance)
        self.accelerator.wait_for_everyone()  # all have seen the same
        if fits:
            self.accelerator.load_state(str(found[-1]))
            logger.info("resuming from step %d", self.progress.updates)
        elif self.accelerator.is_main_process:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            self.checkpoints.mkdir(parents=True)
        self.accelerator.wait_for_everyone()

    def publish(self) -> None:
        """Move the best weights to the run's folder, add its SASRec and what is known of it, drop the checkpoints."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        for name in (FINISHED_FILE, *_OF_WEIGHTS):  # of a model that was here before
            path = self.output_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        move_files(self.checkpoints / "best", self.output_dir)
        sasrec = sasrec_file(self.settings)
        if sasrec.is_file():
            with new_file(self.output_dir / SASREC_FILE) as part:
                shutil.copyfile(sasrec, part)
        progress, start = asdict(self.progress), self.settings.init_from or self.settings.backbone
        facts = {"settings": asdict(self.settings), "provenance": self.provenance.facts, "progress": progress}
        facts |= run_facts(start, self.data, self.accelerator)
        try:
            plot_training(progress, self.output_dir / PLOT_FILE)
        except MissingPackageError as missing:
            logger.info("%s", missing)
        write_json(self.output_dir / FINISHED_FILE, facts)
        shutil.rmtree(self.checkpoints)


def check_folder(settings: TrainingSettings) -> None:
    """Make sure that a run writes over nothing that it reads, and over no model that is not its own."""
    folder = Path(settings.output_dir)
    read = (settings.data, settings.translation, settings.init_from, settings.backbone, settings.tokenizer)
    check_outputs({folder: lambda path: True}, read)

    def is_checkpoints(path: Path) -> bool:
        return path.is_dir() and all(CHECKPOINT_NAME.match(entry.name) for entry in path.iterdir())

    is_run = (folder / FINISHED_FILE).is_file() or (folder / CHECKPOINTS_FOLDER).is_dir()
    files = (*MODEL_FILES, *WEIGHTS, SASREC_FILE)
    own = {folder / name: lambda path: is_run for name in files}
    check_outputs({folder / CHECKPOINTS_FOLDER: is_checkpoints, **own})


def main(argv: list[str] | None = None) -> None:
    """Read the settings, translate the data unless that is done, train."""
    parser = argparse.ArgumentParser(
        prog="train_accelerate.py",
        description="Train GRAM on a data folder: translation, training, validation, the best model's folder.",
        epilog="accelerate launch train_accelerate.py --config recipes/beauty.yaml --data DIR --output-dir DIR",
    )
    add_flags(parser, TrainingSettings, TranslationSettings, config=True)
    settings, translation_settings = settings_from(vars(parser.parse_args(argv)), TrainingSettings, TranslationSettings)
    level = logging.INFO if this_process().is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    for library in ("accelerate", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    check_folder(settings)
    CardSettings.of(settings.output_dir)  # refuses what the card could not be written with, before hours of training
    data = data_of(settings)
    is_trained(settings, provenance_of(settings, data))  # refuses another run before its translation is made anew
    train(settings, data, tokenizer_of(settings, translation_settings, data))
    if this_process().is_main_process and not is_deepspeed_zero3_enabled():  # there no process can search alone
        refresh_model_card(settings.output_dir)
