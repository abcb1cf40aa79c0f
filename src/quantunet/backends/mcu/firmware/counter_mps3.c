/* MPS3 AN547: the system counter of 64 bits at 32 MHz; at 128 ns an instruction that is 4.096 ticks for each. */
#include "board.h"

#define COUNTER_CONTROL (*(volatile uint32_t *)0x58100000u)
#define COUNTER_LOW (*(volatile uint32_t *)0x58101000u)
#define COUNTER_HIGH (*(volatile uint32_t *)0x58101004u)

static uint64_t first;

static uint64_t counter_read(void)
{
    uint32_t high, low;

    do {
        high = COUNTER_HIGH;
        low = COUNTER_LOW;
    } while (high != COUNTER_HIGH);
    return (uint64_t)high << 32 | low;
}

void board_start(void)
{
    COUNTER_CONTROL = 1;
    first = counter_read();
}

uint64_t board_instructions(void)
{
    return ((counter_read() - first) * 125 + 256) / 512;
}
