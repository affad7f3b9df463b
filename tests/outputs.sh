#!/bin/sh
# Files that the command line tool writes: none destroys another one, each is
# whole or not there, and one that could not be written is a failure.
set -u
here=$(dirname "$0")
. "$here/support/shell.sh"
trap 'umount "$dir/small" 2>/dev/null; rm -rf "$dir"' EXIT

# A broken program must not reach what lies outside of the folder.
cp "$sluice" "$dir/program" && cp "$model" "$dir/built-in.gguf" || exit 1
sluice=$dir/program whole=$model model=$dir/built-in.gguf
export SLUICE_MODEL="$model"

# same NAME: its bytes are those of the model
same() { if cmp -s "$1" "$whole"; then pass; else no "$1 was changed"; fi; }
none() { for f in "$@"; do if [ -e "$f" ]; then no "$f was left"; else pass; fi; done; }

itself='itself, which would be destroyed'
two='would both write'
cd "$dir" || exit 1
cp "$model" v.gguf && ln v.gguf hard.gguf && ln -s v.gguf soft.gguf && ln -s to-come dangling ||
    exit 1
mkdir folder && ln -s ../v.gguf folder/up.gguf && ln -s folder other
echo '[1, 2, 3]' >t.json
echo '[{"question": "x", "answer": "y"}]' >q.json

inputs()
{
    for name in v.gguf ./v.gguf "$dir/v.gguf" hard.gguf soft.gguf other/up.gguf folder/../v.gguf; do
        refused 2 "the model $itself" logits -m v.gguf --ids 1,2 -o "$name"
        refused 2 "the model $itself" run -m v.gguf --record-routing "$name" x
        refused 2 "the model $itself" run -m v.gguf --timeline "$name" x
    done
    refused 2 "sluice: --timeline: 'v.gguf' is the model $itself" run -m v.gguf --timeline v.gguf x
    refused 2 "--record-routing and --timeline would both write" \
        run -m v.gguf --record-routing both --timeline both x
    refused 2 "the model $itself" logits -m hard.gguf --ids 1 --timeline soft.gguf
    refused 2 "the model $itself" chat -m v.gguf --record-routing v.gguf
    refused 2 "the model $itself" bench -m v.gguf --record-routing v.gguf
    refused 2 "the model $itself" run --timeline "$model" x # the built-in one
    refused 2 "is the model itself; --replace" pack -m v.gguf -f hard.gguf
    same v.gguf
    same "$model"
    refused 2 "--tokens $itself" eval --tokens t.json --timeline t.json
    refused 2 "--qa $itself" eval --qa q.json --timeline ./q.json
    refused 2 "the program $itself" run --timeline "$sluice" x
    input=t.json
    refused 2 "standard input $itself" run --timeline t.json -
    refused 2 "standard input $itself" logits --ids - -o /dev/stdin
    unset input
    if [ "$(cat t.json)" = '[1, 2, 3]' ]; then pass; else no "the tokens were changed"; fi
    # the name that a file has while it is written
    ln v.gguf w.gguf.sluice-part
    refused 2 "first, which is the model" logits -m w.gguf.sluice-part --ids 1 -o w.gguf
    refused 2 "first, which is the model" pack -m w.gguf.sluice-part w.gguf
    same w.gguf.sluice-part
    rm w.gguf.sluice-part
    # every copy in a mirror, and every part of a model, by their names
    mkdir mirror && cp "$model" mirror/v.gguf
    refused 2 "a file of mirror 1 $itself" run -m v.gguf --mirror mirror --timeline mirror/v.gguf x
    same mirror/v.gguf
    for part in 1 2 3; do echo "part $part" >"s-0000$part-of-00003.gguf"; done
    refused 2 "part 3 of the model $itself" logits -m s-00001-of-00003.gguf --ids 1 \
        -o s-00003-of-00003.gguf
    refused 2 "part 2 of the model $itself" run -m s-00001-of-00003.gguf \
        --timeline s-00002-of-00003.gguf x
    if [ "$(cat s-0000?-of-00003.gguf)" = "$(printf 'part 1\npart 2\npart 3')" ]; then pass
    else no "a part was changed"; fi
    # what stdout is appended to
    "$sluice" tokenize -m v.gguf x >>v.gguf 2>"$dir/err"
    if [ $? -eq 2 ]; then pass; else no "standard output to the model"; fi
    same v.gguf
}

outputs()
{
    refused 2 "$two" run --timeline a --record-routing ./a x
    refused 2 "$two" run --timeline other/a --record-routing "$dir/folder/a" x
    refused 2 "$two" run --timeline dangling --record-routing to-come x
    refused 2 "$two" logits --ids 1 -o a --timeline "$PWD/a"
    refused 2 "it is a directory" logits --ids 1 -o folder
    refused 2 "it is a directory" run --timeline / x
    none a folder/a to-come
    "$sluice" run -n 2 --timeline both x >both 2>"$dir/err"
    if [ $? -eq 2 ] && [ ! -s both ]; then pass
    else no "standard output and timeline in one file"; fi
    # a link to nothing gets its target
    run 0 logits --ids 1 -o dangling
    if [ -h dangling ] && [ -s to-come ]; then pass; else no "a link was replaced"; fi
    # devices and streams are no files that could be destroyed
    run 0 run -n 2 --timeline /dev/null --record-routing /dev/null x
    if [ -c /dev/null ]; then pass; else no "/dev/null is gone"; fi
    run 0 logits --ids 1 -o last.f32
    "$sluice" logits --ids 1 -o /dev/stdout >stream.f32
    if cmp -s last.f32 stream.f32; then pass; else no "logits to /dev/stdout in a file"; fi
    "$sluice" logits --ids 1 -o /dev/stdout | cmp -s - last.f32
    if [ $? -eq 0 ]; then pass; else no "logits to /dev/stdout in a pipe"; fi
    # what is there keeps its permissions; what is protected stays
    chmod 640 last.f32
    run 0 logits --ids 2 -o last.f32
    if [ "$(stat -c %a last.f32)" = 640 ]; then pass; else no "permissions were changed"; fi
    if [ "$(id -u)" -ne 0 ]; then
        chmod 400 last.f32
        refused 1 "cannot be written" logits --ids 1 -o last.f32
        refused 2 "cannot be written" run --timeline last.f32 x
    fi
    for c in "logits --ids 1 -o" "run x --record-routing"; do
        # shellcheck disable=SC2086
        refused 1 "cannot be written" $c nowhere/x
    done
    refused 2 "cannot be written" run x --timeline nowhere/x
    refused 2 "the name is empty" run x --timeline ''
    refused 2 "./-" run x --timeline -
    refused 2 "./-" pack -
    none -
    # a run that does not begin leaves what was there
    echo old >old
    for c in "logits --ids 1 -o" "run x --record-routing" "run x --timeline"; do
        # shellcheck disable=SC2086
        run 1 $c old --memory 1M
        if [ "$(cat old)" = old ]; then pass; else no "$c old: written by a run that failed"; fi
    done
    none ./*.sluice-part
}

# full FILE: every output that goes there fails, and nothing is left
full()
{
    for c in "logits --ids 1,2,3,4,5,6,7,8 --all -o" "run -n 40 serendipity --timeline" \
        "bench -p 4 -n 400 -r 2 --no-probe --record-routing" "pack"; do
        [ "$c" = pack ] && [ "$1" = /dev/full ] && continue
        echo old >"$1" 2>/dev/null
        # shellcheck disable=SC2086
        (ulimit -f "$2"; exec "$sluice" $c "$1" >"$dir/out" 2>"$dir/err")
        got=$?
        if [ $got -eq 1 ] || { [ $got -eq 2 ] && [ "$c" = pack ]; }; then pass
        else no "$c $1: exit status $got, expected 1"; fi
        if [ "$(wc -l <"$dir/err")" -eq 1 ]; then pass; else no "$c $1: not one sentence"; fi
        none "$1.sluice-part"
        [ ! -f "$1" ] || [ "$(cat "$1")" = old ] || [ ! -s "$1" ] || no "$c $1: half a file"
    done
}

full_disks()
{
    full limited 16 # blocks of 512 bytes; the signal that comes with it is ignored
    rm -f limited
    refused_pack=$( (ulimit -f 16; exec "$sluice" pack packed.gguf 2>&1 >/dev/null) )
    case $refused_pack in *packed.gguf*) pass ;;
        *) no "pack beyond the limit says \"$refused_pack\"" ;; esac
    none packed.gguf packed.gguf.sluice-part
    [ ! -w /dev/full ] || full /dev/full unlimited
    mkdir small
    if mount -t tmpfs -o size=64k none small 2>/dev/null; then
        full small/x unlimited
        rm -f small/x
        refused 1 "free" pack small/packed.gguf
        none small/packed.gguf small/packed.gguf.sluice-part
        umount small
    fi
}

inputs
outputs
full_disks
finish
