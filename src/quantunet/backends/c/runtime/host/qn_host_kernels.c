/* The table of kernels. Those of other processors than the compiler writes for are left out. */
#include "qn_host_kernel.h"

const qn_host_kernel *const qn_host_kernels[] = {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    &qn_host_kernel_winograd512,
    &qn_host_kernel_vnni512,
#endif
#if defined(__AVX2__)
    &qn_host_kernel_avx2,
    &qn_host_kernel_avx2_wide,
#endif
#if defined(QN_HAS_NEON_DOT)
    &qn_host_kernel_winograd_dot,
    &qn_host_kernel_neon_dot,
#endif
#if defined(QN_HAS_NEON)
    &qn_host_kernel_neon,
#endif
    &qn_host_kernel_portable,
    NULL,
};

const char *qn_host_kernel_name(int32_t index)
{
    return qn_host_kernels[index] == NULL ? NULL : qn_host_kernels[index]->name;
}

int32_t qn_host_finish_one(const qn_row *row, int32_t lane, int32_t acc)
{
    int64_t code = acc;

    if (row->finish == QN_FINISH_S32) {
        return acc;
    }
    if (row->finish == QN_FINISH_MULTIPLY) {
        const int32_t shift = row->shift[lane];
        code = code * row->multiplier[lane] + (((int64_t)1 << shift) >> 1);
        code >>= shift;
    } else {
        code >>= row->shift[lane];
    }
    code = code < row->q_min ? row->q_min : code;
    return (int32_t)(code > row->q_max ? row->q_max : code);
}
