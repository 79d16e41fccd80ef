/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#pragma GCC system_header
#include_next <linux/kernel.h> /* the C library has a use for that */
#include "../../../linux_module.h"
