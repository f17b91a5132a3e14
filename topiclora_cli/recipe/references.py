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


_OWN_ROUTER_MASK = Deviation(
    "router's mask",
    "the router reads its input through a dropout mask of its own",
    "in the code it is the experts' mask; here a router may serve several layers, each of which draws its own",
)
_SINGLE_GATE = Deviation(
    "single gate", "with top_k 1 the kept gate stays a probability", "made 1, it would give the router no gradient"
)
_PERFT_ROUTED = (
    Deviation(
        "own weights on OLMoE",
        "the chosen adapters are weighted by their own router, as the paper and the code for Mixtral do",
        "the code for OLMoE takes the pretrained router's weights instead, so that the own router learns nothing from "
        "the language-model loss; adapter.router_weight_source: pretrained does the same",
    ),
    _SINGLE_GATE,
)

PROTOCOL = (
    "A method brings its layer, losses and rate; schedule, batch, length and label smoothing are the recipe's, the "
    "same for all."
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
    "mola": Reference(
        "Gao et al. 2024, arXiv 2402.08562",
        "the code's layer, where each pair of token and expert has a dropout mask, and the paper's 2-4-6-8 experts",
        "GCYZSL/MoLA",
    ),
    "hydralora": Reference(
        "Tian et al. 2024, arXiv 2404.19245",
        "the code's layer and script, with 4 matrices B; the paper's clustering that finds their number is not in it",
        "Clin0212/HydraLoRA",
    ),
    "loramoe": Reference(
        "Dou et al. 2023, arXiv 2312.09979",
        "the code's layer and script, and its localised balance, added up over layers",
        "Ablustrund/LoRAMoE",
        (
            Deviation(
                "no types",
                "the balance has delta 0: it asks all examples for even use of all experts",
                "the authors' data says of which of two types an example is; ours does not. With topic priors, "
                "loss.local_balance.delta takes the half of the experts that a prior prefers for the type",
            ),
            Deviation("balance weight", "0.1", "the code leaves it at 0, to be set by the user"),
            Deviation(
                "variance",
                "the population's, over tokens that are no padding",
                "neither padding nor the number of examples then changes it",
            ),
        ),
    ),
    "adamole": Reference(
        "Liu & Luo 2024, arXiv 2405.00361",
        "the code, which divides a total rank of 32 among the experts; the largest threshold is 1 / E; the balance, "
        "added up over layers, counts tokens and takes probabilities less the threshold",
        "zefang-liu/AdaMoLE",
    ),
    "mixlora": Reference(
        "Li et al. 2024, arXiv 2404.15159", "the code's MixLoRA (top-k routing), balance included", "TUDB-Labs/MixLoRA"
    ),
    "hmora": Reference(
        "Liao et al. 2025 (ICLR)",
        "the code and the README's script: gates are a softmax over the k largest probabilities, one of the two "
        "routers stands alone where the other's share starts below 0.2, the scale is alpha / sqrt(r)",
        "LiaoMengqi/HMoRA",
        (
            Deviation(
                "task encoder",
                "the mean of a router's scores over the prompt stands for the encoded task",
                "the code trains a transformer of its own over the prompt, which would have to run before the model "
                "whenever it generates",
            ),
            Deviation(
                "plain LoRA's scale",
                "the plain LoRA on output projections is scaled as the experts are, by alpha / sqrt(r)",
                "the code scales it by alpha / r, 2.8 times less; an adapter here has one law of scaling",
            ),
            _SINGLE_GATE,
        ),
    ),
    "gmoe": Reference(
        "Bai et al. 2024, arXiv 2412.16216",
        "the paper, not the code: a graph of the experts and the token, two convolutions, a softmax over the k largest",
        "BAI-LAB/GMoE",
        (
            Deviation(
                "paper, not code",
                "the router is the paper's equations alone",
                "the code's gate is another one: it has a further network, and trains the loss profiles' parameters",
            ),
            Deviation(
                "random graph",
                "the first one drawn in which no two experts have the same neighbours",
                "convolutions score two such experts alike at every token, and most graphs of density 0.1 have some",
            ),
            Deviation(
                "one vector",
                "the second convolution's weight and the projection to a score are a single vector",
                "nothing stands between the two that could tell them apart",
            ),
            Deviation(
                "losses of a step",
                "the profiles' shapes are settings, divergences are plain, use is a step's, and routers are averaged",
                "the code trains the shapes, takes logarithms' absolute values and counts use over the whole training",
            ),
            Deviation(
                "size",
                "8 experts of rank 8, 2 of them active",
                "the paper sweeps 4 to 16 experts, ranks 1 to 16 and 1 to 5 active; this is the other mixtures' size",
            ),
        ),
    ),
    "samora": Reference(
        "arXiv 2604.19048",
        "the code's layer, whose scaling is the task gate alone, never alpha / r, and its losses, added up over "
        "layers: the orthogonality is a mean over matrix entries, where the paper has squared norms",
        "boyan-code/SAMoRA",
        (
            Deviation(
                "task gate",
                "1 in place of the learned gate of an example's task, which starts around 0.5",
                "training data here have no task ids, and new prompts none either",
            ),
            Deviation(
                "diagonal",
                "no learned diagonal in rank space, and no start of it from singular values of the base",
                "B can absorb it, and the start wants a decomposition of every base weight prepared beforehand",
            ),
            _OWN_ROUTER_MASK,
        ),
    ),
    "ldmole": Reference(
        "Zhuang et al. 2025, arXiv 2509.25684",
        "the code: ReLU, 1 - lambda at least 0.01, biases of -2.5, so that lambda starts at -1.59 with 5 of 8 active; "
        "trained with its balance at weight 1, of gates, and without its sparsity",
        "eshentw/LD-MoLE",
        (
            Deviation(
                "network per router",
                "each router has a network of 32 hidden units for lambda",
                "the code shares one of 256 to 512 among all layers of a width; adapters here keep state in layers",
            ),
            _OWN_ROUTER_MASK,
        ),
    ),
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
