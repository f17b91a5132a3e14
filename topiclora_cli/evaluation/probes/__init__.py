"""Changes of prompts that a robust model should bear: what each does, by name."""

PROBES = {
    "truncate": "the question loses the last third of its words; options and the cue for the answer stay",
    "distractor": "a sentence about something else stands before the question",
    "permute-options": "the listed options of a multiple-choice question change places",
    "typos": "in every fifth longer word of the question two letters change places",
    "shuffle-sentences": "the sentences of the question come in another order, the one that asks last",
    "fewshot": "two other questions of the task stand before it, with their answers",
    "two-topics": "a question of another topic stands before it, with its answer",
}
