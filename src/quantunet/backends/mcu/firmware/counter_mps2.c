/* MPS2 boards: the CMSDK timer counts down at 25 MHz; at 128 ns an instruction that is 16 ticks for 5 instructions. */
#include "board.h"

#define TIMER_CONTROL (*(volatile uint32_t *)0x40000000u)
#define TIMER_VALUE (*(volatile uint32_t *)0x40000004u)
#define TIMER_RELOAD (*(volatile uint32_t *)0x40000008u)

static uint32_t last;
static uint64_t ticks;

void board_start(void)
{
    TIMER_RELOAD = UINT32_MAX;
    TIMER_VALUE = UINT32_MAX;
    TIMER_CONTROL = 1;
    last = TIMER_VALUE;
    ticks = 0;
}

uint64_t board_instructions(void)
{
    const uint32_t now = TIMER_VALUE;

    ticks += last - now; /* the timer wraps, and so does the difference */
    last = now;
    return (ticks * 5 + 8) / 16;
}
