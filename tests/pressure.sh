#!/bin/sh
# Memory pressure: a second process in the same memory cgroup takes memory that
# the budget does not know of. The expert cache gives slots back: nobody is
# killed, and the result is the same bits. Needs root and a memory cgroup;
# otherwise skipped aloud.
set -u
. tests/support/cgroup.sh

heldout 4097 64
run() { "$@" "$SLUICE" eval -m "$MODEL" --memory 80M --chunk 8 --threads 1 --tokens "$tokens" \
    --json 2>"$tokens.err"; }

want=$(run env)
echo $((84 << 20)) >"$group/$limit"
before=$(killed)
# 40 MB more, slowly, then held for a while
inside awk 'BEGIN {
    for (i = 0; i < 5000; i++) {
        a[i] = sprintf("%8000s", i)
        if (i % 50 == 0) system("sleep 0.02")
    }
    system("sleep 1")
}' &
other=$!
got=$(run inside)
rc=$?
wait $other
other_rc=$?
after=$(killed)
echo "alone:          $want"
echo "under pressure: $got (exit $rc; the other process $other_rc; kills $before -> $after)"
cat "$tokens.err"
[ $rc = 0 ] && [ $other_rc = 0 ] && [ "$before" = "$after" ] && [ "$want" = "$got" ] || exit 1

# A budget that the cgroup does not have: the cache begins with what is there,
# and long chunks take their scratch from it.
heldout 2049 1024
want=$("$SLUICE" eval -m "$MODEL" --tokens "$tokens" --json)
echo $((46 << 20)) >"$group/$limit"
got=$(inside "$SLUICE" eval -m "$MODEL" --memory 300M --tokens "$tokens" --json)
rc=$?
echo "budget of 300M in 46M: $got (exit $rc; kills $before -> $(killed))"
[ $rc = 0 ] && [ "$before" = "$(killed)" ] && [ "$want" = "$got" ]
