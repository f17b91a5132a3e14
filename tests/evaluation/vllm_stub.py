"""vLLM as lm-eval sees it, over transformers: enough of its interface to test what is handed to it, and no more."""

import importlib.machinery
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

VERSION = "0.11.0"


@dataclass
class SamplingParams:
    temperature: float = 1.0
    prompt_logprobs: int | None = None
    max_tokens: int = 16
    detokenize: bool = True
    stop: list[str] = field(default_factory=list)
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """Keeps what it was made with in `made`."""

    made: list[dict] = []

    def __init__(self, **settings):
        self.made.append(settings)
        self.settings = settings
        self.tokenizer = AutoTokenizer.from_pretrained(settings["model"])
        self.model = AutoModelForCausalLM.from_pretrained(settings["model"]).eval()
        length = self.model.config.max_position_embeddings
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))

    @torch.no_grad()
    def generate(self, prompts, *, sampling_params, use_tqdm, lora_request):
        assert not use_tqdm  # vLLM's bar divides by zero where standard error is caught
        if lora_request is not None and not isinstance(self.model, PeftModel):
            assert self.settings["enable_lora"]
            self.model = PeftModel.from_pretrained(self.model, lora_request.lora_path).eval()
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _one(self, tokens, params):
        ids = torch.tensor([tokens])
        if params.prompt_logprobs is None:
            done = self.model.generate(ids, max_new_tokens=params.max_tokens, do_sample=False)[0, len(tokens) :]
            return SimpleNamespace(outputs=[SimpleNamespace(text=self.tokenizer.decode(done))])
        scores = self.model(ids).logits[0].log_softmax(-1)
        found = [None]
        for step, token in zip(scores, tokens[1:], strict=False):
            best = int(step.argmax())
            found.append({each: SimpleNamespace(logprob=float(step[each])) for each in (token, best)})
        return SimpleNamespace(prompt_logprobs=found)


def install(monkeypatch):
    """Have Python find the stub where it looks for vllm."""
    parts = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams, "TokensPrompt": dict},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.renderers": {},
        "vllm.renderers.hf": {"resolve_chat_template": lambda **_: None},
        "vllm.tokenizers": {"get_tokenizer": lambda name, **_: AutoTokenizer.from_pretrained(name)},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    find = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: VERSION if name == "vllm" else find(name))
    monkeypatch.setattr(LLM, "made", [])
