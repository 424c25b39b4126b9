/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writing one JSON object. In an array a member's name is NULL. */

#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

/* Start a new object; what was written before is gone. */
void json_begin(void);

/* End it, and return it as one line; the text is good until json_begin(). */
const char *json_end(size_t *length);

void json_open_object(const char *name);
void json_close_object(void);
void json_open_array(const char *name);
void json_close_array(void);
void json_string(const char *name, const char *value);
void json_number(const char *name, long long value);
void json_unsigned(const char *name, unsigned long long value);
void json_bool(const char *name, bool value);

#endif /* JSON_H */
