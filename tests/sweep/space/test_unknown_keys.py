"""Files of other trainers and tuners: each key leads to ours, or is said to have no counterpart."""

# ruff: noqa: E501 (a key and what is said of it stand on one line)

from pathlib import Path

import pytest

from sweep.errors import SpaceError
from sweep.space.foreign_keys import HERE, why_not_here
from sweep.space.loading import load_space

NONE = "has no counterpart: "

AXOLOTL = """
base_model: smollm2-135m            |
model_type: AutoModelForCausalLM    | has no counterpart: the model's own files say it.
load_in_8bit: false                 | write `quantization: nf4`
load_in_4bit: true                  | write `quantization: nf4`
adapter: qlora                      | write `quantization: nf4`
datasets: [{path: org/rows, type: alpaca}] | write `data: {train: org/rows}`
val_set_size: 0.05                  | write `data: {eval: 0.05}`
sequence_len: 2048                  | write `data: {max_length: 2048}`
sample_packing: true                | has no counterpart: rows are packed
lora_r: 32                          | write `search: {rank: 32}`
lora_alpha: 16                      | write `search: {alpha: 16}`
lora_dropout: 0.05                  | write `search: {dropout: 0.05}`
lora_target_linear: true            | write `search: {target_modules: all-linear}`
micro_batch_size: 2                 |
gradient_accumulation_steps: 4      | 2 per device × 4 accumulated, times your GPUs; write `search: {effective_batch_size: 8}`
num_epochs: 3                       | write `search: {epochs: 3}`
optimizer: adamw_bnb_8bit           | not 'adamw_bnb_8bit'; write adamw_8bit.
lr_scheduler: cosine                | belongs under `search`; write `search: {lr_scheduler: cosine}`
learning_rate: 0.0002               | belongs under `search`; write `search: {learning_rate: 0.0002}`
train_on_inputs: false              | write `data: {loss_on: completion}`
bf16: auto                          | write `compute_dtype: auto`
tf32: false                         | has no counterpart: kernels
gradient_checkpointing: true        | has no counterpart: it switches itself on
early_stopping_patience: 3          | write `pruning: {overfit: {patience: 3}}`
flash_attention: true               | has no counterpart: the backend picks
evals_per_epoch: 4                  | write `evaluate: {times: 12}`
saves_per_epoch: 1                  | has no counterpart: `checkpoint_minutes`
wandb_project: mine                 | has no counterpart: MLflow
deepspeed: zero2.json               | has no counterpart: GPUs share batches
special_tokens: {pad_token: x}      | has no counterpart: the tokenizer
output_dir: out                     | has no counterpart: `--output`
seed: 42                            |
"""

LLAMA_FACTORY = """
model_name_or_path: smollm2-135m    | write `base_model: smollm2-135m`
quantization_bit: 8                 | write `quantization: int8`
stage: sft                          | has no counterpart: only supervised
do_train: true                      | has no counterpart: only supervised
finetuning_type: lora               | write `quantization: int8`
lora_rank: 8                        | write `search: {rank: 8}`
lora_target: q_proj,v_proj          | write `search: {target_modules: qv}`
dataset: identity,alpaca_en_demo    | is `data.train` here: a file, a hub data set as org/name, or a list.
template: qwen3                     | is `data.chat_template` here: without it the tokenizer's own is used.
enable_thinking: false              | write `data: {template_arguments: {enable_thinking: false}}`
cutoff_len: 2048                    | write `data: {max_length: 2048}`
max_samples: 1000                   | has no counterpart: all of a file is read
mask_history: true                  | has no counterpart: every assistant turn
per_device_train_batch_size: 1      | write `search: {effective_batch_size: 8}`
gradient_accumulation_steps: 8      | write `search: {effective_batch_size: 8}`
num_train_epochs: 3.0               | write `search: {epochs: 3.0}`
lr_scheduler_type: polynomial       | is `search.lr_scheduler` here, but must be one of cosine, linear, constant, warmup_stable_decay, not 'polynomial'.
warmup_steps: 10                    | is `search.warmup_ratio` here: a share of the steps, such as 0.03.
fp16: true                          | write `compute_dtype: float16`
neftune_noise_alpha: 5              | write `search: {neftune_alpha: 5}`
use_dora: true                      | write `search: {use_dora: true}`
val_size: 0                         | but must be a file of rows, a list of files, or a share of train between 0 and 1, not 0.
plot_loss: true                     | has no counterpart: the log
ddp_timeout: 180000000              | has no counterpart: GPUs share batches
"""

TRL = """
model_name_or_path: org/model       | write `base_model: org/model`
model_revision: main                | write `revision: main`
dtype: bfloat16                     | write `compute_dtype: bfloat16`
use_peft: true                      | has no counterpart: a LoRA adapter is always trained.
lora_target_modules: [all-linear]   | write `search: {target_modules: all-linear}`
dataset_name: org/rows              | write `data: {train: org/rows}`
dataset_test_split: test            | write `data: {eval: org/rows:test}`
max_length: 1024                    | belongs under `data`; write `data: {max_length: 1024}`
assistant_only_loss: true           | write `data: {loss_on: completion}`
completion_only_loss: false         | write `data: {loss_on: completion}`
packing: true                       | has no counterpart: rows are packed
optim: adamw_torch_fused            | write `optimizer: adamw`
max_steps: -1                       | is `search.epochs` here: steps follow from it; remove this.
eval_strategy: steps                | has no counterpart: evaluations are evenly spread
metric_for_best_model: eval_loss    | write `objective: {metric: eval_loss}`
greater_is_better: false            | write `objective: {direction: minimize}`
report_to: wandb                    | has no counterpart: MLflow
adam_beta2: 0.95                    | has no counterpart: AdamW keeps
"""

UNSLOTH = """
model_name: org/model               | write `base_model: org/model`
max_seq_length: 2048                | write `data: {max_length: 2048}`
load_in_4bit: false                 | write `quantization: none`
r: 16                               | write `search: {rank: 16}`
target_modules: [q_proj, k_proj, v_proj, o_proj] | write `search: {target_modules: attention}`
use_gradient_checkpointing: unsloth | has no counterpart: it switches itself on
random_state: 3407                  | write `seed: 3407`
dataset_text_field: body            | write `data: {columns: {text: body}}`
full_finetuning: false              | has no counterpart: a LoRA adapter is always trained.
"""

W_AND_B = """
program: train.py                   | has no counterpart: `sweep run` starts the trials.
method: bayes                       | write `sampler: tpe`
metric: {name: eval/loss, goal: minimize} | write `objective: {metric: eval_loss}`
run_cap: 30                         | write `budget: {trials: 30}`
early_terminate: {type: hyperband, eta: 2} | write `pruning: {outclassed: {pruner: hyperband, factor: 2}}`
entity: me                          | has no counterpart: MLflow
command: [python]                   | has no counterpart: `sweep run`
parameters:                         | is `search` here.
  learning_rate: {distribution: log_uniform_values, min: '1e-5', max: 1e-3} | write `search: {learning_rate: {min: 1e-05, max: 0.001, log: true}}`
  weight_decay: {distribution: log_uniform, min: -4.6052, max: -2.3026} | {min: 0.01, max: 0.1, log: true}
  lora_r: {values: [8, 16]}         | write `search: {rank: [8, 16]}`
  dropout: {distribution: normal, mu: 0, sigma: 1} | is `search.dropout` here: a list, or {min: …, max: …, log: true}.
  per_device_train_batch_size: {values: [2, 4]} | write `search: {effective_batch_size: [8, 16]}`
  gradient_accumulation_steps: {value: 4} | write `search: {effective_batch_size: [8, 16]}`
  seed: {values: [1, 2]}            | is `seed` here, one value for all trials.
"""

RAY_AND_OPTUNA = """
metric: eval_loss                   | belongs under `objective`; write `objective: {metric: eval_loss}`
mode: min                           | write `objective: {direction: minimize}`
num_samples: 20                     | write `budget: {trials: 20}`
time_budget_s: 7200                 | write `budget: {hours: 2.0}`
max_concurrent_trials: 4            | has no counterpart: one trial runs on each GPU
search_alg: optuna                  | write `sampler: tpe`
scheduler: asha                     | write `pruning: {outclassed: {pruner: asha}}`
reuse_actors: true                  | has no counterpart: one trial
study_name: my study                | write `name: my-study`
direction: minimize                 | belongs under `objective`; write `objective: {direction: minimize}`
pruner: MedianPruner                | write `pruning: {outclassed: {pruner: median}}`
sampler: TPESampler                 | not 'TPESampler'; write tpe.
storage: sqlite:///x.db             | has no counterpart: `--study` names the database.
n_jobs: 2                           | has no counterpart: one trial runs on each GPU
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    with pytest.raises(SpaceError) as error:
        load_space(path)
    return str(error.value).splitlines()[1:]


@pytest.mark.parametrize("file", [AXOLOTL, LLAMA_FACTORY, TRL, UNSLOTH, W_AND_B, RAY_AND_OPTUNA])
def test_each_key_of_another_trainers_file_is_explained_on_one_line(
    tmp_path: Path, file: str
) -> None:
    rows = [line.rsplit("|", 1) for line in file.strip().splitlines()]
    said = problems(tmp_path, "\n".join(yaml for yaml, _ in rows))
    for number, (yaml, words) in enumerate(rows, start=1):
        key = yaml.split(":")[0].strip()
        lines = [line for line in said if line.startswith(f"  line {number} ")]
        own = [line for line in lines if f"{key}: " in line and "is missing" not in line]
        assert len(own) == bool(words.strip()), (key, lines)
        assert all(words.strip() in line for line in own), (key, own)
    kinds = [NONE in line for line in said if "is missing" not in line]
    assert kinds == sorted(kinds), "the leads stand first"
    assert not any("There are" in line or "did you mean" in line for line in said)


def test_the_list_of_keys_is_printed_once(tmp_path: Path) -> None:
    said = problems(tmp_path, "sparkle: 1\nglitter: 2\nsearch: {lora_rank: [8, 16]}\n")
    assert "  line 3   search.lora_rank: is `rank` here; write `rank: [8, 16]`." in said
    assert "sparkle: no such setting here. There are: name, base_model," in said[-2]
    assert said[-1].endswith("glitter: no such setting here.")


def test_a_key_that_is_missing_is_not_said_beside_the_one_that_leads_to_it(tmp_path: Path) -> None:
    said = problems(tmp_path, "model_id: org/model\ndataset_name: org/rows\nlr: 1e-4\n")
    missing = [line for line in said if "is missing" in line]
    assert len(missing) == 1
    assert "data.eval: is missing; a file of rows, or a share of train" in missing[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "max_steps: 60\nwarmup_steps: 10",
            "warmup_ratio` here: 10 of 60 steps; write `search: {w",
        ),
        ("max_steps: 60\nper_device_train_batch_size: 8", "epochs` here: 480 rows ÷ the rows of"),
        ("data: {val_size: 0.1}", "data.val_size: is `eval` here; write `eval: 0.1`."),
        (
            "budget: {time_budget_s: 1800}",
            "is `hours` here: hours, not seconds; write `hours: 0.5`",
        ),
        (
            "objective: {max_eval_samples: 9}",
            "is `evaluate.rows` here; write `evaluate: {rows: 9}`",
        ),
        (
            "tune_config: {num_samples: 8}",
            "tune_config.num_samples: is `budget.trials` here; write",
        ),
        ("lora: {alpha: 32}", "lora.alpha: is `search.alpha` here; write `search: {alpha: 32}`."),
        ("search.rank: 8", "search.rank: is `search.rank` here; write `search: {rank: 8}`."),
        ("search: {target_modules: all}", "otherwise here; write `target_modules: all-linear`"),
        ("search: {target_modules: atention}", "is no preset; did you mean attention?"),
        ("lora_target: query_key_value", "write `search: {target_modules: [query_key_value]}`"),
        ("search: {rank: {values: [8, 16]}}", "is written otherwise here; write `rank: [8, 16]`."),
        ("load_in_8bit: true\nadapter: lora", "adapter: is `quantization` here; write `quantizat"),
        ("quantization_bit: 4\nquantization_method: hqq", "is `quantization` here: nf4, int8 or n"),
        ("finetuning_type: full", "finetuning_type: has no counterpart: a LoRA adapter is always"),
        ("template: '{question}'", "belongs under `data`; write `data: {template: '{question}'}`"),
        ("scheduler: cosine", "scheduler: is `search.lr_scheduler` here; write `search: {lr_sch"),
        ("chat_template: tokenizer_default", "`data`: without it the tokenizer's own is used."),
        (
            "quantization_config: {load_in_8bit: true}",
            "config.load_in_8bit: is `quantization` here; ",
        ),
        ("bugdet: {trials: 3}", "bugdet: no such setting; did you mean `budget`?"),
        ("use_lora: true", "use_lora: has no counterpart: a LoRA adapter is always trained."),
    ],
)
def test_a_key_leads_to_the_right_place_with_its_value(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in "\n".join(problems(tmp_path, text))


def test_no_key_has_two_explanations() -> None:
    both = {key for key in HERE if why_not_here(key, by_pattern=False)}
    assert both == {"finetuning_type"}  # full fine-tuning has no counterpart, LoRA has
