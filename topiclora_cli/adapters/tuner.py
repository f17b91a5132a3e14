"""What our tuners and their layers have in common: one adapter for a whole batch, and no merging."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.dispatch import can_dispatch
from topiclora_cli.adapters.old_files import renamed
from topiclora_cli.errors import TopicLoraError


class Described(NamedTuple):
    """What a layer carries: experts to choose from, rank of one, the router's name, "-" where nothing is routed; and
    how many experts more take part for every token."""

    experts: int
    rank: int
    router: str
    shared: int = 0


class RoutedTunerLayer(BaseTunerLayer):
    """Base of the layers whose adapters decide by their input; `name` is the layer's in the model.

    router_container, second_factors: which of adapter_layer_names hold the routers, and the experts' second factors.
    """

    name: str
    routing_context: RoutingContext
    no_merge: tuple[str, str]
    router_container: ClassVar[str]
    second_factors: ClassVar[str]
    precise_containers: ClassVar[tuple[str, ...]] = ()  # what keeps its precision beside the base, as routers do
    in_features: int
    out_features: int
    cast_input_dtype_enabled = True  # peft.helpers.disable_input_dtype_casting turns it off

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # peft rounds whatever it moves to the base's precision, so these stand aside meanwhile.
        containers: list[nn.ModuleDict] = [
            getattr(self, name) for name in (self.router_container, *self.precise_containers)
        ]
        aside: dict[nn.ModuleDict, Any] = {c: c[adapter_name] for c in containers if adapter_name in c}
        for container in aside:
            container[adapter_name] = nn.Identity()
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        for container, module in aside.items():
            to = device or next(self.get_base_layer().parameters()).device
            container[adapter_name] = module.settle(self.name, to)

    def expert_parameters(self, adapter_name: str) -> int:
        """Parameters of all experts together, frozen or not; 0 for an adapter it does not carry."""
        containers = [getattr(self, name) for name in self.adapter_layer_names if name != self.router_container]
        factors = [container[adapter_name] for container in containers if adapter_name in container]
        return sum(weight.numel() for factor in factors for weight in factor.parameters())

    def describe(self, adapter_name: str) -> Described:
        """What it carries under that name."""
        raise NotImplementedError

    def routed_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """First factors (E or 1, r, d_in) and second ones, transposed, (E, r, d_out), of the experts to choose from."""
        raise NotImplementedError

    def expert_hidden(self, adapter_name: str, x: Tensor) -> Tensor:
        """What the second factors of the experts to choose from read of x: (..., E or 1, r)."""
        raise NotImplementedError

    def adapter_input(self, x: Tensor, lora_a: Tensor) -> Tensor:
        """x in the adapter's precision; under autocast as it is, since matmuls choose there and undo a cast.

        Raises TopicLoraError for an adapter without values.
        """
        if lora_a.is_meta and not x.is_meta:
            raise TopicLoraError(
                f"{self.name}: the adapter lies on the meta device, without values.",
                "Load its file (PeftModel.from_pretrained), or train with a base that fits into memory.",
            )
        return x if torch.is_autocast_enabled(x.device.type) else self._cast_input_dtype(x, lora_a.dtype)

    def require_sortable(self, x: Tensor, lora_b: Tensor) -> None:
        """Raises TopicLoraError where the sorted kernel was asked for and cannot take these sizes."""
        if not can_dispatch(x, lora_b):
            raise TopicLoraError(
                f"{self.name}: kernel: sparse needs r and features in whole 16 bytes.",
                "Use kernel: auto, or another r.",
            )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always refuses: what depends on the input equals no dense weight."""
        raise TopicLoraError(*self.no_merge)

    def unmerge(self) -> None:
        """Does nothing, since nothing is ever merged."""


class RoutedTuner(BaseTuner):
    """Base of the tuners whose adapters decide by their input; `no_merge` is why they do not merge, and a way out."""

    no_merge: tuple[str, str]
    routing_context: RoutingContext

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adapt the model; all of its routed layers share one context, whichever tuner put them there."""
        self.routing_context = next(iter(contexts_of(model)), None) or RoutingContext()
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> Iterator[None]:
        # peft would drop adapter_names without a word and run every example through the active adapter.
        if kwargs.get("adapter_names") is not None:
            raise TopicLoraError("A batch cannot mix adapters (adapter_names).", "Call set_adapter before each batch.")
        yield

    def _check_merge_allowed(self) -> None:
        raise TopicLoraError(*self.no_merge)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Always refuses, saying why."""
        self._check_merge_allowed()

    def add_weighted_adapter(self, *_: Any, **__: Any) -> None:
        """Always refuses: experts chosen by different routers have no weighted sum that is such an adapter."""
        raise TopicLoraError(
            "Adapters that decide by their input cannot be combined into one (add_weighted_adapter).",
            "Activate several at once (model.base_model.set_adapter([...])), whose changes then add up.",
        )

    def own_config(self, adapter_name: str) -> Any:
        """The adapter's configuration, now a copy: what it becomes on this model must not stay in the caller's."""
        config = self.peft_config[adapter_name] = copy.copy(self.peft_config[adapter_name])
        return config

    def twin_of(self, adapter_name: str) -> str | None:
        """Another adapter here with an equal configuration: without anchors, which no file keeps, it knows the keys."""
        configs = self.peft_config
        return next((name for name in configs if name != adapter_name and configs[name] == configs[adapter_name]), None)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, renamed(state_dict))  # type: ignore[no-any-return]

    @staticmethod
    def refuse_adapted(target: nn.Module, name: str) -> None:
        """Raises TopicLoraError for a module that another peft method has adapted."""
        if isinstance(target, BaseTunerLayer):
            raise TopicLoraError(f"{name} already carries a {type(target).__name__} of another peft method.")


def routers_of(model: nn.Module) -> list[tuple[str, Any]]:
    """The routers of active adapters that have a choice, each with the name of the layer that owns it."""
    return [
        (layer.name, router)
        for layer in model.modules()
        if isinstance(layer, RoutedTunerLayer)
        for adapter, held in getattr(layer, layer.router_container).items()
        if adapter in layer.active_adapters
        for router in held.modules()  # itself, or what FSDP has wrapped
        if hasattr(router, "settings") and router.settings.num_experts > 1
    ]


def contexts_of(model: nn.Module) -> tuple[RoutingContext, ...]:
    """The contexts of the routed layers in `model`: one, unless it holds several models."""
    layers = (module for module in model.modules() if isinstance(module, RoutedTunerLayer))
    return tuple(dict.fromkeys(layer.routing_context for layer in layers))
