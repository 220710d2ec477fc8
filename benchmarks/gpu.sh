#!/usr/bin/env bash
# Parity, throughput and a whole training on a GPU host: benchmarks/gpu.sh parity|throughput|train|all [OUT] [flags]
#
# Needs python3 (or PYTHON=…) with jax, flax, optax and torch for the GPU; installs nothing, needs no network. Each
# stage ends within nine minutes, writes each result to OUT as soon as it exists, and goes on where it stopped when
# it is run again. Exit codes: 0 all of the stage is there, 1 something failed or is left over, 2 bad usage.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: benchmarks/gpu.sh parity|throughput|train|all [OUT] [--data-dir DIR] [--device cpu|gpu] [--quick]

  parity       the GPU parity suite, the four networks        OUT/parity-MODEL.json
  throughput   JAX beside PyTorch, cifar10 and paper          OUT/throughput.json, OUT/throughput.html
  train        the 20-epoch baseline in both frameworks       OUT/train.json, if CIFAR-10 is at hand
  all          one after the other

  OUT          a folder for the results (default: benchmarks/results/gpu)
  --data-dir   holds cifar-10-batches-py (default: $JAXALEX_DATA_DIR)
  --device     cpu for a dry run (default: gpu)
  --quick      tiny networks, a few steps: to see that everything runs
TEXT
}

fail() { echo "error: $1" >&2; exit 2; }

stage='' out='' device=gpu quick='' data_dir="${JAXALEX_DATA_DIR:-}"
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --quick) quick=1 ;;
    --device) [ $# -gt 1 ] || fail "--device needs cpu or gpu"; device="$2"; shift ;;
    --device=*) device="${1#*=}" ;;
    --data-dir) [ $# -gt 1 ] || fail "--data-dir needs a folder"; data_dir="$2"; shift ;;
    --data-dir=*) data_dir="${1#*=}" ;;
    -*) fail "unknown flag $1 (see --help)" ;;
    *) if [ -z "$stage" ]; then stage="$1"; elif [ -z "$out" ]; then out="$1"; else fail "unknown argument $1"; fi ;;
  esac
  shift
done
case "$device" in cpu | gpu) ;; *) fail "--device must be cpu or gpu, not $device" ;; esac
case "$stage" in parity | throughput | train | all) ;; *) usage >&2; exit 2 ;; esac

python="${PYTHON:-python3}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out="${out:-$root/benchmarks/results/gpu}"
mkdir -p "$out" || fail "cannot make the folder $out"
out=$(cd "$out" && pwd)
[ -z "$data_dir" ] || [ ! -d "$data_dir" ] || data_dir=$(cd "$data_dir" && pwd)
cd "$root" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
[ "$device" = gpu ] || export JAX_PLATFORMS=cpu
# Programs that were compiled once are not compiled again when a stage goes on.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/jaxalex-gpu-compiled}"
export XLA_PYTHON_CLIENT_PREALLOCATE=false # both frameworks on one card

limit=520 # seconds a stage, with some to spare
begin_stage() { deadline=$((SECONDS + limit)); echo "== $1"; }
left() { echo $((deadline - SECONDS)); }
# left_but N: the same without N seconds, never below 0.
left_but() { local seconds=$(($(left) - $1)); echo $((seconds > 0 ? seconds : 0)); }

# within COMMAND…: runs it in what is left of the stage's time.
within() {
  local seconds
  seconds=$(left)
  if [ "$seconds" -lt 1 ]; then echo "no time left in this stage: run it again to go on" >&2; return 1; fi
  timeout --kill-after=10 "$seconds" "$@"
  local code=$?
  [ $code -ne 124 ] || echo "stopped after $seconds s: run the stage again to go on" >&2
  return $code
}

parity() {
  begin_stage parity
  local status=0 model
  local -a flags
  for model in cifar10 paper original torchvision; do
    if [ -s "$out/parity-$model.json" ]; then echo "parity-$model.json is there already"; continue; fi
    flags=(--no-faults)
    [ -z "$quick" ] || flags+=(--width 0.03 --steps 1 --batch-size 1 --dtype float32)
    # A failed parity leaves its report, too: it says where the networks differ.
    within "$python" -m parity_tests --model "$model" "${flags[@]}" --json "$out/.parity.part" || status=1
    [ ! -s "$out/.parity.part" ] || mv "$out/.parity.part" "$out/parity-$model.json"
  done
  return $status
}

throughput() {
  begin_stage throughput
  local status=0
  local -a flags=(--device "$device" --json "$out/throughput.json" --html "$out/throughput.html" --resume)
  if [ -n "$quick" ]; then
    within "$python" -m benchmarks "${flags[@]}" --quick --mode train --variants channels_last --no-parts || status=1
    return $status
  fi
  # What matters most comes first; a call that is cut off loses at most one setting.
  local kind
  for kind in "train bfloat16" "train tf32" "infer bfloat16" "train float32" "infer tf32" "infer float32"; do
    throughput_part cifar10 $kind 128,1024 || return 1
    throughput_part paper $kind 128,512 || return 1
  done
  for kind in "train bfloat16" "train tf32" "infer bfloat16" "train float32" "infer tf32" "infer float32"; do
    throughput_part cifar10 $kind 1,32,512 || return 1
    throughput_part paper $kind 1,32 || return 1
  done
}

throughput_part() { # model mode precision batches
  # It ends by itself while there is time to write the page; one setting can take a few minutes.
  local -a parts=(--no-parts)
  [ "$2 $3" != "train bfloat16" ] || parts=()
  within "$python" -m benchmarks "${flags[@]}" --model "$1" --mode "$2" --precision "$3" --batch-size "$4" \
    --setting-seconds 15 "--time-limit=$(left_but 150)" ${parts[@]+"${parts[@]}"}
}

train() {
  begin_stage train
  local -a flags=(--device "$device" --json "$out/train.json" --resume --pairs 1)
  if [ -n "$quick" ]; then
    within "$python" -m benchmarks.end_to_end "${flags[@]}" --dataset digits --width 0.05 --num-epochs 1 \
      --limit-train 64 --limit-eval 20
    return
  fi
  if [ -z "$data_dir" ] || [ ! -d "$data_dir/cifar-10-batches-py" ]; then
    echo "no cifar-10-batches-py at hand (--data-dir DIR): nothing to train on" >&2
    return 0
  fi
  local -a precisions=(float32)
  [ "$device" = cpu ] || precisions=(bfloat16 float32)
  within "$python" -m benchmarks.end_to_end "${flags[@]}" --dataset cifar10 --data-dir "$data_dir" --num-epochs 20 \
    --precision "${precisions[@]}" "--time-limit=$(left_but 10)"
}

status=0
if [ "$stage" = all ]; then
  for each in parity throughput train; do "$each" || status=1; done
else
  "$stage" || status=1
fi
ls -l "$out"
exit $status
