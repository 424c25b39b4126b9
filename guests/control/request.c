// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests: from words to an operation that runs. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "request.h"

#define KEY_MAX		32

int fail(struct request *request, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(request->error, sizeof(request->error), format, arguments);
	va_end(arguments);
	return error;
}

const char *find(const struct request *request, const char *name)
{
	size_t length = strlen(name);
	unsigned int i;

	for (i = 1; i < request->count; i++)
		if (!strncmp(request->words[i], name, length) && request->words[i][length] == '=')
			return request->words[i] + length + 1;
	return NULL;
}

int number(struct request *request, const char *name, uint32_t *value, uint32_t fallback)
{
	const char *word = find(request, name);
	unsigned long long parsed;
	char *end;

	*value = fallback;
	if (!word)
		return 0;
	errno = 0;
	parsed = strtoull(word, &end, 0);
	if (*end || *word < '0' || *word > '9')
		return fail(request, EINVAL, "%s=%s: not a number", name, word);
	if (errno || parsed > UINT32_MAX)
		return fail(request, ERANGE, "%s=%s: not a number from 0 to %u", name, word,
			    UINT32_MAX);
	*value = parsed;
	return 0;
}

int needed(struct request *request, const char *name)
{
	return find(request, name) ? 0 : fail(request, EINVAL, "%s=...: missing", name);
}

static void put_help(const struct operation *operations, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++)
		json_string(operations[i].name, operations[i].help);
}

static int op_help(struct request *request)
{
	(void)request;
	json_string("usage", "imsctl OP [KEY=VALUE]... | imsctl serve [PORT]; OPs on a function "
			     "take [function=0], every OP takes [tag=WORD], which comes back");
	json_open_object("operations");
	put_help(module_operations, module_operations_count);
	put_help(policy_operations, policy_operations_count);
	put_help(system_operations, system_operations_count);
	put_help(guest_operations, guest_operations_count);
	json_close_object();
	return 0;
}

static const struct operation help_operation = { "help", " ", "this", op_help };

static const struct operation *find_in(const struct operation *operations, size_t count,
				       const char *name)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (!strcmp(operations[i].name, name))
			return &operations[i];
	return NULL;
}

static const struct operation *find_operation(const char *name)
{
	const struct operation *operation;

	operation = find_in(&help_operation, 1, name);
	if (!operation)
		operation = find_in(module_operations, module_operations_count, name);
	if (!operation)
		operation = find_in(policy_operations, policy_operations_count, name);
	if (!operation)
		operation = find_in(system_operations, system_operations_count, name);
	if (!operation)
		operation = find_in(guest_operations, guest_operations_count, name);
	return operation;
}

static int check_words(struct request *request)
{
	unsigned int i;

	for (i = 1; i < request->count; i++) {
		char *word = request->words[i];
		size_t length = strcspn(word, "=");
		char pattern[KEY_MAX + 3];

		if (!word[length])
			return fail(request, EINVAL, "%.80s: not KEY=VALUE", word);
		if (length > KEY_MAX)
			return fail(request, EINVAL, "%.80s: no such key", word);
		snprintf(pattern, sizeof(pattern), " %.*s ", (int)length, word);
		if (strcmp(pattern, " tag ") && !strstr(request->operation->keys, pattern))
			return fail(request, EINVAL, "%.80s: %s knows no such key", word,
				    request->operation->name);
		*strchr(pattern + 1, ' ') = '\0';
		if (find(request, pattern + 1) != word + length + 1)
			return fail(request, EINVAL, "%.80s: given twice", word);
	}
	return 0;
}

int dispatch(struct request *request)
{
	const char *name = request->count ? request->words[0] : "";
	int error;

	request->operation = find_operation(name);
	if (!request->operation)
		return fail(request, EINVAL, "%.80s: no such operation", name);
	error = check_words(request);
	return error ? error : request->operation->run(request);
}

int split(struct request *request, char *line)
{
	char *word;

	for (word = strtok(line, " \t\r"); word; word = strtok(NULL, " \t\r")) {
		if (request->count == WORDS_MAX)
			return fail(request, EINVAL, "%.80s: more than %d words", word, WORDS_MAX);
		request->words[request->count++] = word;
	}
	return 0;
}
