/* 3x3 convolutions of stride 1 by exact integer Winograd F(2x2, 3x3): 16 products in the place of 36.
 *
 * For a kernel that has it (QN_WINOGRAD of qn_tiling.h), and for nodes whose sums, four times as large on the way, the
 * exporter has found to stay within 32 bits.
 */
#ifndef QN_WINOGRAD_H
#define QN_WINOGRAD_H

#include "qn_runtime.h"

void qn_winograd_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                     const qn_scratch *scratch);

#endif
