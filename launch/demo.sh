#!/usr/bin/env bash
# The demo: a spoken corpus, shards, training on two processes, evaluation, report. Takes up what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
run="${KWS_RUNS:-runs}/demo"
began=$SECONDS

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/5  speaking: 16 words by 96 voices of espeak-ng"
if [ -d data/demo-spoken ]; then echo "data/demo-spoken is there"; else kws synth data/demo-spoken; fi

say "2/5  packing the recordings into WebDataset shards"
if [ -f data/demo/index/index.json ]; then echo "data/demo is there"; else kws pack data/demo-spoken data/demo --recipe shards/demo.toml; fi

say "3/5  training on two processes (after an interruption the same command goes on)"
if ! accelerate launch --config_file launch/cpu2.yaml -m kws train configs/demo.toml --run "$run"; then
  say "the training stopped (its own words are above the launcher's traceback); make demo goes on from there"
  exit 1
fi

say "4/5  evaluating on voices that training never heard"
kws evaluate "$run"

say "5/5  drawing"
kws report "$run"

say "done in $((SECONDS - began)) s"
cat <<EOF

look at
  $run/report.html
      curves, confusion matrix, every word, in a browser
  $run/eval/test.png
      the confusion matrix alone
try
  .venv/bin/kws predict $run data/demo-spoken/tree
      what it hears in each file, and the truth beside it (it was trained on most of these voices)
  .venv/bin/kws verify $run
      the proof that every draw of the plan was consumed exactly once
  .venv/bin/kws inspect data/demo
      what is in the shards
  .venv/bin/kws synth data/fruit-spoken --words apple,banana,cherry
      your own words; then: kws pack data/fruit-spoken data/fruit
  .venv/bin/kws train configs/quick.toml --set data.shards=data/fruit
      and train on them, or on recordings of people (README.md)
EOF
