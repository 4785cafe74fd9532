#!/bin/bash
# All that needs a GPU, in one command and under nine minutes:
#
#     OUT=somewhere bash benchmarks/gpu_suite.sh          tests, then benchmarks, then a table
#     bash benchmarks/gpu_suite.sh --smoke                the same on a CPU with tiny models
#
# A part that fails or outlasts its time does not stop the others; the exit status says whether one
# did. Results are written to $OUT (benchmarks/results unless set; the smoke run must name it): a
# JSON file per model, training.jsonl, summary.md, gpu_suite.log. Official checkouts in .reference/
# (VAR, LlamaGen, 1d-tokenizer) are run beside ours where they are. COMMIT names the commit where
# the code was copied without its repository.
cd "$(dirname "$0")/.." || exit 2
[ "$1" = --smoke ] && SMOKE=1
if [ -n "$SMOKE" ] && [ -z "$OUT" ]; then
  echo "the smoke run times nothing worth keeping: name a folder for its files, OUT=..." >&2
  exit 2
fi
OUT=$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd) || exit 2
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
LOG=$OUT/gpu_suite.log
FAILED=()
: >"$LOG"
: >"$OUT/training.jsonl"

part() { # name, seconds, command...
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  echo "== $name: $*" | tee -a "$LOG"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$LOG"
  status=${PIPESTATUS[0]}
  echo "== $name: status $status after $((SECONDS - start)) s of $limit" | tee -a "$LOG"
  [ "$status" -eq 0 ] || FAILED+=("$name")
}

generate() { # seconds, model, config, options...
  local limit=$1 model=$2 config=$3
  shift 3
  part "$model-$config" "$limit" "$PYTHON" benchmarks/generate.py --model "$model" --config "$config" \
    --device "$DEVICE" --dtype "$DTYPE" --batch "$BATCH" --runs "$RUNS" --save "$OUT" "$@"
}

train() { # options...: the last line is the record
  part "training $*" "$TRAIN_LIMIT" "$PYTHON" benchmarks/train_tokenizer.py --device "$DEVICE" "$@"
  tail -n 2 "$LOG" | grep '^{' >>"$OUT/training.jsonl"
}

official() { # folder: --peer and its path, where it is
  [ -z "$SMOKE" ] && [ -d ".reference/$1" ] && echo "--peer .reference/$1"
}

# Shape checks need beartype; without it their plugin is left out.
CHECKS=()
"$PYTHON" -c 'import beartype, jaxtyping' 2>/dev/null ||
  CHECKS=(-o "addopts=--strict-markers -rfEs")
mapfile -t TESTS < <(grep -rlE 'mark\.gpu' tests --include='test_*.py')

if [ -n "$SMOKE" ]; then
  DEVICE=cpu DTYPE=float32 BATCH=1,2 RUNS=1 TRAIN_LIMIT=300
  part tests 300 "$PYTHON" -m pytest -q -m gpu "${CHECKS[@]}" "${TESTS[@]}"
  generate 300 var tiny --shares
  generate 300 llamagen tiny --transformers
  generate 300 rar tiny
  train --size 32 --channels 8 --batch 2 --runs 1
else
  DEVICE=cuda DTYPE=bfloat16 BATCH=1,64 RUNS=10 TRAIN_LIMIT=25
  part tests 100 "$PYTHON" -m pytest -q -m gpu "${CHECKS[@]}" "${TESTS[@]}"
  # shellcheck disable=SC2046
  {
    generate 55 var d16 --shares $(official VAR)
    generate 70 var d30 $(official VAR)
    generate 80 llamagen B --gpt-fast $(official LlamaGen)
    generate 75 llamagen XL $(official LlamaGen)
    generate 55 rar B $(official 1d-tokenizer)
  }
  train --size 256 --channels 160 --batch 16 --precision bf16 --runs 20
  train --size 256 --channels 160 --batch 16 --runs 10
fi
"$PYTHON" benchmarks/summary.py "$OUT" >"$OUT/summary.md" 2>>"$LOG" || FAILED+=(summary)
cat "$OUT/summary.md" | tee -a "$LOG"

echo "finished in $SECONDS s; failed: ${FAILED[*]:-nothing}" | tee -a "$LOG"
[ ${#FAILED[@]} -eq 0 ]
