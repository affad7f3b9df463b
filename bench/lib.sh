# Sourced by the scripts of this folder, from the top of the project.
BUILD=${BUILD:-build}
SLUICE=$BUILD/sluice

# field NAME: a number of the JSON on stdin, 0 if it is not there
field() { "$BUILD/tools/json_get" "$1" 2>/dev/null || echo 0; }

# the median of the numbers on stdin
median() { sort -n | awk '{v[NR] = $1} END {if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; else print 0}'; }

# make_group: a memory cgroup (v1 or v2) in $group, its files in $limit, $peak
# and $kills, and a folder for results in $work; both go when the script ends,
# after at_end, if the script defines it
make_group()
{
    [ "$(id -u)" = 0 ] || { echo "$0 needs root: it makes a memory cgroup and drops the page cache" >&2; exit 1; }
    work=$(mktemp -d) || exit 1
    v1=/sys/fs/cgroup/memory
    if [ -d $v1 ]; then
        group=$v1/sluice-bench-$$ limit=memory.limit_in_bytes peak=memory.max_usage_in_bytes kills=memory.oom_control
    else
        group=/sys/fs/cgroup/sluice-bench-$$ limit=memory.max peak=memory.peak kills=memory.events
    fi
    mkdir "$group" || exit 1
    trap 'at_end; rmdir "$group" 2>/dev/null; rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
at_end() { :; }

# inside COMMAND...: runs it in the cgroup
inside() { sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"; }
killed() { sed -n 's/^oom_kill //p' "$group/$kills"; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }

# plot POINTS X-STEP X-TITLE Y-TITLE BEGIN END NOTE: an SVG of the points (x y a
# line), with what lies between x = BEGIN and END shaded under the NOTE
plot()
{
    awk -v step="$2" -v xt="$3" -v yt="$4" -v b="$5" -v e="$6" -v note="$7" '
    {x[NR] = $1; y[NR] = $2; if (x[NR] > mx) mx = x[NR]; if (y[NR] > my) my = y[NR]}
    function px(v) {return 50 + 560 * v / mx}
    function py(v) {return 250 - 220 * v / (my * 1.1)}
    END {
        print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 300\" font-family=\"sans-serif\" font-size=\"12\">"
        print "<rect width=\"640\" height=\"300\" fill=\"white\"/>"
        printf "<rect x=\"%.1f\" y=\"30\" width=\"%.1f\" height=\"220\" fill=\"#f3e2c8\"/>\n", px(b), px(e > mx ? mx : e) - px(b)
        printf "<text x=\"%.1f\" y=\"24\" text-anchor=\"middle\">%s</text>\n", px((b + (e > mx ? mx : e)) / 2), note
        print "<path d=\"M50 20V250H620\" fill=\"none\" stroke=\"black\"/>"
        for (g = 0; g <= mx; g += step) printf "<text x=\"%.1f\" y=\"266\" text-anchor=\"middle\">%d</text>\n", px(g), g
        for (t = 0; t <= my; t += my > 80 ? 20 : my > 16 ? 4 : my > 8 ? 2 : 1) printf "<text x=\"44\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n", py(t) + 4, t
        printf "<polyline fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"2\" points=\""
        for (i = 1; i <= NR; i++) printf "%.1f,%.1f ", px(x[i]), py(y[i])
        print "\"/>"
        for (i = 1; NR < 30 && i <= NR; i++) printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"#1f5fa8\"/>\n", px(x[i]), py(y[i])
        printf "<text x=\"335\" y=\"290\" text-anchor=\"middle\">%s</text><text x=\"14\" y=\"140\" transform=\"rotate(-90 14 140)\" text-anchor=\"middle\">%s</text></svg>\n", xt, yt
    }' "$1"
}
