#!/bin/sh
# Standard descriptors that the caller has closed. No file that the program opens
# may take their place and receive an answer or a sentence; an answer that cannot
# be written is a failure, and what goes to a file does not need them.
set -u
SLUICE=${SLUICE:-build/sluice}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
fail=0
broken() { echo "FAIL: $*"; fail=1; }

# closed WHICH COMMAND...: WHICH of 0, 1 and 2 are closed
closed() {
    which=$1
    shift
    case $which in
    0) "$@" <&- ;;
    1) "$@" >&- ;;
    2) "$@" 2>&- ;;
    01) "$@" <&- >&- ;;
    02) "$@" <&- 2>&- ;;
    12) "$@" >&- 2>&- ;;
    012) "$@" <&- >&- 2>&- ;;
    esac
}

# expect WHAT WANTED_STATUS STATUS
expect() {
    [ "$3" = "$2" ] || broken "$1: status $3, expected $2"
}

# no FILE holds the answer, a sentence or a line of numbers
clean() {
    for f in "$dir"/got.*; do
        if grep -qaE 'meanings|sluice: |tok/s|peak memory' "$f"; then
            broken "$1: $(basename "$f") received text"
        fi
    done
}

question="Define run."
run() { "$SLUICE" run --stats --seed 1 -n 20 --record-routing "$dir/$1.jsonl" \
    --timeline "$dir/$1.json" "$question"; }
run want >"$dir/answer" 2>/dev/null || broken "run"
"$SLUICE" logits --ids 1,2,3 -o "$dir/want.f32" >/dev/null 2>&1 || broken "logits"
"$SLUICE" pack "$dir/want.gguf" >/dev/null 2>&1 || broken "pack"
grep -q . "$dir/answer" || broken "no answer"

for which in 0 1 2 01 02 12 012; do
    case $which in *1*) answered=1 ;; *) answered=0 ;; esac
    rm -f "$dir"/got.*
    closed $which run got >"$dir/out" 2>"$dir/err"
    expect "run, $which closed" $answered $?
    # generating stops where the answer cannot be written, so the routing may be shorter
    n=$(wc -c <"$dir/got.jsonl")
    head -c "$n" "$dir/want.jsonl" | cmp -s - "$dir/got.jsonl" ||
        broken "run, $which closed: another routing"
    head -c 1 "$dir/got.json" | grep -q '[[{]' || broken "run, $which closed: the timeline is none"
    clean "run, $which closed"
    case $which in
    0 | 2 | 02) cmp -s "$dir/answer" "$dir/out" || broken "run, $which closed: another answer" ;;
    1 | 01) grep -q 'standard output' "$dir/err" || broken "run, $which closed: nothing said" ;;
    esac

    rm -f "$dir"/got.*
    closed $which "$SLUICE" logits --ids 1,2,3 -o "$dir/got.f32" >"$dir/out" 2>"$dir/err"
    expect "logits, $which closed" 0 $?
    cmp -s "$dir/want.f32" "$dir/got.f32" || broken "logits, $which closed: other logits"

    rm -f "$dir"/got.*
    closed $which "$SLUICE" pack "$dir/got.gguf" >"$dir/out" 2>"$dir/err"
    expect "pack, $which closed" $answered $? # its closing line is lost, the file is not
    cmp -s "$dir/want.gguf" "$dir/got.gguf" || broken "pack, $which closed: another file"

    # what reads a closed standard input says so, and what writes only text fails
    closed $which "$SLUICE" run -n 5 - >"$dir/out" 2>"$dir/err" </dev/null
    [ $? -ne 0 ] || [ $which = 2 ] || broken "run -, $which closed: rc 0"
    closed $which "$SLUICE" --version >"$dir/out" 2>"$dir/err"
    expect "--version, $which closed" $answered $?
done
exit $fail
