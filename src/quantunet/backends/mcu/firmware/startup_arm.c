/* Cortex-M: vector table, memory, main. */
#include <stdint.h>
#include <string.h>

#include "board.h"

extern uint32_t _stack_limit[], _stack_top[], _data_begin[], _data_end[], _data_load[], _bss_begin[], _bss_end[];

int main(void);
void startup_reset(void);
void startup_fault(void);

int board_request(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;

    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void startup_fault(void)
{
    board_print("fault\n");
    board_exit(1);
}

void startup_reset(void)
{
#if defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* CPACR: vectors may be used */
    __asm__ volatile("dsb\n isb");
#endif
    memcpy(_data_begin, _data_load, (size_t)((uintptr_t)_data_end - (uintptr_t)_data_begin));
    memset(_bss_begin, 0, (size_t)((uintptr_t)_bss_end - (uintptr_t)_bss_begin));
    board_exit(main());
}

/* Stack, reset, non-maskable interrupt, hard fault, memory, bus, usage. */
__attribute__((section(".vectors"), used)) static const uintptr_t vectors[7] = {
    (uintptr_t)_stack_top,     (uintptr_t)startup_reset, (uintptr_t)startup_fault, (uintptr_t)startup_fault,
    (uintptr_t)startup_fault, (uintptr_t)startup_fault, (uintptr_t)startup_fault};
