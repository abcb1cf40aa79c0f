/* Convolutions whose widths' product is small: weights one bit plane at a time, sums of four codes by table.
 *
 * For a kernel that has it, and for nodes that the exporter has chosen: unsigned codes of up to 4 bits, and sums within 16.
 */
#ifndef QN_BIT_SERIAL_H
#define QN_BIT_SERIAL_H

#include "qn_runtime.h"

void qn_bit_serial_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                       const qn_scratch *scratch);

#endif
