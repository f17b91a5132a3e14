"""Names of other tools and keys of other sections are refused with our key, beside the nearest spelling."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.keys import recipe_keys
from topiclora_cli.recipe.synonyms import SYNONYMS, our_name

KEYS = {key.name for key in recipe_keys()}


def test_every_synonym_stands_for_a_key_and_is_none_itself():
    assert set(SYNONYMS.values()) <= KEYS
    for name, ours in SYNONYMS.items():
        assert f"{ours.rpartition('.')[0]}.{name}".lstrip(".") not in KEYS


def test_a_synonym_is_told_as_it_is_to_be_said_there():
    assert our_name("train.lr") == "learning_rate"
    assert our_name("lr") == our_name("adapter.lr") == "train.learning_rate"
    assert our_name("train.learning_rat") is None


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ("train.lr=1e-3", r"unknown key 'train.lr'. Did you mean 'learning_rate'"),
        ("lr=1e-3", "Did you mean 'train.learning_rate'"),
        ("train.per_device_train_batch_size=4", "Did you mean 'batch_size'"),
        ("train.num_train_epochs=4", "Did you mean 'epochs'"),
        ("train.lora_r=4", "Did you mean 'adapter.r'"),
        ("adapter.alpha=4", "Did you mean 'lora_alpha'"),
        ("adapter.dropout=0.1", "Did you mean 'lora_dropout'"),
        ("train.bs=4", "Did you mean 'batch_size'"),
        ("learning_rate=1e-3", "Did you mean 'train.learning_rate'"),
        ("train.num_experts=4", "Did you mean 'adapter.num_experts'"),
        ("adapter.top_p_=4", "Did you mean 'top_p'"),
    ],
)
def test_an_unknown_key_is_refused_with_ours(change, hint, tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\nmodel: {name: m}\n")
    with pytest.raises(TopicLoraError, match=hint):
        load_recipe(str(tmp_path / "r.yaml"), [change])
