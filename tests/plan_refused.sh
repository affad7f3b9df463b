#!/bin/sh
# A budget below the floor: plan shows the floor's lines, which are more than the
# budget, and ends with what is missing; and that much more works. Under a resource
# limit of the process plan and run agree.
set -u
here=$(dirname "$0")
. "$here/support/shell.sh"
trap 'rm -rf "$dir"' EXIT

value() { "$json_get" "$1" <"$dir/out"; }

# lines_of TEXT-OF-PLAN: the names of its lines up to the first empty one after the budget
lines_of()
{
    awk '/^Memory plan|^Smallest memory plan/ { on = 1; next }
        /^Machine/ { exit }
        on && NF { print $1 }' "$1"
}

# kib LINE: the size on a line of the plan
kib()
{
    awk -v line="$1" '$1 == line {
        print int($2 * ($3 == "GiB" ? 1048576 : $3 == "MiB" ? 1024 : $3 == "KiB" ? 1 : 0))
        exit
    }' "$dir/out"
}

# refusal BUDGET OPTIONS...
refusal()
{
    budget=$1
    shift
    run 1 plan --no-probe --json --memory "$budget" "$@"
    floor=$(value floor) missing=$(value missing) had=$(value budget)
    sum=0
    for line in process dense state kv_least scratch cache; do sum=$((sum + $(value $line))); done
    # a program that is measured wavers a little, and the floor is rounded up
    if [ "$sum" -gt "$had" ] && [ "$sum" -le "$floor" ] &&
        [ "$floor" -lt $((sum + 589824)) ]; then pass
    else no "plan $budget $*: lines of $sum for a floor of $floor and a budget of $had"; fi
    if [ "$missing" -eq $((floor - had)) ]; then pass
    else no "plan $budget $*: $missing are missing of $floor"; fi
    # as text: the same lines, and at the end what is missing
    run 1 plan --no-probe --memory "$budget" "$@"
    last=$(lines_of "$dir/out" | tail -1)
    if [ "$last" = missing ] && grep -q '^Smallest memory plan' "$dir/out"; then pass
    else no "plan $budget $*: the table ends with $last"; fi
    if [ "$(kib sum)" -gt "$(kib budget)" ]; then pass
    else no "plan $budget $*: a sum of $(kib sum) KiB seems to fit $(kib budget) KiB"; fi
    # what does not fit has no session and no hit rate
    if grep -q '^Each decoded token\|^Session' "$dir/out"; then
        no "plan $budget $*: speaks of a session"
    else pass; fi
    run 0 plan --no-probe --json --memory $((had + missing)) "$@"
    if grep -q '"missing"\|"kv_least"' "$dir/out"; then no "plan $floor $*: something is missing"
    else pass; fi
}

refusal 1M
refusal 8M --ctx 5000
refusal 12M --ctx 300 --chunk 4096 --threads 1
refusal 2M --exact --threads 4
# so little below it that the lines of a plan's beginning would fit
run 1 plan --no-probe --json --memory 1M --ctx 9000
refusal $(($(value floor) - 700000)) --ctx 9000
run 0 plan --no-probe --memory 2G
if [ "$(lines_of "$dir/out" | sed -n 7p)" = sum ] && grep -q '^Session' "$dir/out"; then pass
else no "a plan that fits is shown as one that does not"; fi

# Under a resource limit what is reserved counts: what plan accepts runs, what run
# refuses plan refuses, whoever chooses budget, context and chunk.
limited=0
for kib in 45000 60000 80000 100000 150000 400000; do
    for kind in v d; do
        for more in "" "--memory 20M" "--memory 60M" "--ctx 3000" "--chunk 300" "--io pread"; do
            # shellcheck disable=SC2086
            (ulimit -$kind $kib && exec "$sluice" plan --no-probe --json --threads 2 $more) \
                >"$dir/plan" 2>"$dir/err" </dev/null
            planned=$?
            # shellcheck disable=SC2086
            (ulimit -$kind $kib && exec "$sluice" run -n 3 --threads 2 $more hi) \
                >"$dir/out" 2>"$dir/err" </dev/null
            ran=$?
            [ $planned -eq 0 ] && limited=$((limited + 1))
            if [ $planned -eq $ran ]; then pass
            else no "ulimit -$kind $kib, $more: plan ends with $planned, run with $ran"; fi
        done
    done
done
if [ "$limited" -gt 20 ] || [ -n "${SANITIZE:-}" ]; then pass
else no "only $limited plans fit a resource limit"; fi
finish
