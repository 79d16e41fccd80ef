/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#pragma GCC system_header
#include_next <linux/errno.h> /* <errno.h> has its numbers from there, and so nothing more here */
#ifndef ERESTARTSYS
#define ERESTARTSYS 512
#define ENOIOCTLCMD 515
#define EPROBE_DEFER 517
#define ENOTSUPP 524
#endif
