"""Where each method comes from, what of it is followed here, and where ours does otherwise, by name and with reason.

Shown by `topiclora methods --sources`. A method bears a published name only as far as this page says.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """Something done otherwise than in the reference: its name, what differs, and why."""

    name: str
    what: str
    why: str


@dataclass(frozen=True)
class Reference:
    """A method's paper, its authors' code where that is public, what ours follows, and every deviation from it."""

    paper: str
    follows: str
    code: str = ""
    deviations: tuple[Deviation, ...] = ()


_PEFT = "peft's own implementation, as it is"
_PERFT_PAPER = "Liu et al. 2025, arXiv 2508.02587"
_PERFT_CODE = "anonymous; a copy is in yuninxia/moe-routing-bench"
_BARE_PARAMETERS = Deviation(
    "no dropout", "the paper has 0.05 here, too", "peft has no dropout on bare parameters, which the targets are"
)
_ONE_RATE = Deviation("rate", "1e-5 on every base", "it is OLMoE's; for Mixtral the authors took 2e-5")


def _perft(follows: str, *deviations: Deviation) -> Reference:
    return Reference(_PERFT_PAPER, follows, _PERFT_CODE, (_ONE_RATE, *deviations))


_PERFT_ROUTED = (
    Deviation(
        "own weights on OLMoE",
        "the chosen adapters are weighted by their own router, as the paper and the code for Mixtral do",
        "the code for OLMoE takes the pretrained router's weights instead, so that the own router learns nothing from "
        "the language-model loss; adapter.router_weight_source: pretrained does the same",
    ),
    Deviation(
        "top-1 weights",
        "a single kept weight is not made one (adapter.renormalize: auto)",
        "made one, it would give the router no gradient",
    ),
)

REFERENCES: dict[str, Reference] = {
    "lora": Reference("Hu et al. 2021, arXiv 2106.09685", _PEFT, "microsoft/LoRA"),
    "rslora": Reference("Kalajdzievski 2023, arXiv 2312.03732", _PEFT),
    "dora": Reference("Liu et al. 2024, arXiv 2402.09353", _PEFT, "NVlabs/DoRA"),
    "adalora": Reference(
        "Zhang et al. 2023, arXiv 2303.10512",
        _PEFT + ", with its ratio of 1.5 between the first rank and the last",
        "QingruZhang/AdaLoRA",
    ),
    "lora+": Reference(
        "Hayou et al. 2024, arXiv 2402.12354",
        "peft's LoRA; B at 16 times the rate of A",
        "nikhil-ghosh-berkeley/loraplus",
    ),
    "xlora": Reference(
        "Buehler & Buehler 2024, arXiv 2402.07148",
        _PEFT
        + ", over the adapters in adapter.init_from; one scaling per token for all layers, as peft does by default",
        "EricLBuehler/xlora",
    ),
    "lora-qv": Reference(_PERFT_PAPER, "the paper's baseline on attention; peft's LoRA", _PERFT_CODE, (_ONE_RATE,)),
    "lora-router": Reference(
        _PERFT_PAPER, "the paper's baseline on routers; peft's LoRA", _PERFT_CODE, (_ONE_RATE, _BARE_PARAMETERS)
    ),
    "lora-experts": Reference(
        _PERFT_PAPER, "the paper's baseline on experts; peft's LoRA", _PERFT_CODE, (_ONE_RATE, _BARE_PARAMETERS)
    ),
    "molora": Reference(
        "Zadouri et al. 2023, arXiv 2309.05444",
        "the paper's layer: all experts mixed by a linear router's softmax",
        "for-ai/parameter-efficient-moe",
        (
            Deviation(
                "size",
                "8 experts of rank 8 on every linear layer of a decoder",
                "the paper has 10 to 15 of rank 4 on T5; this is the size that later mixtures share",
            ),
        ),
    ),
    "mola": Reference("Gao et al. 2024, arXiv 2402.08562", "the code's layer and the paper's shape", "GCYZSL/MoLA"),
    "hydralora": Reference("Tian et al. 2024, arXiv 2404.19245", "the code's layer and script", "Clin0212/HydraLoRA"),
    "loramoe": Reference("Dou et al. 2023, arXiv 2312.09979", "the code's layer and script", "Ablustrund/LoRAMoE"),
    "adamole": Reference(
        "Liu & Luo 2024, arXiv 2405.00361",
        "the code, which divides a total rank of 32 among the experts; the largest threshold is 1 / E",
        "zefang-liu/AdaMoLE",
    ),
    "mixlora": Reference("Li et al. 2024, arXiv 2404.15159", "the code's MixLoRA (top-k routing)", "TUDB-Labs/MixLoRA"),
    "hmora": Reference("Liao et al. 2025 (ICLR)", "the code and the README's script", "LiaoMengqi/HMoRA"),
    "gmoe": Reference("Bai et al. 2024, arXiv 2412.16216", "the paper", "BAI-LAB/GMoE"),
    "samora": Reference("arXiv 2604.19048", "the code", "boyan-code/SAMoRA"),
    "ldmole": Reference("Zhuang et al. 2025, arXiv 2509.25684", "the code", "eshentw/LD-MoLE"),
    "perft-r": _perft("the paper's routed variant", *_PERFT_ROUTED),
    "perft-e": _perft("the paper's embedded variant"),
    "perft-d": _perft("the paper's dense variant"),
    "perft-s": _perft("the paper's single shared adapter"),
    "topic-perft": Reference(
        f"{_PERFT_PAPER}, under TopicLoRA's router and prior",
        "nothing published: PERFT's routed variant with a router whose keys are topics",
    ),
    "topiclora": Reference(
        "AAAI 2026, of which only the abstract is public",
        "the abstract; the rest is a reconstruction",
        "not reachable",
        (Deviation("reconstruction", "every number and formula is ours", "no paper and no code can be read"),),
    ),
}
