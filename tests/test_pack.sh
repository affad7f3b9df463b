#!/bin/sh
# sluice pack as a user runs it: models of all forms give the same bits packed,
# refusals are one sentence, Ctrl-C leaves nothing.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
mkmodel=$build/tools/mkmodel
sluice=${SLUICE:-$build/sluice}
json_get=${JSON_GET:-$build/tools/json_get}
for x in "$mkmodel" "$sluice" "$json_get"; do
    [ -x "$x" ] || { echo "skipped: $x is not there"; exit 77; }
done
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
failed=0
no() { echo "FAILED: $*"; failed=1; }

# model NAME OPTIONS...: made, packed, and the same logits and text from both
model()
{
    name=$1
    shift
    "$mkmodel" --vocab 400 "$@" "$dir/$name.gguf" >"$dir/log" 2>&1 ||
        { no "mkmodel $*: $(cat "$dir/log")"; return; }
    "$sluice" pack -m "$dir/$name.gguf" "$dir/$name-packed.gguf" --json >"$dir/pack.json" \
        2>"$dir/log" ||
        { no "pack $name: $(cat "$dir/log")"; return; }
    for m in "$name" "$name-packed"; do
        "$sluice" logits -m "$dir/$m.gguf" --ids 1,2,3,4,5,6,7,8 --all --out "$dir/$m.f32" \
            2>"$dir/log" ||
            no "logits of $m: $(cat "$dir/log")"
        "$sluice" run -m "$dir/$m.gguf" --raw -n 12 "abc def" >"$dir/$m.txt" 2>"$dir/log" ||
            no "run $m: $(cat "$dir/log")"
    done
    cmp "$dir/$name.f32" "$dir/$name-packed.f32" || no "$name: packed logits differ"
    [ -s "$dir/$name.f32" ] || no "$name: no logits"
    cmp "$dir/$name.txt" "$dir/$name-packed.txt" || no "$name: packed text differs"
    "$sluice" inspect "$dir/$name-packed.gguf" >"$dir/$name.list" || no "$name: inspect"
    grep -q 'blk\.0\.ffn_exps\.packed *I8 .* packed$' "$dir/$name.list" ||
        no "$name: inspect shows no packed tensor"
    "$sluice" plan --no-probe "$dir/$name-packed.gguf" >"$dir/$name.plan" || no "$name: plan"
    grep -q 'the file is packed: one read each' "$dir/$name.plan" ||
        no "$name: plan does not say that it is packed"
    rm -f "$dir/$name-packed.f32" "$dir/$name.f32"
}

for arch in $("$mkmodel" --list | sed -n 's/^arch \([^ ]*\) .*experts.*/\1/p'); do
    model "$arch" --arch $arch --type Q4_K --down-type Q6_K --layers 4
    rm -f "$dir/$arch"*.gguf
done
model qwen35moe-all --arch qwen35moe
model qwen3moe-mixed --arch qwen3moe --type Q4_K --down-type Q6_K
model qwen3moe-fused --arch qwen3moe --fused-gate-up --layers 4
model gpt-oss-fused --arch gpt-oss --fused-gate-up --layers 4
model books --arch qwen3moe --type IQ2_XXS --down-type IQ3_S --dense-type NVFP4 --layers 4
grep -q 'blk\.0\.ffn_gate_up_exps\.weight .* blk\.0\.ffn_exps\.packed$' \
    "$dir/qwen3moe-fused.list" || no "no fused matrix"
grep -q 'blk\.0\.ffn_down_exps\.weight *Q6_K ' "$dir/qwen3moe-mixed.list" || no "no matrix in Q6_K"
# sizes that are no multiple of 64, one expert, a prediction block that stays as it is
model odd --arch qwen3moe --type MXFP4 --hidden 288 --expert-width 32 --experts 3 --used 2 \
    --layers 2
model one --arch qwen3moe --experts 1 --used 1 --layers 2
model mtp --arch qwen35moe --mtp --layers 4
grep -q 'blk\.4\.ffn_gate_exps\.weight .* skipped$' "$dir/mtp.list" ||
    no "the prediction block was packed"
# a tensor for each matrix of each expert, so that those of a kind do not lie together
model old --arch llama --with-experts --old-form --experts 6 --used 2 --layers 2
model old-mixed --arch llama --with-experts --old-form --type Q4_K --down-type Q6_K --experts 8 \
    --used 3 --layers 2
model old-big --arch llama --with-experts --old-form --type F32 --hidden 1024 --expert-width 512 \
    --experts 3 --used 2 --layers 1
rm -f "$dir/old"*.gguf
# an expert larger than the pieces that are copied, and a matrix too
model big --arch qwen3moe --type F32 --hidden 1024 --expert-width 512 --experts 2 --used 1 \
    --layers 1
model huge --arch qwen3moe --type F32 --hidden 2048 --expert-width 768 --experts 2 --used 1 \
    --layers 1
rm -f "$dir/big"*.gguf "$dir/huge"*.gguf

# ---- the command line ----------------------------------------------------------

# refuses STATUS WORDS ARGUMENTS...: one sentence with the words
refuses()
{
    want=$1 words=$2
    shift 2
    "$sluice" pack "$@" >"$dir/o" 2>"$dir/e"
    got=$?
    [ $got -eq "$want" ] || no "pack $*: exit status $got, expected $want"
    grep -qF -e "$words" "$dir/e" || no "pack $* says: $(cat "$dir/e")"
    [ "$(wc -l <"$dir/e")" -eq 1 ] && [ ! -s "$dir/o" ] || no "pack $*: not one sentence"
}
cp "$dir/one.gguf" "$dir/m.gguf"
mkdir "$dir/f"
refuses 2 "a file to write is missing" -m "$dir/m.gguf"
refuses 2 "writes no other file" -m "$dir/m.gguf" --replace "$dir/f/x"
refuses 2 "--force is for a file" -m "$dir/m.gguf" --replace --force
(unset SLUICE_MODEL; refuses 2 "--replace needs the model's name" --replace; exit $failed) ||
    failed=1
refuses 2 "is the model itself; --replace" -m "$dir/m.gguf" "$dir/f/../m.gguf"
refuses 2 "exists already; --force replaces it" -m "$dir/m.gguf" "$dir/odd.gguf"
refuses 1 "is packed already" -m "$dir/one-packed.gguf" "$dir/f/x"
refuses 1 "cannot create" -m "$dir/m.gguf" "$dir/f/none/x"
[ -z "$(ls "$dir/f")" ] || no "a refusal left $(ls "$dir/f")"

"$sluice" pack -m "$dir/m.gguf" --replace >"$dir/o" 2>"$dir/e" || no "--replace: $(cat "$dir/e")"
cmp -s "$dir/m.gguf" "$dir/one-packed.gguf" || no "--replace and a copy differ"
"$sluice" pack -m "$dir/m.gguf" --replace --json >"$dir/o" 2>"$dir/e" ||
    no "--replace again: $(cat "$dir/e")"
[ "$("$json_get" was_packed <"$dir/o")" = true ] ||
    no "--replace again packs again: $(cat "$dir/o")"
"$sluice" pack -m "$dir/one.gguf" --force "$dir/m.gguf" >"$dir/o" 2>"$dir/e" ||
    no "--force: $(cat "$dir/e")"

# Ctrl-C while it writes: 130, nothing left. The copy is long enough for a signal
# to arrive in it, or it is complete.
"$mkmodel" --arch qwen3moe --hidden 1024 --expert-width 1024 --experts 32 --layers 4 \
    "$dir/long.gguf" >"$dir/log" || no "mkmodel long"
i=0
while [ $i -lt 5 ]; do
    # --foreground: one signal; a second one would end the program where it is
    timeout --foreground --preserve-status -s INT 0.0$((i * 2 + 1)) "$sluice" pack \
        -m "$dir/long.gguf" "$dir/f/long.gguf" >"$dir/o" 2>"$dir/e"
    got=$?
    case $got in
    130) [ -z "$(ls "$dir/f")" ] && [ ! -s "$dir/e" ] ||
        no "Ctrl-C left $(ls "$dir/f"), said $(cat "$dir/e")" ;;
    0) [ "$(ls "$dir/f")" = long.gguf ] || no "no copy" ;;
    *) no "interrupted: exit status $got: $(cat "$dir/e")" ;;
    esac
    rm -f "$dir/f/long.gguf"
    i=$((i + 1))
done
[ -z "$(ls "$dir/f")" ] || no "left: $(ls "$dir/f")"

[ $failed -eq 0 ] && echo "all held"
exit $failed
