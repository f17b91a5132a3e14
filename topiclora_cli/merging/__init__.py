"""From a routed mixture to something any LoRA server loads, with the loss of doing so measured."""
