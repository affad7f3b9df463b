# Sourced by tests that need a memory cgroup of their own (v1 or v2): makes
# $group, or skips aloud. $limit is the name of its limit file.
SLUICE=${SLUICE:-build/sluice}
MODEL=models/pocket-dictionary.gguf
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
tokens=$(mktemp)
trap 'rm -f "$tokens" "$tokens.err"; rmdir "$group" 2>/dev/null' EXIT INT TERM

# The cgroup's oom_kill counter; it must not move.
killed() { sed -n 's/^oom_kill //p' "$group/$kills"; }

# inside COMMAND...: runs it in the cgroup
inside() { sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"; }

# heldout N CONTEXT: the first N held-out ids as a token file, $tokens
heldout()
{
    ids=$(tr -d '\n' <tests/data/heldout.json | sed 's/.*"tokens": *\[//' | cut -d , -f 1-"$1")
    printf '{"context": %d, "tokens": [%s]}' "$2" "$ids" >"$tokens"
}
