#!/bin/sh
# The memory budget is a promise: in a memory cgroup whose limit is the budget
# plus 5 %, swap off, the process is never killed and its peak resident set
# stays at or below the budget, for budgets from the floor to everything.
# Needs root and a writable memory cgroup (v1 or v2); otherwise skipped aloud.
set -u
. tests/support/cgroup.sh
fail=0

# in_group LIMIT_BYTES COMMAND...
in_group() { echo "$1" >"$group/$limit" && shift && inside "$@"; }

field() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" | head -n 1; }

floor=$("$SLUICE" plan -m "$MODEL" --no-probe --json | field floor)
full=$("$SLUICE" plan -m "$MODEL" --no-probe --json | field cache_full)
[ -n "$floor" ] && [ -n "$full" ] || { echo "FAIL: plan --json gives no floor"; exit 1; }
echo "floor $floor, all experts $full"

want=$("$SLUICE" run -m "$MODEL" "What does serendipity mean?")
for part in 0 1 2 4; do
    # half a MiB above: the floor includes this run's own size
    budget=$((floor + 524288 + full * part / 4))
    before=$(killed)
    out=$(in_group $((budget + budget / 20)) "$SLUICE" run -m "$MODEL" --memory $budget \
        --json "What does serendipity mean?")
    rc=$?
    peak=$(printf '%s' "$out" | tr ',' '\n' | field memory_peak)
    after=$(killed)
    case $out in *'good luck in making unexpected and fortunate discoveries'*) right=yes ;;
        *) right=no ;; esac
    echo "budget $budget: exit $rc, peak ${peak:-?}, answer right: $right"
    if [ $rc != 0 ] || [ $right = no ] || [ "$before" != "$after" ] ||
        [ "${peak:-$((budget + 1))}" -gt $budget ]; then
        echo "FAIL: budget $budget"
        fail=1
    fi
done

# a long prompt and growth of the KV cache: at the floor in small chunks, above
# it in one, whose scratch the expert cache makes room for
heldout 1025 1024
for part in 0 1 2 4; do
    budget=$((floor + 524288 + full * part / 4))
    before=$(killed)
    out=$(in_group $((budget + budget / 20)) "$SLUICE" eval -m "$MODEL" --memory $budget \
        --tokens "$tokens" --json)
    rc=$?
    echo "perplexity with $budget: exit $rc, $out"
    [ $rc = 0 ] && [ "$out" = "${first:=$out}" ] && [ "$before" = "$(killed)" ] ||
        { echo "FAIL: budget $budget"; fail=1; }
done

# below the floor: refused with the plan, exit 1
if msg=$("$SLUICE" run -m "$MODEL" --memory $((floor / 2)) "Define run." 2>&1); then
    echo "FAIL: a budget of half the floor was accepted"
    fail=1
else
    case $msg in *floor*) ;; *) echo "FAIL: refusal without the plan: $msg"; fail=1 ;; esac
fi
[ -n "$want" ] || fail=1
exit $fail
