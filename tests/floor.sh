#!/bin/sh
# The floor that is printed works when it is typed: by plan, in the refusal and as
# JSON, with many options, for the built-in model and small ones; and it is the same
# in every run.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
sluice=${SLUICE:-$build/sluice}
mkmodel=$build/tools/mkmodel
[ -z "${SANITIZE:-}" ] || { echo "SKIP: sanitizers need memory of their own"; exit 77; }
[ -x "$mkmodel" ] && [ -x "$sluice" ] ||
    { echo "SKIP: no $mkmodel or no $sluice: run make all tools first"; exit 77; }
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
fail=0 n=0
no() { echo "FAIL: $*"; fail=1; }

# typed_back MODEL OPTIONS...
typed_back()
{
    model=$1
    shift
    n=$((n + 1))
    said=$("$sluice" run -m "$model" "$@" --memory 1M --raw x 2>&1 |
        sed -n 's/.*floor of \([0-9.]* [KMG]iB\).*/\1/p')
    printed=$("$sluice" plan -m "$model" "$@" --no-probe |
        sed -n 's/^ *floor  *\([0-9.]* [KMG]iB\).*/\1/p')
    exact=$("$sluice" plan -m "$model" "$@" --no-probe --json |
        sed -n 's/.*"floor": *\([0-9]*\).*/\1/p')
    for floor in "$said" "$printed" "$exact"; do
        [ -n "$floor" ] || { no "$model $*: no floor is named"; return; }
        peak=$("$sluice" run -m "$model" "$@" --memory "$floor" --json --temp 0 --raw -n 4 "abc" \
            2>"$dir/err" |
            sed -n 's/.*"memory_peak": *\([0-9]*\).*/\1/p')
        [ -n "$peak" ] || { no "$model $* --memory \"$floor\": $(cat "$dir/err")"; continue; }
        [ "$peak" -le $((exact + 65536 * 2)) ] || no "$model $*: peak $peak above the floor $exact"
    done
}

"$mkmodel" --layers 5 --vocab 3000 --hidden 256 "$dir/linear.gguf" >/dev/null 2>&1 || no "mkmodel"
"$mkmodel" --layers 4 --vocab 40000 --hidden 128 --arch qwen3moe --tied --type Q8_0 \
    "$dir/attention.gguf" >/dev/null 2>&1 || no "mkmodel"
"$mkmodel" --layers 4 --vocab 3000 --hidden 128 --arch deepseek4 --type Q8_0 \
    "$dir/entries.gguf" >/dev/null 2>&1 || no "mkmodel"
mkdir "$dir/copy" && cp "$dir/linear.gguf" "$dir/copy"
"$sluice" pack -m "$dir/linear.gguf" "$dir/packed.gguf" >/dev/null || no "pack"

builtin=models/pocket-dictionary.gguf
typed_back $builtin
typed_back $builtin --threads 1
typed_back $builtin --threads 7
typed_back $builtin --ctx 64
typed_back $builtin --ctx 4096
typed_back $builtin --chunk 1
typed_back $builtin --chunk 100 --threads 3
typed_back $builtin --kv f32
typed_back $builtin --exact --ctx 300
typed_back $builtin --io pread
for kind in linear attention packed entries; do
    typed_back "$dir/$kind.gguf"
    typed_back "$dir/$kind.gguf" --threads 2 --ctx 100 --chunk 3
    typed_back "$dir/$kind.gguf" --exact --ctx 1000 --io pread
done
typed_back "$dir/linear.gguf" --mirror "$dir/copy"

# it is that of the command, whatever the command opens first
of_command()
{
    n=$((n + 1))
    floor=$("$sluice" "$@" --memory 1M 2>&1 </dev/null |
        sed -n 's/.* floor of \([0-9.]* [KMG]iB\) for .*/\1/p
        s/.* is below the \([0-9.]* [KMG]iB\) that probing takes.*/\1/p')
    [ -n "$floor" ] || { no "$*: no floor is named"; return; }
    "$sluice" "$@" --memory "$floor" >/dev/null 2>"$dir/err" </dev/null ||
        no "$* --memory \"$floor\": $(cat "$dir/err")"
}

printf '{"context": 300, "tokens": [%s1]}' \
    "$(yes 7, | head -n 400 | tr -d '\n')" >"$dir/tokens.json"
for more in "" "--timeline $dir/timeline.json" "--ctx 512" "--threads 5"; do
    of_command logits --ids 1,2 $more
    of_command logits --ids 1,2 -o "$dir/logits" $more
    of_command eval --tokens "$dir/tokens.json" $more
    of_command eval --qa tests/data/recall.json --limit 1 $more
    of_command run -n 2 $more "Define run."
    of_command bench --n-prompt 4 -n 2 --repetitions 1 $more
    of_command chat $more
done
of_command tokenize "Define run."
of_command probe
of_command plan --no-probe
of_command eval --tokens "$dir/tokens.json" --context 100

# it does not waver
first=$("$sluice" plan --no-probe --json | sed -n 's/.*"floor": *\([0-9]*\).*/\1/p')
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    again=$("$sluice" plan --no-probe --json --memory "$first" |
        sed -n 's/.*"floor": *\([0-9]*\).*/\1/p')
    [ "$again" = "$first" ] || no "run $i: floor $again, before $first"
done
# a resource limit of the process: an answer or a sentence, never a crash
for kib in 10000 20000 40000 100000 200000; do
    for kind in d v; do
        (ulimit -$kind $kib && exec "$sluice" run --threads 2 "Define run.") >"$dir/out" \
            2>"$dir/err"
        rc=$?
        [ $rc = 0 ] || [ $rc = 127 ] || { [ $rc = 1 ] && grep -q "^sluice: " "$dir/err"; } ||
            no "ulimit -$kind $kib: exit $rc, $(cat "$dir/err")"
    done
done
echo "$n combinations, floor $first"
exit $fail
