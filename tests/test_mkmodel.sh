#!/bin/sh
# tools/mkmodel: what it writes opens, has the promised tensors, and computes;
# what it cannot write it refuses, and leaves nothing behind.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
mkmodel=$build/tools/mkmodel
sluice=$build/sluice
if [ ! -x "$mkmodel" ] || [ ! -x "$sluice" ]; then
    echo "no $mkmodel or no $sluice: run make all tools first"
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

# model NAME OPTIONS...: writes and inspects it; the listing is in $dir/NAME.txt
model()
{
    name=$1
    shift
    "$mkmodel" "$@" "$dir/$name.gguf" >"$dir/$name.out" 2>&1 || {
        no "mkmodel $*: $(cat "$dir/$name.out")"
        return
    }
    [ ! -e "$dir/$name.gguf.part" ] || no "$name.gguf.part is left"
    "$sluice" inspect -m "$dir/$name.gguf" >"$dir/$name.txt" 2>&1 ||
        no "inspect after mkmodel $*: $(tail -n 1 "$dir/$name.txt")"
}

# has NAME PATTERN: the listing has a line with the pattern
has()
{
    grep -qE "$2" "$dir/$1.txt" || no "$1: no line with $2"
}

has_not()
{
    ! grep -qE "$2" "$dir/$1.txt" || no "$1: a line with $2"
}

# runs NAME: the model answers
runs()
{
    "$sluice" run -m "$dir/$1.gguf" --raw -n 6 --temp 0 "abc def" >"$dir/$1.answer" \
        2>"$dir/$1.err" ||
        no "run $1: $(tail -n 1 "$dir/$1.err")"
    [ -s "$dir/$1.answer" ] || no "$1 answers nothing"
}

# same_bits NAME: portable C gives the logits of the best instruction set
same_bits()
{
    for cpu in portable auto; do
        "$sluice" logits -m "$dir/$1.gguf" --cpu $cpu --ids 5,6,7,8,9,10,11,12,13 --all \
            --out "$dir/$cpu.f32" >"$dir/$1.err" 2>&1 ||
            no "logits of $1 with $cpu: $(tail -n 1 "$dir/$1.err")"
    done
    cmp "$dir/portable.f32" "$dir/auto.f32" || no "$1: other logits with portable kernels"
}

# What it says that it can, of what it can.
listed() { "$mkmodel" --list | sed -n "$1"; }
moe=$(listed 's/^arch \([^ ]*\) .*experts.*/\1/p')
dense=$(listed '/experts/!s/^arch \([^ ]*\).*/\1/p')
types=$(listed 's/^type //p')
for word in qwen35moe qwen3moe qwen3 llama F32 Q4_K MXFP4; do
    case " $(echo $moe $dense $types) " in
    *" $word "*) ;;
    *) no "--list has no $word" ;;
    esac
done

# experts ARCH TYPE, without ARCH TYPE: a model of it is what was asked for, and runs
experts()
{
    model "$1-$2" --arch "$1" --type "$2" --vocab 400 --layers 4
    has "$1-$2" "^ *blk\.0\.ffn_down_exps\.weight +$2\b"
    runs "$1-$2"
    same_bits "$1-$2"
    rm -f "$dir/$1-$2.gguf"
}

without()
{
    model "$1-$2" --arch "$1" --type "$2" --vocab 400 --ffn-width 768
    has "$1-$2" "^ *blk\.0\.ffn_down\.weight +$2 +768 x 256"
    has "$1-$2" "feed_forward_length +u32 +768"
    has_not "$1-$2" '_exps|ffn_gate_inp|\.expert_'
    runs "$1-$2"
    rm -f "$dir/$1-$2.gguf"
}

# Every family in one type, every type in one family: they know nothing of each other.
for arch in $moe; do experts "$arch" Q4_K; done
for type in $types; do experts qwen3moe "$type"; done
for arch in $dense; do without "$arch" Q4_K; done
for type in $types; do without qwen3 "$type"; done
without llama F32
has qwen3-F32 'blk\.3\.attn_k_norm\.weight'
has_not llama-F32 'attn_[qk]_norm'

model mixed --type Q4_K --down-type Q6_K --dense-type Q8_0 --output-type F16 --vocab 400
has mixed 'blk\.1\.ffn_up_exps\.weight +Q4_K'
has mixed 'blk\.1\.ffn_down_exps\.weight +Q6_K'
has mixed 'blk\.1\.attn_qkv\.weight +Q8_0'
has mixed 'output\.weight +F16'
has mixed 'ffn_gate_inp\.weight +F32'
runs mixed

model fused --fused-gate-up --vocab 400
has fused 'blk\.3\.ffn_gate_up_exps\.weight'
has_not fused 'ffn_gate_exps|ffn_up_exps'
runs fused

model tied --tied --vocab 400
has_not tied '^ *output\.weight'
runs tied

model mtp --mtp --layers 4 --vocab 400
has mtp 'block_count +u32 +5'
has mtp 'nextn_predict_layers +u32 +1'
has mtp 'blk\.4\.nextn\.eh_proj\.weight'
has mtp 'blk\.4\.attn_q\.weight'
runs mtp

# Rows that no K-quant fits take the types that quantisers fall back to.
model narrow --type Q4_K --expert-width 96 --vocab 400
has narrow 'blk\.0\.ffn_down_exps\.weight +Q5_0'
runs narrow
model narrow-iq --type IQ2_XS --expert-width 96 --vocab 400
has narrow-iq 'blk\.0\.ffn_down_exps\.weight +IQ4_NL'

model skew --router-skew 1.2 --hidden 512 --layers 4 --vocab 600
runs skew

# The same options give the same bytes; another seed does not.
model again --router-skew 1.2 --hidden 512 --layers 4 --vocab 600
cmp -s "$dir/skew.gguf" "$dir/again.gguf" || no "the same options, other bytes"
model seed --router-skew 1.2 --hidden 512 --layers 4 --vocab 600 --seed 2
! cmp -s "$dir/skew.gguf" "$dir/seed.gguf" || no "another seed, the same bytes"

# refuses WORDS OPTIONS...: fails, says the words, leaves no file
refuses()
{
    words=$1
    shift
    if "$mkmodel" "$@" "$dir/no.gguf" >"$dir/no.out" 2>&1; then
        no "mkmodel $* was accepted"
    fi
    grep -q -e "$words" "$dir/no.out" || no "mkmodel $* says: $(cat "$dir/no.out")"
    [ ! -e "$dir/no.gguf" ] && [ ! -e "$dir/no.gguf.part" ] || no "mkmodel $* leaves a file"
}

refuses "not a type that can be written" --type Q8_K
refuses "a number from" --layers 0
refuses "multiple of --kv-heads" --heads 3 --kv-heads 2
refuses "--used 17" --used 17
refuses "no such block" --arch qwen3moe --mtp
refuses "no such block" --arch llama --mtp
refuses "has no experts" --arch qwen3 --router-skew 1
refuses "has no experts" --arch llama --fused-gate-up
refuses "no such family" --arch qwen4
refuses "a number from" --arch qwen3 --ffn-width 16
refuses "no preset" --preset none
refuses "a number from" --vocab 258

# Without weights: as long as with them, the same plan, and next to nothing on the drive.
"$mkmodel" --layers 40 "$dir/whole.gguf" >/dev/null || no "a model of 40 layers"
"$mkmodel" --layers 40 --hollow "$dir/hollow.gguf" >/dev/null || no "a hollow one"
[ "$(stat -c %s "$dir/whole.gguf")" = "$(stat -c %s "$dir/hollow.gguf")" ] || no "a hollow size"
[ "$(stat -c %b "$dir/hollow.gguf")" -lt "$(($(stat -c %b "$dir/whole.gguf") / 8))" ] ||
    no "a hollow model takes $(stat -c %b "$dir/hollow.gguf") blocks"
for m in whole hollow; do # the floor wavers with the program's size
    "$build/sluice" plan --no-probe -m "$dir/$m.gguf" --memory 64M --json | tr ',' '\n' |
        grep -E '"(dense|cache_full|expert_bytes_per_token)"' >"$dir/$m.plan"
done
[ "$(wc -l <"$dir/whole.plan")" = 3 ] && cmp -s "$dir/whole.plan" "$dir/hollow.plan" ||
    no "a hollow model has another plan: $(diff "$dir/whole.plan" "$dir/hollow.plan")"

# A full disk, played by a limit on the size of files.
(
    ulimit -f 512 || exit 3
    "$mkmodel" "$dir/full.gguf" >"$dir/full.out" 2>&1
    [ $? -eq 1 ]
) || no "writing past a limit does not fail properly"
grep -q "cannot write .*full.gguf at byte" "$dir/full.out" || no "full disk: $(cat "$dir/full.out")"
[ ! -e "$dir/full.gguf" ] && [ ! -e "$dir/full.gguf.part" ] || no "a partial file is left"

[ $failed -eq 0 ] && echo "all held"
exit $failed
