/* RISC-V: the counter of retired instructions; QEMU counts them at 1 ns an instruction. */
#include "board.h"

static uint64_t first;

static uint64_t counter_read(void)
{
    uint32_t high, low, again;

    do {
        __asm__ volatile("csrr %0, minstreth" : "=r"(high));
        __asm__ volatile("csrr %0, minstret" : "=r"(low));
        __asm__ volatile("csrr %0, minstreth" : "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

void board_start(void)
{
    first = counter_read();
}

uint64_t board_instructions(void)
{
    return counter_read() - first;
}
