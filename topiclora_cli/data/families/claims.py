"""Checking claims: does a piece of evidence prove a statement, disprove it, or leave it open?

Evidence and claim are ranges of a count ("more than 40"). The label is drawn first and numbers are found to fit, so the
three labels are equally common for each kind of evidence. Claims about somebody or something else are open.
"""

from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, say

_LABELS = ("true", "false", "unknown")
_DEEDS = (
    "sold {} tickets", "planted {} trees", "scored {} points", "baked {} loaves", "read {} books", "walked {} miles",
    "caught {} fish", "wrote {} letters", "painted {} doors", "picked {} apples", "washed {} cars", "ran {} races",
)  # fmt: skip
_AMOUNTS = {"exactly": "{}", "above": "more than {}", "below": "fewer than {}"}
_TEMPLATES = (
    "Evidence: {evidence}. Claim: {claim}. Is the claim true?",
    "{evidence}. So is it true that {claim}?",
    "We only know this: {evidence}. Someone claims: {claim}. Is that so?",
    "Report: {evidence}. Headline: {claim}. Judge the headline.",
    "Given that {evidence}, check this statement: {claim}.",
)


def _range(kind: str, number: int) -> tuple[float, float]:
    return {"exactly": (number, number), "above": (number + 1, float("inf")), "below": (0, number - 1)}[kind]


def _judge(evidence: tuple[float, float], claim: tuple[float, float]) -> str:
    if claim[0] <= evidence[0] and evidence[1] <= claim[1]:
        return "true"
    return "false" if evidence[1] < claim[0] or claim[1] < evidence[0] else "unknown"


def _claim_checking(rng: Random) -> Draft:
    label, known = rng.choice(_LABELS), rng.choice(list(_AMOUNTS))
    (who, somebody_else), (deed, other_deed) = rng.sample(NAMES, 2), rng.sample(_DEEDS, 2)
    elsewhere = label == "unknown" and (known == "exactly" or rng.random() < 0.3)
    while True:
        claimed = rng.choice(("above", "below"))
        number = rng.randint(35, 69)
        bound = number + rng.choice((-1, 1)) * rng.randint(5, 30)
        if elsewhere or _judge(_range(known, number), _range(claimed, bound)) == label:
            break
    subject, did = rng.choice((("{x}", other_deed), ("{y}", deed))) if elsewhere else ("{x}", deed)
    evidence = f"{{x}} {deed.format(_AMOUNTS[known].format(number))}"
    claim = f"{subject} {did.format(_AMOUNTS[claimed].format(bound))}"
    question = say(rng, _TEMPLATES, evidence=evidence, claim=claim).format(x=who, y=somebody_else)
    return Draft(question, label, f"{evidence} / {claim}", _LABELS)


FAMILIES = (
    Family(
        "claim_checking",
        ("reading comprehension", "sufficient information", "truthfulness"),
        "choice",
        "judge a claim about a count by the evidence given",
        _claim_checking,
    ),
)
