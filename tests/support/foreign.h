/*
 * A device that is as unlike the host's own processor as one can be: its memory
 * is protected from the host except in put and get, and nothing is computed
 * before somebody waits. Results are the CPU's, so every bit must be, too.
 */
#ifndef FOREIGN_H
#define FOREIGN_H

#include "device/device.h"

/* Over a CPU device of its own. seed: how much of the work under way is done when the
 * host only asks whether a mark has passed. */
int foreign_open(const struct device_config *c, uint64_t seed, struct device **out, struct err *e);
/* Operations that were put off, and the most that were under way at once. */
int64_t foreign_n_delayed(const struct device *d);
int64_t foreign_most_delayed(const struct device *d);

#endif
