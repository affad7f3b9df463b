#!/bin/sh
# Options: which command takes which, what their values may be, and input that
# must not be cut.
set -u
here=$(dirname "$0")
. "$here/support/shell.sh"
trap 'rm -rf "$dir"' EXIT

# The table as --man-options prints it: one line for each option, its name and
# the commands that take it.
table()
{
    "$sluice" --man-options | sed 's/\\-/-/g; s/\\fB//g; s/\\fR//g; s/\\fI//g' | awk '
        /^\.SS Environment/ { exit }
        /^\.TP/ { getline; sub(/^-., /, ""); sub(/^--/, ""); name = $1 }
        /^Commands: / { sub(/^Commands: /, ""); sub(/\.$/, ""); gsub(/,/, ""); print name, $0 }'
}

# A command's help lists what it takes, and what it does not take is refused by name.
who_takes_what()
{
    all="run chat plan inspect tokenize eval logits bench probe pack"
    table >"$dir/table"
    if [ "$(wc -l <"$dir/table")" -gt 40 ]; then pass
    else no "the table has $(wc -l <"$dir/table") rows"; fi
    for c in $all; do
        awk -v c="$c" '{ for (i = 2; i <= NF; i++) if ($i == c || $i == "all") print $1 }' \
            "$dir/table" | sort >"$dir/takes"
        "$sluice" "$c" --help | sed -n 's/^  \(-.,\|   \) --\([a-z-]*\).*/\2/p' |
            grep -v '^help$' | sort >"$dir/help"
        if [ -s "$dir/help" ] && cmp -s "$dir/takes" "$dir/help"; then pass
        else no "$c --help does not list what $c takes:" \
            "$(diff "$dir/takes" "$dir/help" | tr '\n' ' ')"; fi
        for o in $(awk '{ print $1 }' "$dir/table" | sort -u | comm -13 "$dir/takes" -); do
            refused 2 "--$o is not an option of \"sluice $c\"" "$c" "--$o" 1
        done
    done
    # what each command is known not to use
    for pair in "probe ctx" "probe chunk" "probe policy" "probe lookahead" "plan lookahead" \
        "eval record-routing" "logits record-routing" "tokenize threads" "inspect threads" \
        "pack memory"; do
        # shellcheck disable=SC2086
        set -- $pair
        refused 2 "is not an option of" "$1" "--$2" 1
    done
    "$sluice" run --help >"$dir/out"
    # all that the sources have, whichever these are
    names=$(sed -n 's/^    \.name = "\(.*\)",/\1/p' src/expert/policy_*.c)
    policies=$(tr -s ' \n' ' ' <"$dir/out" |
        sed -n 's/.*--policy[^[]*\[\([a-z|]*\); default [a-z]*\].*/\1/p' | tr '|' ' ')
    # shellcheck disable=SC2086
    policies=$(printf '%s\n' $policies | sort)
    if [ -n "$names" ] && [ "$policies" = "$(printf '%s\n' "$names" | sort)" ]; then pass
    else no "run --help does not list the policies"; fi
}

# bad OPTION VALUE...: each is refused by name, before a model is looked for
bad()
{
    option=$1
    shift
    for value in "$@"; do
        refused 2 "--$option: " "${command:-run}" "--$option" "$value" -m "$dir/no-model"
    done
}

values()
{
    bad memory '' 0 -1 +1G 1e9 0x10 1..5G 1.G . .G 12gb 12GiBs 'G' '1G x' ' ' 1,5G nan inf \
        99999999999T
    for v in 0.9 .9 1.5 12 64 1000 1023; do
        refused 2 "did you mean ${v}G?" run --memory $v x
    done
    for v in 1024 4096 16384 1048575; do # more than any machine has in GiB
        refused 2 "did you mean ${v}M?" run --memory $v x
    done
    for v in .5G ' 1G' '1G ' '1 G ' '1	GiB' ' .25 GiB ' 1048576 '64 M' 64m 64M 64MB 64MiB 64Mi \
        0.05G; do
        run 1 run --memory "$v" -m "$dir/no-model" x
    done
    for o in threads ctx chunk; do
        bad $o '' 0 -1 +1 1.5 1e3 0x10 ' 1' '1 ' nan 99999999999999999999
    done
    bad chunk 65537 1000000
    bad threads 100000
    for o in n-predict top-k repeat-window; do bad $o '' -2 1.5 x 2147483648; done
    for o in n-predict top-k repeat-window ctx; do
        refused 2 "to 2147483647" run --$o 2147483648 -m "$dir/no-model" x
        refused 2 "to 2147483647" run --$o 99999999999999999999 -m "$dir/no-model" x
    done
    bad temp '' -1 101 nan inf 1e999 0x1 1,5 1x
    bad top-p '' -0.1 1.1 nan
    bad min-p '' -0.1 1.1 nan
    bad repeat-penalty '' 0 -1 101 nan
    bad seed '' -1 1.5 x 9223372036854775808
    bad lookahead '' -1 -2 65 x Auto
    bad policy '' x LRU
    bad io '' x
    bad cpu '' x
    bad kv '' q8
    bad mirror '' -
    bad timeline '' -
    command=logits bad ids '' 1,,2 ,1 1, ',' '1, ,2' -1 +1 1.5 0x10 2147483648 1x
    command=bench bad repetitions 0 1001
    command=bench bad n-prompt 0
    # more threads than processors can use: refused, where it once took for ever, with one
    # range for option and library
    refused 2 "whole number from 1 to" run --threads 100000 -m "$dir/no-model" x
    most=$(sed -n 's/.*whole number from 1 to \([0-9]*\).*/\1/p' "$dir/err")
    refused 1 "no-model" plan --threads "$most" -m "$dir/no-model"
    refused 2 "whole number from 1 to $most" plan --threads $((most + 1)) -m "$dir/no-model"
    # ids beyond the vocabulary, before anything is loaded or written: in what holds
    # the tokeniser and not the model
    little=12M
    [ -z "${SANITIZE:-}" ] || little=1G
    echo old >"$dir/old"
    refused 2 "whose ids end at" logits --ids 1,8192 -o "$dir/old" --memory $little
    if [ "$(cat "$dir/old")" = old ]; then pass; else no "logits of no token wrote a file"; fi
    echo '[1, 2, 8192]' >"$dir/t.json"
    refused 1 "token 2 is not an id" eval --tokens "$dir/t.json" --memory $little
    refused 2 "do not fit --ctx 8" eval --tokens "$dir/t.json" --context 9 --ctx 8
    echo '[{"question": "x", "answer": "y"}, {"question": "z"}]' >"$dir/q.json"
    refused 1 'no text "answer"' eval --qa "$dir/q.json" --memory 1M
    # the best token alone, whatever the temperature
    question='What does serendipity mean?'
    run 0 run "$question"
    mv "$dir/out" "$dir/best"
    run 0 run --top-p 0 --temp 100 --seed 1 "$question"
    if cmp -s "$dir/out" "$dir/best"; then pass; else no "--top-p 0 is not the best token"; fi
    run 0 run --seed 9223372036854775807 --json -n 1 x
    if [ "$("$json_get" seed <"$dir/out")" = 9223372036854775807 ]; then pass
    else no "the largest seed is shown as another"; fi
    # a guess more or less changes no answer
    for v in auto none 0 1 64; do
        run 0 run --lookahead $v "$question"
        if cmp -s "$dir/out" "$dir/best"; then pass
        else no "--lookahead $v gives another answer"; fi
    done
    for v in $policies; do run 0 run --policy $v -n 1 x; done
    # text that begins with a minus sign
    refused 2 'goes after --: sluice run -- "-5 + 3"' run "-5 + 3"
    refused 2 'goes after --: sluice tokenize -- "--five"' tokenize --five
    for text in "-hello world" "-the end" "-nice" "--foo" "-my dog" "-p" "-h -n" \
        "--temp is high" "--help me" "-n-" "-sh ell"; do
        refused 2 "goes after --: sluice run -- \"$text\"" run "$text"
        refused 2 "goes after --: sluice run -- \"$text\"" run -n 1 "$text" -m "$dir/no-model"
        run 0 run -n 1 -- "$text"
    done
    for text in --foo --hello --ab -z; do
        "$sluice" run "$text" >"$dir/out" 2>&1
        if grep -q "did you mean" "$dir/out"; then no "run $text: $(cat "$dir/out")"; else pass; fi
    done
    for pair in "tmep temp" "memroy memory" "n-predct n-predict" "josn json" "chnk chunk" \
        "thread threads"; do
        refused 2 "did you mean --${pair#* }?" run --"${pair% *}" 1 x
    done
    for word in -h -sh -help --help; do # whatever else stands there
        run 0 run $word x y --foo
        if grep -q "Usage" "$dir/out"; then pass; else no "run $word prints no help"; fi
    done
    run 0 run -n 1 -- "-5 + 3"
}

# Each text is taken whole or refused.
cut()
{
    zero="holds a zero byte at"
    input=$dir/in
    printf 'Define run\0 and more.\n' >"$dir/in"
    refused 1 "$zero 10" run
    refused 1 "$zero 10" chat
    run 0 tokenize
    ids=$(cat "$dir/out")
    printf '%s' "$ids" >"$dir/in"
    "$sluice" tokenize --decode - <"$dir/in" | tr '\0' '#' >"$dir/out"
    if [ "$(cat "$dir/out")" = 'Define run# and more.' ]; then pass
    else no "a zero byte is lost in tokens"; fi
    printf '1,2\0,3' >"$dir/in"
    refused 1 "$zero 3" logits --ids -
    refused 1 "$zero 3" tokenize --decode
    printf '[{"question": "x\\u0000y", "answer": "z"}]' >"$dir/q.json"
    refused 1 "q.json: line 1" eval --qa "$dir/q.json"
    printf '[1, 2]\0 3' >"$dir/q.json"
    refused 1 "q.json: line 1" eval --tokens "$dir/q.json"
    printf '{"layers": [[1]]}\n{"layers": [[2]]}\0, [[3]]}\n' >"$dir/picks"
    refused 1 "line 2: expected" plan --no-probe --routing "$dir/picks"
    # lines as other systems end them, and a last one that nothing ends
    printf 'Define run.\n' >"$dir/in"
    run 0 chat
    mv "$dir/out" "$dir/want"
    printf 'Define run.' >"$dir/in"
    run 0 chat
    if cmp -s "$dir/out" "$dir/want"; then pass; else no "a last line without end is another"; fi
    printf 'Define run.\r\n/quit\r\nnever read\r\n' >"$dir/in"
    run 0 chat
    if cmp -s "$dir/out" "$dir/want" && [ ! -s "$dir/err" ]; then pass
    else no "CR LF is not the end of a line"; fi
    unset input
}

who_takes_what
values
cut
finish
