#!/bin/sh
# The memory budget is a promise: in a memory cgroup whose limit is the budget
# plus 5 %, swap off, the process is never killed and its peak resident set
# stays at or below the budget, for budgets from the floor to everything.
# Needs root and a writable memory cgroup (v1 or v2); otherwise skipped aloud.
set -u
SLUICE=${SLUICE:-build/sluice}
MODEL=models/pocket-dictionary.gguf
fail=0

[ -z "${SANITIZE:-}" ] || { echo "SKIP: sanitizers need memory of their own"; exit 77; }
[ -x "$SLUICE" ] || { echo "SKIP: $SLUICE is not built"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "SKIP: needs root to make a memory cgroup"; exit 77; }

name=sluice-test-$$
v1=/sys/fs/cgroup/memory v2=/sys/fs/cgroup
if mkdir "$v1/$name" 2>/dev/null; then
    group=$v1/$name limit=memory.limit_in_bytes kills=memory.oom_control
elif grep -qw memory "$v2/cgroup.subtree_control" 2>/dev/null && mkdir "$v2/$name" 2>/dev/null; then
    group=$v2/$name limit=memory.max kills=memory.events
else
    echo "SKIP: no writable memory cgroup here"
    exit 77
fi
trap 'rmdir "$group" 2>/dev/null' EXIT INT TERM

# The cgroup's oom_kill counter; it must not move.
killed() { sed -n 's/^oom_kill //p' "$group/$kills"; }

# in_group LIMIT_BYTES COMMAND...: runs it inside, output to stdout
in_group() {
    echo "$1" >"$group/$limit" || return 99
    shift
    sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"
}

field() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" | head -n 1; }

floor=$("$SLUICE" plan -m "$MODEL" --no-probe --json | field floor)
full=$("$SLUICE" plan -m "$MODEL" --no-probe --json | field cache_full)
[ -n "$floor" ] && [ -n "$full" ] || { echo "FAIL: plan --json gives no floor"; exit 1; }
echo "floor $floor, all experts $full"

want=$("$SLUICE" run -m "$MODEL" "What does serendipity mean?")
for part in 0 1 2 4; do
    # a twentieth of a MiB above: the floor includes this run's own size
    budget=$((floor + 262144 + full * part / 4))
    before=$(killed)
    out=$(in_group $((budget + budget / 20)) "$SLUICE" run -m "$MODEL" --memory $budget --json "What does serendipity mean?")
    rc=$?
    peak=$(printf '%s' "$out" | tr ',' '\n' | field memory_peak)
    after=$(killed)
    case $out in *'good luck in making unexpected and fortunate discoveries'*) right=yes ;; *) right=no ;; esac
    echo "budget $budget: exit $rc, peak ${peak:-?}, answer right: $right"
    if [ $rc != 0 ] || [ $right = no ] || [ "$before" != "$after" ] || [ "${peak:-$((budget + 1))}" -gt $budget ]; then
        echo "FAIL: budget $budget"
        fail=1
    fi
done

# a long prompt and growth of the KV cache under the tightest budget
budget=$((floor + 262144))
ids=$(tr -d '\n' <tests/data/heldout.json | sed 's/.*"tokens": *\[//' | cut -d , -f 1-1025)
tokens=$(mktemp)
trap 'rmdir "$group" 2>/dev/null; rm -f "$tokens"' EXIT INT TERM
printf '{"context": 1024, "tokens": [%s]}' "$ids" >"$tokens"
out=$(in_group $((budget + budget / 20)) "$SLUICE" eval -m "$MODEL" --memory $budget --tokens "$tokens" --json)
rc=$?
echo "perplexity at the floor: exit $rc, $out"
[ $rc = 0 ] || fail=1

# below the floor: refused with the plan, exit 1
if msg=$("$SLUICE" run -m "$MODEL" --memory $((floor / 2)) "Define run." 2>&1); then
    echo "FAIL: a budget of half the floor was accepted"
    fail=1
else
    case $msg in *floor*) ;; *) echo "FAIL: refusal without the plan: $msg"; fail=1 ;; esac
fi
[ -n "$want" ] || fail=1
exit $fail
