#!/bin/sh
# Small containers: in memory cgroups from far too small to ample nothing is ever
# killed. Without a budget an eighth of the limit stays free; a budget that is larger
# than the limit is cut; what does not fit is refused with the floor and the limit.
# Nested groups, and what another process holds, count. Needs root and a memory cgroup.
set -u
. tests/support/cgroup.sh
fail=0
no() { echo "FAIL: $*"; fail=1; }
trap 'rm -f "$tokens" "$tokens.err"; rmdir "$group/inner" "$group" 2>/dev/null' EXIT INT TERM
want='good luck in making unexpected and fortunate discoveries'

# try NAME COMMAND...: answers rightly, or refuses with the numbers; nobody is killed
try()
{
    what=$1
    shift
    before=$(killed)
    out=$("$@" 2>"$tokens.err")
    rc=$?
    [ "$before" = "$(killed)" ] || no "$what: killed"
    case $rc in
    0) case $out in *"$want"*) verdict=runs ;; *) verdict=wrong
        no "$what: another answer: $out" ;; esac ;;
    1) verdict=refused
        grep -q "floor of [0-9.]* MiB" "$tokens.err" && grep -q "limit" "$tokens.err" ||
            no "$what: refused without floor and limit: $(cat "$tokens.err")" ;;
    *) verdict=$rc; no "$what: exit $rc: $(cat "$tokens.err")" ;;
    esac
    echo "$what: $verdict"
}
expect() { [ "$verdict" = "$1" ] || no "$what: $verdict, expected $1: $(cat "$tokens.err")"; }
run() { "$@" "$SLUICE" run --threads 2 "What does serendipity mean?"; }

for mib in 8 16 24 32 48 64 96 128; do
    echo $((mib << 20)) >"$group/$limit"
    try "$mib MiB" run inside
    [ $mib -le 16 ] && expect refused || expect runs
    try "$mib MiB, --memory 200M" run inside env SLUICE_MEMORY=200M
    [ $mib -le 16 ] && expect refused || expect runs
    [ $mib -le 16 ] || grep -q "is cut to" "$tokens.err" ||
        no "$mib MiB: a larger budget is cut without a word"
    [ $mib = 24 ] || continue
    budget=$(inside "$SLUICE" plan --no-probe --json | sed -n 's/.*"budget": *\([0-9]*\).*/\1/p')
    [ "$budget" -gt $((20 << 20)) ] && [ "$budget" -le $((21 << 20)) ] ||
        no "24 MiB give a budget of $budget"
done

# the limit of a parent counts
mkdir "$group/inner" || exit 1
echo $((16 << 20)) >"$group/$limit"
nested() { sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group/inner" "$@"; }
if nested true 2>/dev/null; then
    try "16 MiB above" run nested
    expect refused
    echo $((64 << 20)) >"$group/$limit"
    try "64 MiB above" run nested env SLUICE_MEMORY=200M
    expect runs
fi
rmdir "$group/inner"

# another process of the group holds 42 of 56 MiB
echo $((56 << 20)) >"$group/$limit"
fifo=$tokens.fifo
mkfifo "$fifo"
inside awk -v fifo="$fifo" 'BEGIN {
    for (i = 0; i < 5300; i++) a[i] = sprintf("%8000s", i)
    print "held"; fflush(); getline y <fifo
}' >"$tokens" &
other=$!
while [ ! -s "$tokens" ] && kill -0 $other 2>/dev/null; do sleep 0.05; done
try "56 MiB, of which another process has 42" run inside
expect refused
try "the same with --memory 40M" run inside env SLUICE_MEMORY=40M
expect refused
kill -0 $other 2>/dev/null && echo >"$fifo"
wait $other || no "the other process died"
rm -f "$fifo"

# packing is no run, but is killed as easily
for mib in 12 16 32; do
    echo $((mib << 20)) >"$group/$limit"
    before=$(killed)
    inside "$SLUICE" pack --force "$tokens.gguf" >"$tokens" 2>"$tokens.err"
    rc=$?
    [ "$before" = "$(killed)" ] || no "pack in $mib MiB: killed"
    [ $rc -eq $((mib < 32)) ] || no "pack in $mib MiB: exit $rc: $(cat "$tokens.err")"
    [ $rc -eq 0 ] || grep -q "floor of .*limit is $mib.0 MiB" "$tokens.err" ||
        no "pack in $mib MiB: $(cat "$tokens.err")"
    [ ! -e "$tokens.gguf.sluice-part" ] || no "pack in $mib MiB leaves half a file"
    echo "pack in $mib MiB: exit $rc"
done
rm -f "$tokens.gguf"
exit $fail
