/* The inner product of a convolution, the part worth writing anew for a processor: one file, qn_product_*.c, a project.
 *
 * QN_PATCH_BITS and QN_PATCH_SIGNED, of qn_tiling.h, belong to that file: 8 multiplies unsigned by signed bytes, and
 * signed activations enter 128 larger, or signed by signed bytes, and unsigned activations enter 128 smaller; 16
 * multiplies signed 16-bit numbers, as they are.
 */
#ifndef QN_PRODUCT_H
#define QN_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "qn_tiling.h"

#if QN_PATCH_BITS == 16
typedef int16_t qn_patch_code;
typedef int16_t qn_filter_code;
#define QN_SIGN_OFFSET 0
#elif QN_PATCH_SIGNED
typedef int8_t qn_patch_code;
typedef int8_t qn_filter_code;
#define QN_SIGN_OFFSET (-128) /* of unsigned activations */
#else
typedef uint8_t qn_patch_code;
typedef int8_t qn_filter_code;
#define QN_SIGN_OFFSET 128 /* of signed activations */
#endif

/* acc[p][f] = sum over k of patches[p][k] x filters[f][k], for `pixels` patches and `filter_rows` filters.
 *
 * Patches and filters lie one behind the other, `length` codes each, a multiple of QN_LANES. `filter_rows` is a multiple
 * of 4. An odd `pixels` may be rounded up: patches and acc have room for QN_TILE_PIXELS, which is even.
 */
void qn_product_run(const qn_patch_code *patches, const qn_filter_code *filters, size_t length, int32_t filter_rows,
                    int32_t pixels, int32_t *acc);

#endif
