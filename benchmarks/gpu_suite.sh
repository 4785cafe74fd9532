#!/bin/sh
# What to run where a GPU is at hand: prints one JSON line per question, for benchmarks/results/.
set -e
cd "$(dirname "$0")/.."
python benchmarks/train_tokenizer.py --device cuda --size 256 --channels 160 --batch 16 --precision bf16 --runs 20
python benchmarks/train_tokenizer.py --device cuda --size 256 --channels 160 --batch 16 --runs 10
