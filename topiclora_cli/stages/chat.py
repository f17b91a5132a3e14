"""A conversation with a run's model: prompts as the run was trained on them, answers as they come, and their gates."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, TextStreamer

from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.data.row import ASSISTANT, Turn
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.route import PromptRoute
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.asking import filled_in, of_conversations, prompt_ids
from topiclora_cli.stages.inputs import answering, graph_folder, load_tuned, open_encoder
from topiclora_cli.stages.route import gate_view, topic_view
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.training.attach import without_adapter


@dataclass(frozen=True)
class Manner:
    """How answers are made: at most so many tokens, the likeliest at temperature 0, else drawn."""

    max_new_tokens: int = 256
    temperature: float = 0.0


@dataclass
class Chat:
    """A tuned model in conversation; `turns` are those so far, where the run was trained on conversations."""

    recipe: Recipe
    base: BaseModel
    model: PeftModel
    prior: TopicPrior | None
    manner: Manner
    turns: list[Turn] = field(default_factory=list)

    @property
    def remembers(self) -> bool:
        """Whether what was said before is part of a prompt; a run trained on single prompts reads each by itself."""
        return of_conversations(self.recipe, has_template=self.base.tokenizer.chat_template is not None)

    def ask(self, text: str, say: Callable[[str], None], *, base: bool = False) -> tuple[list[int], list[int]]:
        """Have a message answered, each piece of the answer told to `say`; returns the tokens of prompt and answer.

        base: by the base model, without the adapter. Raises TopicLoraError where the prompt leaves no room to answer.
        """
        prompt = self._encoded(text)
        config: Any = self.base.model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
        if not prompt or (longest is not None and len(prompt) >= longest):
            raise TopicLoraError(
                f"The prompt has {len(prompt)} tokens, and the model reads 1 to {longest} with its answer.",
                "Make it shorter, or begin anew.",
            )
        room = self.manner.max_new_tokens if longest is None else min(self.manner.max_new_tokens, longest - len(prompt))
        ids = torch.tensor([prompt], device=self.base.model.device)
        with (
            torch.inference_mode(),
            answering(self.recipe, self.base.model),
            without_adapter(self.model) if base else nullcontext(),
        ):
            made: Any = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._generation(room),
                streamer=_Told(self.base.tokenizer, say),
            )
        return prompt, made[0, len(prompt) :].tolist()

    def keep(self, text: str, answer: list[int]) -> None:
        """Make a message and its answer part of the conversation."""
        if self.remembers:
            said = str(self.base.tokenizer.decode(answer, skip_special_tokens=True)).strip()
            self.turns += [Turn("user", self._asked(text)), Turn(ASSISTANT, said)]

    def gates(self, text: str, prompt: list[int], answer: list[int]) -> PromptRoute:
        """What the topic graph says of a message, and which experts the answer's tokens met."""
        with without_adapter(self.model):  # the graph's encoder may read the base
            topics = None if self.prior is None else topic_view(self.prior, self._asked(text))
        ids = torch.tensor([[*prompt, *answer]], device=self.base.model.device)
        of_prompt = torch.zeros_like(ids)
        of_prompt[:, : len(prompt)] = 1
        batch: dict[str, Tensor] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "prompt_mask": of_prompt,
            "token_mask": 1 - of_prompt if answer else of_prompt,
        }
        observed = observe_gates(self.model, [batch], bfloat16=use_bfloat16(self.recipe.train.precision))
        return PromptRoute(text, topics, gate_view(observed, len(answer) or len(prompt)))

    def _encoded(self, text: str) -> list[int]:
        return prompt_ids(self.recipe, self.base.tokenizer, [*self.turns, Turn("user", self._asked(text))])

    def _asked(self, text: str) -> str:
        return filled_in(self.recipe, text)

    def _generation(self, room: int) -> GenerationConfig:
        tokenizer, own = self.base.tokenizer, self.base.model.generation_config
        ends = own.eos_token_id if own is not None and own.eos_token_id is not None else []
        drawn = {"do_sample": True, "temperature": self.manner.temperature} if self.manner.temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=room,
            eos_token_id=list(dict.fromkeys([*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id])),
            pad_token_id=tokenizer.pad_token_id,
            **({"do_sample": False} | drawn),
        )


class _Told(TextStreamer):
    """Hands on the words of an answer as soon as they are whole."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._say(text)


def open_chat(recipe: Recipe, run: RunDir, progress: Progress, manner: Manner, *, show_gates: bool = False) -> Chat:
    """A run's adapter on its base, ready to talk; with `show_gates`, the topic graph that it was trained with, too.

    Raises TopicLoraError for a run without an adapter, and where gates are wanted of one without routers.
    """
    if show_gates and not recipe.adapter.routes:
        raise TopicLoraError(
            f"{run.path}: its adapter ({recipe.adapter.method}) has no routers, so that no answer has gates.",
            "Leave out --show-gates.",
        )
    base, model = load_tuned(recipe, run)
    prior = None
    if show_gates and recipe.needs_graph and (folder := graph_folder(run, progress)):
        prior = TopicPrior(TopicGraph.load(folder), open_encoder(recipe, base))
    return Chat(recipe, base, model, prior, manner)
