#!/bin/sh
# Dense streaming: with a budget that does not hold the weights every token
# needs, they are read again for each pass, and the logits are the same bits.
# From the floor (two layers and a few rows of the output matrix in memory) to
# everything; all families, tied embeddings, both readers.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
sluice=${SLUICE:-$build/sluice}
mkmodel=$build/tools/mkmodel
[ -x "$mkmodel" ] && [ -x "$sluice" ] ||
    { echo "SKIP: no $mkmodel or no $sluice: run make all tools first"; exit 77; }
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
fail=0
field() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" | head -n 1; }
no() { echo "FAIL: $*"; fail=1; }

ids=$(seq 300 7 760 | tr '\n' ,)
ids=${ids%,}

# logits FILE OPTIONS...: of every position, the last ones token by token
logits()
{
    file=$1
    shift
    "$sluice" logits -m "$model" --ids "$ids" --all --ctx 128 -t 2 -o "$file" "$@" 2>"$dir/err" ||
        no "logits $*: $(cat "$dir/err")"
}
plan() { "$sluice" plan -m "$model" --ctx 128 -t 2 --no-probe --json "$@" 2>&1; }

# check NAME MKMODEL-OPTIONS...
check()
{
    name=$1
    shift
    model=$dir/$name.gguf
    "$mkmodel" --layers 9 --vocab 20000 --hidden 256 "$@" "$model" >"$dir/out" 2>&1 ||
        { no "$(cat "$dir/out")"; return; }
    logits "$dir/want"
    all=$(plan | field dense_full)
    floor=$(plan | field floor)
    streamed=0
    above=$((3 << 18)) # the floor includes the run's own size, which wavers a little
    for part in $parts; do
        budget=$((floor + above + all * part / 8))
        [ "$(plan --memory $budget | field dense_read_per_token)" = 0 ] ||
            streamed=$((streamed + 1))
        logits "$dir/got" --memory $budget
        cmp -s "$dir/want" "$dir/got" || no "$name: other bits with a budget of $budget"
    done
    [ $streamed -ge $least ] ||
        no "$name: only $streamed of the budgets made it read dense weights again"
    rm -f "$dir/got"
    [ "$parts" != "$all_parts" ] || more
    echo "$name: floor $floor, dense part $all, $streamed budgets read it again"
    rm -f "$model"
}

# What is tried of some models only.
more()
{
    logits "$dir/got" --memory $((floor + above)) --io pread --chunk 1
    cmp -s "$dir/want" "$dir/got" || no "$name: other bits with pread, token by token"
    set -- run -m "$model" --ctx 128 --raw -n 12 --temp 0
    text=$("$sluice" "$@" --memory $((floor + above)) "abc def" 2>"$dir/err")
    [ "$text" = "$("$sluice" "$@" "abc def" 2>"$dir/err")" ] ||
        no "$name: another text near the floor"
    plan --memory $((floor / 2)) | grep -q "floor" ||
        no "$name: half the floor is not refused with the floor"
}

all_parts="0 1 3 5 7 8"
parts=$all_parts least=3
check linear --arch qwen35moe
check linear-tied --arch qwen35moe --tied
check attention --arch qwen3moe --type Q8_0 --output-type Q6_K
check attention-tied --arch qwen3 --tied --type F16
# the others near the floor: they differ in their weights, not in how these are placed
parts=0 least=1 n=0
for arch in $("$mkmodel" --list | sed -n 's/^arch \([^ ]*\).*/\1/p'); do
    check "$arch" --arch "$arch"
    n=$((n + 1))
done
[ $n -ge 4 ] || no "only $n families"
exit $fail
