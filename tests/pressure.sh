#!/bin/sh
# Memory pressure: a second process in the same memory cgroup takes memory that
# the budget does not know of. The expert cache gives slots back: nobody is
# killed, and the result is the same bits. Needs root and a memory cgroup;
# otherwise skipped aloud.
set -u
SLUICE=${SLUICE:-build/sluice}
MODEL=models/pocket-dictionary.gguf
[ -z "${SANITIZE:-}" ] || { echo "SKIP: sanitizers need memory of their own"; exit 77; }
[ -x "$SLUICE" ] || { echo "SKIP: $SLUICE is not built"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "SKIP: needs root to make a memory cgroup"; exit 77; }

name=sluice-pressure-$$
v1=/sys/fs/cgroup/memory v2=/sys/fs/cgroup
if mkdir "$v1/$name" 2>/dev/null; then
    group=$v1/$name limit=memory.limit_in_bytes kills=memory.oom_control
elif grep -qw memory "$v2/cgroup.subtree_control" 2>/dev/null && mkdir "$v2/$name" 2>/dev/null; then
    group=$v2/$name limit=memory.max kills=memory.events
else
    echo "SKIP: no writable memory cgroup here"
    exit 77
fi
tokens=$(mktemp)
trap 'rm -f "$tokens" "$tokens.err"; rmdir "$group" 2>/dev/null' EXIT INT TERM
ids=$(tr -d '\n' <tests/data/heldout.json | sed 's/.*"tokens": *\[//' | cut -d , -f 1-4097)
printf '{"context": 64, "tokens": [%s]}' "$ids" >"$tokens"
killed() { sed -n 's/^oom_kill //p' "$group/$kills"; }
inside() { sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"; }
run() { "$@" "$SLUICE" eval -m "$MODEL" --memory 80M --chunk 8 --threads 1 --tokens "$tokens" --json 2>"$tokens.err"; }

want=$(run env)
echo $((84 << 20)) >"$group/$limit"
before=$(killed)
# 40 MB more, slowly, then held for a while
inside awk 'BEGIN { for (i = 0; i < 5000; i++) { a[i] = sprintf("%8000s", i); if (i % 50 == 0) system("sleep 0.02") } system("sleep 1") }' &
other=$!
got=$(run inside)
rc=$?
wait $other
other_rc=$?
after=$(killed)
echo "alone:          $want"
echo "under pressure: $got (exit $rc; the other process $other_rc; kills $before -> $after)"
cat "$tokens.err"
[ $rc = 0 ] && [ $other_rc = 0 ] && [ "$before" = "$after" ] && [ "$want" = "$got" ]
