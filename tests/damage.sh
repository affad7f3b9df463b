#!/bin/sh
# Damaged models at the command line: every command that computes stops with
# status 1 and a sentence, and inspect --check tells what is wrong.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
sluice=$build/sluice
built_in=models/pocket-dictionary.gguf
if [ ! -x "$sluice" ] || [ ! -r "$built_in" ]; then
    echo "no $sluice or no $built_in: run make all first"
    exit 77
fi
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
failed=0

no()
{
    echo "FAILED: $*"
    failed=1
}

# place TENSOR: the offset of its data in the built-in model
place()
{
    "$sluice" inspect --tensors --json "$built_in" | tr '{' '\n' | grep "\"$1\"" |
        sed -n 's/.*"offset": *\([0-9]*\).*/\1/p'
}

# ends STATUS WORDS NAME COMMAND...: its standard input is $dir/in
ends()
{
    want=$1 words=$2 name=$3
    shift 3
    "$@" <"$dir/in" >"$dir/out" 2>"$dir/err"
    got=$?
    [ $got -eq "$want" ] || no "$name: status $got, expected $want: $(tail -n 1 "$dir/err")"
    cat "$dir/out" "$dir/err" | grep -q -e "$words" ||
        no "$name: no \"$words\" in: $(tail -n 3 "$dir/out" "$dir/err")"
    ! grep -qiE '(^|[^a-z])nan([^a-z]|$)|!!!!' "$dir/out" || no "$name: prints $(cat "$dir/out")"
}

echo "Define run." >"$dir/in"
echo '[1, 2, 3, 4, 5, 6, 7, 8]' >"$dir/ids.json"
at=$(place blk.2.ffn_down_exps.weight)
[ -n "$at" ] || { echo "FAILED: inspect tells no offset"; exit 1; }

# all experts of a layer: bytes of ones, whose scales are no numbers
cp "$built_in" "$dir/bad.gguf"
head -c 2000000 /dev/zero | tr '\0' '\377' |
    dd of="$dir/bad.gguf" bs=4096 seek="$at" oflag=seek_bytes conv=notrunc status=none
ends 1 "layer 2: the values behind its experts are not finite" run "$sluice" run \
    -m "$dir/bad.gguf" "Define run."
ends 1 "layer 2: .* not finite" "run --raw" "$sluice" run -m "$dir/bad.gguf" --raw "Define run."
ends 1 "layer 2: .* not finite" chat "$sluice" chat -m "$dir/bad.gguf"
ends 1 "layer 2: .* not finite" logits "$sluice" logits -m "$dir/bad.gguf" --ids 1,2,3 \
    -o "$dir/logits"
ends 1 "layer 2: .* not finite" eval "$sluice" eval -m "$dir/bad.gguf" --tokens "$dir/ids.json"
ends 1 "layer 2: .* not finite" bench "$sluice" bench -m "$dir/bad.gguf" -p 4 -n 2 -r 1 --no-probe
ends 1 "'blk.2.ffn_down_exps.weight', expert 0: .* not finite" check "$sluice" inspect \
    --check "$dir/bad.gguf"
ends 1 '"findings"' "check as JSON" "$sluice" inspect --check --json "$dir/bad.gguf"

# a download that stopped half way in a file of the full size
size=$(wc -c <"$built_in")
cp "$built_in" "$dir/half.gguf"
truncate -s $((size / 2)) "$dir/half.gguf"
truncate -s "$size" "$dir/half.gguf"
ends 1 "is all zeros; the file is incomplete" "half a download" "$sluice" run -m "$dir/half.gguf" \
    "Define run."
ends 1 "is all zeros" "half a download, checked" "$sluice" inspect --check "$dir/half.gguf"

# a whole one
sum=$(sha256sum "$built_in" | cut -d ' ' -f 1)
ends 0 "$sum" "check of a whole model" "$sluice" inspect --check "$built_in"
ends 0 "nothing damaged" "check of a whole model" "$sluice" inspect --check "$built_in"

# it changes while a conversation goes on
cp "$built_in" "$dir/moving.gguf"
mkfifo "$dir/questions"
rm -f "$dir/out" # of the last command
"$sluice" chat -m "$dir/moving.gguf" --temp 0 -n 4 <"$dir/questions" >"$dir/out" 2>"$dir/err" &
pid=$!
exec 3>"$dir/questions"
echo "Define run." >&3
i=0
while [ ! -s "$dir/out" ] && [ $i -lt 600 ]; do # an answer has begun
    sleep 0.1
    i=$((i + 1))
done
touch -d '2001-01-01' "$dir/moving.gguf"
echo "Define walk." >&3
exec 3>&-
wait $pid
got=$?
[ $got -eq 1 ] || no "a changed file: status $got: $(cat "$dir/err")"
grep -q "has changed while it was in use" "$dir/err" || no "a changed file: $(cat "$dir/err")"

[ $failed -eq 0 ] && echo "damage: all is told"
exit $failed
