/* RISC-V in machine mode: stack, memory, main. */
#include <stdint.h>
#include <string.h>

#include "board.h"

extern uint32_t _data_begin[], _data_end[], _data_load[], _bss_begin[], _bss_end[];

int main(void);
void startup_memory(void);
void startup_fault(void);

__asm__(".section .vectors, \"ax\"\n"
        ".globl _start\n"
        ".align 2\n"
        "_start:\n"
        "    la sp, _stack_top\n"
        "    la t0, startup_fault\n"
        "    csrw mtvec, t0\n"
        "    j startup_memory\n"
        ".previous\n");

int board_request(int operation, const void *argument)
{
    register int a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;

    __asm__ volatile(".option push\n"
                     ".option norvc\n"
                     ".balign 16\n"
                     "slli zero, zero, 0x1f\n"
                     "ebreak\n"
                     "srai zero, zero, 7\n"
                     ".option pop"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
    return a0;
}

__attribute__((aligned(4))) void startup_fault(void)
{
    board_print("fault\n");
    board_exit(1);
}

void startup_memory(void)
{
    memcpy(_data_begin, _data_load, (size_t)((uintptr_t)_data_end - (uintptr_t)_data_begin));
    memset(_bss_begin, 0, (size_t)((uintptr_t)_bss_end - (uintptr_t)_bss_begin));
    board_exit(main());
}
