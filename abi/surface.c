/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * surface.c - what module_ref.h promises to a compiled program, in one object, for libabigail:
 * a pointer to each exported function, with its type; each type; and each number. ci/abi
 * compiles it and compares its debug information with the baseline beside it. (The library's
 * own knows no C types: it is compiled from Rust.)
 *
 * FUNCTIONS and NUMBERS are what ci/abi finds in the header: FUNCTION(name) for each function,
 * and "NUMBER(name)," for each constant.
 */
#include "module_ref.h"

/* Undefined in this object: nothing is linked, and nothing is called. */
#define FUNCTION(name)                                                                     \
	extern __typeof__(&name) const of_##name;                                          \
	__typeof__(&name) const of_##name = name;
FUNCTIONS

/* Complete, so that every compiler describes their members. */
extern struct module_ref of_struct_module_ref;
extern enum module_ref_mode of_enum_module_ref_mode;
extern enum module_ref_misuse of_enum_module_ref_misuse;
extern enum module_state of_enum_module_state;
extern struct module_saved of_struct_module_saved;
struct module_ref of_struct_module_ref = MODULE_REF_INIT;
enum module_ref_mode of_enum_module_ref_mode;
enum module_ref_misuse of_enum_module_ref_misuse;
enum module_state of_enum_module_state;
struct module_saved of_struct_module_saved;

#define NUMBER(name) NUMBER_##name = name
extern enum numbers {
	NUMBERS
	/* libabigail does not look at alignments. */
	SIZE_OF_MODULE_REF = sizeof(struct module_ref),
	ALIGNMENT_OF_MODULE_REF = _Alignof(struct module_ref),
} of_numbers;
enum numbers of_numbers;
