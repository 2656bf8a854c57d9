"""The launch configurations of `examples/`, and training with FSDP2."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file

from gram.data import training_part
from gram.training.steps import TrainingSteps

from .test_training import as_flags, small

SHARDED = Path(__file__).with_name("fsdp_on_cpu.py")
CONFIGS = Path(__file__).parents[1] / "examples" / "accelerate_configs"
KINDS = {"one_gpu": "NO", "cpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}


def launched(name: str, monkeypatch):
    """What `accelerate launch` makes of a configuration, on a machine of two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    path = CONFIGS / f"{name}.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "train_accelerate.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    return arguments


def test_all_configurations_are_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_knows_every_field(name, monkeypatch):
    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))  # an unknown key is an error
    assert config.distributed_type == KINDS[name]
    known = vars(launch_command_parser().parse_args(["train_accelerate.py"]))
    content = yaml.safe_load(path.read_text())
    fields = [*content.get("fsdp_config", {}), *content.get("deepspeed_config", {})]
    assert not [field for field in fields if field not in known]
    arguments = launched(name, monkeypatch)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (name == "fsdp2", name == "deepspeed_zero2")
    assert arguments.multi_gpu == (name == "ddp")
    assert arguments.use_cpu == (name == "cpu")
    assert arguments.mixed_precision == ("no" if name == "cpu" else "bf16")
    assert arguments.num_processes == (1 if KINDS[name] == "NO" else 2)


def fsdp_environment(monkeypatch) -> dict[str, str]:
    environment = prepare_multi_gpu_env(launched("fsdp2", monkeypatch))
    return {name: value for name, value in environment.items() if "FSDP" in name}


def test_fsdp2_shards_the_model_as_a_whole_in_bf16(monkeypatch):
    for name, value in fsdp_environment(monkeypatch).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    assert (plugin.fsdp_version, plugin.auto_wrap_policy, plugin.reshard_after_forward) == (2, None, False)
    assert not plugin.cpu_ram_efficient_loading
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16


def test_deepspeed_gets_stage_two(monkeypatch):
    arguments = launched("deepspeed_zero2", monkeypatch)
    arguments.deepspeed_fields_from_accelerate_config = ""  # names them in errors alone
    _, environment = prepare_deepspeed_cmd_env(arguments)
    found = {name: environment[f"ACCELERATE_DEEPSPEED_{name}"] for name in ("ZERO_STAGE", "OFFLOAD_OPTIMIZER_DEVICE")}
    assert found == {"ZERO_STAGE": "2", "OFFLOAD_OPTIMIZER_DEVICE": "none"}
    assert environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "1"


def test_fsdp2_learns_what_data_parallel_training_learns(data_folder, tokenizer, launch, tmp_path, monkeypatch):
    tokenizer.save_pretrained(tmp_path / "translation")
    options = {"translation": tmp_path / "translation", "epochs": 1, "dropout_rate": 0.0, "validation_users": 10}
    plain, sharded = (small(data_folder, tmp_path / name, **options) for name in ("plain", "sharded"))
    for settings, options in ((plain, {}), (sharded, {"script": SHARDED, **fsdp_environment(monkeypatch)})):
        done = launch(*as_flags(settings), **options)
        assert done.returncode == 0, done.stderr
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "sharded"))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP1 is not supported"),
        ({"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}, "set `fsdp_auto_wrap_policy: NO_WRAP`"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "set `fsdp_cpu_ram_efficient_loading: false`"),
    ],
)
def test_sharding_that_cannot_work_is_refused(data_folder, tokenizer, launch, tmp_path, monkeypatch, changes, message):
    tokenizer.save_pretrained(tmp_path / "translation")
    settings = small(data_folder, tmp_path / "model", translation=tmp_path / "translation")
    environment = {**fsdp_environment(monkeypatch), **changes}
    done = launch(*as_flags(settings), processes=1, script=SHARDED, **environment)
    assert done.returncode != 0
    assert [
        line for line in done.stderr.splitlines() if line.startswith("train_accelerate.py: error:") and message in line
    ]


@pytest.mark.parametrize("num_processes", [2, 5, 31])  # 31: more than there are groups
def test_all_processes_can_have_as_many_micro_batches(data, tokenizer, num_processes):
    training = training_part(data)
    counts, tokens = [], 0
    for process in range(num_processes):
        steps = TrainingSteps(training, tokenizer, 24, 8, 4, 0, 0, process, num_processes, same_count=True)
        batches, num_tokens = steps[0]
        counts.append(len(batches))
        tokens += sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    assert len(np.unique(counts)) == 1
    assert tokens == num_tokens
