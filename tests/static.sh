#!/bin/sh
# The program that `make static` builds: it needs no file but the model. $RUN is
# put before it, for a program of another processor.
set -u
build=${BUILD:-build}
run=${RUN:-}
static=$PWD/$build/sluice-static
model=$PWD/models/pocket-dictionary.gguf
[ -x "$static" ] || { echo "SKIPPED: $static is not there; \"make static\" builds it"; exit 77; }
dir=$(mktemp -d) || exit 2
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
fail=0
broken() { echo "FAIL: $*"; fail=1; }

if readelf -dW "$static" | grep -q NEEDED; then broken "it needs libraries"; fi
if readelf -lW "$static" | grep -q INTERP; then broken "it needs a loader"; fi

# expect WHAT COMMAND...: a right answer, and only what was announced on stderr
answer='flee; take to one'
expect() {
    what=$1
    shift
    "$@" >"$dir/out" 2>"$dir/err" </dev/null
    rc=$?
    [ $rc = 0 ] || broken "$what: status $rc: $(head -n 3 "$dir/err")"
    grep -q "$answer" "$dir/out" || broken "$what: $(head -n 2 "$dir/out")"
}

# no variable at all (HOME, TERM, PATH), a folder that cannot be written
mkdir "$dir/bare" && chmod 555 "$dir/bare"
empty() { (cd "$dir/bare" && exec env -i $run "$static" "$@"); } # shellcheck disable=SC2086
expect "no environment" empty run -m "$model" --threads 2 "Define run."
[ "$(wc -l <"$dir/err")" -le 1 ] || broken "it complains: $(cat "$dir/err")"
expect "a conversation" \
    sh -c "cd '$dir/bare' && echo 'Define run.' | env -i $run '$static' chat -m '$model'"
expect "a small budget" empty run -m "$model" --memory 48M --ctx 512 --stats "Define run."

# beside the model, as on a phone
mkdir "$dir/phone" && cp "$static" "$dir/phone/sluice" && cp "$model" "$dir/phone/"
expect "built-in model beside it" sh -c "cd / && env -i $run '$dir/phone/sluice' run 'Define run.'"

# a root folder with nothing in it: no /proc, /sys, /dev, /etc, /tmp
if [ -n "$run" ] || ! chroot "$dir/phone" /sluice --version >/dev/null 2>&1; then
    echo "not tried: an empty root folder (needs root, and this processor)"
else
    expect "an empty root folder" env -i "$(command -v chroot)" "$dir/phone" /sluice run \
        --memory 64M "Define run."
    env -i "$(command -v chroot)" "$dir/phone" /sluice run --record-routing /r "Define run." >&- \
        2>"$dir/err"
    [ $? -ne 0 ] || broken "closed output without /dev: rc 0"
    if grep -q "$answer" "$dir/phone/r" 2>/dev/null; then
        broken "closed output without /dev: the answer is in a file"
    fi
fi
exit $fail
