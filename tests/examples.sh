#!/bin/sh
# The programs of examples/, built as a host program is (one header, one library)
# and run on the built-in model: against the archive, as `make examples` left them,
# and against the shared library. Exit status 77: there is no library to test.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
case $build in /*) ;; *) build=$PWD/$build ;; esac
model=models/pocket-dictionary.gguf
[ -e "$build/libsluice.so" ] && [ -d "$build/examples" ] ||
    { echo "SKIP: run make examples first"; exit 77; }
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
fail=0
broken() { echo "FAIL: $*"; fail=1; }

serendipity='serendipity (noun): good luck in making unexpected and fortunate discoveries.'
hot='The opposite of hot is cold.'
ephemeral='ephemeral has 2 meanings:
1. (adjective) lasting a very short time.
2. (noun) anything short-lived, as an insect that lives only for a day in its winged form.'

# run STATUS PROGRAM ARGUMENT...: its output in $dir/out and $dir/err
run()
{
    want=$1
    shift
    "$bin/$@" >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    [ $got -eq "$want" ] || { broken "$* ended with $got, expected $want"
        sed 's/^/    /' "$dir/err"; }
}
says() { [ "$(cat "$dir/out")" = "$1" ] || { broken "expected \"$1\", got:"; cat "$dir/out"; }; }

answer()
{
    run 0 answer "$model" 'What does serendipity mean?'
    says "$serendipity"
    run 1 answer /nonexistent.gguf x
    grep -q "/nonexistent.gguf" "$dir/err" || broken "answer does not name the file that is missing"
    run 2 answer
    if [ -c /dev/full ]; then
        "$bin/answer" "$model" x >/dev/full 2>/dev/null &&
            broken "answer to a full drive ended with 0"
    fi
}

# Each conversation gets the answers that it would get alone, and holds its first
# question and answer when the second one comes.
two()
{
    run 0 two "$model" 'What does serendipity mean?' 'What does ephemeral mean?' \
        'What is the opposite of hot?' 'What does serendipity mean?'
    sed -E 's/^([AB]) \(held 0 tokens\)/\1 first/; s/^([AB]) \(held [1-9][0-9]* tokens\)/\1 then/' \
        "$dir/out" >"$dir/cut" && mv "$dir/cut" "$dir/out"
    says "A first: $serendipity
B first: $ephemeral
A then: $hot
B then: $serendipity"
    run 1 two /nonexistent.gguf a b c d
}

# Each of three answers is what it would be alone, though they come in the same steps, and
# prompts in slices between the tokens of the first.
slices()
{
    run 0 slices "$model" 'What does ephemeral mean?' 'What does serendipity mean?' \
        'What is the opposite of hot?'
    n=$(sed -n 's/^\([0-9]*\) steps had both a token to say and a slice of a prompt$/\1/p' \
        "$dir/out")
    [ "${n:-0}" -gt 2 ] || broken "prompts came in $n slices"
    sed -i '$d' "$dir/out"
    says "A: $ephemeral
B: $serendipity
C: $hot"
    run 1 slices /nonexistent.gguf a b c
    run 2 slices
}

# The loop turns more often than once a token. Input that is there before the
# program starts stops it before it says anything; input in the middle of an answer
# leaves the beginning of that answer, or all of it when the program was faster.
loop()
{
    run 0 loop "$model" 'What does ephemeral mean?'
    turns=$(sed -n 's/^done after \([0-9]*\) turns of the loop$/\1/p' "$dir/out")
    [ "${turns:-0}" -gt 60 ] || broken "the loop turned \"$turns\" times"
    sed -i '$d' "$dir/out"
    says "$ephemeral"

    echo >"$dir/key"
    "$bin/loop" "$model" x <"$dir/key" >"$dir/out" || broken "a loop that is stopped ended with $?"
    [ -z "$(sed '$d' "$dir/out")" ] && grep -q '^stopped after' "$dir/out" ||
        { broken "input did not stop the loop at once:"; cat "$dir/out"; }

    mkfifo "$dir/in" && exec 3<>"$dir/in"
    "$bin/loop" "$model" 'What does ephemeral mean?' <"$dir/in" >"$dir/out" &
    pid=$!
    while [ ! -s "$dir/out" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
    echo >&3
    wait $pid || broken "a loop that is stopped in its answer ended with $?"
    exec 3>&-
    rm "$dir/in"
    grep -qE '^(stopped|done) after' "$dir/out" || broken "a stopped loop did not come to its end"
    said=$(sed '$d' "$dir/out")
    case $ephemeral in
    "$said"*) ;;
    *) broken "a stopped loop said: $said" ;;
    esac
}

bin=$build/examples
answer
two
slices
loop

mkdir "$dir/shared"
for source in examples/*.c; do
    name=$(basename "$source" .c)
    [ -x "$bin/$name" ] || broken "make examples built no $name"
    grep -q "^$name()" tests/examples.sh || broken "examples/$name.c is tested nowhere"
    # shellcheck disable=SC2086 # a compiler with its wrapper; an empty word must vanish
    ${CC:-gcc} -Wall -Wextra -Werror ${SANITIZE:+-fsanitize=$SANITIZE} -Iinclude \
        -o "$dir/shared/$name" "$source" -L"$build" -lsluice -Wl,-rpath,"$build" || fail=1
done
bin=$dir/shared
answer
two
slices

exit $fail
