"""Two processes against one with gradient accumulation 2: the same losses and the same adapter, also after a resume.

One of the terms here is a mean of tokens, one of examples, and two are functions of the whole step's means, which the
one process looks for beforehand and the two exchange; test_cut_steps has them all.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import topiclora_cli.adapters  # noqa: F401 -- registers the method
from tests.conftest import write_tiny_recipe
from tests.training.test_resume import rows, wait_for_checkpoint
from topiclora_cli.cli.app import main
from topiclora_cli.data.families import mixture
from topiclora_cli.runs.run import RunDir
from topiclora_cli.training.checkpoints import latest_sound

pytestmark = pytest.mark.distributed

STEPS = 12  # one epoch and a half
SETTINGS = {
    "train.batch_size": 4,
    "train.max_steps": STEPS,
    "train.router_learning_rate": 0.02,
    "loss.kl.floor": 0.1,
    "loss.z.weight": 0.01,
    "loss.balance.weight": 0.01,
    "loss.gjs.weight": 0.01,
}
ON_CPU = str(Path(__file__).with_name("fsdp_on_cpu.py"))


def arguments(recipe, out, **settings):
    changed = {**SETTINGS, **settings}
    return ["train", "--recipe", str(recipe), "--out", str(out), *(f"--set={k}={v}" for k, v in changed.items())]


def torchrun(*command, program=("-m", "topiclora_cli"), layout=("--standalone", "--nproc-per-node", "2")):
    """Two processes unless `layout` says otherwise; --standalone picks a free port."""
    launcher = [sys.executable, "-m", "torch.distributed.run", *layout]
    return subprocess.Popen(
        [*launcher, *program, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_alone(recipe, out, **settings):
    """One process, this one, that accumulates over what two processes take at once."""
    with pytest.raises(SystemExit) as stop:
        main(arguments(recipe, out, **settings, **{"train.gradient_accumulation": 2}))
    assert not stop.value.code


def finish(process):
    text = process.communicate(timeout=240)[0]
    return process.returncode, text


@pytest.fixture(scope="module")
def recipe(tiny_model_dir, tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("distributed"), tiny_model_dir)


@pytest.fixture(scope="module")
def one(recipe):
    """The run of one process."""
    train_alone(recipe, recipe.parent / "one")
    return recipe.parent / "one"


@pytest.fixture(scope="module")
def two(recipe):
    """The run of two processes, and what they printed."""
    code, text = finish(torchrun(*arguments(recipe, recipe.parent / "two")))
    assert code == 0, text
    return recipe.parent / "two", text


def assert_equal_runs(run, reference):
    assert json.loads((run / "run.json").read_text())["stages"]["train"]["processes"] == 2
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    for ours, expected in zip(rows(run), rows(reference), strict=True):
        names = ("loss", "loss_lm", "loss_kl", "loss_z", "loss_balance", "loss_gjs", "routing_entropy", "grad_norm")
        for name in (*names, "effective_experts"):
            assert ours[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-6), (name, ours["step"])
    weights, expected = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, reference))
    # A thousandth of one step at the rate of 0.01: Adam divides a gradient's size out, so that the order in which
    # processes add shows in the few entries whose gradient is nearly zero.
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)


def test_two_processes_equal_one_that_accumulates(one, two):
    assert_equal_runs(two[0], one)


def test_two_nodes_equal_one_process(recipe, one, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting]
    nodes = [torchrun(*arguments(recipe, tmp_path / "run"), layout=cluster) for _ in range(2)]
    for code, text in map(finish, nodes):
        assert code == 0, text
    assert_equal_runs(tmp_path / "run", one)


@pytest.mark.parametrize("packing", [pytest.param("false", marks=pytest.mark.nightly), "true"], ids=["apart", "packed"])
def test_a_stream_with_held_out_examples_equals_one_process(packing, recipe, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"q": e.prompt, "a": e.answer}) + "\n" for e in mixture("train", 5, seed=0))
    )
    data = {"source": tmp_path / "a.jsonl", "prompt": "'{{ q }}'", "completion": "'{{ a }}'", "streaming": "true"}
    settings = {f"data.{key}": value for key, value in data.items()}
    settings |= {"data.validation": 0.2, "train.eval_steps": 6, "graph.encoder": "lm", "train.packing": packing}
    code, text = finish(torchrun(*arguments(recipe, tmp_path / "two", **settings)))
    assert code == 0, text
    train_alone(recipe, tmp_path / "one", **settings)
    losses = []
    for run in (tmp_path / "one", tmp_path / "two"):
        assert json.loads((run / "run.json").read_text())["stages"]["train"]["examples"] == STEPS * 8
        names = ("loss", "loss_kl", "grad_norm", "eval_loss", "eval_kl")
        losses.append([row[name] for row in rows(run) for name in names if name in row])
    assert len(losses[0]) == STEPS * 3 + 2 * 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-6, abs=1e-6)


def test_a_stream_whose_priors_read_a_sharded_base_is_refused(tiny_recipe, run_cli):
    settings = ["data.streaming=true", "train.fsdp=true", "graph.encoder=lm"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *(f"--set={s}" for s in settings))
    assert (code, "cannot read a base that FSDP shards" in text) == (2, True), text


def test_the_first_process_speaks_and_writes_for_all(two):
    run, text = two
    for line in ("Adapted by topiclora", "Trainable parameters:", "Adapter: ", f"training {STEPS}/{STEPS}"):
        assert text.count(line) == 1, text
    checkpoint, damaged = latest_sound(run / "checkpoints")
    assert (checkpoint.name, damaged) == (f"checkpoint-{STEPS}", [])
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(json.loads((checkpoint / "sealed.json").read_text()))


def test_sigterm_to_the_launcher_saves_what_a_resume_goes_on_from(recipe, one, tmp_path):
    # Slow enough to be stopped on the way, which may be anywhere; the resumed run is cut back into the second epoch.
    run = tmp_path / "stopped"
    process = torchrun(*arguments(recipe, run, **{"train.max_steps": 4000}))
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code != 0
    assert text.count("Interrupted at step") == 1, text
    stopped = int(re.search(r"Interrupted at step (\d+)", text)[1])
    assert latest_sound(run / "checkpoints")[0].name == f"checkpoint-{stopped}"
    assert f" train --out {run} --resume" in text


@pytest.mark.parametrize("program", [("-m", "topiclora_cli"), (ON_CPU,)], ids=["ddp", "fsdp2"])
def test_a_run_resumed_within_an_epoch_ends_the_same(program, recipe, one, two, sharded, tmp_path):
    run = shutil.copytree(two[0] if program[0] == "-m" else sharded, tmp_path / "run")
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / f"checkpoint-{STEPS}")
    stopped = RunDir(run)
    stopped.record("train", replace(stopped.stage("train"), state="interrupted", result=None))
    code, text = finish(torchrun("train", "--out", str(run), "--resume", program=program))
    assert code == 0, text
    assert f"Resuming from {run}/checkpoints/checkpoint-{STEPS - 2}" in text
    assert_equal_runs(run, one)


@pytest.fixture(scope="module")
def sharded(recipe):
    """The run of two processes that share one copy of the model by FSDP2."""
    command = arguments(recipe, recipe.parent / "sharded", **{"train.fsdp": "true"})
    code, text = finish(torchrun(*command, program=[ON_CPU]))
    assert code == 0, text
    return recipe.parent / "sharded"


def test_fsdp2_equals_one_process(one, sharded):
    assert_equal_runs(sharded, one)


def test_an_adapter_trained_by_fsdp2_loads_in_one_process(one, sharded, tiny_model_dir):
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = []
    for run in (one, sharded):
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        with torch.no_grad():
            logits.append(PeftModel.from_pretrained(base, run / "adapter").eval()(tokens).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_a_mistake_is_told_once(recipe, tmp_path):
    code, text = finish(torchrun(*arguments(recipe, tmp_path / "r", **{"graph.taxonomy": "nowhere.yaml"})))
    assert code != 0
    assert len(re.findall("^error", text, flags=re.MULTILINE)) == 1, text
    assert "nowhere.yaml" in text


def test_fsdp_needs_several_processes(tiny_recipe, run_cli):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", "--set", "train.fsdp=true")
    assert (code, "there is one process alone" in text) == (2, True), text


def test_fsdp_that_accelerate_would_leave_out_is_refused(recipe, tmp_path):
    code, text = finish(torchrun(*arguments(recipe, tmp_path / "r", **{"train.fsdp": "true"})))
    assert code != 0
    assert "error: train.fsdp is set, but accelerate shards over GPUs only, not over cpus." in text


def test_other_commands_take_one_process(run_cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, text = run_cli("merge", "--run", "nowhere")
    assert (code, "topiclora merge runs in one process, not in 2" in text) == (2, True), text
