"""peft methods of this project; importing this package registers them, so that stock peft and transformers load them.

import topiclora_cli.adapters
model = AutoModelForCausalLM.from_pretrained("runs/.../adapter")
"""

from topiclora_cli.adapters.card import push_to_hub
from topiclora_cli.adapters.forcing import forced_routing
from topiclora_cli.adapters.interference import interfered_routing
from topiclora_cli.adapters.old_files import have_transformers_rename
from topiclora_cli.adapters.peft_type import register
from topiclora_cli.adapters.perft import PerftConfig, PerftModel
from topiclora_cli.adapters.prompt import prompt_tokens
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.adapters.topiclora import TopicLoraConfig, TopicLoraModel
from topiclora_cli.adapters.unchanging import unchanging_weights

register("topiclora", TopicLoraConfig, TopicLoraModel)
register("perft", PerftConfig, PerftModel)
have_transformers_rename()

__all__ = [
    "PerftConfig",
    "PerftModel",
    "TopicLoraConfig",
    "TopicLoraModel",
    "forced_routing",
    "interfered_routing",
    "prompt_tokens",
    "push_to_hub",
    "record_routing",
    "unchanging_weights",
]
