#!/bin/sh
# Makes the environment of tests/bench/peers.py: sh tests/bench/install_peers.sh [FOLDER]
set -eu
folder=${1:-.venv-peers}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install \
  torch==2.13.0 transformers==4.46.3 tokenizers==0.20.3 huggingface_hub==0.36.2 peft==0.13.2 accelerate==1.1.1 \
  datasets==3.1.0 evaluate==0.4.3 numpy==2.4.6 scikit-learn==1.9.1 sentencepiece==0.2.3 tiktoken==0.14.0
# Without dependencies: moe-peft asks for torch before 2.6, but runs on the torch that our side of the comparison uses.
"$folder/bin/python" -m pip install --no-deps mixlora==0.2.3 moe-peft==2.0.2
