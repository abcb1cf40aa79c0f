/* Runs the recorded images, compares the masks with the reference, and prints what they took. */
#include <string.h>

#include "board.h"
#include "recorded.h"

#define STACK_PAINT 0xa5a5a5a5u

extern uint32_t _stack_limit[], _stack_top[];
extern const uint8_t _code_bytes[], _constant_bytes[], _data_bytes[], _zero_bytes[], _flash_bytes[], _ram_bytes[];

void main_trace(int32_t node, size_t offset, const uint8_t *codes, size_t size_bytes);

__attribute__((section(".caller"))) static quantunet_code image[RECORDED_IMAGE_CODES];
__attribute__((section(".caller"))) static quantunet_label mask[RECORDED_MASK_PIXELS];

static uint64_t instructions[RECORDED_NODES];
static uint64_t mark, reading; /* the count after the last node, and what it takes to read it */

static void print_number(uint64_t value)
{
    char text[24], *digit = text + sizeof text;

    *--digit = '\0';
    do {
        *--digit = (char)('0' + (int)(value % 10));
        value /= 10;
    } while (value != 0);
    board_print(digit);
}

static void print_line(const char *name, uint64_t value, const char *rest)
{
    board_print(name);
    board_print(" ");
    print_number(value);
    board_print(rest);
}

/* Called for every row that has been written; what the counting itself takes is left out. */
void main_trace(int32_t node, size_t offset, const uint8_t *codes, size_t size_bytes)
{
    instructions[node] += board_instructions() - mark - reading;
    (void)offset;
    (void)codes;
    (void)size_bytes;
    mark = board_instructions();
}

/* Up to what is surely below this function's own frame. */
__attribute__((noinline)) static void stack_paint(void)
{
    for (uint32_t *word = _stack_limit; (uintptr_t)word + 64 < (uintptr_t)__builtin_frame_address(0); word++) {
        *word = STACK_PAINT;
    }
}

static uint64_t stack_used(void)
{
    const uint32_t *word = _stack_limit;

    while (*word == STACK_PAINT) {
        word++;
    }
    return (uint64_t)((uintptr_t)_stack_top - (uintptr_t)word);
}

/* FNV-1a over the mask's labels. */
static uint32_t mask_checksum(void)
{
    uint32_t hash = 2166136261u;

    for (size_t pixel = 0; pixel < RECORDED_MASK_PIXELS; pixel++) {
        hash = (hash ^ (uint32_t)mask[pixel]) * 16777619u;
    }
    return hash;
}

static uint64_t pixels_differing(const quantunet_label *expected)
{
    uint64_t count = 0;

    for (size_t pixel = 0; pixel < RECORDED_MASK_PIXELS; pixel++) {
        count += mask[pixel] != expected[pixel];
    }
    return count;
}

int main(void)
{
    uint64_t differing = 0, total = 0;

    board_start();
    mark = board_instructions();
    reading = board_instructions() - mark;
    for (int k = 0; k < recorded_images_count; k++) {
        memcpy(image, recorded_images + (size_t)k * RECORDED_IMAGE_CODES, sizeof image);
        memset(instructions, 0, sizeof instructions);
        stack_paint();
        mark = board_instructions();
        if (quantunet_run(image, mask) != QUANTUNET_OK) {
            board_print("no result\n");
            return 1;
        }
        const uint64_t stack_bytes = stack_used();
        const uint64_t wrong = pixels_differing(recorded_masks + (size_t)k * RECORDED_MASK_PIXELS);
        differing += wrong;
        total = 0;
        for (int node = 0; node < RECORDED_NODES; node++) {
            total += instructions[node];
        }
        print_line("image", (uint64_t)k, "\n");
        print_line("  checksum", mask_checksum(), "\n");
        print_line("  differing", wrong, " pixels\n");
        print_line("  instructions", total, "\n");
        print_line("  stack", stack_bytes, " bytes used\n");
    }
    for (int node = 0; node < RECORDED_NODES; node++) {
        print_line("layer", instructions[node], " ");
        board_print(recorded_names[node]);
        board_print("\n");
    }
    print_line("arena", QUANTUNET_ARENA_BYTES, " bytes\n");
    print_line("scratch", QUANTUNET_SCRATCH_BYTES, " bytes\n");
    print_line("flash", (uintptr_t)_flash_bytes, " bytes\n");
    print_line("  code", (uintptr_t)_code_bytes, " bytes\n");
    print_line("  constants", (uintptr_t)_constant_bytes, " bytes\n");
    print_line("  initialised", (uintptr_t)_data_bytes, " bytes\n");
    print_line("ram", (uintptr_t)_ram_bytes, " bytes, image, mask and reserved stack included\n");
    print_line("total differing", differing, "\n");
    return differing != 0;
}
