"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.settings import Settings, within
from ..configuration_gram import SCORE_MODES
from .budget import seconds_of
from .trackers import tracker_names

PROMPT_PARTS = ("user_prompt", "item_prompts", "id_in_item_prompt")  # the tokenizer has them too, led in by `with_`
MUON = "muon"
# Settings that change no weight, or say where to find what does.
PLACES = {"data", "output_dir", "overwrite", "translation", "workers", "save_every", "report_to"}


@dataclass
class TrainingSettings(Settings):
    """Settings of one training run; the defaults are the paper's.

    Attributes:
        data: data folder, as `gram prepare` makes it, or with `user_sequence.txt` and `item_text.tsv`.
        output_dir: folder of the trained model; holds the checkpoints until it is done.
        overwrite: train anew where that folder holds a run of other data or settings; a model that is there stays until
            the new one takes its place.
        translation: folder made by `gram translate`; without it the data are translated first.
        tokenizer: text tokenizer whose vocabulary spells the lexical IDs, a folder or a name on the Hub; without it the
            backbone's, or a vocabulary trained on the items' text.
        backbone: T5 checkpoint to start from, a folder or a name on the Hub; without it a T5 of the following shape
            starts from random weights.
        init_from: trained GRAM to start from, a folder or a name on the Hub, in place of a backbone; its catalogue must
            have all items of the data, and keeps its lexical IDs.
        lora: rank of LoRA adapters, which are trained in place of the weights of a backbone or a trained GRAM.
        lora_alpha: the adapters' part is scaled by this over the rank; without it by 2.
        lora_dropout: dropout of what the adapters read.
        lora_targets: linear layers that get adapters, by name, such as `q v` or `q,k,v,o`.
        d_model: width of the model.
        d_kv: width of an attention head.
        d_ff: width of the feed-forward layers.
        num_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder; without it as many.
        num_heads: attention heads.
        dropout_rate: dropout, as in T5.
        max_history: most items of a history that the model reads.
        max_passage_length: tokens of the longest prompt.
        user_prompt: whether the model reads the user prompt.
        item_prompts: whether it reads the item prompts; without them the user prompt is all that it reads.
        id_in_item_prompt: whether an item prompt begins with the item's own lexical ID.
        passage_position: whether an item prompt's encoding tells its place in the history.
        score_mode: what a token's probability is over: `vocabulary`, or `trie`, the tokens that are legal in its place;
            these alone are then computed and compared. Without it as in a trained GRAM, and otherwise `vocabulary`.
        embedding_start: `random`, or `items`: a token of random weights starts half as the mean of the items whose
            prompts have it, by their texts' vectors and their embeddings in the translation's SASRec, if it has one.
        attention_start: `random`, or `identity`: attentions of random weights start by handing on what they read, and
            the token that the decoder starts from is small beside it.
        epochs: passes over the training part; 30 where no budget is given either.
        budget: time for training and validations in place of epochs, such as 2h, 90m, 600s or 1h30m: as many steps as
            fit, by some that are timed before the first. They are not cut should they take longer later.
        first_round: epochs after which the learning rate has fallen to 0 for the first time. It then starts again, for
            as many epochs as there have been, and so on; the last round takes what is left. The run ends with the first
            round that brings no better validation. Without it there is one round.
        batch_size: samples of an optimizer step, over all processes.
        micro_batch_size: samples that a process runs through the model at once.
        micro_batch_tokens: tokens of prompts that it encodes at once; the two bound the memory.
        prefixes_per_group: prefixes of one user's sequence that share their encoded history.
        prefixes_per_user: how many of a user's prefixes are samples, the latest; without it all are.
        interaction_dropout: share of the interactions that each epoch leaves out, drawn anew; the last two of a user
            stay. Histories then differ from epoch to epoch, and a teacher says what to expect after each.
        distillation: `sasrec`, to learn also what the SASRec of the translation expects of every training sample, which
            has seen the training part alone; or the file of another one, such as `gram tune` leaves.
        distillation_weight: how much its expectation counts in the loss; what is left is the true item's. 0 is as none.
        distillation_temperature: the logarithms of its expectations are divided by this; below 1 it is surer of them,
            from which a short training learns more.
        distillation_draws: items that every sample gets as further targets, drawn from its expectation, which alone
            counts for them; they cost the decoder's work, not the encoder's.
        distillation_graph: share of a transition graph in what is expected, by a geometric mean, high where both are;
            it knows what came after an item, and for items of which few know that, which texts are similar: the fewer
            have had an item, the more it counts. 0 is without one.
        optimizer: `adamw`, or `muon`: Muon for the weights of linear layers, AdamW for all others.
        learning_rate: the highest, of either optimizer.
        embedding_rate: that of the token embeddings, as a multiple; T5's random ones are some ten times larger than its
            other weights, and learn slowly at the same rate.
        adam_epsilon: epsilon of AdamW.
        weight_decay: apart from the gradient, as AdamW's; the layer norms have none.
        warmup_ratio: share of a round's steps in which the learning rate rises from 0; it then falls to 0, linearly.
        max_grad_norm: gradients are clipped to this norm.
        gradient_checkpointing: compute activations anew in the backward pass, for less memory.
        compile: compile the feed-forward layers with `torch.compile`, which needs a C++ compiler.
        mixed_precision: `auto` (bf16 autocast on GPUs and processors that multiply in it), `bf16` or `no`.
        validate_every: validate after this many epochs by NDCG@10, and keep the best weights.
        validation_users: users to validate on, the same every time; 0 takes all.
        validation_beams: beams of the validation.
        patience: stop after this many validations without a better one; 0 never stops early. Where `first_round` is
            given, any other number stands for a round.
        save_every: optimizer steps between checkpoints to resume from.
        workers: processes that prepare batches ahead; 0 prepares them in the training process, and without it there is
            one for a GPU and none for a CPU, which would share its cores.
        report_to: trackers of Accelerate, such as tensorboard, trackio or wandb; several with commas, or all that are
            installed with `all`.
        seed: of the initial weights, the order of the samples and the dropout.

    Example:
        >>> TrainingSettings("data/beauty", "runs/beauty", epochs=10).translation_folder.as_posix()
        'runs/beauty/translation'
        >>> TrainingSettings("data/beauty", "runs/beauty", epochs=0)
        Traceback (most recent call last):
        ValueError: epochs is 0; it must be a whole number, at least 1, or none
    """

    # Beyond `most` a run only fills the memory, or never ends.
    data: str
    output_dir: str
    overwrite: bool = False
    translation: str | None = None
    tokenizer: str | None = None
    backbone: str | None = None
    init_from: str | None = None
    lora: int | None = within(None, least=1, most=1 << 16)
    lora_alpha: float | None = within(None, above=0)
    lora_dropout: float = within(0.0, least=0, below=1)
    lora_targets: str = "q v"
    d_model: int = within(512, least=1, most=1 << 16)
    d_kv: int = within(64, least=1, most=1 << 16)
    d_ff: int = within(2048, least=1, most=1 << 16)
    num_layers: int = within(6, least=1, most=256)
    num_decoder_layers: int | None = within(None, least=1, most=256)
    num_heads: int = within(8, least=1, most=1024)
    dropout_rate: float = within(0.1, least=0, below=1)
    max_history: int = within(20, least=1, most=1 << 16)
    max_passage_length: int = within(128, least=1, most=1 << 16)
    user_prompt: bool = True
    item_prompts: bool = True
    id_in_item_prompt: bool = True
    passage_position: bool = True
    score_mode: str | None = within(None, one_of=SCORE_MODES)
    embedding_start: str = within("random", one_of=("random", "items"))
    attention_start: str = within("random", one_of=("random", "identity"))
    epochs: int | None = within(None, least=1)
    budget: str | None = None
    first_round: int | None = within(None, least=1)
    batch_size: int = within(128, least=1)
    micro_batch_size: int = within(128, least=1)
    micro_batch_tokens: int = within(16384, least=1)
    prefixes_per_group: int = within(16, least=1)
    prefixes_per_user: int | None = within(None, least=1)
    interaction_dropout: float = within(0.0, least=0, below=1)
    distillation: str | None = None
    distillation_weight: float = within(0.7, least=0, most=1)
    distillation_temperature: float = within(1.0, above=0)
    distillation_draws: int = within(0, least=0, most=1024)
    distillation_graph: float = within(0.0, least=0, most=1)
    optimizer: str = within("adamw", one_of=("adamw", MUON))
    learning_rate: float = within(1e-3, above=0)
    embedding_rate: float = within(1.0, above=0)
    adam_epsilon: float = within(1e-6, above=0)
    weight_decay: float = within(0.01, least=0)
    warmup_ratio: float = within(0.05, least=0, most=1)
    max_grad_norm: float = within(1.0, above=0)
    gradient_checkpointing: bool = False
    compile: bool = False
    mixed_precision: str = within("auto", one_of=("auto", "bf16", "no"))
    validate_every: int = within(1, least=1)
    validation_users: int = within(0, least=0)
    validation_beams: int = within(50, least=1, most=10_000)
    patience: int = within(5, least=0)
    save_every: int = within(500, least=1)
    workers: int | None = within(None, least=0, most=1024)
    report_to: str | None = None
    seed: int = within(0, least=0)

    def __post_init__(self):
        super().__post_init__()
        if self.budget is None:
            self.epochs = self.epochs or 30
        elif seconds_of(self.budget) and self.epochs is not None:
            raise ValueError("epochs and budget both say how long to train; give one of them")
        if self.init_from is not None and (self.backbone, self.translation) != (None, None):
            raise ValueError("init_from brings its own weights and tokenizer; give neither backbone nor translation")
        if not (self.user_prompt or self.item_prompts):
            raise ValueError("user_prompt and item_prompts are both off; the model needs one of them to read")
        if self.lora is not None and self.starts_random:
            raise ValueError("lora adapts weights that have been trained before; give backbone or init_from")
        if not self.lora_targets.replace(",", " ").split():
            raise ValueError("lora_targets must name a layer, such as `q v`")
        tracker_names(self.report_to)

    @property
    def starts_random(self) -> bool:
        """Whether the model starts from random weights, and not from a backbone's or a trained GRAM's."""
        return self.backbone is None and self.init_from is None

    @property
    def translation_folder(self) -> Path:
        """Where the tokenizer is, or will be made."""
        return Path(self.translation or self.init_from or Path(self.output_dir) / "translation")

    @property
    def prompt_parts(self) -> dict[str, bool]:
        """Which parts the prompts have, as the tokenizer takes them."""
        return {f"with_{name}": getattr(self, name) for name in PROMPT_PARTS}
