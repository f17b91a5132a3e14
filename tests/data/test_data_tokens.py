"""Token ids come back from the cache as they were, and only for the same texts and tokenizer."""

import pytest
from transformers import AutoTokenizer

from topiclora_cli.data import tokens

TEXTS = ["Answer : yes", "", "Options : no , yes , no"]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "WORTH_KEEPING", 2)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_what_comes_back_is_what_was_kept(cache, tokenizer, monkeypatch):
    wanted = tokenizer(TEXTS)["input_ids"]
    assert tokens.token_ids(TEXTS, tokenizer) == wanted
    monkeypatch.setattr(tokens, "_tokenise", lambda *_: pytest.fail("tokenised again"))
    assert tokens.token_ids(TEXTS, tokenizer) == wanted


def test_other_texts_tokenizers_and_settings_are_kept_apart(cache, tokenizer):
    tokens.token_ids(TEXTS, tokenizer)
    tokens.token_ids([*TEXTS, "no"], tokenizer)
    tokens.token_ids(["".join(TEXTS), "", ""], tokenizer)
    tokens.token_ids(TEXTS, tokenizer, add_special_tokens=False)
    tokenizer.add_tokens(["Answer : yes"])
    assert tokens.token_ids(TEXTS, tokenizer) == tokenizer(TEXTS)["input_ids"]
    assert len(list(cache.iterdir())) == 5


def test_a_damaged_file_is_made_again(cache, tokenizer):
    wanted = tokens.token_ids(TEXTS, tokenizer)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert tokens.token_ids(TEXTS, tokenizer) == wanted
    assert tokens.token_ids(TEXTS, tokenizer) == wanted


def test_few_texts_are_not_worth_a_file(cache, tokenizer):
    tokens.token_ids(TEXTS[:1], tokenizer)
    assert not cache.exists()
