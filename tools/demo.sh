#!/usr/bin/env bash
# The main job on real bills, as an operator would type it: three months of a story in a fresh home directory.
set -euo pipefail
cd "$(dirname "$0")/.."
makegood=${MAKEGOOD_BIN:-.venv/bin/makegood}
export MAKEGOOD_HOME=$PWD/data/demo
rm -rf "$MAKEGOOD_HOME"
mkdir -p "$MAKEGOOD_HOME"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ makegood %s\n' "$*"; "$makegood" "$@"; }
run_id() { "$makegood" run list --json --limit 1 | sed -E 's/.*"run_id": "([^"]+)".*/\1/'; }

say "1. August 2005: 30,000 real bills, verified against April to July, released and charged."
run verify --source data/sample --period 2005-08
run release --run "$(run_id)" --as-of 2005-08-11

say "2. September arrives - with July's amounts in it. The label is right, the totals look right."
"$makegood" mischarge --source data/sample --out "$MAKEGOOD_HOME/wrong" --period 2005-09 --amounts-of 2005-07 --quiet
code=0
run verify --source "$MAKEGOOD_HOME/wrong" --period 2005-09 || code=$?
test "$code" = 3 || { echo "expected a hold (exit code 3), got $code"; exit 1; }
held=$(run_id)
say "   It is held. Trying to charge it all the same:"
code=0
run release --run "$held" --as-of 2005-09-11 || code=$?
test "$code" = 3 || { echo "expected a refusal (exit code 3), got $code"; exit 1; }

say "3. The right September: verified, released, charged; and released again, which charges nobody twice."
run verify --source data/sample --period 2005-09
right=$(run_id)
run release --run "$right" --as-of 2005-09-11
run release --run "$right" --as-of 2005-09-11

say "4. Had it escaped: September charged with July's amounts, then voided, refunded and rebilled on the 11th to 13th."
run replay --source data/sample --period 2005-09 --charged-with 2005-07 --quiet

say "Why September was held, for an analyst to read:"
echo "$MAKEGOOD_HOME/reports/$held/report.html"
