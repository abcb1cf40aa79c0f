/* Convolutions of few bits: two products in one 32-bit multiplication, for processors without a multiply-accumulate of pairs.
 *
 * For a kernel that has it, and for nodes whose sums the exporter has found to stay within 16 bits.
 */
#ifndef QN_SWAR_H
#define QN_SWAR_H

#include "qn_runtime.h"

void qn_swar_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                 const qn_scratch *scratch);

#endif
