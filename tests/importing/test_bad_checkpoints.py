"""What cannot be imported says why in one line, and leaves nothing behind."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.importing.helpers import Asked, bring, draw, save
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.checkpoint import read_checkpoint

P = "base_model.model.model.layers.{}.mlp.up_proj."
HYDRA = {"r": 4, "lora_alpha": 8, "lora_nums": 2, "lora_dropout": 0.0, "peft_type": "LORA"}


def hydra():
    tensors = {}
    for layer in (0, 1):
        at = P.format(layer)
        tensors |= {f"{at}lora_A.weight": draw(4, 32), f"{at}lora_route.weight": draw(2, 32)}
        tensors |= {f"{at}lora_B{e}.weight": draw(48, 4) for e in range(2)}
    return tensors


@pytest.fixture
def path(tiny_model_dir, tmp_path):
    """A sound HydraLoRA checkpoint."""
    return save(tmp_path / "m", hydra(), {**HYDRA, "base_model_name_or_path": str(tiny_model_dir)})


def refused(path, tmp_path, message, **options):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TopicLoraError, match=message):
        bring(path, tmp_path / "out", **options)
    assert sorted(tmp_path.iterdir()) == before


class Evil:
    """What runs a command as soon as it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_a_checkpoint_pickled_with_code_is_never_run(name, path, tmp_path):
    (path / "adapter_model.bin").unlink()
    torch.save({"a": Evil(tmp_path / "witness")}, path / name)
    refused(path, tmp_path, "pickled with code .*mkdir.*never run")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_checkpoint_that_is_cut_off_is_named(name, share, path, tmp_path):
    content = (path / "adapter_model.bin").read_bytes()
    (path / "adapter_model.bin").unlink()
    (path / name).write_bytes(content[: int(share * len(content))])
    refused(path, tmp_path, f"{name} is cut off")


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02}q\x01(X\x01"])
def test_a_damaged_pickle_is_named_wherever_its_reader_fails(content, path, tmp_path):
    (path / "adapter_model.bin").write_bytes(content)
    refused(path, tmp_path, "adapter_model.bin is (cut off or )?damaged")


@pytest.mark.parametrize("change", ["to_sparse", "cfloat", "int"])
def test_tensors_that_are_no_plain_weights_are_refused(change, path, tmp_path):
    torch.save({key: getattr(tensor, change)() for key, tensor in hydra().items()}, path / "adapter_model.bin")
    refused(path, tmp_path, "lora_A.weight is no plain tensor of weights")


def test_tensors_without_data_are_refused(path, tmp_path):
    torch.save({key: tensor.to("meta") for key, tensor in hydra().items()}, path / "adapter_model.bin")
    refused(path, tmp_path, "is no plain tensor of weights .*meta")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 64}, "says rank 64, and its matrices are of rank 4"),
        ({"r": 0}, "r is 0 in the configuration"),
        ({"base_model_name_or_path": 7}, "Name it with --base"),
        ({"base_model_name_or_path": {"name": "llama"}}, "Name it with --base"),
    ],
)
def test_a_configuration_that_is_not_the_checkpoints_is_refused(settings, message, path, tmp_path):
    known = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**known, **settings}))
    with pytest.raises(TopicLoraError) as error:
        bring(path, tmp_path / "out")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_length_of_a_safetensors_header_makes_it_a_pickle(tmp_path):
    for length in range(300):
        file = tmp_path / "model.safetensors"
        save_file({"a": torch.ones(2)}, file, metadata={"padding": "x" * length})
        assert torch.equal(read_checkpoint(file).tensors["a"], torch.ones(2))


def test_a_pickle_in_the_name_of_safetensors_is_read_as_tensors_alone_and_told(path, tmp_path):
    said = []
    (path / "adapter_model.bin").rename(path / "adapter_model.safetensors")
    bring(path, tmp_path / "out", type("Told", (), {"say": staticmethod(said.append)})())
    assert "is a pickle of torch's in spite of its name" in said[0]


def test_no_number_and_no_mapping_of_tensors_are_named(path, tmp_path):
    tensors = hydra()
    tensors[P.format(1) + "lora_A.weight"][0, 0] = float("nan")
    save(path, tensors, None)
    refused(path, tmp_path, r"layers.1.mlp.up_proj.lora_A.weight holds NaN")
    torch.save([draw(2)], path / "adapter_model.bin")
    refused(path, tmp_path, "holds a list and no tensors by name")
    torch.save({"state": {"a": draw(2)}}, path / "adapter_model.bin")
    refused(path, tmp_path, "state is a dict and no tensor")


def test_missing_and_foreign_keys_are_named(path, tmp_path):
    tensors = hydra()
    del tensors[P.format(1) + "lora_B1.weight"], tensors[P.format(0) + "lora_route.weight"]
    save(path, tensors, None)
    refused(
        path, tmp_path, r"lacks .*layers.0.mlp.up_proj.lora_route.weight, .*layers.1.mlp.up_proj.lora_B1.weight, which"
    )
    save(path, {**hydra(), P.format(0) + "bias": draw(48)}, None)
    refused(path, tmp_path, r"layers.0.mlp.up_proj.bias, which is no part of HydraLoRA")


def test_settings_that_are_missing_or_of_another_kind_are_named(path, tmp_path):
    save(path, hydra(), {**HYDRA, "base_model_name_or_path": "x", "lora_nums": "two"})
    refused(path, tmp_path, "lora_nums is 'two' in the configuration")
    (path / "adapter_config.json").unlink()
    refused(path, tmp_path, "Name it with --base")
    refused(path, tmp_path, "lora_nums is missing in the configuration", base="x")
    (path / "adapter_config.json").write_text("{")
    refused(path, tmp_path, "not valid JSON")


def test_a_checkpoint_of_a_hub_is_fetched_first(path, tmp_path, monkeypatch):
    monkeypatch.setattr("topiclora_cli.importing.checkpoint.snapshot_download", lambda name, **_: str(path))
    assert bring(Path("someone/hydra"), tmp_path / "out").format == "hydralora"


def test_there_may_be_no_checkpoint(tmp_path):
    refused(tmp_path / "nowhere", tmp_path, "There is no checkpoint at")
    refused(Path("nobody/nothing"), tmp_path, "no checkpoint at nobody/nothing. As a hub id: .*Give its folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "holds no weights: none of adapter_model.safetensors")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("whatever.weight", "no known format; its first key is whatever.weight. What was looked for: hydralora: base"),
        ("model.layers.0.mlp.mora.mora_a", "HMoRA checkpoint .*encoder"),
        ("mixlora.layers.0.gate.convs.0.lin.weight", "GMoE checkpoint .*graph network"),
        ("base_model.model.x.lora_B.weight", "plain LoRA checkpoint .*peft loads it as it is"),
        ("base_model.model.x.topiclora_A.weight", "topiclora checkpoint .*ours already"),
    ],
)
def test_what_is_no_such_checkpoint_is_told_with_what_was_looked_for(key, message, path, tmp_path):
    save(path, {key: draw(2, 2)}, None)
    refused(path, tmp_path, message)


def test_two_formats_in_one_file_and_another_than_was_said_are_told(path, tmp_path):
    refused(path, tmp_path, "no mola checkpoint but one of hydralora", format_="mola")
    refused(path, tmp_path, "--from hydra: no such format. Did you mean 'hydralora'", format_="hydra")
    save(path, {**hydra(), "base_model.model.x.lora_A.0.weight": draw(2, 2)}, None)
    refused(path, tmp_path, r"keys of several formats: hydralora \(.*\) and adamole")


def test_options_of_other_formats_are_refused(path, tmp_path):
    refused(path, tmp_path, "--top-k 2: a hydralora checkpoint mixes all", asked=Asked(top_k=2))
    refused(path, tmp_path, "--task means nothing to a hydralora", asked=Asked(task=0))
    save(path, {"mola.layers.0.mlp.up_proj.moe_gate.weight": draw(2, 2)}, None)
    refused(path, tmp_path, "--top-k 2: a moe-peft checkpoint says itself", asked=Asked(top_k=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k.replace("layers.1", "layers.7"): v for k, v in t.items()}, "layers.7.* has no place there"),
        (
            lambda t: {k: v[:, :-1] if "lora_A" in k else v for k, v in t.items()},
            r"up_proj.topiclora_A.* is \(1, 4, 31\)",
        ),
    ],
)
def test_a_checkpoint_of_another_base_is_told_where_it_does_not_fit(change, message, path, tmp_path):
    save(path, change(hydra()), None)
    refused(path, tmp_path, message)


def test_what_lies_at_out_is_kept(path, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused(path, tmp_path, "out exists and is no adapter's folder", force=True)
    shutil.rmtree(out)
    bring(path, out)
    refused(path, tmp_path, "exists already.*add --force")
    (out / "report.md").write_text("old")
    bring(path, out, force=True)
    assert not (out / "report.md").exists()
    shutil.copytree(path, out / "source")
    refused(out / "source", tmp_path, "where the checkpoint itself lies", force=True)
