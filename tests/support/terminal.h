/*
 * A program on a pseudo-terminal, for tests that use cmocka. The test waits for
 * what it expects to read, so that a slow machine only takes longer. One at a
 * time.
 */
#ifndef TERMINAL_H
#define TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { PATIENCE_MS = 60000 };

extern char program[]; /* the command-line program */
/* $SLUICE, or the one beside the test; non-zero: it is not there. */
int find_program(const char *self);

struct terminal {
    pid_t pid;
    int fd;
    char text[1 << 20]; /* everything read */
    size_t n, seen;     /* expectations are met from `seen` on */
};
extern struct terminal term;

void terminal_start(const char *const *argv, const char *state_dir);
/* The same for a function; what it returns is the exit status. */
void terminal_call(int (*run)(void));
void terminal_size(int columns, int rows);
void type(const char *s);
/* Reads what there is, waiting at most ms; false: nothing came. */
bool read_more(int ms);
void expect(const char *s);
/* The line editor shows its prompt first and takes the terminal over right
 * after; until then the terminal would edit the line itself. */
void expect_prompt(void);
/* Waits for the end; the exit status, or minus the signal. */
int finish(void);
int stop_if_running(void **state); /* for cmocka's teardown */

#endif
