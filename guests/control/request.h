/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One request: words, the operation they name, and what went wrong. */

#ifndef REQUEST_H
#define REQUEST_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define WORDS_MAX	32

/**
 * struct request - one request
 * @words:	the operation's name, then KEY=VALUE
 * @count:	how many words
 * @operation:	the operation, NULL while it is not known
 * @error:	what went wrong, where errno alone would not say it
 * @then:	what follows the answer, NULL: nothing
 */
struct request {
	char *words[WORDS_MAX];
	unsigned int count;
	const struct operation *operation;
	char error[256];
	void (*then)(void);
};

/**
 * struct operation - something imsctl can do
 * @name:	its name
 * @keys:	allowed keys, each between blanks
 * @help:	one line
 * @run:	do it and write its facts; returns 0 or a positive errno
 */
struct operation {
	const char *name;
	const char *keys;
	const char *help;
	int (*run)(struct request *request);
};

extern const struct operation module_operations[];
extern const size_t module_operations_count;
extern const struct operation policy_operations[];
extern const size_t policy_operations_count;
extern const struct operation system_operations[];
extern const size_t system_operations_count;
extern const struct operation guest_operations[];
extern const size_t guest_operations_count;

/* Say what went wrong, and return @error. */
int fail(struct request *request, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The value of a key, NULL when it is not given. */
const char *find(const struct request *request, const char *name);

/* 0 when a key is given, else EINVAL. */
int needed(struct request *request, const char *name);

/* The number of a key, or @fallback. Returns 0, EINVAL for what is no number, or ERANGE. */
int number(struct request *request, const char *name, uint32_t *value, uint32_t fallback);

/* Make an ioctl of the kernel module. Returns 0 or a positive errno. */
int control(struct request *request, unsigned long command, void *argument);

/* Split a line into words, in place. Returns 0 or EINVAL. */
int split(struct request *request, char *line);

/* Check every word, and run the operation. Returns 0 or an errno. */
int dispatch(struct request *request);

#endif /* REQUEST_H */
