#include <stdint.h>
#include <string.h>

/* The sum of a text's bytes, so that the program is one of two languages. */
uint32_t tiny_sum(const char *text)
{
	uint32_t sum = 0;
	for (size_t at = 0; at < strlen(text); at++)
		sum += (unsigned char)text[at];
	return sum;
}
