#!/bin/sh
# The command line tool, driven as a user drives it, with the built-in model.
#   SLUICE     the program (default $BUILD/sluice, BUILD defaulting to build)
#   JSON_GET   the JSON reader (default $BUILD/tools/json_get)
# Exit status 77: there is no program to test.
set -u

build=${BUILD:-build}
sluice=${SLUICE:-$build/sluice}
json_get=${JSON_GET:-$build/tools/json_get}
[ -x "$sluice" ] || { echo "skipped: $sluice is not there"; exit 77; }
[ -x "$json_get" ] || { echo "skipped: $json_get is not there"; exit 77; }
unset SLUICE_MODEL SLUICE_MEMORY SLUICE_THREADS
# A build folder elsewhere than in the source tree has no model beside it.
models=$(cd "$(dirname "$0")/../models" && pwd) || exit 1
if [ ! -e "$(dirname "$sluice")/../models/pocket-dictionary.gguf" ]; then
    export SLUICE_MODEL="$models/pocket-dictionary.gguf"
fi
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
export XDG_STATE_HOME="$dir/state"
question='What does serendipity mean?'
answer='serendipity (noun): good luck in making unexpected and fortunate discoveries.'
# A sanitizer's own memory counts too.
memory=64M
routing_memory=32M
[ -z "${SANITIZE:-}" ] || memory=1G routing_memory=1G

passed=0 failed=0
pass() { passed=$((passed + 1)); }
# broken NAME: says what went wrong, with what the program wrote.
broken() {
    failed=$((failed + 1))
    echo "FAILED: $1"
    sed 's/^/    out: /' "$dir/out" | head -5
    sed 's/^/    err: /' "$dir/err" | head -5
}
# run STATUS NAME ARGUMENTS...: stdout in $dir/out, stderr in $dir/err
run() {
    want=$1 name=$2
    shift 2
    "$sluice" "$@" >"$dir/out" 2>"$dir/err" <"${input:-/dev/null}"
    got=$?
    if [ "$got" -eq "$want" ]; then pass; else broken "$name: exit status $got, expected $want"; fi
}
out_is()
{
    if [ "$(cat "$dir/out")" = "$2" ]; then pass; else broken "$1: other output than \"$2\""; fi
}
out_has() { if grep -qF -e "$2" "$dir/out"; then pass; else broken "$1: output lacks \"$2\""; fi; }
err_has() { if grep -qF -e "$2" "$dir/err"; then pass; else broken "$1: stderr lacks \"$2\""; fi; }
err_empty() { if [ ! -s "$dir/err" ]; then pass; else broken "$1: there is a message"; fi; }
# One sentence on stderr, nothing on stdout, exit status as given.
refused() {
    want=$1 name=$2 says=$3
    shift 3
    run "$want" "$name" "$@"
    err_has "$name" "sluice: "
    err_has "$name" "$says"
    if [ "$(wc -l <"$dir/err")" -eq 1 ] && [ ! -s "$dir/out" ]; then pass
    else broken "$name: not one sentence"; fi
}
# json NAME PATH: the value in $value, a failure if there is none
json() {
    value=$("$json_get" ${2:+"$2"} <"$dir/out" 2>>"$dir/err")
    if [ $? -eq 0 ]; then pass; else broken "$1: no valid JSON with \"$2\""; fi
}
json_is()
{
    json "$1" "$2"
    if [ "$value" = "$3" ]; then pass; else broken "$1: $2 is $value, expected $3"; fi
}
is_above() { awk "BEGIN { exit !($1 > $2) }"; }

help() {
    run 0 "help" --help
    for c in run chat plan inspect tokenize eval logits bench probe pack; do
        out_has "help names $c" "  $c "
    done
    for c in run chat plan inspect tokenize eval logits bench probe pack; do
        run 0 "help of $c" $c --help
        out_has "help of $c" "Usage: sluice $c"
        out_has "help of $c" "--model MODEL"
        cp "$dir/out" "$dir/help"
        run 0 "help $c" help $c
        if cmp -s "$dir/out" "$dir/help"; then pass; else broken "help $c and $c --help differ"; fi
    done
    run 0 "version" --version
    out_has "version" "sluice 0."
    # the man page's list of options is the table's
    run 0 "options for the man page" --man-options
    man=$(dirname "$0")/../man/sluice.1
    sed -n '/^\.\\" BEGIN OPTIONS$/,/^\.\\" END OPTIONS$/p' "$man" | sed '1d;$d' >"$dir/man"
    if [ -s "$dir/man" ] && diff "$dir/man" "$dir/out" >"$dir/err"; then pass
    else broken "man/sluice.1 differs from --man-options"; fi
}

nonsense() {
    refused 2 "no command" "a command is missing"
    refused 2 "unknown command" 'did you mean "run"?' rnu
    refused 2 "unknown command" "there is no command" 'no such thing'
    refused 2 "option first" "options follow the command" --json
    refused 2 "unknown option" "did you mean --temp?" run --tmep 1 x
    refused 2 "option of another command" "not an option of" run --tokens x y
    refused 2 "unknown letter" "unknown option -q" run -q x
    refused 2 "missing value" "needs a value" run x --seed
    refused 2 "flag with a value" "takes no value" run --json=yes x
    refused 2 "two prompts" "one word too many" run a b
    refused 2 "empty prompt" "the prompt is empty" run ''
    for size in 12X -5 0 1e9 nan '' 99999999999T 18446744073709551616 64MM; do
        refused 2 "size \"$size\"" "is not a size" run --memory "$size" x
    done
    refused 2 "threads 0" "whole number from 1 to" run --threads 0 x
    refused 2 "threads x" "whole number" run --threads x x
    refused 2 "temp" "is not a number" run --temp nan x
    refused 2 "top-p" "is not a number" run --top-p 1.5 x
    refused 2 "cpu" "is not one of" run --cpu sse x
    refused 2 "io" "is not one of" run --io mmap x
    refused 2 "kv" "is not one of" run --kv q8 x
    refused 2 "policy" "" run --policy no-such-policy x
    refused 2 "raw and system" "--raw uses no chat form" run --raw --system x y
    refused 2 "markup without raw" "--markup needs --raw" run --markup x
    refused 2 "eval of nothing" "needs one of" eval
    refused 2 "eval of both" "needs one of" eval --qa a --tokens b
    refused 2 "logits of nothing" "needs --ids" logits
    refused 2 "logits of rubbish" "not a list" logits --ids 1,x
    refused 2 "logits of no token" "no token of this model" logits --ids 1,99999999
    refused 2 "tokenize rubbish" "not a list" tokenize --decode 1,x
    refused 2 "tokenize no token" "" tokenize --decode 99999999
    refused 2 "two models" "two models" inspect -m a b
    refused 2 "mirrors" "at most 8 are possible" run --mirror 1 --mirror 2 --mirror 3 --mirror 4 \
        --mirror 5 --mirror 6 --mirror 7 --mirror 8 --mirror 9 x
    SLUICE_MEMORY=much; export SLUICE_MEMORY
    refused 2 "environment" 'SLUICE_MEMORY: "much"' run x
    unset SLUICE_MEMORY
}

failures() {
    refused 1 "no model" "no-such-file" run -m "$dir/no-such-file.gguf" x
    refused 1 "no model in the environment" "no-such-file" inspect "$dir/no-such-file.gguf"
    echo 'this is no model' >"$dir/text.gguf"
    for c in "run x" chat plan "tokenize x" "logits --ids 1" bench inspect "pack $dir/none"; do
        # shellcheck disable=SC2086
        refused 1 "no GGUF: $c" "text.gguf" $c -m "$dir/text.gguf"
    done
    refused 1 "tiny budget" "budget" run --memory 1M x
    refused 1 "eval without file" "no-such-file" eval --tokens "$dir/no-such-file"
    echo '{"tokens": [1, 2' >"$dir/broken.json"
    refused 1 "eval of broken JSON" "line " eval --tokens "$dir/broken.json"
    echo '{"tokens": [1, 2, -7]}' >"$dir/bad.json"
    refused 1 "eval of bad ids" "token 2" eval --tokens "$dir/bad.json"
    echo '{"other": 1}' >"$dir/bad.json"
    refused 1 "eval of other JSON" "expected" eval --tokens "$dir/bad.json"
    echo '[{"question": "x"}]' >"$dir/bad.json"
    refused 1 "questions without answer" "no text \"answer\"" eval --qa "$dir/bad.json"
    refused 1 "out in no folder" "cannot be written" logits --ids 1 --out "$dir/none/x"
    # the copy of the program finds no model beside it
    mkdir -p "$dir/alone/bin" && cp "$sluice" "$dir/alone/bin/sluice"
    (unset SLUICE_MODEL; sluice=$dir/alone/bin/sluice
        refused 1 "no built-in model" "neither at" run x; exit $failed)
    [ $? -eq $failed ] && pass || failed=$((failed + 1))
    mkdir -p "$dir/alone/share/sluice/models"
    ln -s "$models/pocket-dictionary.gguf" "$dir/alone/share/sluice/models/"
    got=$(unset SLUICE_MODEL; "$dir/alone/bin/sluice" run "$question" 2>"$dir/err")
    if [ "$got" = "$answer" ]; then pass; else broken "built-in model of an installed program"; fi
}

answers() {
    run 0 "run" run "$question"
    out_is "run" "$answer"
    err_empty "run"
    echo "$question" >"$dir/in"
    input=$dir/in
    run 0 "prompt from stdin" run -
    out_is "prompt from stdin" "$answer"
    run 0 "prompt from stdin without -" run
    out_is "prompt from stdin without -" "$answer"
    unset input
    run 0 "every model option" run --memory $memory --threads 2 --ctx 256 --chunk 16 \
        --cpu portable \
        --io pread --kv f32 --stats "$question"
    out_is "every model option" "$answer"
    for part in "tok/s" "GB read per token" "cache hit rate" "experts 4 of 4" "peak memory"; do
        err_has "stats" "$part"
    done
    run 0 "exact" run --exact "$question"
    out_is "exact" "$answer"
    run 0 "raw" run --raw --markup "<|im_start|>user
$question<|im_end|>
<|im_start|>assistant
"
    out_is "raw" "$answer"
    run 0 "three tokens" run -n 3 --json "$question"
    json_is "three tokens" finish length
    json_is "three tokens" stats.decode_tokens 3
    run 0 "run --json" run --json --seed 5 "$question"
    json_is "run --json" text "$answer"
    json_is "run --json" finish end
    json_is "run --json" seed 5
    json_is "run --json" reasoning null
    json_is "run --json" stats.experts_used 4
    # the same seed gives the same answer, and warm sampling is not greedy
    run 0 "seed" run --temp 3 --seed 7 -n 24 --json "$question"
    json "seed" text
    first=$value
    run 0 "seed" run --temp 3 --seed 7 -n 24 --json --threads 1 "$question"
    json_is "seed" text "$first"
    if [ "$first" != "$answer" ]; then pass; else broken "temperature 3 gives the greedy answer"; fi
}

information() {
    run 0 "plan" plan --no-probe --memory $memory
    out_has "plan" "expert cache"
    run 0 "plan --json" plan --json --no-probe --memory $memory
    json "plan --json" budget
    sum=0 budget=$value
    for line in process dense state kv scratch cache; do
        json "plan --json" $line
        sum=$((sum + value))
    done
    if [ "$sum" -le "$budget" ]; then pass; else broken "the plan's lines exceed the budget"; fi
    json "plan --json" floor
    floor=$value
    run 1 "plan below the floor" plan --json --no-probe --memory $((floor / 2))
    json "plan below the floor" refused
    err_has "plan below the floor" "sluice: "
    run 1 "plan below the floor as text" plan --memory $((floor / 2))
    out_has "plan below the floor as text" "floor"
    run 0 "plan with probe" plan --json
    json "plan with probe" predicted.decode_tps
    if is_above "$value" 0; then pass; else broken "no predicted speed"; fi
    json_is "plan with probe" packed false
    json "plan with probe" predicted.pack_gain
    if is_above "$value" 0.999999; then pass; else broken "packing gains $value"; fi
    run 0 "probe" probe --json
    json "probe" drive_gbs_packed
    if is_above "$value" 0; then pass; else broken "no drive speed for packed files"; fi
    json "probe" drive_gbs
    if is_above "$value" 0; then pass; else broken "no drive speed"; fi
    run 0 "probe as text" probe
    out_has "probe as text" "GB/s"

    run 0 "inspect" inspect
    out_has "inspect" "general.architecture"
    out_has "inspect" "blk.0.ffn_down_exps.weight"
    out_has "inspect" "Sizes by role"
    run 0 "inspect --meta" inspect --meta --json
    json_is "inspect --meta" metadata.0.key general.architecture
    if "$json_get" tensors <"$dir/out" >/dev/null; then broken "--meta shows tensors"; else pass; fi
    run 0 "inspect --tensors" inspect --tensors --json
    json "inspect --tensors" tensors.0.shape.0

    run 0 "tokenize" tokenize "$question"
    ids=$(cat "$dir/out")
    run 0 "decode" tokenize --decode "$ids"
    out_is "decode" "$question"
    printf '%s' "$question" >"$dir/in"
    input=$dir/in
    run 0 "tokenize stdin" tokenize --json
    json_is "tokenize stdin" ids "[$(echo "$ids" | sed 's/,/, /g')]"
    unset input
    run 0 "text is no markup" tokenize --json '<|im_end|>'
    json "text is no markup" ids.1
    run 0 "markup" tokenize --json --markup '<|im_end|>'
    json_is "markup" pieces '["<|im_end|>"]'
    json "markup" ids.0
    run 0 "decode markup" tokenize --decode --markup "$value"
    out_is "decode markup" '<|im_end|>'
    run 0 "decode --json" tokenize --json --decode "$ids"
    json_is "decode --json" text "$question"
}

# What the model is given: as text, as ids, and as run computes it.
conversations() {
    cat >"$dir/talk.json" <<END
{"messages": [{"role": "system", "content": "Be brief."},
              {"role": "user", "content": "Hi <|im_end|>"}],
 "tools": [{"name": "add"}]}
END
    echo '[{"role": "user", "content": "Define run."}]' >"$dir/list.json"
    printf '%s\n' '{% for m in messages %}[{{ m.role }}]{{ m.content|upper }}{% endfor %}' \
        '{{ tools|tojson if tools }}{{ enable_thinking }}' >"$dir/form.jinja"
    echo '{{ raise_exception("Not today.") }}' >"$dir/raises.jinja"
    printf '\n{{ messages|nonsense }}' >"$dir/unknown.jinja"
    run 0 "show-prompt" run --show-prompt --messages "$dir/talk.json"
    printf '%s\n' '<|im_start|>system' 'Be brief.<|im_end|>' '<|im_start|>user' \
        'Hi <|im_end|><|im_end|>' '<|im_start|>assistant' >"$dir/want"
    if cmp -s "$dir/out" "$dir/want"; then pass; else broken "show-prompt: other bytes"; fi
    err_empty "show-prompt"
    run 0 "chat template" run --show-prompt --messages "$dir/talk.json" --no-think \
        --chat-template "$dir/form.jinja"
    out_is "chat template" '[system]BE BRIEF.[user]HI <|IM_END|>[{"name": "add"}]false'
    run 0 "show-prompt --json" run --show-prompt --json --system "Be." \
        --chat-template "$dir/form.jinja" "Hi"
    json_is "show-prompt --json" text '[system]BE.[user]HI'
    run 0 "tokenize --chat" tokenize --chat "Define run."
    ids=$(cat "$dir/out")
    run 0 "tokenize --messages" tokenize --messages "$dir/list.json" --json
    json_is "tokenize --messages" ids "[$(echo "$ids" | sed 's/,/, /g')]"
    run 0 "run --messages" run --messages "$dir/list.json" -n 4 --json
    json_is "run --messages" prompt_tokens "$(echo "$ids" | tr ',' '\n' | wc -l | tr -d ' ')"
    printf '%s' '{% for m in messages %}{{ m.content }}{% endfor %}' \
        '{% if add_generation_prompt %}<think>{% endif %}' >"$dir/thinks.jinja"
    run 0 "no word for no-think" run --no-think -n 1 --chat-template "$dir/thinks.jinja" Hi
    err_has "no word for no-think" "--no-think changes nothing"
    refused 1 "a template that raises" "Not today." run --show-prompt Hi \
        --chat-template "$dir/raises.jinja"
    refused 1 "a template that is not understood" "line 2: there is no filter 'nonsense'" \
        run --chat-template "$dir/unknown.jinja" Hi
    refused 1 "no template" "none.jinja" run --chat-template "$dir/none.jinja" Hi
    refused 1 "no messages" "none.json" tokenize --messages "$dir/none.json"
    refused 1 "no conversation" "line 1" run --show-prompt --messages "$dir/form.jinja"
    refused 2 "two prompts" "--messages" run --messages "$dir/list.json" Hi
    refused 2 "raw messages" "--messages" run --raw --messages "$dir/list.json"
    refused 2 "idle think" "--no-think" tokenize --no-think Hi
}

measurements() {
    run 0 "tokenize" tokenize "$answer"
    echo "{\"context\": 12, \"tokens\": [$(cat "$dir/out")], \"perplexity_f32\": 2.0}" \
        >"$dir/tokens.json"
    run 0 "eval" eval --tokens "$dir/tokens.json"
    out_has "eval" "perplexity"
    run 0 "eval --json" eval --tokens "$dir/tokens.json" --json
    json_is "eval --json" context 12
    json_is "eval --json" reference 2.0
    json "eval --json" perplexity
    if is_above "$value" 1; then pass; else broken "perplexity $value"; fi
    first=$value
    run 0 "eval elsewhere" eval --tokens "$dir/tokens.json" --json --threads 1 --io pread \
        --cpu portable --memory $memory --chunk 3
    json_is "eval elsewhere" perplexity "$first"
    run 0 "eval --context" eval --tokens "$dir/tokens.json" --json --context 5
    json_is "eval --context" context 5
    if json "eval --context" perplexity && [ "$value" != "$first" ]; then pass
    else broken "--context changes nothing"; fi

    cat >"$dir/qa.json" <<END
[{"question": "$question", "answer": "$answer", "recalled": true},
 {"question": "$question", "answer": "something else", "recalled": false},
 {"question": "never asked"}]
END
    run 0 "eval --qa" eval --qa "$dir/qa.json" --limit 2 --json
    json_is "eval --qa" recall 0.5
    json_is "eval --qa" questions 2
    json_is "eval --qa" reference 0.5
    run 0 "eval --qa as text" eval --qa "$dir/qa.json" --limit 1
    out_has "eval --qa as text" "recall 100.0 %"

    run 0 "logits" logits --ids 1,2,3
    run 0 "logits --json" logits --ids 1,2,3 --json
    json "logits --json" vocabulary
    vocabulary=$value
    json "logits --json" top.9.logit
    run 0 "logits --out" logits --ids 1,2,3 --out "$dir/last.f32" --json
    json_is "logits --out" positions_written 1
    run 0 "logits --all" logits --ids 1,2,3 --all --out "$dir/all.f32"
    if [ "$(wc -c <"$dir/all.f32")" -eq $((3 * vocabulary * 4)) ]; then pass
    else broken "--all wrote another number of bytes"; fi
    tail -c $((vocabulary * 4)) "$dir/all.f32" >"$dir/tail.f32"
    if cmp -s "$dir/tail.f32" "$dir/last.f32"; then pass
    else broken "the last row of --all is not the last position"; fi
    run 0 "logits to stdout" logits --ids 1,2,3 --out -
    if cmp -s "$dir/out" "$dir/last.f32"; then pass; else broken "logits to stdout differ"; fi
    refused 2 "logits and JSON to stdout" "both want" logits --ids 1 --json --out -

    run 0 "bench" bench -p 8 -n 4 -r 1 --no-probe
    for part in "prompt " "decode " "GB read per token" "hit rate" "loaded " "experts 4 of 4" \
        "peak memory"; do
        out_has "bench" "$part"
    done
    run 0 "bench --json" bench -p 8 -n 4 -r 3 --json --memory $memory
    for key in prompt_tps decode_tps read_gb_per_token achieved_gbs drive_gbs fraction_of_limit \
        fraction_of_reachable memory_peak memory_budget runs.2.decode.decode_ns \
        runs.2.figures.predicted_tps load_gbs model.cpu probe.direct; do
        json "bench --json" $key
    done
    json_is "bench --json" runs.0.prompt.prompt_tokens 8
    json "bench --json" fraction_of_limit
    if is_above "$value" 0; then pass # measured at two times: noise may take it above 1
    else broken "fraction of the limit is $value"; fi
    limit=$value
    json "bench --json" fraction_of_reachable # the output matrix comes on top
    if awk -v a="$value" -v b="$limit" 'BEGIN {exit !(a >= b * (1 - 1e-9))}'; then pass
    else broken "fraction of what can overlap is $value, of the limit $limit"; fi
    refused 2 "bench of too much" "do not fit" bench -p 1000000
}

# Picks that one run recorded say what another one will hit.
routing() {
    picks=$dir/picks.jsonl
    run 0 "record routing" bench -p 16 -n 60 -r 2 --no-probe --record-routing "$picks"
    lines=$(wc -l <"$picks")
    # of each repetition all tokens but the last, whose successor nobody wants; and
    # those that bench feeds in where an answer ends
    if [ "$lines" -ge 118 ] && [ "$lines" -le 238 ]; then pass
    else broken "recorded routing: $lines tokens, expected 118 to 238"; fi
    if [ "$(sed -n 1p "$picks" | tr -dc '[' | wc -c)" -eq 9 ]; then pass
    else broken "recorded routing: a token has not 8 layers"; fi
    sed 's/.*"layers"//' "$picks" >"$dir/layers"
    half=$((lines / 2))
    if [ "$(head -n $half "$dir/layers")" != "$(tail -n $half "$dir/layers")" ]; then pass
    else broken "bench repeats the same text"; fi
    run 0 "plan for recorded routing" plan --no-probe --routing "$picks" --memory $routing_memory
    out_has "plan for recorded routing" "for the recorded routing"
    run 0 "plan --json for recorded routing" plan --routing "$picks" --memory $routing_memory --json
    json "plan --json for recorded routing" predicted.recorded_tps
    json "plan --json for recorded routing" recorded_hit_rate
    expected=$value
    run 0 "bench at that memory" bench -p 16 -n 60 -r 2 --no-probe --lookahead 0 \
        --memory $routing_memory --json
    json "bench at that memory" hit_rate
    if awk -v a="$value" -v b="$expected" 'BEGIN {exit !(a - b < 0.1 && b - a < 0.1)}'; then pass
    else broken "recorded routing: expected $expected hits, got $value"; fi
    run 0 "plan without routing" plan --no-probe --json
    if grep -q recorded "$dir/out"; then broken "plan without routing speaks of it"; else pass; fi
    refused 2 "routing of another model" "16 layers with 8 picks, the model 8 with 4" \
        plan --routing "$models/../tests/data/traces/trace_olmoe-1b-7b_k8.jsonl"
    head -n 1 "$picks" >"$dir/short"
    refused 1 "routing of one token" "at least 2 tokens, got 1" plan --routing "$dir/short"
    { head -n 2 "$picks"; head -c 100 "$picks"; } >"$dir/cut"
    refused 1 "routing cut off" "line 3: expected" plan --routing "$dir/cut"
    sed 's/\[\[[0-9]*/[[99/' "$picks" >"$dir/far"
    refused 2 "routing with an expert too many" "has no expert 99" plan --routing "$dir/far"
    refused 1 "no routing" "No such file" plan --routing "$dir/not-there"
    refused 1 "routing to nowhere" "cannot write the routing" run \
        --record-routing "$dir/not-there/x" x
    if [ -w /dev/full ]; then
        run 1 "routing to a full disk" bench -p 4 -n 100 -r 1 --no-probe --record-routing /dev/full
        err_has "routing to a full disk" "failed: No space left"
    fi
}

# Writing to places that take nothing, or no more.
lost_output() {
    if [ -w /dev/full ]; then
        for c in "run x -n 4" inspect "inspect --json" \
            "logits --ids 1 --out -" --help "tokenize x"; do
            # shellcheck disable=SC2086
            "$sluice" $c >/dev/full 2>"$dir/err"
            got=$?
            : >"$dir/out"
            if [ $got -eq 1 ] && [ "$(wc -l <"$dir/err")" -eq 1 ]; then pass
            else broken "full disk, $c: exit status $got"; fi
            err_has "full disk, $c" "standard output"
        done
        refused 1 "--out on a full disk" "/dev/full" logits --ids 1 --all --out /dev/full
        if [ -e /dev/full ]; then pass; else broken "a device was removed"; fi
    fi
    # A file that outgrows the limit (the signal is ignored, so write fails) must go.
    (trap '' XFSZ 2>/dev/null; ulimit -f 16; "$sluice" logits --ids 1,2,3,4,5,6,7,8 --all \
        --out "$dir/part.f32" 2>"$dir/err")
    got=$?
    if [ $got -eq 1 ] && [ ! -e "$dir/part.f32" ]; then pass
    else broken "half-written --out file: exit status $got"; fi
    # A reader that goes away: no message, and not the status of a failure.
    for c in "run --temp 100 --seed 1 -n 2000 x" \
        "inspect --json" "logits --ids 1,2,3 --all --out -"; do
        # shellcheck disable=SC2086
        { "$sluice" $c 2>"$dir/err"; echo $? >"$dir/status"; } | head -c 1 >"$dir/out"
        got=$(cat "$dir/status")
        if [ "$got" -eq 0 ] || [ "$got" -eq 141 ]; then pass
        else broken "broken pipe, $c: $got"; fi
        err_empty "broken pipe, $c"
    done
}

# Ctrl-C ends a command with what it has, and says so by its status.
interruption() {
    # noise for an answer goes on until an ending token happens to be drawn
    for seed in 1 2 3 4 5 6 7 8; do
        timeout --foreground --preserve-status -s INT 1 "$sluice" run --temp 100 --seed $seed \
            --cpu portable --exact -t 1 --json x \
            >"$dir/out" 2>"$dir/err" </dev/null
        got=$?
        [ $got -eq 0 ] || break
    done
    if [ $got -eq 130 ]; then pass; else broken "interrupted run: exit status $got"; fi
    err_empty "interrupted run"
    if [ -s "$dir/out" ]; then json_is "interrupted run" finish stopped; fi
    timeout --preserve-status -s INT 3 "$sluice" bench -r 1000 --no-probe \
        >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    if [ $got -eq 130 ]; then pass; else broken "interrupted bench: exit status $got"; fi
    err_empty "interrupted bench"
}

chat() {
    cat >"$dir/in" <<END
$question
/stats
Define run.
/nonsense
/sytem
/help
/system You are a dictionary.
/system

/reset
$question
/quit
never read
END
    input=$dir/in
    run 0 "chat over a pipe" chat
    if [ "$(grep -cxF "$answer" "$dir/out")" -eq 2 ]; then pass
    else broken "two turns, two answers"; fi
    out_has "chat" "run has "
    err_has "chat /stats" "tok/s"
    err_has "chat /stats" "context:"
    err_has "chat /help" "/reset"
    err_has "chat /nonsense" "There is no command /nonsense"
    err_has "chat /sytem" "did you mean /system"
    err_has "chat /system" "You are a dictionary."
    # what the first turn computed is not computed again in the second
    printf '%s\nDefine run.\n' "$question" >"$dir/in"
    run 0 "chat --stats" chat --stats
    if [ "$(grep -c '^prompt ' "$dir/err")" -eq 2 ]; then pass
    else broken "chat --stats: not two lines"; fi
    second=$(sed -n 's/^prompt \([0-9]*\) tokens.*/\1/p' "$dir/err" | tail -1)
    if [ "${second:-99}" -lt 20 ]; then pass
    else broken "the second turn computes $second tokens"; fi
    : >"$dir/in"
    run 0 "chat of nothing" chat
    out_is "chat of nothing" ""
    # a turn that cannot be done ends a chat over a pipe with its failure
    { head -c 3000 /dev/zero | tr '\0' 'x' | sed 's/x/x /g'; echo; } >"$dir/in"
    run 1 "chat beyond the context" chat --ctx 64
    err_has "chat beyond the context" "sluice: "
    unset input
}

# A second copy of the model: used, refused when it is none, and of one drive said so.
mirrors() {
    mkdir -p "$dir/mirror" "$dir/none"
    file=$dir/mirror/pocket-dictionary.gguf
    refused 2 "mirror without files" "cannot be found" run --mirror "$dir/none" x
    refused 2 "no such mirror" "no-such-folder" run --mirror "$dir/no-such-folder" x
    refused 2 "the model as its mirror" "own file" run --mirror "$models" x
    head -c 100000 "$models/pocket-dictionary.gguf" >"$file"
    refused 2 "short mirror" "has 100000 bytes, expected" run --mirror "$dir/mirror" x
    cp "$models/pocket-dictionary.gguf" "$file"
    run 0 "mirror" run --mirror "$dir/mirror" --memory $memory "$question"
    out_is "mirror" "$answer"
    # twice the same drive: the second is worth a sentence
    mkdir -p "$dir/again" && cp "$file" "$dir/again/"
    run 0 "two mirrors" run --mirror "$dir/mirror" --mirror "$dir/again" "$question"
    out_is "two mirrors" "$answer"
    err_has "two mirrors" "sluice: warning: mirror $dir/again is on a drive that is read already"
    printf '####' | dd of="$file" bs=1 seek=600 conv=notrunc 2>/dev/null
    refused 2 "other header" "in the header: byte 60" run --mirror "$dir/mirror" x
    cp "$models/pocket-dictionary.gguf" "$file"
    printf '####' | dd of="$file" bs=1 seek=$(($(wc -c <"$file") - 4)) conv=notrunc 2>/dev/null
    refused 2 "other weights" "in the weights" run --mirror "$dir/mirror" x
    rm -r "$dir/mirror" "$dir/again"
}

# What happened when, as a file for trace viewers, and its picture.
timeline() {
    svg=$build/tools/timeline_svg
    run 0 "timeline" run --timeline "$dir/t.json" --memory $memory "$question"
    out_is "timeline" "$answer"
    err_empty "timeline"
    cp "$dir/t.json" "$dir/out"
    json_is "timeline" otherData.complete true
    json "timeline" traceEvents.20.ph
    for name in token prompt load "expert layer" attention delta router experts projection output \
        read; do
        out_has "timeline" "\"name\":\"$name\""
    done
    if [ -x "$svg" ] && "$svg" "$dir/t.json" @2 10 >"$dir/out" 2>"$dir/err"; then
        out_has "picture of a timeline" "</svg>"
        out_has "picture of a timeline" "compute thread 0"
        if "$svg" "$dir/t.json" @99999 10 >/dev/null 2>"$dir/err"; then
            broken "picture of nothing"
        else pass; fi
    else broken "picture of a timeline"; fi
    for c in "eval --tokens $dir/one.json" "logits --ids 1,2" \
        "bench -p 4 -n 2 -r 1 --no-probe" chat; do
        echo '[1, 2, 3]' >"$dir/one.json"
        rm -f "$dir/t.json"
        # shellcheck disable=SC2086
        run 0 "timeline of $c" $c --timeline "$dir/t.json"
        if "$json_get" otherData.spans <"$dir/t.json" >/dev/null; then pass
        else broken "timeline of $c"; fi
    done
    refused 2 "timeline in no folder" "cannot be written" run --timeline "$dir/nowhere/t" x
    if [ -w /dev/full ]; then
        run 1 "timeline on a full disk" run --timeline /dev/full "$question"
        out_is "timeline on a full disk" "$answer"
        err_has "timeline on a full disk" "sluice: timeline: writing"
        if [ "$(wc -l <"$dir/err")" -eq 1 ]; then pass
        else broken "a full disk: not one sentence"; fi
    fi
}

# Layers without experts, all or the first ones, are spoken of nowhere.
other_layers() {
    data=$models/../tests/data
    for c in "plan --no-probe" "bench -p 8 -n 4 -r 1 --no-probe" "run --raw -n 4 --stats"; do
        text=
        [ "${c%% *}" != run ] || text=abc
        # shellcheck disable=SC2086
        run 0 "dense: $c" $c -m "$data/qwen3-tiny.gguf" $text
        if grep -qi "expert\|hit rate" "$dir/out" "$dir/err"; then broken "dense: $c has experts"
        else pass; fi
    done
    refused 1 "dense: routing" "has no experts" bench -p 8 -n 4 -r 1 --no-probe \
        -m "$data/qwen3-tiny.gguf" --record-routing "$dir/dense.jsonl"
    if [ -e "$dir/dense.jsonl" ]; then broken "dense: an empty file is left"; else pass; fi
    run 0 "leading dense layer" bench -p 8 -n 20 -r 2 --no-probe \
        -m "$data/glm4moe-tiny.gguf" --record-routing "$dir/lead.jsonl"
    if head -n 1 "$dir/lead.jsonl" | grep -q '"layers": \[\[\], \['; then pass
    else broken "leading dense layer: not an empty list"; fi
    run 0 "leading dense layer, plan" plan --no-probe -m "$data/glm4moe-tiny.gguf" \
        --routing "$dir/lead.jsonl"
    out_has "leading dense layer, plan" "for the recorded routing"
    sed 's/\[\[\]/[[1, 2]/' "$dir/lead.jsonl" >"$dir/full.jsonl"
    run 2 "experts where there are none" plan --no-probe -m "$data/glm4moe-tiny.gguf" \
        --routing "$dir/full.jsonl"
    err_has "experts where there are none" "sluice: "
}

for part in help nonsense failures answers mirrors timeline information conversations measurements \
    routing lost_output interruption chat other_layers; do
    $part
done
echo "$passed checks passed, $failed failed"
[ "$failed" -eq 0 ]
