#!/bin/sh
# `make install` gives a host program all it needs: header, both libraries,
# pkg-config file; the command finds its model from where it was installed;
# `make uninstall` leaves nothing behind.
set -eu
if [ -n "${SANITIZE:-}" ]; then
    echo "a host program would have to be built with the same sanitizer"
    exit 77
fi
build=${BUILD:-build}
cc=${CC:-gcc}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

make -s BUILD="$build" CC="$cc" PREFIX=/usr DESTDIR="$dir" install
PKG_CONFIG_PATH=$dir/usr/lib/pkgconfig
PKG_CONFIG_SYSROOT_DIR=$dir
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR

cat >"$dir/host.c" <<'END'
#include <sluice.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    sluice_options o;
    sluice *s = NULL;
    sluice_error e = {0};
    sluice_options_init(&o);
    o.model = "/nonexistent.gguf";
    int status = sluice_open(&o, &s, &e);
    printf("%s\n", e.text);
    return !(status < 0 && e.code == status && !s && strcmp(sluice_version(), SLUICE_VERSION) == 0);
}
END

# The names host programs may give to their own functions must not clash.
cat >"$dir/clash.c" <<'END'
int err_set(void);
int os_map(void);
int pool_run(void);
int err_set(void) { return 1; }
int os_map(void) { return 2; }
int pool_run(void) { return 3; }
END

# shellcheck disable=SC2046 # words
"$cc" -Wall -Werror "$dir/host.c" "$dir/clash.c" -o "$dir/shared" \
    $(pkg-config --cflags --libs sluice)
LD_LIBRARY_PATH=$dir/usr/lib "$dir/shared"
readelf -d "$dir/shared" | grep -q 'NEEDED.*libsluice\.so\.[0-9]*\]'

# The archive, by name: the libraries it needs come from the same file.
libs=$(pkg-config --static --libs sluice |
    sed "s|-lsluice|$dir/usr/lib/libsluice.a|; s|-L${dir}[^ ]*||g")
# shellcheck disable=SC2046,SC2086 # words
"$cc" -Wall -Werror $(pkg-config --cflags sluice) "$dir/host.c" "$dir/clash.c" -o "$dir/static" \
    $libs
"$dir/static"
if readelf -d "$dir/static" | grep -q 'NEEDED.*libsluice'; then
    echo "the archive was not used"
    exit 1
fi

answer=$(cd / && "$dir/usr/bin/sluice" tokenize "serendipity")
[ -n "$answer" ]

make -s BUILD="$build" CC="$cc" PREFIX=/usr DESTDIR="$dir" uninstall
left=$(find "$dir/usr" ! -type d)
[ -z "$left" ] || { echo "left behind: $left"; exit 1; }
