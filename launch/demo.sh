#!/usr/bin/env bash
# The demo: a synthetic corpus, shards, training on two processes, evaluation, report. Existing results are reused.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
run="${KWS_RUNS:-runs}/demo"
began=$SECONDS

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/5  synthesising 16 words with 96 voices of espeak-ng"
if [ -d data/demo-spoken ]; then echo "data/demo-spoken exists"; else kws synth data/demo-spoken; fi

say "2/5  packing the recordings into WebDataset shards"
if [ -f data/demo/index/index.json ]; then echo "data/demo exists"; else kws pack data/demo-spoken data/demo --recipe shards/demo.toml; fi

say "3/5  training on two processes (run make demo again to resume after an interruption)"
if ! accelerate launch --config_file launch/cpu2.yaml -m kws train configs/demo.toml --run "$run"; then
  say "the training failed or was stopped (see its message above the launcher's traceback); run make demo again to resume"
  exit 1
fi

say "4/5  evaluating on voices that are not in the training split"
kws evaluate "$run"

say "5/5  writing the report"
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
      the predicted word of each file, beside the true one (most of these voices are in the training split)
  .venv/bin/kws verify $run
      checks that every draw of the plan was consumed exactly once
  .venv/bin/kws inspect data/demo
      the contents of the shards
  .venv/bin/kws synth data/fruit-spoken --words apple,banana,cherry
      your own words; then: kws pack data/fruit-spoken data/fruit
  .venv/bin/kws train configs/quick.toml --set data.shards=data/fruit
      trains on them; for recordings of people see README.md
EOF
