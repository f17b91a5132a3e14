"""What other tools call the settings of a recipe: their names are refused, with ours named."""

from collections.abc import Mapping

_THEIRS: Mapping[str, str] = {
    "seed": "random_seed random_state",
    "model.name": "model_name_or_path model_name model_id base_model pretrained pretrained_model_name_or_path",
    "model.dtype": "torch_dtype",
    "model.quantization": "load_in_4bit load_in_8bit bits quantize quantization_bit",
    "adapter.method": "peft_type peft_method adapter_name",
    "adapter.r": "lora_r rank lora_rank lora_dim network_dim",
    "adapter.lora_alpha": "alpha network_alpha",
    "adapter.lora_dropout": "dropout",
    "adapter.target_modules": "targets target lora_target lora_targets lora_target_modules",
    "adapter.num_experts": "n_experts experts lora_nums expert_num num_local_experts",
    "adapter.top_k": "k topk num_experts_per_tok experts_per_token",
    "adapter.use_rslora": "rslora",
    "adapter.use_dora": "dora",
    "data.source": "dataset dataset_name dataset_path datasets data_path data_files train_file path",
    "data.split": "dataset_split",
    "data.prompt": "instruction prompt_template",
    "data.completion": "response output answer",
    "data.messages": "conversations conversation",
    "data.max_length": "max_seq_length max_seq_len seq_length seq_len sequence_len cutoff_len max_len",
    "data.limit": "max_samples num_samples max_train_samples",
    "data.validation": "val_size val_set_size test_size validation_split",
    "train.epochs": "num_train_epochs num_epochs n_epochs epoch",
    "train.max_steps": "steps num_steps total_steps max_train_steps iters",
    "train.batch_size": "bs per_device_train_batch_size per_device_batch_size micro_batch_size train_batch_size",
    "train.gradient_accumulation": "gradient_accumulation_steps grad_accum grad_accum_steps accumulate_grad_batches",
    "train.learning_rate": "lr",
    "train.lr_scheduler": "lr_scheduler_type scheduler lr_schedule",
    "train.warmup_ratio": "warmup",
    "train.weight_decay": "wd decay",
    "train.max_grad_norm": "grad_clip clip_grad gradient_clipping gradient_clip_val max_norm",
    "train.precision": "bf16 fp16 mixed_precision",
    "train.optimizer": "optim",
    "train.packing": "sample_packing",
    "train.liger": "use_liger_kernel liger_kernel",
    "train.torch_compile": "compile",
    "train.neftune_noise_alpha": "neftune neftune_alpha",
    "train.early_stopping_patience": "patience",
    "train.load_best": "load_best_model_at_end",
    "train.metric_for_best": "metric_for_best_model",
    "train.logging_steps": "log_steps log_every",
    "train.save_steps": "save_every checkpoint_every",
    "train.eval_steps": "eval_every",
    "eval.tasks": "task benchmarks",
    "eval.num_fewshot": "num_shots shots fewshot n_shot",
    "eval.batch_size": "eval_batch_size per_device_eval_batch_size",
}
SYNONYMS: Mapping[str, str] = {name: ours for ours, names in _THEIRS.items() for name in names.split()}


def our_name(key: str) -> str | None:
    """Our key for what other tools call like the last part of `key`, as it is to be said in the section of `key`: by
    its own name there, dotted elsewhere. None where no other tool is known to."""
    section, _, name = key.rpartition(".")
    ours = SYNONYMS.get(name.lower().replace("-", "_"))
    if ours is None:
        return None
    place, _, own = ours.rpartition(".")
    return own if place == section else ours
