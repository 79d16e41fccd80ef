/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * forced.h - included before the stress program's files to have the sanitizer not look at what exit
 * functions write: that of a module that is forced out runs while others use it, which is a race and
 * meant. (Reports are not suppressed instead. To name a place each waits for the dynamic linker's
 * lock, with locks of the sanitizer's that whoever has that one may want.)
 */
void cleanup_module(void) __attribute__((no_sanitize("thread")));
