/* What the test program needs of a board: text out, a file out, an end, and a count of executed instructions.
 *
 * Text and files go through semihosting, which debuggers and QEMU offer. The count holds under QEMU with a fixed
 * virtual time an instruction (see the Makefile); on a real part it is a time.
 */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

void board_start(void);

/* Instructions executed since board_start; to be called at least once in 2^30 of them. */
uint64_t board_instructions(void);

void board_print(const char *text);

/* The next bytes of the file input.bin on the host; after the last one the program ends with an error. */
void board_input_read(void *bytes, size_t size_bytes);

/* Appends to the file trace.bin on the host. */
void board_trace_write(const void *bytes, size_t size_bytes);

void board_exit(int status);

/* One semihosting request: of the processor (startup_*.c). */
int board_request(int operation, const void *argument);

#endif
