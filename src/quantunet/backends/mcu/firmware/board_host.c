/* Text, a file and the end of the program, by semihosting. */
#include "board.h"

enum { SYS_OPEN = 1, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, SYS_EXIT = 0x18 };
enum { MODE_READ = 1, MODE_WRITE = 5 }; /* "rb", "wb" */
#define APPLICATION_EXIT 0x20026u
#define RUN_TIME_ERROR 0x20023u

/* Reads or writes all of `bytes` with a file that is opened at its first use, or ends the program. */
static void file_transfer(int operation, int *file, const char *name, size_t name_length, uintptr_t mode,
                          const void *bytes, size_t size_bytes)
{
    if (*file < 0) {
        const uintptr_t opening[3] = {(uintptr_t)name, mode, name_length};
        *file = board_request(SYS_OPEN, opening);
    }
    const uintptr_t arguments[3] = {(uintptr_t)*file, (uintptr_t)bytes, size_bytes};
    if (*file < 0 || board_request(operation, arguments) != 0) {
        board_print(name);
        board_print(": cannot be opened, or has ended\n");
        board_exit(1);
    }
}

void board_print(const char *text)
{
    board_request(SYS_WRITE0, text);
}

void board_input_read(void *bytes, size_t size_bytes)
{
    static int file = -1;

    file_transfer(SYS_READ, &file, "input.bin", 9, MODE_READ, bytes, size_bytes);
}

void board_trace_write(const void *bytes, size_t size_bytes)
{
    static int file = -1;

    file_transfer(SYS_WRITE, &file, "trace.bin", 9, MODE_WRITE, bytes, size_bytes);
}

void board_exit(int status)
{
    board_request(SYS_EXIT, (const void *)(uintptr_t)(status == 0 ? APPLICATION_EXIT : RUN_TIME_ERROR));
    for (;;) {
    }
}
