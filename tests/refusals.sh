#!/bin/sh
# Standard streams and files that are not what they should be: folders, pipes, what
# the caller closed. A sentence and a status each time, and nothing of others is lost.
set -u
here=$(dirname "$0")
. "$here/support/shell.sh"
trap 'rm -rf "$dir"' EXIT

# standard input that cannot be read is no end of input
mkdir "$dir/folder"
input=$dir/folder
for c in "run -n 2" "run -n 2 --raw -" "chat -n 2" tokenize "tokenize --decode" "logits --ids -"; do
    # shellcheck disable=SC2086
    refused 1 "reading standard input failed: Is a directory" $c
done
input=
for c in "run -n 2" "chat -n 2" tokenize; do
    # shellcheck disable=SC2086
    "$sluice" $c <&- >"$dir/out" 2>"$dir/err"
    if [ $? -eq 1 ] && grep -q "reading standard input failed" "$dir/err"; then pass
    else no "$c <&-"; fi
done

# closed WANTED WHICH COMMAND...: the stream WHICH is closed, and named as a file
closed()
{
    want=$1 which=$2
    shift 2
    rm -f "$dir"/left*
    case $which in
    1) "$sluice" "$@" >&- 2>"$dir/err" ;;
    2) "$sluice" "$@" >"$dir/out" 2>&- ;;
    esac </dev/null
    got=$?
    [ $got -eq "$want" ] || { no "$* with $which closed: exit status $got"; return; }
    if [ "$which" = 2 ] || grep -q "' is closed$" "$dir/err"; then pass
    else no "$* with $which closed"; fi
}
for path in /dev/stdout /dev/fd/1 /proc/self/fd/1; do
    closed 1 1 logits --ids 1 -o $path
    closed 1 1 run -n 1 --timeline $path x
    closed 1 1 run -n 1 --record-routing $path x
    closed 1 1 pack -f $path
done
for path in /dev/stderr /dev/fd/2 /proc/self/fd/2; do
    closed 1 2 logits --ids 1 -o $path
    closed 1 2 run -n 1 --timeline $path x
    closed 1 2 run -n 1 --record-routing $path x
    closed 1 2 pack -f $path
done
# what is open is written
"$sluice" logits --ids 1 -o /dev/fd/2 2>"$dir/logits" >/dev/null </dev/null
if [ -s "$dir/logits" ]; then pass; else no "logits to an open descriptor"; fi

# a packed file has to be a file
mkfifo "$dir/pipe"
refused 2 "is a pipe or device" pack -f "$dir/pipe"
for path in /dev/stdout /dev/fd/1 /dev/null; do
    n=$("$sluice" pack -f $path 2>"$dir/err" | wc -c)
    if [ "$n" -eq 0 ] && grep -q "$path' is a pipe or device" "$dir/err"; then pass
    else no "pack -f $path into a pipe: $n bytes"; fi
done

# what stands under a temporary name and is no file is somebody's
part=$dir/out.gguf.sluice-part
for kind in pipe folder link; do
    rm -rf "$part"
    case $kind in
    pipe) mkfifo "$part" ;;
    folder) mkdir "$part" ;;
    link) ln -s "$dir/logits" "$part" ;;
    esac
    refused 1 "out.gguf.sluice-part" pack "$dir/out.gguf"
    if [ -e "$part" ] || [ -L "$part" ]; then pass; else no "a $kind was removed"; fi
    if [ -e "$dir/out.gguf" ]; then no "a $kind: there is a file"; else pass; fi
done
rm -rf "$part"

# where nothing can be, nothing was left: a folder that is a file, a name that is too long
: >"$dir/file"
long=$dir/$(printf '%0244d' 0)
for c in "run -n 1 hi --timeline" "run -n 1 hi --record-routing" "logits --ids 1 -o" pack; do
    for path in "$dir/file/x" "$long"; do
        # shellcheck disable=SC2086
        "$sluice" $c "$path" >"$dir/out" 2>"$dir/err" </dev/null
        got=$?
        if [ $got -ne 1 ] && [ $got -ne 2 ]; then no "$c $path: exit status $got"
        elif grep -q "interrupted" "$dir/err"; then no "$c $path: something was left"
        elif ! grep -q "cannot create '" "$dir/err"; then no "$c $path: another sentence"
        else pass; fi
    done
done
refused 1 ".sluice-part': Not a directory" pack "$dir/file/x"
refused 1 ".sluice-part': File name too long" pack "$long"

# more memory than there is: done, and told once
run 0 run -n 1 --memory 99999G x
if [ "$(grep -c "more than the machine has" "$dir/err")" -eq 1 ]; then pass
else no "run with 99999G does not say once that there is less"; fi
run 0 plan --no-probe --memory 99999G
if [ "$(grep -c "more than the machine has" "$dir/err")" -eq 1 ]; then pass
else no "plan with 99999G does not say once that there is less"; fi
run 0 run -n 1 --memory 64M x
if [ -s "$dir/err" ]; then no "64M is told something"; else pass; fi

# a wait for the writer of a pipe ends by the signal, without a word
if env --default-signal=INT true 2>/dev/null; then
    for c in "eval --tokens" "eval --qa" "plan --no-probe --routing"; do
        # shellcheck disable=SC2086
        env --default-signal=INT "$sluice" $c "$dir/pipe" >"$dir/out" 2>"$dir/err" </dev/null &
        pid=$!
        waits=0
        for _ in $(seq 600); do # until it sleeps in open
            grep -q "^State:	S" /proc/$pid/status 2>/dev/null &&
                [ "$(readlink /proc/$pid/exe)" = "$(readlink -f "$sluice")" ] &&
                waits=$((waits + 1))
            [ $waits -ge 4 ] && break
            sleep 0.05
        done
        kill -INT $pid
        wait $pid
        got=$?
        if [ $got -eq 130 ] && [ ! -s "$dir/err" ]; then pass
        else no "$c PIPE, SIGINT: exit status $got"; fi
    done
fi

# named KEY COMMAND...: its JSON has the odd name there
named()
{
    key=$1
    shift
    run 0 "$@"
    if [ "$("$json_get" "$key" <"$dir/out")" = "$told" ]; then pass; else no "$*: another name"; fi
}

# a name that is no text is a name all the same: in JSON with U+FFFD for what is none
odd=$dir/p$(printf '\377').gguf
told=$(printf '%s' "$dir/p"; printf '\357\277\275.gguf')
named file pack --json "$odd"
named file pack -f --json "$odd"
named files.0.path inspect --check --json "$odd"
named file pack --replace --json -m "$odd"
named out logits --json --ids 1 -o "$odd"

# a line break in a name does not make two records of one
odd="$dir/line
break.gguf"
cp "$model" "$odd"
run 0 inspect --check "$odd"
if [ "$(wc -l <"$dir/out")" -eq 2 ] && grep -qF 'line\nbreak.gguf' "$dir/out"; then pass
else no "inspect --check of a name with a line break: $(cat "$dir/out")"; fi
{ head -c 5000000 "$model" && head -c 1000000 /dev/zero | tr '\0' '\377' &&
    tail -c +6000001 "$model"; } >"$dir/whole" && mv "$dir/whole" "$odd"
run 1 inspect --check "$odd"
if grep -q '^damaged: ' "$dir/out" && ! grep -q '^break' "$dir/out"; then pass
else no "damage in a file whose name has a line break: $(cat "$dir/out")"; fi
finish
