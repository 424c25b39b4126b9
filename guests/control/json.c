// SPDX-License-Identifier: GPL-2.0-or-later
/* Writing one JSON object. It is kept and printed whole: never half an object. */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* The object under construction. */
static struct {
	char *text;
	size_t used, size;
	bool comma;
} out;

static void put(const char *text, size_t length)
{
	if (out.used + length + 1 > out.size) {
		out.size = (out.used + length + 1) * 2;
		out.text = realloc(out.text, out.size);
		if (!out.text)
			abort();
	}
	memcpy(out.text + out.used, text, length);
	out.used += length;
	out.text[out.used] = '\0';
}

static void put_string(const char *text)
{
	char escape[8];

	put("\"", 1);
	for (; *text; text++) {
		unsigned char c = *text;

		if (c == '"' || c == '\\') {
			put("\\", 1);
			put(text, 1);
		} else if (c < 0x20 || c >= 0x7f) {
			/* Not decoded: a byte that is not ASCII shows as the byte it is. */
			snprintf(escape, sizeof(escape), "\\u%04x", c);
			put(escape, 6);
		} else {
			put(text, 1);
		}
	}
	put("\"", 1);
}

static void key(const char *name)
{
	if (out.comma)
		put(", ", 2);
	out.comma = true;
	if (name) {
		put_string(name);
		put(": ", 2);
	}
}

static void open_with(const char *name, const char *bracket)
{
	key(name);
	put(bracket, 1);
	out.comma = false;
}

static void close_with(const char *bracket)
{
	put(bracket, 1);
	out.comma = true;
}

void json_open_object(const char *name)
{
	open_with(name, "{");
}

void json_close_object(void)
{
	close_with("}");
}

void json_open_array(const char *name)
{
	open_with(name, "[");
}

void json_close_array(void)
{
	close_with("]");
}

void json_string(const char *name, const char *value)
{
	key(name);
	put_string(value);
}

void json_number(const char *name, long long value)
{
	char text[24];

	key(name);
	put(text, snprintf(text, sizeof(text), "%lld", value));
}

void json_unsigned(const char *name, unsigned long long value)
{
	char text[24];

	key(name);
	put(text, snprintf(text, sizeof(text), "%llu", value));
}

void json_bool(const char *name, bool value)
{
	key(name);
	if (value)
		put("true", 4);
	else
		put("false", 5);
}

void json_begin(void)
{
	out.used = 0;
	out.comma = false;
	json_open_object(NULL);
}

const char *json_end(size_t *length)
{
	json_close_object();
	put("\n", 1);
	*length = out.used;
	return out.text;
}
