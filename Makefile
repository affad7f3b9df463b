# sluice: build, test, install. GNU make; sources are found by wildcard.
# `make help` lists the targets and variables.

VERSION := $(shell sed -n 's/^.define SLUICE_VERSION "\(.*\)"/\1/p' include/sluice.h)
SOMAJOR := 0

BUILD      ?= build
PREFIX     ?= /usr/local
OPT        ?= -O3
WERROR     ?= -Werror
SANITIZE   ?=
INSTALL    ?= install

# Building for another machine: CROSS=aarch64-linux-gnu names its tools and, as
# Debian's multiarch packages lay them out, its libraries. A compiler of such a
# name (CC=aarch64-linux-gnu-gcc) says the same.
CROSS      ?= $(filter-out $(shell uname -m)-%,$(patsubst %-gcc,%,$(filter %-linux-gnu-gcc,$(notdir $(CC)))))
ifeq ($(origin CC),default)
CC := $(CROSS:%=%-)gcc
endif
ifneq ($(CROSS),)
ifeq ($(origin LD),default)
LD := $(CROSS)-ld
endif
ifeq ($(origin AR),default)
AR := $(CROSS)-ar
endif
OBJCOPY    ?= $(CROSS)-objcopy
PKG_CONFIG ?= PKG_CONFIG_LIBDIR=/usr/lib/$(CROSS)/pkgconfig:/usr/share/pkgconfig pkg-config
endif
OBJCOPY    ?= objcopy
PKG_CONFIG ?= pkg-config

# `make V=1` shows the commands.
V ?= 0
ifeq ($(V),0)
Q := @
say = @printf '  %-4s %s\n' $(1) $@
endif

all: # the default target; its needs follow below

# ---- flags -----------------------------------------------------------------

std_flags  := -std=c11 -D_GNU_SOURCE -Isrc -Iinclude
warn_flags := -Wall -Wextra -Wshadow -Wundef $(WERROR)
gen_flags  := $(OPT) -g -fPIC -fvisibility=hidden -ffp-contract=off -pthread
ifneq ($(SANITIZE),)
gen_flags  += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
all_cflags  = $(std_flags) $(warn_flags) $(gen_flags) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
# Pages of 4, 16 and 64 KiB: a segment begins at a multiple of the largest.
page_ldflags := -Wl,-z,max-page-size=65536 -Wl,-z,common-page-size=65536
all_ldflags = $(gen_flags) $(page_ldflags) $(CFLAGS) $(LDFLAGS)

# What a kernel file of that name is compiled with, on its kind of machine;
# elsewhere these files compile to nothing.
machine := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
isa_x86_64_avx2   := -mavx2 -mfma -mf16c
isa_x86_64_avxvnni := $(isa_x86_64_avx2) -mavxvnni
isa_x86_64_avx512 := $(isa_x86_64_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
ifeq ($(machine),aarch64)
# GCC's first scheduling moves every load to the top, and what then does not fit
# the registers onto the stack; clang knows no such flag.
no_sched := $(shell $(CC) -Werror -fno-schedule-insns -E -x c /dev/null >/dev/null 2>&1 && echo -fno-schedule-insns)
isa_aarch64_neon    := $(no_sched)
isa_aarch64_dotprod := $(no_sched) -march=armv8.2-a+dotprod
isa_aarch64_i8mm    := $(no_sched) -march=armv8.2-a+dotprod+i8mm
endif
isa_flags = $(isa_$(machine)_$(notdir $(1:.c=)))

# ---- libraries -------------------------------------------------------------

lib_pkgs := liburing libpcre2-8 libutf8proc libmd
cli_pkgs := jansson libedit

needs_libs := $(filter-out clean help install-files uninstall,$(or $(MAKECMDGOALS),all))
ifneq ($(needs_libs),)
missing := $(foreach p,$(lib_pkgs) $(cli_pkgs),$(if $(shell $(PKG_CONFIG) --exists $(p) && echo y),,$(p)))
ifneq ($(strip $(missing)),)
$(error pkg-config does not know: $(missing). On Debian run `scripts/setup build` first)
endif
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(lib_pkgs) $(cli_pkgs))
lib_libs   := $(shell $(PKG_CONFIG) --libs $(lib_pkgs)) -lm
cli_libs   := $(shell $(PKG_CONFIG) --libs $(cli_pkgs))
test_libs  := -lcmocka $(shell $(PKG_CONFIG) --libs jansson)
endif

# ---- files -----------------------------------------------------------------

lib_dirs := base gguf kern text text/calls text/jinja io weights expert device model engine
lib_src  := $(sort $(wildcard $(lib_dirs:%=src/%/*.c)))
base_src := $(filter src/base/%,$(lib_src))
cli_src  := $(sort $(wildcard src/cli/*.c))
sup_src  := $(sort $(wildcard tests/support/*.c))
test_src := $(sort $(wildcard tests/test_*.c tests/check_*.c))
fuzz_src := $(sort $(wildcard tests/fuzz/fuzz_*.c))
dev_src  := $(sort $(wildcard bench/*.c tools/*.c))
ifeq ($(shell $(PKG_CONFIG) --exists fuse3 && echo y),) # measuring only
dev_src  := $(filter-out tools/steady_drive.c,$(dev_src))
endif
part_src := $(sort $(wildcard tools/*/*.c)) # parts of the tools

obj      = $(1:%.c=$(BUILD)/obj/%.o)
lib_obj  := $(call obj,$(lib_src))
cli_obj  := $(call obj,$(cli_src))
cli_main := $(call obj,src/cli/main.c)
sup_obj  := $(call obj,$(sup_src))
part_obj := $(call obj,$(part_src))
test_bin := $(test_src:%.c=$(BUILD)/%)
fuzz_bin := $(fuzz_src:tests/fuzz/%.c=$(BUILD)/%)
dev_bin  := $(dev_src:%.c=$(BUILD)/%)
test_sh  := $(sort $(wildcard tests/*.sh))
example_bin := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard examples/*.c)))

so_name := libsluice.so.$(SOMAJOR)
so_file := libsluice.so.$(VERSION)
# What tests, bench and tools link: the plain objects, internals visible.
internal := $(BUILD)/libsluice-internal.a
cli_internal := $(BUILD)/libsluice-cli-internal.a
support  := $(if $(sup_src),$(BUILD)/libsupport.a)
parts    := $(if $(part_src),$(BUILD)/libtools.a)

.PHONY: all static check tests asan tsan fuzz fuzz-programs bench tools examples \
    install install-files uninstall clean help FORCE
.SECONDARY:
.DELETE_ON_ERROR:

all: $(BUILD)/libsluice.a $(BUILD)/libsluice.so $(if $(wildcard src/cli/main.c),$(BUILD)/sluice)

# ---- compiling -------------------------------------------------------------

# Rewritten only when compiler or flags change, so that objects never mix.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(all_cflags)' | cmp -s - $@ || echo '$(CC) $(all_cflags)' > $@

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(all_cflags) $(if $(filter-out src/%,$<),-Itests) $(call isa_flags,$(filter src/kern/%,$<)) -MMD -MP -c -o $@ $<

-include $(patsubst %.o,%.d,$(lib_obj) $(cli_obj) $(sup_obj) $(part_obj) $(call obj,$(test_src) $(fuzz_src) $(dev_src)))

# ---- linking ---------------------------------------------------------------

# One object, hidden symbols made local: a program that links the archive sees
# the public functions and nothing else.
$(BUILD)/libsluice.a: $(lib_obj)
	$(call say,AR)
	$(Q)$(LD) -r -o $(BUILD)/sluice-all.o $^
	$(Q)$(OBJCOPY) --localize-hidden $(BUILD)/sluice-all.o
	@rm -f $@
	$(Q)$(AR) rcs $@ $(BUILD)/sluice-all.o

$(BUILD)/$(so_file): $(lib_obj)
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -shared -Wl,-soname,$(so_name) -o $@ $^ $(lib_libs)

$(BUILD)/libsluice.so: $(BUILD)/$(so_file)
	@ln -sf $(so_file) $(BUILD)/$(so_name)
	@ln -sf $(so_name) $@

# The command-line program has the public functions only; `base`, which it may
# use too, is linked a second time because the archive hides it.
$(BUILD)/sluice: $(cli_obj) $(call obj,$(base_src)) $(BUILD)/libsluice.a
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -o $@ $^ $(cli_libs) $(lib_libs)

# One file that needs no libraries: for a phone, or any Linux of this processor.
static: $(BUILD)/sluice-static
$(BUILD)/sluice-static: $(cli_obj) $(call obj,$(base_src)) $(BUILD)/libsluice.a
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -static -o $@ $^ $(shell $(PKG_CONFIG) --static --libs $(cli_pkgs) $(lib_pkgs)) -lm

$(internal): $(lib_obj)
$(support): $(sup_obj)
$(parts): $(part_obj)
$(cli_internal): $(filter-out $(cli_main),$(cli_obj))
$(internal) $(support) $(parts) $(cli_internal):
	$(call say,AR)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

# test_cli*.c may use the objects of the command-line program, too.
$(BUILD)/tests/test_cli%: $(BUILD)/obj/tests/test_cli%.o $(support) $(cli_internal) $(internal)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -o $@ $^ $(test_libs) $(cli_libs) $(lib_libs)

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(support) $(internal)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -o $@ $^ $(test_libs) $(lib_libs)
$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(support) $(internal)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -o $@ $^ $(test_libs) $(lib_libs)
$(BUILD)/tools/%: $(BUILD)/obj/tools/%.o $(parts) $(support) $(internal)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -o $@ $^ $(test_libs) $(lib_libs)
$(BUILD)/obj/tools/steady_drive.o: PKG_CFLAGS += $(shell $(PKG_CONFIG) --cflags fuse3)
$(BUILD)/tools/steady_drive: test_libs += $(shell $(PKG_CONFIG) --libs fuse3)
# As a host program is built: one header, one library, no flag of this Makefile but
# those of a sanitizer.
$(BUILD)/examples/%: examples/%.c include/sluice.h $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -Wall -Wextra $(WERROR) $(SANITIZE:%=-fsanitize=%) -Iinclude -o $@ $< $(BUILD)/libsluice.a $(lib_libs)
$(BUILD)/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(support) $(internal)
	$(call say,LD)
	$(Q)$(CC) $(all_ldflags) -fsanitize=fuzzer -o $@ $^ $(lib_libs)

# ---- testing ---------------------------------------------------------------

tests: all $(test_bin)
bench: all tools $(filter $(BUILD)/bench/%,$(dev_bin))
	BUILD=$(BUILD) bench/run
tools: $(filter $(BUILD)/tools/%,$(dev_bin))

examples: $(example_bin)

check: tests tools examples
	@BUILD=$(BUILD) SLUICE=$(BUILD)/sluice CC='$(CC)' SANITIZE=$(SANITIZE) scripts/run-tests -l $(BUILD)/test-logs scripts/layering $(test_bin) $(test_sh)

# Memory budgets count resident memory, so freed memory must not pile up.
asan_opts := quarantine_size_mb=1:thread_local_quarantine_size_kb=64
asan:
	ASAN_OPTIONS=$(asan_opts) TEST_TIMEOUT=2400 $(MAKE) BUILD=build-asan SANITIZE=address,undefined OPT=-O1 check
tsan:
	TEST_TIMEOUT=2400 setarch -R $(MAKE) BUILD=build-tsan SANITIZE=thread OPT=-O1 check

fuzz:
	$(MAKE) BUILD=build-fuzz CC=clang SANITIZE=address,undefined OPT=-O1 \
	    CFLAGS='$(CFLAGS) -fsanitize=fuzzer-no-link' fuzz-programs
fuzz-programs: $(fuzz_bin)

# ---- installing ------------------------------------------------------------

root := $(DESTDIR)$(PREFIX)
installed := bin/sluice lib/libsluice.a lib/libsluice.so lib/$(so_name) lib/$(so_file) \
    include/sluice.h lib/pkgconfig/sluice.pc share/man/man1/sluice.1 \
    share/sluice/models/pocket-dictionary.gguf share/sluice/models/LICENSE.WordNet

install: all
	$(INSTALL) -d $(addprefix $(root)/,$(sort $(dir $(installed))))
	$(INSTALL) -m 755 $(BUILD)/sluice $(root)/bin/sluice
	$(INSTALL) -m 644 $(BUILD)/libsluice.a $(root)/lib/
	$(INSTALL) -m 755 $(BUILD)/$(so_file) $(root)/lib/
	ln -sf $(so_file) $(root)/lib/$(so_name)
	ln -sf $(so_name) $(root)/lib/libsluice.so
	$(INSTALL) -m 644 include/sluice.h $(root)/include/
	$(INSTALL) -m 644 man/sluice.1 $(root)/share/man/man1/
	$(INSTALL) -m 644 models/pocket-dictionary.gguf models/LICENSE.WordNet $(root)/share/sluice/models/
	printf '%s\n' 'prefix=$(PREFIX)' 'Name: sluice' \
	    'Description: runs Mixture-of-Experts language models bigger than memory' \
	    'Version: $(VERSION)' 'Cflags: -I$${prefix}/include' 'Libs: -L$${prefix}/lib -lsluice' \
	    'Requires.private: $(lib_pkgs)' 'Libs.private: -pthread -lm' > $(root)/lib/pkgconfig/sluice.pc

uninstall:
	rm -f $(addprefix $(root)/,$(installed))
	-rmdir $(root)/share/sluice/models $(root)/share/sluice

clean:
	rm -rf $(BUILD) build-asan build-tsan build-fuzz build-clang build-arm

help:
	@printf '%s\n' 'targets:' \
	'  all        library (static and shared) and the sluice command, in $$BUILD' \
	'  check      build and run every test' \
	'  asan tsan  the same under address+undefined or thread sanitizer' \
	'  fuzz       fuzzing programs, in build-fuzz (clang)' \
	'  bench      measurement programs      tools  development helpers' \
	'  examples   host programs of about thirty lines, in $$BUILD/examples' \
	'  install    into $$DESTDIR$$PREFIX      uninstall' \
	'  clean      remove the build folders' \
	'variables: CC CROSS BUILD PREFIX DESTDIR CFLAGS LDFLAGS OPT SANITIZE WERROR V'
